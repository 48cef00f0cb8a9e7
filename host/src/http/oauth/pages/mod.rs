//! What people see in a browser: how a page is answered, the stylesheet, and the pages that tell what went wrong.
//!
//! Every answer with HTML goes through [`page`], which sets the headers of `docs/threat-model.md` row A11. Pages are
//! templates in `host/templates` that extend `layout.html` and have a [`Site`] called `site`; askama escapes what stands in
//! them. There is no script but one of ours ([`page_with_script`], [`page_of_console`]), and nothing comes from elsewhere.

use std::sync::LazyLock;

use askama::Template;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, RETRY_AFTER, SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

use super::csrf::NotOurs;
use super::{Access, Route};
use crate::env::Timestamp;
use crate::secret::Digest;

pub(super) const ROUTES: &[Route] =
    &[Route { methods: "GET", path: "/assets/{file}", access: Access::Anyone, handler: || get(asset) }];

/// What the path of the stylesheet begins with.
pub(super) const ASSETS: &str = "/assets/";

/// What pages load besides.
struct Asset {
    /// With a digest of what it says, so that browsers may keep it for ever.
    name: String,
    kind: &'static str,
    text: &'static str,
}

impl Asset {
    fn new(extension: &str, kind: &'static str, text: &'static str) -> Self {
        let digest = Digest::of(text.as_bytes()).to_hex();
        Self { name: format!("portcullis-{}.{extension}", &digest[..16]), kind, text }
    }
}

static STYLESHEET: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("css", "text/css; charset=utf-8", include_str!("../../../../assets/portcullis.css")));
static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("js", "text/javascript; charset=utf-8", include_str!("../../../../assets/console.js")));

/// When a browser may come again after a fault.
const RETRY_SECONDS: u64 = 2;

/// Where the pages are, as browsers see them: from `public_url`, and never from a request.
#[derive(Clone, Debug)]
pub struct Site {
    public_url: String,
    /// Where the path of `public_url` begins in it.
    path_at: usize,
}

impl Site {
    /// Of `public_url` in its normal form, without a slash at its end.
    pub fn new(public_url: &str) -> Self {
        let authority = public_url.find("://").map_or(0, |scheme| scheme + "://".len());
        let path_at = public_url[authority..].find('/').map_or(public_url.len(), |path| authority + path);
        Self { public_url: public_url.to_owned(), path_at }
    }

    /// The address of all of it, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.public_url
    }

    /// What browsers send as `Origin` with our own forms.
    pub fn origin(&self) -> &str {
        &self.public_url[..self.path_at]
    }

    /// What the paths of links and forms begin with: the path of `public_url`, mostly empty.
    pub fn path(&self) -> &str {
        &self.public_url[self.path_at..]
    }

    /// The address of a path of this gateway, which begins with a slash.
    pub fn address(&self, path: &str) -> String {
        format!("{}{path}", self.public_url)
    }

    /// Where the stylesheet is.
    pub fn stylesheet(&self) -> String {
        format!("{}{ASSETS}{}", self.path(), STYLESHEET.name)
    }

    /// Where the script of the console is, without which all of its pages work as well.
    pub fn script(&self) -> String {
        format!("{}{ASSETS}{}", self.path(), SCRIPT.name)
    }
}

/// A page. `form_action` are the addresses besides ours that a form of it may lead to, redirects included (CSP Level 3
/// §6.4.1).
pub fn page(status: StatusCode, template: impl Template, form_action: &[&str]) -> Response {
    rendered(status, &template, form_action, Script::None)
}

/// A page with one script in it, which runs by this nonce and by nothing else (CSP Level 3 §2.3.1): random digits.
pub fn page_with_script(status: StatusCode, template: impl Template, nonce: &str) -> Response {
    rendered(status, &template, &[], Script::Nonce(nonce))
}

/// A page with the script of the console, which asks this gateway for more.
pub fn page_of_console(status: StatusCode, template: impl Template) -> Response {
    rendered(status, &template, &[], Script::Ours)
}

