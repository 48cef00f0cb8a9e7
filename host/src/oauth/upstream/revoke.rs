//! The end of tokens at their server (RFC 7009).

use std::time::Duration;

use http::StatusCode;
use http::header::HeaderMap;
use serde::Deserialize;

use super::client::{Client, Form};
use super::token::{is_answer, retry_after};
use crate::secret::Plaintext;

words! {
    /// What kind of token it is (§2.1).
    Hint {
        Refresh = "refresh_token",
        Access = "access_token",
    }
}

/// What came of asking for the end of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It is good for nothing any more. A server says the same of one that it does not know (§2.2).
    Done,
    /// The server ends no tokens of this kind (`unsupported_token_type`).
    Unsupported,
    /// The server will not, whoever asks again.
    Refused,
    Later {
        retry_after: Option<Duration>,
    },
}

#[derive(Deserialize)]
struct Written {
    error: String,
}

/// The form that asks for it.
pub fn form(client: &Client, token: &Plaintext, hint: Hint) -> Form {
    client.form(&[("token", token.expose()), ("token_type_hint", hint.as_str())])
}

/// What an answer means (§2.2).
pub fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Revoked {
    if status.is_success() {
        return Revoked::Done;
    }
    if !is_answer(status) {
        return Revoked::Later { retry_after: retry_after(headers) };
    }
    match serde_json::from_slice(body) {
        Ok(Written { error }) if error == "unsupported_token_type" => Revoked::Unsupported,
        _ => Revoked::Refused,
    }
}

impl Revoked {
    /// What came of the refresh token and then the access token. A server that ends the first ends what came of it (§2.1).
    #[must_use]
    pub fn and(self, access: Self) -> Self {
        match (self, access) {
            (later @ Self::Later { .. }, _) | (_, later @ Self::Later { .. }) => later,
            (Self::Done, Self::Unsupported) => Self::Done,
            (Self::Done, access) => access,
            (refresh, _) => refresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Authentication;
    use super::*;

    const LATER: Revoked = Revoked::Later { retry_after: None };

    #[test]
    fn u10_the_form_names_the_token_and_its_kind() {
        let client = Client { id: "c1".to_owned(), authentication: Authentication::Post(Plaintext::new("s")) };
        let form = form(&client, &Plaintext::new("a b"), Hint::Refresh);
        assert_eq!(form.body.expose(), "token=a+b&token_type_hint=refresh_token&client_id=c1&client_secret=s");
    }

    #[test]
    fn u10_what_passes_is_tried_again_and_nothing_else() {
        for (status, body, expected) in [
            (200, "", Revoked::Done),
            (204, "", Revoked::Done),
            (400, r#"{"error":"unsupported_token_type"}"#, Revoked::Unsupported),
            (400, r#"{"error":"invalid_client"}"#, Revoked::Refused),
            (401, "", Revoked::Refused),
            (404, "<html>", Revoked::Refused),
            (302, "", LATER),
            (408, "", LATER),
            (429, "", LATER),
            (503, r#"{"error":"unsupported_token_type"}"#, LATER),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(read(status, &HeaderMap::new(), body.as_bytes()), expected, "{status} {body}");
        }
    }

    #[test]
    fn u10_both_tokens_have_to_end() {
        use Revoked::{Done, Refused, Unsupported};
        for (refresh, access, expected) in [
            (Done, Done, Done),
            (Done, Unsupported, Done),
            (Done, Refused, Refused),
            (Done, LATER, LATER),
            (LATER, Done, LATER),
            (LATER, Refused, LATER),
            (Refused, LATER, LATER),
            (Unsupported, Done, Unsupported),
            (Refused, Done, Refused),
        ] {
            assert_eq!(refresh.and(access), expected, "{refresh:?} {access:?}");
        }
    }
}
