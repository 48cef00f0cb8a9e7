//! Where authority is decided: what a client gets from consent, what a refresh renews, who may register and as what, and
//! for whom a stored credential is used. The authorization server and the vault call these functions; nothing here knows
//! tokens, stores or pages.
//!
//! Policies narrow and never widen: whatever they answer, [`terms`] holds it against what was requested and against the
//! gateway's own limits. Where no policy is bound, what was requested is granted within those limits; where all that are
//! asked abstain, the operator's default decides, which is to deny.

mod answer;
mod client;
mod question;
pub mod terms;

use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use super::asking::{Asking, CallContext, Told};
use super::bindings::{BoundPolicy, PolicySet};
use super::contract::authority::{credential, grant, refresh};
use super::contract::{hook, types};
use super::decision::{Failure, Hook, Refusal, Trail, Verdict};
use super::judge;
use super::matching::About;
use super::shadow::{Question, Shadow};
use super::tally::Tally;
use crate::env::Timestamp;
use crate::ids::UpstreamName;

use answer::{Granting, Releasing};
pub use client::{ClientRequest, ClientSource};
pub(super) use question::AuthorityQuestion;
pub use terms::{ConsentWanted, CredentialTerms, GrantTerms, LifetimeCaps};
use terms::{Consenting, Narrowing};

/// How authority is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantKind {
    AuthorizationCode,
    DeviceCode,
    ClientCredentials,
    TokenExchange,
    JwtBearer,
}

/// An OAuth client, as policies see it.
#[derive(Clone, Debug)]
pub struct ClientFacts {
    pub id: String,
    pub name: String,
    /// Its metadata document or an operator vouches for it.
    pub verified: bool,
    pub first_party: bool,
    /// Host of the redirect URI in use, or the empty string.
    pub redirect_host: String,
    /// Its registered metadata (RFC 7591 §2).
    pub metadata: Box<RawValue>,
}

/// What a client asks of a person, or for itself.
#[derive(Clone, Debug)]
pub struct GrantRequest {
    pub kind: GrantKind,
    pub client: ClientFacts,
    pub scopes: Vec<String>,
    pub already_granted: Vec<String>,
    /// Resource indicators (RFC 8707).
    pub resources: Vec<String>,
    pub upstreams: Vec<UpstreamName>,
    pub consent_on_file: bool,
    pub access_ttl: Duration,
    /// `None` where no refresh token would be issued.
    pub refresh_ttl: Option<Duration>,
    pub sender_constrained: bool,
}

/// What is to become of a grant.
#[derive(Clone, Debug, PartialEq)]
pub enum GrantDecision {
    Granted(GrantTerms),
    /// The person has to be asked first.
    Consent(ConsentWanted),
}

/// A refresh token in use.
#[derive(Clone, Debug)]
pub struct RefreshRequest {
    pub granted: GrantTerms,
    pub upstreams: Vec<UpstreamName>,
    pub issued_at: Timestamp,
    pub last_used: Timestamp,
    pub uses: u32,
    /// The scopes that are asked for; none: all that were granted (RFC 6749 §6).
    pub requested: Vec<String>,
    pub reuse_detected: bool,
}

/// Where a stored credential comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    SharedOauth,
    PerUserOauth,
    PerUserHeaders,
    TokenExchange,
    StaticHeaders,
}

/// What a credential is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialPurpose {
    Call,
    Sync,
    Connect,
}

/// A use of a stored credential.
#[derive(Clone, Debug)]
pub struct CredentialRequest {
    pub upstream: UpstreamName,
    pub kind: CredentialKind,
    /// The account at the upstream, when known.
    pub account: Option<String>,
    pub purpose: CredentialPurpose,
    /// The upstream's own name for the tool that is called.
    pub tool: Option<String>,
    pub scopes: Vec<String>,
}

impl GrantKind {
    const fn shown(self) -> grant::GrantType {
        match self {
            Self::AuthorizationCode => grant::GrantType::AuthorizationCode,
            Self::DeviceCode => grant::GrantType::DeviceCode,
            Self::ClientCredentials => grant::GrantType::ClientCredentials,
            Self::TokenExchange => grant::GrantType::TokenExchange,
            Self::JwtBearer => grant::GrantType::JwtBearer,
        }
    }
}

impl CredentialKind {
    /// The contract's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SharedOauth => "shared-oauth",
            Self::PerUserOauth => "per-user-oauth",
            Self::PerUserHeaders => "per-user-headers",
            Self::TokenExchange => "token-exchange",
            Self::StaticHeaders => "static-headers",
        }
    }
}

impl CredentialPurpose {
    /// The contract's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Sync => "sync",
            Self::Connect => "connect",
        }
    }
}

