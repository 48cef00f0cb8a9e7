//! What policies say of resources, templates, prompts, skills and tasks, and of questions to clients.

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::guest::{Body, Guest, Layout, allow, deny, echo, reason, redact};
use super::scene::{bind, caller, context, load, now, told};
use crate::glob::Glob;
use crate::ids::UpstreamName;
use crate::mcp::call::{Access, Item, Outcome, Params, Verb};
use crate::mcp::json::{Members, raw};
use crate::mcp::talk::{Ask, Question};
use crate::policy::{AskedOf, Hook, ItemFacts, ItemKind, ListedItem, PolicySet, Trail, Used};

fn notes() -> UpstreamName {
    UpstreamName::parse("notes").unwrap()
}

/// A list policy that hides the items whose URI or name is this long, and shows all others.
fn hides_of_length(length: usize) -> Guest {
    let layout = Layout::new();
    let items = layout.offset(Hook::ListItems, &["items"]);
    let (size, id) = layout.element(Hook::ListItems, "id");
    Guest::new()
        .hook(
            Hook::ListItems,
            Body::Around(
                json!([]),
                format!(
                    "(i32.store $answer (i32.const 60000))
                 (i32.store offset=4 $answer (i32.load offset={count} (local.get 0)))
                 (call $judge (i32.load offset={items} (local.get 0)) (i32.load offset={count} (local.get 0)))
                 $answer",
                    count = items + 4,
                ),
            ),
        )
        .field(&format!(
            "(func $judge (param $item i32) (param $left i32) (local $at i32)
           (local.set $at (i32.const 60000))
           (block $done (loop $next
             (br_if $done (i32.eqz (local.get $left)))
             (i32.store8 (local.get $at)
               (i32.add (i32.const 1) (i32.eq (i32.load offset={length_at} (local.get $item)) (i32.const {length}))))
             (local.set $at (i32.add (local.get $at) (i32.const 1)))
             (local.set $item (i32.add (local.get $item) (i32.const {size})))
             (local.set $left (i32.sub (local.get $left) (i32.const 1)))
             (br $next))))",
            length_at = id + 4,
        ))
}

#[expect(clippy::needless_pass_by_value, reason = "what is passed is made for it")]
fn access(verb: Verb, item: Item, members: Value) -> Access {
    let members = Members::parse(&members.to_string()).unwrap();
    Access { upstream: notes(), verb, item, params: Params { members, ..Params::default() } }
}

fn read(uri: &str) -> Access {
    access(Verb::ReadResource, Item::Resource { uri: uri.to_owned() }, json!({ "uri": uri }))
}

#[expect(clippy::needless_pass_by_value, reason = "what is passed is made for it")]
fn prompt(name: &str, arguments: Value) -> Access {
    access(Verb::GetPrompt, Item::Prompt { name: name.to_owned() }, json!({ "name": name, "arguments": arguments }))
}

/// One use of each kind of item, all under names of four characters.
fn every_use() -> Vec<Access> {
    let uri = || "x://".to_owned();
    vec![
        read("x://"),
        access(Verb::ListDirectory, Item::Resource { uri: uri() }, json!({})),
        access(Verb::SubscribeResource, Item::Resource { uri: uri() }, json!({})),
        access(Verb::GetSkill, Item::Skill { uri: uri() }, json!({})),
        access(Verb::Complete, Item::Template { uri_template: uri() }, json!({})),
        access(Verb::Complete, Item::Resource { uri: uri() }, json!({})),
        access(Verb::Complete, Item::Prompt { name: uri() }, json!({})),
        prompt("x://", json!({})),
    ]
}

fn every_use_of_tasks() -> Vec<Access> {
    let task = |verb| access(verb, Item::Task { id: "x://".to_owned() }, json!({}));
    [Verb::GetTask, Verb::TaskResult, Verb::UpdateTask, Verb::CancelTask].map(task).into()
}

/// What became of a use, in one word or line.
fn used(set: &PolicySet, access: Access) -> (String, Trail) {
    used_with(set, access, ItemFacts::default())
}

fn used_with(set: &PolicySet, access: Access, facts: ItemFacts<'_>) -> (String, Trail) {
    let caller = caller();
    let (permit, trail) = now(set.check_access(&context(&caller), access, facts));
    let said = match permit {
        Ok(permit) => match permit.timeout() {
            Some(timeout) => format!("allow {}", timeout.as_millis()),
            None => "allow".to_owned(),
        },
        Err(refusal) => told(&refusal),
    };
    (said, trail)
}