/// What runs on a page.
#[derive(Clone, Copy)]
enum Script<'a> {
    None,
    /// What stands in it, with this nonce.
    Nonce(&'a str),
    /// What is loaded from here.
    Ours,
}

fn rendered(status: StatusCode, template: &impl Template, form_action: &[&str], script: Script<'_>) -> Response {
    match template.render() {
        Ok(html) => {
            let mut response = (status, html).into_response();
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, html);
            protect(response.headers_mut(), form_action, script);
            response
        }
        Err(error) => {
            tracing::error!(%error, "a page cannot be written");
            let mut response = (StatusCode::INTERNAL_SERVER_ERROR, "this page cannot be shown\n").into_response();
            protect(response.headers_mut(), &[], Script::None);
            response
        }
    }
}

/// Sends a browser on with a GET, as after every form (row A17). Nobody keeps the answer.
pub fn see_other(address: &str) -> Response {
    let Ok(address) = HeaderValue::try_from(address) else {
        tracing::error!("an address to go on to is no header");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(LOCATION, address);
    protect(response.headers_mut(), &[], Script::None);
    response
}

/// The same answer with a cookie.
#[must_use]
pub fn with_cookie(mut response: Response, cookie: HeaderValue) -> Response {
    response.headers_mut().append(SET_COOKIE, cookie);
    response
}

/// The headers of row A11, and that nobody keeps the answer (row T21).
///
/// `no-referrer` is for whoever reads headers only: a page says `same-origin` in its head, which keeps addresses from others
/// just as well, and with which browsers send their `Origin` with our forms instead of `null` (Fetch §3.2, "append a
/// request Origin header", as Chromium 156 does).
fn protect(headers: &mut HeaderMap, form_action: &[&str], script: Script<'_>) {
    let is_source = |source: &&&str| {
        source.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'\'' | b'"'))
    };
    let form_action: String = form_action.iter().filter(is_source).map(|source| format!(" {source}")).collect();
    let is_digits = |nonce: &&str| !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let script = match script {
        Script::Nonce(nonce) if is_digits(&nonce) => format!("; script-src 'nonce-{nonce}'"),
        Script::None | Script::Nonce(_) => String::new(),
        Script::Ours => "; script-src 'self'; connect-src 'self'".to_owned(),
    };
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'{form_action}; \
         frame-ancestors 'none'; base-uri 'none'{script}"
    );
    let policy = HeaderValue::try_from(policy).expect("sources are printable ASCII");
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    headers.insert(opener, HeaderValue::from_static("same-origin"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Something went wrong, and what the person can do about it.
#[derive(Template)]
#[template(path = "problem.html")]
pub struct Problem<'a> {
    pub site: &'a Site,
    /// In a few words.
    pub title: &'a str,
    /// What happened, in a sentence.
    pub what: &'a str,
    /// What to do now, in a sentence.
    pub advice: &'a str,
    /// Where to go, if there is such a place: a path of this gateway, and what the link says.
    pub link: Option<(&'a str, &'a str)>,
}

impl Problem<'_> {
    /// The page.
    pub fn answer(self, status: StatusCode) -> Response {
        page(status, self, &[])
    }
}

/// The gateway cannot do at the moment what was asked: a fault, and no refusal.
pub fn unavailable(site: &Site) -> Response {
    let problem = Problem {
        site,
        title: "Not at the moment",
        what: "The gateway cannot do this right now. Nothing was changed.",
        // A form is good once, and to load the answer to one again is to send it again.
        advice: "Wait a few seconds and load the page again; if you had sent a form, go back and load its page instead. If \
                 it goes on like this, tell whoever runs the gateway.",
        link: None,
    };
    retry_after(problem.answer(StatusCode::SERVICE_UNAVAILABLE), RETRY_SECONDS)
}

