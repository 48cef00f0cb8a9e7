//! Skills (SEP-2640): directories of resources with a `SKILL.md`, listed with the digest of each file.
//!
//! The digests are over the bytes of files that name each other, so that a skill can have no other URIs than its
//! upstream's. Where two upstreams have the same directory, or one has a directory within the other's, a caller of both
//! has the skill of the first in name order only; a caller of one has that one's. The same holds for a skill with a file
//! that another upstream keeps as its resource.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::definition::MAX_KEY_BYTES;
use super::{Definition, Listed, Offer, UnusableDefinition};
use crate::ids::UpstreamName;
use crate::secret::Digest;

/// Files of one skill that are looked at. SEP-2640 allows no more.
const MAX_FILES: usize = 512;
/// Files of all skills of one upstream that are looked at.
pub(super) const MAX_CLAIMS: usize = 100_000;
/// Directories above a URI that are looked at.
const MAX_ABOVE: usize = 16;

const MANIFEST: &str = "/SKILL.md";

/// A skill as its upstream defines it.
#[derive(Debug)]
pub struct SkillDefinition {
    /// Its key is the URI of its `SKILL.md`.
    pub definition: Definition,
    /// URIs of its files, its `SKILL.md` among them, as far as they are in its directory.
    files: Vec<String>,
}

impl SkillDefinition {
    /// Reads one element of `skills`. Whether what it says of its files is right is for hosts to check.
    ///
    /// # Errors
    /// [`UnusableDefinition`].
    pub fn parse(upstream: &UpstreamName, definition: &RawValue) -> Result<Self, UnusableDefinition> {
        #[derive(Deserialize)]
        struct Entry<'a> {
            #[serde(borrow, default)]
            resources: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct File {
            uri: String,
        }
        let entry: Entry<'_> = serde_json::from_str(definition.get()).map_err(|_| UnusableDefinition::Malformed)?;
        let definition = Definition::parse(upstream, definition, "uri")?;
        let listed: Option<Vec<&RawValue>> = entry.resources.and_then(|files| serde_json::from_str(files.get()).ok());
        let mut files = vec![definition.key.clone()];
        for file in listed.unwrap_or_default().into_iter().take(MAX_FILES) {
            let Ok(File { uri }) = serde_json::from_str(file.get()) else { continue };
            if uri.len() <= MAX_KEY_BYTES && uri != definition.key && is_below(root(&definition.key), &uri) {
                files.push(uri);
            }
        }
        Ok(Self { definition, files })
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }
}

impl Listed for SkillDefinition {
    fn key(&self) -> &str {
        self.definition.key()
    }

    fn digest(&self) -> Digest {
        self.definition.digest()
    }

    fn bytes(&self) -> usize {
        self.definition.bytes()
    }
}

/// A skill of one upstream, under its own URI.
#[derive(Debug)]
pub struct Skill {
    pub upstream: UpstreamName,
    /// Of its `SKILL.md`. Another upstream's skill may have the same.
    pub uri: String,
    /// The definition, ready to be listed.
    pub listed: Arc<RawValue>,
    /// Upstreams that have what this skill's URIs lead to, for callers who may use them.
    behind: Vec<UpstreamName>,
}

impl Skill {
    /// Whether a caller who may use these upstreams has it. Of several skills with the same URI, one is shown at most.
    pub fn is_shown(&self, may: impl Fn(&UpstreamName) -> bool) -> bool {
        may(&self.upstream) && !self.behind.iter().any(may)
    }
}

/// All skills, and whose directories lead where.
#[derive(Debug, Default)]
pub(super) struct Skills {
    /// In the order of their URIs, then of their upstreams.
    skills: Vec<Arc<Skill>>,
    /// Those that have a skill in a directory, in name order.
    roots: HashMap<String, Vec<UpstreamName>>,
}

