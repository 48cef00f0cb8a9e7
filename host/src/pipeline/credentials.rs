//! What an upstream is shown on a caller's behalf: borrowed from whoever keeps credentials, released by the policies of
//! `credential.release`, and shown to that upstream alone. The caller's own token or key is never among it.
//!
//! A request that lacks a credential is answered with where its person can connect one, in the form that the client knows:
//! an elicitation by URL, or a text that a model can read with the same for machines.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::elicitations::Elicitation;
use super::recording::Recording;
use super::rounds::Goes;
use super::state::{self, Purpose, State};
use super::{Origin, Refusal, Services, Snapshot, mark, settled};
use crate::config::UpstreamAuth;
use crate::connection::lending::{Kind, Lack, Lent, Wanted, Withheld};
use crate::connection::link::Link;
use crate::identity::TokenList;
use crate::ids::{Principal, UpstreamName};
use crate::mcp::call::{Access, Outcome};
use crate::mcp::error::{RpcError, UPSTREAM_FAILED, URL_ELICITATION_REQUIRED};
use crate::mcp::json::to_raw;
use crate::mcp::revision::v2026_07_28::{self, InputRequest};
use crate::mcp::talk::{Question, Via};
use crate::policy::authority::{CredentialKind, CredentialPurpose, CredentialRequest};
use crate::policy::{Hook, Permit};
use crate::upstream::{Upstream, UpstreamError, Watch};

/// Key in a tool result's `_meta`, and in an error's `data`, under which the connections stand that a request lacked.
pub const CONNECTIONS_META: &str = "portcullis/connections";

/// How often a request is sent that the upstream refuses before anything happens.
const ATTEMPTS: usize = 4;

/// A request that lacks a connection.
#[derive(Debug)]
pub struct Unconnected {
    pub upstream: UpstreamName,
    pub lack: Lack,
    /// The protocol's method.
    pub method: &'static str,
    /// What its caller is answered.
    pub answer: Outcome,
}

/// What a request goes to its upstream with.
pub(super) struct Loan<'a> {
    upstream: &'a Upstream,
    /// `None`: the upstream takes nothing but what its configuration has.
    borrowed: Option<(Wanted, Arc<Lent>)>,
}

impl<'a> Loan<'a> {
    /// Borrows what the upstream is to be shown, if the policies release it. `tool`: the upstream's own name for it.
    ///
    /// # Errors
    /// [`Refusal::Unconnected`] where its person has something to do first, [`Refusal::Policy`], and
    /// [`Refusal::Upstream`] where the credential cannot be had now.
    pub(super) async fn obtain(
        snapshot: &Snapshot,
        services: &Services,
        origin: &Origin,
        upstream: &'a Upstream,
        purpose: &Purpose<'_>,
        recording: &mut Recording,
        tool: Option<&str>,
    ) -> Result<Self, Refusal> {
        let Some(mut wanted) = upstream.wanted(&origin.caller.principal) else {
            return Ok(Self { upstream, borrowed: None });
        };
        let begun = Instant::now();
        let lent = services.lender.lend(&wanted).await;
        let failure = lent.is_err().then_some("withheld");
        mark::note(origin, "credential", begun.elapsed(), Some(upstream.name()), failure);
        // A person is not sent to connect what the policies would not release anyway.
        let (scopes, asked_for) = match &lent {
            Ok(lent) => (lent.scopes.clone(), CredentialPurpose::Call),
            Err(Withheld::Missing(_)) => (Vec::new(), CredentialPurpose::Connect),
            Err(withheld) => return Err(unavailable(upstream.name(), withheld.clone())),
        };
        let request = CredentialRequest {
            upstream: upstream.name().clone(),
            kind: kind(&upstream.settings().auth),
            account: None,
            purpose: asked_for,
            tool: tool.map(str::to_owned),
            scopes,
        };
        let checked = snapshot.policies.check_credential(&recording.context(services, origin), &request).await;
        let terms = settled(recording, checked)?;
        let before = lent.as_ref().ok().cloned();
        let missing = |withheld| refusal(services, origin, upstream, purpose, recording, (withheld, before.as_deref()));
        let lent = lent.map_err(missing)?;
        if snapshot.policies.concerns(Hook::Credential) {
            // Nor is anything lent later on, for the same request, that they have not seen.
            let is_less = terms.scopes.len() < request.scopes.len() || terms.max_age.is_some();
            wanted.scopes = Some(terms.scopes);
            wanted.max_age = terms.max_age;
            if is_less {
                let lent = services.lender.lend(&wanted).await.map_err(missing)?;
                return Ok(Self { upstream, borrowed: Some((wanted, lent)) });
            }
        }
        Ok(Self { upstream, borrowed: Some((wanted, lent)) })
    }

