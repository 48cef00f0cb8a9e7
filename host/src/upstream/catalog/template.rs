//! URI templates (RFC 6570), as far as it takes to tell whether a URI may come of one.
//!
//! All levels are understood. Matching errs on the side of a match, as the servers' own matchers do: the upstream has the
//! last word on whether there is such a resource.

/// Most expressions of a template that is matched; one with more matches nothing.
const MAX_EXPRESSIONS: usize = 64;
/// Longest URI that is matched, in bytes.
pub(super) const MAX_MATCHED_BYTES: usize = 8 * 1024;

/// A template, ready to be matched.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Expression(Expression),
}

/// What an expression may expand to.
#[derive(Debug, PartialEq, Eq)]
struct Expression {
    /// The character that begins an expansion which is not empty; without one, it is never empty.
    first: Option<u8>,
    /// Characters that it does not have.
    without: &'static [u8],
}

impl Expression {
    /// From what stands between the braces (RFC 6570 §2.2, §3.2).
    fn parse(expression: &str) -> Option<Self> {
        let operator = expression.bytes().next()?;
        let (first, without): (_, &[u8]) = match operator {
            b'+' => (None, b""),
            b'#' => (Some(b'#'), b""),
            b'.' => (Some(b'.'), b"/"),
            b'/' => (Some(b'/'), b"?#"),
            b';' => (Some(b';'), b"/"),
            b'?' => (Some(b'?'), b"#"),
            b'&' => (Some(b'&'), b"#"),
            letter if letter.is_ascii_alphanumeric() || matches!(letter, b'_' | b'%') => (None, b"/"),
            // Reserved for extensions.
            _ => return None,
        };
        Some(Self { first, without })
    }

    /// Of the places where it may begin, makes those where it may end.
    fn advance(&self, uri: &[u8], places: &mut [bool]) {
        let mut inside = false;
        for (at, place) in places.iter_mut().enumerate() {
            let may_begin = *place;
            *place = inside || (may_begin && self.first.is_some());
            let Some(byte) = uri.get(at) else { break };
            let begins = may_begin && self.first.is_none_or(|first| first == *byte);
            let is_first = begins && self.first.is_some();
            inside = is_first || ((inside || begins) && !self.without.contains(byte));
        }
    }
}

impl Pattern {
    /// `None` if this is no template, or too large a one.
    pub(super) fn parse(template: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let (literal, further) = rest.split_once('{').unwrap_or((rest, ""));
            if literal.contains('}') || (further.is_empty() && literal.len() < rest.len()) {
                return None;
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            if literal.len() == rest.len() {
                break;
            }
            let (expression, after) = further.split_once('}')?;
            parts.push(Part::Expression(Expression::parse(expression)?));
            rest = after;
        }
        (parts.len() <= 2 * MAX_EXPRESSIONS).then_some(Self { parts })
    }

    /// Bytes that stand in it literally: the more, the closer a match.
    pub(super) fn literal_bytes(&self) -> usize {
        self.parts.iter().map(|part| if let Part::Literal(text) = part { text.len() } else { 0 }).sum()
    }

    /// Whether `uri` may be an expansion. Takes steps of the order of the URI's length times the number of parts off
    /// `budget`; once that is used up, nothing matches.
    pub(super) fn matches(&self, uri: &str, budget: &mut usize) -> bool {
        let ends_well = |part: Option<&Part>, has: &dyn Fn(&str) -> bool| match part {
            Some(Part::Literal(text)) => has(text),
            _ => true,
        };
        if uri.len() > MAX_MATCHED_BYTES
            || !ends_well(self.parts.first(), &|text| uri.starts_with(text))
            || !ends_well(self.parts.last(), &|text| uri.ends_with(text))
        {
            return false;
        }
        let cost = (uri.len() + 1) * self.parts.len();
        let Some(left) = budget.checked_sub(cost) else { return false };
        *budget = left;

        let uri = uri.as_bytes();
        // Whether what was looked at so far may end before the byte at each place.
        let mut places = vec![false; uri.len() + 1];
        places[0] = true;
        for part in &self.parts {
            match part {
                Part::Literal(text) => advance_literal(text.as_bytes(), uri, &mut places),
                Part::Expression(expression) => expression.advance(uri, &mut places),
            }
        }
        places[uri.len()]
    }
}

