//! What policies said of the tools of a view, remembered for a while: for each caller a set of bits, and the texts that
//! policies put in the place of others.
//!
//! It serves every page of a list and the question whether a tool that is called is hidden. Only what pure policies said
//! of a tool is remembered, so that asking them again would give the same; what failed is not. Everything that policies
//! see and that can differ between requests of one caller is part of the key, but for the time and the decision's own
//! name.
//!
//! The set of policies, the lists they look things up in and the view are part of it too: a new generation begins with
//! nothing, and a new catalog has other views.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::sync::Cache;

use super::answer::Override;
use super::asking::CallContext;
use super::bindings::{BoundPolicy, PolicySet};
use crate::env::Timestamp;
use crate::secret::Digest;
use crate::upstream::catalog::{Tool, View};

/// How long anything is remembered.
const LIFE: Duration = Duration::from_secs(60);
/// Memory for all that one set of policies said, in bytes.
const MAX_BYTES: u64 = 32 << 20;
/// What an entry costs besides its content.
const OVERHEAD_BYTES: usize = 256;

/// What is known of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is shown, with these texts.
    Shown(Override),
    /// It is hidden: by the binding at this position, or since none showed it.
    Hidden(Option<u16>),
}

/// All that one set of policies said.
pub(super) struct VisibleSets(Cache<[u8; 32], Arc<VisibleSet>>);

impl Default for VisibleSets {
    fn default() -> Self {
        let weight = |_: &[u8; 32], set: &Arc<VisibleSet>| set.weight();
        Self(Cache::builder().max_capacity(MAX_BYTES).weigher(weight).time_to_live(LIFE).build())
    }
}

impl std::fmt::Debug for VisibleSets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VisibleSets").field("entries", &self.0.entry_count()).finish()
    }
}

/// What was said to one caller of the tools of one view.
#[derive(Clone, Debug)]
struct VisibleSet {
    /// Keeps the view's address from being another view's.
    _view: Weak<View>,
    begun: Timestamp,
    known: Bits,
    shown: Bits,
    texts: BTreeMap<u32, Override>,
    hidden_by: BTreeMap<u32, u16>,
}

/// One bit for each tool of a view.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn for_many(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn has(&self, at: u32) -> bool {
        self.0.get(at as usize / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    fn set(&mut self, at: u32) {
        if let Some(word) = self.0.get_mut(at as usize / 64) {
            *word |= 1 << (at % 64);
        }
    }
}

impl VisibleSet {
    fn of(view: &Arc<View>, begun: Timestamp) -> Self {
        let tools = view.tools_after(None).len();
        Self {
            _view: Arc::downgrade(view),
            begun,
            known: Bits::for_many(tools),
            shown: Bits::for_many(tools),
            texts: BTreeMap::new(),
            hidden_by: BTreeMap::new(),
        }
    }

    fn get(&self, at: u32) -> Option<Known> {
        if !self.known.has(at) {
            None
        } else if self.shown.has(at) {
            Some(Known::Shown(self.texts.get(&at).cloned().unwrap_or_default()))
        } else {
            Some(Known::Hidden(self.hidden_by.get(&at).copied()))
        }
    }

    fn learn(&mut self, at: u32, known: Known) {
        if self.known.has(at) {
            return;
        }
        self.known.set(at);
        match known {
            Known::Shown(texts) => {
                self.shown.set(at);
                if texts != Override::default() {
                    self.texts.insert(at, texts);
                }
            }
            Known::Hidden(by) => {
                if let Some(by) = by {
                    self.hidden_by.insert(at, by);
                }
            }
        }
    }

    fn weight(&self) -> u32 {
        const ENTRY_BYTES: usize = 48;
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let texts: usize =
            self.texts.values().map(|texts| ENTRY_BYTES + text(&texts.title) + text(&texts.description)).sum();
        let bits = 8 * (self.known.0.len() + self.shown.0.len());
        u32::try_from(OVERHEAD_BYTES + bits + texts + ENTRY_BYTES * self.hidden_by.len()).unwrap_or(u32::MAX)
    }
}

