//! From refusals to responses: one mapping for `/mcp`, one for the admin API.
//!
//! The wire shows what the protocol allows and no more; why a credential was not good enough is for nobody to see.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY, RETRY_AFTER,
    WWW_AUTHENTICATE, X_FRAME_OPTIONS,
};
use serde_json::json;

use super::body::BodyError;
use crate::authorization::proofs::NONCE_HEADER;
use crate::connection::lending::Withheld;
use crate::ids::BindingName;
use crate::mcp::call::Outcome;
use crate::mcp::error::{
    HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, REFUSED_BY_POLICY, RESOURCE_NOT_FOUND, RpcError,
    THROTTLED, UNANSWERED, UPSTREAM_FAILED,
};
use crate::mcp::json::to_raw;
use crate::mcp::message::{self, RequestId};
use crate::mcp::revision::{Answer, Rejection, Revision};
use crate::pipeline::Refusal;
use crate::pipeline::approvals::{Standing as Approval, Unapproved};
use crate::pipeline::credentials::Unconnected;
use crate::policy;
use crate::upstream::UpstreamError;

/// Key in a tool result's `_meta` under which a refusal names its policy and reason.
pub const REFUSAL_META: &str = "portcullis/refusal";
/// Key in a tool result's `_meta` under which the approval stands that the call waits for.
pub const APPROVAL_META: &str = "portcullis/approval";
/// What a page without forms may do.
const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
/// When a caller may come again after the store failed.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// A response that refuses.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON text, or a page.
    body: String,
    is_page: bool,
    lacking: Option<LacksScopes>,
}

/// Rides on a response: with these scopes it would have been another one. Whoever knows the endpoint and what the client has
/// writes the challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LacksScopes(pub Vec<String>);

impl Refused {
    /// With a JSON-RPC error.
    pub fn rpc(status: StatusCode, id: Option<&RequestId>, error: &RpcError) -> Self {
        Self { status, headers: Vec::new(), body: message::error(id, &error.to_raw()), is_page: false, lacking: None }
    }

    /// Before there is a JSON-RPC message to answer.
    pub fn plain(status: StatusCode, message: &str) -> Self {
        let code = if status.is_server_error() { INTERNAL_ERROR } else { crate::mcp::error::INVALID_REQUEST };
        Self::rpc(status, None, &RpcError::new(code, message))
    }

