//! What policies answer is what callers get.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::guest::{Body, Guest, Layout, allow, deny, echo, reason, redact};
use super::scene::{bind, call, caller, check, context, engine, inspect, load, now, settings, told, tool};
use crate::config::WhenAllAbstain;
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::ids::{BindingName, UpstreamName};
use crate::mcp::call::Outcome;
use crate::mcp::json::raw;
use crate::policy::{Approver, CallContext, Failure, Hook, PolicySet, Refusal, Remember, Satisfied, Trail};
use crate::upstream::catalog::{Tool, ToolDefinition};

fn verdict(answer: serde_json::Value) -> Guest {
    Guest::new().answers(Hook::ToolCall, answer)
}

/// A list policy that says the same of every tool: its answer is a list of as many equal bytes as it was asked
/// about. 0 abstains, 1 shows, 2 hides.
fn says_of_all(visibility: u32) -> Guest {
    let tools = Layout::new().offset(Hook::ListTools, &["tools"]);
    Guest::new().hook(
        Hook::ListTools,
        Body::Around(
            json!({ "visible": [], "overrides": [] }),
            format!(
                "(memory.fill (i32.const 60000) (i32.const {visibility}) (i32.load offset={} (local.get 0)))
                 (i32.store $answer (i32.const 60000))
                 (i32.store offset=4 $answer (i32.load offset={} (local.get 0)))
                 $answer",
                tools + 4,
                tools + 4
            ),
        ),
    )
}

fn seen(set: &PolicySet, tools: &[Arc<Tool>]) -> (Vec<String>, Trail) {
    let caller = caller();
    let (visible, trail) = now(set.filter(&context(&caller), tools));
    (visible.unwrap().iter().map(|visible| visible.tool.exposed.clone()).collect(), trail)
}

fn steps(trail: &Trail) -> Vec<String> {
    let step = |step: &crate::policy::Step| {
        let code = step.code.as_deref().unwrap_or("-");
        format!("{} {} {} {code}", step.binding, step.hook, step.verdict)
    };
    trail.steps.iter().map(step).collect()
}

