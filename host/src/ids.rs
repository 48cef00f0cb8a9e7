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
    /// A key-encryption key of the vault, as the configuration calls it.
    KekId, "key id", 64;
    /// What belongs to no single principal, such as a connection that many use.
    SharedName, "shared name", 64;
}

/// What everyone who uses an upstream shares of it.
impl From<UpstreamName> for SharedName {
    fn from(name: UpstreamName) -> Self {
        // An upstream's name follows the same rule, and is shorter.
        Self(name.0)
    }
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
    /// Whoever presents nothing, where nothing has to be presented.
    Anonymous,
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
            None if text == "anonymous" => Some(Self::Anonymous),
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
            Self::Anonymous => f.write_str("anonymous"),
            Self::Gateway => f.write_str("gateway"),
        }
    }
}

/// Whose data key seals a record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// The deployment itself.
    Deployment,
    Principal(Principal),
    /// What several principals share.
    Shared(SharedName),
}

impl Owner {
    /// The owner that [`fmt::Display`] writes like this.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "deployment" => Some(Self::Deployment),
            Some(("shared", name)) => SharedName::parse(name).ok().map(Self::Shared),
            _ => Principal::parse(text).map(Self::Principal),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deployment => f.write_str("deployment"),
            Self::Principal(principal) => principal.fmt(f),
            Self::Shared(name) => write!(f, "shared:{name}"),
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

/// Identifies an OAuth client: an id that we or an operator chose, or the address of the client's metadata document.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// Longest id, in bytes.
    pub const MAX_LEN: usize = 512;
    /// What the ids begin with that are addresses. No other does.
    const ADDRESS: &str = "https://";

    /// The id that is written like this: printable ASCII (RFC 6749 appendix A.1) without space, `"` and `\`.
    pub fn parse(text: &str) -> Option<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        ((1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(is_allowed)).then(|| Self(text.into()))
    }

    /// A new one for a client that registers.
    pub fn generate(env: &Env) -> Self {
        Self(hex(&env.random::<16>()).into())
    }

    /// Whether it is the address of a metadata document, so that there is no registration.
    pub fn is_address(&self) -> bool {
        self.0.starts_with(Self::ADDRESS)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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
    /// Identifies one authorization request while somebody is asked to consent to it.
    RequestId, "an authorization request";
    /// Identifies one access token: its `jti`.
    TokenId, "an access token";
    /// Identifies one guest: who consented without naming themselves, for as long as the grant lives.
    GuestId, "a guest";
    /// Identifies one running gateway among those that share a store, for as long as it runs.
    ReplicaId, "a replica";
    /// Identifies one signed-in browser. The cookie is another thing, and a secret.
    BrowserSessionId, "a browser session";
    /// Identifies one operator's API token, for lists; the token itself is a secret.
    ApiTokenId, "an API token";
    /// Identifies one connection from its making to its end.
    ConnectionId, "a connection";
    /// Identifies one attempt to make a connection.
    FlowId, "a connection flow";
}

/// Identifies one deployment: everything that shares a store, over all of the store's life. Not a secret.
///
/// 128 random bits, drawn when the store is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentId([u8; 16]);

impl DeploymentId {
    /// A new one.
    pub fn generate(env: &Env) -> Self {
        Self(env.random())
    }

    /// The id that is written like this: 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let digits = Some(text).filter(|text| text.len() == 32 && text.bytes().all(is_digit))?;
        u128::from_str_radix(digits, 16).ok().map(|number| Self(number.to_be_bytes()))
    }

    /// For what is bound to it.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<String> for DeploymentId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("the id of a deployment has 32 hexadecimal digits")
    }
}

impl From<DeploymentId> for String {
    fn from(id: DeploymentId) -> Self {
        hex(&id.0)
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Declares ids without a shared text.
macro_rules! tags {
    ($($(#[$doc:meta])* $type:ident of $id:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type([u8; RANDOM_ID_LEN / 2]);

        impl $type {
            /// The id that it stands for.
            pub fn id(self) -> $id {
                $id(hex(&self.0).into())
            }
        }

        impl From<&$id> for $type {
            fn from(id: &$id) -> Self {
                let digit =
                    |at: usize| u8::from_str_radix(&id.as_str()[at..at + 1], 16).expect("an id is hexadecimal digits");
                Self(std::array::from_fn(|at| digit(2 * at) << 4 | digit(2 * at + 1)))
            }
        }

        impl TryFrom<String> for $type {
            type Error = &'static str;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                $id::try_from(text).map(|id| Self::from(&id))
            }
        }

        impl From<$type> for String {
            fn from(tag: $type) -> Self {
                hex(&tag.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

tags! {
    /// A user's id without a shared text, for what is copied about.
    UserTag of UserId;
    /// The same of an API token's id.
    ApiTokenTag of ApiTokenId;
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
    fn a_users_tag_stands_for_the_users_id() {
        let id = UserId::generate(&Env::system());
        let tag = UserTag::from(&id);
        assert_eq!((tag.id(), tag.to_string()), (id.clone(), id.to_string()));
        assert_eq!(UserTag::try_from(id.to_string()), Ok(tag));
        assert!(UserTag::try_from("ci".to_owned()).is_err());
    }

    #[test]
    fn a_deployments_id_is_read_as_it_is_written() {
        let id = DeploymentId::generate(&Env::system());
        let text = id.to_string();
        assert_eq!(DeploymentId::parse(&text), Some(id));
        assert_eq!(DeploymentId::parse(&"0".repeat(32)).unwrap().as_bytes(), &[0; 16]);
        for bad in ["", &text[1..], &format!("{text}0"), &format!("+{}", &text[1..]), &"G".repeat(32)] {
            assert_eq!(DeploymentId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_clients_id_is_printable_and_bounded() {
        let longest = "x".repeat(ClientId::MAX_LEN);
        for (good, is_address) in
            [("a", false), ("https://app.example/client.json", true), ("http://x", false), (&longest, false)]
        {
            assert_eq!(ClientId::parse(good).map(|id| id.is_address()), Some(is_address), "{good}");
        }
        for bad in ["", "a b", "a\n", "\"", "\\", "ä", &format!("{longest}x")] {
            assert_eq!(ClientId::parse(bad), None, "{bad}");
        }
        assert!(!ClientId::generate(&Env::system()).is_address());
    }

    #[test]
    fn a_principal_is_read_as_it_is_written() {
        let env = Env::system();
        let of = [
            Principal::Key(KeyName::parse("ci").unwrap()),
            Principal::User(UserId::generate(&env)),
            Principal::Guest(GuestId::generate(&env)),
            Principal::Gateway,
            Principal::Anonymous,
        ];
        for principal in of {
            assert_eq!(Principal::parse(&principal.to_string()), Some(principal));
        }
        for bad in ["", "ci", "key:", "key:A", "user:ci", "guest:", "gateway:", "operator"] {
            assert_eq!(Principal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_owner_is_read_as_it_is_written() {
        for text in ["deployment", "gateway", "key:ci", "shared:notes"] {
            assert_eq!(Owner::parse(text).map(|owner| owner.to_string()).as_deref(), Some(text));
        }
        for bad in ["", "shared:", "shared:A", "ci", "deployment:"] {
            assert_eq!(Owner::parse(bad), None, "{bad}");
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
