//! Which hosts and origins a listener answers to: tables over the decision, and the middleware around it.

use super::*;
use Refused::{BadHost, ForbiddenHost, ForbiddenOrigin};

fn strings(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

fn guard(front: Front, public: &str) -> HostGuard {
    let hosts = strings(&["mcp.internal", "proxy.example.net:8443", "plain.example.net:80", "my_service"]);
    let origins = strings(&["https://app.example.org", "vscode-webview://1a2b3c"]);
    HostGuard::new(front, public, &hosts, &origins).unwrap()
}

fn tcp(address: &str) -> Front {
    Front::Tcp(address.parse().unwrap())
}

fn check(guard: &HostGuard, version: Version, target: &str, hosts: &[&[u8]], origins: &[&str]) -> Result<(), Refused> {
    let mut headers = HeaderMap::new();
    for host in hosts {
        headers.append(header::HOST, HeaderValue::from_bytes(host).unwrap());
    }
    for origin in origins {
        headers.append(header::ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).unwrap());
    }
    guard.check(version, &target.parse().unwrap(), &headers)
}

fn check_host(guard: &HostGuard, host: &str) -> Result<(), Refused> {
    check(guard, Version::HTTP_11, "/mcp", &[host.as_bytes()], &[])
}

#[test]
fn a_loopback_listener_answers_to_loopback_names_and_to_allowed_hosts() {
    let guard = guard(tcp("127.0.0.1:7400"), "https://gw.example.com");
    let long = format!("{}.com", "a".repeat(64));
    let rows: &[(&str, Result<(), Refused>)] = &[
        ("localhost", Ok(())),
        ("localhost:7400", Ok(())),
        ("LocalHost:1", Ok(())),
        ("localhost.:7400", Ok(())),
        ("127.0.0.1:7400", Ok(())),
        ("127.0.0.1", Ok(())),
        ("127.8.9.1:7400", Ok(())),
        ("[::1]:7400", Ok(())),
        ("[::1]", Ok(())),
        ("[0:0:0:0:0:0:0:1]:7400", Ok(())),
        ("[::ffff:127.0.0.1]:7400", Ok(())),
        ("gw.example.com", Ok(())),
        ("GW.Example.COM", Ok(())),
        ("gw.example.com.", Ok(())),
        ("gw.example.com:443", Ok(())),
        ("gw.example.com.:443", Ok(())),
        ("gw.example.com:80", Err(ForbiddenHost)),
        ("gw.example.com:7400", Err(ForbiddenHost)),
        ("mcp.internal", Ok(())),
        ("mcp.internal:9000", Ok(())),
        ("proxy.example.net:8443", Ok(())),
        ("proxy.example.net", Err(ForbiddenHost)),
        ("proxy.example.net:443", Err(ForbiddenHost)),
        ("plain.example.net", Ok(())),
        ("plain.example.net:80", Ok(())),
        ("plain.example.net:81", Err(ForbiddenHost)),
        ("my_service:7400", Ok(())),
        ("my-service:7400", Err(ForbiddenHost)),
        ("gw_example.com", Err(ForbiddenHost)),
        ("evil.example", Err(ForbiddenHost)),
        ("evil.example:7400", Err(ForbiddenHost)),
        ("gw.example.com.evil.example", Err(ForbiddenHost)),
        ("evilgw.example.com", Err(ForbiddenHost)),
        ("sub.gw.example.com", Err(ForbiddenHost)),
        ("localhost.evil.example", Err(ForbiddenHost)),
        ("foo.localhost", Err(ForbiddenHost)),
        ("127.0.0.1.nip.io", Err(ForbiddenHost)),
        ("0.0.0.0:7400", Err(ForbiddenHost)),
        ("[::]:7400", Err(ForbiddenHost)),
        ("128.0.0.1:7400", Err(ForbiddenHost)),
        ("192.168.1.5:7400", Err(ForbiddenHost)),
        ("[2001:db8::1]:7400", Err(ForbiddenHost)),
        // Spellings that only some resolvers take for 127.0.0.1.
        ("127.1", Err(ForbiddenHost)),
        ("2130706433", Err(ForbiddenHost)),
        ("0x7f.0.0.1", Err(ForbiddenHost)),
        ("0177.0.0.1", Err(ForbiddenHost)),
        ("", Err(BadHost)),
        (".", Err(BadHost)),
        ("localhost..", Err(BadHost)),
        (".localhost", Err(BadHost)),
        ("gw..example.com", Err(BadHost)),
        (" localhost", Err(BadHost)),
        ("localhost 7400", Err(BadHost)),
        ("localhost:", Err(BadHost)),
        ("localhost:port", Err(BadHost)),
        ("localhost:+80", Err(BadHost)),
        ("localhost:65536", Err(BadHost)),
        ("localhost:007400", Err(BadHost)),
        ("localhost:7400:1", Err(BadHost)),
        (":7400", Err(BadHost)),
        ("user@localhost", Err(BadHost)),
        ("localhost@evil.example", Err(BadHost)),
        ("localhost:7400@evil.example", Err(BadHost)),
        ("localhost/evil", Err(BadHost)),
        ("localhost\\evil", Err(BadHost)),
        ("localhost#evil", Err(BadHost)),
        ("localhost?evil", Err(BadHost)),
        ("http://localhost", Err(BadHost)),
        ("localhost,evil.example", Err(BadHost)),
        ("local%68ost", Err(BadHost)),
        ("::1", Err(BadHost)),
        ("[::1", Err(BadHost)),
        ("[::1]x", Err(BadHost)),
        ("[::1%25lo]", Err(BadHost)),
        ("[::1%lo]", Err(BadHost)),
        ("[127.0.0.1]", Err(BadHost)),
        ("[localhost]", Err(BadHost)),
        ("[v1.x]", Err(BadHost)),
        (&long, Err(BadHost)),
    ];
    for (host, expected) in rows {
        assert_eq!(check_host(&guard, host), *expected, "{host:?}");
    }
    assert_eq!(check(&guard, Version::HTTP_11, "/", &["localhost\u{e9}".as_bytes()], &[]), Err(BadHost));
}

