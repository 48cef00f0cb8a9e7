//! Pinned definitions: how the tools that upstreams offer stand to what was agreed to, and agreeing to more.
//!
//! What is pinned is known here in memory, upstream by upstream, from when an upstream was first heard of: an upstream
//! that was never seen before has its tools pinned as they are. While the store cannot be read, an upstream's tools count
//! as never seen, and it is tried again.
//!
//! What only some people see, since they have accounts of their own, is pinned when an operator accepts it and not before:
//! one person's account says nothing of what the upstream is to others. The gateway's own tool for connecting is no
//! upstream's, so that nothing is pinned of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::{Control, catalog_of};
use crate::audit::Actor;
use crate::ids::UpstreamName;
use crate::secret::Digest;
use crate::store::StoreError;
use crate::store::changes::Revision;
use crate::store::pins::{self as stored, Acceptance, Definition, Forgetting, Others, Pin};
use crate::upstream::Upstream;
use crate::upstream::catalog::{Offer, PinStanding, ToolDefinition};

/// How long the tools of an upstream wait to be shown for its pins to be read.
const PATIENCE: Duration = Duration::from_secs(2);
/// Before pins that could not be read are tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// What is pinned of the upstreams that were heard of.
#[derive(Default)]
pub(super) struct Pinned {
    known: ArcSwap<BTreeMap<UpstreamName, Known>>,
    /// How many tools were new and changed when that was last told.
    told: Mutex<BTreeMap<UpstreamName, (usize, usize)>>,
    /// Upstreams whose pins are being tried again.
    tried_again: Mutex<BTreeSet<UpstreamName>>,
}

/// The pins of one upstream by the names of its tools.
pub(super) type PinsOf = BTreeMap<String, Pin>;

/// The pins of one upstream, and the revision that they are the state of.
type Known = (Arc<PinsOf>, Revision);

impl Pinned {
    /// How each definition stands to what is pinned now.
    pub(super) fn standing(&self) -> impl Fn(&ToolDefinition) -> PinStanding + use<> {
        let known = self.known.load_full();
        move |tool| standing_of(known.get(&tool.upstream).map(|(pins, _)| pins), &tool.name, &tool.digest)
    }

    pub(super) fn of(&self, upstream: &UpstreamName) -> Option<Arc<PinsOf>> {
        self.known.load().get(upstream).map(|(pins, _)| pins.clone())
    }

    /// The upstreams that were heard of.
    pub(super) fn upstreams(&self) -> BTreeSet<UpstreamName> {
        self.known.load().keys().cloned().collect()
    }

    /// Whether an upstream was heard of, and what is known of it is older than this.
    fn is_before(&self, upstream: &UpstreamName, revision: Revision) -> bool {
        self.known.load().get(upstream).is_some_and(|(_, at)| *at < revision)
    }

    /// Takes over what the store has of an upstream in revision `at`, unless something newer is known.
    pub(super) fn put(&self, upstream: &UpstreamName, pins: Vec<Pin>, at: Revision) {
        let pins: Arc<PinsOf> = Arc::new(pins.into_iter().map(|pin| (pin.tool.clone(), pin)).collect());
        self.known.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            if known.get(upstream).is_none_or(|(_, known_at)| *known_at <= at) {
                known.insert(upstream.clone(), (pins.clone(), at));
            }
            known
        });
    }

    fn forget(&self, upstream: &UpstreamName) {
        self.known.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.remove(upstream);
            known
        });
        lock(&self.told).remove(upstream);
    }
}

fn standing_of(pins: Option<&Arc<PinsOf>>, tool: &str, digest: &str) -> PinStanding {
    match pins.and_then(|pins| pins.get(tool)) {
        Some(pin) if pin.digest == digest => PinStanding::Pinned,
        Some(_) => PinStanding::Changed,
        None => PinStanding::FirstSeen,
    }
}

