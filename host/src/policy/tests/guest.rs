//! Guests for tests, written as core modules by hand: fixed answers laid out by the canonical ABI, or any WAT; in the
//! typed lane ([`Guest`]) and in the dynamic one ([`DynamicGuest`]).
//!
//! An answer is given as JSON and stored where the guest's memory begins, with the contract itself saying where
//! each field goes: records are objects with the contract's names, absent fields are `none`, an enum or a case
//! without payload is its name, and a case with one is an object with that one member.

use std::fmt::Write as _;

use serde_json::{Value, json};
use wit_parser::{Resolve, SizeAlign, Type, TypeDefKind};

use crate::policy::Hook;
use crate::policy::contract;

/// Where answers begin in a guest's memory.
const ANSWERS_AT: usize = 1024;

/// What a guest's function does.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Returns this.
    Answer(Value),
    /// WAT that leaves the address of an answer. `(local.get 0)` is the address of the parameters, or, for
    /// `configure`, of the configuration's text, whose length is `(local.get 1)`.
    Wat(String),
    /// WAT that gets the address of this answer in `$answer` and leaves the address of what is returned.
    Around(Value, String),
}

/// A policy in the making.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    manifest: Value,
    describe: Option<String>,
    configure: Body,
    self_tests: Option<Value>,
    realloc: String,
    hooks: Vec<(Hook, Body)>,
    /// Further fields of the module, before its functions.
    fields: String,
}

impl Guest {
    pub(super) fn new() -> Self {
        let manifest = json!({
            "name": "test", "version": "1.0.0", "title": "Test", "hooks": [], "mutates": [], "needs": [],
            "capabilities": [], "determinism": "pure", "config-schema": "{}", "sample-config": "{}",
        });
        let configure = Body::Answer(json!({ "ok": [] }));
        Self {
            manifest,
            describe: None,
            configure,
            self_tests: None,
            realloc: REALLOC.to_owned(),
            hooks: Vec::new(),
            fields: String::new(),
        }
    }

    /// Exports a hook and names it in the manifest.
    pub(super) fn hook(mut self, hook: Hook, body: Body) -> Self {
        self.manifest["hooks"].as_array_mut().expect("it is a list").push(json!(hook.as_str()));
        self.hooks.push((hook, body));
        self
    }

    pub(super) fn answers(self, hook: Hook, answer: Value) -> Self {
        self.hook(hook, Body::Answer(answer))
    }

    pub(super) fn runs(self, hook: Hook, wat: &str) -> Self {
        self.hook(hook, Body::Wat(wat.to_owned()))
    }

    pub(super) fn configure(mut self, body: Body) -> Self {
        self.configure = body;
        self
    }

    /// Exports cases: a list of records of interface `self-tests`.
    pub(super) fn self_tests(mut self, cases: Value) -> Self {
        self.self_tests = Some(cases);
        self
    }

    pub(super) fn describe(mut self, wat: &str) -> Self {
        self.describe = Some(wat.to_owned());
        self
    }

    /// What `cabi_realloc` does instead of allocating.
    pub(super) fn realloc(mut self, wat: &str) -> Self {
        self.realloc = format!("(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) {wat})");
        self
    }

    /// Replaces one field of the manifest.
    pub(super) fn manifest(mut self, field: &str, value: Value) -> Self {
        self.manifest[field] = value;
        self
    }

    /// Everything that a hook can be shown.
    pub(super) fn sees_all(self) -> Self {
        let need = |hook: Hook| json!({ "hook": hook.as_str(), "arguments": "full", "output": "full", "texts": true, "claims": [], "ext": [] });
        let needs = Hook::ALL.map(need);
        self.manifest("needs", json!(needs))
    }

    /// A hook that is shown these claims of the caller.
    pub(super) fn needs_claims(self, hook: Hook, claims: &[&str]) -> Self {
        let need = json!({ "hook": hook.as_str(), "arguments": "none", "output": "none", "texts": false, "claims": claims, "ext": [] });
        self.manifest("needs", json!([need]))
    }

    pub(super) fn mutates(self, hook: Hook) -> Self {
        self.manifest("mutates", json!([hook.as_str()]))
    }

    /// Runs `wat` at the beginning of each hook whose answer is made at run time.
    pub(super) fn before_answering(mut self, wat: &str) -> Self {
        for (_, body) in &mut self.hooks {
            if let Body::Around(_, around) = body {
                around.insert_str(0, wat);
            }
        }
        self
    }

