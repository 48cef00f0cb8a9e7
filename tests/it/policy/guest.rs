//! A policy in the dynamic lane, written by hand: whatever it is asked at a hook, it answers the same.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Where its texts begin in its memory.
const TEXTS_AT: usize = 1024;

/// A core module with these hooks and what it answers at each.
pub(crate) fn answering(answers: &[(&str, Value)]) -> Vec<u8> {
    let hooks: Vec<&str> = answers.iter().map(|(hook, _)| *hook).collect();
    let needs: Vec<Value> = hooks
        .iter()
        .map(|hook| json!({ "hook": hook, "arguments": "full", "output": "full", "texts": false, "claims": [], "ext": [] }))
        .collect();
    let mutating = ["tool-call", "list-tools", "tool-result", "item-result", "client"];
    let mutates: Vec<&&str> = hooks.iter().filter(|hook| mutating.contains(hook)).collect();
    let manifest = json!({
        "name": "answering", "version": "1.0.0", "title": "Answers always the same", "hooks": hooks,
        "mutates": mutates, "needs": needs, "capabilities": [], "determinism": "pure", "config_schema": {},
        "sample_config": {},
    });
    let mut texts = Texts::default();
    let describe = texts.pair(&manifest.to_string());
    let configure = texts.result("[]");
    // Hooks are told apart by the length of their names and their first and last letters.
    let decide = answers.iter().fold("unreachable".to_owned(), |otherwise, (hook, answer)| {
        let answer = texts.result(&answer.to_string());
        let (first, last) = (hook.as_bytes()[0], hook.as_bytes()[hook.len() - 1]);
        format!(
            "(if (result i32)
               (i32.and
                 (i32.eq (local.get 1) (i32.const {length}))
                 (i32.and
                   (i32.eq (i32.load8_u (local.get 0)) (i32.const {first}))
                   (i32.eq (i32.load8_u offset={last_at} (local.get 0)) (i32.const {last}))))
               (then (i32.const {answer})) (else {otherwise}))",
            length = hook.len(),
            last_at = hook.len() - 1,
        )
    });
    let data = texts.0.iter().fold(String::new(), |mut data, byte| {
        write!(data, "\\{byte:02x}").unwrap();
        data
    });
    let heap = (TEXTS_AT + texts.0.len()).next_multiple_of(65536);
    let wat = format!(
        r#"(module
          (memory (export "memory") {pages})
          (global $heap (mut i32) (i32.const {heap}))
          (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
            (global.set $heap (i32.add (local.get $at) (local.get $size)))
            (block $fits (loop $more
              (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
              (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
              (br $more)))
            (local.get $at))
          (func (export "portcullis:policy/dynamic@0.1.0#describe") (result i32) (i32.const {describe}))
          (func (export "portcullis:policy/dynamic@0.1.0#configure") (param i32 i32) (result i32) (i32.const {configure}))
          (func (export "portcullis:policy/dynamic@0.1.0#decide") (param i32 i32 i32 i32) (result i32) {decide})
          (data (i32.const {TEXTS_AT}) "{data}"))"#,
        pages = heap / 65536 + 1,
    );
    wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
}

/// The guest's memory from `TEXTS_AT` on.
#[derive(Default)]
struct Texts(Vec<u8>);

impl Texts {
    /// Stores a text, and gives the address of its address and length.
    fn pair(&mut self, text: &str) -> usize {
        let at = self.text(text);
        self.words(&[at, text.len()])
    }

    /// Stores a text as the good case of a result, and gives the result's address.
    fn result(&mut self, text: &str) -> usize {
        let at = self.text(text);
        self.words(&[0, at, text.len()])
    }

    fn text(&mut self, text: &str) -> usize {
        let at = TEXTS_AT + self.0.len();
        self.0.extend_from_slice(text.as_bytes());
        at
    }

    fn words(&mut self, words: &[usize]) -> usize {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let at = TEXTS_AT + self.0.len();
        for word in words {
            self.0.extend_from_slice(&u32::try_from(*word).unwrap().to_le_bytes());
        }
        at
    }
}
