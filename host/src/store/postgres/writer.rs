//! The one task that writes.
//!
//! It takes what is queued, waits for the deployment's lock, lets the closures run over what it has fetched until none
//! misses anything, writes the effects of all in two statements and commits. Nobody is answered before that. All writers
//! of a deployment take the same lock, so nothing is ever tried again for a conflict.
//!
//! - A connection that breaks before `COMMIT` was sent has written nothing: the group runs again on a new connection, once.
//! - One that breaks after leaves the question whether it happened. The server is asked for as long as
//!   [`FATE_PATIENCE`]; a group of which nobody knows is answered so, and never run again.
//! - Without a connection, writes are refused at once; the next attempt to connect comes after a growing pause, without
//!   anybody's asking.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::StoreError;
use super::super::engine::{Effects, Transition};
use super::super::stats::Meter;
use super::fetched::Fetched;
use super::link::{Connector, Fate, Fault, Link, Missing, NotCommitted};
use crate::env::{Env, Timestamp};

/// Closures in one commit.
const GROUP: usize = 64;
/// A group that has gathered this many bytes takes no more.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Statements that fetch, in one transaction.
const MAX_ROUNDS: usize = 16;
/// How often a group begins, if its connection breaks or the server takes it back.
const ATTEMPTS: usize = 3;
/// How long the server is asked for what became of a transaction.
const FATE_PATIENCE: Duration = Duration::from_secs(10);
/// Between two such questions.
const FATE_PAUSE: Duration = Duration::from_millis(50);
/// Between two attempts to connect, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a connection without work is tried.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

type Group = Vec<Box<dyn Transition>>;

pub(super) struct Writer {
    waiting: mpsc::Receiver<Box<dyn Transition>>,
    /// Taken from the queue and put off to the next transaction.
    put_off: VecDeque<Box<dyn Transition>>,
    connection: Connection,
    env: Env,
    meter: Arc<Meter>,
}

/// How an attempt ended.
enum Ended {
    Committed,
    /// Nothing was written, and that is final.
    Refused(StoreError),
    /// Nothing was written, for want of a connection.
    Lost(StoreError),
    /// It may have happened.
    Unknown {
        transaction: String,
        error: StoreError,
    },
}

impl Writer {
    pub(super) fn new(
        waiting: mpsc::Receiver<Box<dyn Transition>>,
        connection: Connection,
        env: Env,
        meter: Arc<Meter>,
    ) -> Self {
        Self { waiting, put_off: VecDeque::new(), connection, env, meter }
    }