/// What became of the result of a use.
fn inspected(set: &PolicySet, access: &Access, result: &str) -> String {
    let caller = caller();
    let outcome = Outcome::Result(raw(result.to_owned()));
    match now(set.inspect_access(&context(&caller), &Used::of(access), outcome)).0 {
        Ok(Outcome::Result(result)) => result.get().to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(refusal) => told(&refusal),
    }
}

fn says(hook: Hook, answer: Value) -> Guest {
    Guest::new().answers(hook, answer)
}

#[test]
fn where_nothing_is_bound_everything_passes() {
    let set = load(Vec::new());
    for access in every_use().into_iter().chain(every_use_of_tasks()) {
        let result = r#"{ "contents": 7 }"#;
        assert_eq!(inspected(&set, &access, result), result);
        let (said, trail) = used(&set, access);
        assert!(said == "allow" && trail.steps.is_empty());
    }
}

#[test]
fn a_verdict_decides_a_use() {
    let throttle = json!({ "throttle": { "retry-after-ms": 5, "bucket": "b", "reason": reason("slow", "Wait.") } });
    let step_up = json!({ "step-up": { "scopes": ["write"], "acr-values": [], "reason": reason("more", "More.") } });
    let approve = |by: &str, ttl: u32| {
        json!({ "approve": {
            "title": "T", "summary": "S", "by": by, "approvers": [], "ttl-s": ttl, "remember": "once",
            "reason": reason("ask", "Ask."),
        } })
    };
    for (answer, expected) in [
        (json!("abstain"), "no-policy-allowed"),
        (allow(&json!({})), "allow"),
        (allow(&json!({ "timeout-ms": 70 })), "allow 70"),
        (deny("no.way"), "one denied: no.way No."),
        (throttle, "throttled"),
        (step_up, "step-up"),
        (approve("operator", 60), "approval-needed"),
        // What is no answer here fails.
        (approve("operator", 0), "one failed: invalid-answer"),
        (approve("listed", 60), "one failed: invalid-answer"),
        (allow(&json!({ "rewrite": { "replace": "{}" } })), "one failed: invalid-answer"),
        (allow(&json!({ "inspect-result": true })), "one failed: no-inspector"),
    ] {
        let set = load(vec![bind("one", &says(Hook::ItemAccess, answer.clone()))]);
        for access in every_use().into_iter().chain(every_use_of_tasks()) {
            let verb = access.verb;
            assert_eq!(used(&set, access).0, expected, "{verb:?}: {answer}");
        }
    }
    let inspects = says(Hook::ItemResult, json!("pass"));
    let requires = says(Hook::ItemAccess, allow(&json!({ "inspect-result": true })));
    let set = load(vec![bind("one", &requires), bind("two", &inspects)]);
    assert_eq!(used(&set, read("x://")).0, "allow");
}

#[test]
fn what_is_hidden_in_a_list_cannot_be_used_in_any_way() {
    let set = load(vec![bind("one", &hides_of_length(4)), bind("two", &says(Hook::ItemAccess, allow(&json!({}))))]);
    let notes = notes();
    for kind in [ItemKind::Content, ItemKind::Template, ItemKind::Prompt, ItemKind::Skill] {
        let item = |id| ListedItem { kind, upstream: &notes, id, mime: None };
        let caller = caller();
        let (visible, trail) = now(set.filter_items(&context(&caller), &[item("x://"), item("longer"), item("y://")]));
        assert_eq!(visible.unwrap(), [false, true, false], "{kind:?}");
        assert_eq!(trail.steps[0].verdict, "filter");
    }
    for access in every_use() {
        let verb = access.verb;
        let (said, trail) = used(&set, access);
        assert_eq!(said, "hidden", "{verb:?}");
        let [step] = &trail.steps[..] else { panic!("{trail:?}") };
        assert_eq!((step.hook, step.verdict), (Hook::ListItems, "hide"), "nobody else is even asked");
    }
    assert_eq!(used(&set, read("longer")).0, "allow");
    for access in every_use_of_tasks() {
        assert_eq!(used(&set, access).0, "allow", "tasks are in no list");
    }
}

