//! How the answers of a chain of policies are merged. Pure.
//!
//! Deny before throttle before approval before step-up before consent before allow before abstain, in whatever order
//! they come; a failure is a denial, and where there is no room for a policy to run, that is a throttle.

use std::time::Duration;

use serde_json::value::RawValue;

use super::decision::{Denial, Halt, Hook, Refusal, StepUp, Throttle, Verdict};
use crate::config::WhenAllAbstain;
use crate::ids::BindingName;

/// What a chain of policies has come to so far, but for the terms of those that allow.
#[derive(Debug, Default)]
pub(super) struct Tally {
    asked: bool,
    allowed: bool,
    halt: Option<Refusal>,
}

impl Tally {
    /// Counts what was heard of a policy, and gives the terms of one that allows. A denial is returned at once: nothing
    /// that follows can change it.
    pub(super) fn hear<T>(
        &mut self,
        binding: &BindingName,
        heard: Result<Option<Verdict<T>>, Refusal>,
    ) -> Result<Option<T>, Refusal> {
        match heard {
            Ok(None | Some(Verdict::Abstain)) => self.abstain(),
            Ok(Some(Verdict::Allow(terms))) => {
                self.allow();
                return Ok(Some(terms));
            }
            Ok(Some(Verdict::Halt(halt))) => self.refuse(halt.refusal(binding))?,
            Err(refusal) => self.refuse(refusal)?,
        }
        Ok(None)
    }

    /// Counts a policy without opinion.
    fn abstain(&mut self) {
        self.asked = true;
    }

    /// Counts a policy that allows.
    fn allow(&mut self) {
        self.asked = true;
        self.allowed = true;
    }

    fn refuse(&mut self, new: Refusal) -> Result<(), Refusal> {
        self.asked = true;
        if weight(&new) == DENIAL {
            return Err(new);
        }
        self.halt = Some(match self.halt.take() {
            None => new,
            Some(old) if weight(&old) > weight(&new) => old,
            Some(old) if weight(&old) < weight(&new) => new,
            Some(old) => both(old, new),
        });
        Ok(())
    }

    /// Whether it passes, or why it does not.
    pub(super) fn finish(self, hook: Hook, when_all_abstain: WhenAllAbstain) -> Result<(), Refusal> {
        if let Some(refusal) = self.halt {
            return Err(refusal);
        }
        if self.asked && !self.allowed && when_all_abstain == WhenAllAbstain::Deny {
            return Err(Refusal::NoPolicyAllowed { hook });
        }
        Ok(())
    }
}

impl Halt {
    /// What comes of it where nothing weighs more.
    fn refusal(self, binding: &BindingName) -> Refusal {
        let binding = binding.clone();
        match self {
            Self::StepUp(StepUp { scopes, acr_values, max_age, reason }) => {
                Refusal::StepUp { binding, scopes, acr_values, max_age, reason: reason.into() }
            }
            Self::Approve(approval) => Refusal::ApprovalNeeded { binding, approval },
            Self::Throttle(Throttle { retry_after_ms, reason }) => {
                Refusal::Throttled { binding, retry_after_ms, reason: reason.into() }
            }
            Self::Deny(denial) => denial.refusal(&binding),
        }
    }
}

impl Denial {
    pub(super) fn refusal(self, binding: &BindingName) -> Refusal {
        let Self { reason, as_tool_error, rpc_code, rpc_data } = self;
        Refusal::Denied { binding: binding.clone(), reason: reason.into(), as_tool_error, rpc_code, rpc_data }
    }
}

impl Refusal {
    /// Puts into a wanted approval what would be sent.
    pub(super) fn with_arguments(mut self, arguments: Option<&RawValue>) -> Self {
        if let Self::ApprovalNeeded { approval, .. } = &mut self {
            approval.arguments = arguments.map(ToOwned::to_owned);
        }
        self
    }
}

/// The weight of a denial: nothing weighs more.
const DENIAL: u8 = 4;

/// The merge order.
const fn weight(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::StepUp { .. } => 1,
        Refusal::ApprovalNeeded { .. } => 2,
        Refusal::Throttled { .. } => 3,
        Refusal::Hidden | Refusal::Denied { .. } | Refusal::PolicyFailed { .. } | Refusal::NoPolicyAllowed { .. } => {
            DENIAL
        }
    }
}

