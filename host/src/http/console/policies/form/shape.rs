//! What of a schema a form can be made of. Pure.

use std::cell::Cell;
use std::cmp::Reverse;

use serde_json::{Map, Value};

/// Members of one schema, references followed.
const MAX_MEMBERS: usize = 1000;
/// Objects within objects.
const MAX_DEPTH: usize = 4;
/// References after one another.
const MAX_REFERENCES: usize = 8;
/// Choices of one member.
const MAX_CHOICES: usize = 100;
/// Texts that may be longer than this have a larger field.
const LONG_TEXT: u64 = 512;

/// What says more than a field can: a member with it is a piece of JSON.
const BEYOND: [&str; 9] =
    ["anyOf", "oneOf", "allOf", "not", "if", "const", "patternProperties", "prefixItems", "dependentSchemas"];

/// The members of an object.
#[derive(Debug)]
pub(super) struct Shape<'s> {
    pub(super) members: Vec<Member<'s>>,
    /// Whether there may be members that are not named.
    pub(super) is_open: bool,
}

#[derive(Debug)]
pub(super) struct Member<'s> {
    pub(super) name: &'s str,
    pub(super) title: Option<&'s str>,
    pub(super) description: Option<&'s str>,
    pub(super) default: Option<&'s Value>,
    pub(super) is_required: bool,
    /// Whether a list may be there and have nothing in it.
    pub(super) may_be_empty: bool,
    pub(super) kind: Kind<'s>,
}

#[derive(Debug)]
pub(super) enum Kind<'s> {
    Text {
        is_long: bool,
    },
    Number,
    Flag,
    Choice(Vec<&'s str>),
    /// A list of choices.
    Choices(Vec<&'s str>),
    /// A list of texts.
    Lines,
    /// A list of objects.
    Rows(Shape<'s>),
    Group(Shape<'s>),
    /// Texts by name.
    Map,
    Json,
}

/// A schema and what it refers to. Its own words come first.
#[derive(Clone, Copy)]
struct Node<'s> {
    own: &'s Map<String, Value>,
    base: Option<&'s Map<String, Value>>,
}

struct Reader<'s> {
    root: &'s Value,
    /// Members that may still be.
    left: Cell<usize>,
}

impl<'s> Shape<'s> {
    pub(super) fn of(schema: &'s Value) -> Option<Self> {
        let reader = Reader { root: schema, left: Cell::new(MAX_MEMBERS) };
        reader.shape(reader.node(schema)?, 0)
    }
}

impl<'s> Node<'s> {
    fn get(self, key: &str) -> Option<&'s Value> {
        self.own.get(key).or_else(|| self.base?.get(key))
    }

    fn text(self, key: &str) -> Option<&'s str> {
        self.get(key)?.as_str()
    }

    fn is_beyond(self) -> bool {
        BEYOND.iter().any(|key| self.get(key).is_some())
    }
}

impl<'s> Reader<'s> {
    fn node(&self, schema: &'s Value) -> Option<Node<'s>> {
        let own = schema.as_object()?;
        let mut base = None;
        let mut at = own;
        for _ in 0..MAX_REFERENCES {
            let Some(reference) = at.get("$ref") else { return Some(Node { own, base }) };
            let target = self.root.pointer(reference.as_str()?.strip_prefix('#')?)?.as_object()?;
            // What stands between two references says nothing in what we read.
            base = Some(target);
            at = target;
        }
        None
    }

    /// `None` of what is no object with named members.
    fn shape(&self, node: Node<'s>, depth: usize) -> Option<Shape<'s>> {
        let is_object = node.text("type") == Some("object");
        let properties = node.get("properties").and_then(Value::as_object).filter(|named| !named.is_empty())?;
        if !is_object || node.is_beyond() || depth > MAX_DEPTH || self.left.get() < properties.len() {
            return None;
        }
        self.left.set(self.left.get() - properties.len());
        let required: Vec<&str> =
            node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let one = |(name, schema): (&'s String, &'s Value)| {
            self.member(name, schema, required.contains(&name.as_str()), depth)
        };
        let mut members: Vec<Member<'s>> = properties.iter().map(one).collect();
        members.sort_by_key(|member| Reverse(member.is_required));
        let is_open = node.get("additionalProperties") != Some(&Value::Bool(false));
        Some(Shape { members, is_open })
    }

    fn member(&self, name: &'s str, schema: &'s Value, is_required: bool, depth: usize) -> Member<'s> {
        let node = self.node(schema);
        let text = |key| node.and_then(|node| node.text(key));
        let least = node.and_then(|node| node.get("minItems")).and_then(Value::as_u64);
        Member {
            name,
            title: text("title"),
            description: text("description"),
            default: node.and_then(|node| node.get("default")),
            is_required,
            may_be_empty: least.is_none_or(|least| least == 0),
            kind: node.and_then(|node| self.kind(node, depth)).unwrap_or(Kind::Json),
        }
    }

    /// `None` of what only JSON can say.
    fn kind(&self, node: Node<'s>, depth: usize) -> Option<Kind<'s>> {
        if node.is_beyond() {
            return None;
        }
        if node.get("enum").is_some() {
            return choices(node).map(Kind::Choice);
        }
        match node.text("type")? {
            "string" => {
                let most = node.get("maxLength").and_then(Value::as_u64);
                Some(Kind::Text { is_long: most.is_some_and(|most| most > LONG_TEXT) })
            }
            "integer" | "number" => Some(Kind::Number),
            "boolean" => Some(Kind::Flag),
            "array" => {
                let items = self.node(node.get("items")?)?;
                if let Some(shape) = self.shape(items, depth + 1) {
                    return Some(Kind::Rows(shape));
                }
                match self.kind(items, depth + 1)? {
                    Kind::Text { .. } => Some(Kind::Lines),
                    Kind::Choice(choices) => Some(Kind::Choices(choices)),
                    Kind::Number
                    | Kind::Flag
                    | Kind::Choices(_)
                    | Kind::Lines
                    | Kind::Rows(_)
                    | Kind::Group(_)
                    | Kind::Map
                    | Kind::Json => None,
                }
            }
            "object" => match self.shape(node, depth + 1) {
                Some(shape) => Some(Kind::Group(shape)),
                None if node.get("properties").is_some() => None,
                None => {
                    let values = self.node(node.get("additionalProperties")?)?;
                    let is_text = !values.is_beyond() && values.get("enum").is_none();
                    (is_text && values.text("type") == Some("string")).then_some(Kind::Map)
                }
            },
            _ => None,
        }
    }
}

/// The words that there are to choose from.
fn choices(node: Node<'_>) -> Option<Vec<&str>> {
    let words = node.get("enum")?.as_array().filter(|words| (1..=MAX_CHOICES).contains(&words.len()))?;
    let words: Vec<&str> = words.iter().map(Value::as_str).collect::<Option<_>>()?;
    let is_new = |(at, word): (usize, &&str)| !word.is_empty() && !words[..at].contains(word);
    words.iter().enumerate().all(is_new).then_some(words)
}