    /// Works until the queue is empty and nobody can add to it.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.next().await {
            let mut group = vec![first];
            self.fill(&mut group);
            self.work(group).await;
        }
    }

    async fn next(&mut self) -> Option<Box<dyn Transition>> {
        if let Some(first) = self.put_off.pop_front() {
            return Some(first);
        }
        loop {
            tokio::select! {
                biased;
                received = self.waiting.recv() => return received.inspect(|_| self.meter.unqueue()),
                () = self.connection.tend() => {}
            }
        }
    }

    /// Adds what is there, as far as it fits.
    fn fill(&mut self, group: &mut Group) {
        while group.len() < GROUP {
            let received = || self.waiting.try_recv().ok().inspect(|_| self.meter.unqueue());
            match self.put_off.pop_front().or_else(received) {
                Some(transition) => group.push(transition),
                None => return,
            }
        }
    }

    /// Brings a group to its end and answers it.
    async fn work(&mut self, mut group: Group) {
        let mut attempts = 0;
        let outcome = loop {
            attempts += 1;
            match self.attempt(&mut group).await {
                Ended::Committed => break Ok(()),
                Ended::Refused(error) => break Err(error),
                Ended::Lost(error) if attempts == ATTEMPTS => break Err(error),
                Ended::Lost(_) => {}
                Ended::Unknown { transaction, error } => match self.connection.fate(&transaction).await {
                    Fate::Committed => break Ok(()),
                    Fate::Aborted if attempts < ATTEMPTS => {}
                    _ => break Err(error),
                },
            }
        };
        for transition in group {
            transition.answer(outcome.clone());
        }
    }

    /// One transaction. What does not fit is put off; what can never fit is answered.
    async fn attempt(&mut self, group: &mut Group) -> Ended {
        if let Err(error) = self.connection.get().await {
            return Ended::Refused(error);
        }
        // A first run shows what to fetch, whatever it says. Its time is not the server's.
        let mut fetched = Fetched::default();
        run(group, &fetched, self.env.now());
        let begun = match self.connection.ask(async |link| link.begin(&mut fetched).await).await {
            Ok(begun) => begun,
            Err(fault) => return self.failed(fault).await,
        };
        // The wait for the lock may have been long.
        self.fill(group);
        let mut rounds = 1;
        let effects = loop {
            let round = run(group, &fetched, begun.now);
            match round.missed {
                None => {
                    self.put_off(group, round.ran);
                    break round.effects;
                }
                Some(_) if rounds < MAX_ROUNDS => {
                    rounds += 1;
                    if let Err(fault) = self.connection.ask(async |link| link.fetch(&mut fetched).await).await {
                        return self.failed(fault).await;
                    }
                }
                Some(0) => {
                    let limit = "dependent reads in one transaction";
                    group.remove(0).answer(Err(StoreError::OverLimit { limit }));
                    rounds = 1;
                }
                // Those before it have all they need.
                Some(complete) => self.put_off(group, complete),
            }
        };
        self.meter.ran(group.len());
        if effects.is_empty() {
            // What the answers rest on was committed before, so they need not wait.
            for transition in group.drain(..) {
                transition.answer(Ok(()));
            }
            if let Err(fault) = self.connection.ask(Link::roll_back).await {
                self.connection.drop_link(&fault.into_error());
            }
            return Ended::Committed;
        }
        let began = Instant::now();
        let committed = self.connection.commit(&effects).await;
        self.meter.committed(began.elapsed(), committed.is_err());
        match committed {
            Ok(()) => Ended::Committed,
            Err(NotCommitted::Refused(error)) => self.failed(Fault::Refused(error)).await,
            Err(NotCommitted::Unknown(error)) => {
                self.connection.drop_link(&error);
                Ended::Unknown { transaction: begun.transaction, error }
            }
        }
    }

    /// Leaves the transaction after a fault.
    async fn failed(&mut self, fault: Fault) -> Ended {
        match fault {
            Fault::Lost(error) => {
                self.connection.drop_link(&error);
                Ended::Lost(error)
            }
            Fault::Refused(StoreError::Busy) => {
                if let Err(fault) = self.connection.ask(Link::roll_back).await {
                    self.connection.drop_link(&fault.into_error());
                }
                Ended::Refused(StoreError::Busy)
            }
            // It may be the server that is wrong: one that takes no writes any more, since another took its place.
            Fault::Refused(error) => {
                self.connection.drop_link(&error);
                Ended::Refused(error)
            }
        }
    }

    /// Leaves what comes after the first `kept` of a group for the next one.
    fn put_off(&mut self, group: &mut Group, kept: usize) {
        for transition in group.drain(kept..).rev() {
            self.put_off.push_front(transition);
        }
    }
}

/// What one run of a group came to.
struct Round {
    effects: Effects,
    /// How many ran.
    ran: usize,
    /// The first that missed something.
    missed: Option<usize>,
}

fn run(group: &mut Group, fetched: &Fetched, now: Timestamp) -> Round {
    let mut round = Round { effects: Effects::default(), ran: 0, missed: None };
    for (position, transition) in group.iter_mut().enumerate() {
        transition.run(fetched, &mut round.effects, now);
        round.ran += 1;
        if fetched.take_missed() {
            round.missed.get_or_insert(position);
        }
        if round.effects.bytes() >= GROUP_BYTES {
            break;
        }
    }
    round
}

/// The writer's connection, or its absence.
pub(super) struct Connection {
    connector: Connector,
    state: State,
    /// Told to whoever asks whether the store can be reached.
    reachable: Arc<AtomicBool>,
}

