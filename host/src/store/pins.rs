//! Pinned definitions: what each tool of an upstream was when somebody agreed to it.
//!
//! An upstream that was never seen before is adopted: all it offers is pinned as it is. From then on pins change only
//! when an operator accepts a definition, and the audit row of that is in the same transaction; where there are more
//! pins than fit in one, it is in the first, and each transaction is announced. Whether
//! a tool is what its pin says is for `upstream::catalog` to compare.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::audit::{self, ActorRecord};
use super::changes::{Change, Revision, announce, revision};
use super::engine::{Bounds, Direction, MAX_RANGE, Table};
use super::table::{Typed, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::ids::UpstreamName;
use crate::secret::Digest;

/// Most pins of one upstream. It is more than the tools that are read of one.
pub const MAX_PINS: u64 = 20_000;
/// Longest definition whose text is kept, in bytes; of a longer one, only the digest is.
pub const MAX_DEFINITION_BYTES: usize = 64 * 1024;

/// Pins in one transaction.
const STEP: usize = 200;
/// Bytes of definitions in one transaction, roughly.
const STEP_BYTES: usize = 4 << 20;

pub(super) const PINS: Typed<Record> = Typed {
    table: Table::Pins,
    version: 1,
    older: &[],
    key: |record| key(&record.upstream, &record.tool),
    indexes: &[],
    expires: None,
};

pub(super) const UPSTREAMS: Typed<UpstreamRecord> = Typed {
    table: Table::PinnedUpstreams,
    version: 1,
    older: &[],
    key: |record| record.upstream.as_bytes().to_vec(),
    indexes: &[],
    expires: None,
};

/// A definition to be pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub tool: String,
    /// Lower-case hex SHA-256.
    pub digest: String,
    /// JSON text.
    pub text: String,
}

/// One pinned definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub tool: String,
    /// Lower-case hex SHA-256.
    pub digest: String,
    /// When the tool was pinned for the first time, whatever it was then.
    pub first_pinned: Timestamp,
    /// When this definition was accepted.
    pub accepted: Timestamp,
    /// By whom: the system where the tool was there when its upstream was first seen.
    pub by: Actor,
}

/// What came of [`adopt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    Adopted,
    /// It was seen before.
    Known,
}

/// What came of [`accept`] and [`accept_all`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    Accepted,
    /// It is pinned already. Never of [`accept_all`].
    Unchanged,
    /// The upstream has [`MAX_PINS`], or would have more.
    TooMany,
}

/// What becomes of the pins of tools that are not among those that [`accept_all`] pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They are forgotten: the upstream does not offer the tools any more.
    Forgotten,
    /// They stay: they may be of tools that only some people see.
    Kept,
}

/// What came of [`forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgetting {
    /// How many pins there were.
    Forgotten { pins: u64 },
    /// It was never seen, or is forgotten already.
    Unknown,
}

/// The pins of an upstream in the order of nothing in particular, and the revision that this is the state of. `None` if
/// the upstream was never seen.
pub async fn of(store: &Store, upstream: &UpstreamName) -> Result<Option<(Vec<Pin>, Revision)>, StoreError> {
    let upstream = upstream.clone();
    store
        .read(move |tx| {
            let at = revision(tx)?;
            if !is_known(tx, &upstream)? {
                return Ok(None);
            }
            let mut pins = Vec::new();
            each(tx, &upstream, |_, record| {
                pins.push(record.try_into()?);
                Ok(())
            })?;
            Ok(Some((pins, at)))
        })
        .await
}

/// A pin with the text of its definition, if that was kept.
pub async fn get(
    store: &Store,
    upstream: &UpstreamName,
    tool: &str,
) -> Result<Option<(Pin, Option<String>)>, StoreError> {
    let key = key(upstream.as_str(), tool);
    store
        .read(move |tx| {
            let Some(mut record) = PINS.get(tx, &key)? else { return Ok(None) };
            let text = record.text.take();
            Ok(Some((record.try_into()?, text)))
        })
        .await
}

