//! `/oauth2/authorize`: a client sends a person's browser here, and asks for access (OAuth 2.1 §4.1).
//!
//! [`authorize`] is the endpoint from top to bottom: an ordered list of [`Check`]s, each of which hands the next something
//! narrower. As long as it is not known whom an answer may go to, the person alone is told; from then on the client is. What
//! is left is a request that waits for the person ([`super::consent`]), or is answered at once where the client wants nobody
//! asked or the person has said that they need not be.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{ClientId, Principal, RequestId, UpstreamName};
use crate::oauth::client::KnownClient;
use crate::oauth::request::{AuthorizationRequest, Chosen};
use crate::pipeline::Snapshot;
use crate::pipeline::authority::Granting;
use crate::secret::{Digest, Plaintext};
use crate::store::authorizations::{self, Approval, Begin, Consent, Pushed, take_pushed};

use super::consent::{Person, Question, access_of, actor_of, ask, caller_of, has_some_on_file, services_of};
use super::{AuthorizationServer, Fault, mint};

pub mod asked;
pub mod check;
pub mod destination;
pub mod parameters;

#[cfg(test)]
mod tests;

use asked::{Against, Asked};
pub use check::Check;
use destination::Destination;
use parameters::Parameters;

/// What the reference of a pushed request begins with (RFC 9126 §2.2).
pub const PUSHED_REFERENCE: &str = "urn:ietf:params:oauth:request_uri:";
/// Requests that may wait for people at once, whoever brought them.
const MAX_OPEN: u64 = 10_000;

/// A browser that a client has sent here.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The query, or the body of a form.
    pub parameters: &'a str,
    /// The cookie of a signed-in browser.
    pub session: Option<&'a Plaintext>,
    pub remote_ip: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
}

/// What becomes of it.
#[derive(Debug)]
pub enum Answer {
    /// The person is told, and nobody else.
    Page(Check),
    /// This address comes too often. Again after that time.
    TooOften(Duration),
    /// The browser goes back to the client, with a code or an error.
    Redirect(String),
    /// The person is asked. The secret binds the request to this browser.
    Ask { request: RequestId, secret: Plaintext },
}

/// The endpoint.
///
/// # Errors
/// A fault before it is known whom to tell. From then on the client is told that it may come again.
pub async fn authorize(server: &AuthorizationServer, arrival: Arrival<'_>) -> Result<Answer, Fault> {
    if let Err(wait) = server.doors.authorize.count(arrival.remote_ip) {
        return Ok(Answer::TooOften(wait));
    }
    let (client, parameters, was_pushed) = match identified(server, arrival.parameters).await? {
        Ok(identified) => identified,
        Err(check) => return Ok(Answer::Page(check)),
    };
    let snapshot = server.snapshot.load_full();
    let destination = match Destination::of(&client, &parameters, &snapshot.auth.clients.schemes) {
        Ok(destination) => destination,
        Err(check) => return Ok(Answer::Page(check)),
    };
    let asking = Inquiry { server, snapshot: &snapshot, arrival, client: &client, destination: &destination };
    let answered = match asked(&server.issuer, &snapshot, &client, (&parameters, was_pushed)) {
        Ok(asked) => asking.answer(&asked).await,
        Err(check) => Ok(Err(check)),
    };
    let check = match answered {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(check)) => check,
        Err(fault) => {
            tracing::error!(%fault, "an authorization request was not answered");
            Check::Unavailable
        }
    };
    tracing::debug!(client = %client.id, check = check.error(), "refused an authorization request");
    Ok(Answer::Redirect(destination.with_error(&server.issuer, &check)))
}

