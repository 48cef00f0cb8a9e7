//! What callers see: all upstreams together, or one of them alone.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::connect::Unlisted;
use super::definition::ToolDefinition;
use super::skill::{Skill, Skills};
use super::template::Pattern;
use super::uri::Mark;
use crate::ids::UpstreamName;
use crate::mcp::revision::About;

/// Work that one look-up of a URI may be, in bytes looked at for a part of a template.
const MAX_MATCHING_STEPS: usize = 4_000_000;

/// Most resources below a directory that are looked at to tell whose it is.
const MAX_BELOW: usize = 1_000;

/// Whether a tool's definition is one that was agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinStanding {
    /// It is the one that is pinned.
    Pinned,
    /// None is pinned: the tool came after its upstream's others.
    FirstSeen,
    /// Another one is pinned.
    Changed,
}

/// A tool under the name that callers see. Otherwise it is its definition, which all views share.
#[derive(Debug)]
pub struct Tool {
    definition: Arc<ToolDefinition>,
    /// How its definition stands to the one that is pinned.
    pub standing: PinStanding,
    /// The name that callers see.
    pub exposed: String,
    /// The definition under its exposed name, ready to be listed.
    pub listed: Arc<RawValue>,
}

impl Tool {
    /// A tool with a pinned definition under a name, all else in it as its upstream has it.
    pub fn new(definition: Arc<ToolDefinition>, exposed: String) -> Self {
        let listed = definition.listed(&exposed, |_| None);
        Self { definition, standing: PinStanding::Pinned, exposed, listed }
    }

    /// A tool under a name, with the URIs that `exposed_uri` gives for the resources that show its results.
    pub(super) fn placed<'a>(
        definition: &'a Arc<ToolDefinition>,
        standing: PinStanding,
        exposed: String,
        exposed_uri: impl Fn(&'a str) -> Option<&'a str>,
    ) -> Self {
        let listed = definition.listed(&exposed, exposed_uri);
        Self { definition: definition.clone(), standing, exposed, listed }
    }
}

impl Deref for Tool {
    type Target = ToolDefinition;

    fn deref(&self) -> &ToolDefinition {
        &self.definition
    }
}

/// A prompt of one upstream.
#[derive(Debug)]
pub struct Prompt {
    pub upstream: UpstreamName,
    /// The upstream's own name for it.
    pub name: String,
    /// The name that callers see.
    pub exposed: String,
    /// The definition under its exposed name, ready to be listed.
    pub listed: Arc<RawValue>,
}

/// A resource of one upstream.
#[derive(Debug)]
pub struct Resource {
    pub upstream: UpstreamName,
    /// The upstream's own URI for it.
    pub uri: String,
    /// The URI that callers see: the same, unless another upstream has it.
    pub exposed: String,
    pub mime: Option<String>,
    /// The definition under its exposed URI, ready to be listed.
    pub listed: Arc<RawValue>,
}

/// A resource template of one upstream.
#[derive(Debug)]
pub struct Template {
    pub upstream: UpstreamName,
    /// The upstream's own.
    pub uri_template: String,
    /// What callers see: the same, unless another upstream has it.
    pub exposed: String,
    pub mime: Option<String>,
    /// The definition under its exposed template, ready to be listed.
    pub listed: Arc<RawValue>,
    pub(super) pattern: Option<Arc<Pattern>>,
    /// What the exposed one has and the upstream's own has not.
    pub(super) mark: Option<Mark>,
}

impl Template {
    /// The upstream's own URI for one that comes of the exposed template.
    fn own_uri(&self, uri: &str) -> Option<String> {
        match &self.mark {
            Some(mark) => mark.take_off(uri),
            None => Some(uri.to_owned()),
        }
    }
}

/// Where a URI leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub upstream: UpstreamName,
    /// The upstream's own URI.
    pub uri: String,
}

/// What has a name or URI that callers see.
pub(super) trait Exposed {
    fn exposed(&self) -> &str;
}

macro_rules! exposed {
    ($($type:ty),*) => {$(
        impl Exposed for $type {
            fn exposed(&self) -> &str {
                &self.exposed
            }
        }
    )*};
}

exposed!(Tool, Prompt, Resource, Template);

/// Things in the order of their exposed names, which are unique.
#[derive(Debug)]
pub(super) struct Listing<T>(Vec<Arc<T>>);

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Exposed> FromIterator<T> for Listing<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items: Vec<Arc<T>> = items.into_iter().map(Arc::new).collect();
        items.sort_by(|one, other| one.exposed().cmp(other.exposed()));
        Self(items)
    }
}