    /// The way back to the caller, with what was borrowed.
    pub(super) fn via(&self, origin: &Origin) -> Via {
        let mut via = origin.via();
        via.party.lent = self.borrowed.as_ref().map(|(_, lent)| lent.clone());
        via
    }

    /// Sends what was permitted. Where the upstream will not have the credential, and there is a better one, it is sent once
    /// more: such a refusal says that nothing happened.
    ///
    /// # Errors
    /// As for [`Self::obtain`], and [`Refusal::Upstream`].
    pub(super) async fn send<T: Goes>(
        &mut self,
        services: &Services,
        origin: &Origin,
        purpose: &Purpose<'_>,
        recording: &Recording,
        permit: Permit<T>,
    ) -> Result<Outcome, Refusal> {
        let upstream = self.upstream;
        let failed = |error| Refusal::Upstream { name: upstream.name().clone(), error };
        let mut is_renewed = false;
        for _ in 1..ATTEMPTS {
            let Some((wanted, lent)) = &self.borrowed else { break };
            let (why, of) = match T::go(upstream, permit.again(), self.via(origin)).await {
                Err(UpstreamError::Rejected { why, of }) => (why, of),
                // It was said to whoever found out for all what the upstream speaks, or opened a session, with less to show.
                Err(UpstreamError::Status { status: 401 }) => continue,
                other => return other.map_err(failed),
            };
            if of != (lent.connection.clone(), lent.revision) {
                continue;
            }
            let renewed = services.lender.rejected(wanted, lent, &why).await.map_err(|withheld| {
                refusal(services, origin, upstream, purpose, recording, (withheld, Some(&**lent)))
            })?;
            if is_renewed {
                // Not even the new one, and a third is not asked for.
                return Err(failed(UpstreamError::Rejected { why, of }));
            }
            is_renewed = true;
            self.borrowed = Some((wanted.clone(), renewed));
        }
        T::go(upstream, permit, self.via(origin)).await.map_err(failed)
    }
}

impl Loan<'_> {
    /// Watches a resource. Where the upstream will not have the credential to begin with, and there is a better one, it is asked
    /// once more; from then on the watch borrows by itself.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub(super) async fn watch(
        mut self,
        services: &Services,
        origin: &Origin,
        purpose: &Purpose<'_>,
        recording: &Recording,
        permit: Permit<Access>,
        exposed: &str,
    ) -> Result<Watch, Refusal> {
        let upstream = self.upstream;
        let failed = |error| Refusal::Upstream { name: upstream.name().clone(), error };
        if let Some((wanted, lent)) = &self.borrowed {
            let (why, of) = match upstream.watch(permit.again(), exposed, self.via(origin), Some(wanted.clone())).await
            {
                Err(UpstreamError::Rejected { why, of }) => (why, of),
                other => return other.map_err(failed),
            };
            if of == (lent.connection.clone(), lent.revision) {
                let renewed = services.lender.rejected(wanted, lent, &why).await.map_err(|withheld| {
                    refusal(services, origin, upstream, purpose, recording, (withheld, Some(&**lent)))
                })?;
                self.borrowed = Some((wanted.clone(), renewed));
            }
        }
        let wanted = self.borrowed.as_ref().map(|(wanted, _)| wanted.clone());
        upstream.watch(permit, exposed, self.via(origin), wanted).await.map_err(failed)
    }
}

