//! What the listeners show over TLS: until when it counts, for whom, and whether the living gateway shows it.
//!
//! Files that cannot be used are mistakes of the configuration, which are told as of this area. Nothing is asked of the
//! network: what a proxy in front shows is seen at the public URL.

use http::Uri;
use serde_json::Value;

use super::Subject;
use super::check::Check;
use crate::certificate::EXPIRES_SOON;
use crate::config::ListenerTls;
use crate::env::Timestamp;

pub(super) const AREA: &str = "TLS";
const RENEW: &str = "renew it: the gateway reads the files again when they change";
const DAY_MILLIS: u64 = 24 * 60 * 60 * 1_000;

/// Whether a mistake of the configuration is one of these files.
pub(super) fn is_about(message: &str) -> bool {
    ["listen.public_tls", "listen.admin_tls"].iter().any(|setting| message.starts_with(setting))
}

#[expect(clippy::unused_async, reason = "all areas are looked at alike")]
pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    let config = &subject.config;
    let is_behind = !config.edge.trusted_proxies.is_empty();
    let listeners = [
        ("public", &config.tls.public, Some(&config.public_url)),
        ("admin", &config.tls.admin, config.listen.admin_url.as_ref()),
    ];
    let mut checks = Vec::new();
    for (name, tls, url) in listeners {
        let Some(tls) = tls else { continue };
        checks.push(expiry(name, tls.pair.not_after(), subject.env.now()));
        checks.extend(url.and_then(|url| names(name, tls, url.as_str(), is_behind)));
        checks.extend(openness(tls));
        checks.extend(subject.living.as_ref().and_then(|living| shown(name, tls.pair.not_after(), living)));
    }
    if checks.is_empty() {
        checks.push(Check::ok(AREA, "no listener speaks it: certificates are those of whatever is in front"));
    }
    checks
}

/// What is left of its time.
fn expiry(listener: &str, not_after: Option<Timestamp>, now: Timestamp) -> Check {
    let certificate = format!("the certificate of the {listener} listener");
    let Some(end) = not_after else {
        return Check::warning(AREA, format!("{certificate} does not say until when it counts"), RENEW);
    };
    if end <= now {
        return Check::problem(AREA, format!("{certificate} has expired at {end}"), RENEW);
    }
    if end <= now.after(EXPIRES_SOON) {
        let days = (end.as_millis() - now.as_millis()) / DAY_MILLIS;
        return Check::warning(AREA, format!("{certificate} expires in {days} days, at {end}"), RENEW);
    }
    Check::ok(AREA, format!("{certificate} and its key belong together, until {end}"))
}

/// Whether who connects to the URL would take it. Behind a proxy that is trusted it may be the proxy alone who connects.
fn names(listener: &str, tls: &ListenerTls, url: &str, is_behind: bool) -> Option<Check> {
    let uri: Uri = url.parse().ok()?;
    // Addresses have brackets in a URL and none in a certificate.
    let host = uri.host()?.trim_matches(['[', ']']);
    if tls.pair.is_for(host) {
        return None;
    }
    let finding = format!("the certificate of the {listener} listener is not for {host}, where {url} leads");
    Some(if is_behind {
        Check::warning(AREA, finding, "mend it, unless the proxy in front shows a certificate of its own")
    } else {
        Check::problem(AREA, finding, "have the name put into the certificate, or mend the URL in the configuration")
    })
}

fn openness(tls: &ListenerTls) -> Option<Check> {
    let key = tls.key.display();
    tls.is_key_open.then(|| {
        let finding = format!("every user of this machine can read the private key {key}");
        Check::problem(AREA, finding, format!("chmod 600 {key}"))
    })
}

/// What is wrong where the living gateway shows something else than the files have.
fn shown(listener: &str, not_after: Option<Timestamp>, living: &Value) -> Option<Check> {
    let shown = &living["tls"][listener];
    if !shown.is_object() {
        let finding = format!("the running gateway speaks plain HTTP on its {listener} listener");
        return Some(Check::problem(AREA, finding, "restart it: which listeners speak TLS is settled at the start"));
    }
    let at = shown["not_after"].as_str();
    if at == not_after.map(|at| at.to_string()).as_deref() {
        return None;
    }
    let until = at.unwrap_or("an unknown time");
    let finding = format!("the {listener} listener shows another certificate than the file has, until {until}");
    Some(Check::warning(AREA, finding, "look into the gateway's log for why, and run `portcullis policy reload`"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use serde_json::json;

    use super::super::check::Grade;
    use super::*;
    use crate::certificate::Certificate;
    use crate::certificate::testing::{CHAIN, KEY};
    use crate::secret::Plaintext;

    fn tls(is_key_open: bool) -> ListenerTls {
        let pair = Certificate::read(CHAIN, &Plaintext::new(KEY)).unwrap();
        ListenerTls { certificate: PathBuf::from("chain.pem"), key: PathBuf::from("key.pem"), pair, is_key_open }
    }

    #[test]
    fn a_certificate_is_told_before_and_after_its_end() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let days = |days: u64| Duration::from_millis(days * DAY_MILLIS);
        for (end, grade) in [
            (None, Grade::Warning),
            (Some(now.after(days(15))), Grade::Ok),
            (Some(now.after(EXPIRES_SOON)), Grade::Warning),
            (Some(now.after(days(1))), Grade::Warning),
            (Some(now), Grade::Problem),
            (Some(now.before(days(1))), Grade::Problem),
        ] {
            assert_eq!(expiry("public", end, now).grade, grade, "{end:?}");
        }
        let soon = expiry("admin", Some(now.after(days(3))), now);
        assert!(soon.finding.starts_with("the certificate of the admin listener expires in 3 days"), "{soon:?}");
    }

    #[test]
    fn it_has_to_be_for_the_host_that_the_url_names() {
        for (url, is_behind, expected) in [
            ("https://127.0.0.1:7443", false, None),
            ("https://127.0.0.1/base", false, None),
            ("https://mcp.example.com", false, Some(Grade::Problem)),
            ("https://mcp.example.com", true, Some(Grade::Warning)),
            ("https://[::1]:7443", false, Some(Grade::Problem)),
        ] {
            let found = names("public", &tls(false), url, is_behind);
            assert_eq!(found.map(|check| check.grade), expected, "{url}");
        }
        let other = names("public", &tls(false), "https://[::1]:7443/base", false).unwrap();
        assert!(other.finding.contains("is not for ::1, where https://[::1]:7443/base leads"), "{other:?}");
    }

    #[test]
    fn what_is_shown_has_to_be_what_the_files_have() {
        let end = tls(false).pair.not_after();
        let living = |tls: Value| json!({ "tls": tls });
        let grade = |living: &Value| shown("public", end, living).map(|check| check.grade);
        let same = json!({ "public": { "not_after": end.map(|at| at.to_string()) } });
        assert_eq!(grade(&living(same)), None);
        assert_eq!(
            grade(&living(json!({ "public": { "not_after": "2020-01-01T00:00:00.000Z" } }))),
            Some(Grade::Warning)
        );
        assert_eq!(grade(&living(json!({ "public": { "not_after": null } }))), Some(Grade::Warning));
        assert_eq!(grade(&living(json!({}))), Some(Grade::Problem));
        assert_eq!(openness(&tls(false)), None);
        assert!(openness(&tls(true)).unwrap().mend.unwrap().contains("chmod 600 key.pem"));
        assert!(is_about("listen.public_tls.key cannot be used") && !is_about("listen.public is no address"));
    }
}