/// Pins all that an upstream offers, if it was never seen before.
pub async fn adopt(
    store: &Store,
    upstream: &UpstreamName,
    definitions: Vec<Definition>,
) -> Result<Adoption, StoreError> {
    let tools = definitions.len() as u64;
    for step in steps(definitions) {
        let name = upstream.clone();
        let adoption = store
            .write(move |tx| {
                if is_known(tx, &name)? {
                    return Ok(Adoption::Known);
                }
                pin_all(tx, &name, &step, Actor::System)?;
                Ok::<_, StoreError>(Adoption::Adopted)
            })
            .await?;
        if adoption == Adoption::Known {
            return Ok(adoption);
        }
    }
    // Only now does it count. Had it been interrupted before, it would be adopted as it is the next time.
    let name = upstream.clone();
    store
        .write(move |tx| {
            if is_known(tx, &name)? {
                return Ok(Adoption::Known);
            }
            UPSTREAMS.put(tx, &UpstreamRecord { upstream: name.as_str().to_owned(), pins: tools })?;
            audit::append(tx, Actor::System, &AuditEvent::PinsAdopted { upstream: name.clone(), tools })?;
            announce(tx, of_upstream(&name))?;
            Ok(Adoption::Adopted)
        })
        .await
}

/// Pins one definition in place of the one that was pinned, if there was one.
pub async fn accept(
    store: &Store,
    upstream: &UpstreamName,
    definition: Definition,
    actor: Actor,
) -> Result<Acceptance, StoreError> {
    let upstream = upstream.clone();
    store
        .write(move |tx| {
            let known = PINS.get(tx, &key(upstream.as_str(), &definition.tool))?;
            if known.as_ref().is_some_and(|known| known.digest == definition.digest) {
                return Ok(Acceptance::Unchanged);
            }
            if known.is_none() {
                let pins = pins_of(tx, &upstream)?;
                if pins >= MAX_PINS {
                    return Ok(Acceptance::TooMany);
                }
                UPSTREAMS.put(tx, &UpstreamRecord { upstream: upstream.as_str().to_owned(), pins: pins + 1 })?;
            }
            pin_all(tx, &upstream, std::slice::from_ref(&definition), actor)?;
            let Definition { tool, digest, text: _ } = definition.clone();
            audit::append(tx, actor, &AuditEvent::PinAccepted { upstream: upstream.clone(), tool, digest })?;
            announce(tx, of_upstream(&upstream))?;
            Ok(Acceptance::Accepted)
        })
        .await
}

/// Pins all that an upstream offers to everybody, and forgets or keeps the `others`.
pub async fn accept_all(
    store: &Store,
    upstream: &UpstreamName,
    definitions: Vec<Definition>,
    others: Others,
    actor: Actor,
) -> Result<Acceptance, StoreError> {
    let tools = definitions.len() as u64;
    let offered: Arc<BTreeSet<Vec<u8>>> =
        Arc::new(definitions.iter().map(|one| key(upstream.as_str(), &one.tool)).collect());
    let kept = match others {
        Others::Forgotten => 0,
        Others::Kept => not_among(store, upstream, &offered).await?.len() as u64,
    };
    if tools + kept > MAX_PINS {
        return Ok(Acceptance::TooMany);
    }
    for (at, step) in steps(definitions).into_iter().enumerate() {
        let name = upstream.clone();
        store
            .write(move |tx| {
                if at == 0 {
                    audit::append(tx, actor, &AuditEvent::PinsAccepted { upstream: name.clone(), tools })?;
                }
                announce(tx, of_upstream(&name))?;
                pin_all(tx, &name, &step, actor)
            })
            .await?;
    }
    let gone = match others {
        Others::Forgotten => not_among(store, upstream, &offered).await?,
        Others::Kept => Vec::new(),
    };
    for step in gone.chunks(STEP) {
        let (step, name) = (step.to_vec(), upstream.clone());
        store
            .write(move |tx| {
                announce(tx, of_upstream(&name))?;
                step.iter().try_for_each(|key| PINS.remove(tx, key).map(drop))
            })
            .await?;
    }
    let name = upstream.clone();
    store
        .write(move |tx| {
            announce(tx, of_upstream(&name))?;
            UPSTREAMS.put(tx, &UpstreamRecord { upstream: name.as_str().to_owned(), pins: tools + kept })
        })
        .await?;
    Ok(Acceptance::Accepted)
}

/// Keys of an upstream's pins that are not among these.
async fn not_among(
    store: &Store,
    upstream: &UpstreamName,
    keys: &Arc<BTreeSet<Vec<u8>>>,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let (name, keys) = (upstream.clone(), keys.clone());
    store
        .read(move |tx| {
            let mut others = Vec::new();
            each(tx, &name, |key, _| {
                if !keys.contains(key) {
                    others.push(key.to_vec());
                }
                Ok(())
            })?;
            Ok(others)
        })
        .await
}

fn of_upstream(upstream: &UpstreamName) -> Change {
    Change::Pins { upstream: upstream.as_str().to_owned() }
}

