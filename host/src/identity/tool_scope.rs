//! The tools that authority reaches, as policies have narrowed it.

use crate::glob::Glob;
use crate::ids::UpstreamName;

/// The tools that authority reaches: of each list, one pattern over `upstream/tool` must fit. Without lists, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolScope(pub Vec<Vec<Glob>>);

impl ToolScope {
    /// Most lists, and most patterns of all together.
    pub const MAX_LISTS: usize = 16;
    pub const MAX_PATTERNS: usize = 256;

    /// The scope of these patterns, or `None` where one of them is none or there are too many.
    pub fn parse(lists: &[Vec<String>]) -> Option<Self> {
        if is_too_long(lists) {
            return None;
        }
        let list = |texts: &Vec<String>| texts.iter().map(|text| Glob::parse(text)).collect::<Option<Vec<_>>>();
        lists.iter().map(list).collect::<Option<Vec<_>>>().map(Self)
    }

    /// The patterns as texts: what [`Self::parse`] reads.
    pub fn to_texts(&self) -> Vec<Vec<String>> {
        let list = |patterns: &Vec<Glob>| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        self.0.iter().map(list).collect()
    }

    /// Whether a tool is within it.
    pub fn permits(&self, upstream: &UpstreamName, tool: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let name = format!("{upstream}/{tool}");
        self.0.iter().all(|patterns| patterns.iter().any(|pattern| pattern.matches(&name)))
    }

    /// Whether it may have any tool of this upstream.
    pub fn reaches(&self, upstream: &UpstreamName) -> bool {
        let beginning = format!("{upstream}/");
        self.0.iter().all(|patterns| patterns.iter().any(|pattern| pattern.may_begin(&beginning)))
    }

    /// Takes away what none of these patterns fits. Where that makes more lists than are kept, what all of them surely permit
    /// becomes one: it may be less than they do, and is never more.
    pub fn narrow(&mut self, patterns: Vec<Glob>) {
        if self.0.contains(&patterns) {
            return;
        }
        self.0.push(patterns);
        if is_too_long(&self.0) {
            let common = self.common();
            self.0 = vec![if common.len() > Self::MAX_PATTERNS { Vec::new() } else { common }];
        }
    }

    /// The patterns that every list covers.
    pub fn common(&self) -> Vec<Glob> {
        let covers = |list: &Vec<Glob>, pattern: &Glob| list.iter().any(|wider| wider.matches(pattern.as_str()));
        let mut common: Vec<Glob> = Vec::new();
        for pattern in self.0.iter().flatten() {
            if !common.contains(pattern) && self.0.iter().all(|list| covers(list, pattern)) {
                common.push(pattern.clone());
            }
        }
        common
    }
}

fn is_too_long<T>(lists: &[Vec<T>]) -> bool {
    let count: usize = lists.iter().map(Vec::len).sum();
    lists.len() > ToolScope::MAX_LISTS || count > ToolScope::MAX_PATTERNS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_as_it_was_written_and_bounded() {
        let lists = vec![vec!["notes/*".to_owned(), "tracker/list".to_owned()], vec!["*/l*".to_owned()]];
        let scope = ToolScope::parse(&lists).unwrap();
        assert_eq!(scope.to_texts(), lists);
        let upstream = |name| UpstreamName::parse(name).unwrap();
        assert!(scope.permits(&upstream("notes"), "list") && scope.permits(&upstream("tracker"), "list"));
        assert!(!scope.permits(&upstream("notes"), "add") && !scope.permits(&upstream("tracker"), "look"));
        assert!(ToolScope::default().permits(&upstream("notes"), "add"));
        assert!(!ToolScope(vec![Vec::new()]).permits(&upstream("notes"), "add"), "an empty list fits nothing");
        assert_eq!(ToolScope::parse(&vec![vec!["x".to_owned()]; 17]), None);
        assert_eq!(ToolScope::parse(&[vec!["x".to_owned(); 257]]), None);
    }

    fn globs(patterns: impl IntoIterator<Item = String>) -> Vec<Glob> {
        patterns.into_iter().map(|pattern| Glob::parse(&pattern).unwrap()).collect()
    }

    #[test]
    fn what_policies_have_narrowed_can_always_be_read_again() {
        let upstream = |name| UpstreamName::parse(name).unwrap();
        let tools = |numbers: std::ops::Range<usize>| globs(numbers.map(|number| format!("notes/t{number}")));
        let read_again = |scope: &ToolScope| assert_eq!(ToolScope::parse(&scope.to_texts()).as_ref(), Some(scope));
        // At consent, and after a tool more was there.
        let mut scope = ToolScope::default();
        scope.narrow(tools(0..200));
        scope.narrow(tools(1..201));
        read_again(&scope);
        let is_permitted = |tool: &str| scope.permits(&upstream("notes"), tool);
        assert!(is_permitted("t1") && is_permitted("t199") && !is_permitted("t0") && !is_permitted("t200"));

        let mut many = ToolScope::default();
        for number in 0..40 {
            many.narrow(globs(["notes/*".to_owned(), format!("tracker/t{number}")]));
            read_again(&many);
        }
        assert!(many.permits(&upstream("notes"), "t0") && !many.permits(&upstream("tracker"), "t0"));

        let mut apart = ToolScope::default();
        apart.narrow(tools(0..129));
        apart.narrow(tools(200..329));
        read_again(&apart);
        assert!(!apart.0.is_empty(), "nothing in common is not everything");
        for number in 0..400 {
            assert!(!apart.permits(&upstream("notes"), &format!("t{number}")));
        }

        // Of which more is permitted than can be written down.
        let all_and = |of: &'static str| (0..200).map(move |number| format!("{of}/t{number}")).chain(["*".to_owned()]);
        let mut wide = ToolScope::default();
        wide.narrow(globs(all_and("a")));
        wide.narrow(globs(all_and("b")));
        read_again(&wide);
        assert!(!wide.permits(&upstream("a"), "t1"));
    }
}