    pub(super) fn field(mut self, wat: &str) -> Self {
        self.fields.push_str(wat);
        self
    }

    /// The guest as WAT.
    pub(super) fn wat(&self) -> String {
        let layout = Layout::new();
        let mut memory = Memory::default();
        let mut functions = String::new();
        let describe = match &self.describe {
            Some(wat) => wat.clone(),
            None => {
                format!("i32.const {}", memory.place(&layout, &layout.answer("manifest", "describe"), &self.manifest))
            }
        };
        function(&mut functions, "manifest", "describe", "", &describe);
        let mut add = |interface: &str, name: &str, params: &str, body: &Body| {
            let place =
                |answer: &Value, memory: &mut Memory| memory.place(&layout, &layout.answer(interface, name), answer);
            let body = match body {
                Body::Answer(answer) => format!("i32.const {}", place(answer, &mut memory)),
                Body::Wat(wat) => wat.clone(),
                Body::Around(answer, wat) => {
                    wat.replace("$answer", &format!("(i32.const {})", place(answer, &mut memory)))
                }
            };
            function(&mut functions, interface, name, params, &body);
        };
        add("configuration", "configure", "(param i32 i32)", &self.configure);
        if let Some(cases) = &self.self_tests {
            add("self-tests", "cases", "", &Body::Answer(cases.clone()));
        }
        for (hook, body) in &self.hooks {
            add(hook.as_str(), hook.function(), "(param i32)", body);
        }
        module(&self.fields, &self.realloc, &functions, &memory)
    }

    /// The guest as a core module.
    pub(super) fn core(&self) -> Vec<u8> {
        let wat = self.wat();
        wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
    }
}

/// A policy of the dynamic lane in the making.
#[derive(Clone, Debug)]
pub(super) struct DynamicGuest {
    manifest: Value,
    configure: Text,
    decide: Text,
    fields: String,
}

/// What a function of the dynamic lane does.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Ok(String),
    Err(String),
    /// WAT that leaves the address of a result: a tag, 0 for `ok`, and four bytes further a text's address and length.
    /// `$answer` is the address of one that is this text. `(local.get 0)` and `(local.get 1)` are the first parameter.
    Around(String, String),
}

impl DynamicGuest {
    pub(super) fn new(hooks: &[Hook]) -> Self {
        let manifest = json!({
            "name": "test", "version": "1.0.0", "title": "Test", "hooks": hooks,
            "config_schema": {}, "sample_config": {},
        });
        let decide = Text::Ok("\"abstain\"".to_owned());
        Self { manifest, configure: Text::Ok("[]".to_owned()), decide, fields: String::new() }
    }

    /// One that answers this to whatever call.
    pub(super) fn answers(answer: &Value) -> Self {
        Self::new(&[Hook::ToolCall]).decide(Text::Ok(answer.to_string()))
    }

    /// One whose answer is made by this.
    pub(super) fn runs(wat: &str) -> Self {
        Self::new(&[Hook::ToolCall]).decide(Text::Around(json!({ "allow": {} }).to_string(), wat.to_owned()))
    }

    pub(super) fn manifest(mut self, member: &str, value: Value) -> Self {
        self.manifest[member] = value;
        self
    }

    pub(super) fn configure(self, configure: Text) -> Self {
        Self { configure, ..self }
    }

    pub(super) fn decide(self, decide: Text) -> Self {
        Self { decide, ..self }
    }

    pub(super) fn field(mut self, wat: &str) -> Self {
        self.fields.push_str(wat);
        self
    }

    /// The guest as WAT.
    pub(super) fn wat(&self) -> String {
        let mut memory = Memory::default();
        let describe = memory.place_text(None, &self.manifest.to_string());
        let mut body = |text: &Text| match text {
            Text::Ok(text) => format!("i32.const {}", memory.place_text(Some(0), text)),
            Text::Err(text) => format!("i32.const {}", memory.place_text(Some(1), text)),
            Text::Around(text, wat) => {
                wat.replace("$answer", &format!("(i32.const {})", memory.place_text(Some(0), text)))
            }
        };
        let (configure, decide) = (body(&self.configure), body(&self.decide));
        let mut functions = String::new();
        function(&mut functions, "dynamic", "describe", "", &format!("i32.const {describe}"));
        function(&mut functions, "dynamic", "configure", "(param i32 i32)", &configure);
        function(&mut functions, "dynamic", "decide", "(param i32 i32 i32 i32)", &decide);
        module(&self.fields, REALLOC, &functions, &memory)
    }