fn advance_literal(text: &[u8], uri: &[u8], places: &mut [bool]) {
    for end in (0..places.len()).rev() {
        let begin = end.checked_sub(text.len());
        places[end] = begin.is_some_and(|begin| places[begin] && uri[begin..end] == *text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(template: &str, uri: &str) -> bool {
        Pattern::parse(template).unwrap().matches(uri, &mut { usize::MAX })
    }

    #[test]
    fn uris_match_the_templates_that_they_come_of() {
        for (template, uri) in [
            ("test://template/{id}/data", "test://template/123/data"),
            ("test://template/{id}/data", "test://template/a%20b/data"),
            ("file:///{path}", "file:///a.txt"),
            ("file:///{+path}", "file:///a/b/c.txt"),
            ("x://{a}/{b}", "x://1/2"),
            ("x://{a,b}", "x://1,2"),
            ("x://{a}{b}", "x://12"),
            ("x://{host}{/path*}", "x://h/a/b"),
            ("x://{host}{/path*}", "x://h"),
            ("x://h{?q,r}", "x://h?q=1&r=2"),
            ("x://h{?q,r}", "x://h"),
            ("x://h?fixed=1{&q}", "x://h?fixed=1&q=2"),
            ("x://h{#part}", "x://h#a/b"),
            ("x://h/file{.ext}", "x://h/file.tar.gz"),
            ("x://h/p{;a,b}", "x://h/p;a=1;b=2"),
            ("x://{name:3}/{name}", "x://abc/abcdef"),
            ("{+uri}", "any:thing/at?all"),
            ("plain://text", "plain://text"),
            ("größe://{x}", "größe://ü"),
        ] {
            assert!(matches(template, uri), "{template} {uri}");
        }
        for (template, uri) in [
            ("test://template/{id}/data", "test://template/123/date"),
            ("test://template/{id}/data", "test://template//data"),
            ("test://template/{id}/data", "test://template/1/2/data"),
            ("file:///{path}", "file:///a/b.txt"),
            ("file:///{path}", "file:///"),
            ("x://h{?q}", "x://h/q"),
            ("x://h{?q}", "x://hq"),
            ("x://h{/p}", "x://host"),
            ("x://{a}b", "x://b"),
            ("plain://text", "plain://text2"),
            ("", "x"),
        ] {
            assert!(!matches(template, uri), "{template} {uri}");
        }
    }

    #[test]
    fn what_is_no_template_is_told() {
        for bad in ["{", "x://{", "x://{a", "x://}", "x://{a}}", "{}", "x://{|a}", "x://{=a}", "x://{ü}"] {
            assert_eq!(Pattern::parse(bad), None, "{bad}");
        }
        assert!(Pattern::parse(&"{a}/".repeat(MAX_EXPRESSIONS)).is_some());
        assert_eq!(Pattern::parse(&"{a}/".repeat(MAX_EXPRESSIONS + 1)), None);
    }

    #[test]
    fn matching_is_bounded() {
        let template = format!("x:{}!", "{a}{+b}-".repeat(20));
        let pattern = Pattern::parse(&template).unwrap();
        let uri = format!("x:{}!", "-".repeat(4_000));
        let mut budget = 1_000_000;
        assert!(pattern.matches(&uri, &mut budget));
        assert!(budget < 1_000_000 && budget > 700_000, "{budget}");
        assert!(!pattern.matches(&uri, &mut 1_000), "nothing is matched without a budget");
        assert!(!pattern.matches("y:", &mut 0), "what differs at its beginning costs nothing");
        let long = format!("x:{}!", "-".repeat(MAX_MATCHED_BYTES));
        assert!(!pattern.matches(&long, &mut { usize::MAX }));
    }
}