#[test]
fn where_nothing_is_bound_everything_passes_and_nobody_is_asked() {
    let set = load(Vec::new());
    let add = tool("notes", "add");
    let caller = caller();
    let (permit, trail) = now(set.check(&context(&caller), call(&add, Some("{}"))));
    let permit = permit.unwrap();
    assert!(trail.steps.is_empty() && permit.timeout().is_none());
    assert_eq!(seen(&set, &[add]).0, ["notes__add"]);
    assert_eq!(inspect(&set, r#"{ "content": 7 }"#), r#"{ "content": 7 }"#);
}

#[test]
fn a_verdict_decides_a_call() {
    let add = tool("notes", "add");
    for (answer, expected) in [
        (json!("abstain"), "no-policy-allowed"),
        (allow(&json!({})), "allow {}"),
        (deny("no.way"), "one denied: no.way No."),
        (json!({ "throttle": { "retry-after-ms": 5, "bucket": "b", "reason": reason("slow", "Wait.") } }), "throttled"),
        (
            json!({ "step-up": { "scopes": ["write"], "acr-values": [], "reason": reason("more", "Sign in again.") } }),
            "step-up",
        ),
        (
            json!({ "approve": {
                "title": "T", "summary": "S", "by": "operator", "approvers": [], "ttl-s": 60, "remember": "once",
                "reason": reason("ask", "Ask."),
            } }),
            "approval-needed",
        ),
    ] {
        let set = load(vec![bind("one", &verdict(answer.clone()))]);
        assert_eq!(check(&set, &add, Some("{}")), expected, "{answer}");
    }
}

#[test]
fn the_first_denial_ends_the_chain_and_every_step_is_written_down() {
    let set = load(vec![
        bind("one", &verdict(allow(&json!({ "notes": [{ "key": "k", "value": "v" }] })))),
        bind("two", &verdict(json!("abstain"))),
        bind("three", &verdict(deny("stop"))),
        bind("four", &verdict(allow(&json!({})))),
    ]);
    let caller = caller();
    let (refusal, trail) = now(set.check(&context(&caller), call(&tool("notes", "add"), None)));
    assert!(matches!(refusal, Err(Refusal::Denied { as_tool_error: true, .. })));
    assert_eq!(steps(&trail), ["one tool-call allow -", "two tool-call abstain -", "three tool-call deny stop"]);
    assert_eq!((trail.steps[0].notes[0].key.as_str(), trail.steps[0].notes[0].value.as_str()), ("k", "v"));
    assert_eq!(*trail.steps[0].module.digest, *set.bindings()[0].module().digest);
}

#[test]
fn a_weaker_verdict_does_not_keep_a_later_denial_from_being_heard() {
    let throttle = json!({ "throttle": { "retry-after-ms": 5, "bucket": "b", "reason": reason("slow", "Wait.") } });
    let set = load(vec![bind("one", &verdict(throttle)), bind("two", &verdict(deny("stop")))]);
    assert_eq!(check(&set, &tool("notes", "add"), None), "two denied: stop No.");
}

#[test]
fn the_strictest_timeout_counts() {
    let set = load(vec![
        bind("one", &verdict(allow(&json!({ "timeout-ms": 900 })))),
        bind("two", &verdict(allow(&json!({ "timeout-ms": 300 })))),
        bind("three", &verdict(allow(&json!({})))),
    ]);
    let caller = caller();
    let permit = now(set.check(&context(&caller), call(&tool("notes", "add"), None))).0.unwrap();
    assert_eq!(permit.timeout(), Some(Duration::from_millis(300)));
}

#[test]
fn a_binding_is_asked_about_what_it_matches_and_nothing_else() {
    let only = |upstream: &str, pattern: &str| {
        let (upstream, pattern) = (Glob::parse(upstream).unwrap(), Glob::parse(pattern).unwrap());
        bind("one", &verdict(deny("matched"))).with(|binding| {
            binding.matches.upstreams = vec![upstream];
            binding.matches.tools = vec![pattern];
        })
    };
    // `notes` is configured, `tracker` is an upstream that the set was not told of.
    for (upstream, pattern, tool_of, name, asked) in [
        ("*", "*", "notes", "add", true),
        ("notes", "ad*", "notes", "add", true),
        ("notes", "ad*", "notes", "delete", false),
        ("tracker", "*", "notes", "add", false),
        ("tracker", "*", "tracker", "add", true),
        ("notes", "*", "tracker", "add", false),
        ("*", "notes__add", "notes", "add", false),
    ] {
        let set = load(vec![only(upstream, pattern)]);
        let outcome = check(&set, &tool(tool_of, name), None);
        let expected = if asked { "one denied: matched No." } else { "allow none" };
        assert_eq!(outcome, expected, "{upstream} {pattern} about {tool_of} {name}");
    }
}

#[test]
fn what_the_operator_says_counts_where_all_abstain() {
    let abstains = Guest::new()
        .answers(Hook::ToolCall, json!("abstain"))
        .answers(Hook::ToolResult, json!("abstain"))
        .answers(Hook::ListTools, json!({ "visible": ["abstain"], "overrides": [] }));
    let (mut wanted, modules) = settings(vec![bind("one", &abstains)]);
    for (when, visible, called, result) in [
        (WhenAllAbstain::Deny, 0, "hidden", "no-policy-allowed"),
        (WhenAllAbstain::Allow, 1, "allow none", r#"{"content":[]}"#),
    ] {
        wanted.when_all_abstain = when;
        let set = PolicySet::load(&wanted, &[], engine(), &modules, None, 1).unwrap();
        assert_eq!(seen(&set, &[tool("notes", "add")]).0.len(), visible);
        assert_eq!(check(&set, &tool("notes", "add"), None), called);
        assert_eq!(inspect(&set, r#"{"content":[]}"#), result);
    }
}

#[test]
fn a_hidden_tool_cannot_be_called_even_if_the_call_would_be_allowed() {
    let hides = Guest::new()
        .answers(Hook::ListTools, json!({ "visible": ["hide"], "overrides": [] }))
        .answers(Hook::ToolCall, allow(&json!({})));
    let set = load(vec![bind("one", &hides)]);
    let caller = caller();
    let (refusal, trail) = now(set.check(&context(&caller), call(&tool("notes", "add"), None)));
    assert!(matches!(refusal, Err(Refusal::Hidden)));
    assert_eq!(steps(&trail), ["one list-tools hide -"], "the call policies are not even asked");
}

#[test]
fn one_policy_that_hides_outweighs_all_that_show() {
    let tools = [tool("notes", "add")];
    for (policies, visible) in
        [(vec![1, 1], 1), (vec![1, 2], 0), (vec![2, 1], 0), (vec![0, 1], 1), (vec![1, 0], 1), (vec![0, 0], 0)]
    {
        let bound = policies.iter().zip(["one", "two"]).map(|(says, name)| bind(name, &says_of_all(*says)));
        let set = load(bound.collect());
        assert_eq!(seen(&set, &tools).0.len(), visible, "{policies:?}");
        let called = check(&set, &tools[0], None);
        assert_eq!(called, if visible == 1 { "allow none" } else { "hidden" }, "{policies:?}");
    }
}

#[test]
fn long_lists_are_asked_about_in_pieces_and_one_upstream_at_a_time() {
    let tools: Vec<Arc<Tool>> = (0..300)
        .map(|number| tool("notes", &format!("n{number}")))
        .chain((0..3).map(|number| tool("tracker", &format!("t{number}"))))
        .collect();
    let (visible, trail) = seen(&load(vec![bind("one", &says_of_all(1))]), &tools);
    assert_eq!(visible.len(), 303);
    assert_eq!(visible[299..301], ["notes__n299", "tracker__t0"], "the order is kept");
    let asked: Vec<_> = trail.steps.iter().map(|step| step.notes[0].value.as_str()).collect();
    assert_eq!(asked, ["256", "44", "3"]);
}

#[test]
fn a_policy_that_fails_hides_what_it_was_asked_about_and_no_other_upstreams_tools() {
    // Traps if it is asked about a tool whose upstream has seven characters.
    let tools_at = Layout::new().offset(Hook::ListTools, &["tools"]);
    let guest = says_of_all(1).before_answering(&format!(
        "(if (i32.eq (i32.load offset=4 (i32.load offset={tools_at} (local.get 0))) (i32.const 7)) (then unreachable))"
    ));
    let set = load(vec![bind("one", &guest), bind("two", &says_of_all(1))]);
    let tools = [tool("notes", "add"), tool("tracker", "list"), tool("tracker", "get")];
    let (visible, trail) = seen(&set, &tools);
    assert_eq!(visible, ["notes__add"]);
    assert_eq!(steps(&trail)[1], "one list-tools error trap");
    assert_eq!(check(&set, &tools[1], None), "one failed: trap");
    assert_eq!(check(&set, &tools[0], None), "allow none");
}

#[test]
fn a_wrong_list_is_a_failure_and_hides() {
    for outcome in [
        json!({ "visible": [], "overrides": [] }),
        json!({ "visible": ["show", "show"], "overrides": [] }),
        json!({ "visible": ["show"], "overrides": [{ "index": 1 }] }),
        json!({ "visible": ["show"], "overrides": [{ "index": 0 }, { "index": 0 }] }),
        json!({ "visible": ["show"], "overrides": [{ "index": 0, "title": "t".repeat(257) }] }),
        json!({ "visible": ["show"], "overrides": [{ "index": 0, "description": "t".repeat(8193) }] }),
    ] {
        let guest = Guest::new().answers(Hook::ListTools, outcome.clone()).mutates(Hook::ListTools);
        let set = load(vec![bind("one", &guest)]);
        let (visible, trail) = seen(&set, &[tool("notes", "add")]);
        assert!(visible.is_empty(), "{outcome}");
        assert_eq!(steps(&trail), ["one list-tools error invalid-answer"], "{outcome}");
    }
}

#[test]
fn texts_can_be_overridden_if_the_manifest_says_so() {
    let overrides = json!({ "visible": ["show"], "overrides": [{ "index": 0, "title": "New\u{7} title", "description": "Two\nlines\u{202e}" }] });
    let guest = Guest::new().answers(Hook::ListTools, overrides);
    let caller = caller();
    let set = load(vec![bind("one", &guest.clone().mutates(Hook::ListTools)), bind("two", &says_of_all(1))]);
    let filtered = now(set.filter(&context(&caller), &[tool("notes", "add")])).0.unwrap();
    let [visible] = &filtered[..] else { panic!("{filtered:?}") };
    assert_eq!(visible.title.as_deref(), Some("New title"));
    assert_eq!(visible.description.as_deref(), Some("Two\nlines"));
    let set = load(vec![bind("one", &guest)]);
    assert_eq!(check(&set, &tool("notes", "add"), None), "one failed: invalid-answer");
}

fn rewrites(rewrite: &serde_json::Value) -> Guest {
    verdict(allow(&json!({ "rewrite": rewrite }))).mutates(Hook::ToolCall)
}

fn edit(pointer: &str, op: &serde_json::Value) -> serde_json::Value {
    json!({ "pointer": pointer, "op": op })
}

#[test]
fn arguments_are_rewritten_where_module_and_operator_agree() {
    let add = tool("notes", "add");
    let patch = json!({ "patch": [edit("/a", &json!({ "mask": "*" })), edit("/b", &json!({ "set": "[1]" })), edit("/c", &json!("remove"))] });
    let bound = |guest: &Guest| bind("one", guest).with(|binding| binding.allow_rewrite = true);
    for (rewrite, arguments, expected) in [
        (json!("keep"), Some(r#"{ "a":1.0 }"#), r#"allow { "a":1.0 }"#),
        (json!({ "replace": r#"{"new":1.0}"# }), Some("{}"), r#"allow {"new":1.0}"#),
        (json!({ "replace": "{}" }), None, "allow {}"),
        (patch.clone(), Some(r#"{"a":"secret","c":1,"d":1.10}"#), r#"allow {"a":"*","d":1.10,"b":[1]}"#),
        (json!({ "patch": [edit("/a", &json!({ "set": "1" }))] }), None, r#"allow {"a":1}"#),
        (json!({ "patch": [] }), None, "allow {}"),
        // Whatever does not fit is a failure of the policy.
        (patch, Some(r#"{"a":"secret"}"#), "one failed: invalid-answer"),
        (json!({ "replace": "[]" }), Some("{}"), "one failed: invalid-answer"),
        (json!({ "replace": r#"{"a":1,"a":2}"# }), Some("{}"), "one failed: invalid-answer"),
        (json!({ "replace": "{" }), Some("{}"), "one failed: invalid-answer"),
        (json!({ "patch": [edit("", &json!("remove"))] }), Some("{}"), "one failed: invalid-answer"),
        (json!({ "patch": [edit("", &json!({ "set": "1" }))] }), Some("{}"), "one failed: invalid-answer"),
        (json!({ "patch": [edit("/a", &json!({ "set": "}" }))] }), Some("{}"), "one failed: invalid-answer"),
    ] {
        let set = load(vec![bound(&rewrites(&rewrite))]);
        assert_eq!(check(&set, &add, arguments), expected, "{rewrite} of {arguments:?}");
    }
    let not_allowed = load(vec![bind("one", &rewrites(&json!({ "replace": "{}" })))]);
    assert_eq!(check(&not_allowed, &add, Some("{}")), "one failed: invalid-answer");
    assert_eq!(not_allowed.bindings()[0].warnings().len(), 1, "and loading it said so");
}

#[test]
fn every_other_policy_sees_the_rewritten_arguments_whatever_the_order() {
    let rewriter = |name: &str, document: &str| {
        bind(name, &rewrites(&json!({ "replace": document }))).with(|binding| binding.allow_rewrite = true)
    };
    let judge = || bind("judge", &echo(Hook::ToolCall, &["request", "arguments"], true));
    for bound in [
        vec![judge(), rewriter("one", r#"{"v":1}"#), rewriter("two", r#"{"v":2}"#)],
        vec![rewriter("one", r#"{"v":1}"#), judge(), rewriter("two", r#"{"v":2}"#)],
    ] {
        let set = load(bound);
        assert_eq!(check(&set, &tool("notes", "add"), Some("{}")), r#"judge denied: echo {"v":2}"#);
    }
}

#[test]
fn a_policy_is_shown_what_it_needs_and_nothing_else() {
    let add = tool("notes", "add");
    for (path, optional, seen) in [
        (vec!["request", "arguments"], true, r#"{"a":1.0}"#),
        (vec!["request", "tool", "title"], true, "Title of add"),
        (vec!["request", "tool", "input-schema"], true, r#"{"type":"object"}"#),
    ] {
        let guest = echo(Hook::ToolCall, &path, optional);
        let set = load(vec![bind("one", &guest)]);
        assert_eq!(check(&set, &add, Some(r#"{"a":1.0}"#)), format!("one denied: echo {seen}"));
        let set = load(vec![bind("one", &guest.manifest("needs", json!([])))]);
        assert_eq!(check(&set, &add, Some(r#"{"a":1.0}"#)), "one denied: echo -", "without a need for {path:?}");
    }
    for (path, optional, seen) in [
        (vec!["context", "caller", "subject"], false, "ci"),
        (vec!["context", "caller", "issuer"], false, "portcullis"),
        (vec!["context", "caller", "claims"], false, "{}"),
        (vec!["context", "protocol-version"], false, "2026-07-28"),
        (vec!["context", "remote-ip"], true, "192.0.2.1"),
        (vec!["context", "session-id"], true, "-"),
        (vec!["request", "tool", "upstream"], false, "notes"),
        (vec!["request", "tool", "name"], false, "add"),
        (vec!["request", "tool", "exposed-as"], false, "notes__add"),
        (vec!["request", "upstream", "id"], false, "notes"),
        (vec!["request", "upstream", "trust"], false, "high"),
    ] {
        let set = load(vec![bind("one", &echo(Hook::ToolCall, &path, optional).manifest("needs", json!([])))]);
        assert_eq!(check(&set, &add, None), format!("one denied: echo {seen}"), "{path:?}");
    }
}

const RESULT: &str = r#"{"_meta":{"a":1.0},"content":[{"type":"text","text":"my key is 42","x":1.10},{"type":"image","data":"AA","mimeType":"image/png"}],"structuredContent":{"key":"42","n":1.0}}"#;

fn inspects(answer: serde_json::Value) -> Guest {
    Guest::new().answers(Hook::ToolResult, answer).sees_all().mutates(Hook::ToolResult)
}

#[test]
fn an_inspection_decides_a_result() {
    let redaction = redact(&json!({
        "spans": [{ "part": 0, "start": 10, "end": 12, "replacement": "\"**\"" }],
        "structured": [edit("/key", &json!({ "mask": "**" }))],
        "drop-parts": [1],
    }));
    let redacted = r#"{"_meta":{"a":1.0},"content":[{"type":"text","text":"my key is \"**\"","x":1.10}],"structuredContent":{"key":"**","n":1.0}}"#;
    let block = json!({ "block": { "reason": reason("leak", "No."), "as-tool-error": false, "rpc-code": -32003 } });
    for (answer, expected) in [
        (json!("abstain"), "no-policy-allowed"),
        (json!("pass"), RESULT),
        (redact(&json!({})), RESULT),
        (redaction, redacted),
        (block, "one denied: leak No."),
        (
            redact(&json!({ "spans": [{ "part": 2, "start": 0, "end": 0, "replacement": "" }] })),
            "one failed: invalid-answer",
        ),
        (redact(&json!({ "structured": [edit("/none", &json!("remove"))] })), "one failed: invalid-answer"),
        (redact(&json!({ "structured": [edit("key", &json!("remove"))] })), "one failed: invalid-answer"),
    ] {
        let set = load(vec![bind("one", &inspects(answer.clone()))]);
        assert_eq!(inspect(&set, RESULT), expected, "{answer}");
    }
    let undeclared = inspects(redact(&json!({ "drop-parts": [1] }))).manifest("mutates", json!([]));
    assert_eq!(inspect(&load(vec![bind("one", &undeclared)]), RESULT), "one failed: invalid-answer");
    let blind = inspects(redact(&json!({ "spans": [{ "part": 0, "start": 0, "end": 1, "replacement": "" }] })));
    let blind = load(vec![bind("one", &blind.manifest("needs", json!([])))]);
    assert_eq!(inspect(&blind, RESULT), "one failed: invalid-answer");
}

#[test]
fn redactions_compose_and_any_block_wins() {
    let first = inspects(redact(&json!({ "spans": [{ "part": 0, "start": 0, "end": 10, "replacement": "" }] })));
    let second = inspects(redact(&json!({ "spans": [{ "part": 0, "start": 0, "end": 2, "replacement": "gone" }] })));
    let set = load(vec![bind("one", &first), bind("two", &second)]);
    assert!(inspect(&set, RESULT).contains(r#""text":"gone""#));
    let block = json!({ "block": { "reason": reason("leak", "No."), "as-tool-error": true } });
    let set = load(vec![bind("one", &first), bind("two", &inspects(block)), bind("three", &second)]);
    assert_eq!(inspect(&set, RESULT), "two denied: leak No.");
}

#[test]
fn a_result_that_nobody_changes_keeps_its_very_bytes() {
    let set = load(vec![bind("one", &inspects(json!("pass")))]);
    let text = r#"{ "content" : [ ] , "structuredContent":{"a":1e3} }"#;
    assert_eq!(inspect(&set, text), text);
    let caller = caller();
    let error = Outcome::Error(raw(r#"{"code":-32000,"message":"x"}"#.to_owned()));
    let (outcome, trail) = now(set.inspect(&context(&caller), &tool("notes", "add"), error, Duration::ZERO));
    assert!(matches!(outcome, Ok(Outcome::Error(_))) && trail.steps.is_empty(), "errors are not inspected");
}

#[test]
fn a_result_that_cannot_be_read_is_not_passed_on() {
    let set = load(vec![bind("one", &inspects(json!("pass")))]);
    for bad in ["[]", r#"{"content":7}"#, r#"{"content":[],"structuredContent":{"a":1,"a":2}}"#] {
        assert_eq!(inspect(&set, bad), "one failed: unreadable-result", "{bad}");
    }
    assert_eq!(set.bindings()[0].health().failures(), 0, "that is the upstream's fault");
}

#[test]
fn an_inspection_that_a_policy_requires_must_be_possible() {
    let requires = verdict(allow(&json!({ "inspect-result": true })));
    let set = load(vec![bind("one", &requires)]);
    assert_eq!(check(&set, &tool("notes", "add"), None), "one failed: no-inspector");
    let set = load(vec![bind("one", &requires), bind("two", &inspects(json!("pass")))]);
    assert_eq!(check(&set, &tool("notes", "add"), None), "allow none");
}

#[test]
fn rewritten_arguments_must_fit_the_tools_schema() {
    let bound = |document: &str| {
        bind("one", &rewrites(&json!({ "replace": document }))).with(|binding| binding.allow_rewrite = true)
    };
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] });
    for (document, expected) in [
        (r#"{"n":1}"#, r#"allow {"n":1}"#),
        (r#"{"n":"1"}"#, "one failed: unfit-arguments"),
        ("{}", "one failed: unfit-arguments"),
    ] {
        let set = load(vec![bound(document)]);
        assert_eq!(check(&set, &tool_with_schema(&schema), Some("{}")), expected, "{document}");
    }
    // What nobody rewrites is the upstream's business.
    let keeps = load(vec![bind("one", &verdict(allow(&json!({}))))]);
    assert_eq!(check(&keeps, &tool_with_schema(&schema), Some("{}")), "allow {}");
    let recursive = json!({ "properties": { "next": { "$ref": "#" } } });
    let set = load(vec![bound(r#"{"n":1}"#)]);
    assert_eq!(check(&set, &tool_with_schema(&recursive), Some("{}")), "one failed: unfit-arguments");
    let advisory = load(vec![
        bound(r#"{"n":"1"}"#).with(|binding| binding.advisory = true),
        bind("two", &verdict(allow(&json!({})))),
    ]);
    assert_eq!(
        check(&advisory, &tool_with_schema(&schema), Some(r#"{"n":7}"#)),
        r#"allow {"n":7}"#,
        "nothing is taken over"
    );
}

fn tool_with_schema(schema: &serde_json::Value) -> Arc<Tool> {
    let upstream = UpstreamName::parse("notes").unwrap();
    let definition = raw(json!({ "name": "add", "inputSchema": schema }).to_string());
    Arc::new(Tool::new(Arc::new(ToolDefinition::parse(&upstream, &definition).unwrap()), "notes__add".to_owned()))
}

#[test]
fn an_advisory_policy_that_fails_has_no_opinion() {
    let advisory = |name: &str, guest: &Guest| bind(name, guest).with(|binding| binding.advisory = true);
    let traps = Guest::new()
        .runs(Hook::ListTools, "unreachable")
        .runs(Hook::ToolCall, "unreachable")
        .runs(Hook::ToolResult, "unreachable");
    let allows = Guest::new()
        .answers(Hook::ListTools, json!({ "visible": ["show"], "overrides": [] }))
        .answers(Hook::ToolCall, allow(&json!({})))
        .answers(Hook::ToolResult, json!("pass"));
    let (add, caller) = (tool("notes", "add"), caller());
    let set = load(vec![advisory("one", &traps), bind("two", &allows)]);
    assert_eq!(seen(&set, std::slice::from_ref(&add)).0, ["notes__add"]);
    assert_eq!(check(&set, &add, None), "allow none");
    assert_eq!(inspect(&set, RESULT), RESULT);
    let (_, trail) = now(set.check(&context(&caller), call(&add, None)));
    let expected =
        ["one list-tools error trap", "two list-tools show -", "one tool-call error trap", "two tool-call allow -"];
    assert_eq!(steps(&trail), expected, "the failure is written down");
    assert!(set.bindings()[0].health().failures() > 0);
    let alone = load(vec![advisory("one", &traps)]);
    assert!(seen(&alone, std::slice::from_ref(&add)).0.is_empty(), "having no opinion is not allowing");
    let calls = load(vec![advisory("one", &Guest::new().runs(Hook::ToolCall, "unreachable"))]);
    assert_eq!(check(&calls, &add, None), "no-policy-allowed");
    let results = load(vec![advisory("one", &Guest::new().answers(Hook::ToolResult, json!("pass")))]);
    assert_eq!(
        inspect(&results, r#"{"content":7}"#),
        r#"{"content":7}"#,
        "what cannot be opened is not refused either"
    );
}

#[test]
fn a_policy_sees_its_own_satisfied_codes_and_what_is_wanted_names_what_would_be_sent() {
    let approve = json!({ "approve": {
        "title": "T\u{7}", "summary": "S", "by": "listed", "approvers": ["ada"], "ttl-s": 60,
        "remember": { "seconds": 600 }, "reason": reason("ask", "Ask."),
    } });
    let asks = bind("asks", &verdict(approve));
    let rewrites = bind("rewrites", &rewrites(&json!({ "replace": r#"{"b":2}"# })));
    let set = load(vec![asks, rewrites.with(|binding| binding.allow_rewrite = true)]);
    let caller = caller();
    let refused = now(set.check(&context(&caller), call(&tool("notes", "add"), Some("{}")))).0.unwrap_err();
    let Refusal::ApprovalNeeded { binding, approval } = refused else { panic!("{refused}") };
    assert_eq!((binding.as_str(), approval.title.as_str()), ("asks", "T"));
    assert_eq!(
        (&approval.by, approval.remember),
        (&Approver::Listed(vec!["ada".to_owned()]), Remember::For(Duration::from_secs(600)),)
    );
    assert_eq!(approval.arguments.as_ref().map(|arguments| arguments.get()), Some(r#"{"b":2}"#));

    // The list of codes is two words, and the first code begins where the first of them says.
    let at = Layout::new().offset(Hook::ToolCall, &["context", "satisfied"]);
    let counts = |name: &str| {
        let guest = Guest::new().hook(
            Hook::ToolCall,
            Body::Around(
                deny("unsatisfied"),
                format!(
                    "(if (i32.load offset={} (local.get 0)) (then (i32.store8 $answer (i32.const 0)))) $answer",
                    at + 4
                ),
            ),
        );
        bind(name, &guest)
    };
    let set = load(vec![counts("one")]);
    let satisfied = |binding: &str| Satisfied { binding: BindingName::parse(binding).unwrap(), code: "ask".to_owned() };
    for (satisfied, expected) in [
        (vec![], "one denied: unsatisfied No."),
        (vec![satisfied("one")], "no-policy-allowed"),
        (vec![satisfied("two")], "one denied: unsatisfied No."),
    ] {
        let ctx = CallContext { satisfied: &satisfied, ..context(&caller) };
        let refused = now(set.check(&ctx, call(&tool("notes", "add"), None))).0.unwrap_err();
        assert_eq!(told(&refused), expected, "{satisfied:?}");
    }
}

#[test]
fn scopes_and_groups_of_a_caller_reach_policies() {
    let count = |path: &[&str]| {
        let at = Layout::new().offset(Hook::ToolCall, path);
        let wat = format!(
            "(if (i32.eq (i32.load offset={} (local.get 0)) (i32.const 2)) (then (i32.store8 $answer (i32.const 0)))) $answer",
            at + 4
        );
        Guest::new().hook(Hook::ToolCall, Body::Around(deny("not-two"), wat))
    };
    let tokens = TokenList::parse(vec!["a".to_owned(), "b".to_owned()]).unwrap();
    for (path, with) in [
        (["context", "caller", "scopes"], crate::identity::Caller { scopes: tokens.clone(), ..caller() }),
        (["context", "caller", "groups"], crate::identity::Caller { groups: tokens.clone(), ..caller() }),
    ] {
        let set = load(vec![bind("one", &count(&path))]);
        let said = |caller: &crate::identity::Caller| {
            told(&now(set.check(&context(caller), call(&tool("notes", "add"), None))).0.unwrap_err())
        };
        assert_eq!(said(&caller()), "one denied: not-two No.", "{path:?}");
        assert_eq!(said(&with), "no-policy-allowed", "{path:?}");
    }
}

#[test]
fn a_policy_sees_the_claims_that_it_asks_for_and_no_others() {
    let claims = r#"{"department":"ops","level":3}"#;
    let caller = crate::identity::Caller { claims: Some(claims.into()), ..caller() };
    let all = || Guest::new().answers(Hook::ToolCall, json!("abstain"));
    for (wanted, seen) in [
        (&[][..], json!({})),
        (&["level"], json!({ "level": 3 })),
        (&["*"], json!({ "department": "ops", "level": 3 })),
        (&["team"], json!({})),
    ] {
        let guest = all().needs_claims(Hook::ToolCall, wanted);
        let (mut settings, modules) = settings(vec![bind("one", &guest)]);
        settings.record = true;
        let set = PolicySet::load(&settings, &[], engine(), &modules, None, 1).unwrap();
        let (_, trail) = now(set.check(&context(&caller), call(&tool("notes", "add"), None)));
        let recorded: serde_json::Value =
            serde_json::from_str(&trail.steps[0].recorded.as_ref().unwrap().input).unwrap();
        assert_eq!(recorded["context"]["caller"]["claims"], seen, "{wanted:?}");
        assert_eq!(recorded["context"]["caller"]["issuer"], "portcullis");
    }
}

#[test]
fn decisions_are_recorded_word_for_word_if_the_operator_says_so() {
    let (mut wanted, modules) = settings(vec![bind("one", &verdict(deny("no")).sees_all())]);
    let caller = caller();
    for record in [false, true] {
        wanted.record = record;
        let set = PolicySet::load(&wanted, &[], engine(), &modules, None, 1).unwrap();
        let (_, trail) = now(set.check(&context(&caller), call(&tool("notes", "add"), Some(r#"{"a":1.0}"#))));
        let recorded = trail.steps[0].recorded.as_ref();
        assert_eq!(recorded.is_some(), record);
        let Some(recorded) = recorded else { continue };
        let input: serde_json::Value = serde_json::from_str(&recorded.input).unwrap();
        assert_eq!(input["request"]["arguments"], json!({ "a": 1.0 }));
        assert_eq!(input["context"]["caller"]["subject"], "ci");
        let answer: serde_json::Value = serde_json::from_str(recorded.answer.as_deref().unwrap()).unwrap();
        assert_eq!(answer["deny"]["reason"]["code"], "no");
        assert!(recorded.imports.is_empty());
    }
}

#[test]
fn where_there_is_no_room_to_ask_nothing_passes_and_nobody_is_blamed() {
    let all = Guest::new()
        .answers(Hook::ListTools, json!({ "visible": ["show"], "overrides": [] }))
        .answers(Hook::ToolCall, allow(&json!({})))
        .answers(Hook::ToolResult, json!("pass"));
    let set = load(vec![bind("one", &all)]);
    let (add, caller) = (tool("notes", "add"), caller());
    set.bindings()[0].prepared.note_timeout();
    // It is asked where runs wait for their turn, and there no one gets one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let workers = set.bindings()[0].loaded().engine().workers();
        let held = workers.hold_all().await;
        let ctx = context(&caller);
        let (listed, trail) = set.filter(&ctx, std::slice::from_ref(&add)).await;
        assert!(matches!(listed, Err(Refusal::Throttled { .. })), "rather no list than a shorter one");
        assert_eq!(steps(&trail), ["one list-tools error busy"]);
        let (checked, _) = set.check(&ctx, call(&add, None)).await;
        assert!(matches!(checked, Err(Refusal::Throttled { retry_after_ms: 1000, .. })));
        let result = Outcome::Result(raw(RESULT.to_owned()));
        let (inspected, _) = set.inspect(&ctx, &add, result, Duration::ZERO).await;
        let Err(Refusal::PolicyFailed { failure, .. }) = inspected else { panic!("{inspected:?}") };
        assert_eq!(failure, Failure::Busy, "who has called already is not told to call again");
        drop(held);
        assert!(set.check(&ctx, call(&add, None)).await.0.is_ok());
    });
    assert_eq!(set.bindings()[0].health().failures(), 0);
}
