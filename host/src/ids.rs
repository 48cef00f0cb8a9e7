//! Typed identifiers: a text that was checked once is a type of its own from then on.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::env::Env;
use crate::secret::hex;

/// A name that does not follow its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} must be 1 to {max} characters of a-z, 0-9 and '-', and begin with a letter or digit")]
pub struct InvalidName {
    what: &'static str,
    name: String,
    max: usize,
}

macro_rules! names {
    ($($(#[$doc:meta])* $type:ident, $what:literal, $max:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            pub const MAX_LEN: usize = $max;

            pub fn parse(name: &str) -> Result<Self, InvalidName> {
                check_name($what, name, $max)?;
                Ok(Self(name.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::parse(&name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )*};
}

names! {
    /// An MCP server behind us. Has no underscore, so that `<upstream>__<tool>` can be read in one way only.
    UpstreamName, "upstream name", 24;
    /// A virtual key's name; the key's secret is never an identifier.
    KeyName, "key name", 64;
    /// One binding of a policy module.
    BindingName, "policy name", 64;
    /// A list that policies may look things up in.
    SetName, "set name", 64;
}

fn check_name(what: &'static str, name: &str, max: usize) -> Result<(), InvalidName> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let starts_well = name.as_bytes().first().is_some_and(|byte| *byte != b'-');
    if starts_well && name.len() <= max && name.bytes().all(allowed) {
        return Ok(());
    }
    let name = name.chars().take(80).collect();
    Err(InvalidName { what, name, max })
}

/// Who acts, as a key for sessions, limits and logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Principal {
    /// A virtual key.
    Key(KeyName),
    /// A person with an account.
    User(UserId),
    /// A person without one.
    Guest(GuestId),
    /// The gateway itself, when it reads an upstream's catalog.
    Gateway,
}

impl Principal {
    /// The principal that [`fmt::Display`] writes like this.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("key", name)) => KeyName::parse(name).ok().map(Self::Key),
            Some(("user", id)) => UserId::parse(id).map(Self::User),
            Some(("guest", id)) => GuestId::parse(id).map(Self::Guest),
            None if text == "gateway" => Some(Self::Gateway),
            _ => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name) => write!(f, "key:{name}"),
            Self::User(id) => write!(f, "user:{id}"),
            Self::Guest(id) => write!(f, "guest:{id}"),
            Self::Gateway => f.write_str("gateway"),
        }
    }
}

/// Identifies one decision in logs and in the decision trail.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DecisionId(String);

impl DecisionId {
    /// A new one. Sorts by time: 48 bits of milliseconds, then 80 random bits, in hex.
    pub fn generate(env: &Env) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&env.now().as_millis().to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&env.random::<10>());
        Self(hex(&bytes))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! random_ids {
    ($($(#[$doc:meta])* $type:ident, $what:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// 24 hexadecimal digits that sort by time: 48 bits of milliseconds, then 48 random bits. Not a secret.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// A new one.
            pub fn generate(env: &Env) -> Self {
                let mut bytes = [0; RANDOM_ID_LEN / 2];
                bytes[..6].copy_from_slice(&env.now().as_millis().to_be_bytes()[2..]);
                bytes[6..].copy_from_slice(&env.random::<6>());
                Self(hex(&bytes).into())
            }

            /// The id that is written like this.
            pub fn parse(text: &str) -> Option<Self> {
                let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                (text.len() == RANDOM_ID_LEN && text.bytes().all(is_digit)).then(|| Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = &'static str;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text).ok_or(concat!("the id of ", $what, " has 24 hexadecimal digits"))
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> Self {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

/// Digits of an id that is drawn.
const RANDOM_ID_LEN: usize = 24;

random_ids! {
    /// Identifies one approval, for people to type and pass on.
    ApprovalId, "an approval";
    /// Identifies one user.
    UserId, "a user";
    /// Identifies one grant: what a consent produced, and all refresh tokens that follow from it (RFC 9700 §4.14).
    GrantId, "a grant";
    /// Identifies one guest: who consented without naming themselves, for as long as the grant lives.
    GuestId, "a guest";
    /// Identifies one run of one gateway among those that share a deployment.
    ReplicaId, "a replica";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approvals_id_is_read_as_it_is_written() {
        let id = ApprovalId::generate(&Env::system());
        assert_eq!(ApprovalId::parse(id.as_str()), Some(id.clone()));
        for bad in ["", "0", &id.as_str()[1..], &format!("{id}0"), &id.as_str().replace(&id.as_str()[..1], "G")] {
            assert_eq!(ApprovalId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_principal_is_read_as_it_is_written() {
        let env = Env::system();
        let of = [
            Principal::Key(KeyName::parse("ci").unwrap()),
            Principal::User(UserId::generate(&env)),
            Principal::Guest(GuestId::generate(&env)),
            Principal::Gateway,
        ];
        for principal in of {
            assert_eq!(Principal::parse(&principal.to_string()), Some(principal));
        }
        for bad in ["", "ci", "key:", "key:A", "user:ci", "guest:", "gateway:", "operator"] {
            assert_eq!(Principal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_follow_their_rule() {
        for good in ["a", "notes", "issue-tracker-2", "0", &"x".repeat(24)] {
            assert!(UpstreamName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "Notes", "a_b", "a.b", "ä", "a b", &"x".repeat(25)] {
            assert!(UpstreamName::parse(bad).is_err(), "{bad}");
        }
    }
}
