//! People: who has an account, what they may do here, and how they are known elsewhere.
//!
//! Pure. Operators are people with a role; there is no second table of them. A person is known by the pair of issuer
//! and subject that an identity provider vouches for (OpenID Connect Core §5.7), never by an e-mail address: that is
//! for people to read, and for linking an invited account once its owner has shown to have it.

use std::fmt;

use super::tokens::TokenList;
use crate::env::Timestamp;
use crate::ids::UserId;

words! {
    /// What a person may do here. Each role may do what those before it may.
    #[derive(PartialOrd, Ord)]
    Role {
        /// Uses upstreams and looks after their own account.
        User = "user",
        /// Sees everything, changes nothing.
        Viewer = "viewer",
        Operator = "operator",
        /// Makes and unmakes operators.
        Owner = "owner",
    }

    /// How things stand with an account.
    Status {
        /// It was made for somebody who has not come yet.
        Invited = "invited",
        Active = "active",
        /// It opens nothing until an operator changes that.
        Suspended = "suspended",
        /// Only the name is left, for the trails.
        Deleted = "deleted",
    }
}

/// A person with an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    /// Counts the changes.
    pub revision: u64,
    /// What a local account is opened with.
    pub login: Option<Login>,
    /// For people to read.
    pub name: DisplayName,
    /// An address that somebody vouched for.
    pub email: Option<Email>,
    pub role: Role,
    /// For policies to read, and for access to upstreams.
    pub groups: TokenList,
    pub status: Status,
    pub password: Option<PasswordHash>,
    pub created: Timestamp,
    pub last_sign_in: Option<Timestamp>,
}

impl User {
    /// Whether anything is opened by this account.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// What people call whose account it is: by the name, or by what is there instead.
    pub fn called(&self) -> &str {
        let login = self.login.as_ref().map(Login::as_str).or(self.email.as_ref().map(Email::as_str));
        let name = Some(self.name.as_str()).filter(|name| !name.is_empty());
        name.or(login).unwrap_or(self.id.as_str())
    }

    /// Whether it is one of those of whom there must always be one.
    pub fn keeps_the_house(&self) -> bool {
        self.role == Role::Owner && self.is_active()
    }
}

/// A person as an identity provider knows them. Neither half says anything without the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalIdentity {
    issuer: String,
    subject: String,
}

impl ExternalIdentity {
    /// Longest issuer, in bytes.
    pub const MAX_ISSUER_LEN: usize = 512;
    /// Longest subject, in bytes (OpenID Connect Core §2).
    pub const MAX_SUBJECT_LEN: usize = 255;

    /// An identity, or `None` if one half is empty, too long or has control characters.
    pub fn parse(issuer: &str, subject: &str) -> Option<Self> {
        let is_fit = |text: &str, max| (1..=max).contains(&text.len()) && !text.contains(char::is_control);
        let fits = is_fit(issuer, Self::MAX_ISSUER_LEN) && is_fit(subject, Self::MAX_SUBJECT_LEN);
        fits.then(|| Self { issuer: issuer.to_owned(), subject: subject.to_owned() })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn subject(&self) -> &str {
        &self.subject
    }
}

macro_rules! texts {
    ($($(#[$doc:meta])* $type:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

texts! {
    /// What a person types to open a local account: printable ASCII without spaces, in lower case.
    Login;
    /// An e-mail address that was verified, in lower case. Good for reading and for linking, not for telling who acts.
    Email;
    /// A person's name as it is shown: one line without control characters and without those that turn text around.
    DisplayName;
}

impl Login {
    /// Longest login, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The login that is meant by what was typed.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_ascii_lowercase()))
    }
}

impl Email {
    /// Longest address, in bytes (RFC 5321 §4.5.3.1.3, without the brackets).
    pub const MAX_LEN: usize = 254;

    /// The address in the form in which it is compared.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (local, domain) = text.rsplit_once('@')?;
        let is_fit = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_control() || c.is_whitespace());
        let fits = text.len() <= Self::MAX_LEN && is_fit(local) && is_fit(domain);
        fits.then(|| Self(text.to_lowercase()))
    }
}

impl DisplayName {
    /// Longest name, in bytes.
    pub const MAX_LEN: usize = 200;

    /// What of `text` can be shown, cut to its bound. It may be empty.
    pub fn of(text: &str) -> Self {
        let shown: String = text.chars().filter(|c| !c.is_control() && !turns_text(*c)).collect();
        let shown = shown.trim();
        Self(shown[..shown.floor_char_boundary(Self::MAX_LEN)].to_owned())
    }
}

/// Unicode's marks of direction and what cannot be seen (Unicode Standard Annex 9).
const fn turns_text(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

/// What is kept of a local password: an Argon2id string in PHC form. Whoever verifies reads it; it never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Longest string, in bytes.
    pub const MAX_LEN: usize = 256;

    /// A string of Argon2id (RFC 9106), or `None`. What its parameters are is not looked at here.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() <= Self::MAX_LEN && text.bytes().all(|byte| byte.is_ascii_graphic());
        (fits && text.starts_with("$argon2id$")).then(|| Self(text.to_owned()))
    }

    /// The string itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[password hash]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_stand_in_order() {
        assert!(Role::User < Role::Viewer && Role::Viewer < Role::Operator && Role::Operator < Role::Owner);
    }

    #[test]
    fn an_identity_is_both_of_its_halves() {
        let same = ExternalIdentity::parse("https://id.example", "7");
        assert_eq!(same, ExternalIdentity::parse("https://id.example", "7"));
        assert_ne!(same, ExternalIdentity::parse("https://id.example7", ""));
        for (issuer, subject) in [("", "7"), ("https://id.example", ""), ("a\0b", "7"), ("a", &"7".repeat(256))] {
            assert_eq!(ExternalIdentity::parse(issuer, subject), None, "{issuer:?} {subject:?}");
        }
    }

    #[test]
    fn logins_and_addresses_have_one_form() {
        assert_eq!(Login::parse(" Ada@Example.com ").unwrap().as_str(), "ada@example.com");
        for bad in ["", " ", "a b", "ä", "a\n b", &"a".repeat(129)] {
            assert_eq!(Login::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Email::parse("Ada@Example.com").unwrap().as_str(), "ada@example.com");
        for bad in ["", "ada", "@example.com", "ada@", "a da@example.com", &format!("{}@x", "a".repeat(253))] {
            assert_eq!(Email::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_one_line_that_reads_as_it_stands() {
        assert_eq!(DisplayName::of(" Ada\r\n\u{202e}Lovelace\u{0} ").as_str(), "AdaLovelace");
        assert_eq!(DisplayName::of(&"ä".repeat(101)).as_str(), "ä".repeat(100));
        assert_eq!(DisplayName::of("\n").as_str(), "");
    }

    #[test]
    fn a_password_is_argon2id_and_does_not_print_itself() {
        let hash = PasswordHash::parse("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA").unwrap();
        assert_eq!(format!("{hash:?}"), "[password hash]");
        for bad in ["hunter2", "$argon2i$v=19$m=1$a$b", "$argon2id$ b", &format!("$argon2id${}", "a".repeat(256))] {
            assert_eq!(PasswordHash::parse(bad), None, "{bad}");
        }
    }
}