impl<T: Exposed> Listing<T> {
    fn get(&self, exposed: &str) -> Option<&Arc<T>> {
        let at = self.0.binary_search_by(|item| item.exposed().cmp(exposed)).ok()?;
        self.0.get(at)
    }

    fn position(&self, item: &Arc<T>) -> Option<usize> {
        let at = self.0.binary_search_by(|known| known.exposed().cmp(item.exposed())).ok()?;
        Arc::ptr_eq(&self.0[at], item).then_some(at)
    }

    fn after(&self, exposed: Option<&str>) -> std::slice::Iter<'_, Arc<T>> {
        let begin = exposed.map_or(0, |exposed| self.0.partition_point(|item| item.exposed() <= exposed));
        self.0[begin..].iter()
    }
}

/// Everything that callers of one endpoint can see, policies and access aside. Lists are in the order of exposed names.
#[derive(Debug, Default)]
pub struct View {
    pub(super) tools: Listing<Tool>,
    /// Tools by which upstreams are connected, for those who know their names.
    pub(super) connects: Unlisted,
    pub(super) prompts: Listing<Prompt>,
    pub(super) resources: Listing<Resource>,
    pub(super) templates: Listing<Template>,
    pub(super) skills: Skills,
    /// The closest first.
    pub(super) matched: Vec<Arc<Template>>,
    /// Resources that no list has, but a tool names: by exposed URI.
    pub(super) unlisted: HashMap<String, Located>,
    pub(super) abouts: BTreeMap<UpstreamName, Arc<About>>,
    pub(super) missing: Vec<UpstreamName>,
    pub(super) stale: Vec<UpstreamName>,
}

impl View {
    /// The tool that callers see under this name, or know under it without seeing it.
    pub fn tool(&self, exposed: &str) -> Option<&Arc<Tool>> {
        self.tools.get(exposed).or_else(|| self.connects.get(exposed))
    }

    /// How many things it lists.
    pub fn count(&self) -> usize {
        self.tools.0.len() + self.prompts.0.len() + self.resources.0.len() + self.templates.0.len()
    }

    /// The prompt that callers see under this name.
    pub fn prompt(&self, exposed: &str) -> Option<&Arc<Prompt>> {
        self.prompts.get(exposed)
    }

    /// The resource that callers see under this URI, if it is listed.
    pub fn resource(&self, exposed: &str) -> Option<&Arc<Resource>> {
        self.resources.get(exposed)
    }

    /// The resource template that callers see as this.
    pub fn template(&self, exposed: &str) -> Option<&Arc<Template>> {
        self.templates.get(exposed)
    }

    /// Where a tool stands among the tools; `None` if it is not this view's.
    pub fn position(&self, tool: &Arc<Tool>) -> Option<usize> {
        self.tools.position(tool)
    }

