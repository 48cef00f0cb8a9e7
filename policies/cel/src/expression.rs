//! Expressions and texts with expressions in them: parsed and checked once, evaluated often.

use std::fmt;
use std::sync::Arc;

use cel::common::types::CelBool;
use cel::common::value::CowVal;
use cel::parser::{Expression as Tree, PrattParser};
use cel::{Context as Scope, Env, ExecutionError, Value as Evaluator};
use policy_scripted::{Shape, bounded};
use portcullis_guest_sdk::Hook;
use portcullis_guest_sdk::serde_json::Value;

use crate::check::check;
use crate::value::{to_json, to_text};

/// Longest expression or text, in bytes.
pub(crate) const MAX_LEN: usize = 4096;
/// Brackets, arguments and the like within each other.
const MAX_RECURSION: u16 = 24;
/// Characters that are shown of what could not be read.
const MAX_NEAR: usize = 24;
/// Nodes of one expression.
const MAX_NODES: usize = 2000;

/// Where expressions are read for: what they may name.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) env: Arc<Env>,
    pub(crate) hooks: Vec<Hook>,
    /// A variable beyond those of the hooks.
    pub(crate) local: Option<(&'static str, &'static Shape)>,
}

/// A mistake in an expression, with its line and column if it has a place.
#[derive(Debug, PartialEq)]
pub(crate) struct Mistake {
    pub(crate) place: Option<(usize, usize)>,
    pub(crate) message: String,
}

/// Why an expression has no value. Says nothing of the values that were looked at: they may be what is to be hidden.
#[derive(Debug, PartialEq)]
pub(crate) struct Failure(pub(crate) String);

/// A parsed expression.
#[derive(Debug)]
pub(crate) struct Expression {
    source: String,
    tree: Tree,
}

impl Expression {
    pub(crate) fn parse(source: &str, reader: &Reader) -> Result<Self, Mistake> {
        if source.len() > MAX_LEN {
            return Err(Mistake { place: None, message: format!("an expression has at most {MAX_LEN} bytes") });
        }
        let parser = PrattParser::new()
            .enable_optional_syntax(true)
            .max_recursion_depth(MAX_RECURSION)
            .max_expression_node_count(MAX_NODES);
        let tree = parser.parse(source).map_err(|errors| Mistake::from_parser(&errors, source))?;
        for hook in &reader.hooks {
            check(&tree, source, *hook, reader)?;
        }
        Ok(Self { source: source.to_owned(), tree })
    }

    /// The value, in the scope of one decision.
    pub(crate) fn value<'e, 'v>(&'e self, scope: &'e Scope<'_, 'v>) -> Result<CowVal<'e, 'v>, Failure> {
        Evaluator::resolve_val(&self.tree, scope).map_err(|error| Failure::of(&error, &self.source))
    }

    pub(crate) fn is_true(&self, scope: &Scope<'_, '_>) -> Result<bool, Failure> {
        let value = self.value(scope)?;
        let is = value.downcast_ref::<CelBool>().map(|is| *is.inner());
        is.ok_or_else(|| Failure(format!("a condition is true or false, not a {}", value.get_type().name())))
    }

    pub(crate) fn json(&self, scope: &Scope<'_, '_>) -> Result<Value, Failure> {
        let value = self.value(scope)?;
        to_json(value.as_ref()).ok_or_else(|| Failure::no_json(value.get_type().name()))
    }

    fn text(&self, scope: &Scope<'_, '_>) -> Result<String, Failure> {
        let value = self.value(scope)?;
        to_text(value.as_ref()).ok_or_else(|| Failure::no_json(value.get_type().name()))
    }
}

/// A text in which `{{ expression }}` stands for a value.
#[derive(Debug)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Text(String),
    Value(Expression),
}