/// One refusal for two of the same weight: one prompt for all authority that is wanted, the longer wait, the first of
/// two approvals (the other is asked for once it is given).
fn both(old: Refusal, new: Refusal) -> Refusal {
    match (old, new) {
        (
            Refusal::StepUp { binding, mut scopes, mut acr_values, max_age, reason },
            Refusal::StepUp { scopes: more_scopes, acr_values: more_acr, max_age: other_age, .. },
        ) => {
            add_missing(&mut scopes, more_scopes);
            add_missing(&mut acr_values, more_acr);
            Refusal::StepUp { binding, scopes, acr_values, max_age: strictest(max_age, other_age), reason }
        }
        (Refusal::Throttled { retry_after_ms: old_wait, .. }, new @ Refusal::Throttled { retry_after_ms, .. })
            if retry_after_ms > old_wait =>
        {
            new
        }
        (old, _) => old,
    }
}

fn add_missing(into: &mut Vec<String>, from: Vec<String>) {
    for item in from {
        if !into.contains(&item) {
            into.push(item);
        }
    }
}

/// The shorter of two times that may be unset.
pub(super) fn strictest(first: Option<Duration>, second: Option<Duration>) -> Option<Duration> {
    match (first, second) {
        (Some(first), Some(second)) => Some(first.min(second)),
        (first, second) => first.or(second),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::decision::{ApprovalWanted, Approver, Failure, Reason, Remember};
    use super::*;

    /// An answer in the making, since answers cannot be copied.
    #[derive(Clone, Debug)]
    enum Said {
        Abstain,
        Allow,
        StepUp(&'static str),
        Approve,
        Throttle(u64),
        Deny,
    }

    fn reason(code: &str) -> Reason {
        Reason { code: code.to_owned(), message: "because".to_owned(), rule: None, detail: None }
    }

    impl Said {
        fn halt(&self) -> Option<Halt> {
            Some(match self {
                Self::Abstain | Self::Allow => return None,
                Self::StepUp(scope) => Halt::StepUp(StepUp {
                    scopes: vec![(*scope).to_owned()],
                    acr_values: Vec::new(),
                    max_age: None,
                    reason: reason("step-up"),
                }),
                Self::Approve => Halt::Approve(Box::new(ApprovalWanted {
                    title: String::new(),
                    summary: String::new(),
                    by: Approver::Operator,
                    ttl: Duration::from_secs(60),
                    remember: Remember::Once,
                    reason: reason("approve"),
                    arguments: None,
                })),
                Self::Throttle(retry_after_ms) => {
                    Halt::Throttle(Throttle { retry_after_ms: *retry_after_ms, reason: reason("throttle") })
                }
                Self::Deny => {
                    Halt::Deny(Denial { reason: reason("deny"), as_tool_error: true, rpc_code: None, rpc_data: None })
                }
            })
        }

        /// Its place in the merge order.
        fn rank(&self) -> usize {
            match self {
                Self::Abstain => 0,
                Self::Allow => 1,
                Self::StepUp(_) => 2,
                Self::Approve => 3,
                Self::Throttle(_) => 4,
                Self::Deny => 5,
            }
        }
    }

    /// The words for what comes of the strongest answer, by its place in the merge order.
    const WORDS: [&str; 6] = ["no-policy-allowed", "allow", "step-up", "approval-needed", "throttled", "denied"];

    /// What the chain comes to.
    fn merge(said: &[Said], when_all_abstain: WhenAllAbstain) -> Result<(), Refusal> {
        let binding = BindingName::parse("one").unwrap();
        let mut tally = Tally::default();
        for said in said {
            let verdict = match said.halt() {
                Some(halt) => Verdict::Halt(halt),
                None if matches!(said, Said::Allow) => Verdict::Allow(()),
                None => Verdict::Abstain,
            };
            tally.hear(&binding, Ok(Some(verdict)))?;
        }
        tally.finish(Hook::ToolCall, when_all_abstain)
    }

    fn word(merged: &Result<(), Refusal>) -> &'static str {
        match merged {
            Ok(()) => "allow",
            Err(refusal) => refusal.check(),
        }
    }

    fn said() -> impl Strategy<Value = Said> {
        prop_oneof![
            Just(Said::Abstain),
            Just(Said::Allow),
            prop_oneof![Just("read"), Just("write"), Just("admin")].prop_map(Said::StepUp),
            Just(Said::Approve),
            (0u64..100).prop_map(Said::Throttle),
            Just(Said::Deny),
        ]
    }

    fn sorted(mut scopes: Vec<String>) -> Vec<String> {
        scopes.sort();
        scopes
    }

    proptest! {
        /// The verdicts are a lattice: a chain comes to its strongest verdict, and equals are merged to satisfy all of
        /// them, however the chain is ordered.
        #[test]
        fn the_strongest_answer_wins_in_whatever_order_they_come(
            (said, shuffled) in proptest::collection::vec(said(), 1..8)
                .prop_flat_map(|said| (Just(said.clone()), Just(said).prop_shuffle()))
        ) {
            let strongest = said.iter().map(Said::rank).max().unwrap();
            let (one, other) = (merge(&said, WhenAllAbstain::Deny), merge(&shuffled, WhenAllAbstain::Deny));
            prop_assert_eq!((word(&one), word(&other)), (WORDS[strongest], WORDS[strongest]));
            match (one, other) {
                (Err(Refusal::StepUp { scopes: one, .. }), Err(Refusal::StepUp { scopes: other, .. })) => {
                    let mut wanted: Vec<String> = said.iter().filter_map(|said| match said {
                        Said::StepUp(scope) => Some((*scope).to_owned()),
                        _ => None,
                    }).collect();
                    wanted.sort();
                    wanted.dedup();
                    prop_assert_eq!((sorted(one), sorted(other)), (wanted.clone(), wanted));
                }
                (
                    Err(Refusal::Throttled { retry_after_ms: one, .. }),
                    Err(Refusal::Throttled { retry_after_ms: other, .. }),
                ) => {
                    let waits = said.iter().filter_map(|said| match said {
                        Said::Throttle(wait) => Some(*wait),
                        _ => None,
                    });
                    let longest = waits.max().unwrap();
                    prop_assert_eq!((one, other), (longest, longest));
                }
                _ => {}
            }
        }

        /// One more policy can only make it stricter, but for the one that allows where nobody had an opinion.
        #[test]
        fn one_more_policy_never_weakens_a_refusal(
            said in proptest::collection::vec(said(), 1..6),
            more in said(),
        ) {
            let rank = |merged: &Result<(), Refusal>| WORDS.iter().position(|known| *known == word(merged)).unwrap();
            let before = rank(&merge(&said, WhenAllAbstain::Deny));
            let mut longer = said;
            longer.push(more);
            prop_assert!(rank(&merge(&longer, WhenAllAbstain::Deny)) >= before);
        }
    }

    #[test]
    fn abstaining_leaves_it_to_the_operator() {
        let abstain = [Said::Abstain, Said::Abstain];
        assert_eq!(word(&merge(&abstain, WhenAllAbstain::Deny)), "no-policy-allowed");
        assert_eq!(word(&merge(&abstain, WhenAllAbstain::Allow)), "allow");
        assert_eq!(word(&merge(&[], WhenAllAbstain::Deny)), "allow", "where no policy is bound, none is missing");
    }

    #[test]
    fn a_failure_denies_and_lack_of_room_throttles() {
        let binding = BindingName::parse("one").unwrap();
        let throttled =
            || Refusal::Throttled { binding: binding.clone(), retry_after_ms: 1, reason: reason("busy").into() };
        let mut tally = Tally::default();
        assert!(tally.hear::<()>(&binding, Err(throttled())).is_ok(), "a denial that follows is heard");
        let denied = tally.hear::<()>(&binding, Ok(Some(Verdict::Halt(Said::Deny.halt().unwrap())))).unwrap_err();
        assert_eq!(denied.check(), "denied");
        assert_eq!(word(&tally.finish(Hook::ToolCall, WhenAllAbstain::Allow)), "throttled");
        let failed = Refusal::PolicyFailed { binding: binding.clone(), failure: Failure::StackOverflow };
        assert_eq!(Tally::default().hear::<()>(&binding, Err(failed)).unwrap_err().check(), "policy-failed");
    }

    #[test]
    fn a_wanted_approval_says_what_would_be_sent() {
        let arguments = crate::mcp::json::raw(r#"{"a":1}"#.to_owned());
        let refusal = merge(&[Said::Approve], WhenAllAbstain::Deny).unwrap_err().with_arguments(Some(&arguments));
        let Refusal::ApprovalNeeded { approval, .. } = refusal else { panic!("{refusal}") };
        assert_eq!(approval.arguments.unwrap().get(), r#"{"a":1}"#);
    }
}
