//! Whom and what pages tell of, as people know them: by name, and with the page about them where there is one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::desk::Desk;
use super::fields::page;
use super::text;
use crate::audit::{Actor, OperatorProof};
use crate::identity::keyring::Keyring;
use crate::ids::{KeyName, Principal, UpstreamName, UserId};
use crate::store::StoreError;

/// Somebody, or what acts for them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// As the API says it, such as `user:ID`.
    pub(super) id: String,
    /// What people call it, which is the same where there is nothing else.
    pub(super) name: String,
    /// The page about it, if it is still there.
    pub(super) page: Option<String>,
}

impl Named {
    pub(super) fn has_other_name(&self) -> bool {
        self.id != self.name
    }
}

/// Those whom a page tells of.
pub(super) struct Known {
    people: HashMap<UserId, String>,
    keys: Arc<Keyring>,
}

impl Desk {
    /// Those whom these texts of the API tell of: principals, holders of connections, and actors.
    pub(super) async fn known(&self, texts: &[&str]) -> Result<Known, StoreError> {
        self.known_by(texts.iter().filter_map(|text| person_in(text)).collect()).await
    }

    /// The same of those who have accounts with these ids.
    pub(super) async fn known_accounts(&self, ids: &[&str]) -> Result<Known, StoreError> {
        self.known_by(ids.iter().filter_map(|id| UserId::parse(id)).collect()).await
    }

    async fn known_by(&self, ids: BTreeSet<UserId>) -> Result<Known, StoreError> {
        let keys = self.api.control.snapshot.load().keys.clone();
        let people = self.api.control.users_called(ids).await?;
        // An address, where there is no name, may have what turns the text around it.
        let people = people.into_iter().map(|(id, name)| (id, text::line(&name))).collect();
        Ok(Known { people, keys })
    }

    /// The page of an upstream, if there is one of this name.
    pub(super) fn page_of_upstream(&self, name: &str) -> Option<String> {
        let name = UpstreamName::parse(name).ok()?;
        self.api.control.upstream_view(&name).map(|view| page("/upstreams", view.name.as_str()))
    }

    /// The page of a policy, if one is bound under this name.
    pub(super) fn page_of_policy(&self, name: &str) -> Option<String> {
        let snapshot = self.api.control.snapshot.load();
        let is_bound = snapshot.policies.bindings().iter().any(|bound| bound.name().as_str() == name);
        is_bound.then(|| page("/policies/bindings", name))
    }
}

impl Known {
    /// Whom a text tells of.
    pub(super) fn who(&self, text: &str) -> Named {
        let (name, page) = match Actor::parse(text) {
            Some(Actor::System) => ("the gateway".to_owned(), None),
            Some(Actor::Operator(OperatorProof::Socket)) => ("the admin socket".to_owned(), None),
            Some(Actor::Operator(OperatorProof::Token)) => ("the operator token".to_owned(), None),
            Some(Actor::Operator(OperatorProof::SetUpLink)) => ("the set-up link".to_owned(), None),
            Some(Actor::User(user) | Actor::Operator(OperatorProof::Session(user))) => self.person(text, &user.id()),
            Some(Actor::Operator(OperatorProof::ApiToken { token: _, user })) => {
                let (name, page) = self.person(text, &user.id());
                let is_known = page.is_some();
                (if is_known { format!("{name} by an API token") } else { name }, page)
            }
            None => (text.to_owned(), self.page_of_key(text)),
        };
        Named { id: text.to_owned(), name, page }
    }

    /// Whose account this is.
    pub(super) fn account(&self, id: &str) -> Named {
        self.who(&format!("user:{id}"))
    }

    /// The names of people, by what the API says instead, for rows that scripts make.
    pub(super) fn for_scripts(&self) -> String {
        let named = |(id, name): (&UserId, &String)| (Principal::User(id.clone()).to_string(), name.clone().into());
        serde_json::Value::Object(self.people.iter().map(named).collect()).to_string()
    }

    /// What somebody with an account is called, and their page. Of whom nothing is known, the text is all there is.
    fn person(&self, text: &str, id: &UserId) -> (String, Option<String>) {
        match self.people.get(id) {
            Some(name) => (name.clone(), Some(page("/people", id.as_str()))),
            None => (text.to_owned(), None),
        }
    }

    fn page_of_key(&self, text: &str) -> Option<String> {
        let name = KeyName::parse(text.strip_prefix("key:")?).ok()?;
        self.keys.has(&name).then(|| page("/keys", name.as_str()))
    }
}

/// The account that a text of the API tells of.
fn person_in(text: &str) -> Option<UserId> {
    match Actor::parse(text)? {
        Actor::User(user)
        | Actor::Operator(OperatorProof::Session(user) | OperatorProof::ApiToken { token: _, user }) => Some(user.id()),
        Actor::System | Actor::Operator(OperatorProof::Socket | OperatorProof::Token | OperatorProof::SetUpLink) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::ids::{ApiTokenId, ApiTokenTag, UserTag};

    #[test]
    fn people_go_by_their_names_and_the_rest_by_what_it_is() {
        let env = Env::system();
        let (ann, gone) = (UserId::generate(&env), UserId::generate(&env));
        let known = Known { people: HashMap::from([(ann.clone(), "Ann".to_owned())]), keys: Arc::default() };
        let at = Some(format!("/people/{ann}"));
        let token = ApiTokenTag::from(&ApiTokenId::generate(&env));
        let by_token = Actor::Operator(OperatorProof::ApiToken { token, user: UserTag::from(&ann) });
        for (text, name, page) in [
            (format!("user:{ann}"), "Ann", at.clone()),
            (format!("operator:session:{ann}"), "Ann", at.clone()),
            (by_token.to_string(), "Ann by an API token", at),
            (format!("user:{gone}"), &*format!("user:{gone}"), None),
            ("operator:socket".to_owned(), "the admin socket", None),
            ("key:gone".to_owned(), "key:gone", None),
            ("shared".to_owned(), "shared", None),
            ("system".to_owned(), "the gateway", None),
        ] {
            let named = known.who(&text);
            assert_eq!((&*named.name, &named.page), (name, &page), "{text}");
            assert_eq!(named.has_other_name(), text != name, "{text}");
        }
        assert_eq!(known.account(ann.as_str()).name, "Ann");
        assert_eq!(known.for_scripts(), format!("{{\"user:{ann}\":\"Ann\"}}"));
    }
}
