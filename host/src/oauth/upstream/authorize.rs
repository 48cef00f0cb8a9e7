//! The address that a person is sent to (RFC 6749 §4.1.1, RFC 7636 §4.3, RFC 8707 §2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::address::Address;
use super::scopes;
use crate::identity::TokenList;
use crate::secret::Plaintext;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub endpoint: &'a Address,
    /// Our client id.
    pub client: &'a str,
    pub redirect: &'a str,
    pub scopes: &'a TokenList,
    pub state: &'a Plaintext,
    /// The PKCE verifier, of which the digest goes along.
    pub verifier: &'a Plaintext,
    pub resource: &'a str,
}

impl Request<'_> {
    /// The address. A query that the endpoint has stays, but for what we say ourselves: no parameter may be there twice
    /// (RFC 6749 §3.1).
    pub fn url(&self) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(self.verifier.digest().as_bytes());
        let scope = self.scopes.join(" ");
        let mut ours = vec![
            ("response_type", "code"),
            ("client_id", self.client),
            ("redirect_uri", self.redirect),
            ("state", self.state.expose()),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", self.resource),
        ];
        if !scope.is_empty() {
            ours.push(("scope", &scope));
        }
        // Without it many servers give no refresh token (OpenID Connect Core §11).
        if self.scopes.iter().any(|scope| scope == scopes::OFFLINE) {
            ours.push(("prompt", "consent"));
        }
        let ours_alone = |part: &&str| {
            let name = form_urlencoded::parse(part.as_bytes()).next().map(|(name, _)| name.into_owned());
            // Of all that could change what is asked for, too.
            let is_ours = |name: &str| ours.iter().any(|(own, _)| *own == name) || FOREIGN.contains(&name);
            !part.is_empty() && !name.is_some_and(|name| is_ours(&name))
        };
        let kept =
            self.endpoint.query().unwrap_or_default().split('&').filter(ours_alone).collect::<Vec<_>>().join("&");
        let base = self.endpoint.as_str().split('?').next().unwrap_or_default();
        let between = if kept.is_empty() { "" } else { "&" };
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&ours).finish();
        format!("{base}?{kept}{between}{query}")
    }
}

/// Parameters that are not ours to have in an endpoint's address: they would stand for others, or bring the answer elsewhere.
const FOREIGN: [&str; 5] = ["scope", "prompt", "request", "request_uri", "response_mode"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(endpoint: &str, scope: &str) -> String {
        Request {
            endpoint: &Address::parse(endpoint).unwrap(),
            client: "c 1",
            redirect: "https://gateway.example/connect/callback/x",
            scopes: &scopes::read(scope),
            state: &Plaintext::new("st&te"),
            // RFC 7636 appendix B
            verifier: &Plaintext::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            resource: "https://mcp.example/mcp",
        }
        .url()
    }

    #[test]
    fn the_address_has_all_that_is_asked_for() {
        let ours = "response_type=code&client_id=c+1&redirect_uri=https%3A%2F%2Fgateway.example%2Fconnect%2Fcallback%2Fx\
            &state=st%26te&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256\
            &resource=https%3A%2F%2Fmcp.example%2Fmcp";
        assert_eq!(url("https://as.example/a", ""), format!("https://as.example/a?{ours}"));
        assert_eq!(url("https://as.example/a?", "x y"), format!("https://as.example/a?{ours}&scope=x+y"));
        assert_eq!(
            url("https://as.example/a?t=1&state=evil&u=%20&%73cope=z&request_uri=x&&resource", "offline_access"),
            format!("https://as.example/a?t=1&u=%20&{ours}&scope=offline_access&prompt=consent")
        );
    }

    proptest! {
        #[test]
        fn whatever_the_endpoint_has_our_parameters_are_there_once(query in "[a-z_=&%0-9+]{0,40}") {
            let query = format!("{query}&response_type=token&client_id=evil&%63ode_challenge=x");
            if Address::parse(&format!("https://as.example/a?{query}")).is_some() {
                let url = url(&format!("https://as.example/a?{query}"), "a");
                let (_, query) = url.split_once('?').unwrap();
                for (name, value) in [("response_type", "code"), ("client_id", "c 1"), ("scope", "a"), ("state", "st&te")] {
                    let found: Vec<_> =
                        form_urlencoded::parse(query.as_bytes()).filter(|(found, _)| found == name).map(|(_, value)| value).collect();
                    prop_assert_eq!(found, [value]);
                }
            }
        }
    }
}