/// What is remembered for one caller and view.
pub(super) struct Memory<'a> {
    sets: &'a VisibleSets,
    key: [u8; 32],
    view: &'a Arc<View>,
    now: Timestamp,
    set: Option<Arc<VisibleSet>>,
}

impl VisibleSets {
    /// What is remembered for the caller and view of `ctx`.
    pub(super) fn of<'a>(&'a self, ctx: &CallContext<'a>) -> Option<Memory<'a>> {
        let view = ctx.view?;
        let key = key(ctx, view);
        let is_fresh = |set: &Arc<VisibleSet>| {
            ctx.now >= set.begun && ctx.now.as_millis() - set.begun.as_millis() < LIFE.as_millis() as u64
        };
        let set = self.0.get(&key).filter(is_fresh);
        Some(Memory { sets: self, key, view, now: ctx.now, set })
    }
}

impl Memory<'_> {
    /// What is known of a tool.
    pub(super) fn get(&self, tool: &Arc<Tool>) -> Option<Known> {
        let set = self.set.as_ref()?;
        set.get(self.position(tool)?)
    }

    /// Remembers what was said of tools. It is as old as the oldest of what is remembered with it.
    pub(super) fn learn<'t>(self, said: impl IntoIterator<Item = (&'t Arc<Tool>, Known)>) {
        let said: Vec<(u32, Known)> =
            said.into_iter().filter_map(|(tool, known)| Some((self.position(tool)?, known))).collect();
        if said.is_empty() {
            return;
        }
        let mut set = match &self.set {
            Some(set) => VisibleSet::clone(set),
            None => VisibleSet::of(self.view, self.now),
        };
        for (at, known) in said {
            set.learn(at, known);
        }
        self.sets.0.insert(self.key, Arc::new(set));
    }

    fn position(&self, tool: &Arc<Tool>) -> Option<u32> {
        u32::try_from(self.view.position(tool)?).ok()
    }
}

/// Everything that what policies say can depend on. Each part has its length before it, so that no two read the same.
fn key(ctx: &CallContext<'_>, view: &Arc<View>) -> [u8; 32] {
    let CallContext { decision: _, now: _, trace_id: _, trace: _, charges: _, satisfied: _, view: _, .. } = ctx;
    let mut text = Vec::with_capacity(256);
    let mut push = |part: &[u8]| {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part);
    };
    push(&(Arc::as_ptr(view).addr() as u64).to_be_bytes());
    push(ctx.caller.principal.to_string().as_bytes());
    push(ctx.caller.client_id().as_bytes());
    push(ctx.caller.claims.as_deref().unwrap_or_default().as_bytes());
    for list in [&ctx.caller.scopes, &ctx.caller.groups] {
        push(&(list.len() as u64).to_be_bytes());
        list.iter().for_each(|token| push(token.as_bytes()));
    }
    push(ctx.revision.as_bytes());
    push(&[ctx.transport as u8]);
    for part in [ctx.session, ctx.user_agent] {
        push(&[u8::from(part.is_some())]);
        push(part.unwrap_or_default().as_bytes());
    }
    match ctx.remote_ip {
        None => push(b""),
        Some(std::net::IpAddr::V4(address)) => push(&address.octets()),
        Some(std::net::IpAddr::V6(address)) => push(&address.octets()),
    }
    *Digest::of(&text).as_bytes()
}

impl PolicySet {
    /// The position of a binding, to be remembered.
    pub(super) fn position(&self, policy: &BoundPolicy) -> Option<u16> {
        let position = self.bindings().iter().position(|bound| std::ptr::eq(bound, policy))?;
        u16::try_from(position).ok()
    }
}

/// Whether a policy says the same whenever it is asked the same.
pub(super) fn is_pure(policy: &BoundPolicy) -> bool {
    policy.module().manifest.is_pure()
}
