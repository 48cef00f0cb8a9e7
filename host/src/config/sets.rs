//! `[sets]`, resolved: lists of texts that policies may look things up in, managed apart from them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::secret::Digest;

/// All sets by name. Immutable: a change of sets is a new value of this type.
#[derive(Clone, PartialEq, Eq)]
pub struct Sets {
    sets: BTreeMap<String, HashSet<Box<str>>>,
    digest: Digest,
    /// Where items came from, to be watched.
    files: Vec<PathBuf>,
}

impl Sets {
    /// Sets of these names with these items.
    pub fn new(sets: BTreeMap<String, BTreeSet<String>>) -> Self {
        let digest = digest_of(&sets);
        let unordered = |items: BTreeSet<String>| items.into_iter().map(String::into_boxed_str).collect();
        let sets = sets.into_iter().map(|(name, items)| (name, unordered(items))).collect();
        Self { sets, digest, files: Vec::new() }
    }

    /// The same sets, some of whose items are from these files.
    pub(in crate::config) fn with_files(self, files: Vec<PathBuf>) -> Self {
        Self { files, ..self }
    }

    /// Whether `item` is in the set of this name. There is nothing in a set that there is not.
    pub fn contains(&self, set: &str, item: &str) -> bool {
        self.sets.get(set).is_some_and(|items| items.contains(item))
    }

    /// Names of the sets and how many items each has, in name order.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.sets.iter().map(|(name, items)| (name.as_str(), items.len()))
    }

    /// Over names and items: two values with the same digest answer the same.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The files that items are from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }
}

impl Default for Sets {
    /// No set.
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

impl fmt::Debug for Sets {
    /// Names and sizes: items may be about people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.sizes()).finish()
    }
}

/// A name or item counts with its length, so that no two lists read the same.
fn digest_of(sets: &BTreeMap<String, BTreeSet<String>>) -> Digest {
    let mut text = Vec::new();
    let mut push = |part: &str| {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part.as_bytes());
    };
    for (name, items) in sets {
        push(name);
        push(&items.len().to_string());
        items.iter().for_each(|item| push(item));
    }
    Digest::of(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(sets: &[(&str, &[&str])]) -> Sets {
        let items = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Sets::new(sets.iter().map(|(name, list)| ((*name).to_owned(), items(list))).collect())
    }

    #[test]
    fn an_item_is_in_its_own_set_only() {
        let sets = sets(&[("hosts", &["a.example", "b.example"]), ("people", &["a"])]);
        assert!(sets.contains("hosts", "a.example") && sets.contains("people", "a"));
        for (set, item) in [("hosts", "a"), ("people", "a.example"), ("none", "a"), ("hosts", ""), ("", "a")] {
            assert!(!sets.contains(set, item), "{set} {item}");
        }
        assert_eq!(sets.sizes().collect::<Vec<_>>(), [("hosts", 2), ("people", 1)]);
        assert_eq!(format!("{sets:?}"), r#"{"hosts": 2, "people": 1}"#);
    }

    #[test]
    fn the_digest_follows_names_and_items_and_nothing_else() {
        let one = sets(&[("a", &["x", "y"]), ("b", &[])]);
        assert_eq!(one.digest(), sets(&[("b", &[]), ("a", &["y", "x"])]).digest());
        let others = [
            sets(&[]),
            sets(&[("a", &["x", "y"])]),
            sets(&[("a", &["xy"]), ("b", &[])]),
            sets(&[("a", &["x"]), ("b", &["y"])]),
            sets(&[("a", &["x", "y", "b"])]),
            sets(&[("a", &["x", "y"]), ("b", &[""])]),
        ];
        for other in &others {
            assert_ne!(one.digest(), other.digest(), "{other:?}");
        }
    }
}
