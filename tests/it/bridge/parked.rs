//! A legacy upstream asks a modern caller in the middle of a call: the answer is `input_required`, the call waits here, and
//! the retry goes on with it. What comes back is only taken from who was asked.

use std::time::Duration;

use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

use super::{Scene, Up, answer, everything, text};

/// Upstreams that wait for their answers within the call.
const WAITING: [Up; 2] = [Up::LegacyHttp, Up::Sse];

fn params(tool: &str) -> Value {
    json!({ "name": tool, "arguments": {} })
}

/// The same request with answers and what came along with the questions.
fn retry(tool: &str, asked: &Value, responses: Value) -> Value {
    let mut params = params(tool);
    params["requestState"] = asked["result"]["requestState"].clone();
    params["inputResponses"] = responses;
    params
}

/// Reasonable answers to all that is asked.
fn answers(asked: &Value) -> Value {
    let requests = asked["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("no questions in {asked}"));
    let answer = |question: &Value| answer(question["method"].as_str().unwrap(), &question["params"]);
    requests.iter().map(|(key, question)| (key.clone(), answer(question))).collect::<serde_json::Map<_, _>>().into()
}

/// Calls a tool that asks, and gives the questions.
async fn ask(caller: &Caller, tool: &str) -> Value {
    let reply = caller.modern("tools/call", params(tool)).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"), "{}", reply.text());
    let asked = reply.json();
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    assert!(asked["result"]["requestState"].is_string(), "{asked}");
    asked
}

async fn send(caller: &Caller, params: Value) -> Value {
    let reply = caller.modern("tools/call", params).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    reply.json()
}

fn refused(response: &Value) -> bool {
    response["error"]["code"] == -32602
}

const TOOL: &str = "up__test_streaming_elicitation";

fn alice(scene: &Scene) -> Caller {
    scene.gateway.caller("alice").able(everything())
}

#[tokio::test]
async fn a_retry_completes_the_same_call() {
    for up in WAITING {
        let scene = up.scene().await;
        let alice = alice(&scene);
        let asked = ask(&alice, TOOL).await;
        let requests = asked["result"]["inputRequests"].as_object().unwrap();
        assert_eq!(requests.len(), 1);
        let question = requests.values().next().unwrap();
        assert_eq!(question["method"], "elicitation/create");
        assert_eq!(question["params"]["message"], "Are you sure?");
        assert_eq!(scene.fixture().stats().under_way, 1, "it waits");
        let done = send(&alice, retry(TOOL, &asked, answers(&asked))).await;
        assert_ne!(done["id"], asked["id"], "each has an id of its own");
        assert_eq!(done["result"]["resultType"], "complete");
        assert_eq!(text(&done), format!("The answer was action=accept, content={}.", json!({ "sure": true })));
        let stats = scene.fixture().stats();
        assert_eq!((stats.calls, stats.under_way, stats.cancelled, stats.asked), (1, 0, 0, 1), "{up:?}");
    }
}

#[tokio::test]
async fn one_question_after_another_is_still_one_call() {
    for up in WAITING {
        let scene = up.scene().await;
        let alice = alice(&scene);
        let tool = "up__test_input_required_result_multi_round";
        let first = ask(&alice, tool).await;
        let second = send(&alice, retry(tool, &first, answers(&first))).await;
        assert_eq!(second["result"]["resultType"], "input_required", "{second}");
        assert_ne!(second["result"]["requestState"], first["result"]["requestState"]);
        assert_ne!(second["result"]["inputRequests"], first["result"]["inputRequests"]);
        let done = send(&alice, retry(tool, &second, answers(&second))).await;
        assert!(text(&done).starts_with("Hello, my name! Your color"), "{done}");
        assert_eq!(scene.fixture().stats().calls, 1);
    }
}

#[tokio::test]
async fn what_is_missing_is_asked_again_and_what_is_too_much_is_ignored() {
    let scene = Up::LegacyHttp.scene().await;
    let alice = alice(&scene);
    let tool = "up__test_input_required_result_multiple_inputs";
    let mut asked = ask(&alice, tool).await;
    let first = asked["result"]["inputRequests"].as_object().unwrap().clone();
    assert_eq!(first.len(), 3);
    // One is answered in each round, and something else besides.
    for left in [2, 1] {
        let (key, response) = answers(&asked)
            .as_object()
            .unwrap()
            .iter()
            .next()
            .map(|(key, answer)| (key.clone(), answer.clone()))
            .unwrap();
        let responses = json!({ key.clone(): response, "unasked": { "action": "accept" } });
        asked = send(&alice, retry(tool, &asked, responses)).await;
        let requests = asked["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("{asked}"));
        assert_eq!(requests.len(), left);
        assert!(!requests.contains_key(&key));
        for (key, question) in requests {
            assert_eq!(question, &first[key], "as it was asked before");
        }
    }
    // Without any answer, and with one that is none, everything that is open is asked again.
    for responses in [
        json!({}),
        json!({ "unasked": {} }),
        json!({ answers(&asked).as_object().unwrap().keys().next().unwrap(): "yes" }),
    ] {
        let open = asked["result"]["inputRequests"].clone();
        asked = send(&alice, retry(tool, &asked, responses)).await;
        assert_eq!(asked["result"]["inputRequests"], open);
    }
    let done = send(&alice, retry(tool, &asked, answers(&asked))).await;
    let expected = format!("Hello, my name! Paris Roots: {}", json!([{ "name": "home", "uri": "file:///home" }]));
    assert_eq!(text(&done), expected);
    let stats = scene.fixture().stats();
    assert_eq!((stats.calls, stats.asked, stats.answered), (1, 3, 3));
}

#[tokio::test]
async fn a_state_is_good_for_who_got_it_and_for_what_it_was_given() {
    let scene = Up::LegacyHttp.scene().await;
    let (alice, bob) = (alice(&scene), scene.gateway.caller("bob").able(everything()));
    let asked = ask(&alice, TOOL).await;
    let good = retry(TOOL, &asked, answers(&asked));
    let state = asked["result"]["requestState"].as_str().unwrap();
    let with_state = |state: String| {
        let mut params = good.clone();
        params["requestState"] = state.into();
        params
    };
    assert!(refused(&send(&bob, good.clone()).await), "another principal");
    let mut other_tool = good.clone();
    other_tool["name"] = "up__test_elicitation".into();
    assert!(refused(&send(&alice, other_tool).await), "another tool");
    let prompt = json!({ "name": TOOL, "requestState": state, "inputResponses": answers(&asked) });
    assert!(refused(&alice.modern("prompts/get", prompt).await.json()), "another method");
    let last = if state.ends_with('A') { "B" } else { "A" };
    for tampered in [
        String::new(),
        "x".to_owned(),
        format!("{state}A"),
        state[..state.len() - 1].to_owned(),
        format!("{last}{}", &state[1..]),
        state[..state.len() / 2].to_owned() + &last.repeat(state.len() - state.len() / 2),
        state.replace('-', "+") + "=",
    ] {
        assert!(refused(&send(&alice, with_state(tampered.clone())).await), "{tampered:?} of {state:?}");
    }
    assert_eq!(scene.fixture().stats().calls, 1, "nothing of it began a call");
    assert_eq!(scene.fixture().stats().answered, 0, "nothing of it was an answer");
    let done = send(&alice, good.clone()).await;
    assert!(text(&done).starts_with("The answer was action=accept"), "the right one still works: {done}");
    assert!(refused(&send(&alice, good).await), "once");
    assert_eq!(scene.fixture().stats().calls, 1);
}

#[tokio::test]
async fn a_state_is_good_for_a_quarter_of_an_hour() {
    let scene = Up::LegacyHttp.scene().await;
    let alice = alice(&scene);
    let (kept, expired) = (ask(&alice, TOOL).await, ask(&alice, TOOL).await);
    scene.gateway.clock.advance(Duration::from_secs(15 * 60 - 1));
    let done = send(&alice, retry(TOOL, &kept, answers(&kept))).await;
    assert!(text(&done).starts_with("The answer was"), "{done}");
    scene.gateway.clock.advance(Duration::from_secs(1));
    assert!(refused(&send(&alice, retry(TOOL, &expired, answers(&expired))).await));
}

#[tokio::test]
async fn a_call_that_nobody_comes_back_for_is_taken_back() {
    for up in WAITING {
        let builder = Gateway::builder().key("alice").key("bob").section("[limits]\nask_timeout = \"400ms\"");
        let scene = up.scene_with(builder).await;
        let alice = alice(&scene);
        let asked = ask(&alice, TOOL).await;
        let stats = scene.fixture().until(|stats| stats.under_way == 0).await;
        assert_eq!((stats.calls, stats.cancelled, stats.answered), (1, 1, 0), "{up:?}: the upstream is told");
        let late = send(&alice, retry(TOOL, &asked, answers(&asked))).await;
        assert!(refused(&late), "{late}");
        let message = late["error"]["message"].as_str().unwrap();
        assert!(message.contains("may have happened"), "{message}");
        assert_eq!(scene.fixture().stats().calls, 1, "and not called again");
    }
}

#[tokio::test]
async fn the_time_to_answer_begins_with_the_question() {
    let builder = Gateway::builder().key("alice").key("bob").section("[limits]\nask_timeout = \"3s\"");
    let scene = Up::LegacyHttp.scene_with(builder).await;
    let alice = alice(&scene);
    let tool = "up__test_input_required_result_multi_round";
    // Each question may take that long; a wait for less than it is no reason to end the call.
    let mut asked = ask(&alice, tool).await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1_600)).await;
        asked = send(&alice, retry(tool, &asked, answers(&asked))).await;
    }
    assert!(text(&asked).starts_with("Hello, my name!"), "{asked}");
    assert_eq!(scene.fixture().stats().calls, 1);
}

