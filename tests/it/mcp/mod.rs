//! Callers at `/mcp`: both eras, what passes through to the byte, and what must not pass at all.

use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, Reply};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

mod aggregate;
mod attacks;
mod capabilities;
mod door;
mod fidelity;
mod idle;
mod keys;
mod legacy;
mod limits;
mod modern;
mod param_headers;
mod rmcp;
mod scope;
mod skills;
mod streams;
mod wire;

pub(crate) mod scripted;

/// The upstream `up`, a gateway in front of it, and the key `alice` for all of it.
async fn scene() -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    (up, gateway)
}

/// A request in the era of the caller: within its session if it has one.
pub(crate) async fn ask(caller: &Caller, method: &str, params: Value) -> Reply {
    if caller.headers.contains_key("mcp-session-id") {
        caller.request(method, params).await
    } else {
        caller.modern(method, params).await
    }
}

/// The result of such a request, which there must be.
pub(crate) async fn result_of(caller: &Caller, method: &str, params: Value) -> Value {
    let answer = ask(caller, method, params).await.json();
    assert!(answer["result"].is_object(), "{method}: {answer}");
    answer["result"].clone()
}

/// A list that callers can ask for: its method, its member in the result, and the member that its items go by.
pub(crate) const LISTS: [(&str, &str, &str); 4] = [
    ("tools/list", "tools", "name"),
    ("prompts/list", "prompts", "name"),
    ("resources/list", "resources", "uri"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate"),
];

/// What a list has, page by page.
pub(crate) async fn pages(caller: &Caller, (method, member, key): (&str, &str, &str)) -> Vec<Vec<String>> {
    let (mut pages, mut params) = (Vec::new(), json!({}));
    loop {
        let result = result_of(caller, method, params).await;
        let items = result[member].as_array().unwrap_or_else(|| panic!("no {member} in {result}")).clone();
        pages.push(items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect());
        match result["nextCursor"].as_str() {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => return pages,
        }
    }
}

/// What a list has, all pages.
pub(crate) async fn listed(caller: &Caller, list: (&str, &str, &str)) -> Vec<String> {
    pages(caller, list).await.concat()
}

/// The text of `result` as it came, or of `error` where there is no result.
pub(crate) fn result_text(reply: &Reply) -> String {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let message = reply.messages().pop().unwrap_or_else(|| panic!("no message in {reply:?}"));
    let response: Response<'_> = serde_json::from_str(&message).expect("a response");
    response.result.or(response.error).expect("a result or an error").get().to_owned()
}

/// Status and JSON-RPC code of a refusal.
pub(crate) fn refusal(reply: &Reply) -> (u16, i64) {
    let code = reply.json()["error"]["code"].as_i64();
    (reply.status.as_u16(), code.unwrap_or_else(|| panic!("no error in {}", reply.text())))
}
