//! Terms of authority, and how answers of policies narrow them. Pure.
//!
//! Invariant: whatever policies answer, and in whatever order, terms never hold more than they began with: no other
//! scope, no other tool, no longer life, no weaker binding to the sender.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;

use super::super::contract::authority::grant;
use super::super::contract::types;
use super::super::decision::Note;
use super::super::tally::strictest;
use super::answer::{Consent, Releasing};
use super::{CredentialRequest, GrantDecision, GrantRequest, RefreshRequest, seconds};
use crate::glob::Glob;
use crate::identity::ToolScope;
use crate::mcp::json::ObjectWriter;

/// Most warnings that a person is shown, of all policies together.
const MAX_WARNINGS: usize = 32;
/// Most notes that are kept, of all policies together.
const MAX_NOTES: usize = 128;

/// The longest lives that the gateway gives, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifetimeCaps {
    pub access: Duration,
    pub refresh: Duration,
}

/// What is granted.
#[derive(Clone, Debug)]
pub struct GrantTerms {
    pub scopes: Vec<String>,
    pub tools: ToolScope,
    pub access_ttl: Duration,
    /// `None`: no refresh token.
    pub refresh_ttl: Option<Duration>,
    pub require_sender_constraint: bool,
    /// Further claims for the access token, by name.
    pub claims: BTreeMap<String, Box<RawValue>>,
    pub notes: Vec<Note>,
}

impl PartialEq for GrantTerms {
    fn eq(&self, other: &Self) -> bool {
        let texts = |terms: &Self| -> Vec<(String, String)> {
            terms.claims.iter().map(|(name, value)| (name.clone(), value.get().to_owned())).collect()
        };
        let Self { scopes, tools, access_ttl, refresh_ttl, require_sender_constraint, claims: _, notes } = self;
        *scopes == other.scopes
            && *tools == other.tools
            && *access_ttl == other.access_ttl
            && *refresh_ttl == other.refresh_ttl
            && *require_sender_constraint == other.require_sender_constraint
            && *notes == other.notes
            && texts(self) == texts(other)
    }
}

/// One list of patterns for policies to read: of several, those that every other list covers. It may say less than is
/// permitted, never more. `None` where all tools are permitted.
fn shown_tools(tools: &ToolScope) -> Option<Vec<String>> {
    let shown = || tools.common().iter().map(|pattern| pattern.as_str().to_owned()).collect();
    (!tools.0.is_empty()).then(shown)
}

/// What one policy's answer takes away.
#[derive(Clone, Debug, Default)]
pub(super) struct Narrowing {
    pub(super) scopes: Vec<String>,
    pub(super) tools: Option<Vec<Glob>>,
    pub(super) access_ttl: Option<Duration>,
    /// `Some(None)`: no refresh token.
    pub(super) refresh_ttl: Option<Option<Duration>>,
    pub(super) require_sender_constraint: bool,
    pub(super) claims: BTreeMap<String, Box<RawValue>>,
    pub(in crate::policy) notes: Vec<Note>,
}

