//! Virtual keys: long-lived keys that an operator hands out, each with its own allow-list.
//!
//! Pure: what a key is and what it permits. Where keys are kept is `store::keys`; how a request's key becomes a
//! [`super::Caller`] is `identity::bearer`.

use super::tokens::TokenList;
use super::user::Login;
use crate::env::{Env, Timestamp};
use crate::glob::Glob;
use crate::ids::{KeyName, UpstreamName};
use crate::secret::{Digest, Plaintext};

/// What every key begins with, so that secret scanners and people recognise one.
pub const KEY_PREFIX: &str = "pk_";

/// A virtual key as we keep it: its digest, never its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualKey {
    pub name: KeyName,
    pub digest: Digest,
    /// The secret before this one, while both are good.
    pub earlier: Option<Earlier>,
    pub allow: AllowList,
    /// For policies to read, as the caller's.
    pub scopes: TokenList,
    /// For policies to read, as the caller's.
    pub groups: TokenList,
    /// Whoever has this login may use what the key may, as themselves.
    pub owner: Option<Login>,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
    pub standing: Standing,
    pub managed_by: ManagedBy,
    /// Counts the changes of a key of the store from 1 on; 0 for one of the file.
    pub revision: u64,
}

/// A secret that another one has taken the place of, and that is good for a while yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    pub digest: Digest,
    /// From then on it opens nothing.
    pub until: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Enabled,
    Disabled,
}

/// Who may change a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManagedBy {
    /// Declared in the configuration file, read-only elsewhere.
    File,
    /// Created through the API or the command line, kept in the store.
    Store,
}

impl VirtualKey {
    /// A new secret: `pk_` and 256 random bits in unpadded base64url.
    pub fn new_secret(env: &Env) -> Plaintext {
        use base64::Engine as _;
        let random = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(env.random::<32>());
        Plaintext::new(format!("{KEY_PREFIX}{random}"))
    }

    /// Whether the key opens anything at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.standing == Standing::Enabled && self.expires.is_none_or(|expires| now < expires)
    }

    /// The secret before the present one, if it is good at `now`.
    pub fn earlier_at(&self, now: Timestamp) -> Option<&Earlier> {
        self.earlier.as_ref().filter(|earlier| now < earlier.until)
    }

    /// Whether one of its secrets, which has this digest, opens anything at `now`.
    pub fn is_opened_by(&self, digest: &Digest, now: Timestamp) -> bool {
        let is_earlier = || self.earlier_at(now).is_some_and(|earlier| earlier.digest == *digest);
        self.is_valid(now) && (self.digest == *digest || is_earlier())
    }

    /// What those who came in with one of its secrets are told by at `now`: another value when any of them may have come in
    /// with one that has ended. While an earlier secret is good, what began before the present one was made goes on.
    pub fn witness(&self, now: Timestamp) -> Digest {
        self.earlier_at(now).map_or(self.digest, |earlier| earlier.digest)
    }
}

/// Which tools of which upstreams a key may use. An empty list means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(pub Vec<AllowEntry>);

/// One line of an allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowEntry {
    /// Pattern over upstream names.
    pub upstream: Glob,
    /// Patterns over the upstream's own tool names.
    pub tools: Vec<Glob>,
}

impl AllowEntry {
    /// All of an upstream.
    pub fn whole(upstream: &UpstreamName) -> Self {
        let upstream = Glob::parse(upstream.as_str()).expect("a name is a pattern without a star");
        Self { upstream, tools: vec![Glob::any()] }
    }

    /// Whether the line has this tool, of an upstream that it is for.
    pub fn has(&self, tool: &str) -> bool {
        self.tools.iter().any(|pattern| pattern.matches(tool))
    }
}

impl AllowList {
    /// Whether the list has a line for this upstream.
    pub fn reaches(&self, upstream: &UpstreamName) -> bool {
        self.0.iter().any(|entry| entry.upstream.matches(upstream.as_str()))
    }

    /// The lines for this upstream.
    pub fn lines_of(&self, upstream: &UpstreamName) -> Vec<&AllowEntry> {
        self.0.iter().filter(|entry| entry.upstream.matches(upstream.as_str())).collect()
    }

    /// Whether the list has a line for all of this upstream: then its prompts and resources are permitted as well. A line
    /// that names tools permits these tools and nothing else.
    pub fn permits_items(&self, upstream: &UpstreamName) -> bool {
        let is_whole = |entry: &AllowEntry| entry.tools.iter().any(Glob::is_any);
        self.0.iter().any(|entry| entry.upstream.matches(upstream.as_str()) && is_whole(entry))
    }

