//! Adds the contract's JSON form to the generated types, as the head of `wit/policy.wit` lays it down: serde derives, and
//! for each member what happens if it is left out.
//!
//! It reads the generated text line by line; what it looks for is the shape that wit-bindgen writes. Two rules decide
//! about what is left out: everything that only appears in questions to a policy has a harmless value, and of an answer
//! whatever can be empty may be left out.

use std::collections::BTreeSet;

use wit_parser::{PackageId, Resolve, Type, TypeDefKind, TypeOwner};

/// Types as module and name in the generated text.
type Names = BTreeSet<(String, String)>;

/// Which types the hooks' questions and answers consist of.
pub(crate) struct Parts {
    questions: Names,
    answers: Names,
}

/// Where a type appears.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Question,
    /// In answers, and perhaps in questions too.
    Answer {
        also_in_questions: bool,
    },
}

impl Parts {
    /// Looks at the parameters and results of all hooks: the functions whose first parameter is the context.
    pub(crate) fn of(resolve: &Resolve, package: PackageId) -> Self {
        let mut parts = Self { questions: Names::new(), answers: Names::new() };
        let interfaces = resolve.packages[package].interfaces.values();
        for function in interfaces.flat_map(|id| resolve.interfaces[*id].functions.values()) {
            if function.params.first().is_some_and(|param| param.name == "context") {
                function.params.iter().for_each(|param| add(&mut parts.questions, resolve, &param.ty));
                function.result.iter().for_each(|ty| add(&mut parts.answers, resolve, ty));
            }
        }
        parts
    }

    fn place(&self, module: &str, name: &str) -> Place {
        let key = (module.to_owned(), name.to_owned());
        let in_questions = self.questions.contains(&key);
        if in_questions && !self.answers.contains(&key) {
            return Place::Question;
        }
        Place::Answer { also_in_questions: in_questions }
    }
}

fn add(names: &mut Names, resolve: &Resolve, ty: &Type) {
    let Type::Id(id) = ty else { return };
    let definition = &resolve.types[*id];
    match &definition.kind {
        TypeDefKind::Record(record) => record.fields.iter().for_each(|field| add(names, resolve, &field.ty)),
        TypeDefKind::Variant(variant) => {
            variant.cases.iter().filter_map(|case| case.ty.as_ref()).for_each(|ty| add(names, resolve, ty));
        }
        TypeDefKind::Enum(_) => {}
        TypeDefKind::Type(inner) | TypeDefKind::List(inner) | TypeDefKind::Option(inner) => {
            return add(names, resolve, inner);
        }
        _ => return,
    }
    let TypeOwner::Interface(owner) = definition.owner else { return };
    let module = resolve.interfaces[owner].name.as_deref().unwrap_or_default().replace('-', "_");
    let name = definition.name.as_deref().unwrap_or_default();
    names.insert((module, name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect()));
}

/// The generated text with the JSON form added to every record, variant and enum.
pub(crate) fn added(text: &str, parts: &Parts) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut module = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.trim();
        if let Some(name) = code.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(" {")) {
            module = name;
        }
        if let Some(name) = declared("pub struct ", code) {
            record(&mut out, line, &mut lines, name, parts.place(module, name));
        } else if let Some(name) = declared("pub enum ", code) {
            choice(&mut out, line, &mut lines, name, parts.place(module, name));
        } else {
            push(&mut out, line);
        }
    }
    out
}

/// The name in a line such as `pub struct Name {`.
fn declared<'a>(keyword: &str, code: &'a str) -> Option<&'a str> {
    let name = code.strip_prefix(keyword)?.strip_suffix(" {")?;
    name.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(name)
}

fn record<'a>(out: &mut String, head: &str, lines: &mut impl Iterator<Item = &'a str>, name: &str, place: Place) {
    let in_question = place == Place::Question;
    push(out, "#[derive(serde::Serialize, serde::Deserialize)]");
    push(out, if in_question { "#[serde(default, deny_unknown_fields)]" } else { "#[serde(deny_unknown_fields)]" });
    push(out, head);
    let (mut values, mut all_optional) = (String::new(), true);
    for line in lines {
        let code = line.trim();
        if let Some((member, ty)) = code.strip_prefix("pub ").and_then(|rest| rest.strip_suffix(',')?.split_once(": "))
        {
            let attribute = member_attribute(member, ty, in_question);
            push(out, attribute);
            all_optional &= attribute.contains("default");
            let value = if ty == "Json" { "crate::serial::empty_object()" } else { "Default::default()" };
            values.push_str(&format!("{member}: {value}, "));
        }
        push(out, line);
        if code == "}" {
            break;
        }
    }
    if in_question || (all_optional && place == (Place::Answer { also_in_questions: true })) {
        push(out, &format!("impl Default for {name} {{ fn default() -> Self {{ Self {{ {values}}} }} }}"));
    }
}

/// How a member is written and what it is when it is left out. Members of questions have their record's default.
fn member_attribute(member: &str, ty: &str, in_question: bool) -> &'static str {
    match ty {
        "Json" => "#[serde(with = \"crate::serial::json\")]",
        "Option<Json>" if in_question => "#[serde(with = \"crate::serial::json_option\")]",
        "Option<Json>" => "#[serde(with = \"crate::serial::json_option\", default)]",
        _ if in_question => "",
        "bool" if member == "as_tool_error" => "#[serde(default = \"crate::serial::yes\")]",
        "bool" | "Rewrite" | "Capability" | "Payload" | "Determinism" => "#[serde(default)]",
        _ if ty.starts_with("Option<") || ty.starts_with("_rt::Vec::<") => "#[serde(default)]",
        _ => "",
    }
}

fn choice<'a>(out: &mut String, head: &str, lines: &mut impl Iterator<Item = &'a str>, name: &str, place: Place) {
    push(out, "#[derive(serde::Serialize, serde::Deserialize)]");
    push(out, "#[serde(rename_all = \"kebab-case\")]");
    push(out, head);
    let mut first = None;
    for line in lines {
        let code = line.trim();
        if let Some(case) = code.strip_suffix(',').filter(|case| !case.starts_with("//")) {
            first.get_or_insert(case);
        }
        push(out, &line.replace("(Json),", "(#[serde(with = \"crate::serial::json\")] Json),"));
        if code == "}" {
            break;
        }
    }
    // Of the choices that may be left out, the first is the harmless one.
    let is_optional = place == Place::Question || matches!(name, "Rewrite" | "Payload" | "Determinism");
    if let Some(first) = first.filter(|_| is_optional) {
        push(out, &format!("impl Default for {name} {{ fn default() -> Self {{ Self::{first} }} }}"));
    }
}

fn push(out: &mut String, line: &str) {
    if !line.is_empty() {
        out.push_str(line);
        out.push('\n');
    }
}