#[test]
fn another_listener_answers_to_its_own_address_but_to_no_loopback_name() {
    let own = guard(tcp("192.168.1.5:7400"), "http://gw.example.com:8080");
    let any = guard(tcp("0.0.0.0:7400"), "http://gw.example.com:8080");
    let six = guard(tcp("[2001:db8::5]:80"), "http://gw.example.com");
    let mapped = guard(tcp("[::ffff:127.0.0.1]:7400"), "http://gw.example.com");
    let local = guard(tcp("0.0.0.0:7400"), "http://localhost:7400");
    let rows: &[(&HostGuard, &str, Result<(), Refused>)] = &[
        (&own, "192.168.1.5:7400", Ok(())),
        (&own, "192.168.1.5", Err(ForbiddenHost)),
        (&own, "192.168.1.5:7401", Err(ForbiddenHost)),
        (&own, "gw.example.com:8080", Ok(())),
        (&own, "gw.example.com", Err(ForbiddenHost)),
        (&own, "localhost:7400", Err(ForbiddenHost)),
        (&own, "127.0.0.1:7400", Err(ForbiddenHost)),
        (&any, "0.0.0.0:7400", Err(ForbiddenHost)),
        (&any, "192.168.1.5:7400", Err(ForbiddenHost)),
        (&any, "localhost:7400", Err(ForbiddenHost)),
        (&any, "gw.example.com:8080", Ok(())),
        (&six, "[2001:db8::5]", Ok(())),
        (&six, "[2001:DB8:0::5]:80", Ok(())),
        (&six, "[2001:db8::6]", Err(ForbiddenHost)),
        (&mapped, "localhost:7400", Ok(())),
        (&local, "localhost:7400", Ok(())),
        (&local, "127.0.0.1:7400", Err(ForbiddenHost)),
    ];
    for (guard, host, expected) in rows {
        assert_eq!(check_host(guard, host), *expected, "{host:?} at {:?}", guard.front);
    }
}

