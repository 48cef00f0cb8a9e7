//! Tokens: what is asked for with a code or a refresh token, and what the answer means (RFC 6749 §4.1.3, §5 and §6).
//!
//! An answer is one of three things (`docs/threat-model.md` row U8): tokens, a refusal that asking again does not change, or
//! anything else, after which what we have is as good as before.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use http::header::{DATE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::Value;

use super::super::document::seconds_of_date;
use super::client::{Client, Form};
use super::scopes;
use crate::identity::TokenList;
use crate::secret::Plaintext;

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// Longest patience that a server may ask for.
const MAX_PATIENCE: Duration = Duration::from_secs(60 * 60);
/// Longest life of an access token that is believed.
const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// RFC 8693 §2.1 and §3.
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What is presented.
#[derive(Clone, Copy, Debug)]
pub enum Presented<'a> {
    Code {
        code: &'a Plaintext,
        verifier: &'a Plaintext,
        redirect: &'a str,
    },
    Refresh(&'a Plaintext),
    /// What the gateway says of somebody (RFC 8693 §2.1). The resource goes with it as with the others.
    Subject {
        assertion: &'a Plaintext,
        audience: Option<&'a str>,
        scopes: &'a TokenList,
    },
}

/// What the server gave.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    pub access: Plaintext,
    pub refresh: Option<Plaintext>,
    pub expires_in: Option<Duration>,
    /// What was granted, if the server says so.
    pub scopes: Option<TokenList>,
}

/// Why it gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTokens {
    /// `invalid_grant`: what was presented is good for nothing any more.
    Grant,
    /// `invalid_client`, `unauthorized_client`: it does not know us any more.
    Client,
    /// Nothing is decided.
    Later { retry_after: Option<Duration> },
}

/// Without the tokens.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { access: _, refresh, expires_in, scopes } = self;
        f.debug_struct("Tokens")
            .field("has_refresh", &refresh.is_some())
            .field("expires_in", expires_in)
            .field("scopes", scopes)
            .finish_non_exhaustive()
    }
}

/// Why a server gave nothing for what we vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGiven {
    /// It will not, and asking again changes nothing for a while.
    Refused(Refusal),
    /// `invalid_client`, `unauthorized_client`, `unsupported_grant_type`: we are not let exchange anything there.
    Client,
    /// Nothing is decided.
    Later { retry_after: Option<Duration> },
}

/// What it will not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `invalid_grant`, `invalid_request` (RFC 8693 §2.2.2): it does not take our word for this person.
    Subject,
    /// `invalid_target`
    Target,
    /// `access_denied`
    Denied,
    /// `invalid_scope`
    Scope,
}

/// The form that presents it, for a token that this resource takes (RFC 8707 §2.2).
pub fn form(client: &Client, presented: Presented<'_>, resource: &str) -> Form {
    match presented {
        Presented::Code { code, verifier, redirect } => client.form(&[
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", redirect),
            ("code_verifier", verifier.expose()),
            ("resource", resource),
        ]),
        // Without scopes: those that there are (§6).
        Presented::Refresh(token) => {
            client.form(&[("grant_type", "refresh_token"), ("refresh_token", token.expose()), ("resource", resource)])
        }
        Presented::Subject { assertion, audience, scopes } => {
            let scopes = scopes.join(" ");
            let mut fields = vec![
                ("grant_type", TOKEN_EXCHANGE),
                ("subject_token", assertion.expose()),
                ("subject_token_type", JWT),
                ("requested_token_type", ACCESS_TOKEN),
                ("resource", resource),
            ];
            fields.extend(audience.map(|audience| ("audience", audience)));
            fields.extend((!scopes.is_empty()).then_some(("scope", scopes.as_str())));
            client.form(&fields)
        }
    }
}

#[derive(Deserialize)]
struct Written {
    access_token: Option<String>,
    token_type: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<Value>,
    scope: Option<String>,
    error: Option<String>,
    issued_token_type: Option<String>,
}

/// What an answer means.
///
/// # Errors
/// [`NoTokens`].
pub fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Tokens, NoTokens> {
    let later = NoTokens::Later { retry_after: retry_after(headers) };
    if !is_answer(status) {
        return Err(later);
    }
    // What cannot be read decides nothing, whatever its status: it may be a proxy's.
    let written: Written = serde_json::from_slice(body).map_err(|_| later)?;
    match written.error.as_deref() {
        Some("invalid_grant") => Err(NoTokens::Grant),
        Some("invalid_client" | "unauthorized_client") => Err(NoTokens::Client),
        Some(_) => Err(later),
        None if status == StatusCode::OK => tokens(written).ok_or(later),
        None => Err(later),
    }
}

