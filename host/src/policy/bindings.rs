//! The policies in force: which module, with which configuration, is asked about what.
//!
//! A set is immutable and swapped whole; requests in flight keep the set that they began with. How it comes to be is
//! [`super::publish`].
//!
//! Of the policies that are asked about a call, those that may rewrite its arguments come first and the others
//! see what became of them; within each group the order is the operator's. Bindings that are off are shown and never
//! asked; those in shadow are found apart from those whose answers count.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::arguments::InputSchemas;
use super::asked::Asked;
use super::counters::BindingCounters;
use super::decision::{Hook, ModuleName};
use super::index::{Entry, Index, Phase};
use super::manifest::Disclosure;
use super::matching::{self, About};
use super::module::{Module, ModuleInfo};
use super::prepared::{InstanceMode, Prepared};
use super::shadow::ShadowTally;
use super::visible::VisibleSets;
use crate::config::{Binding, Lines, PolicySettings, Sets, Upstream, WhenAllAbstain};
use crate::identity::Caller;
use crate::ids::{BindingName, UpstreamName};
use crate::secret::Digest;

/// Failures in a row after which a binding counts as degraded.
const DEGRADED_AFTER: u32 = 5;

/// All bindings of one generation.
#[derive(Debug)]
pub struct PolicySet {
    generation: u64,
    pub(super) when_all_abstain: WhenAllAbstain,
    /// The lists that policies may look things up in.
    pub(super) sets: Arc<Sets>,
    /// Whether decisions are recorded with their full inputs.
    pub(super) record: bool,
    /// In the operator's order.
    bindings: Vec<BoundPolicy>,
    index: Index,
    upstreams: HashMap<UpstreamName, Facts>,
    /// What was said of tools, for a while.
    pub(super) visible: VisibleSets,
    /// Input schemas of tools whose arguments were rewritten.
    pub(super) input_schemas: InputSchemas,
}

/// What the operator says of an upstream.
#[derive(Clone, Debug)]
struct Facts {
    trust: String,
    labels: Vec<String>,
}

impl PolicySet {
    /// The set of these bindings, in the operator's order, with the index by which they are found.
    pub(super) fn of(
        settings: &PolicySettings,
        bindings: Vec<BoundPolicy>,
        upstreams: &[Upstream],
        generation: u64,
    ) -> Self {
        let PolicySettings { when_all_abstain, record, sets, .. } = settings;
        Self::with((*when_all_abstain, sets.clone(), *record), bindings, upstreams, generation)
    }

    /// The same policies once more, as another generation beside these upstreams. How they have fared is forgotten.
    pub fn again(&self, upstreams: &[Upstream], generation: u64) -> Self {
        let bindings = self.bindings.iter().map(BoundPolicy::again).collect();
        Self::with((self.when_all_abstain, self.sets.clone(), self.record), bindings, upstreams, generation)
    }

    /// The same generation of the same policies beside other upstreams. How they have fared stays known.
    pub fn beside(&self, upstreams: &[Upstream]) -> Self {
        let bindings = self.bindings.iter().map(BoundPolicy::same).collect();
        let rules = (self.when_all_abstain, self.sets.clone(), self.record);
        Self::with(rules, bindings, upstreams, self.generation)
    }

    /// The same policies, or one of them alone and as somebody would have it, to be asked without anything coming of it: how
    /// they fare there, what they say and what is remembered of it is forgotten with the copy.
    pub(super) fn aside(&self, only: Option<BoundPolicy>) -> Self {
        let (bindings, when_all_abstain) = match only {
            // That one of them has no opinion is no reason to refuse.
            Some(only) => (vec![only], WhenAllAbstain::Allow),
            None => {
                let aside = |bound: &BoundPolicy| bound.aside(bound.binding.clone(), bound.prepared.aside());
                (self.bindings.iter().map(aside).collect(), self.when_all_abstain)
            }
        };
        let entries: Vec<Entry<'_>> = bindings.iter().map(BoundPolicy::entry).collect();
        let index = Index::of(&entries, self.upstreams.keys());
        Self {
            generation: self.generation,
            when_all_abstain,
            sets: self.sets.clone(),
            // What they answer is shown whole.
            record: true,
            bindings,
            index,
            upstreams: self.upstreams.clone(),
            visible: VisibleSets::default(),
            input_schemas: InputSchemas::default(),
        }
    }

    /// Whether it knows these upstreams and no others, with what the operator says of them.
    pub fn knows(&self, upstreams: &[Upstream]) -> bool {
        let is_known = |upstream: &Upstream| {
            let known = self.upstreams.get(&upstream.name);
            known.is_some_and(|known| known.trust == upstream.trust && known.labels == upstream.labels)
        };
        self.upstreams.len() == upstreams.len() && upstreams.iter().all(is_known)
    }