    /// What a revision's translator rejected.
    pub fn from_rejection(rejection: &Rejection, id: &RequestId) -> Self {
        let status = StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST);
        Self::rpc(status, Some(id), &rejection.error)
    }

    pub fn from_body(error: &BodyError) -> Self {
        Self::plain(error.status(), &error.to_string())
    }

    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1_000).max(1);
        self.headers.push((RETRY_AFTER, HeaderValue::try_from(seconds.to_string()).expect("digits")));
        self
    }

    /// Whether it is a fault of ours, or of something behind us.
    pub fn is_fault(&self) -> bool {
        self.status.is_server_error()
    }

    /// A page for a person whose browser came where programs do.
    pub fn page(status: StatusCode, html: String) -> Self {
        Self { status, headers: Vec::new(), body: html, is_page: true, lacking: None }
    }

    /// How to authenticate (RFC 9110 §11.6.1).
    #[must_use]
    pub fn challenge(mut self, challenge: &str) -> Self {
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            self.headers.push((WWW_AUTHENTICATE, challenge));
        }
        self
    }

    /// For the next proof of a key (RFC 9449 §9).
    #[must_use]
    pub fn nonce(mut self, nonce: &str) -> Self {
        if let Ok(nonce) = HeaderValue::try_from(nonce) {
            self.headers.push((HeaderName::from_static(NONCE_HEADER), nonce));
        }
        self
    }

    /// The JSON text, for a stream whose status is already sent.
    pub fn message(&self) -> &str {
        &self.body
    }

    /// What a refusal looks like to its caller; `None` where nobody expects an answer.
    pub fn from_refusal(refusal: &Refusal, id: &RequestId, revision: Revision) -> Option<Self> {
        let ok = |error: RpcError| Some(Self::rpc(StatusCode::OK, Some(id), &error));
        match refusal {
            Refusal::UnknownTool { name } => {
                let name: String = name.chars().take(128).collect();
                ok(RpcError::new(INVALID_PARAMS, format!("unknown tool: {name}")))
            }
            Refusal::UnknownPrompt { name } => {
                let name: String = name.chars().take(128).collect();
                ok(RpcError::new(INVALID_PARAMS, format!("unknown prompt: {name}")))
            }
            Refusal::UnknownResource { uri } => {
                let code = if revision.is_legacy() { RESOURCE_NOT_FOUND } else { INVALID_PARAMS };
                let uri: String = uri.chars().take(2_048).collect();
                let data = to_raw(&json!({ "uri": uri }));
                ok(RpcError::new(code, "there is no such resource").with_data(data))
            }
            Refusal::UnknownTask => ok(RpcError::new(INVALID_PARAMS, "there is no such task")),
            Refusal::UnknownMethod => {
                let status = if revision.is_legacy() { StatusCode::OK } else { StatusCode::NOT_FOUND };
                Some(Self::rpc(status, Some(id), &RpcError::new(METHOD_NOT_FOUND, "method not found")))
            }
            Refusal::BadCursor => ok(RpcError::new(INVALID_PARAMS, "invalid cursor")),
            Refusal::BadState => {
                let message = "`requestState` is not valid, or what it belongs to is over and may have happened";
                ok(RpcError::new(INVALID_PARAMS, message))
            }
            Refusal::HeaderMismatch(mismatch) => {
                let error = RpcError::new(HEADER_MISMATCH, mismatch.to_string());
                Some(Self::rpc(StatusCode::BAD_REQUEST, Some(id), &error))
            }
            Refusal::Unanswered { question } => {
                let message = format!("the client did not answer {}", question.method());
                ok(RpcError::new(UNANSWERED, message))
            }
            Refusal::Policy(refusal) => Some(Self::from_policy(refusal, id, revision)),
            Refusal::PolicyOnItem(refusal) => Some(Self::from_policy_on_item(refusal, id)),
            Refusal::Unconnected(unconnected) => {
                let Unconnected { method, answer, .. } = &**unconnected;
                Some(Self::answered(method, answer.clone(), id, revision))
            }
            Refusal::Unapproved(unapproved) => Some(Self::unapproved(unapproved, id, revision)),
            Refusal::Store(_) => {
                let error = RpcError::new(INTERNAL_ERROR, "the gateway cannot decide at the moment: try again");
                let refused = Self::rpc(StatusCode::SERVICE_UNAVAILABLE, Some(id), &error);
                Some(refused.retry_after(STORE_RETRY))
            }
            Refusal::Upstream { error: UpstreamError::Cancelled, .. } => None,
            Refusal::Upstream { name, error } => {
                let mut data = json!({ "upstream": name, "reason": upstream_reason(error) });
                if let UpstreamError::Withheld(Withheld::Unavailable { retry_after: Some(wait) }) = error {
                    data["retryAfterMs"] = json!(wait.as_millis());
                }
                let error = RpcError::new(UPSTREAM_FAILED, format!("upstream {name}: {error}"));
                ok(error.with_data(to_raw(&data)))
            }
        }
    }

    fn from_policy(refusal: &policy::Refusal, id: &RequestId, revision: Revision) -> Self {
        match refusal {
            policy::Refusal::Denied { as_tool_error: false, .. }
            | policy::Refusal::Throttled { .. }
            | policy::Refusal::StepUp { .. } => Self::from_policy_on_item(refusal, id),
            _ => Self::tool_error(&sentence(refusal), &json!({ REFUSAL_META: explanation(refusal) }), id, revision),
        }
    }

    fn from_policy_on_item(refusal: &policy::Refusal, id: &RequestId) -> Self {
        match refusal {
            policy::Refusal::Throttled { retry_after_ms, .. } => {
                let data = to_raw(&json!({ "retryAfterMs": retry_after_ms, "refusal": explanation(refusal) }));
                let error = RpcError::new(THROTTLED, sentence(refusal)).with_data(data);
                Self::rpc(StatusCode::TOO_MANY_REQUESTS, Some(id), &error)
                    .retry_after(Duration::from_millis(*retry_after_ms))
            }
            policy::Refusal::StepUp { scopes, .. } => {
                let error =
                    RpcError::new(REFUSED_BY_POLICY, sentence(refusal)).with_data(to_raw(&explanation(refusal)));
                let challenge = format!(r#"Bearer error="insufficient_scope", scope="{}""#, scopes.join(" "));
                let lacking = Some(LacksScopes(scopes.clone()));
                Self { lacking, ..Self::rpc(StatusCode::FORBIDDEN, Some(id), &error).challenge(&challenge) }
            }
            _ => {
                let (code, data) = match refusal {
                    policy::Refusal::Denied { rpc_code, rpc_data, .. } => (*rpc_code, rpc_data.clone()),
                    _ => (None, None),
                };
                let data = data.unwrap_or_else(|| to_raw(&explanation(refusal)));
                let error = RpcError::new(code.unwrap_or(REFUSED_BY_POLICY), sentence(refusal)).with_data(data);
                Self::rpc(StatusCode::OK, Some(id), &error)
            }
        }
    }

    /// Says who has to agree, and how that is told.
    fn unapproved(unapproved: &Unapproved, id: &RequestId, revision: Revision) -> Self {
        let Unapproved { binding, reason, title, standing, is_call } = unapproved;
        let (check, approval) = match standing {
            Approval::Pending { id, until } => (
                "approval-needed",
                Some(json!({ "id": id, "title": title, "expires": until.to_string(), "state": "pending" })),
            ),
            Approval::Denied { id, until, note } => {
                let until = until.to_string();
                let view = json!({ "id": id, "title": title, "expires": until, "state": "denied", "note": note });
                ("approval-denied", Some(view))
            }
            Approval::TooMany => ("too-many-approvals", None),
        };
        let refusal = of_reason(check, binding, reason);
        let text = sentence_about_approval(unapproved);
        if !is_call {
            let data = to_raw(&json!({ "refusal": refusal, "approval": approval }));
            let error = RpcError::new(REFUSED_BY_POLICY, text).with_data(data);
            return Self::rpc(StatusCode::OK, Some(id), &error);
        }
        let mut meta = json!({ REFUSAL_META: refusal });
        if let Some(approval) = approval {
            meta[APPROVAL_META] = approval;
        }
        Self::tool_error(&text, &meta, id, revision)
    }

    /// A tool result that the model can read and act on.
    fn tool_error(text: &str, meta: &serde_json::Value, id: &RequestId, revision: Revision) -> Self {
        let result = json!({ "content": [{ "type": "text", "text": text }], "isError": true, "_meta": meta });
        Self::answered("tools/call", Outcome::Result(to_raw(&result)), id, revision)
    }

    /// An answer in the revision's own form.
    fn answered(method: &'static str, outcome: Outcome, id: &RequestId, revision: Revision) -> Self {
        let body = match revision.encode(Answer::Done { method, outcome }) {
            Outcome::Result(result) => message::result(id, &result),
            Outcome::Error(error) => message::error(Some(id), &error),
            Outcome::NeedsInput(needs) => message::result(id, &needs.0.to_raw()),
        };
        Self { status: StatusCode::OK, headers: Vec::new(), body, is_page: false, lacking: None }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, self.body);
        if self.is_page {
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, html);
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
            headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
        }
        response.headers_mut().extend(self.headers);
        if let Some(lacking) = self.lacking {
            response.extensions_mut().insert(lacking);
        }
        response
    }
}

