//! What the upstreams offer, under the names that callers see. Pure and immutable: a change is a new catalog.
//!
//! There is one [`View`] of all upstreams together and one of each alone. Together, tools and prompts carry their
//! upstream's name ([`naming`]), and of several upstreams with the same resource URI the first keeps it ([`uri`]); alone,
//! everything is called what its upstream calls it, as far as callers can take the name.
//!
//! What an upstream shows to somebody with an account there may be something else than what it shows to everybody:
//! [`Catalog::with`] makes that person's catalog of the common one and of other shelves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::ids::UpstreamName;
use crate::mcp::revision::About;
use crate::secret::Digest;
use crate::upstream::naming;

mod connect;
mod definition;
mod skill;
mod template;
mod uri;
mod view;

pub use connect::ConnectTool;
pub use definition::{
    Definition, Listed, TaskSupport, TemplateDefinition, ToolDefinition, ToolHints, UnusableDefinition,
};
pub use skill::{Skill, SkillDefinition};
pub use view::{Located, PinStanding, Prompt, Resource, Template, Tool, View};

use skill::Skills;
use template::Pattern;
use uri::Mark;

/// How often a URI that is taken is marked anew.
const MAX_MARKS: u8 = 4;

/// What one upstream contributes.
#[derive(Clone, Debug)]
pub struct Shelf {
    pub upstream: UpstreamName,
    /// Whether its tools and prompts carry its name as a prefix.
    pub prefix: bool,
    pub about: Option<Arc<About>>,
    /// `None` while nothing is known of it.
    pub offer: Option<Arc<Offer>>,
    /// Whether it is down, so that `offer` is what was last known.
    pub stale: bool,
    /// Where callers connect accounts of their own.
    pub connect: Option<ConnectTool>,
}

impl Shelf {
    /// Whether all that it has to show is how to get to see more.
    fn is_for_connecting(&self) -> bool {
        self.connect.as_ref().is_some_and(|connect| connect.is_listed)
    }
}

/// What an upstream was last seen to offer; each list in the order in which it came.
#[derive(Debug, Default)]
pub struct Offer {
    pub tools: Vec<Arc<ToolDefinition>>,
    pub prompts: Vec<Arc<Definition>>,
    pub resources: Vec<Arc<Definition>>,
    pub templates: Vec<Arc<TemplateDefinition>>,
    pub skills: Vec<Arc<SkillDefinition>>,
}

impl Offer {
    /// The same for two offers only if they have the same definitions in the same order.
    pub fn digest(&self) -> Digest {
        let mut all = Vec::new();
        add_digests(&mut all, &self.tools);
        add_digests(&mut all, &self.prompts);
        add_digests(&mut all, &self.resources);
        add_digests(&mut all, &self.templates);
        add_digests(&mut all, &self.skills);
        Digest::of(&all)
    }

    /// How much text it has, in bytes.
    pub fn bytes(&self) -> usize {
        bytes_of(&self.tools)
            + bytes_of(&self.prompts)
            + bytes_of(&self.resources)
            + bytes_of(&self.templates)
            + bytes_of(&self.skills)
    }

    /// How many things it has.
    pub fn count(&self) -> usize {
        self.tools.len() + self.prompts.len() + self.resources.len() + self.templates.len() + self.skills.len()
    }

    /// URIs that are this upstream's: of resources it lists, and of those that its tools and skills name.
    fn uris(&self) -> impl Iterator<Item = &str> {
        let listed = self.resources.iter().map(|resource| resource.key.as_str());
        let files = self.skills.iter().flat_map(|skill| skill.files()).take(skill::MAX_CLAIMS);
        listed.chain(self.tools.iter().flat_map(|tool| tool.interfaces())).chain(files)
    }

    fn uri_templates(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|template| template.key())
    }
}

fn add_digests<T: Listed>(all: &mut Vec<u8>, definitions: &[Arc<T>]) {
    all.extend_from_slice(&(definitions.len() as u64).to_be_bytes());
    for definition in definitions {
        all.extend_from_slice(definition.digest().as_bytes());
    }
}

fn bytes_of<T: Listed>(definitions: &[Arc<T>]) -> usize {
    definitions.iter().map(|definition| definition.bytes()).sum()
}