impl PolicySet {
    /// What a client gets: never more than it asked for, and never for longer than `caps`.
    pub async fn check_grant(
        &self,
        ctx: &CallContext<'_>,
        request: &GrantRequest,
        caps: LifetimeCaps,
    ) -> (Result<GrantDecision, Refusal>, Trail) {
        let mut trail = Trail::default();
        let about = About::Authority(&request.upstreams);
        let policies: Vec<&BoundPolicy> = self.asked(Hook::Grant, about, ctx.caller).collect();
        let checked = self.ask_all_about_grant(ctx, &policies, request, caps, &mut trail).await;
        if self.shadows(Hook::Grant, about, ctx.caller).next().is_some() {
            let question = Question::Authority(Box::new(AuthorityQuestion::Grant(request.clone())));
            trail.shadows.push(Shadow::of(ctx, question, checked.is_ok()));
        }
        (checked, trail)
    }

    /// Whether a refresh token may be used once more, and with which authority: never more than was granted.
    pub async fn check_refresh(
        &self,
        ctx: &CallContext<'_>,
        request: &RefreshRequest,
        caps: LifetimeCaps,
    ) -> (Result<GrantTerms, Refusal>, Trail) {
        let mut trail = Trail::default();
        let about = About::Authority(&request.upstreams);
        let policies: Vec<&BoundPolicy> = self.asked(Hook::Refresh, about, ctx.caller).collect();
        let checked = self.ask_all_about_refresh(ctx, &policies, request, caps, &mut trail).await;
        if self.shadows(Hook::Refresh, about, ctx.caller).next().is_some() {
            let question = Question::Authority(Box::new(AuthorityQuestion::Refresh(request.clone())));
            trail.shadows.push(Shadow::of(ctx, question, checked.is_ok()));
        }
        (checked, trail)
    }

    /// Whether a stored credential may be used for the caller, and with which of its scopes.
    pub async fn check_credential(
        &self,
        ctx: &CallContext<'_>,
        request: &CredentialRequest,
    ) -> (Result<CredentialTerms, Refusal>, Trail) {
        let mut trail = Trail::default();
        if !self.concerns(Hook::Credential) {
            return (Ok(CredentialTerms::requested(request)), trail);
        }
        let about = About::Credential { upstream: &request.upstream, tool: request.tool.as_deref() };
        let policies: Vec<&BoundPolicy> = self.asked(Hook::Credential, about, ctx.caller).collect();
        let checked = Box::pin(self.ask_all_about_credential(ctx, &policies, request, &mut trail)).await;
        if self.shadows(Hook::Credential, about, ctx.caller).next().is_some() {
            let question = Question::Authority(Box::new(AuthorityQuestion::Credential(request.clone())));
            trail.shadows.push(Shadow::of(ctx, question, checked.is_ok()));
        }
        (checked, trail)
    }