impl Template {
    pub(crate) fn parse(source: &str, reader: &Reader) -> Result<Self, Mistake> {
        if source.len() > MAX_LEN {
            return Err(Mistake { place: None, message: format!("a text has at most {MAX_LEN} bytes") });
        }
        let mut pieces = Vec::new();
        let mut rest = source;
        while let Some(open) = rest.find("{{") {
            let start = source.len() - rest.len() + open + 2;
            let Some(length) = closing(&source[start..]) else {
                return Err(Mistake::at(source, start - 2, "`{{` without `}}`"));
            };
            if open > 0 {
                pieces.push(Piece::Text(rest[..open].to_owned()));
            }
            let expression = Expression::parse(&source[start..start + length], reader);
            pieces.push(Piece::Value(expression.map_err(|mistake| mistake.within(source, start))?));
            rest = &source[start + length + 2..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// The text, cut to so many bytes.
    pub(crate) fn text(&self, scope: &Scope<'_, '_>, bytes: usize) -> Result<String, Failure> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Value(expression) => text.push_str(&expression.text(scope)?),
            }
        }
        Ok(bounded(text, bytes))
    }
}

/// Where the `}}` is that ends an expression; not one in a string or of a map in a map.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut escaped, mut depth) = (None, false, 0_usize);
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'{') => depth += 1,
            (None, b'}') if depth == 0 => return text[at..].starts_with("}}").then_some(at),
            (None, b'}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

impl Mistake {
    /// At a byte of the source.
    pub(crate) fn at(source: &str, byte: usize, message: impl Into<String>) -> Self {
        Self { place: Some(place(source, byte)), message: message.into() }
    }

    /// At the first place where the source has this word, apart from its strings.
    pub(crate) fn of_word(source: &str, word: &str, message: impl Into<String>) -> Self {
        Self { place: find_word(source, word).map(|byte| place(source, byte)), message: message.into() }
    }

    fn from_parser(errors: &cel::ParseErrors, source: &str) -> Self {
        let Some(first) = errors.errors.first() else {
            return Self { place: None, message: "not an expression".to_owned() };
        };
        let message = first.msg.strip_prefix("Syntax error: ").unwrap_or(&first.msg);
        match first.pos {
            (line @ 1.., column @ 1..) => {
                let (line, column) = (line.unsigned_abs(), column.unsigned_abs());
                let rest = source.lines().nth(line - 1).unwrap_or_default().chars().skip(column - 1);
                let near: String = rest.take(MAX_NEAR).collect();
                let message = match near.trim() {
                    _ if message.contains("mismatched input") => message.to_owned(),
                    "" => format!("{message} at the end"),
                    near => format!("{message} at `{near}`"),
                };
                Self { place: Some((line, column)), message }
            }
            _ => Self { place: None, message: message.to_owned() },
        }
    }

    /// The mistake of an expression that begins at a byte of a longer text.
    fn within(mut self, source: &str, start: usize) -> Self {
        let (first_line, first_column) = place(source, start);
        self.place = self.place.map(|(line, column)| match line {
            1 => (first_line, first_column + column - 1),
            _ => (first_line + line - 1, column),
        });
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Line and column, counted from one; the column in characters.
fn place(source: &str, byte: usize) -> (usize, usize) {
    let before = &source[..source.floor_char_boundary(byte)];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn find_word(source: &str, word: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let mut before = ' ';
    for (at, character) in source.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if matches!(character, '"' | '\'') => quote = Some(character),
            None if !is_word(before) => {
                let after = source[at..].strip_prefix(word);
                if after.is_some_and(|after| !after.starts_with(is_word)) {
                    return Some(at);
                }
            }
            None => {}
        }
        before = character;
    }
    None
}

impl Failure {
    fn no_json(type_name: &str) -> Self {
        Self(format!("a {type_name} has no form in JSON"))
    }

    fn of(error: &ExecutionError, source: &str) -> Self {
        Self(match error {
            // A key that the expression spells out is the operator's own; any other one is data.
            ExecutionError::NoSuchKey(key) if find_word(source, key).is_some() => format!("there is no member `{key}`"),
            ExecutionError::NoSuchKey(_) => "there is no member of this name".to_owned(),
            ExecutionError::UndeclaredReference(name) => format!("there is no `{name}` here"),
            ExecutionError::NoSuchOverload(overload) => {
                let types = overload.argument_types().join(", ");
                format!("`{}` is not made for ({types})", operator(overload.function()))
            }
            ExecutionError::UnexpectedType { got, want } => format!("found a {got} where a {want} is wanted"),
            ExecutionError::UnsupportedBinaryOperator(name, left, right) => {
                format!("`{name}` is not made for ({}, {})", left.type_of(), right.type_of())
            }
            ExecutionError::ValuesNotComparable(left, right) => {
                format!("a {} cannot be compared to a {}", left.type_of(), right.type_of())
            }
            ExecutionError::IndexOutOfBounds(_) => "the list has no such index".to_owned(),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
            ExecutionError::Overflow(..) => "a number is too large".to_owned(),
            ExecutionError::FunctionError { function, .. } => format!("`{function}` failed"),
            _ => "it has no value".to_owned(),
        })
    }
}

/// An operator as it is written.
fn operator(function: &str) -> &str {
    match function {
        "@in" => "in",
        function => function.trim_matches('_'),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use policy_scripted::{Situation, Subject};
    use portcullis_guest_sdk::serde_json::{from_value, json};
    use portcullis_guest_sdk::{Call, Context};

    use super::*;
    use crate::facts::Facts;
    use crate::functions::env;

    static ENV: LazyLock<Arc<Env>> = LazyLock::new(env);

    fn reader() -> Reader {
        Reader { env: ENV.clone(), hooks: vec![Hook::ToolCall], local: None }
    }

    fn in_a_call<T>(look: impl FnOnce(&Scope<'_, '_>) -> T) -> T {
        let context: Context = from_value(json!({
            "now_ms": 100_000, "caller": {"subject": "ada", "scopes": ["notes:read"], "auth_time": 40},
        }))
        .unwrap();
        let call: Call = from_value(json!({
            "tool": {"upstream": "notes", "name": "delete_note", "hints": ["destructive"]},
            "arguments": {"id": 7, "tags": ["a", "b"], "secret": "tell nobody"},
        }))
        .unwrap();
        let situation = Situation::new(&context, Subject::ToolCall(&call));
        let facts = Facts::of(&situation);
        let mut scope = Scope::with_env(ENV.clone());
        scope.set_variable_resolver(&facts);
        look(&scope)
    }

    fn evaluated(source: &str) -> Result<Value, String> {
        let expression = Expression::parse(source, &reader()).map_err(|mistake| mistake.to_string())?;
        in_a_call(|scope| expression.json(scope)).map_err(|failure| failure.0)
    }

    #[test]
    fn expressions_see_the_request_under_the_names_of_the_field() {
        for source in [
            "hints.destructive && !('admin' in caller.scopes)",
            "mcp.tool.name == 'delete_note' && mcp.tool.target == 'notes'",
            "args.id == 7 && request.arguments.id == 7 && args['id'] == 7",
            "has(args.id) && !has(args.other) && !has(caller.acr)",
            "now - caller.auth_time < 3600",
            "args.tags.exists(tag, tag == 'b') && size(args.tags) == 2",
            "args.?limit.orValue(10) == 10",
            "tool.name.glob('delete_*') && 'destructive' in tool.hints",
            "caller.scopes.all(scope, scope.startsWith('notes:'))",
            "type(args.id) == int",
            "context.now_ms == 100000",
            "args.tags.map(args, args + '!') == ['a!', 'b!']",
        ] {
            assert_eq!(evaluated(source), Ok(json!(true)), "{source}");
        }
    }

    #[test]
    fn a_mistake_is_told_with_line_and_column() {
        for (source, place, part) in [
            ("caller.kind == ", Some((1, 16)), "mismatched"),
            ("hints.destructive &&\n  && true", Some((2, 3)), "unexpected token at `&& true`"),
            ("hints.destructive &&\n  callr.kind == 'agent'", Some((2, 3)), "`callr`"),
            ("'callr' == callr.kind", Some((1, 12)), "`callr`"),
            ("caller.scope == []", Some((1, 8)), "`scope`"),
            ("caller.kind.name == ''", Some((1, 13)), "`name`"),
            ("caller.scopes.exists(s, s.x == 1)", Some((1, 27)), "`x`"),
            ("tool.name.startswith('a')", Some((1, 11)), "`startswith`"),
            ("sise(args) > 1", Some((1, 1)), "`sise`"),
            ("tool.name.matches('(')", Some((1, 11)), "regular expression"),
            ("response.is_error", Some((1, 1)), "`response`"),
            ("'\\q'", Some((1, 1)), ""),
            ("Thing{a: 1}", Some((1, 1)), "`Thing`"),
        ] {
            let mistake = Expression::parse(source, &reader()).unwrap_err();
            assert_eq!(mistake.place, place, "{source}: {mistake}");
            assert!(mistake.message.contains(part), "{source}: {mistake}");
        }
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_refused() {
        let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
        let chain = format!("args{}", ".a".repeat(200));
        let sum = format!("1{} > 0", " + 1".repeat(200));
        let nested = "args.all(a, args.all(b, args.all(c, args.all(d, a + b + c + d > 0))))";
        let long = format!("'{}' == ''", "x".repeat(MAX_LEN));
        for source in [&*deep, &chain, &sum, nested, &long] {
            assert!(Expression::parse(source, &reader()).is_err(), "{source:.40}");
        }
        let many = vec!["args.id == 1"; 100].join(" || ");
        assert!(Expression::parse(&many, &reader()).is_ok(), "many alternatives are no deep expression");
    }

    #[test]
    fn a_failure_says_why_and_tells_no_values() {
        for (source, why) in [
            ("args.other == 1", "there is no member `other`"),
            ("args[args.secret] == 1", "there is no member of this name"),
            ("args.secret > 7", "`>` is not made for (string, int)"),
            ("args.secret + 7 == 1", "`add` is not made for (string, int)"),
            ("args.tags[7] == 'a'", "the list has no such index"),
            ("args.id / 0 == 1", "division by zero"),
            ("int(args.secret) == 1", "`int` failed"),
            ("args.secret in args.secret", "`in` is not made for (string, string)"),
        ] {
            assert_eq!(evaluated(source), Err(why.to_owned()), "{source}");
        }
        let number = Expression::parse("args.id", &reader()).unwrap();
        assert_eq!(
            in_a_call(|scope| number.is_true(scope)),
            Err(Failure("a condition is true or false, not a int".to_owned()))
        );
    }

    #[test]
    fn texts_have_values_in_them() {
        let text = |source: &str| {
            let template = Template::parse(source, &reader()).map_err(|mistake| mistake.to_string())?;
            in_a_call(|scope| template.text(scope, 40)).map_err(|failure| failure.0)
        };
        for (source, expected) in [
            ("plain { text }", "plain { text }"),
            ("Delete note {{args.id}}?", "Delete note 7?"),
            ("{{ caller.subject }}: {{args.tags}}", r#"ada: ["a","b"]"#),
            ("{{ {'a': {'b': '}}'}}.a.b }}.", "}}."),
            ("{{ '{{' }}", "{{"),
            ("", ""),
            ("{{args.tags.join(', ')}} and then far more than forty bytes", "a, b and then far more than forty bytes"),
        ] {
            assert_eq!(text(source), Ok(expected.to_owned()), "{source}");
        }
        assert_eq!(text("one\n two {{ args.id"), Err("line 2, column 6: `{{` without `}}`".to_owned()));
        let error = text("one\n two {{ argz.id }}").unwrap_err();
        assert!(error.starts_with("line 2, column 9: there is no variable `argz`"), "{error}");
        assert_eq!(text("{{args.other}}"), Err("there is no member `other`".to_owned()));
    }
}