/// The same for a token that is exchanged. One that is no access token is none: others say what it may be used for
/// (RFC 8693 §2.2.1).
///
/// # Errors
/// [`NotGiven`].
pub fn read_exchanged(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Tokens, NotGiven> {
    let later = NotGiven::Later { retry_after: retry_after(headers) };
    if !is_answer(status) {
        return Err(later);
    }
    let written: Written = serde_json::from_slice(body).map_err(|_| later)?;
    match written.error.as_deref() {
        Some("invalid_grant" | "invalid_request") => Err(NotGiven::Refused(Refusal::Subject)),
        Some("invalid_target") => Err(NotGiven::Refused(Refusal::Target)),
        Some("access_denied") => Err(NotGiven::Refused(Refusal::Denied)),
        Some("invalid_scope") => Err(NotGiven::Refused(Refusal::Scope)),
        Some("invalid_client" | "unauthorized_client" | "unsupported_grant_type") => Err(NotGiven::Client),
        Some("temporarily_unavailable" | "server_error" | "slow_down") => Err(later),
        // Whatever else it has against it, such as `interaction_required`, it has against this person.
        Some(_) => Err(NotGiven::Refused(Refusal::Denied)),
        None if status == StatusCode::OK => {
            let is_access = written.issued_token_type.as_deref().is_none_or(|kind| kind == ACCESS_TOKEN || kind == JWT);
            Some(written).filter(|_| is_access).and_then(tokens).ok_or(later)
        }
        None => Err(later),
    }
}

/// Whether the server itself says something by this: success, or what a client did wrong. Some tell of errors with 200, and
/// of a refusal with 403.
pub(super) fn is_answer(status: StatusCode) -> bool {
    let is_passing = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    status == StatusCode::OK || (status.is_client_error() && !is_passing)
}

fn tokens(written: Written) -> Option<Tokens> {
    let Written { access_token, token_type, refresh_token, expires_in, scope, error: _, issued_token_type: _ } =
        written;
    if !token_type?.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let refresh = match refresh_token.filter(|token| !token.is_empty()) {
        // One that cannot be presented would be lost.
        Some(token) => Some(token_of(token)?),
        None => None,
    };
    Some(Tokens {
        access: token_of(access_token?)?,
        refresh,
        expires_in: expires_in.as_ref().and_then(seconds),
        scopes: scope.filter(|scope| !scope.is_empty()).map(|scope| scopes::read(&scope)),
    })
}

/// A token that fits into a header and a form: visible ASCII (RFC 6750 §2.1, RFC 6749 appendix A.12).
fn token_of(text: String) -> Option<Plaintext> {
    let token = Plaintext::new(text);
    let text = token.expose();
    let is_fine = (1..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_fine.then_some(token)
}

/// A number of seconds, which some servers write as a text.
fn seconds(value: &Value) -> Option<Duration> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    let seconds = number.clamp(0.0, MAX_LIFE.as_secs_f64());
    seconds.is_finite().then(|| Duration::from_secs_f64(seconds.floor()))
}

/// How long a server wants to be left alone (RFC 9110 §10.2.3), within bounds.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok()).map(str::trim);
    let said = text(RETRY_AFTER)?;
    let is_number = !said.is_empty() && said.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if is_number {
        said.parse().unwrap_or(u64::MAX)
    } else {
        // By the server's own clock.
        seconds_of_date(said)?.saturating_sub(seconds_of_date(text(DATE)?)?)
    };
    Some(Duration::from_secs(seconds).min(MAX_PATIENCE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Authentication;
    use super::*;

    fn headers(lines: &[(http::HeaderName, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn answered(status: u16, body: &str) -> Result<Tokens, NoTokens> {
        read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    const LATER: NoTokens = NoTokens::Later { retry_after: None };

    #[test]
    fn a_code_and_a_refresh_token_are_presented_with_the_resource() {
        let client = Client { id: "c1".to_owned(), authentication: Authentication::None };
        let (code, verifier) = (Plaintext::new("a&b"), Plaintext::new("v"));
        let code = Presented::Code { code: &code, verifier: &verifier, redirect: "https://g.example/cb" };
        assert_eq!(
            form(&client, code, "https://mcp.example/mcp").body.expose(),
            "grant_type=authorization_code&code=a%26b&redirect_uri=https%3A%2F%2Fg.example%2Fcb&code_verifier=v\
             &resource=https%3A%2F%2Fmcp.example%2Fmcp&client_id=c1"
        );
        assert_eq!(
            form(&client, Presented::Refresh(&Plaintext::new("r t")), "https://mcp.example").body.expose(),
            "grant_type=refresh_token&refresh_token=r+t&resource=https%3A%2F%2Fmcp.example&client_id=c1"
        );
    }

    #[test]
    fn tokens_are_read_and_nothing_is_printed() {
        let body = json!({
            "access_token": "hunter2", "token_type": "bEARER", "refresh_token": "hunter3", "expires_in": 3600, "scope": "a b",
        });
        let tokens = answered(200, &body.to_string()).unwrap();
        assert!(!format!("{tokens:?}").contains("hunter"));
        assert_eq!((tokens.access.expose(), tokens.refresh.as_ref().unwrap().expose()), ("hunter2", "hunter3"));
        assert_eq!(tokens.expires_in, Some(Duration::from_secs(3600)));
        assert_eq!(tokens.scopes.unwrap().join(" "), "a b");
        let least =
            answered(200, r#"{"access_token":"x","token_type":"Bearer","refresh_token":"","scope":""}"#).unwrap();
        assert_eq!((least.refresh, least.expires_in, least.scopes), (None, None, None));
        for (written, expected) in [
            (json!("60"), Some(60)),
            (json!(59.9), Some(59)),
            (json!(-5), Some(0)),
            (json!(1e300), Some(MAX_LIFE.as_secs())),
            (json!("NaN"), None),
            (json!("soon"), None),
            (json!(null), None),
            (json!([1]), None),
        ] {
            let body = json!({ "access_token": "x", "token_type": "Bearer", "expires_in": written });
            let life = answered(200, &body.to_string()).unwrap().expires_in;
            assert_eq!(life, expected.map(Duration::from_secs), "{written}");
        }
    }

    #[test]
    fn u8_only_what_the_server_says_for_good_is_for_good() {
        let error = |word: &str| json!({ "error": word, "error_description": "<b>hunter2</b>" }).to_string();
        let good = json!({ "access_token": "x", "token_type": "Bearer" }).to_string();
        let large = json!({ "access_token": "x".repeat(MAX_TOKEN + 1), "token_type": "Bearer" }).to_string();
        for (status, body, expected) in [
            (400, error("invalid_grant"), NoTokens::Grant),
            (401, error("invalid_grant"), NoTokens::Grant),
            (403, error("invalid_grant"), NoTokens::Grant),
            (200, error("invalid_grant"), NoTokens::Grant),
            (401, error("invalid_client"), NoTokens::Client),
            (400, error("invalid_client"), NoTokens::Client),
            (400, error("unauthorized_client"), NoTokens::Client),
            (429, error("invalid_grant"), LATER),
            (408, error("invalid_grant"), LATER),
            (500, error("invalid_grant"), LATER),
            (502, error("invalid_client"), LATER),
            (503, String::new(), LATER),
            (302, error("invalid_grant"), LATER),
            (400, error("temporarily_unavailable"), LATER),
            (400, error("server_error"), LATER),
            (400, error("invalid_request"), LATER),
            (400, error("INVALID_GRANT"), LATER),
            (400, String::new(), LATER),
            (401, "<html>sign in to the wireless network</html>".to_owned(), LATER),
            (400, good.clone(), LATER),
            (201, good, LATER),
            (200, String::new(), LATER),
            (200, json!({ "access_token": "x" }).to_string(), LATER),
            (200, json!({ "access_token": "x", "token_type": "mac" }).to_string(), LATER),
            (200, json!({ "access_token": "", "token_type": "Bearer" }).to_string(), LATER),
            (200, json!({ "access_token": "a\r\nb", "token_type": "Bearer" }).to_string(), LATER),
            (200, json!({ "access_token": "a b", "token_type": "Bearer" }).to_string(), LATER),
            (200, json!({ "access_token": "a", "token_type": "Bearer", "refresh_token": "ä" }).to_string(), LATER),
            (200, r#"{"access_token":"a","access_token":"b","token_type":"Bearer"}"#.to_owned(), LATER),
            (200, large, LATER),
        ] {
            assert_eq!(answered(status, &body), Err(expected), "{status} {body}");
        }
    }

    #[test]
    fn what_the_gateway_vouches_for_is_presented_as_a_subject_token() {
        let client = Client { id: "c1".to_owned(), authentication: Authentication::Post(Plaintext::new("s")) };
        let assertion = Plaintext::new("a.b.c");
        let scopes = TokenList::parse(vec!["read".to_owned(), "write".to_owned()]).unwrap();
        let subject = |audience, scopes| Presented::Subject { assertion: &assertion, audience, scopes };
        assert_eq!(
            form(&client, subject(Some("mail"), &scopes), "https://mcp.example").body.expose(),
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=a.b.c\
             &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt\
             &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
             &resource=https%3A%2F%2Fmcp.example&audience=mail&scope=read+write&client_id=c1&client_secret=s"
        );
        let none = TokenList::default();
        let least = form(&client, subject(None, &none), "https://mcp.example");
        assert!(!least.body.expose().contains("audience") && !least.body.expose().contains("scope="));
    }

    #[test]
    fn u8_what_is_exchanged_is_an_access_token_or_a_refusal_or_nothing() {
        let exchanged = |status: u16, body: &str| {
            read_exchanged(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
        };
        let given = |kind: Option<&str>, token_type: &str| {
            json!({ "access_token": "x", "token_type": token_type, "issued_token_type": kind }).to_string()
        };
        for kind in [None, Some(ACCESS_TOKEN), Some(JWT)] {
            assert_eq!(exchanged(200, &given(kind, "Bearer")).unwrap().access.expose(), "x");
        }
        let error = |word: &str| json!({ "error": word, "error_description": "hunter2" }).to_string();
        let later = NotGiven::Later { retry_after: None };
        for (status, body, expected) in [
            (400, error("invalid_grant"), NotGiven::Refused(Refusal::Subject)),
            (400, error("invalid_request"), NotGiven::Refused(Refusal::Subject)),
            (400, error("invalid_target"), NotGiven::Refused(Refusal::Target)),
            (403, error("access_denied"), NotGiven::Refused(Refusal::Denied)),
            (400, error("interaction_required"), NotGiven::Refused(Refusal::Denied)),
            (400, error("server_error"), later),
            (400, error("invalid_scope"), NotGiven::Refused(Refusal::Scope)),
            (401, error("invalid_client"), NotGiven::Client),
            (400, error("unsupported_grant_type"), NotGiven::Client),
            (400, error("temporarily_unavailable"), later),
            (503, error("access_denied"), later),
            (429, error("invalid_grant"), later),
            (400, String::new(), later),
            (200, given(Some("urn:ietf:params:oauth:token-type:refresh_token"), "Bearer"), later),
            (200, given(Some(ACCESS_TOKEN), "N_A"), later),
        ] {
            assert_eq!(exchanged(status, &body), Err(expected), "{status} {body}");
        }
    }

    #[test]
    fn u8_patience_is_kept_within_bounds() {
        let date = "Sun, 06 Nov 1994 08:00:00 GMT";
        for (lines, expected) in [
            (&[][..], None),
            (&[(RETRY_AFTER, "30")], Some(30)),
            (&[(RETRY_AFTER, " 0 ")], Some(0)),
            (&[(RETRY_AFTER, "99999999999999999999999")], Some(3600)),
            (&[(RETRY_AFTER, "-1")], None),
            (&[(RETRY_AFTER, "soon")], None),
            (&[(RETRY_AFTER, "Sun, 06 Nov 1994 08:01:00 GMT"), (DATE, date)], Some(60)),
            (&[(RETRY_AFTER, "Sun, 06 Nov 1994 07:00:00 GMT"), (DATE, date)], Some(0)),
            (&[(RETRY_AFTER, "Sun, 06 Nov 2994 08:00:00 GMT"), (DATE, date)], Some(3600)),
            (&[(RETRY_AFTER, "Sun, 06 Nov 1994 08:01:00 GMT")], None),
        ] {
            let headers = headers(lines);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(&headers), expected, "{lines:?}");
            let answer = read(StatusCode::SERVICE_UNAVAILABLE, &headers, b"");
            assert_eq!(answer, Err(NoTokens::Later { retry_after: expected }));
        }
    }
}