/// 503 where the store, the vault or a key kept us from deciding.
pub fn undecided() -> Refused {
    let message = "the gateway cannot decide at the moment: try again";
    Refused::plain(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(STORE_RETRY)
}

/// 503 while it is not known what other gateways have changed in the store.
pub fn out_of_date() -> Refused {
    let message = "the gateway does not know what has changed in its store: try again";
    Refused::plain(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(STORE_RETRY)
}

/// A response with a JSON body that nobody may keep.
pub fn json_response(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

/// One sentence for a person or a model.
fn sentence(refusal: &policy::Refusal) -> String {
    use policy::Refusal as R;
    match refusal {
        R::Denied { reason, .. } | R::StepUp { reason, .. } | R::Throttled { reason, .. } => reason.message.clone(),
        // Only where there is nothing that an approval could be for.
        R::ApprovalNeeded { approval, .. } => {
            format!("{} This needs an approval, and none can be given for it.", approval.reason.message)
        }
        R::PolicyFailed { binding, failure, .. } => {
            format!("Refused, because policy {binding} failed ({}).", failure.code())
        }
        R::NoPolicyAllowed { hook } => format!("Refused, because no {hook} policy allowed it."),
        R::Hidden => "There is no such tool.".to_owned(),
    }
}

/// The same for machines.
fn explanation(refusal: &policy::Refusal) -> serde_json::Value {
    use policy::Refusal as R;
    match refusal {
        R::Denied { binding, reason, .. }
        | R::StepUp { binding, reason, .. }
        | R::Throttled { binding, reason, .. } => of_reason(refusal.check(), binding, reason),
        R::ApprovalNeeded { binding, approval } => of_reason(refusal.check(), binding, &approval.reason),
        R::PolicyFailed { binding, failure } => {
            json!({ "check": refusal.check(), "policy": binding, "code": failure.code() })
        }
        R::NoPolicyAllowed { .. } | R::Hidden => json!({ "check": refusal.check() }),
    }
}

fn of_reason(check: &str, binding: &BindingName, reason: &policy::Reason) -> serde_json::Value {
    let policy::Reason { code, message: _, rule, detail } = reason;
    json!({ "check": check, "policy": binding, "code": code, "rule": rule, "detail": detail })
}

/// What a person or a model can do about it that nobody has agreed.
fn sentence_about_approval(unapproved: &Unapproved) -> String {
    let Unapproved { reason, title, standing, .. } = unapproved;
    let message = &reason.message;
    match standing {
        Approval::Pending { id, until } => format!(
            "{message} Approval {id} ({title}) is pending until {until}: ask an operator to run `portcullis approval decide \
             {id} --approve`, then make exactly the same request again.",
        ),
        Approval::Denied { until, note, .. } => {
            let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            format!("{message} An operator refused to approve it{note}. It is not asked for again before {until}.")
        }
        Approval::TooMany => format!(
            "{message} It needs an approval, and too many requests wait for one already. Try again when some are decided."
        ),
    }
}

fn upstream_reason(error: &UpstreamError) -> &'static str {
    match error {
        UpstreamError::Unreachable { .. } => "unreachable",
        UpstreamError::Died => "died",
        UpstreamError::TimedOut { .. } => "timed_out",
        UpstreamError::Status { .. } => "status",
        UpstreamError::TooLarge { .. } => "too_large",
        UpstreamError::Protocol { .. } => "protocol",
        UpstreamError::Unsupported { .. } => "unsupported",
        UpstreamError::NoResource => "no_resource",
        UpstreamError::Busy => "busy",
        UpstreamError::Cancelled => "cancelled",
        UpstreamError::Rejected { .. } => "credential_rejected",
        UpstreamError::Withheld(_) => "credential_unavailable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::env::Timestamp;
    use crate::ids::ApprovalId;
    use crate::store::StoreError;

    const REVISION: Revision = Revision::V2026_07_28;

    fn told(refusal: &Refusal) -> (StatusCode, Value) {
        let id = RequestId::number(1);
        let refused = Refused::from_refusal(refusal, &id, REVISION).unwrap();
        (refused.status, serde_json::from_str(&refused.body).unwrap())
    }

    fn unapproved(standing: Approval, is_call: bool) -> Refusal {
        let reason = policy::Reason {
            code: "destructive".to_owned(),
            message: "This deletes a note.".to_owned(),
            rule: None,
            detail: None,
        };
        let (binding, title) = (BindingName::parse("confirm").unwrap(), "Delete".to_owned());
        Refusal::Unapproved(Box::new(Unapproved { binding, reason, title, standing, is_call }))
    }

    fn id() -> ApprovalId {
        ApprovalId::parse(&"0a".repeat(12)).unwrap()
    }

    #[test]
    fn a_call_that_waits_for_an_approval_tells_a_model_what_to_do() {
        let until = Timestamp::from_millis(60_000);
        let (status, answer) = told(&unapproved(Approval::Pending { id: id(), until }, true));
        assert_eq!((status, &answer["result"]["isError"]), (StatusCode::OK, &json!(true)));
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        let expected = "This deletes a note. Approval 0a0a0a0a0a0a0a0a0a0a0a0a (Delete) is pending until \
                        1970-01-01T00:01:00.000Z: ask an operator to run `portcullis approval decide \
                        0a0a0a0a0a0a0a0a0a0a0a0a --approve`, then make exactly the same request again.";
        assert_eq!(text, expected);
        let expected =
            json!({ "id": id(), "title": "Delete", "expires": "1970-01-01T00:01:00.000Z", "state": "pending" });
        assert_eq!(answer["result"]["_meta"][APPROVAL_META], expected);
        assert_eq!(answer["result"]["_meta"][REFUSAL_META]["code"], "destructive");
    }

    #[test]
    fn what_has_no_result_that_a_model_reads_is_an_error_of_the_protocol() {
        let denied =
            Approval::Denied { id: id(), until: Timestamp::from_millis(60_000), note: Some("never".to_owned()) };
        let (status, answer) = told(&unapproved(denied, false));
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::OK, &json!(REFUSED_BY_POLICY)));
        assert!(answer["error"]["message"].as_str().unwrap().contains("never"));
        assert_eq!(answer["error"]["data"]["approval"]["state"], "denied");

        let (_, answer) = told(&unapproved(Approval::TooMany, false));
        assert_eq!(answer["error"]["data"]["refusal"]["check"], "too-many-approvals");
        assert!(answer["error"]["data"]["approval"].is_null());

        let denied = || policy::Refusal::Denied {
            binding: BindingName::parse("p").unwrap(),
            reason: Box::new(policy::Reason {
                code: "no".to_owned(),
                message: "No.".to_owned(),
                rule: None,
                detail: None,
            }),
            as_tool_error: true,
            rpc_code: None,
            rpc_data: None,
        };
        assert_eq!(told(&Refusal::PolicyOnItem(denied())).1["error"]["code"], json!(REFUSED_BY_POLICY));
        assert_eq!(told(&Refusal::Policy(denied())).1["result"]["isError"], json!(true));
    }

    #[test]
    fn a_fault_of_the_store_is_no_refusal() {
        let (status, answer) = told(&Refusal::Store(StoreError::Busy));
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(INTERNAL_ERROR)));
    }
}
