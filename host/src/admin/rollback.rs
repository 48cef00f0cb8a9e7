//! Generations of policies: which sets were in force last, and how an earlier one comes into force again.
//!
//! The last [`KEPT`] sets that differ from each other stay compiled and configured, so that going back takes no longer than
//! a swap and cannot fail on what has happened to a file meanwhile. What is kept is code; slots for instances go to
//! whoever runs. The configuration file and the bindings of the store are left alone. What the file says comes into force
//! again with the next reload, which a change of a watched file is too, or start; what the store says with these, and with the
//! next change of any binding there. Whoever wants a rollback to last changes what is written.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::changing::Turn;
use super::{Applied, Control};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::policy::PolicySet;
use crate::store::changes::{PolicyAct, Revision};
use crate::store::{audit as trail, policy_bindings};

/// Sets that are kept, the running one among them.
pub const KEPT: usize = 3;

/// One set of policies and how it came into force.
#[derive(Debug)]
pub struct Generation {
    pub number: u64,
    pub at: Timestamp,
    pub actor: Actor,
    pub cause: Cause,
    pub policies: Arc<PolicySet>,
}

/// Why a set came into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Start,
    Reload,
    /// A binding of the store was declared, changed or removed.
    Binding,
    /// It is the set of an earlier generation.
    Rollback {
        to: u64,
    },
}

impl Cause {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Reload => "reload",
            Self::Binding => "binding",
            Self::Rollback { .. } => "rollback",
        }
    }
}

/// Why there is no way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RollbackError {
    /// No other set was in force since the start, or none that is kept.
    NothingBefore,
    /// The generation that is wanted is not kept.
    NotKept { wanted: u64, kept: Vec<u64> },
    /// The generation that is wanted is the running one.
    Running { generation: u64 },
    /// No generation was named, and what would have been gone back from never came into force: its reload was refused.
    StillRunning { generation: u64, before: Vec<u64> },
    /// The gateway is stopping.
    Interrupted,
}

impl fmt::Display for RollbackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingBefore => f.write_str("no other policies were in force since the gateway started"),
            Self::NotKept { wanted, kept } => write!(f, "generation {wanted} is not kept; there are {}", listed(kept)),
            Self::StillRunning { generation, before } => write!(
                f,
                "the last reload was refused, so that generation {generation} still runs: there is nothing to go back from. \
                 Whoever wants to go further back names a generation (`--to`): {}",
                listed(before)
            ),
            Self::Running { generation } => write!(f, "generation {generation} is the running one"),
            Self::Interrupted => f.write_str("the gateway is stopping"),
        }
    }
}