impl Skills {
    /// `offers` are in name order; `keeper` says which upstream keeps a URI as its resource, if it is one.
    pub(super) fn assign<'a>(
        offers: &[(&'a UpstreamName, &'a Offer)],
        keeper: impl Fn(&str) -> Option<&'a UpstreamName>,
    ) -> Self {
        let mut roots: HashMap<&'a str, Vec<&'a UpstreamName>> = HashMap::new();
        for (upstream, skill) in every(offers) {
            let upstreams = roots.entry(root(skill.key())).or_default();
            if upstreams.last() != Some(&upstream) {
                upstreams.push(upstream);
            }
        }
        let mut behind: HashMap<(&'a UpstreamName, &'a str), BTreeSet<&'a UpstreamName>> = HashMap::new();
        for (upstream, skill) in every(offers) {
            let inner = root(skill.key());
            for outer in above(inner) {
                for other in roots.get(outer).into_iter().flatten().copied().filter(|other| *other != upstream) {
                    let (later, earlier) =
                        if other < upstream { ((upstream, inner), other) } else { ((other, outer), upstream) };
                    behind.entry(later).or_default().insert(earlier);
                }
            }
        }
        let skills = every(offers).map(|(upstream, skill)| {
            let mut others = behind.get(&(upstream, root(skill.key()))).cloned().unwrap_or_default();
            others.extend(skill.files().filter_map(&keeper).filter(|keeper| *keeper != upstream));
            Arc::new(Skill {
                upstream: upstream.clone(),
                uri: skill.key().to_owned(),
                listed: skill.definition.listed(skill.key()),
                behind: others.into_iter().cloned().collect(),
            })
        });
        let mut skills: Vec<Arc<Skill>> = skills.collect();
        skills.sort_by(|one, other| (&one.uri, &one.upstream).cmp(&(&other.uri, &other.upstream)));
        let owned = |upstreams: Vec<&UpstreamName>| upstreams.into_iter().cloned().collect();
        let roots = roots.into_iter().map(|(root, upstreams)| (root.to_owned(), owned(upstreams))).collect();
        Self { skills, roots }
    }

    /// Those after a URI.
    pub(super) fn after(&self, uri: Option<&str>) -> std::slice::Iter<'_, Arc<Skill>> {
        let begin = uri.map_or(0, |uri| self.skills.partition_point(|skill| skill.uri.as_str() <= uri));
        self.skills[begin..].iter()
    }

    /// Those with this URI, in the order of their upstreams.
    pub(super) fn at(&self, uri: &str) -> &[Arc<Skill>] {
        let begin = self.skills.partition_point(|skill| skill.uri.as_str() < uri);
        let same = self.skills[begin..].partition_point(|skill| skill.uri == uri);
        &self.skills[begin..begin + same]
    }

    /// Upstreams that have a skill which a URI is of, or whose directory it is; in name order.
    pub(super) fn around(&self, uri: &str) -> BTreeSet<&UpstreamName> {
        above(uri).filter_map(|directory| self.roots.get(directory)).flatten().collect()
    }

    /// An upstream's skills in whose directories a URI is, from the inside out.
    pub(super) fn of_file<'a>(
        &'a self,
        upstream: &'a UpstreamName,
        uri: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Skill>> {
        let in_directory = |directory: &'a str| {
            let skills = [format!("{directory}{MANIFEST}"), directory.to_owned()].map(|uri| self.at(&uri));
            skills.into_iter().flatten()
        };
        above(uri).flat_map(in_directory).filter(move |skill| skill.upstream == *upstream)
    }

    /// Upstreams whose skills others' come before, and how many are concerned.
    pub(super) fn behind(&self) -> HashMap<&UpstreamName, usize> {
        let mut counts = HashMap::new();
        for skill in self.skills.iter().filter(|skill| !skill.behind.is_empty()) {
            *counts.entry(&skill.upstream).or_default() += 1;
        }
        counts
    }
}