    /// The guest as a core module.
    pub(super) fn core(&self) -> Vec<u8> {
        let wat = self.wat();
        wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
    }
}

/// A module that exports a memory with these contents.
fn module(fields: &str, realloc: &str, functions: &str, memory: &Memory) -> String {
    let heap = (ANSWERS_AT + memory.0.len()).next_multiple_of(16);
    let pages = heap.div_ceil(65536) + 1;
    let data = memory.0.iter().fold(String::new(), |mut data, byte| {
        write!(data, "\\{byte:02x}").expect("writing to a String does not fail");
        data
    });
    format!(
        "(module\n{fields}\n(memory (export \"memory\") {pages})\n(global $heap (mut i32) (i32.const {heap}))\n\
         {realloc}\n{functions}\n(data (i32.const {ANSWERS_AT}) \"{data}\"))"
    )
}

/// Takes memory and never gives any back.
const REALLOC: &str = r#"
(func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and
    (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
    (i32.sub (i32.const 0) (local.get $align))))
  (global.set $heap (i32.add (local.get $at) (local.get $size)))
  (block $fits (loop $more
    (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
    (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
    (br $more)))
  (memory.copy (local.get $at) (local.get $old) (local.get $old_size))
  (local.get $at))"#;

fn function(out: &mut String, interface: &str, name: &str, params: &str, body: &str) {
    let interface = contract::interface(interface);
    writeln!(out, "(func (export \"{interface}#{name}\") {params} (result i32) {body})")
        .expect("writing to a String does not fail");
}

/// Where the canonical ABI puts things.
pub(super) struct Layout {
    resolve: Resolve,
    sizes: SizeAlign,
}

impl Layout {
    pub(super) fn new() -> Self {
        let mut resolve = Resolve::default();
        resolve.push_source("policy.wit", contract::WIT).expect("the contract parses");
        let mut sizes = SizeAlign::default();
        sizes.fill(&resolve);
        Self { resolve, sizes }
    }

    fn function(&self, interface: &str, function: &str) -> &wit_parser::Function {
        let named = |found: &&wit_parser::Interface| found.name.as_deref() == Some(interface);
        let (_, found) = self.resolve.interfaces.iter().find(|(_, found)| named(found)).expect("it is in the contract");
        &found.functions[function]
    }

    fn answer(&self, interface: &str, function: &str) -> Type {
        self.function(interface, function).result.expect("every function of the contract answers")
    }

    /// How far from the address of a hook's parameters the field at `path` begins, such as `["request", "arguments"]`.
    pub(super) fn offset(&self, hook: Hook, path: &[&str]) -> usize {
        let params = &self.function(hook.as_str(), hook.function()).params;
        let fields: Vec<(&str, Type)> = params.iter().map(|param| (param.name.as_str(), param.ty)).collect();
        self.offset_in(&fields, path)
    }

    /// The size of an element of a hook's parameter that is a list, and how far into one its field begins.
    pub(super) fn element(&self, hook: Hook, field: &str) -> (usize, usize) {
        let params = &self.function(hook.as_str(), hook.function()).params;
        let TypeDefKind::List(element) = self.kind(params[1].ty) else { panic!("{hook} is not about a list") };
        let TypeDefKind::Record(record) = self.kind(*element) else { panic!("{hook} is not about records") };
        let fields: Vec<(&str, Type)> = record.fields.iter().map(|field| (field.name.as_str(), field.ty)).collect();
        (self.sizes.size(element).size_wasm32(), self.offset_in(&fields, &[field]))
    }

    fn offset_in(&self, fields: &[(&str, Type)], path: &[&str]) -> usize {
        let position = fields.iter().position(|(name, _)| *name == path[0]).expect("the path names fields");
        let offsets = self.sizes.field_offsets(fields.iter().map(|(_, ty)| ty));
        let here = offsets[position].0.size_wasm32();
        if path.len() == 1 {
            return here;
        }
        let TypeDefKind::Record(record) = self.kind(fields[position].1) else { panic!("{} is no record", path[0]) };
        let inner: Vec<(&str, Type)> = record.fields.iter().map(|field| (field.name.as_str(), field.ty)).collect();
        here + self.offset_in(&inner, &path[1..])
    }

    fn kind(&self, ty: Type) -> &TypeDefKind {
        let Type::Id(mut id) = ty else { panic!("a plain type") };
        while let TypeDefKind::Type(Type::Id(alias)) = &self.resolve.types[id].kind {
            id = *alias;
        }
        &self.resolve.types[id].kind
    }

    /// The type behind aliases.
    fn plain(&self, mut ty: Type) -> Type {
        while let Type::Id(id) = ty {
            match self.resolve.types[id].kind {
                TypeDefKind::Type(alias) => ty = alias,
                _ => break,
            }
        }
        ty
    }
}

/// A guest's memory from `ANSWERS_AT` on.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Memory {
    /// Stores `value` and returns its address.
    fn place(&mut self, layout: &Layout, ty: &Type, value: &Value) -> usize {
        let at = self.reserve(layout, ty, 1);
        self.store(layout, *ty, value, at);
        ANSWERS_AT + at
    }

    /// Stores a text and what leads to it, behind a tag if there is one, and returns the address of that.
    fn place_text(&mut self, tag: Option<u8>, text: &str) -> usize {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let at = self.0.len();
        let head: Vec<u8> = tag.map(|tag| [tag, 0, 0, 0]).into_iter().flatten().collect();
        let text_at = at + head.len() + 8;
        self.0.extend_from_slice(&head);
        self.0.resize(text_at, 0);
        self.put_u32(at + head.len(), ANSWERS_AT + text_at);
        self.put_u32(at + head.len() + 4, text.len());
        self.0.extend_from_slice(text.as_bytes());
        ANSWERS_AT + at
    }

    fn reserve(&mut self, layout: &Layout, ty: &Type, count: usize) -> usize {
        let at = self.0.len().next_multiple_of(layout.sizes.align(ty).align_wasm32());
        self.0.resize(at + layout.sizes.size(ty).size_wasm32() * count, 0);
        at
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u32(&mut self, at: usize, number: usize) {
        self.put(at, &u32::try_from(number).expect("test guests are small").to_le_bytes());
    }

    fn store(&mut self, layout: &Layout, ty: Type, value: &Value, at: usize) {
        match layout.plain(ty) {
            Type::Bool => self.put(at, &[u8::from(value.as_bool().expect("a bool"))]),
            Type::U32 => self.put_u32(at, usize::try_from(value.as_u64().expect("a u32")).expect("a u32")),
            Type::S32 => {
                let number = i32::try_from(value.as_i64().expect("an s32")).expect("an s32");
                self.put(at, &number.to_le_bytes());
            }
            Type::U64 => self.put(at, &value.as_u64().expect("a u64").to_le_bytes()),
            Type::String => {
                let text = value.as_str().unwrap_or_else(|| panic!("{value} is no string"));
                let text_at = self.0.len();
                self.0.extend_from_slice(text.as_bytes());
                self.put_u32(at, ANSWERS_AT + text_at);
                self.put_u32(at + 4, text.len());
            }
            other => self.store_defined(layout, other, value, at),
        }
    }

    fn store_defined(&mut self, layout: &Layout, ty: Type, value: &Value, at: usize) {
        match layout.kind(ty) {
            TypeDefKind::Record(record) => {
                let members = value.as_object().unwrap_or_else(|| panic!("{value} is no record"));
                let unknown = members.keys().find(|name| !record.fields.iter().any(|field| field.name == **name));
                assert!(unknown.is_none(), "{unknown:?} is no field");
                let offsets = layout.sizes.field_offsets(record.fields.iter().map(|field| &field.ty));
                for (field, (offset, ty)) in record.fields.iter().zip(offsets) {
                    self.store(layout, *ty, &value[&field.name], at + offset.size_wasm32());
                }
            }
            TypeDefKind::List(item) => {
                let items = value.as_array().unwrap_or_else(|| panic!("{value} is no list"));
                let items_at = self.reserve(layout, item, items.len());
                let size = layout.sizes.size(item).size_wasm32();
                for (position, value) in items.iter().enumerate() {
                    self.store(layout, *item, value, items_at + position * size);
                }
                self.put_u32(at, ANSWERS_AT + items_at);
                self.put_u32(at + 4, items.len());
            }
            TypeDefKind::Option(inner) if !value.is_null() => {
                self.store_case(layout, &[None, Some(*inner)], 1, Some(value), at);
            }
            TypeDefKind::Option(_) => {}
            TypeDefKind::Enum(cases) => {
                let position = cases.cases.iter().position(|case| value == case.name.as_str());
                self.put(
                    at,
                    &[u8::try_from(position.unwrap_or_else(|| panic!("{value} is no case"))).expect("few cases")],
                );
            }
            TypeDefKind::Variant(variant) => {
                let (name, payload) = case(value);
                let position = variant.cases.iter().position(|case| case.name == name);
                let types: Vec<Option<Type>> = variant.cases.iter().map(|case| case.ty).collect();
                self.store_case(layout, &types, position.unwrap_or_else(|| panic!("{name} is no case")), payload, at);
            }
            TypeDefKind::Result(result) => {
                let (name, payload) = case(value);
                self.store_case(layout, &[result.ok, result.err], usize::from(name == "err"), payload, at);
            }
            TypeDefKind::Flags(flags) => {
                let names = value.as_array().unwrap_or_else(|| panic!("{value} is no list of flags"));
                let bits =
                    flags.flags.iter().enumerate().filter(|(_, flag)| names.iter().any(|name| *name == flag.name));
                self.put(at, &[bits.fold(0, |byte, (position, _)| byte | 1 << position)]);
            }
            other => panic!("the contract answers with no {other:?}"),
        }
    }

    fn store_case(
        &mut self,
        layout: &Layout,
        cases: &[Option<Type>],
        position: usize,
        payload: Option<&Value>,
        at: usize,
    ) {
        self.put(at, &[u8::try_from(position).expect("few cases")]);
        if let Some(ty) = cases[position] {
            let types = cases.iter().map(Option::as_ref);
            let offset = layout.sizes.payload_offset(wit_parser::Int::U8, types).size_wasm32();
            self.store(layout, ty, payload.expect("this case has a payload"), at + offset);
        }
    }
}

fn case(value: &Value) -> (&str, Option<&Value>) {
    match value {
        Value::String(name) => (name, None),
        Value::Object(members) if members.len() == 1 => {
            let (name, payload) = members.iter().next().expect("it has one member");
            (name, Some(payload))
        }
        other => panic!("{other} is no case"),
    }
}

/// A reason with this code and message.
pub(super) fn reason(code: &str, message: &str) -> Value {
    json!({ "code": code, "message": message })
}

/// A verdict that denies with this code.
pub(super) fn deny(code: &str) -> Value {
    json!({ "deny": { "reason": reason(code, "No."), "as-tool-error": true } })
}

/// A verdict that allows, with some fields of `permit` replaced.
pub(super) fn allow(terms: &Value) -> Value {
    let mut permit = json!({ "rewrite": "keep", "inspect-result": false, "notes": [] });
    for (name, value) in terms.as_object().expect("an object") {
        permit[name] = value.clone();
    }
    json!({ "allow": permit })
}

/// A redaction with some fields given.
pub(super) fn redact(fields: &Value) -> Value {
    let mut redaction = json!({ "spans": [], "structured": [], "drop-parts": [], "notes": [] });
    for (name, value) in fields.as_object().expect("an object") {
        redaction[name] = value.clone();
    }
    json!({ "redact": redaction })
}

/// A guest that denies and says in its message what text it was shown at `path`, or `-` if there was none.
pub(super) fn echo(hook: Hook, path: &[&str], optional: bool) -> Guest {
    let at = Layout::new().offset(hook, path);
    let (text, present) = if optional {
        (at + 4, format!("(i32.load8_u offset={at} (local.get 0))"))
    } else {
        (at, "(i32.const 1)".into())
    };
    let denial = json!({ "reason": reason("echo", "-"), "as-tool-error": true });
    // The message is the third and fourth word of a denial, which begins behind the verdict's tag.
    let layout = Layout::new();
    let ty = layout.answer(hook.as_str(), hook.function());
    let TypeDefKind::Variant(variant) = layout.kind(ty) else { panic!("only verdicts and inspections can echo") };
    let payload = layout.sizes.payload_offset(wit_parser::Int::U8, variant.cases.iter().map(|case| case.ty.as_ref()));
    let message = payload.size_wasm32() + 8;
    let wat = format!(
        "(if {present} (then
           (i32.store offset={message} $answer (i32.load offset={text} (local.get 0)))
           (i32.store offset={} $answer (i32.load offset={} (local.get 0)))))
         $answer",
        message + 4,
        text + 4
    );
    let case = if matches!(hook, Hook::ToolResult | Hook::ItemResult) { "block" } else { "deny" };
    Guest::new().hook(hook, Body::Around(json!({ case: denial }), wat)).sees_all()
}