#[test]
fn a_file_of_a_hidden_skill_is_hidden_too() {
    let set = load(vec![bind("one", &hides_of_length(4))]);
    let skill = |uri: &str| vec![uri.to_owned()];
    for (skills, expected) in [(skill("x://"), "hidden"), (skill("x://longer"), "allow"), (Vec::new(), "allow")] {
        let facts = ItemFacts { mime: Some("text/plain"), skills: &skills };
        assert_eq!(used_with(&set, read("x://file"), facts).0, expected, "{skills:?}");
    }
}

#[test]
fn a_list_that_is_judged_wrongly_is_hidden() {
    for answer in [json!([]), json!(["show", "show"])] {
        let set = load(vec![bind("one", &says(Hook::ListItems, answer.clone()))]);
        assert_eq!(used(&set, read("x://")).0, "one failed: invalid-answer", "{answer}");
    }
    let set = load(vec![bind("one", &says(Hook::ListItems, json!(["abstain"])))]);
    assert_eq!(used(&set, read("x://")).0, "hidden", "nobody showed it");
}

#[test]
fn a_directory_is_a_list_of_what_the_caller_sees() {
    let set = load(vec![bind("one", &hides_of_length(4))]);
    let directory = access(Verb::ListDirectory, Item::Resource { uri: "d://longer".to_owned() }, json!({}));
    let listed =
        r#"{"resources":[{"uri":"x://","name":"a"},{"uri":"x://longer","name":"b"},{"name":"c"}],"nextCursor":"n"}"#;
    let shown = r#"{"resources":[{"uri":"x://longer","name":"b"}],"nextCursor":"n"}"#;
    assert_eq!(inspected(&set, &directory, listed), shown);
    let untouched = r#"{ "resources" : [ {"uri":"x://longer"} ] }"#;
    assert_eq!(inspected(&set, &directory, untouched), untouched);
    assert_eq!(inspected(&set, &directory, r#"{"resources":7}"#), "one failed: unreadable-result");
}

#[test]
fn items_are_matched_by_upstream_and_name() {
    let only = |pattern: &str| {
        let pattern = Glob::parse(pattern).unwrap();
        bind("one", &says(Hook::ItemAccess, deny("matched"))).with(|binding| binding.matches.items = vec![pattern])
    };
    for (pattern, expected) in
        [("*", "one denied: matched No."), ("x://*", "one denied: matched No."), ("y://*", "allow")]
    {
        assert_eq!(used(&load(vec![only(pattern)]), read("x://a")).0, expected, "{pattern}");
    }
}

#[test]
fn a_policy_sees_of_a_use_what_it_needs() {
    let with_arguments = prompt("greet", json!({ "who": "Ada" }));
    let completion = access(
        Verb::Complete,
        Item::Prompt { name: "greet".to_owned() },
        json!({ "ref": {}, "argument": { "name": "who", "value": "A" }, "context": { "arguments": {} } }),
    );
    let completed = r#"{"argument":{"name":"who","value":"A"},"context":{"arguments":{}}}"#;
    for (path, optional, access, seen) in [
        (vec!["request", "method"], false, read("x://a"), "resources/read"),
        (vec!["request", "upstream", "id"], false, read("x://a"), "notes"),
        (vec!["request", "upstream", "trust"], false, read("x://a"), "high"),
        (vec!["request", "id"], false, read("x://a"), "x://a"),
        (vec!["request", "arguments"], true, read("x://a"), "-"),
        (vec!["request", "arguments"], true, with_arguments.clone(), r#"{"who":"Ada"}"#),
        (vec!["request", "arguments"], true, completion, completed),
        (vec!["context", "protocol-version"], false, read("x://a"), "2026-07-28"),
    ] {
        let set = load(vec![bind("one", &echo(Hook::ItemAccess, &path, optional))]);
        assert_eq!(used(&set, access).0, format!("one denied: echo {seen}"), "{path:?}");
    }
    let needs_nothing = echo(Hook::ItemAccess, &["request", "arguments"], true).manifest("needs", json!([]));
    assert_eq!(used(&load(vec![bind("one", &needs_nothing)]), with_arguments).0, "one denied: echo -");
}

fn inspects(answer: Value) -> Guest {
    says(Hook::ItemResult, answer).sees_all().mutates(Hook::ItemResult)
}

const CONTENTS: &str = r#"{"_meta":{"a":1.0},"contents":[{"uri":"x://a","mimeType":"text/plain","text":"my key is 42"},{"uri":"x://b","blob":"AA=="}]}"#;
const MESSAGES: &str = r#"{"description":"d","messages":[{"role":"user","content":{"type":"text","text":"my key is 42"}},{"role":"user","content":[{"type":"text","text":"and 43"},{"type":"image","data":"AA"}]},{"role":"user","content":[]}]}"#;

#[test]
fn an_inspection_decides_what_comes_of_a_use() {
    let read = read("x://a");
    let span = |part: u32| json!({ "part": part, "start": 10, "end": 12, "replacement": "**" });
    let block = json!({ "block": { "reason": reason("leak", "No."), "as-tool-error": true } });
    let redacted = r#"{"_meta":{"a":1.0},"contents":[{"uri":"x://a","mimeType":"text/plain","text":"my key is **"}]}"#;
    for (answer, expected) in [
        (json!("abstain"), "no-policy-allowed"),
        (json!("pass"), CONTENTS),
        (redact(&json!({})), CONTENTS),
        (redact(&json!({ "spans": [span(0)], "drop-parts": [1] })), redacted),
        (redact(&json!({ "spans": [span(1)] })), "one failed: invalid-answer"),
        (redact(&json!({ "drop-parts": [2] })), "one failed: invalid-answer"),
        (redact(&json!({ "structured": [{ "pointer": "/a", "op": "remove" }] })), "one failed: invalid-answer"),
        (block, "one denied: leak No."),
    ] {
        let set = load(vec![bind("one", &inspects(answer.clone()))]);
        assert_eq!(inspected(&set, &read, CONTENTS), expected, "{answer}");
    }
    let undeclared = inspects(redact(&json!({ "drop-parts": [1] }))).manifest("mutates", json!([]));
    assert_eq!(inspected(&load(vec![bind("one", &undeclared)]), &read, CONTENTS), "one failed: invalid-answer");
    let set = load(vec![bind("one", &inspects(json!("pass")))]);
    for bad in ["[]", r#"{"contents":7}"#, r#"{"contents":[7]}"#, r#"{"contents":[{"text":7}]}"#] {
        assert_eq!(inspected(&set, &read, bad), "one failed: unreadable-result", "{bad}");
    }
}

#[test]
fn every_kind_of_result_has_its_parts() {
    let redaction = redact(&json!({ "spans": [{ "part": 0, "start": 0, "end": 2, "replacement": "**" }] }));
    let drops_first = redact(&json!({ "drop-parts": [0] }));
    let prompt = || prompt("p", json!({}));
    let complete = || access(Verb::Complete, Item::Prompt { name: "p".to_owned() }, json!({}));
    let directory = || access(Verb::ListDirectory, Item::Resource { uri: "d://".to_owned() }, json!({}));
    let task = |verb| access(verb, Item::Task { id: "t".to_owned() }, json!({}));
    let redacted_messages = MESSAGES.replace("my key", "** key");
    let fewer_messages =
        MESSAGES.replacen(r#"{"role":"user","content":{"type":"text","text":"my key is 42"}},"#, "", 1);
    let values = r#"{"completion":{"values":["secret","other"],"total":2}}"#;
    let result = r#"{"content":[{"type":"text","text":"my key"}],"structuredContent":{"a":1}}"#;
    for (access, answer, before, after) in [
        (prompt(), redaction.clone(), MESSAGES, redacted_messages.as_str()),
        (prompt(), drops_first.clone(), MESSAGES, fewer_messages.as_str()),
        (complete(), redaction.clone(), values, r#"{"completion":{"values":["**cret","other"],"total":2}}"#),
        (complete(), drops_first.clone(), values, r#"{"completion":{"values":["other"],"total":2}}"#),
        (
            directory(),
            drops_first.clone(),
            r#"{"resources":[{"uri":"a:"},{"uri":"b:"}]}"#,
            r#"{"resources":[{"uri":"b:"}]}"#,
        ),
        (
            task(Verb::TaskResult),
            redact(&json!({
                "spans": [{ "part": 0, "start": 0, "end": 2, "replacement": "**" }],
                "structured": [{ "pointer": "/a", "op": { "set": "2" } }],
            })),
            result,
            r#"{"content":[{"type":"text","text":"** key"}],"structuredContent":{"a":2}}"#,
        ),
    ] {
        let set = load(vec![bind("one", &inspects(answer.clone()))]);
        assert_eq!(inspected(&set, &access, before), after, "{:?}: {answer}", access.verb);
    }
    // What cannot be taken apart passes whole or not at all.
    let skill = access(Verb::GetSkill, Item::Skill { uri: "s:/SKILL.md".to_owned() }, json!({}));
    let set = load(vec![bind("one", &inspects(json!("pass")))]);
    assert_eq!(inspected(&set, &skill, r#"{"skill":{"of":"x"}}"#), r#"{"skill":{"of":"x"}}"#);
    let set = load(vec![bind("one", &inspects(drops_first))]);
    assert_eq!(inspected(&set, &skill, r#"{"skill":{"of":"x"}}"#), "one failed: invalid-answer");
}

#[test]
fn a_message_loses_a_block_and_stays() {
    let set = load(vec![bind("one", &inspects(redact(&json!({ "drop-parts": [0, 2] }))))]);
    let left = r#"{"description":"d","messages":[{"role":"user","content":[{"type":"text","text":"and 43"}]},{"role":"user","content":[]}]}"#;
    assert_eq!(inspected(&set, &prompt("p", json!({})), MESSAGES), left);
    let set = load(vec![bind("one", &inspects(json!("pass")))]);
    for bad in [
        r#"{"messages":{}}"#,
        r#"{"messages":[7]}"#,
        r#"{"messages":[{"role":"user"}]}"#,
        r#"{"messages":[{"content":"text"}]}"#,
    ] {
        assert_eq!(inspected(&set, &prompt("p", json!({})), bad), "one failed: unreadable-result", "{bad}");
    }
}

/// What became of a question, and what its upstream was told.
fn asked(set: &PolicySet, params: &str, is_admitted: bool) -> String {
    let caller = caller();
    let (reply, _replied) = oneshot::channel();
    let params = Some(raw(params.to_owned()));
    let ask = Ask { upstream: notes(), question: Question::Sampling, params, is_admitted, reply };
    match now(set.check_ask(&context(&caller), ask)).0 {
        Ok(permit) => permit.get().params.as_ref().map_or("none", |params| params.get()).to_owned(),
        Err((ask, refusal)) => {
            assert_eq!(ask.question, Question::Sampling, "it comes back, to be answered");
            told(&refusal)
        }
    }
}

#[test]
fn a_verdict_decides_what_an_upstream_may_ask() {
    for (answer, expected) in [
        (json!("abstain"), "no-policy-allowed"),
        (allow(&json!({})), r#"{ "a":1.0 }"#),
        (deny("no.way"), "one denied: no.way No."),
        (allow(&json!({ "rewrite": { "replace": "{}" } })), "one failed: invalid-answer"),
        (allow(&json!({ "inspect-result": true })), "one failed: invalid-answer"),
        (allow(&json!({ "timeout-ms": 5 })), "one failed: invalid-answer"),
    ] {
        let set = load(vec![bind("one", &says(Hook::ServerRequest, answer.clone()))]);
        assert_eq!(asked(&set, r#"{ "a":1.0 }"#, false), expected, "{answer}");
    }
    let set = load(vec![bind("one", &says(Hook::ServerRequest, deny("no")))]);
    assert_eq!(asked(&set, "{}", true), "{}", "it was asked about before");
    let (notes, caller) = (notes(), caller());
    let question = AskedOf { upstream: &notes, method: "roots/list", params: None };
    let (checked, trail) = now(set.check_question(&context(&caller), question));
    assert_eq!((told(&checked.unwrap_err()).as_str(), trail.steps.len()), ("one denied: no No.", 1));
}

#[test]
fn a_policy_sees_of_a_question_what_it_needs() {
    let params = r#"{"messages":[]}"#;
    for (path, optional, seen) in [
        (vec!["request", "method"], false, "sampling/createMessage"),
        (vec!["request", "upstream", "id"], false, "notes"),
        (vec!["request", "params"], true, params),
    ] {
        let set = load(vec![bind("one", &echo(Hook::ServerRequest, &path, optional))]);
        assert_eq!(asked(&set, params, false), format!("one denied: echo {seen}"), "{path:?}");
    }
    let needs_nothing = echo(Hook::ServerRequest, &["request", "params"], true).manifest("needs", json!([]));
    assert_eq!(asked(&load(vec![bind("one", &needs_nothing)]), params, false), "one denied: echo -");
}