    fn with(
        (when_all_abstain, sets, record): (WhenAllAbstain, Arc<Sets>, bool),
        bindings: Vec<BoundPolicy>,
        upstreams: &[Upstream],
        generation: u64,
    ) -> Self {
        let entries: Vec<Entry<'_>> = bindings.iter().map(BoundPolicy::entry).collect();
        let index = Index::of(&entries, upstreams.iter().map(|upstream| &upstream.name));
        let facts = |upstream: &Upstream| Facts { trust: upstream.trust.clone(), labels: upstream.labels.clone() };
        let upstreams = upstreams.iter().map(|upstream| (upstream.name.clone(), facts(upstream))).collect();
        Self {
            generation,
            when_all_abstain,
            sets,
            record,
            bindings,
            index,
            upstreams,
            visible: VisibleSets::default(),
            input_schemas: InputSchemas::default(),
        }
    }

    /// Counts up with each set that comes into force.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether both decide alike: the same modules, bound in the same way, with the same sets.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let rules = |set: &Self| (set.when_all_abstain, set.record, set.sets.digest());
        rules(self) == rules(other)
            && self.bindings.len() == other.bindings.len()
            && self.bindings.iter().zip(&other.bindings).all(|(one, other)| one.is_same_as(other))
    }

    /// Of what makes a set decide as it does, the same on every gateway: where the files are does not matter.
    pub fn digest(&self) -> Digest {
        let mut text = format!("{:?} {:?} {}", self.when_all_abstain, self.record, self.sets.digest().to_hex());
        for bound in &self.bindings {
            let (module, binding) = (bound.module.digest(), &bound.binding);
            // Strings are quoted in this form, so that no two sets read the same.
            let Binding { name, config, matches, priority, mode, advisory, allow_rewrite, .. } = binding;
            let Binding { grants, time, memory_bytes, reuse, .. } = binding;
            let says = (name, module, config.to_string(), matches, priority, mode, advisory, allow_rewrite);
            text.push_str(&format!("\n{says:?} {:?}", (grants, time, memory_bytes, reuse)));
        }
        Digest::of(text.as_bytes())
    }

    /// What happens where policies are bound to a hook and all of them abstain.
    pub fn when_all_abstain(&self) -> WhenAllAbstain {
        self.when_all_abstain
    }

    /// The bindings in the operator's order, those that are off included.
    pub fn bindings(&self) -> &[BoundPolicy] {
        &self.bindings
    }

    /// The bindings whose answers about this count, in the order in which they are asked.
    pub(super) fn asked<'a>(
        &'a self,
        hook: Hook,
        about: About<'a>,
        caller: &'a Caller,
    ) -> impl Iterator<Item = &'a BoundPolicy> {
        self.index.find(Phase::Enforce, hook, about, caller).map(|position| &self.bindings[position])
    }

    /// The bindings in shadow that are asked about this afterwards, in order.
    pub(super) fn shadows<'a>(
        &'a self,
        hook: Hook,
        about: About<'a>,
        caller: &'a Caller,
    ) -> impl Iterator<Item = &'a BoundPolicy> {
        self.index.find(Phase::Shadow, hook, about, caller).map(|position| &self.bindings[position])
    }

    /// The bindings whose answers count for this caller and some tool or item of a list, in order. About which of them
    /// each is asked, [`BoundPolicy::matches`] tells.
    pub(super) fn asked_at_all<'a>(&'a self, hook: Hook, caller: &'a Caller) -> impl Iterator<Item = &'a BoundPolicy> {
        self.index.find_all(Phase::Enforce, hook, caller).map(|position| &self.bindings[position])
    }

    /// The same for the bindings in shadow.
    pub(super) fn shadows_at_all<'a>(
        &'a self,
        hook: Hook,
        caller: &'a Caller,
    ) -> impl Iterator<Item = &'a BoundPolicy> {
        self.index.find_all(Phase::Shadow, hook, caller).map(|position| &self.bindings[position])
    }

    /// Whether any binding's answers count at this hook, about whatever and for whomever.
    pub fn has(&self, hook: Hook) -> bool {
        self.index.has(Phase::Enforce, hook)
    }

    /// Whether any binding is in shadow at this hook.
    pub fn has_shadows(&self, hook: Hook) -> bool {
        self.index.has(Phase::Shadow, hook)
    }

    /// The operator's trust label and labels of an upstream.
    pub(super) fn facts(&self, upstream: &UpstreamName) -> (&str, &[String]) {
        self.upstreams.get(upstream).map_or(("", &[]), |known| (&known.trust, &known.labels))
    }
}

/// One binding with its module, ready to be asked.
#[derive(Debug)]
pub struct BoundPolicy {
    binding: Binding,
    /// The binding's name, as calls carry it.
    pub(super) name: Arc<str>,
    module: Arc<Module>,
    module_name: ModuleName,
    pub(super) prepared: Prepared,
    /// They outlive this set, as long as the next one has a binding of the same name.
    pub(super) counters: BindingCounters,
    notices: Notices,
    health: Arc<Health>,
    asked: Arc<Asked>,
    shadow: Arc<ShadowTally>,
}

/// What was found out about a binding when it was made.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices {
    /// What `configure` and the gateway have to say.
    pub(super) warnings: Vec<String>,
    /// How its instances come to be, in words, where that is not as it should best be.
    pub(super) remarks: Vec<String>,
    /// Names of trusted keys.
    pub(super) signed_by: Vec<String>,
}