/// How one tool stands to its pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinView {
    pub upstream: UpstreamName,
    pub tool: String,
    pub pinned: Option<Pin>,
    /// Digest of what is offered now; `None` if the upstream does not offer the tool.
    pub offered: Option<String>,
}

impl PinView {
    /// Whether somebody has to agree before it is what was agreed to.
    pub fn is_changed(&self) -> bool {
        match (&self.pinned, &self.offered) {
            (Some(pin), Some(offered)) => pin.digest != *offered,
            (None, offered) => offered.is_some(),
            (Some(_), None) => false,
        }
    }

    /// The word for how it stands.
    pub fn standing(&self) -> &'static str {
        match (&self.pinned, &self.offered) {
            (Some(_), None) => "gone",
            (None, _) => "first-seen",
            (Some(_), Some(_)) if self.is_changed() => "changed",
            (Some(_), Some(_)) => "pinned",
        }
    }
}

/// Both definitions of a tool, as JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinTexts {
    /// `None` if nothing is pinned, or if it was too large to be kept.
    pub pinned: Option<String>,
    pub offered: Option<String>,
}

/// What an upstream offers to everybody.
pub struct OnOffer {
    /// The same for the same definitions only.
    pub fingerprint: String,
    /// How many tools.
    pub tools: usize,
    /// Those that are new or changed.
    pub to_accept: Vec<String>,
}

/// Why a definition was not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("there is no such upstream, or nothing is known of it yet")]
    NoUpstream,
    #[error("the upstream does not offer this tool")]
    NotOffered,
    #[error("what the upstream offers has changed since you looked: look at it again")]
    OtherOffer,
    #[error("not everybody sees this definition: say by its digest that it is meant")]
    NoDigest,
    #[error("the definition has changed meanwhile: its digest is {digest} now")]
    OtherDigest { digest: String },
    #[error(
        "the upstream has {} pins already, or would have more; where nobody has a list of their own, accepting all that \
         it offers forgets those of what it does not",
        stored::MAX_PINS
    )]
    TooMany,
    #[error("nothing is pinned of an upstream of this name")]
    NothingPinned,
    #[error("the upstream is configured; accept what it offers, or remove it from the configuration before")]
    InUse,
    #[error("the store did not take the change")]
    Store(#[from] StoreError),
}