/// Forgets an upstream with all its pins, as if it was never seen.
pub async fn forget(store: &Store, upstream: &UpstreamName, actor: Actor) -> Result<Forgetting, StoreError> {
    let mut forgotten = None;
    loop {
        let (name, is_first) = (upstream.clone(), forgotten.is_none());
        let step = store
            .write(move |tx| {
                let Some(UpstreamRecord { pins, .. }) = UPSTREAMS.get(tx, name.as_str().as_bytes())? else {
                    return Ok(None);
                };
                announce(tx, of_upstream(&name))?;
                if is_first {
                    let event = AuditEvent::PinsForgotten { upstream: name.clone(), tools: pins };
                    audit::append(tx, actor, &event)?;
                }
                let rows = tx.range(Table::Pins, &Bounds::within(&prefix(name.as_str())), Direction::Forward, STEP)?;
                for (key, _) in &rows {
                    PINS.remove(tx, key)?;
                }
                // Until the last of them is gone the upstream counts as seen: a tool that is not pinned is a new one then.
                let is_last = rows.len() < STEP;
                if is_last {
                    UPSTREAMS.remove(tx, name.as_str().as_bytes())?;
                }
                Ok::<_, StoreError>(Some((pins, is_last)))
            })
            .await?;
        let Some((pins, is_last)) = step else { break };
        forgotten.get_or_insert(pins);
        if is_last {
            break;
        }
    }
    Ok(forgotten.map_or(Forgetting::Unknown, |pins| Forgetting::Forgotten { pins }))
}

/// What fits in one transaction each; at least one step, so that there is a place for what goes with them.
fn steps(definitions: Vec<Definition>) -> Vec<Vec<Definition>> {
    let mut steps = vec![Vec::new()];
    let mut bytes = 0;
    for definition in definitions {
        let last = steps.last_mut().expect("there is one");
        bytes += definition.text.len();
        if last.len() < STEP && bytes <= STEP_BYTES {
            last.push(definition);
        } else {
            bytes = definition.text.len();
            steps.push(vec![definition]);
        }
    }
    steps
}

fn pin_all(
    tx: &mut WriteTx<'_>,
    upstream: &UpstreamName,
    definitions: &[Definition],
    actor: Actor,
) -> Result<(), StoreError> {
    let now_ms = tx.now().as_millis();
    for Definition { tool, digest, text } in definitions {
        let known = PINS.get(tx, &key(upstream.as_str(), tool))?;
        if known.as_ref().is_some_and(|known| known.digest == *digest) {
            continue;
        }
        let record = Record {
            upstream: upstream.as_str().to_owned(),
            tool: tool.clone(),
            digest: digest.clone(),
            first_pinned_ms: known.map_or(now_ms, |known| known.first_pinned_ms),
            accepted_ms: now_ms,
            by: actor.into(),
            text: (text.len() <= MAX_DEFINITION_BYTES).then(|| text.clone()),
        };
        PINS.put(tx, &record)?;
    }
    Ok(())
}

fn is_known(tx: &mut ReadTx<'_>, upstream: &UpstreamName) -> Result<bool, StoreError> {
    Ok(UPSTREAMS.get(tx, upstream.as_str().as_bytes())?.is_some())
}

fn pins_of(tx: &mut ReadTx<'_>, upstream: &UpstreamName) -> Result<u64, StoreError> {
    Ok(UPSTREAMS.get(tx, upstream.as_str().as_bytes())?.map_or(0, |record| record.pins))
}

/// Goes through the pins of an upstream.
fn each(
    tx: &mut ReadTx<'_>,
    upstream: &UpstreamName,
    mut take: impl FnMut(&[u8], Record) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut bounds = Bounds::within(&prefix(upstream.as_str()));
    loop {
        let rows = tx.range(Table::Pins, &bounds, Direction::Forward, MAX_RANGE)?;
        for (key, value) in &rows {
            take(key, PINS.decode(value)?)?;
        }
        match rows.into_iter().nth(MAX_RANGE - 1) {
            Some((last, _)) => bounds.lower = std::ops::Bound::Excluded(last),
            None => return Ok(()),
        }
    }
}

fn prefix(upstream: &str) -> Vec<u8> {
    [upstream.as_bytes(), &[0]].concat()
}

/// Names of tools may be longer than keys.
fn key(upstream: &str, tool: &str) -> Vec<u8> {
    [prefix(upstream).as_slice(), Digest::of(tool.as_bytes()).as_bytes()].concat()
}

/// A pin as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    upstream: String,
    tool: String,
    digest: String,
    first_pinned_ms: u64,
    accepted_ms: u64,
    by: ActorRecord,
    text: Option<String>,
}