    /// Tools in order, beginning after a name.
    pub fn tools_after(&self, exposed: Option<&str>) -> std::slice::Iter<'_, Arc<Tool>> {
        self.tools.after(exposed)
    }

    /// Prompts in order, beginning after a name.
    pub fn prompts_after(&self, exposed: Option<&str>) -> std::slice::Iter<'_, Arc<Prompt>> {
        self.prompts.after(exposed)
    }

    /// Resources in order, beginning after a URI.
    pub fn resources_after(&self, exposed: Option<&str>) -> std::slice::Iter<'_, Arc<Resource>> {
        self.resources.after(exposed)
    }

    /// Resource templates in order, beginning after one.
    pub fn templates_after(&self, exposed: Option<&str>) -> std::slice::Iter<'_, Arc<Template>> {
        self.templates.after(exposed)
    }

    /// Skills in order, beginning after a URI; which of them a caller has is said by [`Skill::is_shown`].
    pub fn skills_after(&self, uri: Option<&str>) -> std::slice::Iter<'_, Arc<Skill>> {
        self.skills.after(uri)
    }

    /// The skills that have their `SKILL.md` at a URI.
    pub fn skills_at(&self, uri: &str) -> &[Arc<Skill>] {
        self.skills.at(uri)
    }

    /// An upstream's skills that a URI is a file of, or in whose directory it is.
    pub fn skills_around<'a>(
        &'a self,
        upstream: &'a UpstreamName,
        uri: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Skill>> {
        self.skills.of_file(upstream, uri)
    }

    /// Whose skill a URI may be that no list has, at most one of each upstream: as [`Self::locate`] has it, or of the
    /// upstream with skills, if there is only one. A skill is known under its own URI alone.
    pub fn locate_skill(&self, uri: &str) -> Vec<Located> {
        let mut located = self.locate(uri);
        if located.is_empty() {
            let mut with_skills = self.abouts.iter().filter(|(_, about)| about.capabilities.has_skills());
            if let (Some((only, _)), None) = (with_skills.next(), with_skills.next()) {
                located.push(Located { upstream: only.clone(), uri: uri.to_owned() });
            }
        }
        let has_skills =
            |upstream: &UpstreamName| self.abouts.get(upstream).is_some_and(|about| about.capabilities.has_skills());
        located.retain(|found| found.uri == uri && has_skills(&found.upstream));
        located
    }

    /// Whose resource a URI may be, at most one of each upstream, the likeliest first: the one that lists it or whose
    /// tool names it, then those with a skill that it is of, then those with a template that it may come of, the closest
    /// match first. If there is none, those that list something below it, as below a directory; if there is none either,
    /// the upstream with resources, if there is only one.
    pub fn locate(&self, uri: &str) -> Vec<Located> {
        let listed = self.resources.get(uri);
        let listed = listed.map(|found| Located { upstream: found.upstream.clone(), uri: found.uri.clone() });
        let mut located: Vec<Located> = listed.or_else(|| self.unlisted.get(uri).cloned()).into_iter().collect();
        for upstream in self.skills.around(uri) {
            if located.iter().all(|known| known.upstream != *upstream) {
                located.push(Located { upstream: upstream.clone(), uri: uri.to_owned() });
            }
        }
        let mut budget = MAX_MATCHING_STEPS;
        for template in &self.matched {
            let is_new = located.iter().all(|known| known.upstream != template.upstream);
            let matches = |pattern: &Arc<Pattern>| pattern.matches(uri, &mut budget);
            if is_new
                && template.pattern.as_ref().is_some_and(matches)
                && let Some(uri) = template.own_uri(uri)
            {
                located.push(Located { upstream: template.upstream.clone(), uri });
            }
        }
        if located.is_empty() {
            located = self.locate_directory(uri);
        }
        if located.is_empty() {
            let mut with_resources = self.abouts.iter().filter(|(_, about)| about.capabilities.resources);
            if let (Some((only, _)), None) = (with_resources.next(), with_resources.next()) {
                located.push(Located { upstream: only.clone(), uri: uri.to_owned() });
            }
        }
        located
    }

    /// Those that list resources or skills whose URIs go on where this one ends.
    fn locate_directory(&self, uri: &str) -> Vec<Located> {
        let directory = format!("{}/", uri.strip_suffix('/').unwrap_or(uri));
        let resources =
            self.resources.after(Some(&directory)).map(|found| (&found.upstream, &found.exposed, &found.uri));
        let skills = self.skills.after(Some(&directory)).map(|found| (&found.upstream, &found.uri, &found.uri));
        let resources = resources.take_while(|(_, exposed, _)| exposed.starts_with(&directory)).take(MAX_BELOW);
        let skills = skills.take_while(|(_, exposed, _)| exposed.starts_with(&directory)).take(MAX_BELOW);
        let mut located: Vec<Located> = Vec::new();
        for (upstream, exposed, own) in resources.chain(skills) {
            let is_new = located.iter().all(|known| known.upstream != *upstream);
            // What the two URIs of a resource differ in stands at their beginning.
            let own = exposed.strip_prefix(uri).and_then(|rest| own.strip_suffix(rest));
            if let Some(own) = own.filter(|own| is_new && !own.is_empty()) {
                located.push(Located { upstream: upstream.clone(), uri: own.to_owned() });
            }
        }
        located
    }

    /// The upstreams that said something of themselves, whether or not they are up now; in name order.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamName> {
        self.abouts.keys()
    }

    /// What an upstream says of itself.
    pub fn about(&self, upstream: &UpstreamName) -> Option<&Arc<About>> {
        self.abouts.get(upstream)
    }

    /// Upstreams of which nothing is known; in name order.
    pub fn missing(&self) -> &[UpstreamName] {
        &self.missing
    }

    /// Upstreams that are down, and are listed with what was last known of them; in name order.
    pub fn stale(&self) -> &[UpstreamName] {
        &self.stale
    }
}
