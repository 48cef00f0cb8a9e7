//! Identity providers: does each describe itself, and as the issuer that the configuration names?

use futures_util::future::join_all;
use http::{StatusCode, Uri};
use serde_json::Value;

use super::Subject;
use super::check::Check;
use crate::config::auth::Provider;
use crate::outbound::{Fetch, Fetched, Fetcher, Limits, TrustedEntry};

const AREA: &str = "providers";
/// Largest description, in bytes.
const MAX_DESCRIPTION: usize = 256 << 10;
/// What sign-in needs of it (OpenID Connect Discovery §3).
const NEEDED: [&str; 3] = ["authorization_endpoint", "token_endpoint", "jwks_uri"];

pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    let auth = &subject.config.auth;
    if auth.providers.is_empty() {
        return Vec::new();
    }
    let fetcher = Fetcher::new(subject.config.outbound.clone());
    join_all(auth.providers.iter().map(|provider| one(&fetcher, provider))).await
}

async fn one(fetcher: &Fetcher, provider: &Provider) -> Check {
    let Provider { name, issuer, .. } = provider;
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    match document(fetcher, &url).await {
        Ok(description) => judge(name.as_str(), issuer, &description),
        Err(fault) => {
            let mend = "mend the issuer's address, the network or its certificate; an address in a private network needs `outbound.allow`";
            Check::problem(AREA, format!("{name}: {url}: {fault}"), mend)
        }
    }
}

/// A JSON document at an address that an operator wrote, whose origin is trusted for that.
pub(super) async fn document(fetcher: &Fetcher, url: &str) -> Result<Value, String> {
    let url: Uri = url.parse().map_err(|_| "it is no address".to_owned())?;
    let trusted = TrustedEntry::origin(&url);
    let fetch = Fetch::get(url).limits(Limits { body: MAX_DESCRIPTION, ..Limits::default() });
    let fetch = match trusted {
        Some(origin) => fetch.trusting(origin),
        None => fetch,
    };
    let Fetched { status, body, .. } = fetcher.fetch(fetch).await.map_err(|error| super::address::in_words(&error))?;
    if status != StatusCode::OK {
        return Err(format!("status {}", status.as_u16()));
    }
    serde_json::from_slice(&body).map_err(|_| "what it answers is not JSON".to_owned())
}

fn judge(name: &str, issuer: &str, description: &Value) -> Check {
    // Byte for byte (OpenID Connect Discovery §4.3). What it calls itself is not repeated.
    if description["issuer"] != issuer {
        let finding = format!("{name} calls itself another issuer than {issuer}");
        return Check::problem(
            AREA,
            finding,
            "write `issuer` exactly as its description does, slash at the end included",
        );
    }
    let missing: Vec<&str> = NEEDED.into_iter().filter(|member| !description[*member].is_string()).collect();
    if !missing.is_empty() {
        let finding = format!("{name} does not say its {}", missing.join(", "));
        return Check::problem(AREA, finding, "is it an OpenID provider, and is this its issuer?");
    }
    Check::ok(AREA, format!("{name} describes itself as {issuer}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::Grade;
    use super::*;

    #[test]
    fn an_issuer_is_compared_byte_for_byte() {
        let described = |issuer: &str| json!({ "issuer": issuer, "authorization_endpoint": "a", "token_endpoint": "t", "jwks_uri": "j" });
        let grade = |issuer: &str| judge("corp", "https://id.example", &described(issuer)).grade;
        assert_eq!(grade("https://id.example"), Grade::Ok);
        assert_eq!(grade("https://id.example/"), Grade::Problem);
        let told = judge("corp", "https://id.example", &described("https://\u{202e}evil"));
        assert!(!told.finding.contains("evil"), "{told:?}");
        let poor = judge("corp", "https://id.example", &json!({ "issuer": "https://id.example" }));
        assert!(poor.finding.contains("jwks_uri"), "{poor:?}");
    }
}