impl GrantTerms {
    /// What was requested, within the gateway's limits.
    pub(super) fn requested(request: &GrantRequest, caps: LifetimeCaps) -> Self {
        Self {
            scopes: request.scopes.clone(),
            tools: ToolScope::default(),
            access_ttl: request.access_ttl.min(caps.access),
            refresh_ttl: request.refresh_ttl.map(|ttl| ttl.min(caps.refresh)),
            require_sender_constraint: false,
            claims: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// What was granted, as far as it is asked for again, within the gateway's limits.
    pub(super) fn renewed(request: &RefreshRequest, caps: LifetimeCaps) -> Self {
        let granted = &request.granted;
        let wanted = |scope: &&String| request.requested.is_empty() || request.requested.contains(*scope);
        Self {
            scopes: granted.scopes.iter().filter(wanted).cloned().collect(),
            tools: granted.tools.clone(),
            access_ttl: granted.access_ttl.min(caps.access),
            refresh_ttl: granted.refresh_ttl.map(|ttl| ttl.min(caps.refresh)),
            require_sender_constraint: granted.require_sender_constraint,
            claims: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Takes away what a policy does not grant. Of two policies that set the same claim, the first counts.
    pub(super) fn narrow(&mut self, by: Narrowing) {
        let Narrowing { scopes, tools, access_ttl, refresh_ttl, require_sender_constraint, claims, notes } = by;
        self.scopes.retain(|scope| scopes.contains(scope));
        if let Some(patterns) = tools {
            self.tools.narrow(patterns);
        }
        self.access_ttl = access_ttl.map_or(self.access_ttl, |ttl| ttl.min(self.access_ttl));
        self.refresh_ttl = match (self.refresh_ttl, refresh_ttl) {
            (Some(ttl), Some(shorter)) => shorter.map(|shorter| shorter.min(ttl)),
            (ttl, _) => ttl,
        };
        self.require_sender_constraint |= require_sender_constraint;
        for (name, value) in claims {
            self.claims.entry(name).or_insert(value);
        }
        let room = MAX_NOTES.saturating_sub(self.notes.len());
        self.notes.extend(notes.into_iter().take(room));
    }

    /// The claims of an earlier grant stay, unless policies have set them anew.
    pub(super) fn with_claims_of(mut self, granted: &Self) -> Self {
        for (name, value) in &granted.claims {
            self.claims.entry(name.clone()).or_insert_with(|| value.clone());
        }
        self
    }

    /// The claims as a JSON object.
    pub fn claims_object(&self) -> Box<RawValue> {
        let mut object = ObjectWriter::default();
        for (name, value) in &self.claims {
            object.member(name, value.get());
        }
        object.finish()
    }

    /// As policies see terms that were granted.
    pub(super) fn shown(&self) -> grant::Terms {
        let note = |note: &Note| types::Note { key: note.key.clone(), value: note.value.clone() };
        grant::Terms {
            scopes: self.scopes.clone(),
            tools: shown_tools(&self.tools),
            access_ttl_s: Some(seconds(self.access_ttl)),
            refresh_ttl_s: self.refresh_ttl.map(seconds),
            require_sender_constraint: self.require_sender_constraint,
            claims: (!self.claims.is_empty()).then(|| self.claims_object().get().to_owned()),
            notes: self.notes.iter().map(note).collect(),
        }
    }
}

/// The person has to be asked, and is told this.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsentWanted {
    pub terms: GrantTerms,
    pub headline: String,
    pub warnings: Vec<String>,
}

/// What policies want a person to be told.
#[derive(Debug, Default)]
pub(super) struct Consenting {
    headline: Option<String>,
    warnings: Vec<String>,
}

impl Consenting {
    /// The first headline counts, and all warnings do.
    pub(super) fn hear(&mut self, consent: Option<Consent>) {
        let Some(Consent { headline, warnings }) = consent else { return };
        self.headline.get_or_insert(headline);
        for warning in warnings {
            if self.warnings.len() < MAX_WARNINGS && !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    pub(super) fn settle(self, terms: GrantTerms) -> GrantDecision {
        match self.headline {
            Some(headline) => GrantDecision::Consent(ConsentWanted { terms, headline, warnings: self.warnings }),
            None => GrantDecision::Granted(terms),
        }
    }
}

/// On what terms a credential is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialTerms {
    pub scopes: Vec<String>,
    /// Oldest acceptable credential.
    pub max_age: Option<Duration>,
}

impl CredentialTerms {
    pub(super) fn requested(request: &CredentialRequest) -> Self {
        Self { scopes: request.scopes.clone(), max_age: None }
    }

    /// Takes away what a policy does not release.
    pub(super) fn narrow(&mut self, by: &Releasing) {
        self.scopes.retain(|scope| by.scopes.contains(scope));
        self.max_age = strictest(self.max_age, by.max_age);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::UpstreamName;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn globs(patterns: &[&str]) -> Vec<Glob> {
        patterns.iter().map(|pattern| Glob::parse(pattern).unwrap()).collect()
    }

    fn scopes() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(prop_oneof!["read", "write", "admin", "all"], 0..5)
    }

    fn patterns() -> impl Strategy<Value = Vec<Glob>> {
        let pattern =
            prop_oneof!["notes/[a-c]{1,2}", Just("notes/*".to_owned()), Just("*/a*".to_owned()), Just("*".to_owned())];
        proptest::collection::vec(pattern.prop_map(|pattern| Glob::parse(&pattern).unwrap()), 0..4)
    }

    fn begun() -> impl Strategy<Value = GrantTerms> {
        (
            scopes(),
            proptest::collection::vec(patterns(), 0..2),
            1u64..1000,
            proptest::option::of(1u64..1000),
            any::<bool>(),
        )
            .prop_map(|(scopes, tools, access, refresh, require_sender_constraint)| GrantTerms {
                scopes,
                tools: ToolScope(tools),
                access_ttl: seconds(access),
                refresh_ttl: refresh.map(seconds),
                require_sender_constraint,
                claims: BTreeMap::new(),
                notes: Vec::new(),
            })
    }

    fn narrowing() -> impl Strategy<Value = Narrowing> {
        let refresh = proptest::option::of(proptest::option::of(1u64..2000));
        (scopes(), proptest::option::of(patterns()), proptest::option::of(1u64..2000), refresh, any::<bool>()).prop_map(
            |(scopes, tools, access, refresh, require_sender_constraint)| Narrowing {
                scopes,
                tools,
                access_ttl: access.map(seconds),
                refresh_ttl: refresh.map(|ttl| ttl.map(seconds)),
                require_sender_constraint,
                ..Narrowing::default()
            },
        )
    }

    /// Tools that patterns of these tests can tell apart.
    fn tools() -> impl Iterator<Item = (UpstreamName, &'static str)> {
        let upstreams = ["notes", "tracker"].map(|name| UpstreamName::parse(name).unwrap());
        let tools = ["a", "b", "c", "aa", "ab", "bc", "x"];
        upstreams.into_iter().flat_map(move |upstream| tools.map(|tool| (upstream.clone(), tool)))
    }

    fn is_within(narrow: &GrantTerms, wide: &GrantTerms) -> bool {
        let lives = |narrow: Option<Duration>, wide: Option<Duration>| match (narrow, wide) {
            (None, _) => true,
            (Some(narrow), Some(wide)) => narrow <= wide,
            (Some(_), None) => false,
        };
        narrow.scopes.iter().all(|scope| wide.scopes.contains(scope))
            && tools()
                .all(|(upstream, tool)| !narrow.tools.permits(&upstream, tool) || wide.tools.permits(&upstream, tool))
            && narrow.access_ttl <= wide.access_ttl
            && lives(narrow.refresh_ttl, wide.refresh_ttl)
            && (narrow.require_sender_constraint || !wide.require_sender_constraint)
    }

    proptest! {
        /// Whatever policies answer, what is granted is within what there was, and within what each of them grants.
        #[test]
        fn terms_never_widen(begun in begun(), answers in proptest::collection::vec(narrowing(), 0..6)) {
            let mut terms = begun.clone();
            for answer in &answers {
                let before = terms.clone();
                terms.narrow(answer.clone());
                prop_assert!(is_within(&terms, &before), "{before:?} {answer:?} {terms:?}");
            }
            prop_assert!(is_within(&terms, &begun));
            for answer in &answers {
                prop_assert!(terms.scopes.iter().all(|scope| answer.scopes.contains(scope)));
                prop_assert!(answer.access_ttl.is_none_or(|ttl| terms.access_ttl <= ttl));
                prop_assert!(terms.require_sender_constraint || !answer.require_sender_constraint);
                if let Some(patterns) = &answer.tools {
                    let alone = ToolScope(vec![patterns.clone()]);
                    for (upstream, tool) in tools() {
                        prop_assert!(!terms.tools.permits(&upstream, tool) || alone.permits(&upstream, tool));
                    }
                }
            }
        }

        /// The order of policies does not matter for what is granted.
        #[test]
        fn the_order_of_policies_does_not_matter(begun in begun(), one in narrowing(), other in narrowing()) {
            let (mut forth, mut back) = (begun.clone(), begun);
            forth.narrow(one.clone());
            forth.narrow(other.clone());
            back.narrow(other);
            back.narrow(one);
            prop_assert!(is_within(&forth, &back) && is_within(&back, &forth));
        }

        /// What policies are shown of tools is never more than is permitted.
        #[test]
        fn what_is_shown_of_tools_is_permitted(lists in proptest::collection::vec(patterns(), 1..4)) {
            let scope = ToolScope(lists);
            let shown = shown_tools(&scope).unwrap();
            for (upstream, tool) in tools() {
                let name = format!("{upstream}/{tool}");
                let is_shown = shown.iter().any(|pattern| Glob::parse(pattern).unwrap().matches(&name));
                prop_assert!(!is_shown || scope.permits(&upstream, tool), "{name} {shown:?} {scope:?}");
            }
        }

        /// A credential's terms are within what was requested, and within what each policy releases.
        #[test]
        fn credentials_are_never_released_on_wider_terms(
            requested in scopes(),
            answers in proptest::collection::vec((scopes(), proptest::option::of(1u64..1000)), 0..5),
        ) {
            let mut terms = CredentialTerms { scopes: requested.clone(), max_age: None };
            for (scopes, max_age) in &answers {
                terms.narrow(&Releasing { scopes: scopes.clone(), max_age: max_age.map(seconds) });
            }
            prop_assert!(terms.scopes.iter().all(|scope| requested.contains(scope)));
            for (scopes, max_age) in &answers {
                prop_assert!(terms.scopes.iter().all(|scope| scopes.contains(scope)));
                prop_assert!(max_age.is_none_or(|age| terms.max_age.is_some_and(|set| set <= seconds(age))));
            }
        }
    }

    #[test]
    fn one_list_of_patterns_stands_for_several() {
        for (lists, shown) in [
            (vec![], None),
            (vec![globs(&["notes/*"])], Some(vec!["notes/*"])),
            (vec![globs(&["notes/*", "tracker/a"]), globs(&["notes/add"])], Some(vec!["notes/add"])),
            (vec![globs(&["*"]), globs(&["notes/*"]), globs(&["notes/a*", "x/y"])], Some(vec!["notes/a*"])),
            (vec![globs(&["a/*"]), globs(&["b/*"])], Some(vec![])),
        ] {
            let shown = shown.map(|shown| shown.into_iter().map(ToOwned::to_owned).collect::<Vec<String>>());
            assert_eq!(shown_tools(&ToolScope(lists.clone())), shown, "{lists:?}");
        }
    }
}
