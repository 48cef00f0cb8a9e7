//! Edits of a JSON document by RFC 6901 pointers. Pure.
//!
//! Only what lies along an edited pointer is taken apart; all else stays the text that it was, numbers and
//! escapes included. Edits apply in order, each to what the one before it left, as in RFC 6902. An edit that
//! does not fit the document fails the whole answer.

use serde_json::value::RawValue;

use super::decision::{Edit, Failure, Operation};
use crate::mcp::json::{self, Members};

const MAX_POINTER_BYTES: usize = 4 << 10;

/// Most members and items that the edits of one answer may look at: many edits of a huge container are refused
/// rather than worked off on a request's thread.
const MAX_WORK: usize = 20_000_000;

/// `document` after `edits`; `None` where they removed it whole.
pub(super) fn apply(document: &RawValue, edits: &[Edit]) -> Result<Option<Box<RawValue>>, Failure> {
    let mut root = Some(Node::Text(document.to_owned()));
    let mut work = Work(MAX_WORK);
    for edit in edits {
        apply_one(&mut root, edit, &mut work).map_err(|misfit| Failure::invalid(misfit.at(&edit.pointer)))?;
    }
    let Some(root) = root else { return Ok(None) };
    let mut text = String::with_capacity(document.get().len());
    root.write(&mut text);
    json::check(text.as_bytes()).map_err(|_| Failure::invalid("edits that make a document too deep"))?;
    Ok(Some(json::raw(text)))
}

fn apply_one(root: &mut Option<Node>, edit: &Edit, work: &mut Work) -> Result<(), Misfit> {
    let tokens = parse_pointer(&edit.pointer)?;
    let Some((last, parents)) = tokens.split_last() else {
        match &edit.operation {
            Operation::Remove => *root = None,
            Operation::Set(value) => *root = Some(Node::Text(value.clone())),
            Operation::Mask(text) => root.as_mut().ok_or(Misfit::Nothing)?.mask(text)?,
        }
        return Ok(());
    };
    let mut parent = root.as_mut().ok_or(Misfit::Nothing)?;
    for token in parents {
        parent = parent.child(token, work)?;
    }
    match &edit.operation {
        Operation::Remove => parent.remove(last, work),
        Operation::Set(value) => parent.set(last, value, work),
        Operation::Mask(text) => parent.child(last, work)?.mask(text),
    }
}

/// Why an edit does not fit its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Misfit {
    Syntax,
    Nothing,
    NoString,
    TooMuch,
}

impl Misfit {
    fn at(self, pointer: &str) -> String {
        let pointer = super::text::one_line(pointer, 256);
        match self {
            Self::Syntax => format!("{pointer:?} is not a JSON pointer"),
            Self::Nothing => format!("the pointer {pointer:?} leads nowhere"),
            Self::NoString => format!("the value at {pointer:?} is not a string that can be masked"),
            Self::TooMuch => format!("too many edits of a document this large, at {pointer:?}"),
        }
    }
}

/// What may still be looked at.
struct Work(usize);

impl Work {
    fn spend(&mut self, entries: usize) -> Result<(), Misfit> {
        self.0 = self.0.checked_sub(entries).ok_or(Misfit::TooMuch)?;
        Ok(())
    }
}

/// A value, taken apart as far as somebody looked into it.
#[derive(Debug)]
enum Node {
    Text(Box<RawValue>),
    Object(Vec<(String, Node)>),
    Array(Vec<Node>),
}

impl Node {
    fn child(&mut self, token: &str, work: &mut Work) -> Result<&mut Self, Misfit> {
        match self.open(work)? {
            Container::Object(members) => {
                members.iter_mut().find(|(name, _)| name == token).map(|(_, value)| value).ok_or(Misfit::Nothing)
            }
            Container::Array(items) => items.get_mut(index(token)?).ok_or(Misfit::Nothing),
        }
    }

    fn remove(&mut self, token: &str, work: &mut Work) -> Result<(), Misfit> {
        match self.open(work)? {
            Container::Object(members) => {
                let at = members.iter().position(|(name, _)| name == token).ok_or(Misfit::Nothing)?;
                members.remove(at);
            }
            Container::Array(items) => {
                let at = index(token)?;
                if at >= items.len() {
                    return Err(Misfit::Nothing);
                }
                items.remove(at);
            }
        }
        Ok(())
    }