#[tokio::test]
async fn a_gateway_that_stops_takes_parked_calls_back() {
    let scene = Up::LegacyHttp.scene().await;
    let alice = alice(&scene);
    ask(&alice, TOOL).await;
    let Scene { fixture, gateway, .. } = scene;
    let fixture = fixture.unwrap();
    let begun = std::time::Instant::now();
    gateway.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "it does not wait for the caller: {:?}", begun.elapsed());
    let stats = fixture.until(|stats| stats.under_way == 0).await;
    assert_eq!((stats.calls, stats.cancelled), (1, 1));
}

#[tokio::test]
async fn what_ended_while_nobody_listened_is_told_at_the_retry() {
    let scene = Up::LegacyHttp.scene().await;
    let alice = alice(&scene);
    let asked = ask(&alice, TOOL).await;
    // The upstream gives up its questions with its sessions, and answers.
    scene.fixture().forget_sessions();
    scene.fixture().until(|stats| stats.under_way == 0).await;
    let told = send(&alice, retry(TOOL, &asked, answers(&asked))).await;
    assert!(told["error"].is_object() || told["result"]["isError"] == true, "{told}");
    assert!(!refused(&told), "{told}");
    assert_eq!(scene.fixture().stats().calls, 1);
}

#[tokio::test]
async fn callers_with_other_answers_do_not_meet() {
    let scene = Up::LegacyHttp.scene().await;
    let (alice, bob) = (alice(&scene), scene.gateway.caller("bob").able(everything()));
    // Two calls of one principal, which share a session with the upstream, and one of another.
    let asked = [ask(&alice, TOOL).await, ask(&alice, TOOL).await, ask(&bob, TOOL).await];
    let key = |asked: &Value| asked["result"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    for (caller, asked, action) in
        [(&alice, &asked[1], "decline"), (&bob, &asked[2], "cancel"), (&alice, &asked[0], "accept")]
    {
        let content = json!({ "sure": action == "accept" });
        let mut response = json!({ "action": action });
        if action == "accept" {
            response["content"] = content.clone();
        }
        let done = send(caller, retry(TOOL, asked, json!({ key(asked): response }))).await;
        assert!(text(&done).starts_with(&format!("The answer was action={action}")), "{done}");
    }
    assert_eq!(scene.fixture().stats().calls, 3);
}

#[tokio::test]
async fn a_retry_without_its_state_is_a_call_of_its_own() {
    let scene = Up::LegacyHttp.scene().await;
    let alice = alice(&scene);
    let asked = ask(&alice, TOOL).await;
    let mut params = params(TOOL);
    params["inputResponses"] = answers(&asked);
    let again = send(&alice, params).await;
    assert_eq!(again["result"]["resultType"], "input_required", "{again}");
    assert_eq!(scene.fixture().stats().calls, 2);
}