#[test]
fn a_request_names_one_host_and_only_one() {
    let guard = guard(tcp("127.0.0.1:7400"), "https://gw.example.com");
    let (one, two) = (Version::HTTP_11, Version::HTTP_2);
    let full = "http://localhost:7400/mcp";
    type Row<'a> = (Version, &'a str, &'a [&'a [u8]], Result<(), Refused>);
    let rows: &[Row<'_>] = &[
        (one, "/mcp", &[], Err(BadHost)),
        (Version::HTTP_10, "/mcp", &[], Err(BadHost)),
        (one, "/mcp", &[b"localhost", b"localhost"], Err(BadHost)),
        (one, "/mcp", &[b"localhost", b"evil.example"], Err(BadHost)),
        (one, full, &[b"localhost:7400"], Ok(())),
        (one, full, &[b"LOCALHOST:7400"], Ok(())),
        (one, full, &[b"evil.example"], Err(BadHost)),
        (one, full, &[b"127.0.0.1:7400"], Err(BadHost)),
        (one, full, &[], Err(BadHost)),
        (one, "http://evil.example/mcp", &[b"evil.example"], Err(ForbiddenHost)),
        (one, "http://evil.example/mcp", &[b"localhost"], Err(BadHost)),
        (one, "http://localhost@evil.example/", &[b"localhost"], Err(BadHost)),
        (two, full, &[], Ok(())),
        (two, full, &[b"localhost:7400"], Ok(())),
        (two, full, &[b"evil.example"], Err(BadHost)),
        (two, full, &[b"localhost:7400", b"localhost:7400"], Err(BadHost)),
        (two, "http://evil.example/mcp", &[], Err(ForbiddenHost)),
        (two, "http://user@localhost:7400/mcp", &[], Err(BadHost)),
        (two, "/mcp", &[b"localhost"], Ok(())),
        (two, "/mcp", &[], Err(BadHost)),
        (one, "*", &[b"localhost"], Ok(())),
    ];
    for (version, target, hosts, expected) in rows {
        let checked = check(&guard, *version, target, hosts, &[]);
        assert_eq!(checked, *expected, "{version:?} {target} {hosts:?}");
    }
}

#[test]
fn only_known_origins_are_answered() {
    let loopback = guard(tcp("[::1]:7400"), "https://gw.example.com");
    let public = guard(tcp("0.0.0.0:7400"), "https://gw.example.com:8443");
    let unix = guard(Front::Unix, "https://gw.example.com");
    let rows: &[(&HostGuard, &[&str], Result<(), Refused>)] = &[
        (&loopback, &[], Ok(())),
        (&loopback, &["https://gw.example.com"], Ok(())),
        (&loopback, &["HTTPS://GW.example.com"], Ok(())),
        (&loopback, &["https://gw.example.com:443"], Ok(())),
        (&loopback, &["http://gw.example.com"], Err(ForbiddenOrigin)),
        (&loopback, &["https://gw.example.com:8443"], Err(ForbiddenOrigin)),
        (&loopback, &["https://app.example.org"], Ok(())),
        (&loopback, &["http://app.example.org"], Err(ForbiddenOrigin)),
        (&loopback, &["vscode-webview://1a2b3c"], Ok(())),
        (&loopback, &["vscode-webview://ffffff"], Err(ForbiddenOrigin)),
        (&loopback, &["http://localhost:6274"], Ok(())),
        (&loopback, &["http://127.0.0.1:6274"], Ok(())),
        (&loopback, &["https://[::1]:6274"], Ok(())),
        (&loopback, &["chrome-extension://localhost"], Err(ForbiddenOrigin)),
        (&loopback, &["http://localhost.evil.example"], Err(ForbiddenOrigin)),
        (&loopback, &["http://evil.example"], Err(ForbiddenOrigin)),
        (&loopback, &["http://localhost@evil.example"], Err(ForbiddenOrigin)),
        (&loopback, &["http://localhost/"], Err(ForbiddenOrigin)),
        (&loopback, &["http://localhost http://evil.example"], Err(ForbiddenOrigin)),
        (&loopback, &["null"], Err(ForbiddenOrigin)),
        (&loopback, &["file://"], Err(ForbiddenOrigin)),
        (&loopback, &[""], Err(ForbiddenOrigin)),
        (&loopback, &["localhost"], Err(ForbiddenOrigin)),
        (&loopback, &["http://localhost", "http://localhost"], Err(ForbiddenOrigin)),
        (&public, &["https://gw.example.com:8443"], Ok(())),
        (&public, &["https://gw.example.com"], Err(ForbiddenOrigin)),
        (&public, &["http://localhost:6274"], Err(ForbiddenOrigin)),
        (&public, &["https://app.example.org:443"], Ok(())),
        (&unix, &[], Ok(())),
        (&unix, &["https://gw.example.com"], Err(ForbiddenOrigin)),
        (&unix, &["http://localhost"], Err(ForbiddenOrigin)),
        (&unix, &["null"], Err(ForbiddenOrigin)),
    ];
    for (guard, origins, expected) in rows {
        let checked = check(guard, Version::HTTP_11, "/mcp", &[b"mcp.internal"], origins);
        assert_eq!(checked, *expected, "{origins:?} at {:?}", guard.front);
    }
}