    fn set(&mut self, token: &str, value: &RawValue, work: &mut Work) -> Result<(), Misfit> {
        let value = Self::Text(value.to_owned());
        match self.open(work)? {
            Container::Object(members) => match members.iter_mut().find(|(name, _)| name == token) {
                Some((_, old)) => *old = value,
                None => members.push((token.to_owned(), value)),
            },
            Container::Array(items) if token == "-" => items.push(value),
            Container::Array(items) => *items.get_mut(index(token)?).ok_or(Misfit::Nothing)? = value,
        }
        Ok(())
    }

    fn mask(&mut self, text: &str) -> Result<(), Misfit> {
        match self {
            Self::Text(old) if old.get().starts_with('"') => *old = json::raw(json::quote(text)),
            _ => return Err(Misfit::NoString),
        }
        Ok(())
    }

    /// The value's members or items; a scalar has none.
    fn open(&mut self, work: &mut Work) -> Result<Container<'_>, Misfit> {
        if let Self::Text(text) = self {
            *self = match text.get().as_bytes().first() {
                Some(b'{') => {
                    let members = Members::parse(text.get()).map_err(|_| Misfit::Nothing)?;
                    let owned = |(name, value): (&str, &RawValue)| (name.to_owned(), Self::Text(value.to_owned()));
                    Self::Object(members.iter().map(owned).collect())
                }
                Some(b'[') => {
                    let items: Vec<Box<RawValue>> = serde_json::from_str(text.get()).map_err(|_| Misfit::Nothing)?;
                    Self::Array(items.into_iter().map(Self::Text).collect())
                }
                _ => return Err(Misfit::Nothing),
            };
        }
        match self {
            Self::Object(members) => {
                work.spend(members.len())?;
                Ok(Container::Object(members))
            }
            Self::Array(items) => {
                work.spend(items.len())?;
                Ok(Container::Array(items))
            }
            Self::Text(_) => Err(Misfit::Nothing),
        }
    }

    /// Recurses no deeper than the longest pointer.
    fn write(&self, out: &mut String) {
        match self {
            Self::Text(text) => out.push_str(text.get()),
            Self::Object(members) => {
                out.push('{');
                for (position, (name, value)) in members.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    out.push_str(&json::quote(name));
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
            Self::Array(items) => {
                out.push('[');
                for (position, item) in items.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
        }
    }
}

enum Container<'a> {
    Object(&'a mut Vec<(String, Node)>),
    Array(&'a mut Vec<Node>),
}

/// The reference tokens of a pointer (RFC 6901 §3 and §4).
fn parse_pointer(pointer: &str) -> Result<Vec<String>, Misfit> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    if pointer.len() > MAX_POINTER_BYTES {
        return Err(Misfit::Syntax);
    }
    let tokens: Vec<String> =
        pointer.strip_prefix('/').ok_or(Misfit::Syntax)?.split('/').map(unescape).collect::<Result<_, _>>()?;
    if tokens.len() > json::MAX_DEPTH { Err(Misfit::Nothing) } else { Ok(tokens) }
}

fn unescape(token: &str) -> Result<String, Misfit> {
    let mut pieces = token.split('~');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (character, rest) = match piece.as_bytes().first() {
            Some(b'0') => ('~', &piece[1..]),
            Some(b'1') => ('/', &piece[1..]),
            _ => return Err(Misfit::Syntax),
        };
        plain.push(character);
        plain.push_str(rest);
    }
    Ok(plain)
}

