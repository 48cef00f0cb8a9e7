//! The parts of an answer that are the same in any language: bounded texts, and authority that is only ever narrowed.

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::{Glob, credential, grant, refresh};

/// What the host takes from one answer, as the contract and the gateway have it.
pub mod limits {
    /// Of a reason's code, in bytes.
    pub const CODE: usize = 64;
    /// Of a reason's message, in bytes.
    pub const MESSAGE: usize = 2 << 10;
    /// Of a rule's name and of a throttle's bucket, in bytes.
    pub const NAME: usize = 256;
    /// Of titles and headlines, in bytes.
    pub const TITLE: usize = 256;
    /// Of the summary of an approval, in bytes.
    pub const SUMMARY: usize = 4 << 10;
    /// Of a tool's description, in bytes.
    pub const DESCRIPTION: usize = 8 << 10;
    /// Notes of one answer.
    pub const NOTES: usize = 32;
    /// Of a note's key, in bytes.
    pub const NOTE_KEY: usize = 64;
    /// Of a note's value, in bytes.
    pub const NOTE_VALUE: usize = 1 << 10;
    /// Spans or edits of one answer.
    pub const CHANGES: usize = 4096;
}

/// The text cut to so many bytes, at a character.
pub fn bounded(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
    text
}

/// Whether the contract takes this as a reason's code.
pub fn is_code(code: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
    (1..=limits::CODE).contains(&code.len()) && code.bytes().all(plain)
}

/// Less than was requested. What it does not name stays as requested, and nothing in it can widen a request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", default, deny_unknown_fields)]
pub struct Narrowing {
    /// Patterns: of the requested scopes, those that one of them fits are granted.
    pub scopes: Option<Vec<Glob>>,
    /// Patterns over `upstream/tool`.
    pub tools: Option<Vec<Glob>>,
    /// Longest life of access tokens, in seconds.
    pub access_ttl_s: Option<u32>,
    /// Longest life of refresh tokens, in seconds.
    pub refresh_ttl_s: Option<u32>,
    /// Tokens must be bound to a key of the client.
    pub require_sender_constraint: bool,
}

impl Narrowing {
    /// The terms of a grant.
    pub fn grant(&self, request: &grant::Request) -> grant::Terms {
        let mut terms = self.narrow(grant::Terms::requested(request));
        terms.access_ttl_s = self.access_ttl_s.map(|ttl| ttl.min(request.access_ttl_s));
        // Where no refresh token would be issued there is none to shorten.
        terms.refresh_ttl_s = self.refresh_ttl_s.zip(request.refresh_ttl_s).map(|(ttl, requested)| ttl.min(requested));
        terms
    }

    /// The terms of a refreshed token.
    pub fn refresh(&self, request: &refresh::Request) -> grant::Terms {
        let mut terms = self.narrow(grant::Terms::granted(request));
        let shorter = |granted: Option<u32>, ttl: Option<u32>| granted.into_iter().chain(ttl).min();
        terms.access_ttl_s = shorter(terms.access_ttl_s, self.access_ttl_s);
        terms.refresh_ttl_s = shorter(terms.refresh_ttl_s, self.refresh_ttl_s);
        terms
    }

    /// The terms on which a credential is released; it has no other terms than scopes.
    pub fn credential(&self, request: &credential::Request) -> credential::Terms {
        let terms = credential::Terms::requested(request);
        match &self.scopes {
            Some(patterns) => terms.only_scopes(|scope| any(patterns, scope)),
            None => terms,
        }
    }

    fn narrow(&self, terms: grant::Terms) -> grant::Terms {
        let mut terms = match &self.scopes {
            Some(patterns) => terms.only_scopes(|scope| any(patterns, scope)),
            None => terms,
        };
        if let Some(tools) = &self.tools {
            let granted = terms.tools.take();
            let patterns = tools.iter().map(Glob::as_str);
            // A pattern that fits another pattern's text fits all that the other one fits.
            let within = |pattern: &&str| {
                let covers = |granted: &String| Glob::parse(granted).is_some_and(|granted| granted.matches(pattern));
                granted.as_ref().is_none_or(|granted| granted.iter().any(covers))
            };
            terms.tools = Some(patterns.filter(within).map(str::to_owned).collect());
        }
        terms.require_sender_constraint |= self.require_sender_constraint;
        terms
    }
}

fn any(patterns: &[Glob], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::{Value, from_value, json, to_value};

    use super::*;

    fn narrowing(value: Value) -> Narrowing {
        from_value(value).unwrap()
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(bounded("grüße".to_owned(), 3), "gr");
        assert_eq!(bounded("grüße".to_owned(), 4), "grü");
        assert_eq!(bounded("grüße".to_owned(), 7), "grüße");
    }

    #[test]
    fn a_code_is_what_the_contract_says() {
        assert!(is_code("cel.no-deletes_1"));
        for code in ["", "No", "a b", "ü", &"a".repeat(65)] {
            assert!(!is_code(code), "{code:?}");
        }
    }

    #[test]
    fn a_grant_is_never_more_than_was_requested() {
        let request: grant::Request =
            from_value(json!({"scopes": ["notes:read", "notes:write", "admin"], "access_ttl_s": 600})).unwrap();
        let terms = narrowing(json!({
            "scopes": ["notes:*", "more"], "tools": ["notes/*"], "access_ttl_s": 3600, "refresh_ttl_s": 60,
            "require_sender_constraint": true,
        }))
        .grant(&request);
        assert_eq!(
            to_value(&terms).unwrap(),
            json!({
                "scopes": ["notes:read", "notes:write"], "tools": ["notes/*"], "access_ttl_s": 600, "refresh_ttl_s": null,
                "require_sender_constraint": true, "claims": null, "notes": [],
            })
        );
        assert_eq!(Narrowing::default().grant(&request).scopes, request.scopes);
    }

    #[test]
    fn a_refresh_is_never_more_than_was_granted() {
        let request: refresh::Request = from_value(json!({
            "granted": {"scopes": ["read", "write"], "tools": ["notes/*"], "access_ttl_s": 300, "require_sender_constraint": true},
            "requested": ["write", "admin"],
        }))
        .unwrap();
        let terms =
            narrowing(json!({"tools": ["notes/read_*", "mail/*", "*"], "access_ttl_s": 900, "refresh_ttl_s": 60}))
                .refresh(&request);
        assert_eq!((terms.scopes, terms.tools), (vec!["write".to_owned()], Some(vec!["notes/read_*".to_owned()])));
        assert_eq!((terms.access_ttl_s, terms.refresh_ttl_s), (Some(300), Some(60)));
        assert!(terms.require_sender_constraint);
    }

    #[test]
    fn a_credential_is_released_for_no_more_scopes_than_were_requested() {
        let request: credential::Request = from_value(json!({"scopes": ["mail.read", "mail.send"]})).unwrap();
        let terms = narrowing(json!({"scopes": ["*.read", "files.read"]})).credential(&request);
        assert_eq!(terms.scopes, ["mail.read"]);
    }
}