/// The client, and what it asks for: what it says here, or what it has pushed before.
async fn identified(
    server: &AuthorizationServer,
    text: &str,
) -> Result<Result<(Arc<KnownClient>, Parameters, bool), Check>, Fault> {
    let Some(parameters) = Parameters::parse(text) else { return Ok(Err(Check::Parameters)) };
    let Some(id) = parameters.once("client_id").ok().flatten().and_then(ClientId::parse) else {
        return Ok(Err(Check::Client));
    };
    let Some(client) = server.clients.find(server, &id).await? else { return Ok(Err(Check::Client)) };
    let reference = match parameters.once("request_uri") {
        Ok(reference) => reference.filter(|reference| reference.starts_with(PUSHED_REFERENCE)),
        Err(_) => return Ok(Err(Check::PushedRequest)),
    };
    let Some(reference) = reference else { return Ok(Ok((client, parameters, false))) };
    let taken = take_pushed(&server.store, Digest::of(reference.as_bytes()), &id).await?;
    let Pushed::Taken(text) = taken else { return Ok(Err(Check::PushedRequest)) };
    // What was pushed is all that counts (RFC 9126 §4).
    Ok(Parameters::parse(&text).map(|parameters| (client, parameters, true)).ok_or(Check::PushedRequest))
}

/// A request whose answer goes to a client.
#[derive(Clone, Copy)]
struct Inquiry<'a> {
    server: &'a AuthorizationServer,
    snapshot: &'a Snapshot,
    arrival: Arrival<'a>,
    client: &'a KnownClient,
    destination: &'a Destination,
}

/// What came of asking nobody.
enum Silently {
    Answered(Answer),
    /// The person has to be asked, for this want.
    Ask(Check),
}

/// Checks a request that a client pushes as if it were one (RFC 9126 §2.1), so that the client is told and no person. It is
/// checked again when it is taken.
///
/// # Errors
/// The first check that fails.
pub fn check_pushed(server: &AuthorizationServer, client: &KnownClient, text: &str) -> Result<(), Check> {
    let snapshot = server.snapshot.load();
    let parameters = Parameters::parse(text).ok_or(Check::Parameters)?;
    Destination::of(client, &parameters, &snapshot.auth.clients.schemes)?;
    asked(&server.issuer, &snapshot, client, (&parameters, true)).map(|_| ())
}

fn asked(
    issuer: &str,
    snapshot: &Snapshot,
    client: &KnownClient,
    (parameters, was_pushed): (&Parameters, bool),
) -> Result<Asked, Check> {
    let upstreams: BTreeSet<UpstreamName> = snapshot.upstreams.keys().cloned().collect();
    Asked::read(client, parameters, &Against { settings: &snapshot.auth, issuer, upstreams: &upstreams, was_pushed })
}

