//! What can be known of an expression before it is evaluated: that the variables, members and functions it names exist, and
//! that it is neither too deep nor nests too many loops.
//!
//! Types are not checked: arguments, claims and results have none until they are there.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use policy_scripted::{Shape, variables};
use portcullis_guest_sdk::{Glob, Hook};

use crate::expression::{Mistake, Reader};
use crate::functions::{GLOBAL, MEMBER, keep_pattern};

/// Deepest tree.
const MAX_DEPTH: usize = 48;
/// Loops (`all`, `exists`, `map`, `filter`, …) within each other.
const MAX_LOOPS: usize = 3;

const ANY: &Shape = &Shape::Any;

/// Refuses what can never be right in this hook.
pub(crate) fn check(tree: &IdedExpr, source: &str, hook: Hook, reader: &Reader) -> Result<(), Mistake> {
    let mut names: Vec<(&str, &'static Shape)> = variables(hook).collect();
    names.extend(reader.local);
    Check { source, hook, reader, names, loops: 0 }.shape(tree, 0).map(drop)
}

struct Check<'a> {
    source: &'a str,
    hook: Hook,
    reader: &'a Reader,
    /// Variables, the innermost last.
    names: Vec<(&'a str, &'static Shape)>,
    loops: usize,
}

impl<'a> Check<'a> {
    /// What is known of the value of this node.
    fn shape(&mut self, node: &'a IdedExpr, depth: usize) -> Result<&'static Shape, Mistake> {
        if depth > MAX_DEPTH {
            let message = format!("the expression is more than {MAX_DEPTH} levels deep");
            return Err(Mistake { place: None, message });
        }
        let depth = depth + 1;
        match &node.expr {
            Expr::Literal(_) => Ok(&Shape::Scalar),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.select(select, depth),
            Expr::Call(call) => self.call(call, depth),
            Expr::List(list) => list.elements.iter().try_fold(ANY, |_, item| self.shape(item, depth)).map(|_| ANY),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.shape(&entry.key, depth)?;
                        self.shape(&entry.value, depth)?;
                    }
                }
                Ok(ANY)
            }
            Expr::Comprehension(each) => {
                if self.loops == MAX_LOOPS {
                    let message = format!("more than {MAX_LOOPS} loops within each other");
                    return Err(Mistake { place: None, message });
                }
                let item = match self.shape(&each.iter_range, depth)? {
                    Shape::List(item) => item,
                    Shape::Scalar => return Err(self.mistake("", "a single value has nothing to go through")),
                    Shape::Any | Shape::Record(_) => ANY,
                };
                self.shape(&each.accu_init, depth)?;
                let outer = self.names.len();
                self.names.push((&each.iter_var, item));
                self.names.extend(each.iter_var2.as_deref().map(|name| (name, ANY)));
                self.names.push((&each.accu_var, ANY));
                self.loops += 1;
                for part in [&each.loop_cond, &each.loop_step, &each.result] {
                    self.shape(part, depth)?;
                }
                self.loops -= 1;
                self.names.truncate(outer);
                Ok(ANY)
            }
            Expr::Struct(message) => {
                let name = &message.type_name;
                Err(self.mistake(name, format!("there is no message type `{name}`")))
            }
            Expr::Unspecified => Err(self.mistake("", "not an expression")),
        }
    }

    fn variable(&self, name: &str) -> Result<&'static Shape, Mistake> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((_, shape)) = self.names.iter().rev().find(|(known, _)| *known == name) {
            return Ok(shape);
        }
        if name.starts_with('@') || self.reader.env.types().find_type(name).is_some() {
            return Ok(ANY);
        }
        let mut known: Vec<&str> =
            self.names.iter().map(|(name, _)| *name).filter(|name| !name.starts_with('@')).collect();
        known.sort_unstable();
        let (hook, known) = (self.hook.as_str(), known.join(", "));
        Err(self.mistake(name, format!("there is no variable `{name}` in the hook {hook}, only {known}")))
    }

    fn select(&mut self, select: &'a SelectExpr, depth: usize) -> Result<&'static Shape, Mistake> {
        let shape = self.shape(&select.operand, depth)?;
        let member = self.member(shape, &select.field)?;
        Ok(if select.test { &Shape::Scalar } else { member })
    }

    fn member(&self, shape: &'static Shape, name: &str) -> Result<&'static Shape, Mistake> {
        match shape {
            Shape::Any => Ok(ANY),
            Shape::Record(members) => match members.iter().find(|(known, _)| *known == name) {
                Some((_, shape)) => Ok(shape),
                None => {
                    let known: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
                    Err(self.mistake(name, format!("there is no member `{name}` here, only {}", known.join(", "))))
                }
            },
            Shape::Scalar => Err(self.mistake(name, format!("a single value has no member `{name}`"))),
            Shape::List(_) => Err(self.mistake(name, format!("a list has no member `{name}`"))),
        }
    }

    fn call(&mut self, call: &'a CallExpr, depth: usize) -> Result<&'static Shape, Mistake> {
        let name = call.func_name.as_str();
        if let Some(target) = &call.target {
            let qualified = match &target.expr {
                Expr::Ident(namespace) => GLOBAL.contains(&&*format!("{namespace}.{name}")),
                _ => false,
            };
            if !qualified {
                self.shape(target, depth)?;
                if !MEMBER.contains(&name) {
                    return Err(self.unknown_function(name));
                }
            }
        } else if !GLOBAL.contains(&name) && !is_operator(name) {
            return Err(self.unknown_function(name));
        }
        let mut first = ANY;
        for (at, argument) in call.args.iter().enumerate() {
            let shape = self.shape(argument, depth)?;
            if at == 0 {
                first = shape;
            }
        }
        match (name, call.args.last().and_then(text)) {
            ("matches", Some(pattern)) => keep_pattern(pattern).map_err(|error| self.mistake(name, error))?,
            ("glob", Some(pattern)) if Glob::parse(pattern).is_none() => {
                return Err(self.mistake(name, format!("a pattern has 1 to {} bytes", Glob::MAX_LEN)));
            }
            (operators::OPT_SELECT, Some(member)) => return self.member(first, member).map(|_| ANY),
            (operators::INDEX, Some(member)) if matches!(first, Shape::Record(_)) => return self.member(first, member),
            (operators::INDEX, _) => {
                if let Shape::List(item) = first {
                    return Ok(item);
                }
            }
            _ => {}
        }
        Ok(ANY)
    }

    fn unknown_function(&self, name: &str) -> Mistake {
        let how = match (GLOBAL.contains(&name), MEMBER.contains(&name)) {
            (true, _) => format!("`{name}` is called as `{name}(value)`"),
            (_, true) => format!("`{name}` is called as `value.{name}()`"),
            _ => format!("there is no function `{name}`"),
        };
        self.mistake(name, how)
    }

    fn mistake(&self, word: &str, message: impl Into<String>) -> Mistake {
        if word.is_empty() {
            return Mistake { place: None, message: message.into() };
        }
        Mistake::of_word(self.source, word, message)
    }
}

/// What the parser makes of operators; nobody can write such names.
fn is_operator(name: &str) -> bool {
    name.starts_with(['_', '@', '!', '-']) && !name.ends_with(char::is_alphanumeric)
        || matches!(name, operators::IN | operators::NOT_STRICTLY_FALSE)
}

fn text(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}
