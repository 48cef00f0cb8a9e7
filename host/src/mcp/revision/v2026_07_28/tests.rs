//! Both sides of 2026-07-28, byte for byte.

use std::sync::Arc;

use http::HeaderMap;

use super::*;
use crate::mcp::call::{NeedsInput, Outcome, Params, Retry};
use crate::mcp::client::Client;
use crate::mcp::error::{HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_CAPABILITY, UNSUPPORTED_VERSION};
use crate::mcp::json::{Members, raw};
use crate::mcp::message::RequestId;
use crate::mcp::revision::{
    Answer, Asked, Discovery, Era, Filter, Head, ListKind, MAX_WATCHED, Page, Rejection, Request, SERVER_INFO,
    VERSION_HEADER,
};
use crate::mcp::talk::{LogLevel, Party, Question};

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in values {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

/// Reads a request whose headers say what its body says, but for `Mcp-Name`. `members` ends in a comma if there are any.
fn read(method: &str, name: Option<&str>, members: &str, capabilities: &str) -> Result<Asked, Rejection> {
    let mut values = vec![(VERSION_HEADER, VERSION), (METHOD_HEADER, method)];
    values.extend(name.map(|name| (NAME_HEADER, name)));
    let meta = format!(r#""_meta":{{"{META_VERSION}":"{VERSION}","{META_CAPABILITIES}":{capabilities},"mine":1}}"#);
    let params = raw(format!("{{{members}{meta}}}"));
    decode(&headers(&values), method, Head::read(Some(&params)))
}

fn refused(result: Result<Asked, Rejection>) -> (u16, i32) {
    let rejection = result.unwrap_err();
    (rejection.status, rejection.error.code)
}

#[test]
fn header_values_are_encoded_where_they_must_be() {
    for (text, header) in [
        ("us-west1", "us-west1"),
        ("", ""),
        ("a b\tc", "a b\tc"),
        ("file:///a/b?c=d", "file:///a/b?c=d"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("tab\t", "=?base64?dGFiCQ==?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("=?BASE64?x?=", "=?BASE64?x?="),
        ("\u{7f}", "=?base64?fw==?="),
    ] {
        let value = encode_header(text);
        assert_eq!(value, header, "{text:?}");
        assert_eq!(decode_header(&value).as_deref(), Some(text), "{text:?}");
    }
    for bad in [&b"=?base64?*?="[..], b"=?base64?fw?=", b"=?base64?/w==?=", b"caf\xe9"] {
        assert_eq!(decode_header(&HeaderValue::from_bytes(bad).unwrap()), None, "{bad:?}");
    }
}

#[test]
fn headers_must_say_what_the_body_says() {
    let params =
        raw(format!(r#"{{"name":"notes__add","_meta":{{"{META_VERSION}":"{VERSION}","{META_CAPABILITIES}":{{}}}}}}"#));
    let read = |values: &[(&'static str, &str)]| decode(&headers(values), "tools/call", Head::read(Some(&params)));
    let full = [(VERSION_HEADER, VERSION), (METHOD_HEADER, "tools/call"), (NAME_HEADER, "notes__add")];
    assert!(read(&full).is_ok());
    assert!(read(&[full[0], full[1], (NAME_HEADER, "=?base64?bm90ZXNfX2FkZA==?=")]).is_ok());
    for wrong in [
        vec![full[0], full[1]],
        vec![full[0], full[2]],
        vec![full[1], full[2]],
        vec![full[0], full[1], (NAME_HEADER, "notes__ADD")],
        vec![full[0], full[1], (NAME_HEADER, "=?base64?*?=")],
        vec![full[0], full[1], full[2], full[2]],
        vec![full[0], full[1], full[1], full[2]],
        vec![full[0], (METHOD_HEADER, "tools/list"), full[2]],
        vec![full[0], (METHOD_HEADER, "Tools/Call"), full[2]],
        vec![full[0], (METHOD_HEADER, "=?base64?dG9vbHMvY2FsbA==?="), full[2]],
        vec![(VERSION_HEADER, "2025-11-25"), full[1], full[2]],
    ] {
        assert_eq!(refused(read(&wrong)), (400, HEADER_MISMATCH), "{wrong:?}");
    }
}

#[test]
fn each_method_has_its_name_in_a_header() {
    let tasks = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    for (method, members, name) in [
        ("tools/call", r#""name":"n","#, "n"),
        ("prompts/get", r#""name":"n","#, "n"),
        ("resources/read", r#""uri":"a:ä","#, "=?base64?YTrDpA==?="),
        ("tasks/get", r#""taskId":"t","#, "t"),
        ("tasks/update", r#""taskId":"t","inputResponses":{},"#, "t"),
        ("tasks/cancel", r#""taskId":"t","#, "t"),
    ] {
        let asked = read(method, Some(name), members, tasks).unwrap();
        assert_eq!(asked.request.method(), method);
        assert_eq!(refused(read(method, None, members, tasks)), (400, HEADER_MISMATCH), "{method}");
        assert_eq!(refused(read(method, Some("x"), members, tasks)), (400, HEADER_MISMATCH), "{method}");
    }
    for method in ["resources/directory/read", "skills/get"] {
        let named = |name| read(method, name, r#""uri":"a:b","#, "{}");
        assert!(named(None).is_ok() && named(Some("a:b")).is_ok());
        assert_eq!(refused(named(Some("a:c"))), (400, HEADER_MISMATCH));
        assert_eq!(refused(read(method, None, "", "{}")), (200, INVALID_PARAMS));
    }
    for (method, members) in [
        ("tools/list", ""),
        ("resources/templates/list", r#""cursor":"c","#),
        ("completion/complete", r#""ref":{"type":"ref/prompt","name":"p"},"#),
        ("server/discover", ""),
        ("subscriptions/listen", r#""notifications":{},"#),
    ] {
        let asked = read(method, None, members, "{}").unwrap();
        assert_eq!(asked.request.method(), method);
    }
}

#[test]
fn the_envelope_is_needed_and_stays_out_of_what_goes_on() {
    let read_meta = |meta: &str| {
        let full = headers(&[(VERSION_HEADER, VERSION), (METHOD_HEADER, "tools/list")]);
        let params = raw(format!("{{{meta}}}"));
        decode(&full, "tools/list", Head::read(Some(&params)))
    };
    let version = format!(r#""{META_VERSION}":"{VERSION}""#);
    for missing in [
        String::new(),
        r#""_meta":[]"#.to_owned(),
        r#""_meta":{}"#.to_owned(),
        format!(r#""_meta":{{{version}}}"#),
        format!(r#""_meta":{{{version},"{META_CAPABILITIES}":[]}}"#),
        format!(r#""_meta":{{"{META_VERSION}":1,"{META_CAPABILITIES}":{{}}}}"#),
        format!(r#""_meta":{{"{META_CAPABILITIES}":{{}}}}"#),
        format!(r#""_meta":{{{version},"{META_CAPABILITIES}":{{}},"io.modelcontextprotocol/logLevel":"loud"}}"#),
    ] {
        assert_eq!(refused(read_meta(&missing)), (400, INVALID_PARAMS), "{missing}");
    }
    let no_params = headers(&[(VERSION_HEADER, VERSION), (METHOD_HEADER, "tools/list")]);
    assert_eq!(refused(decode(&no_params, "tools/list", Head::read(None))), (400, INVALID_PARAMS));

    let asked = read_meta(&format!(
        r#""cursor":"c","_meta":{{{version},"{META_CAPABILITIES}":{{"roots":{{}}}},"io.modelcontextprotocol/clientInfo":{{"name":"c"}},"io.modelcontextprotocol/logLevel":"warning","progressToken":"p","traceparent":"00"}}"#
    ));
    let Asked { request, client, log_level } = asked.unwrap();
    let client = client.unwrap();
    assert_eq!((client.capabilities().get(), client.info().unwrap().get()), (r#"{"roots":{}}"#, r#"{"name":"c"}"#));
    assert_eq!(log_level, Some(LogLevel::Warning));
    assert_eq!(request.progress_token().unwrap().get(), r#""p""#);
    let params = request.params().unwrap();
    assert_eq!(params.members.to_raw().get(), r#"{"cursor":"c"}"#);
    assert_eq!(params.meta.to_raw().get(), r#"{"traceparent":"00"}"#);
}

#[test]
fn an_unknown_version_is_answered_with_the_known_ones() {
    let body = raw(format!(r#"{{"_meta":{{"{META_VERSION}":"2099-01-01","{META_CAPABILITIES}":{{}}}}}}"#));
    let full = headers(&[(VERSION_HEADER, "2099-01-01"), (METHOD_HEADER, "tools/list")]);
    let rejection = decode(&full, "tools/list", Head::read(Some(&body))).unwrap_err();
    assert_eq!((rejection.status, rejection.error.code), (400, UNSUPPORTED_VERSION));
    assert_eq!(
        rejection.error.data.as_ref().unwrap().get(),
        r#"{"supported":["2026-07-28","2025-11-25","2025-06-18","2025-03-26","2024-11-05"],"requested":"2099-01-01"}"#
    );
    assert_eq!(supported(&rejection.error.to_raw()).unwrap().len(), 5, "as we read it from an upstream");
    assert_eq!(error_status(&rejection.error.to_raw()), 400);
}

#[test]
fn removed_and_unknown_methods_are_not_found() {
    for method in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/result",
        "tasks/list",
        "sampling/createMessage",
        "nothing",
    ] {
        let tasks = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
        assert_eq!(refused(read(method, None, "", tasks)), (404, METHOD_NOT_FOUND), "{method}");
    }
}

#[test]
fn tasks_are_for_clients_that_know_them() {
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let rejection = read(method, Some("t"), r#""taskId":"t","#, "{}").unwrap_err();
        assert_eq!((rejection.status, rejection.error.code), (400, MISSING_CAPABILITY));
        assert_eq!(
            rejection.error.data.unwrap().get(),
            r#"{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#
        );
    }
    let tasks = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    let asked = read("tasks/update", Some("t"), r#""taskId":"t","inputResponses":{"k":{}},"#, tasks).unwrap();
    let params = asked.request.params().unwrap();
    assert!(params.retry.is_none(), "the answers are the request itself");
    assert_eq!(params.members.to_raw().get(), r#"{"taskId":"t","inputResponses":{"k":{}}}"#);
}

#[test]
fn a_retry_brings_answers_and_state() {
    let asked =
        read("tools/call", Some("t"), r#""name":"t","inputResponses":{"k":{"a":1.0}},"requestState":"s","#, "{}");
    let asked = asked.unwrap();
    let params = asked.request.params().unwrap();
    let retry = params.retry.as_ref().unwrap();
    assert_eq!(params.members.to_raw().get(), r#"{"name":"t"}"#);
    assert_eq!(retry.responses.as_ref().unwrap().get(), r#"{"k":{"a":1.0}}"#);
    assert_eq!(retry.state.as_deref(), Some("s"));
    let bad = read("tools/call", Some("t"), r#""name":"t","requestState":1,"#, "{}");
    assert_eq!(refused(bad), (200, INVALID_PARAMS));
}

#[test]
fn a_filter_is_read_and_bounded() {
    let listen = |notifications: &str| match read(LISTEN, None, &format!(r#""notifications":{notifications},"#), "{}") {
        Ok(Asked { request: Request::Listen(filter), .. }) => Ok(filter),
        Ok(other) => panic!("{other:?}"),
        Err(rejection) => Err((rejection.status, rejection.error.code)),
    };
    let uris: Vec<String> = (0..=MAX_WATCHED).map(|number| format!("a:{number}")).collect();
    let uris =
        |count: usize| format!(r#"{{"resourceSubscriptions":{}}}"#, serde_json::to_string(&uris[..count]).unwrap());
    assert_eq!(listen("{}"), Ok(Filter::default()));
    assert_eq!(
        listen(
            r#"{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["b:","a:","b:"],"x":1}"#
        ),
        Ok(Filter { tools: true, uris: vec!["a:".into(), "b:".into()], ..Filter::default() })
    );
    assert_eq!(listen(&uris(MAX_WATCHED)).unwrap().uris.len(), MAX_WATCHED);
    assert_eq!(listen(&uris(MAX_WATCHED + 1)), Err((200, INVALID_PARAMS)));
    for bad in ["[]", "1", r#"{"toolsListChanged":1}"#, r#"{"resourceSubscriptions":[1]}"#] {
        assert_eq!(listen(bad), Err((200, INVALID_PARAMS)), "{bad}");
    }
    assert_eq!(refused(read(LISTEN, None, "", "{}")), (200, INVALID_PARAMS));
}

fn written(answer: Answer) -> String {
    match encode(answer) {
        Outcome::Result(result) => result.get().to_owned(),
        Outcome::Error(error) => format!("error {}", error.get()),
        Outcome::NeedsInput(_) => unreachable!("never written"),
    }
}

fn done(method: &'static str, result: &str) -> String {
    written(Answer::Done { method, outcome: Outcome::Result(raw(result.to_owned())) })
}

fn meta(more: &str) -> String {
    format!(r#""_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}{more}}}"#)
}

#[test]
fn our_own_answers_are_written() {
    let discovery = Discovery { capabilities: raw(r#"{"tools":{}}"#.into()), instructions: Some("use \"it\"".into()) };
    assert_eq!(
        written(Answer::Discovery(discovery)),
        format!(
            r#"{{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25","2025-06-18","2025-03-26","2024-11-05"],"capabilities":{{"tools":{{}}}},"instructions":"use \"it\"","ttlMs":60000,"cacheScope":"private",{}}}"#,
            meta("")
        )
    );
    let page = Page {
        kind: ListKind::Tools,
        items: [r#"{"name":"a","outputSchema":{"type":"array"}}"#, r#"{"name":"b"}"#]
            .map(|item| Arc::from(raw(item.into())))
            .into(),
        next_cursor: Some("c".into()),
        missing: vec!["u".into()],
    };
    assert_eq!(
        written(Answer::Page(page)),
        format!(
            r#"{{"resultType":"complete","tools":[{{"name":"a","outputSchema":{{"type":"array"}}}},{{"name":"b"}}],"nextCursor":"c","ttlMs":5000,"cacheScope":"private",{}}}"#,
            meta(r#","portcullis/missingUpstreams":["u"]"#)
        )
    );
    assert_eq!(written(Answer::Empty), format!(r#"{{"resultType":"complete",{}}}"#, meta("")));
}

#[test]
fn a_result_gets_its_type_and_keeps_its_text() {
    let ours = meta("");
    for (from, to) in [
        ("{}".to_owned(), format!(r#"{{"resultType":"complete",{ours}}}"#)),
        ("{ }".to_owned(), format!(r#"{{"resultType":"complete",{ours} }}"#)),
        (r#"{"a":1.0}"#.to_owned(), format!(r#"{{"resultType":"complete",{ours},"a":1.0}}"#)),
        (
            r#"{"a":{"resultType":1}}"#.to_owned(),
            format!(r#"{{"resultType":"complete",{ours},"a":{{"resultType":1}}}}"#),
        ),
        (r#"{"_meta":{"x":1}}"#.to_owned(), r#"{"resultType":"complete","_meta":{"x":1}}"#.to_owned()),
        (r#"{"\u005fmeta":{"x":1}}"#.to_owned(), r#"{"resultType":"complete","\u005fmeta":{"x":1}}"#.to_owned()),
    ] {
        assert_eq!(done("tools/call", &from), to);
    }
    for same in [
        r#"{"resultType":"task","taskId":"t","ttlMs":null}"#,
        r#"{"resultType":"complete","a": 1.0 }"#,
        r#"{"a": 1.0,"resultType":"complete"}"#,
        r#"{"resultType":"of/an-extension"}"#,
    ] {
        assert_eq!(done("tools/call", same), same);
    }
}

#[test]
fn what_is_read_has_cache_hints_and_stays_private() {
    let ours = meta("");
    let own_meta = r#""_meta":{}"#;
    for (from, to) in [
        (
            r#"{"contents":[]}"#.to_owned(),
            format!(r#"{{"resultType":"complete","ttlMs":0,"cacheScope":"private",{ours},"contents":[]}}"#),
        ),
        (
            r#"{"resultType":"complete","ttlMs":5,"cacheScope":"public"}"#.to_owned(),
            format!(r#"{{{ours},"resultType":"complete","ttlMs":5,"cacheScope":"private"}}"#),
        ),
        (
            format!(r#"{{"cacheScope" : "public" ,"ttlMs":-1,"resultType":"complete",{own_meta}}}"#),
            format!(r#"{{"cacheScope" : "private" ,"ttlMs":0,"resultType":"complete",{own_meta}}}"#),
        ),
        (
            format!(r#"{{"ttlMs":7,"contents":[{{"cacheScope":"public"}}],{own_meta}}}"#),
            format!(
                r#"{{"resultType":"complete","cacheScope":"private","ttlMs":7,"contents":[{{"cacheScope":"public"}}],{own_meta}}}"#
            ),
        ),
        (
            format!(r#"{{"resultType":"complete","cache\u0053cope":"public","ttlMs":1e3,{own_meta}}}"#),
            format!(r#"{{"resultType":"complete","cache\u0053cope":"private","ttlMs":0,{own_meta}}}"#),
        ),
    ] {
        assert_eq!(done("resources/read", &from), to);
    }
    let same = r#"{"contents":[],"ttlMs":9,"cacheScope":"private","resultType":"complete"}"#;
    assert_eq!(done("resources/read", same), same);
    let twice = r#"{"ttlMs":1,"ttlMs":2,"resultType":"complete"}"#;
    assert_eq!(
        done("resources/read", twice),
        r#"error {"code":-32603,"message":"the upstream's result has a member twice"}"#
    );
}

#[test]
fn a_question_is_passed_on_only_as_one() {
    let needs = r#"{"resultType":"input_required","requestState":"sealed"}"#;
    let refusal = r#"error {"code":-32603,"message":"the upstream asked for input where it cannot be given"}"#;
    assert_eq!(done("tools/call", needs), refusal, "its state was not sealed");
    assert_eq!(done("tools/call", r#"{"result\u0054ype":"input_required"}"#), refusal);
    let pass = |method| {
        let outcome = Outcome::NeedsInput(NeedsInput(Members::parse(needs).unwrap()));
        written(Answer::Done { method, outcome })
    };
    for method in ["tools/call", "prompts/get", "resources/read"] {
        assert_eq!(pass(method), needs);
    }
    assert_eq!(pass("completion/complete"), refusal);
}

#[test]
fn errors_have_codes_of_this_revision() {
    let translate = |error: &str| {
        let outcome = Outcome::Error(raw(error.to_owned()));
        written(Answer::Done { method: "resources/read", outcome }).split_off("error ".len())
    };
    for (from, to, status) in [
        (
            r#"{"code":-32002,"message":"gone","data":{"uri":"a:b"}}"#,
            r#"{"code":-32602,"message":"gone","data":{"uri":"a:b"}}"#,
            200,
        ),
        (
            r#"{"code":-32000,"message":"old \"x\""}"#,
            r#"{"code":-32603,"message":"old \"x\"","data":{"upstreamCode":-32000,"upstreamData":null}}"#,
            200,
        ),
        (
            r#"{"code":-32042,"message":"visit","data":{"elicitations":[]}}"#,
            r#"{"code":-32603,"message":"visit","data":{"upstreamCode":-32042,"upstreamData":{"elicitations":[]}}}"#,
            200,
        ),
        (
            r#"{"code":-32020,"message":"m"}"#,
            r#"{"code":-32603,"message":"m","data":{"upstreamCode":-32020,"upstreamData":null}}"#,
            200,
        ),
        (r#"{"code":"x","message":"m"}"#, r#"{"code":-32603,"message":"the upstream's error cannot be read"}"#, 200),
        (
            r#"{"code":-32021,"message":"m","data":{"requiredCapabilities":{"sampling":{}}}}"#,
            r#"{"code":-32021,"message":"m","data":{"requiredCapabilities":{"sampling":{}}}}"#,
            400,
        ),
        (r#"{ "code": -32601,"message":"m"}"#, r#"{ "code": -32601,"message":"m"}"#, 404),
        (r#"{"code":-32602,"message":"m","x":1}"#, r#"{"code":-32602,"message":"m","x":1}"#, 200),
        (r#"{"code":17,"message":"m"}"#, r#"{"code":17,"message":"m"}"#, 200),
    ] {
        let translated = translate(from);
        assert_eq!(translated, to);
        assert_eq!(error_status(&raw(translated)), status, "{to}");
    }
}

#[test]
fn upstreams_are_told_who_asks() {
    let envelope = |info: &str, capabilities: &str| {
        format!(
            r#""{META_VERSION}":"{VERSION}","io.modelcontextprotocol/clientInfo":{info},"{META_CAPABILITIES}":{capabilities}"#
        )
    };
    let mut party = Party::gateway();
    let mut params = Params::default();
    assert_eq!(
        request_params(&params, &party, None).get(),
        format!(r#"{{"_meta":{{{}}}}}"#, envelope(SERVER_INFO, "{}"))
    );
    assert_eq!(probe().get(), request_params(&params, &party, None).get());

    party.client = Arc::new(Client::new(Some(raw(r#"{"name":"c"}"#.into())), raw(r#"{"roots":{}}"#.into())));
    party.log_level = Some(LogLevel::Error);
    params.members = Members::parse(r#"{"name":"t","arguments":{"n":1.0}}"#).unwrap();
    params.meta = Members::parse(r#"{"traceparent":"00"}"#).unwrap();
    params.progress_token = Some(raw("1".into()));
    params.retry = Some(Retry { responses: Some(raw(r#"{"k":{}}"#.into())), state: Some("s\"".into()) });
    let theirs = envelope(r#"{"name":"c"}"#, r#"{"roots":{}}"#);
    assert_eq!(
        request_params(&params, &party, Some(&RequestId::number(7))).get(),
        format!(
            r#"{{"name":"t","arguments":{{"n":1.0}},"inputResponses":{{"k":{{}}}},"requestState":"s\"","_meta":{{"traceparent":"00","progressToken":7,{theirs},"io.modelcontextprotocol/logLevel":"error"}}}}"#
        ),
        "the caller's own progress token stays with us"
    );

    party.log_level = None;
    party.session = Some("legacy".into());
    let filter = Filter { prompts: true, ..Filter::default() };
    assert_eq!(
        listen_params(&party, &filter).get(),
        format!(
            r#"{{"notifications":{{"promptsListChanged":true}},"_meta":{{{theirs},"io.modelcontextprotocol/logLevel":"info"}}}}"#
        ),
        "who has a session hears logs unasked"
    );
}

#[test]
fn upstreams_get_the_headers() {
    let headers = |name| {
        let headers = request_headers("tools/call", name);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect::<Vec<_>>()
    };
    let first = ["mcp-protocol-version: 2026-07-28", "mcp-method: tools/call"];
    assert_eq!(headers(None), first);
    assert_eq!(headers(Some("größe")), [first[0], first[1], "mcp-name: =?base64?Z3LDtsOfZQ==?="]);
}

#[test]
fn an_upstreams_questions_are_recognised() {
    let kind = |result: &str| match outcome(&raw(result.to_owned())) {
        Outcome::Result(result) => format!("result {}", result.get()),
        Outcome::NeedsInput(needs) => format!("needs {}", needs.0.to_raw().get()),
        Outcome::Error(error) => format!("error {}", error.get()),
    };
    for same in [r#"{"a":1.0}"#, r#"{"resultType":"complete"}"#, r#"{"resultType":"task","taskId":"t"}"#] {
        assert_eq!(kind(same), format!("result {same}"));
    }
    let needs = r#"{"requestState":"s","result\u0054ype":"input_required"}"#;
    assert_eq!(kind(needs), r#"needs {"requestState":"s","resultType":"input_required"}"#);
    let twice = r#"error {"code":-32603,"message":"the upstream's result has a member twice"}"#;
    assert_eq!(kind(r#"{"resultType":"complete","resultType":"input_required"}"#), twice);
    assert_eq!(kind(r#"{"resultType":"input_required","requestState":"a","requestState":"b"}"#), twice);
    assert!(is_task(&raw(r#"{"resultType":"task"}"#.into())) && !is_task(&raw(r#"{"task":{}}"#.into())));
}

#[test]
fn an_upstream_says_what_it_is() {
    let about = read_about(&raw(
        r#"{"supportedVersions":["2099-01-01","2026-07-28"],"capabilities":{"tools":{},"extensions":{"a/b":{"c":1}}},"instructions":"i","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}},"resultType":"complete"}"#.into(),
    ));
    let about = about.unwrap();
    assert_eq!((about.revision.as_str(), about.era), (VERSION, Era::Modern));
    assert!(about.capabilities.tools && about.capabilities.has_extension("a/b"));
    assert_eq!(about.server_info.unwrap().get(), r#"{"name":"s"}"#);
    assert_eq!(about.instructions.as_deref(), Some("i"));
    for other in
        ["{}", r#"{"supportedVersions":["2025-11-25"],"capabilities":{}}"#, r#"{"supportedVersions":"2026-07-28"}"#]
    {
        assert!(read_about(&raw(other.into())).is_none(), "{other}");
    }
}

#[test]
fn modern_errors_are_known() {
    let known: Vec<i64> = (-32_100..-31_990).filter(|code| is_modern_error(*code)).collect();
    assert_eq!(known, [-32_022, -32_021, -32_020]);
    let read = |error: &str| supported(&raw(error.to_owned()));
    assert_eq!(read(r#"{"code":-32022,"message":"","data":{"supported":["a"]}}"#), Some(vec!["a".to_owned()]));
    assert_eq!(read(r#"{"code":-32022,"message":""}"#), Some(Vec::new()));
    assert_eq!(read(r#"{"code":-32020,"message":"","data":{"supported":["a"]}}"#), None);
}

#[test]
fn an_old_error_that_asks_for_a_visit_is_a_question() {
    let read = |error: &str| crate::mcp::revision::v2025_11_25::required_elicitations(&raw(error.to_owned()));
    let asked = read(
        r#"{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","url":"https://x","elicitationId":"e","message":"m"}]}}"#,
    );
    let asked = asked.unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].key.as_str(), asked[0].question), ("1", Question::ElicitationUrl));
    assert_eq!(
        needs_input(&asked, "s").0.to_raw().get(),
        r#"{"resultType":"input_required","inputRequests":{"1":{"method":"elicitation/create","params":{"mode":"url","url":"https://x","message":"m"}}},"requestState":"s"}"#
    );
    for other in [
        r#"{"code":-32042,"message":"m"}"#,
        r#"{"code":-32042,"message":"m","data":{"elicitations":[]}}"#,
        r#"{"code":-32042,"message":"m","data":{"elicitations":[1]}}"#,
        r#"{"code":-32041,"message":"m","data":{"elicitations":[{}]}}"#,
    ] {
        assert!(read(other).is_none(), "{other}");
    }
}