/// An upstream that was seen, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamRecord {
    upstream: String,
    pins: u64,
}

impl TryFrom<Record> for Pin {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record { upstream: _, tool, digest, first_pinned_ms, accepted_ms, by, text: _ } = record;
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digest {
            return Err(unreadable(Table::Pins, "its digest is none"));
        }
        let (first_pinned, accepted) = (Timestamp::from_millis(first_pinned_ms), Timestamp::from_millis(accepted_ms));
        Ok(Self { tool, digest, first_pinned, accepted, by: by.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::Location;
    use super::super::tests::{StandingClock, memory};
    use super::*;
    use crate::audit::OperatorProof;

    const OPERATOR: Actor = Actor::Operator(OperatorProof::Token);

    fn notes() -> UpstreamName {
        UpstreamName::parse("notes").unwrap()
    }

    fn definition(tool: &str, text: &str) -> Definition {
        Definition { tool: tool.to_owned(), digest: Digest::of(text.as_bytes()).to_hex(), text: text.to_owned() }
    }

    async fn digests(store: &Store, upstream: &UpstreamName) -> BTreeMap<String, String> {
        let (pins, _) = of(store, upstream).await.unwrap().unwrap();
        pins.into_iter().map(|pin| (pin.tool, pin.digest)).collect()
    }

    fn expected(definitions: &[Definition]) -> BTreeMap<String, String> {
        definitions.iter().map(|one| (one.tool.clone(), one.digest.clone())).collect()
    }

    #[tokio::test]
    async fn an_upstream_is_adopted_once() {
        let store = memory().await;
        assert_eq!(of(&store, &notes()).await.unwrap(), None);
        let first = vec![definition("add", "1"), definition("delete", "2")];
        assert_eq!(adopt(&store, &notes(), first.clone()).await.unwrap(), Adoption::Adopted);
        assert_eq!(adopt(&store, &notes(), vec![definition("add", "other")]).await.unwrap(), Adoption::Known);
        assert_eq!(digests(&store, &notes()).await, expected(&first));
        let other = UpstreamName::parse("note").unwrap();
        assert_eq!(adopt(&store, &other, Vec::new()).await.unwrap(), Adoption::Adopted);
        let (pins, _) = of(&store, &other).await.unwrap().expect("it was seen");
        assert_eq!(pins, Vec::new());
        let trail = audit::list(&store, None, 10).await.unwrap();
        assert_eq!(trail.items[1].entry.event, AuditEvent::PinsAdopted { upstream: notes(), tools: 2 });
        assert_eq!((trail.items.len(), trail.items[1].entry.actor), (2, Actor::System));
    }

    #[tokio::test]
    async fn an_adoption_that_was_interrupted_is_made_anew() {
        let store = memory().await;
        let half = vec![definition("add", "1")];
        store.write(move |tx| pin_all(tx, &notes(), &half, Actor::System)).await.unwrap();
        assert_eq!(of(&store, &notes()).await.unwrap(), None);
        let whole = vec![definition("add", "new"), definition("delete", "2")];
        assert_eq!(adopt(&store, &notes(), whole.clone()).await.unwrap(), Adoption::Adopted);
        assert_eq!(digests(&store, &notes()).await, expected(&whole));
    }

    #[tokio::test]
    async fn what_is_accepted_takes_the_place_of_what_was() {
        let clock = StandingClock::at(1_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        adopt(&store, &notes(), vec![definition("add", "1")]).await.unwrap();
        clock.advance(Duration::from_millis(500));
        for (definition, expected) in [
            (definition("add", "1"), Acceptance::Unchanged),
            (definition("add", "2"), Acceptance::Accepted),
            (definition("new", "3"), Acceptance::Accepted),
        ] {
            assert_eq!(accept(&store, &notes(), definition, OPERATOR).await.unwrap(), expected);
        }
        let (pin, text) = get(&store, &notes(), "add").await.unwrap().unwrap();
        assert_eq!((pin.first_pinned.as_millis(), pin.accepted.as_millis(), pin.by), (1_000, 1_500, OPERATOR));
        assert_eq!(text.as_deref(), Some("2"));
        assert_eq!(get(&store, &notes(), "none").await.unwrap(), None);
        let trail = audit::list(&store, None, 10).await.unwrap();
        assert_eq!(trail.items.len(), 3, "what changes nothing is no event");
    }

    #[tokio::test]
    async fn everything_can_be_accepted_at_once_however_much_it_is() {
        let store = memory().await;
        adopt(&store, &notes(), vec![definition("add", "1"), definition("gone", "2")]).await.unwrap();
        let many: Vec<Definition> = (0..2_500).map(|at| definition(&format!("tool-{at}"), "x")).collect();
        accept_all(&store, &notes(), many.clone(), Others::Forgotten, OPERATOR).await.unwrap();
        assert_eq!(digests(&store, &notes()).await, expected(&many));
        accept_all(&store, &notes(), Vec::new(), Others::Forgotten, OPERATOR).await.unwrap();
        assert_eq!(digests(&store, &notes()).await, BTreeMap::new());
        let trail = audit::list(&store, None, 10).await.unwrap();
        assert_eq!(trail.items[0].entry.event, AuditEvent::PinsAccepted { upstream: notes(), tools: 0 });
    }

    #[tokio::test]
    async fn what_only_some_people_see_stays_pinned_when_the_rest_is_accepted() {
        let store = memory().await;
        adopt(&store, &notes(), vec![definition("add", "1")]).await.unwrap();
        accept(&store, &notes(), definition("anns", "2"), OPERATOR).await.unwrap();
        let common = vec![definition("add", "3"), definition("new", "4")];
        let accepted = accept_all(&store, &notes(), common.clone(), Others::Kept, OPERATOR).await.unwrap();
        assert_eq!(accepted, Acceptance::Accepted);
        let all: Vec<Definition> = common.into_iter().chain([definition("anns", "2")]).collect();
        assert_eq!(digests(&store, &notes()).await, expected(&all));
        assert_eq!(store.read(|tx| pins_of(tx, &notes())).await.unwrap(), 3);

        let many: Vec<Definition> = (0..MAX_PINS).map(|at| definition(&format!("tool-{at}"), "x")).collect();
        let accepted = accept_all(&store, &notes(), many, Others::Kept, OPERATOR).await.unwrap();
        assert_eq!(accepted, Acceptance::TooMany);
        assert_eq!(digests(&store, &notes()).await, expected(&all), "nothing was changed");
    }

    #[tokio::test]
    async fn what_is_forgotten_was_never_seen() {
        let store = memory().await;
        let other = UpstreamName::parse("notes-2").unwrap();
        assert_eq!(forget(&store, &notes(), OPERATOR).await.unwrap(), Forgetting::Unknown);
        let many: Vec<Definition> = (0..2 * STEP).map(|at| definition(&format!("tool-{at}"), "x")).collect();
        adopt(&store, &notes(), many).await.unwrap();
        adopt(&store, &other, vec![definition("add", "1")]).await.unwrap();
        let forgotten = Forgetting::Forgotten { pins: 2 * STEP as u64 };
        assert_eq!(forget(&store, &notes(), OPERATOR).await.unwrap(), forgotten);
        assert_eq!(of(&store, &notes()).await.unwrap(), None);
        assert_eq!(get(&store, &notes(), "tool-7").await.unwrap(), None);
        assert_eq!(forget(&store, &notes(), OPERATOR).await.unwrap(), Forgetting::Unknown);
        assert_eq!(digests(&store, &other).await.len(), 1, "another upstream's stay");
        let trail = audit::list(&store, None, 10).await.unwrap();
        let event = AuditEvent::PinsForgotten { upstream: notes(), tools: 2 * STEP as u64 };
        assert_eq!((trail.items.len(), &trail.items[0].entry.event), (3, &event), "once");

        let new = vec![definition("tool-7", "changed")];
        assert_eq!(adopt(&store, &notes(), new.clone()).await.unwrap(), Adoption::Adopted);
        assert_eq!(digests(&store, &notes()).await, expected(&new));
    }

    #[tokio::test]
    async fn pins_are_bounded() {
        let store = memory().await;
        let record = UpstreamRecord { upstream: "notes".to_owned(), pins: MAX_PINS };
        store.write(move |tx| UPSTREAMS.put(tx, &record)).await.unwrap();
        let one_more = accept(&store, &notes(), definition("add", "1"), OPERATOR).await.unwrap();
        assert_eq!(one_more, Acceptance::TooMany);

        let large = definition(&"n".repeat(8_192), &"x".repeat(MAX_DEFINITION_BYTES + 1));
        accept_all(&store, &notes(), vec![large.clone()], Others::Forgotten, OPERATOR).await.unwrap();
        let (pin, text) = get(&store, &notes(), &large.tool).await.unwrap().unwrap();
        assert_eq!((pin.digest, text), (large.digest, None), "its digest is enough to see that it changes");
        let steps = steps(vec![definition("t", &"x".repeat(STEP_BYTES / 2)); 7]);
        assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2, 1]);
    }
}