/// Says how a tool's definition stands to the one that was agreed to.
type StandingOf = dyn Fn(&ToolDefinition) -> PinStanding + Send + Sync;

#[derive(Clone)]
struct Standing(Arc<StandingOf>);

impl Default for Standing {
    fn default() -> Self {
        Self(Arc::new(|_| PinStanding::FirstSeen))
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

/// All views of what the upstreams offer.
#[derive(Debug, Default)]
pub struct Catalog {
    merged: Arc<View>,
    alone: BTreeMap<UpstreamName, Arc<View>>,
    /// What it was made of, by name.
    shelves: BTreeMap<UpstreamName, Shelf>,
    /// Upstreams that may show each person something else.
    personal: Vec<UpstreamName>,
    standing: Standing,
}

impl Catalog {
    /// Places what the upstreams offer; `standing` says whether a tool's definition was agreed to. The order of the
    /// shelves does not matter.
    pub fn build(shelves: &[Shelf], standing: impl Fn(&ToolDefinition) -> PinStanding + Send + Sync + 'static) -> Self {
        let shelves: BTreeMap<UpstreamName, Shelf> =
            shelves.iter().map(|shelf| (shelf.upstream.clone(), shelf.clone())).collect();
        let made = Self::of(shelves, Standing(Arc::new(standing)), |_| None);
        for (upstream, skills) in made.merged.skills.behind() {
            tracing::warn!(%upstream, skills, "another upstream has files where these skills have theirs and comes first");
        }
        made
    }

    /// The same with other shelves in the place of those of their upstreams.
    #[must_use]
    pub fn with(&self, others: Vec<Shelf>) -> Self {
        let mut shelves = self.shelves.clone();
        let mut changed = HashSet::new();
        for other in others {
            changed.insert(other.upstream.clone());
            shelves.insert(other.upstream.clone(), other);
        }
        let kept = |upstream: &UpstreamName| self.alone.get(upstream).filter(|_| !changed.contains(upstream)).cloned();
        Self::of(shelves, self.standing.clone(), kept)
    }

    /// `kept`: views of upstreams alone that are there already.
    fn of(
        shelves: BTreeMap<UpstreamName, Shelf>,
        standing: Standing,
        kept: impl Fn(&UpstreamName) -> Option<Arc<View>>,
    ) -> Self {
        let all: Vec<&Shelf> = shelves.values().collect();
        let alone = |shelf: &&Shelf| {
            let view = kept(&shelf.upstream).unwrap_or_else(|| Arc::new(View::of(&[shelf], Names::Own, &*standing.0)));
            (shelf.upstream.clone(), view)
        };
        let alone = all.iter().map(alone).collect();
        let merged = Arc::new(View::of(&all, Names::Prefixed, &*standing.0));
        let takes_own = |shelf: &&&Shelf| shelf.connect.is_some();
        let personal = all.iter().filter(takes_own).map(|shelf| shelf.upstream.clone()).collect();
        Self { merged, alone, shelves, personal, standing }
    }

    /// What it has of an upstream.
    pub fn shelf(&self, upstream: &UpstreamName) -> Option<&Shelf> {
        self.shelves.get(upstream)
    }

    /// Upstreams that may show each person something else; in name order.
    pub fn personal(&self) -> &[UpstreamName] {
        &self.personal
    }

    /// What there is of one upstream, or of all together; `None` if there is no such upstream.
    pub fn view(&self, upstream: Option<&UpstreamName>) -> Option<&Arc<View>> {
        upstream.map_or(Some(&self.merged), |upstream| self.alone.get(upstream))
    }

    /// How many tools all upstreams have together.
    pub fn len(&self) -> usize {
        self.merged.tools_after(None).filter(|tool| !tool.is_connect).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How tools and prompts are called in a view.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// As their upstream calls them.
    Own,
    /// With its prefix, unless the upstream goes without. A bare name is never one with an upstream's prefix.
    Prefixed,
}

impl View {
    /// `shelves` are in name order.
    fn of(shelves: &[&Shelf], names: Names, standing: &StandingOf) -> Self {
        let offers: Vec<(&UpstreamName, &Offer)> =
            shelves.iter().filter_map(|shelf| shelf.offer.as_deref().map(|offer| (&shelf.upstream, offer))).collect();
        let uris = Uris::assign(&offers, |offer| Box::new(offer.uris()));
        let templates = Uris::assign(&offers, |offer| Box::new(offer.uri_templates()));

        let tools = exposed(shelves, names, |offer| &offer.tools, |tool| &tool.name);
        let tools = tools
            .into_iter()
            .map(|(tool, name)| Tool::placed(tool, standing(tool), name, |uri| uris.exposed(&tool.upstream, uri)));
        let mut tools: Vec<Tool> = tools.collect();
        let mut unlisted = connect::Unlisted::default();
        let is_taken = |exposed: &str| tools.iter().any(|tool| tool.exposed == exposed);
        for (tool, connect) in connect::placed(shelves, names, is_taken) {
            if connect.is_listed {
                tools.push(tool);
            } else {
                unlisted.put(tool);
            }
        }
        let prompts = exposed(shelves, names, |offer| &offer.prompts, |prompt| &prompt.key);
        let prompts = prompts.into_iter().map(|(prompt, exposed)| Prompt {
            upstream: prompt.upstream.clone(),
            name: prompt.key.clone(),
            listed: prompt.listed(&exposed),
            exposed,
        });
        let resources = offers.iter().flat_map(|(_, offer)| &offer.resources).filter_map(|resource| {
            let exposed = uris.exposed(&resource.upstream, &resource.key)?.to_owned();
            let (upstream, uri) = (resource.upstream.clone(), resource.key.clone());
            let (mime, listed) = (resource.mime.clone(), resource.listed(&exposed));
            Some(Resource { upstream, uri, mime, listed, exposed })
        });
        let templates = offers.iter().flat_map(|(_, offer)| &offer.templates).filter_map(|template| {
            let TemplateDefinition { definition, pattern } = &**template;
            let exposed = templates.exposed(&definition.upstream, &definition.key)?.to_owned();
            let mark = templates.marked(&definition.upstream, &definition.key).map(|(mark, _)| mark.clone());
            let pattern = if mark.is_some() { Pattern::parse(&exposed).map(Arc::new) } else { pattern.clone() };
            let (upstream, uri_template) = (definition.upstream.clone(), definition.key.clone());
            let (mime, listed) = (definition.mime.clone(), definition.listed(&exposed));
            Some(Template { upstream, uri_template, mime, listed, exposed, pattern, mark })
        });

        let mut view = Self {
            tools: tools.into_iter().collect(),
            connects: unlisted,
            prompts: prompts.collect(),
            resources: resources.collect(),
            templates: templates.collect(),
            skills: Skills::assign(&offers, |uri| uris.keepers.get(uri).copied()),
            unlisted: HashMap::new(),
            matched: Vec::new(),
            abouts: shelves.iter().filter_map(|shelf| Some((shelf.upstream.clone(), shelf.about.clone()?))).collect(),
            missing: names_of(shelves, |shelf| shelf.offer.is_none() && !shelf.is_for_connecting()),
            stale: names_of(shelves, |shelf| shelf.stale && shelf.offer.is_some()),
        };
        view.unlisted = uris.of_interfaces(&offers);
        view.matched = view.templates_after(None).filter(|template| template.pattern.is_some()).cloned().collect();
        // Stable: matches that are as close stay in order.
        let closeness = |template: &Arc<Template>| template.pattern.as_ref().map(|pattern| pattern.literal_bytes());
        view.matched.sort_by_key(|template| std::cmp::Reverse(closeness(template)));
        view
    }
}

fn names_of(shelves: &[&Shelf], which: impl Fn(&Shelf) -> bool) -> Vec<UpstreamName> {
    shelves.iter().filter(|shelf| which(shelf)).map(|shelf| shelf.upstream.clone()).collect()
}

/// Gives each definition of one kind the name that callers see. What finds no free name is left out.
fn exposed<'a, T>(
    shelves: &[&'a Shelf],
    names: Names,
    list: impl Fn(&'a Offer) -> &'a Vec<Arc<T>>,
    name: impl Fn(&'a T) -> &'a str,
) -> Vec<(&'a Arc<T>, String)> {
    let has_prefix = |name: &str| shelves.iter().any(|shelf| naming::is_of(&shelf.upstream, name));
    let mut taken = HashSet::new();
    let mut placed = Vec::new();
    for shelf in shelves {
        let Some(offer) = &shelf.offer else { continue };
        // Independent of the order in which the upstream lists them.
        let mut definitions: Vec<&'a Arc<T>> = list(offer).iter().collect();
        definitions.sort_by_key(|definition| name(definition));
        for definition in definitions {
            let name = name(definition);
            let bare = naming::candidates(None, name);
            let bare: Vec<String> = match (names, shelf.prefix) {
                (Names::Own, _) => bare.collect(),
                (Names::Prefixed, true) => Vec::new(),
                (Names::Prefixed, false) => bare.take(1).filter(|bare| !has_prefix(bare)).collect(),
            };
            let prefixed = naming::candidates(Some(&shelf.upstream), name);
            if let Some(free) = bare.into_iter().chain(prefixed).find(|exposed| !taken.contains(exposed)) {
                taken.insert(free.clone());
                placed.push((definition, free));
            }
        }
    }
    placed
}

/// Who has which URI, or URI template.
#[derive(Default)]
struct Uris<'a> {
    keepers: HashMap<&'a str, &'a UpstreamName>,
    marked: HashMap<&'a UpstreamName, HashMap<&'a str, (Mark, String)>>,
}

impl<'a> Uris<'a> {
    /// The first of several upstreams keeps a URI; the others' are marked so that they are nobody else's. `offers` are in
    /// name order.
    fn assign(
        offers: &[(&'a UpstreamName, &'a Offer)],
        uris: impl Fn(&'a Offer) -> Box<dyn Iterator<Item = &'a str> + 'a>,
    ) -> Self {
        let mut assigned = Self::default();
        let mut clashes = Vec::new();
        for (upstream, offer) in offers {
            for uri in uris(offer) {
                if *assigned.keepers.entry(uri).or_insert(upstream) != *upstream {
                    clashes.push((*upstream, uri));
                }
            }
        }
        // Independent of the order in which the upstreams list them.
        clashes.sort();
        clashes.dedup();
        let mut taken = HashSet::new();
        for (upstream, uri) in clashes {
            let marks = (0..MAX_MARKS).map(|attempt| Mark::of(upstream, uri, attempt));
            let mut free = marks.map(|mark| (mark.put(uri), mark));
            let is_free = |exposed: &str| !assigned.keepers.contains_key(exposed) && !taken.contains(exposed);
            if let Some((exposed, mark)) = free.find(|(exposed, _)| is_free(exposed)) {
                taken.insert(exposed.clone());
                assigned.marked.entry(upstream).or_default().insert(uri, (mark, exposed));
            }
        }
        assigned
    }

    /// Under which URI callers see this one of this upstream; `None` if there is no free one.
    fn exposed<'b>(&'b self, upstream: &UpstreamName, uri: &'b str) -> Option<&'b str> {
        match self.marked(upstream, uri) {
            Some((_, exposed)) => Some(exposed),
            None => self.keepers.get(uri).is_some_and(|keeper| *keeper == upstream).then_some(uri),
        }
    }

    fn marked(&self, upstream: &UpstreamName, uri: &str) -> Option<&(Mark, String)> {
        self.marked.get(upstream)?.get(uri)
    }

    /// Where the URIs lead that tools name and that no list has.
    fn of_interfaces(&self, offers: &[(&UpstreamName, &Offer)]) -> HashMap<String, Located> {
        let mut located = HashMap::new();
        for (upstream, offer) in offers {
            let listed: HashSet<&str> = offer.resources.iter().map(|resource| resource.key.as_str()).collect();
            let named = offer.tools.iter().flat_map(|tool| tool.interfaces());
            for uri in named.filter(|uri| !listed.contains(uri)) {
                if let Some(exposed) = self.exposed(upstream, uri) {
                    let place = Located { upstream: (*upstream).clone(), uri: uri.to_owned() };
                    located.insert(exposed.to_owned(), place);
                }
            }
        }
        located
    }
}

#[cfg(test)]
mod tests;