#[test]
fn a_unix_socket_answers_to_any_host() {
    let guard = guard(Front::Unix, "https://gw.example.com");
    for hosts in [&[][..], &[b"anything".as_slice()], &[b"a@b".as_slice()], &[b"a".as_slice(), b"b".as_slice()]] {
        assert_eq!(check(&guard, Version::HTTP_11, "/api/v1/keys", hosts, &[]), Ok(()), "{hosts:?}");
    }
}

#[test]
fn a_wrong_entry_is_told_by_name() {
    let front = tcp("127.0.0.1:7400");
    for (hosts, origins, expected) in [
        (
            &["https://a.example"][..],
            &[][..],
            r#"allowed_hosts "https://a.example" is not a host, or a host and a port"#,
        ),
        (&["*.example.com"], &[], r#"allowed_hosts "*.example.com" is not a host, or a host and a port"#),
        (&[], &["a.example"], r#"allowed_origins "a.example" is not an origin such as https://example.com"#),
        (&[], &["null"], r#"allowed_origins "null" is not an origin such as https://example.com"#),
        (
            &[],
            &["https://a.example/"],
            r#"allowed_origins "https://a.example/" is not an origin such as https://example.com"#,
        ),
    ] {
        let error = HostGuard::new(front, "http://localhost:7400", &strings(hosts), &strings(origins)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn refusals_are_small_json() {
    for (refused, status, code) in [
        (BadHost, StatusCode::BAD_REQUEST, "bad_host"),
        (ForbiddenHost, StatusCode::FORBIDDEN, "forbidden_host"),
        (ForbiddenOrigin, StatusCode::FORBIDDEN, "forbidden_origin"),
    ] {
        let response = refused.into_response();
        assert_eq!(response.status(), status);
        let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body, json!({ "error": code, "message": refused.to_string() }));
    }
}

#[test]
fn what_is_for_everybody_is_read_from_every_origin_and_by_the_right_host_only() {
    let guard = guard(tcp("10.0.0.1:7400"), "https://gw.example.com").open_at(|path| path == "/open");
    let host: &[&[u8]] = &[b"gw.example.com"];
    for origins in [&["https://evil.example"][..], &["null"], &["https://a.example", "https://b.example"], &[]] {
        assert_eq!(check(&guard, Version::HTTP_11, "/open", host, origins), Ok(()));
        assert_eq!(check(&guard, Version::HTTP_11, "/open?x=1", host, origins), Ok(()));
        let expected = if origins.is_empty() { Ok(()) } else { Err(ForbiddenOrigin) };
        for path in ["/mcp", "/open/", "/openness", "//open"] {
            assert_eq!(check(&guard, Version::HTTP_11, path, host, origins), expected, "{path}");
        }
    }
    assert_eq!(check(&guard, Version::HTTP_11, "/open", &[b"evil.example"], &[]), Err(ForbiddenHost));
}

#[test]
fn h10_a_listener_with_a_name_of_its_own_answers_to_it() {
    let guard =
        guard(tcp("192.0.2.1:7401"), "https://gw.example.com").named("admin_url", "https://ops.example").unwrap();
    for (host, expected) in [
        ("ops.example", Ok(())),
        ("OPS.example:443", Ok(())),
        ("ops.example:7401", Err(ForbiddenHost)),
        ("192.0.2.1:7401", Ok(())),
        ("gw.example.com", Ok(())),
        ("mcp.internal", Ok(())),
        ("localhost:7401", Err(ForbiddenHost)),
        ("evil.example", Err(ForbiddenHost)),
    ] {
        assert_eq!(check_host(&guard, host), expected, "{host}");
    }
    for (origin, expected) in [
        ("https://ops.example", Ok(())),
        ("http://ops.example", Err(ForbiddenOrigin)),
        ("https://ops.example:7401", Err(ForbiddenOrigin)),
        ("https://evil.example", Err(ForbiddenOrigin)),
    ] {
        assert_eq!(check(&guard, Version::HTTP_11, "/api", &[b"ops.example"], &[origin]), expected, "{origin}");
    }
    assert!(guard.clone().named("admin_url", "ops.example").is_err());
}
