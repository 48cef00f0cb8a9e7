//! What a consent gives: to which resources, with which scopes, as which identities. It can be narrowed and never widened.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::{TokenList, ToolScope};
use crate::secret::Digest;

/// What was asked for, or given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub resources: ResourceList,
    pub scopes: TokenList,
    pub identities: IdentitySet,
    /// What policies have taken away.
    pub limits: AccessLimits,
}

/// What policies have taken away of an access, and what they say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessLimits {
    pub tools: ToolScope,
    /// Longest life of an access token, where that is less than the gateway's own.
    pub access_life: Option<Duration>,
    /// Further claims of access tokens: a JSON object.
    pub claims: Option<Arc<str>>,
    /// Longest life of the grant, where that is less than the gateway's own. Of no length: there is no refresh token.
    pub refresh_life: Option<Duration>,
    /// Whether tokens have to be bound to a key that the client proves to have.
    pub sender_constrained: bool,
}

impl Access {
    /// Whether everything here is in `other`, the identities aside: those are chosen, not asked for.
    pub fn is_within(&self, resources: &ResourceList, scopes: &TokenList) -> bool {
        self.resources.iter().all(|resource| resources.contains(resource))
            && self.scopes.iter().all(|scope| scopes.contains(scope))
    }
}

/// Resources of RFC 8707, as they were canonicalised. Each once, in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceList(Arc<[String]>);

impl ResourceList {
    /// Most resources of one list.
    pub const MAX_COUNT: usize = 16;
    /// Longest resource, in bytes.
    pub const MAX_LEN: usize = 2048;

    /// The list of these, if it is one: bounded, and without repetition.
    pub fn parse(resources: Vec<String>) -> Option<Self> {
        let is_fine = |(position, resource): (usize, &String)| {
            (1..=Self::MAX_LEN).contains(&resource.len()) && !resources[..position].contains(resource)
        };
        let is_list = resources.len() <= Self::MAX_COUNT && resources.iter().enumerate().all(is_fine);
        is_list.then(|| Self(resources.into()))
    }
}

impl Deref for ResourceList {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

/// The identities that were chosen at a consent, such as `user:…` and the connections that may be used. Two sets with the
/// same members are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentitySet(TokenList);

impl IdentitySet {
    /// The set of these, if it can be one: see [`TokenList`] for what a member is.
    pub fn parse(mut identities: Vec<String>) -> Option<Self> {
        identities.sort_unstable();
        TokenList::parse(identities).ok().map(Self)
    }
}

impl Deref for IdentitySet {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

/// Everything that a remembered consent was given for: it counts for exactly these terms and for no others
/// (`docs/threat-model.md` row A8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub redirect_host: String,
    pub access: Access,
}

impl Terms {
    /// A digest that differs if anything here does, but for what policies say: they are asked each time. The order of
    /// resources and scopes is none of it.
    pub fn digest(&self) -> Digest {
        let Self { redirect_host, access: Access { resources, scopes, identities, limits: _ } } = self;
        let mut bytes = Vec::new();
        let mut add = |members: &[String]| {
            let mut sorted: Vec<&String> = members.iter().collect();
            sorted.sort_unstable();
            bytes.extend_from_slice(&(sorted.len() as u64).to_be_bytes());
            for member in sorted {
                bytes.extend_from_slice(&(member.len() as u64).to_be_bytes());
                bytes.extend_from_slice(member.as_bytes());
            }
        };
        add(std::slice::from_ref(redirect_host));
        add(resources);
        add(scopes);
        add(identities);
        Digest::of(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(members: &[&str]) -> Vec<String> {
        members.iter().map(|member| (*member).to_owned()).collect()
    }

    fn terms(host: &str, resources: &[&str], scopes: &[&str], identities: &[&str]) -> Terms {
        Terms {
            redirect_host: host.to_owned(),
            access: Access {
                resources: ResourceList::parse(list(resources)).unwrap(),
                scopes: TokenList::parse(list(scopes)).unwrap(),
                identities: IdentitySet::parse(list(identities)).unwrap(),
                limits: AccessLimits::default(),
            },
        }
    }

    #[test]
    fn lists_are_bounded_and_have_each_member_once() {
        assert!(ResourceList::parse(list(&["https://a/mcp", "https://a/mcp/b"])).is_some());
        assert_eq!(ResourceList::parse(list(&["a", "a"])), None);
        assert_eq!(ResourceList::parse(list(&[""])), None);
        assert_eq!(ResourceList::parse(vec!["x".repeat(2049)]), None);
        assert_eq!(ResourceList::parse((0..17).map(|number| number.to_string()).collect()), None);
        assert_eq!(IdentitySet::parse(list(&["b", "a"])), IdentitySet::parse(list(&["a", "b"])));
        assert_eq!(IdentitySet::parse(list(&["a", "a"])), None);
    }

    #[test]
    fn access_is_within_what_was_asked_only_if_all_of_it_is() {
        let asked = terms("h", &["r1", "r2"], &["read", "write"], &[]).access;
        let is_within = |terms: Terms| terms.access.is_within(&asked.resources, &asked.scopes);
        assert!(is_within(terms("h", &["r2"], &["write", "read"], &["user:x"])));
        assert!(is_within(terms("h", &[], &[], &[])));
        assert!(!is_within(terms("h", &["r3"], &["read"], &[])));
        assert!(!is_within(terms("h", &["r1"], &["admin"], &[])));
    }

    #[test]
    fn terms_that_differ_anywhere_have_another_digest() {
        let base = terms("h", &["r1", "r2"], &["a", "b"], &["i"]);
        assert_eq!(base.digest(), terms("h", &["r2", "r1"], &["b", "a"], &["i"]).digest());
        for other in [
            terms("g", &["r1", "r2"], &["a", "b"], &["i"]),
            terms("h", &["r1"], &["a", "b"], &["i"]),
            terms("h", &["r1r2"], &["a", "b"], &["i"]),
            terms("h", &["r1", "r2"], &["a"], &["b", "i"]),
            terms("h", &["r1", "r2", "a"], &["b"], &["i"]),
            terms("h", &["r1", "r2"], &["a", "b"], &[]),
        ] {
            assert_ne!(base.digest(), other.digest(), "{other:?}");
        }
    }
}