fn listed(generations: &[u64]) -> String {
    generations.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl std::error::Error for RollbackError {}

/// The generations after `new` has come into force, oldest first.
///
/// One that has the very same policies as the one before it takes its place, so that reloads that change nothing do
/// not use up the ways back.
pub(super) fn after(kept: &[Arc<Generation>], new: Generation) -> Vec<Arc<Generation>> {
    let mut all = kept.to_vec();
    if all.last().is_some_and(|last| last.policies.is_same_as(&new.policies)) {
        all.pop();
    }
    all.push(Arc::new(new));
    all.drain(..all.len().saturating_sub(KEPT));
    all
}

/// What to go back to: the generation that is wanted, or the newest but the running one.
fn target(kept: &[Arc<Generation>], wanted: Option<u64>) -> Result<Arc<Generation>, RollbackError> {
    let (running, before) = kept.split_last().ok_or(RollbackError::NothingBefore)?;
    let Some(wanted) = wanted else {
        return before.last().cloned().ok_or(RollbackError::NothingBefore);
    };
    if running.number == wanted {
        return Err(RollbackError::Running { generation: wanted });
    }
    let found = before.iter().find(|generation| generation.number == wanted).cloned();
    found.ok_or_else(|| {
        let kept = before.iter().map(|generation| generation.number).collect();
        RollbackError::NotKept { wanted, kept }
    })
}

impl Control {
    /// The sets that are kept, oldest first; the last is the running one.
    pub fn generations(&self) -> Arc<Vec<Arc<Generation>>> {
        self.generations.load_full()
    }

    /// Puts the policies of an earlier generation into force again, as a new generation: of `to`, or of the newest that
    /// is kept besides the running one, unless a reload was refused since that came into force. Its number.
    ///
    /// # Errors
    /// [`RollbackError`]; what runs stays then.
    pub async fn roll_back(self: &Arc<Self>, to: Option<u64>, actor: Actor) -> Result<u64, RollbackError> {
        let control = self.clone();
        let roll_back = async move |mut turn: Turn| control.roll_back_now(to, actor, &mut turn).await;
        self.to_its_end(roll_back).await.unwrap_or(Err(RollbackError::Interrupted))
    }

    async fn roll_back_now(&self, to: Option<u64>, actor: Actor, applied: &mut Applied) -> Result<u64, RollbackError> {
        let kept = self.generations();
        let target = target(&kept, to)?;
        if to.is_none() {
            self.refuse_after_refusal(&kept)?;
        }
        let number = self.put_into_force_again(&target, actor);
        let event = AuditEvent::PoliciesRolledBack { generation: number, to: target.number };
        let act = PolicyAct::RollBack { set: target.policies.digest().to_hex() };
        if let Some(at) = self.record_policies(actor, event, act).await {
            applied.policies = at;
            self.go_back_from_what_was_bound(at).await;
        }
        Ok(number)
    }

    /// Whoever sees that a reload was refused may want the good policies back, which run.
    fn refuse_after_refusal(&self, kept: &[Arc<Generation>]) -> Result<(), RollbackError> {
        let last = self.last_reload();
        match kept.split_last() {
            Some((running, before)) if last.error.is_some() && last.generation == running.number => {
                let before = before.iter().map(|generation| generation.number).collect();
                Err(RollbackError::StillRunning { generation: running.number, before })
            }
            _ => Ok(()),
        }
    }

    /// What was bound before a rollback of this revision is gone back from as well, though it was not followed here yet.
    /// Whoever calls this has the turn.
    async fn go_back_from_what_was_bound(&self, at: Revision) {
        match policy_bindings::all(&self.store).await {
            Ok(bound) if bound.at < at => self.bound.store(Arc::new(bound)),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "what was bound before the rollback may come into force again"),
        }
    }

    /// Goes back to the policies with this digest, to which an operator went back on another gateway.
    pub(super) async fn roll_back_as_asked(&self, at: Revision, set: &str) {
        let mut applied = self.changing.lock().await;
        if at <= applied.policies {
            return;
        }
        applied.policies = at;
        let kept = self.generations();
        let is_wanted = |generation: &&Arc<Generation>| generation.policies.digest().to_hex() == set;
        match kept.iter().rev().find(is_wanted) {
            Some(target) if kept.last().is_some_and(|running| running.number == target.number) => {
                tracing::info!(generation = target.number, "these are the policies that were gone back to elsewhere");
                self.go_back_from_what_was_bound(at).await;
            }
            Some(target) => {
                let number = self.put_into_force_again(target, Actor::System);
                let event = AuditEvent::PoliciesRolledBack { generation: number, to: target.number };
                if let Err(error) = trail::record(&self.store, Actor::System, event).await {
                    tracing::error!(%error, "the audit trail lacks a rollback");
                }
                self.go_back_from_what_was_bound(at).await;
            }
            None => {
                self.tell_not_followed("the policies that it went back to are not kept here".to_owned()).await;
            }
        }
    }

    /// The number of the new generation that has the policies of an earlier one.
    fn put_into_force_again(&self, target: &Generation, actor: Actor) -> u64 {
        let number = self.generation.load(Ordering::Relaxed) + 1;
        // Within the lock, so that no other upstreams come into force meanwhile.
        let mut running = self.running();
        let policies = Arc::new(target.policies.again(&running.settings(), number));
        self.publish(|new| new.policies = policies.clone());
        drop(running);
        self.came_into_force(policies, actor, Cause::Rollback { to: target.number });
        tracing::warn!(
            generation = number,
            of = target.number,
            "policies rolled back; what is written stays: the configuration file counts again from the next reload or start on, \
             bindings of the store from the next change of one of them, too"
        );
        number
    }

    /// Remembers a set that was just published.
    pub(super) fn came_into_force(&self, policies: Arc<PolicySet>, actor: Actor, cause: Cause) {
        let number = policies.generation();
        self.generation.store(number, Ordering::Relaxed);
        let new = Generation { number, at: self.env.now(), actor, cause, policies };
        self.generations.store(Arc::new(after(&self.generations.load(), new)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::config::{Binding, ModuleSource, PolicySettings};
    use crate::ids::BindingName;
    use crate::policy::Engine;

    /// A set of its own kind for each name, with the module of an earlier one.
    fn generation(kept: &[Arc<Generation>], number: u64, binding: &str) -> Generation {
        static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::start(1).unwrap());
        let name = BindingName::parse(binding).unwrap();
        let bindings = vec![Binding::new(name, ModuleSource::Builtin("template".to_owned()))];
        let settings = PolicySettings { bindings, ..PolicySettings::default() };
        let previous = kept.first().map(|generation| &*generation.policies);
        let set = PolicySet::load(&settings, &[], &ENGINE, &crate::builtin::module, previous, number).unwrap();
        let at = Timestamp::from_millis(number);
        Generation { number, at, actor: Actor::System, cause: Cause::Reload, policies: Arc::new(set) }
    }

    fn numbers(kept: &[Arc<Generation>]) -> Vec<u64> {
        kept.iter().map(|generation| generation.number).collect()
    }

    #[test]
    fn the_last_sets_that_differ_are_kept() {
        let mut kept = Vec::new();
        for (number, binding, expected) in [
            (1, "a", &[1][..]),
            (2, "b", &[1, 2]),
            (3, "b", &[1, 3]),
            (4, "b", &[1, 4]),
            (5, "c", &[1, 4, 5]),
            (6, "a", &[4, 5, 6]),
            (7, "b", &[5, 6, 7]),
        ] {
            kept = after(&kept, generation(&kept, number, binding));
            assert_eq!(numbers(&kept), expected);
        }
    }

    #[test]
    fn the_way_back_leads_to_what_was_before_or_to_what_is_named() {
        assert_eq!(target(&[], None).unwrap_err(), RollbackError::NothingBefore);
        let kept = after(&[], generation(&[], 1, "a"));
        assert_eq!(target(&kept, None).unwrap_err(), RollbackError::NothingBefore);
        let kept = after(&kept, generation(&kept, 2, "b"));
        let kept = after(&kept, generation(&kept, 3, "c"));
        assert_eq!(target(&kept, None).unwrap().number, 2);
        assert_eq!(target(&kept, Some(1)).unwrap().number, 1);
        assert_eq!(target(&kept, Some(3)).unwrap_err(), RollbackError::Running { generation: 3 });
        let error = target(&kept, Some(9)).unwrap_err();
        assert_eq!(error.to_string(), "generation 9 is not kept; there are 1, 2");
    }
}
