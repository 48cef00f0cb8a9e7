//! Connect links: where a person goes to make a connection that a call lacked.
//!
//! Pure. A link says for whom and for which upstream it is and until when, under the gateway's seal, so that giving one out
//! costs no write; that it opens once is for whoever opens it to see to (`store::links`). For a signed-in person the seal is
//! part of the path, since the page asks who they are; for keys and guests, whom nobody can ask, having it is all that there
//! is, so it stands in the fragment, which no server and no log gets to see.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::env::{Env, Timestamp};
use crate::identity::TokenList;
use crate::ids::{Principal, UpstreamName};
use crate::secret::{DeploymentSecret, hex};

/// How long a link opens.
pub const LIFE: Duration = Duration::from_secs(15 * 60);
/// What links are sealed for.
const PURPOSE: &str = "connect-link";

/// Where a person makes a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// 128 random bits in hexadecimal digits; also the id of the elicitation that carries it.
    pub id: String,
    pub principal: Principal,
    pub upstream: UpstreamName,
    /// Scopes that the upstream asked for besides those that a connection has.
    pub scopes: TokenList,
    /// Who had it made, as the audit trail writes them. `None` where that is whoever called.
    pub by: Option<String>,
    pub expires: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Written {
    id: String,
    principal: String,
    upstream: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    expires_ms: u64,
}

impl Link {
    /// A new one.
    pub fn new(env: &Env, principal: Principal, upstream: UpstreamName) -> Self {
        let id = hex(&env.random::<16>());
        Self { id, principal, upstream, scopes: TokenList::default(), by: None, expires: env.now().after(LIFE) }
    }

    /// The same for a connection with these scopes as well.
    #[must_use]
    pub fn asking_for(self, scopes: TokenList) -> Self {
        Self { scopes, ..self }
    }

    /// The same on behalf of somebody, as the audit trail writes them.
    #[must_use]
    pub fn on_behalf_of(self, by: String) -> Self {
        Self { by: Some(by), ..self }
    }

    /// What [`Self::read`] reads.
    pub fn sealed(&self, secret: &DeploymentSecret) -> String {
        let written = Written {
            id: self.id.clone(),
            principal: self.principal.to_string(),
            upstream: self.upstream.to_string(),
            scopes: self.scopes.to_vec(),
            by: self.by.clone(),
            expires_ms: self.expires.as_millis(),
        };
        secret.seal(PURPOSE, b"", &serde_json::to_vec(&written).expect("texts and a number"))
    }

    /// The link under this seal, if it is ours and its time is not over.
    pub fn read(secret: &DeploymentSecret, text: &str, now: Timestamp) -> Option<Self> {
        let Written { id, principal, upstream, scopes, by, expires_ms } =
            serde_json::from_slice(&secret.unseal(PURPOSE, b"", text)?).ok()?;
        let (principal, upstream) = (Principal::parse(&principal)?, UpstreamName::parse(&upstream).ok()?);
        let (scopes, expires) = (TokenList::parse(scopes).ok()?, Timestamp::from_millis(expires_ms));
        (now < expires).then_some(Self { id, principal, upstream, scopes, by, expires })
    }

    /// The address that its person opens, under the gateway's public URL.
    pub fn url(&self, public_url: &str, secret: &DeploymentSecret) -> String {
        let (base, sealed) = (public_url.trim_end_matches('/'), self.sealed(secret));
        match self.principal {
            Principal::User(_) => format!("{base}/connect/link/{sealed}"),
            _ => format!("{base}/connect/link#{sealed}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{KeyName, UserId};

    fn link(principal: Principal) -> (Env, DeploymentSecret, Link) {
        let env = Env::system();
        let link = Link::new(&env, principal, UpstreamName::parse("notes").unwrap());
        (env, DeploymentSecret::new(&[7; 32]), link)
    }

    #[test]
    fn a_link_is_read_until_its_time_is_over_and_by_nobody_else() {
        let (env, secret, link) = link(Principal::Key(KeyName::parse("ci").unwrap()));
        let text = link.sealed(&secret);
        assert_eq!(Link::read(&secret, &text, env.now()), Some(link.clone()));
        assert_eq!(Link::read(&secret, &text, link.expires), None);
        let wider = link.clone().asking_for(TokenList::parse(vec!["notes:write".to_owned()]).unwrap());
        assert_eq!(Link::read(&secret, &wider.sealed(&secret), env.now()), Some(wider));
        let given = link.clone().on_behalf_of("operator:socket".to_owned());
        assert_eq!(Link::read(&secret, &given.sealed(&secret), env.now()), Some(given));
        assert_eq!(Link::read(&DeploymentSecret::new(&[8; 32]), &text, env.now()), None);
        let mut forged = text.into_bytes();
        forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
        assert_eq!(Link::read(&secret, &String::from_utf8(forged).unwrap(), env.now()), None);
    }

    #[test]
    fn what_opens_without_a_sign_in_stands_in_the_fragment() {
        let (_, secret, of_key) = link(Principal::Key(KeyName::parse("ci").unwrap()));
        assert!(of_key.url("https://g.example/x/", &secret).starts_with("https://g.example/x/connect/link#"));
        let (env, secret, _) = link(Principal::Gateway);
        let user = Principal::User(UserId::generate(&env));
        let url = Link::new(&env, user, UpstreamName::parse("notes").unwrap()).url("https://g.example", &secret);
        assert!(url.starts_with("https://g.example/connect/link/") && !url.contains('#'));
    }
}