enum State {
    Up(Link),
    Down { error: StoreError, again_at: Instant, pause: Duration },
}

impl Connection {
    pub(super) fn new(connector: Connector, link: Link, reachable: Arc<AtomicBool>) -> Self {
        reachable.store(true, Ordering::Relaxed);
        Self { connector, state: State::Up(link), reachable }
    }

    /// Sees to it that there is a connection, if it is time to try.
    async fn get(&mut self) -> Result<(), StoreError> {
        if let State::Up(link) = &self.state
            && link.is_lost()
        {
            self.drop_link(&super::unavailable("the connection broke"));
        }
        match &self.state {
            State::Up(_) => Ok(()),
            State::Down { error, again_at, .. } if *again_at > Instant::now() => Err(error.clone()),
            State::Down { .. } => self.connect().await,
        }
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        match self.connector.link(Missing::IsAFault).await {
            Ok(link) => {
                self.state = State::Up(link);
                if !self.reachable.swap(true, Ordering::Relaxed) {
                    tracing::info!("the store can be reached again");
                }
                Ok(())
            }
            Err(fault) => {
                let error = fault.into_error();
                if self.reachable.swap(false, Ordering::Relaxed) {
                    tracing::error!(%error, source = super::source(&error), "the store cannot be reached");
                }
                let pause = match &self.state {
                    State::Down { pause, .. } => (*pause * 2).min(LONGEST_PAUSE),
                    State::Up(_) => FIRST_PAUSE,
                };
                self.state = State::Down { error: error.clone(), again_at: Instant::now() + pause, pause };
                Err(error)
            }
        }
    }

    /// Gives the connection up; the next one is tried at once.
    fn drop_link(&mut self, error: &StoreError) {
        if let State::Up(_) = self.state {
            tracing::warn!(%error, source = super::source(error), "a connection to the store was given up");
        }
        self.state = State::Down { error: error.clone(), again_at: Instant::now(), pause: FIRST_PAUSE / 2 };
    }

    async fn ask<T>(&self, question: impl AsyncFnOnce(&Link) -> Result<T, Fault>) -> Result<T, Fault> {
        match &self.state {
            State::Up(link) => question(link).await,
            State::Down { error, .. } => Err(Fault::Lost(error.clone())),
        }
    }

    async fn commit(&self, effects: &Effects) -> Result<(), NotCommitted> {
        match &self.state {
            State::Up(link) => link.commit(effects).await,
            State::Down { error, .. } => Err(NotCommitted::Refused(error.clone())),
        }
    }

    /// Keeps up the connection while there is nothing to write. Returns after each step, and may be dropped at any moment.
    async fn tend(&mut self) {
        let fault = match &self.state {
            State::Up(link) => {
                tokio::select! {
                    () = link.lost() => super::unavailable("the connection broke"),
                    () = sleep(CHECK_INTERVAL) => match link.check().await {
                        Ok(()) => return,
                        Err(fault) => fault.into_error(),
                    },
                }
            }
            State::Down { again_at, .. } => {
                sleep_until(*again_at).await;
                // What is wrong was told when the connection broke.
                _ = self.connect().await;
                return;
            }
        };
        self.drop_link(&fault);
    }

    /// What became of a transaction: asked on new connections, until there is an answer or patience ends.
    async fn fate(&mut self, transaction: &str) -> Fate {
        let until = Instant::now() + FATE_PATIENCE;
        loop {
            let told = match self.get().await {
                Ok(()) => self.ask(async |link| link.fate(transaction).await).await,
                Err(error) => Err(Fault::Refused(error)),
            };
            match told {
                Ok(Fate::InProgress) | Err(Fault::Refused(_)) => {}
                Ok(fate) => return fate,
                Err(Fault::Lost(error)) => self.drop_link(&error),
            }
            if Instant::now() >= until {
                return Fate::Unknown;
            }
            sleep(FATE_PAUSE).await;
        }
    }
}