fn every<'a>(
    offers: &[(&'a UpstreamName, &'a Offer)],
) -> impl Iterator<Item = (&'a UpstreamName, &'a Arc<SkillDefinition>)> {
    offers.iter().flat_map(|(upstream, offer)| offer.skills.iter().map(move |skill| (*upstream, skill)))
}

/// The directory that all files of a skill are in; the URI itself if it is in none.
fn root(uri: &str) -> &str {
    uri.strip_suffix(MANIFEST).filter(|directory| is_directory(directory)).unwrap_or(uri)
}

/// A scheme alone, or the root of its space, is nobody's.
fn is_directory(uri: &str) -> bool {
    !uri.is_empty() && !uri.ends_with(['/', ':'])
}

fn is_below(directory: &str, uri: &str) -> bool {
    uri.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// The URI itself and the directories that it is in, from the inside out.
fn above<'a>(uri: &'a str) -> impl Iterator<Item = &'a str> {
    let itself = uri.strip_suffix('/').unwrap_or(uri);
    let outer = |inner: &&'a str| inner.rsplit_once('/').map(|(directory, _)| directory);
    std::iter::successors(Some(itself), outer).take_while(|uri| is_directory(uri)).take(MAX_ABOVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::raw;

    fn skill(json: &str) -> Result<SkillDefinition, UnusableDefinition> {
        SkillDefinition::parse(&UpstreamName::parse("a").unwrap(), &raw(json.to_owned()))
    }

    #[test]
    fn a_skill_has_the_files_of_its_directory() {
        let files = |json: &str| skill(json).unwrap().files;
        assert_eq!(
            files(
                r#"{"uri":"skill://pdf/SKILL.md","resources":[{"uri":"skill://pdf/SKILL.md"},{"uri":"skill://pdf/a/b.md","digest":"d"},{"uri":"skill://pdf2/x"},{"uri":"file:///etc/passwd"},{"uri":1},7]}"#
            ),
            ["skill://pdf/SKILL.md", "skill://pdf/a/b.md"]
        );
        assert_eq!(files(r#"{"uri":"skill://pdf/SKILL.md","resources":"dynamic"}"#), ["skill://pdf/SKILL.md"]);
        assert_eq!(files(r#"{"uri":"file:///SKILL.md","resources":[{"uri":"file:///x"}]}"#), ["file:///SKILL.md"]);
        let many: Vec<String> = (0..600).map(|at| format!(r#"{{"uri":"skill://p/{at}"}}"#)).collect();
        let many = files(&format!(r#"{{"uri":"skill://p/SKILL.md","resources":[{}]}}"#, many.join(",")));
        assert_eq!(many.len(), 1 + MAX_FILES);
        for (bad, error) in [
            ("7", UnusableDefinition::Malformed),
            (r#"["uri"]"#, UnusableDefinition::Malformed),
            (r#"{"uri":"skill://p/SKILL.md","uri":"skill://q/SKILL.md"}"#, UnusableDefinition::Malformed),
            (r#"{"name":"p"}"#, UnusableDefinition::Nameless { member: "uri" }),
        ] {
            assert_eq!(skill(bad).unwrap_err(), error, "{bad}");
        }
    }

    #[test]
    fn directories_end_below_the_scheme() {
        let above = |uri| above(uri).collect::<Vec<_>>();
        assert_eq!(above("skill://a/b/c.md"), ["skill://a/b/c.md", "skill://a/b", "skill://a"]);
        assert_eq!(above("skill://a/"), ["skill://a"]);
        assert_eq!(above("file:///x"), ["file:///x"]);
        assert_eq!(above("urn:a"), ["urn:a"]);
        assert_eq!(above(""), [""; 0]);
        assert_eq!(above("skill://"), [""; 0]);
        assert_eq!(above(&format!("x:{}", "/a".repeat(1_000))).len(), MAX_ABOVE);
    }
}
