//! Whom an answer is sent to, and how it is written (RFC 6749 §4.1.2, RFC 9207).

use form_urlencoded::Serializer;

use super::check::Check;
use super::parameters::Parameters;
use crate::oauth::client::KnownClient;
use crate::oauth::request::MAX_TEXT_BYTES;

/// An address of the client's that an answer may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// As the client presented it.
    pub uri: String,
    /// For people: a host, or the scheme of an application.
    pub shown: String,
    /// Whether any program on the person's machine may be at the other end.
    pub is_on_own_machine: bool,
    /// What the client gets back.
    pub state: Option<String>,
}

impl Destination {
    /// Where the client wants its answer (rows A1 and A2).
    ///
    /// # Errors
    /// [`Check::RedirectUri`], also where there is none: it is always said (OAuth 2.1 §4.1.1).
    pub fn of(client: &KnownClient, parameters: &Parameters, schemes: &[String]) -> Result<Self, Check> {
        let presented = parameters.once("redirect_uri").map_err(|_| Check::RedirectUri)?.ok_or(Check::RedirectUri)?;
        let found = Self::found(client, presented, schemes).ok_or(Check::RedirectUri)?;
        // One that is too long is not sent back, and one that comes twice is none.
        let state = parameters.once("state").ok().flatten().filter(|state| state.len() <= MAX_TEXT_BYTES);
        Ok(Self { state: state.map(str::to_owned), ..found })
    }

    /// The same for a redirect URI that was presented before, if it still is one of the client's.
    pub fn found(client: &KnownClient, presented: &str, schemes: &[String]) -> Option<Self> {
        let registered = client.redirect(presented, schemes)?;
        let (shown, is_on_own_machine) = (registered.destination(), registered.is_on_own_machine());
        Some(Self { uri: presented.to_owned(), shown, is_on_own_machine, state: None })
    }

    /// What a form of ours may lead to when the answer is given: the origin, or the scheme of an application (CSP Level 3
    /// §2.3.1).
    pub fn form_action(&self) -> String {
        let (scheme, rest) = self.uri.split_once(':').unwrap_or((&self.uri, ""));
        let authority = rest.strip_prefix("//").map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
        match authority {
            // Addresses of IPv6 are no source.
            Some(authority) if matches!(scheme, "http" | "https") && !authority.starts_with('[') => {
                format!("{scheme}://{authority}")
            }
            _ => format!("{scheme}:"),
        }
    }

    /// The address with a code.
    pub fn with_code(&self, issuer: &str, code: &str) -> String {
        self.with(issuer, &[("code", code)])
    }

    /// The address with an error.
    pub fn with_error(&self, issuer: &str, check: &Check) -> String {
        self.with(issuer, &[("error", check.error()), ("error_description", &check.description())])
    }

    fn with(&self, issuer: &str, pairs: &[(&str, &str)]) -> String {
        let mut query = Serializer::new(String::new());
        query.extend_pairs(pairs);
        if let Some(state) = &self.state {
            query.append_pair("state", state);
        }
        query.append_pair("iss", issuer);
        // A query that the client registered stays (RFC 6749 §3.1.2).
        let joint = match self.uri.split_once('?') {
            None => "?",
            Some((_, "")) => "",
            Some((_, query)) if query.ends_with('&') => "",
            Some(_) => "&",
        };
        format!("{}{joint}{}", self.uri, query.finish())
    }

    /// Whether a consent for this may be remembered at all: never where any program on the person's machine may be at the
    /// other end, nor an application's own scheme (row A8).
    pub fn may_be_remembered(&self) -> bool {
        !self.is_on_own_machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(uri: &str, state: Option<&str>) -> Destination {
        Destination {
            uri: uri.to_owned(),
            shown: String::new(),
            is_on_own_machine: false,
            state: state.map(str::to_owned),
        }
    }

    #[test]
    fn a7_every_answer_has_the_issuer_and_keeps_what_was_registered() {
        let issuer = "https://gate.example";
        for (uri, state, expected) in [
            ("https://a.example/cb", None, "https://a.example/cb?code=x&iss=https%3A%2F%2Fgate.example"),
            (
                "https://a.example/cb?a=b",
                Some("s&t"),
                "https://a.example/cb?a=b&code=x&state=s%26t&iss=https%3A%2F%2Fgate.example",
            ),
            ("https://a.example/cb?", None, "https://a.example/cb?code=x&iss=https%3A%2F%2Fgate.example"),
            ("http://127.0.0.1:5/", None, "http://127.0.0.1:5/?code=x&iss=https%3A%2F%2Fgate.example"),
            ("com.example.app:/cb", None, "com.example.app:/cb?code=x&iss=https%3A%2F%2Fgate.example"),
        ] {
            assert_eq!(to(uri, state).with_code(issuer, "x"), expected);
        }
        let error = to("https://a.example/cb", Some("s")).with_error(issuer, &Check::Denied);
        assert_eq!(
            error,
            "https://a.example/cb?error=access_denied&error_description=the+request+was+denied&state=s&iss=https%3A%2F%2Fgate.example"
        );
    }

    #[test]
    fn a_form_may_lead_to_the_client_and_nowhere_else() {
        for (uri, source) in [
            ("https://a.example/cb", "https://a.example"),
            ("https://a.example:8443?x=1", "https://a.example:8443"),
            ("http://localhost:33418/", "http://localhost:33418"),
            ("http://[::1]:33418/", "http:"),
            ("cursor://anysphere.cursor-mcp/oauth/callback", "cursor:"),
            ("com.example.app:/oauth", "com.example.app:"),
        ] {
            assert_eq!(to(uri, None).form_action(), source);
        }
    }
}