/// Answers a call of the tool by which a caller connects an upstream: as any call is answered that lacks its connection, or
/// that there is one.
///
/// # Errors
/// As for [`Loan::obtain`].
pub(super) async fn connect(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    upstream: &Upstream,
    purpose: &Purpose<'_>,
    recording: &mut Recording,
    tool: &str,
) -> Result<Outcome, Refusal> {
    let loan = Loan::obtain(snapshot, services, origin, upstream, purpose, recording, Some(tool)).await?;
    // It is there, and does not reach as far as the list.
    if let Some(lack @ Lack::NeedsScopes(_)) = upstream.own_lack(&origin.caller.principal) {
        let before = loan.borrowed.as_ref().map(|(_, lent)| &**lent);
        return Err(refusal(services, origin, upstream, purpose, recording, (Withheld::Missing(lack), before)));
    }
    let text = format!("{} is connected. The list of tools is another one now: read it again.", upstream.name());
    Ok(Outcome::Result(to_raw(&json!({ "content": [{ "type": "text", "text": text }] }))))
}

/// The contract's word for where a credential comes from.
pub(super) const fn kind(auth: &UpstreamAuth) -> CredentialKind {
    match auth {
        UpstreamAuth::None => CredentialKind::StaticHeaders,
        UpstreamAuth::SharedOAuth(_) => CredentialKind::SharedOauth,
        UpstreamAuth::PerUserOAuth(_) => CredentialKind::PerUserOauth,
        UpstreamAuth::TokenExchange(_) => CredentialKind::TokenExchange,
        // What a person types in, wherever it goes: the contract has one word for it.
        UpstreamAuth::PerUserHeaders(_) | UpstreamAuth::PerUserEnvironment { .. } => CredentialKind::PerUserHeaders,
    }
}

fn unavailable(upstream: &UpstreamName, withheld: Withheld) -> Refusal {
    Refusal::Upstream { name: upstream.clone(), error: UpstreamError::Withheld(withheld) }
}

/// What a caller is told who has no credential, or none but what there was `before`.
fn refusal(
    services: &Services,
    origin: &Origin,
    upstream: &Upstream,
    purpose: &Purpose<'_>,
    recording: &Recording,
    (withheld, before): (Withheld, Option<&Lent>),
) -> Refusal {
    let Withheld::Missing(lack) = withheld else { return unavailable(upstream.name(), withheld) };
    let answer = match link(services, origin, upstream, &lack) {
        Some(link) => with_link(services, origin, upstream, purpose, recording, (&lack, &link, before)),
        None => told(purpose, &without_link(origin, upstream, &lack), &about(origin, upstream, &lack, None)),
    };
    let (upstream, method) = (upstream.name().clone(), recording.operation());
    Refusal::Unconnected(Box::new(Unconnected { upstream, lack, method, answer }))
}

/// Where the caller's person connects. Whoever is nobody has nothing to connect, what is for all is an operator's, and what is
/// exchanged is nobody's to connect.
fn link(services: &Services, origin: &Origin, upstream: &Upstream, lack: &Lack) -> Option<Link> {
    let principal = &origin.caller.principal;
    let is_own = !matches!(upstream.settings().auth, UpstreamAuth::SharedOAuth(_) | UpstreamAuth::TokenExchange(_));
    let is_somebody = matches!(principal, Principal::User(_) | Principal::Key(_) | Principal::Guest(_));
    let scopes = match lack {
        Lack::NeedsScopes(scopes) => TokenList::parse(scopes.clone()).unwrap_or_default(),
        _ => TokenList::default(),
    };
    let link = || Link::new(&services.env, principal.clone(), upstream.name().clone()).asking_for(scopes);
    (is_own && is_somebody).then(link)
}

fn without_link(origin: &Origin, upstream: &Upstream, lack: &Lack) -> String {
    let name = upstream.name();
    let is_exchanged = matches!(upstream.settings().auth, UpstreamAuth::TokenExchange(_));
    match origin.caller.principal {
        Principal::User(_) if is_exchanged => {
            format!("{name} cannot be used now: {lack}. There is nothing to connect: whoever runs it decides that.")
        }
        _ if is_exchanged => {
            format!("{name} cannot be used: {lack}. Sign in to the gateway with an account of your own.")
        }
        Principal::Anonymous => format!("{name} is used with an account of one's own: sign in to the gateway first."),
        _ => format!("{name} cannot be used now: {lack}. An operator of the gateway has to connect it."),
    }
}