impl Inquiry<'_> {
    async fn answer(&self, asked: &Asked) -> Result<Result<Answer, Check>, Fault> {
        let person = self.server.signed_in(self.arrival.session).await?;
        match self.silently(asked, person.as_ref()).await? {
            Silently::Answered(answer) => Ok(Ok(answer)),
            Silently::Ask(check) if asked.prompt.none => Ok(Err(check)),
            Silently::Ask(_) => self.begin(asked).await,
        }
    }

    /// Answers at once if nobody has to be asked (rows A8 and A18): the same person, in a browser where they are signed in,
    /// has consented before to exactly this, and said that they need not be asked again.
    async fn silently(&self, asked: &Asked, person: Option<&Person>) -> Result<Silently, Fault> {
        let Self { server, snapshot, arrival, client, destination } = *self;
        let now = server.env.now();
        let since = asked.signed_in_since(now);
        let is_recent = |(session, _): &&Person| since.is_none_or(|since| session.authenticated >= since);
        let Some(person) = person.filter(is_recent) else { return Ok(Silently::Ask(Check::LoginRequired)) };
        let prompt = asked.prompt;
        if prompt.login || prompt.consent || prompt.select_account || !destination.may_be_remembered() {
            return Ok(Silently::Ask(Check::ConsentRequired));
        }
        let principal = Principal::User(person.1.id.clone());
        let Some(caller) = caller_of(snapshot, &principal, Some(person), &client.id, now) else {
            return Ok(Silently::Ask(Check::LoginRequired));
        };
        let services = services_of(snapshot, &server.issuer, &asked.resources, &caller);
        let question = Question {
            client,
            destination,
            resources: &asked.resources,
            scopes: &asked.scopes,
            services: &services,
            is_sender_constrained: asked.proof.is_some(),
            caller: &caller,
            authenticated: Some(person.0.authenticated),
            began: now,
            remote_ip: arrival.remote_ip,
            user_agent: arrival.user_agent,
        };
        // Only what may be on file is worth a question: without it the person is asked, and so are the policies then. So
        // nobody is asked for an approval that the person has not seen.
        if !has_some_on_file(server, &question).await? {
            return Ok(Silently::Ask(Check::ConsentRequired));
        }
        let (granting, is_on_file) = ask(server, snapshot, &question).await?;
        let terms = match granting {
            Granting::Granted(terms) if is_on_file && !terms.scopes.is_empty() => terms,
            Granting::Granted(_) | Granting::Consent(_) => return Ok(Silently::Ask(Check::ConsentRequired)),
            Granting::StepUp { .. } => return Ok(Silently::Ask(Check::LoginRequired)),
            Granting::Unapproved { .. } => return Ok(Silently::Ask(Check::InteractionRequired)),
            Granting::Denied { .. } => return Ok(Silently::Ask(Check::Denied)),
            Granting::Undecided => return Err(Fault::Undecided),
        };
        let settings = &snapshot.auth;
        let access = access_of(settings, client, &asked.resources, &terms, &principal, &services);
        let code = mint::mint(&server.env, mint::CODE);
        // Nobody is told the secret: the request is over before anybody could come back to it.
        let browser = mint::mint(&server.env, mint::COOKIE).digest();
        let session = Some(person.0.id.clone());
        let chosen = Some(Chosen { principal: principal.clone(), session, at: now });
        let request = AuthorizationRequest { chosen, ..self.request(asked, browser) };
        let id = request.id.clone();
        let begun = authorizations::begin(&server.store, request, settings.tokens.consent_life, MAX_OPEN).await?;
        if begun != Begin::Begun {
            return Err(Fault::Busy);
        }
        let code_life = settings.tokens.code_life;
        let actor = actor_of(&principal);
        let consent = Consent { principal, access, code: code.digest(), code_life, remember: None };
        let approval = authorizations::approve(&server.store, &id, browser, consent, actor).await?;
        Ok(match approval {
            Approval::Approved(_) => {
                Silently::Answered(Answer::Redirect(destination.with_code(&server.issuer, code.expose())))
            }
            // The account was closed, or something was revoked, this very moment.
            Approval::NotActive | Approval::NotChosen | Approval::Widened | Approval::Refused(_) => {
                Silently::Ask(Check::LoginRequired)
            }
        })
    }

    /// Has the person asked.
    async fn begin(&self, asked: &Asked) -> Result<Result<Answer, Check>, Fault> {
        let Self { server, snapshot, .. } = *self;
        let secret = mint::mint(&server.env, mint::COOKIE);
        let request = self.request(asked, secret.digest());
        let id = request.id.clone();
        let life = snapshot.auth.tokens.consent_life;
        Ok(match authorizations::begin(&server.store, request, life, MAX_OPEN).await? {
            Begin::Begun => Ok(Answer::Ask { request: id, secret }),
            Begin::TooMany => return Err(Fault::Busy),
            // Neither the redirect URI nor the state is longer than that.
            Begin::TooLarge => Err(Check::Parameters),
        })
    }

    fn request(&self, asked: &Asked, browser: Digest) -> AuthorizationRequest {
        let now = self.server.env.now();
        AuthorizationRequest {
            id: RequestId::generate(&self.server.env),
            client: self.client.id.clone(),
            redirect_uri: self.destination.uri.clone(),
            state: self.destination.state.clone(),
            challenge: asked.challenge,
            proof: asked.proof,
            resources: asked.resources.clone(),
            scopes: asked.scopes.clone(),
            browser,
            signed_in_since: asked.signed_in_since(now),
            chosen: None,
            created: now,
            until: now,
        }
    }
}
