//! Callers at `/mcp`: both eras, what passes through to the byte, and what must not pass at all.

use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Gateway, Reply};
use serde::Deserialize;
use serde_json::value::RawValue;

mod attacks;
mod door;
mod fidelity;
mod keys;
mod legacy;
mod modern;
mod rmcp;
mod streams;

mod scripted;

/// The upstream `up`, a gateway in front of it, and the key `alice` for all of it.
async fn scene() -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    (up, gateway)
}

/// The text of `result` as it came, or of `error` where there is no result.
fn result_text(reply: &Reply) -> String {
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
fn refusal(reply: &Reply) -> (u16, i64) {
    let code = reply.json()["error"]["code"].as_i64();
    (reply.status.as_u16(), code.unwrap_or_else(|| panic!("no error in {}", reply.text())))
}