/// For machines: what is missing, and where it is had.
fn about(origin: &Origin, upstream: &Upstream, lack: &Lack, link: Option<(&Link, &str)>) -> Value {
    let mut missing = json!({ "upstream": upstream.name(), "state": lack.as_str() });
    if let Some(wanted) = upstream.wanted(&origin.caller.principal) {
        missing["kind"] = json!(wanted.kind.as_str());
        match wanted.kind {
            Kind::OAuth | Kind::Exchanged => {}
            Kind::Headers(names) => missing["headers"] = json!(names),
            Kind::Variables(names) => missing["environment"] = json!(names),
        }
    }
    match lack {
        Lack::NeedsReauth(reason) => missing["reason"] = json!(reason.to_string()),
        Lack::NeedsUpdate(names) => missing["missing"] = json!(names),
        Lack::NeedsScopes(scopes) => missing["scopes"] = json!(scopes),
        Lack::ExchangeRefused(refusal) => missing["reason"] = json!(refusal.to_string()),
        Lack::NotConnected | Lack::TooOld | Lack::NoIdentity => {}
    }
    if let Some((link, url)) = link {
        missing["url"] = json!(url);
        missing["expires"] = json!(link.expires.to_string());
    }
    json!([missing])
}

/// The link in the form that the client knows.
fn with_link(
    services: &Services,
    origin: &Origin,
    upstream: &Upstream,
    purpose: &Purpose<'_>,
    recording: &Recording,
    (lack, link, before): (&Lack, &Link, Option<&Lent>),
) -> Outcome {
    let url = link.url(&services.public_url, &services.secret);
    let missing = about(origin, upstream, lack, Some((link, &url)));
    let sentence = format!("{} has to be connected for you first: {lack}.", upstream.name());
    let knows_urls = origin.party.client.answers(Question::ElicitationUrl) && origin.revision.traits().elicitation_url;
    if !knows_urls {
        let text = format!("{sentence} Open this in a browser within 15 minutes, then try again:\n{url}");
        return told(purpose, &text, &missing);
    }
    let question = json!({ "mode": "url", "message": sentence, "url": url, "elicitationId": link.id });
    if origin.revision.is_legacy() {
        remember(services, origin, upstream, link, before);
        let data = json!({ "elicitations": [question], CONNECTIONS_META: missing });
        return Outcome::Error(RpcError::new(URL_ELICITATION_REQUIRED, sentence).with_data(to_raw(&data)).to_raw());
    }
    let key = format!("connect-{}", upstream.name());
    let request = InputRequest { key, question: Question::ElicitationUrl, params: Some(to_raw(&question)) };
    let state = state::seal_round(services, purpose, State::Again, recording.carried());
    let mut needs = v2026_07_28::needs_input(&[request], &state);
    needs.0.set("_meta", to_raw(&json!({ CONNECTIONS_META: missing })));
    Outcome::NeedsInput(needs)
}

/// Has the client of a session hear of it when the connection is made that the link leads to.
fn remember(services: &Services, origin: &Origin, upstream: &Upstream, link: &Link, before: Option<&Lent>) {
    let wanted = upstream.wanted(&origin.caller.principal);
    let (Some(session), Some(wanted)) = (&origin.party.session, wanted) else { return };
    let elicitation = Elicitation {
        id: link.id.clone(),
        session: session.clone(),
        wanted,
        before: before.map(|lent| (lent.connection.clone(), lent.given)),
        expires: link.expires,
    };
    services.elicitations.remember(elicitation, services.env.now());
}

/// As a text: a result that a model reads where a tool was called, an error elsewhere.
fn told(purpose: &Purpose<'_>, text: &str, missing: &Value) -> Outcome {
    if purpose.method == super::calls::METHOD {
        let content = json!([{ "type": "text", "text": text }]);
        let result = json!({ "content": content, "isError": true, "_meta": { CONNECTIONS_META: missing } });
        return Outcome::Result(to_raw(&result));
    }
    let data = json!({ "reason": "not_connected", CONNECTIONS_META: missing });
    Outcome::Error(RpcError::new(UPSTREAM_FAILED, text).with_data(to_raw(&data)).to_raw())
}