/// The same answer, with when to come again.
#[must_use]
pub fn retry_after(mut response: Response, seconds: u64) -> Response {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// There is nothing at this address, or nothing for this person, which is told alike.
pub fn not_found(site: &Site) -> Response {
    let problem = Problem {
        site,
        title: "Not found",
        what: "There is nothing at this address, or it is over.",
        advice: "Go back and load the page again: it may have changed meanwhile.",
        link: None,
    };
    problem.answer(StatusCode::NOT_FOUND)
}

/// Who somebody is was shown, and their account does not look after the gateway.
pub fn not_an_operator(site: &Site) -> Response {
    let problem = Problem {
        site,
        title: "This is not for your account",
        what: "Your account does not look after this gateway. Its role would have to be viewer, operator or owner.",
        advice: "If it should be, ask an owner of the gateway to give you another role.",
        link: None,
    };
    problem.answer(StatusCode::FORBIDDEN)
}

/// What was sent to another name of this machine than the one by which the gateway goes.
pub fn misdirected(site: &Site) -> Response {
    let problem = Problem {
        site,
        title: "This is not the right address",
        what: "The gateway goes by another name of this machine. Nothing was done.",
        advice: "Go back to where you came from and begin again; the link below leads to the right address.",
        link: Some(("/account", "Go on at the right address")),
    };
    problem.answer(StatusCode::MISDIRECTED_REQUEST)
}

/// A form that was not taken.
pub fn not_ours(site: &Site, refused: &NotOurs) -> Response {
    let (status, what) = match refused {
        NotOurs::Foreign => return stale_form(site),
        NotOurs::Unsupported => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The form was sent in a way that is not read here.")
        }
        NotOurs::Repeated(_) => (StatusCode::BAD_REQUEST, "The form has a field more than once."),
        NotOurs::Body(error) => (error.status(), "The form is too large, or it did not arrive whole."),
    };
    let advice = "Go back, load the page again and send its form once more.";
    Problem { site, title: "The form was not read", what, advice, link: None }.answer(status)
}

/// A form that did not come from a page of ours, or from one that is too old, or for the second time.
pub fn stale_form(site: &Site) -> Response {
    let problem = Problem {
        site,
        title: "This form does not count",
        what: "It was sent already, it is too old, or it did not come from a page of this gateway. It did nothing now.",
        advice: "Go back, load the page again and send its form once more. If you did not send a form, close this page: \
                 another site may have tried to act in your name.",
        link: None,
    };
    problem.answer(StatusCode::FORBIDDEN)
}

/// The stylesheet and the script.
pub(in crate::http) async fn asset(Path(file): Path<String>) -> Response {
    let Some(asset) = [&*STYLESHEET, &*SCRIPT].into_iter().find(|asset| asset.name == file) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let etag = format!("\"{file}\"");
    let mut response = asset.text.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(ETAG, HeaderValue::try_from(etag).expect("letters, digits, dashes and a dot"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A moment as people read it.
pub fn moment(at: Timestamp) -> String {
    moment_of(&at.to_string())
}

/// The same of one that is told as in RFC 3339.
pub fn moment_of(text: &str) -> String {
    // RFC 3339 has the day in its first 10 bytes, and hours and minutes behind the `T`.
    match (text.get(..10), text.get(11..16)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Fails unless an answer has all headers of row A11.
    pub(crate) fn assert_protected(response: &Response) {
        let header = |name: &str| {
            let mut values = response.headers().get_all(name).iter();
            let value = values.next().unwrap_or_else(|| panic!("{name} is missing")).to_str().unwrap();
            assert!(values.next().is_none(), "{name} comes twice");
            value
        };
        let policy = header("content-security-policy");
        let directives: Vec<&str> = policy.split("; ").collect();
        let fixed = ["default-src 'none'", "style-src 'self'", "img-src 'self' data:", "base-uri 'none'"];
        for directive in fixed.into_iter().chain(["frame-ancestors 'none'"]) {
            assert!(directives.contains(&directive), "{directive} in {policy}");
        }
        assert!(directives.iter().any(|directive| directive.starts_with("form-action 'self'")), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-store");
    }
}

#[cfg(test)]
mod tests;