/// An array index: digits without a leading zero.
fn index(token: &str) -> Result<usize, Misfit> {
    let digits = token.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || token.is_empty() || (token.len() > 1 && token.starts_with('0')) {
        return Err(Misfit::Nothing);
    }
    token.parse().map_err(|_| Misfit::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str =
        r#"{"b": 1.0, "a":{"list":[10, 20,{"deep":"old"}],"~/": "x"}, "big":18446744073709551616,"\u0063":null}"#;

    fn edit(pointer: &str, operation: Operation) -> Edit {
        Edit { pointer: pointer.to_owned(), operation }
    }

    fn set(pointer: &str, value: &str) -> Edit {
        edit(pointer, Operation::Set(json::raw(value.to_owned())))
    }

    fn remove(pointer: &str) -> Edit {
        edit(pointer, Operation::Remove)
    }

    fn mask(pointer: &str) -> Edit {
        edit(pointer, Operation::Mask("*".to_owned()))
    }

    fn applied(document: &str, edits: &[Edit]) -> String {
        match apply(&json::raw(document.to_owned()), edits) {
            Ok(Some(document)) => document.get().to_owned(),
            Ok(None) => "nothing".to_owned(),
            Err(Failure::InvalidAnswer { what }) => what,
            Err(other) => other.to_string(),
        }
    }

    #[test]
    fn edits_change_what_they_point_at_and_leave_the_rest_as_it_was() {
        let kept = r#""a":{"list":[10, 20,{"deep":"old"}],"~/": "x"}"#;
        for (edits, expected) in [
            (vec![], DOCUMENT.to_owned()),
            (vec![set("/b", "2")], format!(r#"{{"b":2,{kept},"big":18446744073709551616,"c":null}}"#)),
            (vec![remove("/c"), remove("/b")], format!(r#"{{{kept},"big":18446744073709551616}}"#)),
            (
                vec![remove("/a"), remove("/b"), set("/new", "[]")],
                r#"{"big":18446744073709551616,"c":null,"new":[]}"#.into(),
            ),
            (
                vec![remove("/b"), remove("/big"), remove("/c"), mask("/a/list/2/deep"), mask("/a/~0~1")],
                r#"{"a":{"list":[10,20,{"deep":"*"}],"~/":"*"}}"#.into(),
            ),
            (
                vec![
                    remove("/b"),
                    remove("/big"),
                    remove("/c"),
                    remove("/a/list/0"),
                    set("/a/list/0", "0"),
                    set("/a/list/-", "9"),
                ],
                r#"{"a":{"list":[0,{"deep":"old"},9],"~/":"x"}}"#.into(),
            ),
            (vec![set("", "[1]"), set("/0", "{}"), set("/0/x", "1")], r#"[{"x":1}]"#.into()),
            (vec![remove("")], "nothing".into()),
            (vec![remove(""), set("", "1")], "1".into()),
        ] {
            assert_eq!(applied(DOCUMENT, &edits), expected, "{edits:?}");
        }
        assert_eq!(applied(r#""secret""#, &[mask("")]), r#""*""#);
        assert_eq!(applied(r#"{"":{"":1}}"#, &[set("//", "2")]), r#"{"":{"":2}}"#);
    }

    #[test]
    fn many_edits_of_a_huge_document_are_refused() {
        let huge = format!("[{}0]", "0,".repeat(100_000));
        let edits: Vec<Edit> = (0..1000).map(|_| remove("/0")).collect();
        assert_eq!(applied(&huge, &edits), r#"too many edits of a document this large, at "/0""#);
    }

    #[test]
    fn edits_that_do_not_fit_fail() {
        for (edit, expected) in [
            (set("b", "1"), r#""b" is not a JSON pointer"#),
            (set("/~", "1"), r#""/~" is not a JSON pointer"#),
            (set("/~2", "1"), r#""/~2" is not a JSON pointer"#),
            (set("/x/y", "1"), r#"the pointer "/x/y" leads nowhere"#),
            (set("/b/y", "1"), r#"the pointer "/b/y" leads nowhere"#),
            (set("/a/list/3", "1"), r#"the pointer "/a/list/3" leads nowhere"#),
            (set("/a/list/01", "1"), r#"the pointer "/a/list/01" leads nowhere"#),
            (set("/a/list/+1", "1"), r#"the pointer "/a/list/+1" leads nowhere"#),
            (
                set("/a/list/99999999999999999999999", "1"),
                r#"the pointer "/a/list/99999999999999999999999" leads nowhere"#,
            ),
            (remove("/x"), r#"the pointer "/x" leads nowhere"#),
            (remove("/a/list/-"), r#"the pointer "/a/list/-" leads nowhere"#),
            (remove("/a/list/3"), r#"the pointer "/a/list/3" leads nowhere"#),
            (mask("/a/list/-"), r#"the pointer "/a/list/-" leads nowhere"#),
            (mask("/b"), r#"the value at "/b" is not a string that can be masked"#),
            (mask("/a"), r#"the value at "/a" is not a string that can be masked"#),
            (mask(""), r#"the value at "" is not a string that can be masked"#),
        ] {
            assert_eq!(applied(DOCUMENT, &[edit]), expected);
        }
        assert_eq!(applied("1", &[remove(""), mask("")]), r#"the pointer "" leads nowhere"#);
        let deep = format!("{}1{}", "[".repeat(json::MAX_DEPTH), "]".repeat(json::MAX_DEPTH));
        assert_eq!(applied("[[]]", &[set("/0/-", &deep)]), "edits that make a document too deep");
        assert_eq!(applied("[]", &[set(&"/0".repeat(65), "1")]).split(' ').next_back(), Some("nowhere"));
        assert_eq!(
            applied("[]", &[set(&format!("/{}", "a".repeat(5000)), "1")]).split(' ').next_back(),
            Some("pointer")
        );
    }
}
