//! TLS of the listeners, the address of the admin listener, and trusted proxies.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::certificate::testing::{CHAIN, KEY, OTHER_KEY};

/// A directory with a pair, and with another one's key.
fn with_pair() -> tempfile::TempDir {
    let dir = base_dir();
    for (name, text) in [("chain.pem", CHAIN), ("key.pem", KEY), ("other.pem", OTHER_KEY)] {
        std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    dir
}

fn told(text: &str) -> Vec<String> {
    let dir = with_pair();
    match parse(text, dir.path(), &environment, NOW) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(|m| format!("{}: {}", m.line.unwrap(), m.message)).collect(),
    }
}

const PAIR: &str = "{ certificate = 'chain.pem', key = 'key.pem' }";

#[test]
fn listeners_speak_tls_with_the_files_that_are_named() {
    let dir = with_pair();
    let text = format!(
        "[listen]\npublic = '127.0.0.1:7443'\npublic_tls = {PAIR}\nadmin = '0.0.0.0:7401'\nadmin_tls = {PAIR}\n\
         admin_url = 'https://Ops.example:7401/'\n"
    );
    let config = parse(&text, dir.path(), &environment, NOW).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.public_url.as_str(), "https://127.0.0.1:7443", "the scheme follows");
    assert_eq!(config.listen.admin_url.as_ref().unwrap().as_str(), "https://ops.example:7401");
    let names: Vec<&str> = config.tls.each().map(|(name, _)| name).collect();
    assert_eq!(names, ["listen.public_tls", "listen.admin_tls"]);
    let public = config.tls.public.as_ref().unwrap();
    assert_eq!(public.files(), [dir.path().join("chain.pem"), dir.path().join("key.pem")]);
    assert!(public.pair.not_after().is_some() && !public.is_key_open);
    for file in public.files() {
        assert!(config.watched_files().contains(&file.to_owned()), "{}", file.display());
    }

    std::fs::set_permissions(dir.path().join("key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(public.read_again().unwrap().is_key_open);
    std::fs::copy(dir.path().join("other.pem"), dir.path().join("key.pem")).unwrap();
    let wrong = public.read_again().unwrap_err();
    assert!(wrong.contains("key.pem cannot be used: the private key is not that"), "{wrong}");
    std::fs::remove_file(dir.path().join("chain.pem")).unwrap();
    assert!(public.read_again().unwrap_err().contains("chain.pem does not exist"));
}

#[test]
fn the_admin_listener_is_known_by_its_address_unless_it_is_named() {
    let url = |text: &str| parsed(text).unwrap().listen.admin_url.map(|url| url.as_str().to_owned());
    assert_eq!(url("").as_deref(), Some("http://127.0.0.1:7401"));
    assert_eq!(url("[listen]\nadmin_url = 'https://ops.example'").as_deref(), Some("https://ops.example"));
    assert_eq!(url("[listen]\nadmin = '127.0.0.1:0'"), None, "it is known when it is bound");
    assert_eq!(url("[listen]\nadmin = 'off'"), None);
}

#[test]
fn mistakes_about_tls_and_the_admin_listener_are_told() {
    let exposed = "listen.admin must be a loopback address, since there is no listen.admin_tls";
    for (text, expected) in [
        (
            "[listen]\npublic_tls = { certificate = 'chain.pem' }".to_owned(),
            "2: listen.public_tls needs certificate and key",
        ),
        ("[listen]\nadmin_tls = {}".to_owned(), "2: listen.admin_tls needs certificate and key"),
        (
            "[listen.public_tls]\ncertificate = 'none.pem'\nkey = 'key.pem'".to_owned(),
            "2: listen.public_tls.certificate does not exist",
        ),
        (
            "[listen.public_tls]\ncertificate = 'key.pem'\nkey = 'key.pem'".to_owned(),
            "2: listen.public_tls.certificate cannot be used: there is no certificate",
        ),
        (
            "[listen.public_tls]\ncertificate = 'chain.pem'\nkey = 'other.pem'".to_owned(),
            "3: listen.public_tls.key cannot be used: the private key is not that of the first certificate",
        ),
        (
            format!("public_url = 'http://x.example'\n[listen]\npublic_tls = {PAIR}"),
            "1: public_url must begin with https://, since listen.public_tls is set",
        ),
        (
            format!("[listen]\nadmin_tls = {PAIR}\nadmin_url = 'http://ops.example'"),
            "3: listen.admin_url must begin with https://",
        ),
        ("[listen]\nadmin_url = 'ops.example'".to_owned(), "2: listen.admin_url must begin with http:// or https://"),
        ("[listen]\nadmin = '0.0.0.0:7401'".to_owned(), &format!("2: {exposed}")),
        ("[listen]\nadmin = '[2001:db8::1]:7401'".to_owned(), &format!("2: {exposed}")),
        (
            format!("[listen]\nadmin = '0.0.0.0:7401'\nadmin_tls = {PAIR}"),
            "2: listen.admin_url is missing, and 0.0.0.0:7401 cannot stand in for it",
        ),
        (
            format!("[listen]\nadmin = '192.0.2.1:7401'\nadmin_tls = {PAIR}\n[auth.sign_in]\npasswords = false"),
            "2: listen.admin is 192.0.2.1:7401, and nobody could sign in there",
        ),
        (format!("[listen]\nadmin = 'off'\nadmin_tls = {PAIR}"), "3: listen.admin_tls has no meaning"),
        ("[listen]\nadmin = 'off'\nadmin_url = 'http://x'".to_owned(), "3: listen.admin_url has no meaning"),
    ] {
        let told = told(&text);
        assert!(told.len() == 1 && told[0].starts_with(expected), "{text}\n{told:?}");
    }
    assert_eq!(told(&format!("[listen]\nadmin = '192.0.2.1:7401'\nadmin_tls = {PAIR}")), [""; 0]);
    let provider =
        "[auth.sign_in]\npasswords = false\n[auth.providers.corp]\nissuer = 'https://id.example'\nclient_id = 'gate'";
    let by_provider = format!("[listen]\nadmin = '192.0.2.1:7401'\nadmin_tls = {PAIR}\n{provider}");
    assert_eq!(told(&by_provider), [""; 0], "a provider is a way to sign in");
    assert_eq!(told("[listen]\nadmin = '[::ffff:127.0.0.1]:7401'"), [""; 0], "loopback within IPv6 is loopback");
}

#[test]
fn proxies_are_addresses_and_blocks() {
    let text = "[edge]\ntrusted_proxies = ['10.0.0.0/8', '192.0.2.7', '::1', 'fd00::/8']";
    let trusted = parsed(text).unwrap().edge.trusted_proxies;
    let is_trusted = |text: &str| {
        let address: IpAddr = text.parse().unwrap();
        trusted.iter().any(|network| network.contains(address))
    };
    for (address, expected) in [
        ("10.255.0.1", true),
        ("11.0.0.1", false),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
        ("::1", true),
        ("::2", false),
        ("fd00::1", true),
    ] {
        assert_eq!(is_trusted(address), expected, "{address}");
    }
    let neither = "2: an entry of trusted_proxies is neither";
    let beyond = "2: an entry of trusted_proxies has a prefix";
    for (entry, expected) in [
        ("proxy.internal", neither),
        ("10.0.0.1:80", neither),
        ("*", neither),
        ("", neither),
        ("10.0.0.0/", neither),
        ("10.0.0.0/+8", neither),
        ("10.0.0.0/999", neither),
        ("10.0.0.0/33", beyond),
        ("10.0.0.1/8", beyond),
        ("::ffff:10.0.0.1", "2: an entry of trusted_proxies is an IPv4 address within IPv6"),
    ] {
        each_mistake_is_told(&[(&format!("[edge]\ntrusted_proxies = ['{entry}']"), &[expected])]);
    }
    let many = vec!["'10.0.0.1'"; 65].join(", ");
    each_mistake_is_told(&[(&format!("[edge]\ntrusted_proxies = [{many}]"), &["2: there are more than 64"])]);
}