impl Control {
    /// Sees to it that an upstream's pins are known; what the upstream was never seen with before is pinned as it is. Does
    /// not wait for the store for long.
    pub(super) async fn know_pins(self: &Arc<Self>, upstream: &Arc<Upstream>) {
        let name = &upstream.settings().name;
        if self.pinned.of(name).is_none() {
            let failure = match tokio::time::timeout(PATIENCE, self.learn_pins(upstream)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("it did not answer within {} s", PATIENCE.as_secs())),
            };
            if let Some(error) = failure {
                tracing::warn!(upstream = %name, error, "the store failed: the upstream's tools count as never seen");
                if lock(&self.pinned.tried_again).insert(name.clone()) {
                    let stopping = self.tasks.stopping().clone();
                    self.tasks.spawn(learn_later(Arc::downgrade(self), Arc::downgrade(upstream), stopping));
                }
            }
        }
        self.tell_of_changes(upstream);
    }

    /// Reads an upstream's pins, or makes them.
    async fn learn_pins(&self, upstream: &Upstream) -> Result<(), StoreError> {
        let name = &upstream.settings().name;
        let mut pins = stored::of(&self.store, name).await?;
        if pins.is_none()
            && let Some(offer) = upstream.shelf().offer.filter(|offer| !offer.tools.is_empty())
        {
            stored::adopt(&self.store, name, definitions(&offer)).await?;
            pins = stored::of(&self.store, name).await?;
        }
        if let Some((pins, at)) = pins {
            self.pinned.put(name, pins, at);
        }
        Ok(())
    }

    fn tell_of_changes(&self, upstream: &Upstream) {
        let name = &upstream.settings().name;
        let Some(offer) = upstream.shelf().offer else { return };
        let standing = self.pinned.standing();
        let count = |wanted| offer.tools.iter().filter(|tool| standing(tool) == wanted).count();
        let now = (count(PinStanding::FirstSeen), count(PinStanding::Changed));
        let before = lock(&self.pinned.told).insert(name.clone(), now).unwrap_or_default();
        if now != before && now != (0, 0) {
            let (first_seen, changed) = now;
            tracing::warn!(upstream = %name, first_seen, changed, "tools are not what is pinned: see `portcullis pin list --changed`");
        }
    }

    /// Every tool that is offered or pinned, in the order of upstreams and names, beginning after `after`: at most `limit`
    /// of those that `keep` keeps.
    pub fn pins(
        &self,
        after: Option<&(UpstreamName, String)>,
        limit: usize,
        keep: impl Fn(&PinView) -> bool,
    ) -> Vec<PinView> {
        let snapshot = self.snapshot.load();
        let begin = after.map(|(upstream, _)| upstream);
        let upstreams = snapshot.upstreams.iter().filter(|(name, _)| begin.is_none_or(|begin| *name >= begin));
        let views = upstreams.flat_map(|(name, upstream)| self.pins_of(name, upstream));
        let is_behind =
            |view: &PinView| after.is_none_or(|(upstream, tool)| (&view.upstream, &view.tool) > (upstream, tool));
        views.filter(|view| is_behind(view) && keep(view)).take(limit).collect()
    }

    pub(super) fn pins_of(&self, name: &UpstreamName, upstream: &Upstream) -> Vec<PinView> {
        let pins = self.pinned.of(name);
        let mut tools: BTreeMap<String, PinView> = BTreeMap::new();
        let view = |tool: &str| PinView { upstream: name.clone(), tool: tool.to_owned(), pinned: None, offered: None };
        for pin in pins.iter().flat_map(|pins| pins.values()) {
            tools.insert(pin.tool.clone(), PinView { pinned: Some(pin.clone()), ..view(&pin.tool) });
        }
        for tool in offered_tools(upstream, pins.as_deref()) {
            let view = tools.entry(tool.name.clone()).or_insert_with(|| view(&tool.name));
            view.offered.get_or_insert_with(|| tool.digest.clone());
        }
        tools.into_values().collect()
    }

    /// How one tool stands to its pin, with both definitions.
    pub async fn pin(&self, upstream: &UpstreamName, tool: &str) -> Result<Option<(PinView, PinTexts)>, StoreError> {
        let stored = stored::get(&self.store, upstream, tool).await?;
        let offered = self.offered(upstream, tool, None).map(|(offered, _)| offered);
        if stored.is_none() && offered.is_none() {
            return Ok(None);
        }
        let (pinned, text) = stored.unzip();
        let texts = PinTexts {
            pinned: text.flatten(),
            offered: offered.as_ref().map(|offered| offered.text().get().to_owned()),
        };
        let offered = offered.map(|offered| offered.digest.clone());
        Ok(Some((PinView { upstream: upstream.clone(), tool: tool.to_owned(), pinned, offered }, texts)))
    }

    /// Pins the definition that a tool has now, if it has the `digest` that was looked at: what not everybody sees is
    /// accepted by its digest only.
    ///
    /// # Errors
    /// [`PinError`].
    pub async fn accept_pin(
        &self,
        upstream: &UpstreamName,
        tool: &str,
        digest: Option<&str>,
        actor: Actor,
    ) -> Result<PinView, PinError> {
        let _one_at_a_time = self.changing.lock().await;
        let (offered, is_common) = self.offered(upstream, tool, digest).ok_or(PinError::NotOffered)?;
        if digest.is_none() && !is_common {
            return Err(PinError::NoDigest);
        }
        if digest.is_some_and(|digest| digest != offered.digest) {
            return Err(PinError::OtherDigest { digest: offered.digest.clone() });
        }
        match stored::accept(&self.store, upstream, definition(&offered), actor).await? {
            Acceptance::Accepted | Acceptance::Unchanged => {}
            Acceptance::TooMany => return Err(PinError::TooMany),
        }
        self.publish_pins(upstream).await?;
        let pinned = self.pinned.of(upstream).and_then(|pins| pins.get(tool).cloned());
        let offered = Some(offered.digest.clone());
        Ok(PinView { upstream: upstream.clone(), tool: tool.to_owned(), pinned, offered })
    }

    /// What an upstream offers to everybody now; `None` if that is not known.
    pub fn on_offer(&self, upstream: &UpstreamName) -> Option<OnOffer> {
        let (definitions, _) = self.offered_by(upstream)?;
        let pins = self.pinned.of(upstream);
        let is_new = |definition: &&Definition| {
            standing_of(pins.as_ref(), &definition.tool, &definition.digest) != PinStanding::Pinned
        };
        Some(OnOffer {
            fingerprint: fingerprint(&definitions),
            tools: definitions.len(),
            to_accept: definitions.iter().filter(is_new).map(|definition| definition.tool.clone()).collect(),
        })
    }

    /// Pins all that an upstream offers to everybody now, if it is what was `seen`, by its fingerprint; how many tools that
    /// are. Where people have lists of their own,
    /// pins of what is not in the common one stay: some of them may see it.
    ///
    /// # Errors
    /// [`PinError`].
    pub async fn accept_pins(
        &self,
        upstream: &UpstreamName,
        seen: Option<&str>,
        actor: Actor,
    ) -> Result<usize, PinError> {
        let _one_at_a_time = self.changing.lock().await;
        let (definitions, others) = self.offered_by(upstream).ok_or(PinError::NoUpstream)?;
        if seen.is_some_and(|seen| seen != fingerprint(&definitions)) {
            return Err(PinError::OtherOffer);
        }
        let tools = definitions.len();
        match stored::accept_all(&self.store, upstream, definitions, others, actor).await? {
            Acceptance::Accepted | Acceptance::Unchanged => {}
            Acceptance::TooMany => return Err(PinError::TooMany),
        }
        self.publish_pins(upstream).await?;
        Ok(tools)
    }

    /// Forgets the pins of an upstream that is not configured any more; how many they were. Should one of its name be
    /// configured again, it is taken as it is then.
    ///
    /// # Errors
    /// [`PinError`].
    pub async fn forget_pins(&self, upstream: &UpstreamName, actor: Actor) -> Result<u64, PinError> {
        // No reload brings it back meanwhile.
        let _one_at_a_time = self.changing.lock().await;
        if self.snapshot.load().upstreams.contains_key(upstream) {
            return Err(PinError::InUse);
        }
        match stored::forget(&self.store, upstream, actor).await? {
            Forgetting::Forgotten { pins } => {
                self.pinned.forget(upstream);
                Ok(pins)
            }
            Forgetting::Unknown => Err(PinError::NothingPinned),
        }
    }

    /// The definition of a tool, and whether it is the one that everybody sees: the one with this digest, if there is one,
    /// or the one that is listed.
    fn offered(
        &self,
        upstream: &UpstreamName,
        tool: &str,
        digest: Option<&str>,
    ) -> Option<(Arc<ToolDefinition>, bool)> {
        let snapshot = self.snapshot.load();
        let upstream = snapshot.upstreams.get(upstream)?;
        let mut all = offered_tools(upstream, self.pinned.of(upstream.name()).as_deref());
        all.retain(|offered| offered.name == tool);
        let meant = all.iter().find(|offered| digest.is_some_and(|digest| digest == offered.digest));
        let offered = meant.or(all.first())?.clone();
        let common = upstream.shelf().offer;
        let is_common = common.iter().flat_map(|offer| &offer.tools).any(|common| Arc::ptr_eq(common, &offered));
        Some((offered, is_common))
    }

    /// All that an upstream offers to everybody, and what becomes of other pins; `None` if that is not known.
    fn offered_by(&self, upstream: &UpstreamName) -> Option<(Vec<Definition>, Others)> {
        let snapshot = self.snapshot.load();
        let shelf = snapshot.upstreams.get(upstream)?.shelf();
        // Who may connect it has a list of their own.
        let others = if shelf.connect.is_some() { Others::Kept } else { Others::Forgotten };
        Some((definitions(shelf.offer.as_deref()?), others))
    }

    /// Reads the pins of those of these upstreams again that are known as they were before `revision`.
    pub(super) async fn read_pins_again(
        &self,
        upstreams: &BTreeSet<UpstreamName>,
        revision: Revision,
    ) -> Result<(), StoreError> {
        let mut is_any = false;
        for upstream in upstreams.iter().filter(|upstream| self.pinned.is_before(upstream, revision)) {
            if let Some((pins, at)) = stored::of(&self.store, upstream).await? {
                self.pinned.put(upstream, pins, at);
                is_any = true;
            }
        }
        if is_any {
            self.publish(|new| new.catalog = catalog_of(&new.upstreams, &self.pinned));
        }
        Ok(())
    }

    async fn publish_pins(&self, upstream: &UpstreamName) -> Result<(), StoreError> {
        if let Some((pins, at)) = stored::of(&self.store, upstream).await? {
            self.pinned.put(upstream, pins, at);
        }
        self.publish(|new| new.catalog = catalog_of(&new.upstreams, &self.pinned));
        Ok(())
    }
}