impl BoundPolicy {
    pub(super) fn new(
        binding: Binding,
        module: Arc<Module>,
        prepared: Prepared,
        counters: BindingCounters,
        notices: Notices,
    ) -> Self {
        let name = binding.name.as_str().into();
        let manifest = module.manifest();
        let module_name = ModuleName {
            name: manifest.name.as_str().into(),
            version: manifest.version.as_str().into(),
            digest: module.digest().clone(),
        };
        Self {
            binding,
            name,
            module,
            module_name,
            prepared,
            counters,
            notices,
            health: Arc::default(),
            asked: Arc::default(),
            shadow: Arc::default(),
        }
    }

    /// The same for another generation. How it has fared is forgotten.
    pub(super) fn again(&self) -> Self {
        let prepared = self.prepared.anew();
        Self { prepared, health: Arc::default(), asked: Arc::default(), shadow: Arc::default(), ..self.same() }
    }

    /// The same policy for another generation, by a binding that says the same of it.
    pub(super) fn bound_by(&self, binding: Binding) -> Self {
        Self { binding, ..self.again() }
    }

    /// The same policy, bound and prepared otherwise, to be asked aside.
    pub(super) fn aside(&self, binding: Binding, prepared: Prepared) -> Self {
        Self { binding, prepared, ..self.again() }
    }

    fn same(&self) -> Self {
        Self {
            binding: self.binding.clone(),
            name: self.name.clone(),
            module: self.module.clone(),
            module_name: self.module_name.clone(),
            prepared: self.prepared.clone(),
            counters: self.counters.clone(),
            notices: self.notices.clone(),
            health: self.health.clone(),
            asked: self.asked.clone(),
            shadow: self.shadow.clone(),
        }
    }

    fn is_same_as(&self, other: &Self) -> bool {
        // Where it stands in the file is of no consequence.
        let bound = |bound: &Self| Binding { config_lines: Lines::default(), ..bound.binding.clone() };
        self.module.digest() == other.module.digest() && bound(self) == bound(other)
    }

    /// The module, for the next set that binds the same bytes.
    pub(super) fn loaded(&self) -> &Arc<Module> {
        &self.module
    }

    pub fn name(&self) -> &BindingName {
        &self.binding.name
    }

    /// What the operator wrote.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    pub fn module(&self) -> &ModuleInfo {
        self.module.info()
    }

    /// Which module it is, for what is written down.
    pub(super) fn module_name(&self) -> &ModuleName {
        &self.module_name
    }

    /// What `configure` and the gateway have to say about this binding.
    pub fn warnings(&self) -> &[String] {
        &self.notices.warnings
    }

    /// How its instances come to be.
    pub fn instances(&self) -> InstanceMode {
        self.prepared.mode()
    }

    /// Why its instances do not come to be in the best way, if so.
    pub fn remarks(&self) -> &[String] {
        &self.notices.remarks
    }

    /// Names of the trusted keys whose signatures the module has.
    pub fn signed_by(&self) -> &[String] {
        &self.notices.signed_by
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    /// How often it was asked, how long it took and what it said.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// What it would have done, if it is in shadow.
    pub fn shadow_tally(&self) -> &ShadowTally {
        &self.shadow
    }

    /// Whether the module has this hook and the operator wants it asked there.
    pub fn has_hook(&self, hook: Hook) -> bool {
        self.entry().has_hook(hook)
    }

    /// Whether the module wants to rewrite arguments and the operator lets it.
    pub fn may_rewrite(&self) -> bool {
        self.binding.allow_rewrite && self.module.manifest().mutates(Hook::ToolCall)
    }

    pub(super) fn disclosure(&self, hook: Hook) -> Disclosure {
        self.module.manifest().disclosure(hook)
    }

    /// Whether the module says that it changes what passes this hook.
    pub(super) fn mutates(&self, hook: Hook) -> bool {
        self.module.manifest().mutates(hook)
    }

    fn entry(&self) -> Entry<'_> {
        Entry {
            matches: &self.binding.matches,
            mode: self.binding.mode,
            hooks: &self.module.manifest().hooks,
            may_rewrite: self.may_rewrite(),
        }
    }

    /// Whether it is asked about this, if it is asked for the hook and the caller at all.
    pub(super) fn matches(&self, about: About<'_>) -> bool {
        matching::fits(&self.binding.matches, about)
    }
}

/// How a binding has fared since it was loaded.
#[derive(Debug, Default)]
pub struct Health {
    failures: AtomicU64,
    in_a_row: AtomicU32,
}

impl Health {
    /// Runs that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether its last runs all failed. It goes on being asked, and its failures go on refusing.
    pub fn is_degraded(&self) -> bool {
        self.in_a_row.load(Ordering::Relaxed) >= DEGRADED_AFTER
    }

    pub(super) fn succeeded(&self) {
        // Almost always it is zero already, and then the cache line stays shared.
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure; true when it is the one that makes the binding degraded.
    pub(super) fn failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let before = self.in_a_row.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(1));
        before == Ok(DEGRADED_AFTER - 1)
    }
}
