//! `[sets]`: lists that policies may look things up in, written down here or read from files.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use super::{Checks, is_path, not_a_path};
use crate::config::mistake::{Checked, Fault};
use crate::config::raw::{self, At, NameOfSet};
use crate::config::reference::read_text;
use crate::config::sets::Sets;
use crate::ids::SetName;

/// Most sets. All are in memory.
const MOST_SETS: usize = 100;

/// Most items of a set.
const MOST_ITEMS: usize = 100_000;

/// Largest file of a set, in bytes.
const LARGEST_SET: u64 = 1024 * 1024;

pub(super) fn resolve(checks: &mut Checks<'_>, raw: &BTreeMap<NameOfSet, raw::Set>) -> Sets {
    let (mut sets, mut files) = (BTreeMap::new(), Vec::new());
    for (index, (name, set)) in raw.iter().enumerate() {
        if let Err(error) = SetName::parse(name.as_str()) {
            checks.mistake(name.place(), Fault::new(error.to_string()));
        }
        if index == MOST_SETS {
            checks.mistake(name.place(), Fault::new(format!("there are more than {MOST_SETS} sets")));
        }
        let items = match set {
            raw::Set::Items(items) => listed(checks, name, items),
            raw::Set::InFile(file) => in_file(checks, name, file, &mut files),
        };
        sets.insert(name.as_str().to_owned(), items);
    }
    Sets::new(sets).with_files(files)
}

fn listed(checks: &mut Checks<'_>, name: &NameOfSet, items: &[At<String>]) -> BTreeSet<String> {
    if let Some(over) = items.get(MOST_ITEMS) {
        checks.mistake(over.place(), too_many().of(format_args!("set {}", name.as_str())));
    }
    items.iter().map(|item| item.value().clone()).collect()
}

fn in_file(
    checks: &mut Checks<'_>,
    name: &NameOfSet,
    raw: &raw::SetFile,
    files: &mut Vec<PathBuf>,
) -> BTreeSet<String> {
    let setting = format!("set {}", name.as_str());
    let Some(file) = raw.file.get() else {
        let fault = Fault::new(format!("{setting} needs a file"));
        let hint = "write it like { file = \"PATH\" }, or list its items";
        checks.missing(&format!("sets.{}", name.as_str()), name.place(), fault.hint(hint));
        return BTreeSet::new();
    };
    if !is_path(file.value()) {
        checks.mistake(file.place(), not_a_path().of(setting));
        return BTreeSet::new();
    }
    let path = checks.in_base_dir(file.value());
    let read = read_text(&path, LARGEST_SET).and_then(|text| items_of(&text)).map_err(|fault| fault.of(path.display()));
    files.push(path);
    accept(checks, &setting, file.place(), read)
}

fn accept(
    checks: &mut Checks<'_>,
    setting: &str,
    place: Range<usize>,
    read: Checked<BTreeSet<String>>,
) -> BTreeSet<String> {
    checks.accept(&format!("{setting}:"), place, read).unwrap_or_default()
}

/// One item on each line, without the space around it.
fn items_of(text: &str) -> Checked<BTreeSet<String>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    if lines.clone().nth(MOST_ITEMS).is_some() {
        return Err(too_many());
    }
    Ok(lines.map(str::to_owned).collect())
}

fn too_many() -> Fault {
    Fault::new(format!("has more than {MOST_ITEMS} items"))
}