    /// Whether the list has a line for this tool.
    pub fn permits(&self, upstream: &UpstreamName, tool: &str) -> bool {
        self.line_for(upstream, tool).is_some()
    }

    /// The first line for this tool, counted from 0.
    pub fn line_for(&self, upstream: &UpstreamName, tool: &str) -> Option<usize> {
        self.0.iter().position(|entry| entry.upstream.matches(upstream.as_str()) && entry.has(tool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(entries: &[(&str, &[&str])]) -> AllowList {
        let entry = |(upstream, tools): &(&str, &[&str])| AllowEntry {
            upstream: Glob::parse(upstream).unwrap(),
            tools: tools.iter().map(|tool| Glob::parse(tool).unwrap()).collect(),
        };
        AllowList(entries.iter().map(entry).collect())
    }

    #[test]
    fn no_entry_means_nothing() {
        let notes = UpstreamName::parse("notes").unwrap();
        assert!(!AllowList::default().permits(&notes, "add"));
        assert!(!allow(&[("notes", &[])]).permits(&notes, "add"));
        assert!(!allow(&[("tracker", &["*"])]).permits(&notes, "add"));
        assert!(allow(&[("tracker", &["*"]), ("notes", &["ad*"])]).permits(&notes, "add"));
        assert!(!allow(&[("notes", &["ad*"])]).permits(&notes, "delete"));
        let lines = allow(&[("tracker", &["*"]), ("notes", &["ad*"]), ("*", &["add", "delete"])]);
        assert_eq!((lines.line_for(&notes, "add"), lines.line_for(&notes, "delete")), (Some(1), Some(2)), "the first");
        assert_eq!(lines.line_for(&notes, "list"), None);
        let of_notes: Vec<bool> = lines.lines_of(&notes).iter().map(|line| line.has("delete")).collect();
        assert_eq!(of_notes, [false, true]);
        assert!(allow(&[("*", &["*"])]).permits(&notes, "delete"));
        assert!(allow(&[("notes", &["x", "*"])]).permits_items(&notes));
        assert!(!allow(&[("notes", &["ad*"]), ("tracker", &["*"])]).permits_items(&notes));
    }

    #[test]
    fn a_key_ends_at_its_expiry_and_not_before() {
        let key = VirtualKey {
            name: KeyName::parse("ci").unwrap(),
            digest: Digest::of(b"x"),
            earlier: None,
            allow: AllowList::default(),
            scopes: TokenList::default(),
            groups: TokenList::default(),
            owner: None,
            created: Timestamp::from_millis(0),
            expires: Some(Timestamp::from_millis(1_000)),
            standing: Standing::Enabled,
            managed_by: ManagedBy::Store,
            revision: 1,
        };
        assert!(key.is_valid(Timestamp::from_millis(999)));
        assert!(!key.is_valid(Timestamp::from_millis(1_000)));
        let disabled = VirtualKey { standing: Standing::Disabled, ..key };
        assert!(!disabled.is_valid(Timestamp::from_millis(0)));
    }

    #[test]
    fn an_earlier_secret_opens_until_its_end_and_never_longer_than_its_key() {
        let at = Timestamp::from_millis;
        let (before, now) = (Digest::of(b"before"), Digest::of(b"now"));
        let key = VirtualKey {
            name: KeyName::parse("ci").unwrap(),
            digest: now,
            earlier: Some(Earlier { digest: before, until: at(500) }),
            allow: AllowList::default(),
            scopes: TokenList::default(),
            groups: TokenList::default(),
            owner: None,
            created: at(0),
            expires: Some(at(1_000)),
            standing: Standing::Enabled,
            managed_by: ManagedBy::Store,
            revision: 2,
        };
        assert_eq!([499, 500, 999, 1_000].map(|ms| key.is_opened_by(&now, at(ms))), [true, true, true, false]);
        assert_eq!([499, 500].map(|ms| key.is_opened_by(&before, at(ms))), [true, false]);
        assert!(!key.is_opened_by(&Digest::of(b"other"), at(0)));
        assert_eq!([499, 500].map(|ms| key.witness(at(ms))), [before, now]);
        let disabled = VirtualKey { standing: Standing::Disabled, ..key.clone() };
        assert!(!disabled.is_opened_by(&before, at(0)) && !disabled.is_opened_by(&now, at(0)));
        let expiring = VirtualKey { expires: Some(at(400)), ..key };
        assert!(!expiring.is_opened_by(&before, at(400)));
    }
}
