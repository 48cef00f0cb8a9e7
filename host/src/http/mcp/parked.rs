//! Calls that wait for their caller to come back with what it was asked (2026-07-28, patterns/mrtr), while the
//! upstream, of an earlier revision, has its request under way and knows nothing of it.
//!
//! A parked call keeps its place among the principal's calls. It is known by a random id, which only its caller has,
//! sealed; a retry takes it out, so that one call has one retry. One that nobody comes back for is taken back when its
//! time is up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Mcp;
use super::stays::{Stay, Until};
use super::work::{Ended, Step, Work};
use crate::identity::Caller;
use crate::ids::{GrantId, Principal};
use crate::mcp::call::Outcome;
use crate::mcp::client::Client;
use crate::mcp::json::Members;
use crate::mcp::revision::v2026_07_28::InputRequest;
use crate::mcp::talk::{Ask, Event};
use crate::pipeline::Origin;
use crate::tasks::Tasks;

/// Calls that one principal may have parked.
const MAX_PER_PRINCIPAL: usize = 16;
/// Questions of one call that may be open at once.
const MAX_QUESTIONS: usize = 64;

/// A request under way and what it wants to know.
pub(super) struct Dialog {
    work: Work,
    /// How it ended, if it did while nobody was there to hear of it.
    ended: Option<Ended>,
    /// By the key under which each is asked.
    open: Vec<(String, Ask)>,
    /// How many were asked so far.
    asked: u64,
}

impl Dialog {
    pub(super) fn new(work: Work) -> Self {
        Self { work, ended: None, open: Vec::new(), asked: 0 }
    }

    /// Who began it, and where.
    pub(super) fn origin(&self) -> &Origin {
        &self.work.origin
    }

    fn caller(&self) -> &Caller {
        &self.origin().caller
    }

    /// What happens next. Safe to be dropped and called again.
    pub(super) async fn next(&mut self) -> Step {
        match self.ended.take() {
            Some(ended) => Step::Ended(ended),
            None => self.work.next().await,
        }
    }

    /// Waits for something else while the call goes on.
    pub(super) async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        self.work.meanwhile(other).await
    }

    /// Keeps a question. One too many is dropped, which tells the upstream so.
    pub(super) fn take(&mut self, ask: Ask) {
        if self.open.len() < MAX_QUESTIONS {
            self.asked += 1;
            self.open.push((self.asked.to_string(), ask));
        }
    }

    /// The questions that are still open and that this client answers. Others are dropped.
    pub(super) fn questions(&mut self, client: &Client) -> Vec<InputRequest> {
        self.open.retain(|(_, ask)| !ask.reply.is_closed() && client.answers(ask.question));
        let written = |(key, ask): &(String, Ask)| InputRequest {
            key: key.clone(),
            question: ask.question,
            params: ask.params.clone(),
        };
        self.open.iter().map(written).collect()
    }

    pub(super) fn has_questions(&self) -> bool {
        !self.open.is_empty()
    }

    /// Nobody will answer.
    pub(super) fn drop_questions(&mut self) {
        self.open.clear();
    }

    /// Passes on what the caller brought, by key. Answers to what nobody asked are ignored.
    pub(super) fn answer(&mut self, mut responses: Members) {
        let open = std::mem::take(&mut self.open);
        for (key, ask) in open {
            match responses.remove(&key) {
                // An upstream that does not wait any more has no use for it.
                Some(response) => _ = ask.reply.send(Outcome::Result(response)),
                None => self.open.push((key, ask)),
            }
        }
    }

    /// Goes on while nobody is there: notices are lost, questions are kept, and so is the end.
    async fn go_on(&mut self) -> std::convert::Infallible {
        while self.ended.is_none() {
            match self.work.next().await {
                Step::Said(Event::Ask(ask)) => self.take(ask),
                Step::Said(Event::Notice(_)) => {}
                Step::Ended(ended) => self.ended = Some(ended),
            }
        }
        std::future::pending().await
    }
}

/// Where calls are parked.
pub(super) struct Parking {
    spots: Mutex<HashMap<u64, Spot>>,
    capacity: usize,
    /// How long a call waits for its caller.
    patience: Duration,
    tasks: Tasks,
    closing: CancellationToken,
}

struct Spot {
    principal: Principal,
    client: Option<Arc<str>>,
    /// Of the token that it was let in with. The next tokens of the same grant are as good.
    grant: Option<GrantId>,
    claim: oneshot::Sender<oneshot::Sender<Dialog>>,
}

impl Parking {
    /// Parked calls are taken back when `closing` is cancelled.
    pub(super) fn new(capacity: usize, patience: Duration, tasks: Tasks, closing: CancellationToken) -> Arc<Self> {
        Arc::new(Self { spots: Mutex::default(), capacity, patience, tasks, closing })
    }

    /// Calls that are parked.
    pub(super) fn count(&self) -> usize {
        self.spots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Parks a call under an id that nobody can guess. Where there is no place, it is given back. It waits for as long as what
    /// let its caller in opens something.
    pub(super) fn park(self: &Arc<Self>, mcp: &Mcp, id: u64, dialog: Dialog) -> Result<(), Box<Dialog>> {
        let (claim, claimed) = oneshot::channel();
        {
            let mut spots = self.spots.lock().unwrap_or_else(PoisonError::into_inner);
            let Caller { principal, client, pass, .. } = dialog.caller().clone();
            let grant = pass.map(|pass| pass.grant.clone());
            let own = spots.values().filter(|spot| spot.principal == principal).count();
            if spots.len() >= self.capacity || own >= MAX_PER_PRINCIPAL || spots.contains_key(&id) {
                return Err(Box::new(dialog));
            }
            spots.insert(id, Spot { principal, client, grant, claim });
        }
        let (parking, patience, closing) = (self.clone(), self.patience, self.closing.clone());
        let caller = dialog.caller();
        let stay = Stay::begin(mcp, &caller.principal, caller.pass.as_ref(), Until::Answered);
        self.tasks.spawn(async move {
            wait(dialog, claimed, patience, &stay, &closing).await;
            parking.spots.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        Ok(())
    }

    /// Takes a call out, for the principal that parked it, through the same client with the same grant.
    pub(super) async fn claim(&self, caller: &Caller, id: u64) -> Option<Dialog> {
        let spot = {
            let mut spots = self.spots.lock().unwrap_or_else(PoisonError::into_inner);
            let spot = spots.get(&id)?;
            let grant = caller.pass.as_ref().map(|pass| &pass.grant);
            if spot.principal != caller.principal || spot.client != caller.client || spot.grant.as_ref() != grant {
                return None;
            }
            spots.remove(&id)?
        };
        let (hand, dialog) = oneshot::channel();
        spot.claim.send(hand).ok()?;
        dialog.await.ok()
    }
}

/// Keeps a call going until it is claimed. Otherwise it is dropped, which takes it back.
async fn wait(
    mut dialog: Dialog,
    claimed: oneshot::Receiver<oneshot::Sender<Dialog>>,
    patience: Duration,
    stay: &Stay,
    closing: &CancellationToken,
) {
    let hand = tokio::select! {
        hand = claimed => hand,
        never = dialog.go_on() => match never {},
        () = tokio::time::sleep(patience) => return,
        () = stay.over() => return,
        () = closing.cancelled() => return,
    };
    if let Ok(hand) = hand {
        // A retry whose caller has left already is a call that is taken back.
        _ = hand.send(dialog);
    }
}