    async fn ask_all_about_grant(
        &self,
        ctx: &CallContext<'_>,
        policies: &[&BoundPolicy],
        request: &GrantRequest,
        caps: LifetimeCaps,
        trail: &mut Trail,
    ) -> Result<GrantDecision, Refusal> {
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, Hook::Grant, policies, &mut trail.steps);
        let (mut tally, mut consenting) = (Tally::default(), Consenting::default());
        let mut terms = GrantTerms::requested(request, caps);
        for policy in policies {
            let heard = self.ask_about_grant(&mut asking, policy, request).await;
            if let Some(Granting { narrowing, consent }) = tally.hear(policy.name(), heard)? {
                terms.narrow(narrowing);
                consenting.hear(consent);
            }
        }
        tally.finish(Hook::Grant, self.when_all_abstain)?;
        Ok(consenting.settle(terms))
    }

    async fn ask_about_grant(
        &self,
        asking: &mut Asking<'_>,
        policy: &BoundPolicy,
        request: &GrantRequest,
    ) -> Result<Option<Verdict<Granting>>, Refusal> {
        let client = &request.client;
        let shown = grant::Request {
            kind: request.kind.shown(),
            client: grant::Client {
                id: client.id.as_str(),
                name: &client.name,
                verified: client.verified,
                first_party: client.first_party,
                redirect_host: &client.redirect_host,
                metadata: client.metadata.get(),
            },
            scopes: texts(&request.scopes),
            already_granted: texts(&request.already_granted),
            resources: texts(&request.resources),
            upstreams: self.shown_upstreams(&request.upstreams),
            consent_on_file: request.consent_on_file,
            access_ttl_s: seconds(request.access_ttl),
            refresh_ttl_s: request.refresh_ttl.map(seconds),
            sender_constrained: request.sender_constrained,
        };
        let judge = |answer| {
            let verdict = answer::grant(answer)?;
            let told = Told::verdict(&verdict, Granting::told);
            Ok((verdict, told))
        };
        asking.ask::<hook::Grant, _>(policy, &shown, judge).await
    }

    async fn ask_all_about_refresh(
        &self,
        ctx: &CallContext<'_>,
        policies: &[&BoundPolicy],
        request: &RefreshRequest,
        caps: LifetimeCaps,
        trail: &mut Trail,
    ) -> Result<GrantTerms, Refusal> {
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, Hook::Refresh, policies, &mut trail.steps);
        let mut tally = Tally::default();
        let mut terms = GrantTerms::renewed(request, caps);
        for policy in policies {
            let heard = self.ask_about_refresh(&mut asking, policy, request).await;
            if let Some(narrowing) = tally.hear(policy.name(), heard)? {
                terms.narrow(narrowing);
            }
        }
        tally.finish(Hook::Refresh, self.when_all_abstain)?;
        Ok(terms.with_claims_of(&request.granted))
    }

    async fn ask_about_refresh(
        &self,
        asking: &mut Asking<'_>,
        policy: &BoundPolicy,
        request: &RefreshRequest,
    ) -> Result<Option<Verdict<Narrowing>>, Refusal> {
        let shown = refresh::Request {
            granted: request.granted.shown(),
            issued_at: request.issued_at.as_millis() / 1000,
            last_used: request.last_used.as_millis() / 1000,
            uses: request.uses,
            requested: texts(&request.requested),
            reuse_detected: request.reuse_detected,
        };
        let judge = |answer| {
            let verdict = answer::refresh(answer)?;
            let told = Told::verdict(&verdict, Narrowing::told);
            Ok((verdict, told))
        };
        asking.ask::<hook::Refresh, _>(policy, &shown, judge).await
    }

    async fn ask_all_about_credential(
        &self,
        ctx: &CallContext<'_>,
        policies: &[&BoundPolicy],
        request: &CredentialRequest,
        trail: &mut Trail,
    ) -> Result<CredentialTerms, Refusal> {
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, Hook::Credential, policies, &mut trail.steps);
        let mut tally = Tally::default();
        let mut terms = CredentialTerms::requested(request);
        for policy in policies {
            let heard = self.ask_about_credential(&mut asking, policy, request).await;
            if let Some(releasing) = tally.hear(policy.name(), heard)? {
                terms.narrow(&releasing);
            }
        }
        tally.finish(Hook::Credential, self.when_all_abstain)?;
        Ok(terms)
    }

    async fn ask_about_credential(
        &self,
        asking: &mut Asking<'_>,
        policy: &BoundPolicy,
        request: &CredentialRequest,
    ) -> Result<Option<Verdict<Releasing>>, Refusal> {
        let shown = credential::Request {
            upstream: self.shown_upstream(&request.upstream),
            kind: request.kind.as_str(),
            account: request.account.as_deref(),
            purpose: request.purpose.as_str(),
            tool: request.tool.as_deref(),
            scopes: texts(&request.scopes),
        };
        let judge = |answer| {
            let verdict = answer::credential(answer)?;
            let told = Told::verdict(&verdict, Releasing::told);
            Ok((verdict, told))
        };
        asking.ask::<hook::Credential, _>(policy, &shown, judge).await
    }

    fn shown_upstreams<'a>(&'a self, upstreams: &'a [UpstreamName]) -> Vec<types::Upstream<&'a str>> {
        upstreams.iter().map(|upstream| self.shown_upstream(upstream)).collect()
    }
}

/// What an answer in the contract's JSON form says, checked as in a decision. `hook` is one of those of this module.
pub(super) fn told(hook: Hook, answer: &Value) -> Result<Told, Failure> {
    Ok(match hook {
        Hook::Refresh => Told::verdict(&answer::refresh(judge::read::<hook::Refresh>(answer)?)?, Narrowing::told),
        Hook::Client => Told::verdict(&answer::client(judge::read::<hook::Client>(answer)?)?, |_| Told::word("allow")),
        Hook::Credential => {
            Told::verdict(&answer::credential(judge::read::<hook::Credential>(answer)?)?, Releasing::told)
        }
        _ => Told::verdict(&answer::grant(judge::read::<hook::Grant>(answer)?)?, Granting::told),
    })
}

impl Granting {
    fn told(&self) -> Told {
        let word = if self.consent.is_some() { "consent" } else { "allow" };
        Told::noting(word, &self.narrowing.notes)
    }
}

impl Narrowing {
    fn told(&self) -> Told {
        Told::noting("allow", &self.notes)
    }
}

impl Releasing {
    fn told(&self) -> Told {
        Told::word("release")
    }
}

fn texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}
