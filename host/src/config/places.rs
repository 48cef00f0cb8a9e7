//! Where the settings of a policy stand in the file, so that what the policy says about them can be told with a line.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The line of each member of a binding's `config`, by its RFC 6901 pointer. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(Arc<BTreeMap<String, usize>>);

impl Lines {
    /// The line of what `pointer` leads to, or else of the nearest thing around it.
    pub fn of(&self, pointer: &str) -> Option<usize> {
        let mut pointer = pointer;
        loop {
            match (self.0.get(pointer), pointer.rfind('/')) {
                (Some(line), _) => return Some(*line),
                (None, Some(at)) => pointer = &pointer[..at],
                // Not a pointer: what is meant can be anywhere.
                (None, None) if !pointer.is_empty() => pointer = "",
                (None, None) => return None,
            }
        }
    }
}

/// For each entry of `policies` in a document, the lines of its `config`. Of one that has none, the whole is the
/// entry itself.
pub(super) fn of_policies(document: &DeTable<'_>, text: &str) -> Vec<Lines> {
    let Some(DeValue::Array(policies)) = document.get("policies").map(Spanned::get_ref) else { return Vec::new() };
    let starts = LineStarts::of(text);
    policies.iter().map(|policy| of_policy(policy, &starts)).collect()
}

fn of_policy(policy: &Spanned<DeValue<'_>>, starts: &LineStarts) -> Lines {
    let mut lines = BTreeMap::from([(String::new(), starts.line(policy.span().start))]);
    if let DeValue::Table(table) = policy.get_ref()
        && let Some((key, config)) = table.iter().find(|(key, _)| key.get_ref() == "config")
    {
        lines.insert(String::new(), starts.line(key.span().start));
        walk(config.get_ref(), &mut String::new(), starts, &mut lines);
    }
    Lines(Arc::new(lines))
}

/// Adds what is below `value`, which `pointer` leads to.
fn walk(value: &DeValue<'_>, pointer: &mut String, starts: &LineStarts, lines: &mut BTreeMap<String, usize>) {
    let mut add = |segment: &str, byte: usize, below: &DeValue<'_>| {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(segment);
        lines.insert(pointer.clone(), starts.line(byte));
        walk(below, pointer, starts, lines);
        pointer.truncate(length);
    };
    match value {
        DeValue::Table(table) => {
            for (key, member) in table {
                let segment = key.get_ref().replace('~', "~0").replace('/', "~1");
                add(&segment, key.span().start, member.get_ref());
            }
        }
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                add(&index.to_string(), item.span().start, item.get_ref());
            }
        }
        _ => {}
    }
}

/// The bytes at which the lines of a text begin.
struct LineStarts(Vec<usize>);

impl LineStarts {
    fn of(text: &str) -> Self {
        let after_newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(after_newlines).collect())
    }

    /// Counted from 1.
    fn line(&self, byte: usize) -> usize {
        self.0.partition_point(|start| *start <= byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_to_the_line_that_names_it() {
        let text = "\
[[policies]]
name = 'one'
config = { a = 1, 'b/c~' = [
    'x',
    { d = 2 },
] }

[[policies]]
name = 'two'

[policies.config]
e = [[1,
2]]
[[policies.config.rules]]
tools = ['a']
[[policies.config.rules]]
deep.er = 1

[[policies]]
name = 'three'
";
        let document = DeTable::parse(text).unwrap();
        let lines = of_policies(document.get_ref(), text);
        assert_eq!(lines.len(), 3);
        for (policy, pointer, line) in [
            (0, "", 3),
            (0, "/a", 3),
            (0, "/a/below", 3),
            (0, "/b~1c~0", 3),
            (0, "/b~1c~0/0", 4),
            (0, "/b~1c~0/1/d", 5),
            (0, "/b~1c~0/7/d", 3),
            (0, "/none", 3),
            (0, "no pointer", 3),
            (0, "b~1c~0/1", 3),
            (1, "", 11),
            (1, "/e/0/1", 13),
            (1, "/rules/0/tools/0", 15),
            (1, "/rules/1/deep", 17),
            (1, "/rules/1/deep/er", 17),
            (2, "", 19),
            (2, "/a/b", 19),
        ] {
            assert_eq!(lines[policy].of(pointer), Some(line), "{policy} {pointer}");
        }
        assert_eq!(Lines::default().of("/a"), None);
        assert!(of_policies(DeTable::parse("a = 1").unwrap().get_ref(), "a = 1").is_empty());
    }
}
