//! Questions and answers of the hooks over authority, one module for each hook.
//!
//! Terms begin as what was requested and are narrowed from there: the host refuses what is wider than the request, so an
//! author never has to repeat it.

use std::time::Duration;

use serde_json::Value;

use crate::verdict::{owned, whole_seconds};
use crate::{Approval, Denial, Edit, Note, StepUp};

/// Hook `grant`.
pub mod grant {
    pub use crate::bindings::exports::portcullis::policy::grant::{
        Client, Consent, Decision, GrantType, Request, Terms,
    };
}

/// Hook `refresh`. Its terms are those of [`grant`].
pub mod refresh {
    pub use crate::bindings::exports::portcullis::policy::grant::Terms;
    pub use crate::bindings::exports::portcullis::policy::refresh::{Decision, Request};
}

/// Hook `client`.
pub mod client {
    pub use crate::bindings::exports::portcullis::policy::client::{Decision, Request, Source};
}

/// Hook `credential`.
pub mod credential {
    pub use crate::bindings::exports::portcullis::policy::credential::{Decision, Request, Terms};
}

/// A decision that is made of each of these answers, and refuses with a code and a message.
macro_rules! decisions {
    ($($hook:ident: $($case:ident($answer:ty))+;)+) => { $(
        impl $hook::Decision {
            /// No opinion.
            pub fn abstain() -> Self {
                Self::Abstain
            }

            /// Refused, for this reason.
            pub fn deny(code: impl Into<String>, message: impl Into<String>) -> Self {
                Self::Deny(Denial::new(code, message))
            }
        }

        $(
            impl From<$answer> for $hook::Decision {
                fn from(answer: $answer) -> Self {
                    Self::$case(answer)
                }
            }
        )+
    )+ };
}

decisions! {
    grant: Allow(grant::Terms) Consent(grant::Consent) Approve(Approval) StepUp(StepUp) Deny(Denial);
    refresh: Allow(grant::Terms) StepUp(StepUp) Deny(Denial);
    client: Approve(Approval) Deny(Denial);
    credential: Release(credential::Terms) Approve(Approval) StepUp(StepUp) Deny(Denial);
}

impl grant::Terms {
    /// Everything that was requested.
    pub fn requested(request: &grant::Request) -> Self {
        Self { scopes: request.scopes.clone(), ..Self::default() }
    }

    /// For a refresh: what was granted before, narrowed to the scopes that are requested now, if any are.
    pub fn granted(request: &refresh::Request) -> Self {
        let mut terms = request.granted.clone();
        if !request.requested.is_empty() {
            terms.scopes.retain(|scope| request.requested.contains(scope));
        }
        terms
    }

    /// Keeps of the scopes only those that `keep` says yes to.
    #[must_use]
    pub fn only_scopes(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.scopes.retain(|scope| keep(scope));
        self
    }

    /// Narrows to the tools that these patterns over `upstream/tool` match.
    #[must_use]
    pub fn tools(mut self, patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.tools = Some(owned(patterns));
        self
    }

    /// Access tokens live at most so long.
    #[must_use]
    pub fn access_ttl(mut self, ttl: Duration) -> Self {
        self.access_ttl_s = Some(whole_seconds(ttl));
        self
    }

    /// Refresh tokens live at most so long.
    #[must_use]
    pub fn refresh_ttl(mut self, ttl: Duration) -> Self {
        self.refresh_ttl_s = Some(whole_seconds(ttl));
        self
    }

    /// Tokens must be bound to a key of the client.
    #[must_use]
    pub fn sender_constrained(mut self) -> Self {
        self.require_sender_constraint = true;
        self
    }

    /// Further claims for the access token, as a JSON object. Reserved names are refused.
    #[must_use]
    pub fn claims(mut self, claims: &Value) -> Self {
        self.claims = Some(claims.to_string());
        self
    }

    /// A fact for the decision log.
    #[must_use]
    pub fn note(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.notes.push(Note::new(key, value));
        self
    }
}

impl grant::Consent {
    /// The person is asked for these terms, under this headline.
    pub fn new(terms: grant::Terms, headline: impl Into<String>) -> Self {
        Self { terms, headline: headline.into(), warnings: Vec::new() }
    }

    /// Something that the person should know before they agree.
    #[must_use]
    pub fn warning(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }
}

impl client::Decision {
    /// The client may register as it asks to.
    pub fn allow() -> Self {
        Self::Allow(Vec::new())
    }

    /// The client may register with its metadata changed like this. Needs `mutates(Hook::Client)` in the manifest.
    pub fn allow_edited(edits: impl IntoIterator<Item = Edit>) -> Self {
        Self::Allow(edits.into_iter().collect())
    }
}

impl credential::Terms {
    /// Everything that was requested.
    pub fn requested(request: &credential::Request) -> Self {
        Self { scopes: request.scopes.clone(), max_age_s: None }
    }

    /// Keeps of the scopes only those that `keep` says yes to.
    #[must_use]
    pub fn only_scopes(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.scopes.retain(|scope| keep(scope));
        self
    }

    /// Only a credential that was obtained no longer ago than this.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age_s = Some(whole_seconds(age));
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;
    use crate::Reason;

    #[test]
    fn terms_begin_as_requested_and_are_narrowed() {
        let request: grant::Request =
            from_value(json!({"scopes": ["read", "write"], "access_ttl_s": 3600, "refresh_ttl_s": 86400})).unwrap();
        let terms = grant::Terms::requested(&request)
            .only_scopes(|scope| scope == "read")
            .tools(["notes/*"])
            .access_ttl(Duration::from_secs(600))
            .sender_constrained()
            .claims(&json!({"team": "a"}))
            .note("rule", "small");
        assert_eq!(
            to_value(grant::Decision::from(terms)).unwrap(),
            json!({"allow": {
                "scopes": ["read"], "tools": ["notes/*"], "access_ttl_s": 600, "refresh_ttl_s": null,
                "require_sender_constraint": true, "claims": {"team": "a"}, "notes": [{"key": "rule", "value": "small"}],
            }})
        );
    }

    #[test]
    fn a_refresh_gives_no_more_than_was_granted() {
        let request: refresh::Request =
            from_value(json!({"granted": {"scopes": ["read", "write"]}, "requested": ["write", "admin"]})).unwrap();
        assert_eq!(grant::Terms::granted(&request).scopes, ["write"]);
        let all = refresh::Request { requested: Vec::new(), ..request };
        assert_eq!(grant::Terms::granted(&all).scopes, ["read", "write"]);
    }

    #[test]
    fn every_answer_becomes_its_decision() {
        let consent = grant::Consent::new(grant::Terms::default(), "May Notes read?").warning("It is new.");
        let step_up = StepUp::acr(Reason::new("a.b", "again"), ["mfa"]).max_age(Duration::from_secs(60));
        for (decision, expected) in [
            (to_value(grant::Decision::from(consent)).unwrap(), json!("May Notes read?")),
            (to_value(refresh::Decision::from(step_up)).unwrap(), json!(60)),
            (to_value(client::Decision::allow_edited([Edit::remove("/logo_uri")])).unwrap(), json!("/logo_uri")),
            (to_value(credential::Decision::deny("a.b", "no")).unwrap(), json!("a.b")),
        ] {
            let found = ["/consent/headline", "/step-up/max_age_s", "/allow/0/pointer", "/deny/reason/code"];
            assert_eq!(found.iter().find_map(|pointer| decision.pointer(pointer)), Some(&expected), "{decision}");
        }
    }
}
