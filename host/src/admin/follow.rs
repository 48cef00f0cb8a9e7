//! What has changed in the store, taken over: by other gateways that share it, and by verbs of this one that others
//! than [`Control`] are behind.
//!
//! Virtual keys, upstreams of the store, people and pins are read again, lists of people's own are looked at again ([`super::lists`]), and data keys that may have been destroyed are forgotten. Then the snapshot says
//! which revision of the store it is of. Whoever looks after lists and watches is told that people have changed. What an operator did about policies somewhere else is done here as well: on
//! a reload every gateway reads the files of its own, on a rollback it goes back to the same policies, if it keeps them, and
//! bindings of the store that have changed come into force.
//! That takes its time and waits for other changes, so that it has a task of its own. Where it cannot be done, what runs
//! stays, and that is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::Control;
use super::upstreams::declared::Which;
use crate::audit::{Actor, AuditEvent};
use crate::ids::{Owner, UpstreamName, UserId};
use crate::pipeline::Snapshot;
use crate::store::changes::{self, Change, News, PolicyAct, Revision};
use crate::store::follower::Subscriber;
use crate::store::{ReadTx, StoreError, audit as trail, policy_bindings, users};

/// Until bindings are followed again that could not be.
const RETRY: Duration = Duration::from_secs(30);

/// What is to be done here about policies, since an operator did it.
pub(super) type Asked = watch::Sender<ToFollow>;

/// Only the last of each counts; what was done here already is among it.
#[derive(Clone, Debug, Default)]
pub(super) struct ToFollow {
    /// What an operator did last somewhere else.
    act: Option<(Revision, PolicyAct)>,
    /// When bindings of the store changed last.
    bindings: Revision,
}

impl Subscriber for Control {
    fn take<'a>(&'a self, news: &'a News) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.take_over(news))
    }
}

impl Control {
    async fn take_over(&self, news: &News) -> Result<(), StoreError> {
        match news {
            News::Changes { changes, revision } => {
                for change in changes {
                    self.forget_lists(change);
                    match change {
                        Change::Vault => self.vault.forget(),
                        Change::DataKey { owner } => match Owner::parse(owner) {
                            Some(owner) => self.vault.forget_one(&owner),
                            None => self.vault.forget(),
                        },
                        _ => {}
                    }
                }
                if changes.contains(&Change::Keys) && self.keys_are_of() < *revision {
                    self.publish_keys().await?;
                }
                if changes.contains(&Change::Upstreams) && self.upstreams_are_of() < *revision {
                    self.publish_upstreams(Which::Changed).await?;
                }
                let of_pins = |change: &Change| match change {
                    Change::Pins { upstream } => UpstreamName::parse(upstream).ok(),
                    _ => None,
                };
                let upstreams: BTreeSet<UpstreamName> = changes.iter().filter_map(of_pins).collect();
                self.read_pins_again(&upstreams, *revision).await?;
                if changes.iter().any(|change| matches!(change, Change::Policies { .. } | Change::PolicyBindings)) {
                    self.note_asked().await?;
                }
                let of_user = |change: &Change| match change {
                    Change::User { id } => UserId::parse(id),
                    _ => None,
                };
                self.read_people_again(changes.iter().filter_map(of_user).collect()).await?;
                self.reach(*revision);
                // With what they may use now.
                changes.iter().for_each(|change| self.tell_of_connections(change));
            }
            News::Everything { revision } => {
                tracing::warn!("too many changes in the store were missed: everything is read again");
                self.vault.forget();
                self.forget_all_lists();
                self.publish_keys().await?;
                self.publish_upstreams(Which::Changed).await?;
                self.read_pins_again(&self.pinned.upstreams(), *revision).await?;
                self.note_asked().await?;
                let people = users::people(&self.store).await?;
                self.publish(|new| new.people = people.clone());
                // Not what an earlier life of the store had reached, if it was restored.
                self.snapshot.rcu(|old| Snapshot { revision: *revision, ..old.as_ref().clone() });
                self.tell_all_of_connections(None);
            }
        }
        Ok(())
    }

    /// Reads what is to these people. What somebody sees and may watch depends on who they are, as on what was published.
    async fn read_people_again(&self, ids: BTreeSet<UserId>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let known = users::people_of(&self.store, ids.into_iter().collect()).await?;
        self.publish(|new| {
            new.people = known.iter().fold(new.people.clone(), |all, (id, person)| all.with(id, person.clone()));
        });
        Ok(())
    }

    /// Remembers what is to be done about policies, for [`Self::follow_policies`]. Only the last of it counts.
    async fn note_asked(&self) -> Result<(), StoreError> {
        let read = |tx: &mut ReadTx<'_>| Ok((changes::last_policies(tx)?, policy_bindings::changed_at(tx)?));
        let (last, bindings) = self.store.read(read).await?;
        let elsewhere = last.filter(|(_, by, _)| by != self.store.replica());
        let act = elsewhere.map(|(revision, _, act)| (revision, act));
        if act.is_some() || bindings != self.bound.load().at {
            self.asked.send_replace(ToFollow { act, bindings });
        }
        Ok(())
    }

    /// Does what operators did about policies somewhere else, until the gateway stops.
    pub async fn follow_policies(self: Arc<Self>) {
        let stopping = self.tasks.stopping().clone();
        let mut asked = self.asked.subscribe();
        let following = async {
            loop {
                let ToFollow { act, bindings } = asked.borrow_and_update().clone();
                // In the order in which it was done.
                let is_act_first = act.as_ref().is_some_and(|(at, _)| *at < bindings);
                if !is_act_first {
                    self.follow_bindings().await;
                }
                match act {
                    Some((at, PolicyAct::Reload)) => self.reload_as_asked(at).await,
                    Some((at, PolicyAct::RollBack { set })) => self.roll_back_as_asked(at, &set).await,
                    None => {}
                }
                if is_act_first {
                    self.follow_bindings().await;
                }
                let news = asked.changed();
                let has_ended = if self.bindings_not_followed().is_some() {
                    // What kept them from it may be over without anybody's doing, as where a registry could not be reached.
                    tokio::time::timeout(RETRY, news).await.is_ok_and(|news| news.is_err())
                } else {
                    news.await.is_err()
                };
                if has_ended {
                    return;
                }
            }
        };
        stopping.run_until_cancelled(following).await;
    }

    /// The same as an operator had done elsewhere could not be done here.
    pub(super) async fn tell_not_followed(&self, reason: String) {
        tracing::error!(reason, "an operator changed policies on another gateway, and this one cannot follow");
        let event = AuditEvent::PoliciesNotFollowed { reason };
        if let Err(error) = trail::record(&self.store, Actor::System, event).await {
            tracing::error!(%error, "the audit trail lacks that policies were not followed");
        }
    }

    /// Writes down what was done about policies and, where an operator did it, tells the other gateways.
    pub(super) async fn record_policies(&self, actor: Actor, event: AuditEvent, act: PolicyAct) -> Option<Revision> {
        let change = Change::Policies { by: self.store.replica().clone(), act };
        let recorded = match actor {
            Actor::Operator(_) | Actor::User(_) => {
                trail::record_and_announce(&self.store, actor, event, change).await.map(Some)
            }
            Actor::System => trail::record(&self.store, actor, event).await.map(|()| None),
        };
        recorded.unwrap_or_else(|error| {
            tracing::error!(%error, "the audit trail lacks a change of policies, and other gateways do not know of it");
            None
        })
    }
}
