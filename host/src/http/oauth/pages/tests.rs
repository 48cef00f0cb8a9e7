//! Headers, addresses, and that the colours of the stylesheet can be told apart.

use std::collections::HashMap;

use axum::body::to_bytes;

use super::testing::assert_protected;
use super::*;

async fn text(response: Response) -> String {
    String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

#[test]
fn addresses_are_built_from_the_public_url() {
    for (public_url, origin, path) in [
        ("https://mcp.example.com", "https://mcp.example.com", ""),
        ("http://127.0.0.1:7400", "http://127.0.0.1:7400", ""),
        ("https://example.com:8443/a/gate", "https://example.com:8443", "/a/gate"),
        ("http://[::1]:7400/g", "http://[::1]:7400", "/g"),
    ] {
        let site = Site::new(public_url);
        assert_eq!((site.origin(), site.path()), (origin, path), "{public_url}");
        assert_eq!(site.address("/account"), format!("{public_url}/account"));
        assert!(site.stylesheet().starts_with(&format!("{path}/assets/portcullis-")));
    }
}

#[tokio::test]
async fn every_page_has_the_headers_and_escapes_what_it_is_given() {
    let site = Site::new("https://example.com/gate");
    let title = "<script>alert(1)</script>";
    let problem = || Problem { site: &site, title, what: "\"'&", advice: "", link: Some(("/account", "Account")) };
    let response = problem().answer(StatusCode::BAD_REQUEST);
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
    assert_protected(&response);
    let html = text(response).await;
    assert!(!html.contains("<script") && html.contains("alert(1)"), "{html}");
    assert!(html.contains("href=\"/gate/account\"") && html.contains(&site.stylesheet()), "{html}");
    assert!(html.contains("<meta name=\"referrer\" content=\"same-origin\">"), "{html}");
    for response in [unavailable(&site), not_found(&site), stale_form(&site), see_other("/account")] {
        assert_protected(&response);
    }
    assert_eq!(unavailable(&site).headers()[RETRY_AFTER], "2");
}

#[test]
fn a_form_leads_only_to_what_its_page_names() {
    let site = Site::new("https://example.com");
    let problem = Problem { site: &site, title: "", what: "", advice: "", link: None };
    let extra = ["http://127.0.0.1:1234", "cursor:", "x; script-src *", "a b", "'unsafe-inline'"];
    let response = page(StatusCode::OK, problem, &extra);
    let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("form-action 'self' http://127.0.0.1:1234 cursor:; frame"), "{policy}");
    assert_protected(&response);
}

#[tokio::test]
async fn a_stylesheet_of_its_own_name_is_kept_for_ever_and_no_other_is_there() {
    let found = asset(Path(STYLESHEET.name.clone())).await;
    assert_eq!(found.headers()[CACHE_CONTROL], "public, max-age=31536000, immutable");
    assert_eq!(found.headers()[CONTENT_TYPE], "text/css; charset=utf-8");
    for other in ["portcullis.css", "portcullis-0000000000000000.css", "..", ""] {
        assert_eq!(asset(Path(other.to_owned())).await.status(), StatusCode::NOT_FOUND, "{other}");
    }
    for elsewhere in ["@import", "url(", "http"] {
        assert!(!STYLESHEET.text.contains(elsewhere), "nothing comes from elsewhere: {elsewhere}");
    }
}

#[test]
fn a_moment_is_readable() {
    assert_eq!(moment(Timestamp::from_millis(1_790_000_000_000)), "2026-09-21 14:13 UTC");
}

/// Relative luminance of `#rrggbb` (WCAG 2.2).
fn luminance(colour: &str) -> f64 {
    let part = |at: usize| {
        let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
}

#[test]
fn text_stands_out_from_what_is_behind_it_in_light_and_in_dark() {
    let (light, dark) = STYLESHEET.text.split_once("@media (prefers-color-scheme: dark)").unwrap();
    for (scheme, text) in [("light", light), ("dark", &dark[..dark.find("}\n}").unwrap()])] {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("--")?.strip_suffix(';')?.split_once(": "));
        let colours: HashMap<&str, &str> = lines.collect();
        let contrast = |front: &str, back: &str| {
            let (front, back) = (luminance(colours[front]), luminance(colours[back]));
            (front.max(back) + 0.05) / (front.min(back) + 0.05)
        };
        for (front, back, least) in [
            ("ink", "ground", 4.5),
            ("ink", "surface", 4.5),
            ("muted", "ground", 4.5),
            ("muted", "surface", 4.5),
            ("accent", "surface", 4.5),
            ("accent", "ground", 4.5),
            ("on-accent", "accent", 4.5),
            ("danger", "surface", 4.5),
            ("on-danger", "danger", 4.5),
            ("ink", "warning-ground", 4.5),
            ("ink", "danger-ground", 4.5),
            ("ink", "good-ground", 4.5),
            // What is not text (WCAG 2.2 §1.4.11).
            ("edge", "surface", 3.0),
            ("focus", "ground", 3.0),
            ("focus", "surface", 3.0),
        ] {
            let found = contrast(front, back);
            assert!(found >= least, "{scheme}: {front} on {back} has {found:.2}");
        }
    }
}