/// Learns an upstream's pins as soon as the store lets it, as long as there are both.
async fn learn_later(control: Weak<Control>, upstream: Weak<Upstream>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
        }
        let (Some(control), Some(upstream)) = (control.upgrade(), upstream.upgrade()) else { return };
        if control.learn_pins(&upstream).await.is_ok() {
            lock(&control.pinned.tried_again).remove(&upstream.settings().name);
            return control.publish(|new| new.catalog = catalog_of(&new.upstreams, &control.pinned));
        }
    }
}

/// Tools that everybody sees, and that some people see: of one name there may be several.
pub(super) fn offered_tools(upstream: &Upstream, pins: Option<&PinsOf>) -> Vec<Arc<ToolDefinition>> {
    let common = upstream.shelf().offer;
    let common = common.iter().flat_map(|offer| &offer.tools).cloned().collect();
    in_order(common, upstream.own_tools(), pins)
}

/// In the order of names. Of one name what is not agreed to comes before what is, and what everybody sees before what some
/// do.
fn in_order(
    common: Vec<Arc<ToolDefinition>>,
    own: Vec<Arc<ToolDefinition>>,
    pins: Option<&PinsOf>,
) -> Vec<Arc<ToolDefinition>> {
    let is_pinned =
        |tool: &ToolDefinition| pins.and_then(|pins| pins.get(&tool.name)).is_some_and(|pin| pin.digest == tool.digest);
    let mut tools: Vec<(bool, Arc<ToolDefinition>)> =
        common.into_iter().map(|tool| (false, tool)).chain(own.into_iter().map(|tool| (true, tool))).collect();
    tools.sort_by_cached_key(|(is_own, tool)| (tool.name.clone(), is_pinned(tool), *is_own, tool.digest.clone()));
    tools.into_iter().map(|(_, tool)| tool).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn definitions(offer: &Offer) -> Vec<Definition> {
    offer.tools.iter().map(|tool| definition(tool)).collect()
}

/// The same for the same definitions only, in whatever order they come.
fn fingerprint(definitions: &[Definition]) -> String {
    let mut pairs: Vec<_> = definitions.iter().map(|Definition { tool, digest, .. }| (tool, digest)).collect();
    pairs.sort_unstable();
    Digest::of(format!("{pairs:?}").as_bytes()).to_hex()
}

fn definition(tool: &ToolDefinition) -> Definition {
    Definition { tool: tool.name.clone(), digest: tool.digest.clone(), text: tool.text().get().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_definition_is_another_offer() {
        let of = |tool: &str, digest: &str| Definition {
            tool: tool.to_owned(),
            digest: digest.to_owned(),
            text: String::new(),
        };
        let offer = fingerprint(&[of("a", "1"), of("b", "2")]);
        assert_eq!(offer, fingerprint(&[of("b", "2"), of("a", "1")]));
        assert_ne!(offer, fingerprint(&[of("a", "2"), of("b", "1")]));
        assert_ne!(offer, fingerprint(&[of("a", "1")]));
    }
    use crate::env::Timestamp;

    fn pin(tool: &str, digest: &str) -> Pin {
        let at = Timestamp::from_millis(1);
        Pin { tool: tool.to_owned(), digest: digest.to_owned(), first_pinned: at, accepted: at, by: Actor::System }
    }

    fn tool(upstream: &str, name: &str) -> ToolDefinition {
        let json = serde_json::value::to_raw_value(&serde_json::json!({ "name": name })).unwrap();
        ToolDefinition::parse(&UpstreamName::parse(upstream).unwrap(), &json).unwrap()
    }

    #[test]
    fn of_what_some_people_see_an_operator_is_shown_what_nobody_agreed_to() {
        let titled = |title: &str| {
            let json = serde_json::json!({ "name": "send", "title": title });
            let json = serde_json::value::to_raw_value(&json).unwrap();
            Arc::new(ToolDefinition::parse(&UpstreamName::parse("mail").unwrap(), &json).unwrap())
        };
        let all = [titled("one"), titled("two"), titled("three")];
        for agreed in &all {
            let pins: PinsOf = [("send".to_owned(), pin("send", &agreed.digest))].into();
            let ordered = in_order(Vec::new(), all.to_vec(), Some(&pins));
            assert_eq!(ordered.last().unwrap().digest, agreed.digest);
            let (common, own) = (all[..1].to_vec(), all[1..].to_vec());
            let ordered = in_order(common, own, Some(&pins));
            assert_eq!(ordered.last().unwrap().digest, agreed.digest, "whether or not everybody sees it");
            let is_first = ordered[0].digest == all[0].digest;
            assert_eq!(is_first, agreed.digest != all[0].digest, "what everybody sees is first if it is not agreed to");
        }
        assert_eq!(in_order(all.to_vec(), Vec::new(), None).len(), 3);
    }

    #[test]
    fn what_nothing_is_known_of_was_never_seen() {
        let (pinned, notes) = (Pinned::default(), UpstreamName::parse("notes").unwrap());
        let add = tool("notes", "add");
        let at = |number: u64| serde_json::from_value::<Revision>(number.into()).unwrap();
        assert_eq!(pinned.standing()(&add), PinStanding::FirstSeen);
        pinned.put(&notes, vec![pin("add", &add.digest), pin("delete", "0123")], at(7));
        let standing = pinned.standing();
        assert_eq!(standing(&add), PinStanding::Pinned);
        assert_eq!(standing(&tool("notes", "delete")), PinStanding::Changed);
        assert_eq!(standing(&tool("notes", "new")), PinStanding::FirstSeen);
        assert_eq!(standing(&tool("other", "add")), PinStanding::FirstSeen, "another upstream's pins are its own");

        pinned.put(&notes, Vec::new(), at(6));
        assert_eq!(pinned.standing()(&add), PinStanding::Pinned, "what was read late does not undo what is known");
        assert!(pinned.is_before(&notes, at(8)) && !pinned.is_before(&notes, at(7)));
        pinned.put(&notes, Vec::new(), at(8));
        assert_eq!(pinned.standing()(&add), PinStanding::FirstSeen);
        pinned.forget(&notes);
        assert_eq!(pinned.of(&notes), None);
        pinned.put(&notes, vec![pin("add", &add.digest)], at(9));
        assert_eq!(pinned.standing()(&add), PinStanding::Pinned, "what was forgotten can be learned again");
    }
}
