//! What a person sees and does about a client's request: as whom, for which services, yes or no.
//!
//! Everything happens in the browser that brought the request, whose secret each verb asks for (`docs/threat-model.md` row
//! A9). The person chooses an identity; the policies say what the client may get in its name; the person finishes, goes back
//! or cancels. Nothing is kept between the steps but who was chosen: each step looks at everything anew, so that somebody who
//! signs out, a key that is disabled, a client that is deleted and a policy that changes its mind count at once.

use std::net::IpAddr;

use crate::audit::Actor;
use crate::config::Auth;
use crate::config::auth::ScopeWords;
use crate::identity::browser::BrowserSession;
use crate::identity::user::User;
use crate::identity::{Caller, TokenList};
use crate::ids::{GuestId, Principal, RequestId, UpstreamName, UserTag};
use crate::oauth::request::{AuthorizationRequest, CONSENT_LIFE, Chosen};
use crate::pipeline::Snapshot;
use crate::pipeline::authority::Granting;
use crate::policy::authority::GrantTerms;
use crate::secret::Digest;
use crate::store::authorizations::{self, Approval, GuestChoice, Refused};
use crate::store::{consents, guests};

use super::authorize::check::Check;
use super::authorize::destination::Destination;
use super::{AuthorizationServer, Fault, mint};

mod steps;
pub(super) mod terms;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use steps::{
    Asking, Choice, Connection, Finish, Identity, IdentityStep, Look, Notice, Service, ServicesStep, SignedIn, Stop,
    Why,
};
pub(super) use terms::{Question, access_of, ask, caller_of, has_some_on_file, services_of};

/// A person who is signed in in this browser.
pub type Person = (BrowserSession, User);

/// A browser at one of the steps.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    pub request: &'a RequestId,
    /// Digest of what the browser has for this request.
    pub browser: Digest,
    pub person: Option<&'a Person>,
    pub remote_ip: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
}

/// Where a request stands. Somebody who is not signed in any more, or a key that opens nothing any more, is not chosen any
/// more.
pub async fn look(server: &AuthorizationServer, visit: Visit<'_>) -> Result<Look, Fault> {
    match authorizations::get(&server.store, visit.request, visit.browser).await? {
        Ok(request) => stand(server, visit, &request).await,
        Err(refused) => Ok(Look::Refused(refused)),
    }
}

async fn stand(server: &AuthorizationServer, visit: Visit<'_>, request: &AuthorizationRequest) -> Result<Look, Fault> {
    let snapshot = server.snapshot.load_full();
    let settings = &*snapshot.auth;
    let Some(asking) = asking_of(server, settings, request).await? else { return Ok(Look::Void) };
    let Some(chosen) = &request.chosen else { return Ok(identity(settings, visit, request, asking, None)) };
    let found = match gone(chosen, request, visit.person) {
        Some(notice) => Err(notice),
        None => {
            let now = server.env.now();
            let caller = caller_of(&snapshot, &chosen.principal, visit.person, &request.client, now);
            caller.ok_or(Notice::IdentityGone)
        }
    };
    match found {
        Ok(caller) => services(server, &snapshot, visit, request, asking, caller).await,
        Err(notice) => match authorizations::unchoose(&server.store, &request.id, visit.browser).await? {
            Ok(()) => Ok(identity(settings, visit, request, asking, Some(notice))),
            Err(refused) => Ok(Look::Refused(refused)),
        },
    }
}

/// As whom a request goes on, as long as that choice stands: what is connected on its way is theirs. Nothing is changed.
pub async fn chosen(
    server: &AuthorizationServer,
    visit: Visit<'_>,
) -> Result<Result<Option<Principal>, Refused>, Fault> {
    let request = match authorizations::get(&server.store, visit.request, visit.browser).await? {
        Ok(request) => request,
        Err(refused) => return Ok(Err(refused)),
    };
    let Some(chosen) = request.chosen.as_ref().filter(|chosen| gone(chosen, &request, visit.person).is_none()) else {
        return Ok(Ok(None));
    };
    let snapshot = server.snapshot.load_full();
    let caller = caller_of(&snapshot, &chosen.principal, visit.person, &request.client, server.env.now());
    Ok(Ok(caller.map(|caller| caller.principal)))
}

/// Gives a request more time, since a connection was made on its way that took some. A request that is over
/// stays so.
pub async fn extend(server: &AuthorizationServer, visit: Visit<'_>) -> Result<(), Fault> {
    authorizations::extend(&server.store, visit.request, visit.browser, CONSENT_LIFE).await?.ok();
    Ok(())
}

/// Why a choice does not stand any more (row A15).
fn gone(chosen: &Chosen, request: &AuthorizationRequest, person: Option<&Person>) -> Option<Notice> {
    let Principal::User(id) = &chosen.principal else {
        let session = person.map(|(session, _)| &session.id);
        return (chosen.session.as_ref() != session).then_some(Notice::PersonChanged);
    };
    match person.filter(|(_, user)| user.id == *id) {
        None => Some(Notice::PersonChanged),
        Some((session, _)) => (!is_recent(session, request)).then_some(Notice::SignInAgain),
    }
}

fn is_recent(session: &BrowserSession, request: &AuthorizationRequest) -> bool {
    request.signed_in_since.is_none_or(|since| session.authenticated >= since)
}

/// Who asks, or `None` if nobody does any more who could be answered.
async fn asking_of(
    server: &AuthorizationServer,
    settings: &Auth,
    request: &AuthorizationRequest,
) -> Result<Option<Asking>, Fault> {
    let Some(client) = server.clients.find(server, &request.client).await? else { return Ok(None) };
    let schemes = &settings.clients.schemes;
    let Some(found) = Destination::found(&client, &request.redirect_uri, schemes) else { return Ok(None) };
    Ok(Some(Asking {
        request: request.id.clone(),
        client,
        destination: Destination { state: request.state.clone(), ..found },
        resources: request.resources.clone(),
        scopes: words(settings, &request.scopes),
    }))
}

/// Scopes in words. One that an operator has taken away meanwhile stands for itself.
fn words(settings: &Auth, scopes: &[String]) -> Vec<ScopeWords> {
    let words = |scope: &String| {
        let known = settings.scopes.iter().find(|known| known.name == *scope).cloned();
        known.unwrap_or_else(|| ScopeWords { name: scope.clone(), words: scope.clone() })
    };
    scopes.iter().map(words).collect()
}

fn identity(
    settings: &Auth,
    visit: Visit<'_>,
    request: &AuthorizationRequest,
    asking: Asking,
    notice: Option<Notice>,
) -> Look {
    let signed_in = |(session, user): &Person| SignedIn { name: name_of(user), is_recent: is_recent(session, request) };
    let person = visit.person.map(signed_in);
    Look::Identity(Box::new(IdentityStep { asking, person, guests: settings.guests, notice }))
}

/// What people are told that somebody is called.
pub fn name_of(user: &User) -> String {
    let login = user.login.as_ref().map(ToString::to_string);
    let email = user.email.as_ref().map(ToString::to_string);
    let name = Some(user.name.to_string()).filter(|name| !name.is_empty());
    match (name, login.or(email)) {
        (Some(name), Some(login)) if name != login => format!("{name} ({login})"),
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => user.id.to_string(),
    }
}

async fn services(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    visit: Visit<'_>,
    request: &AuthorizationRequest,
    asking: Asking,
    caller: Caller,
) -> Result<Look, Fault> {
    let services = services_of(snapshot, &server.issuer, &request.resources, &caller);
    let question = Question {
        client: &asking.client,
        destination: &asking.destination,
        resources: &request.resources,
        scopes: &request.scopes,
        services: &services,
        is_sender_constrained: request.proof.is_some(),
        caller: &caller,
        authenticated: visit.person.map(|(session, _)| session.authenticated),
        began: request.created,
        remote_ip: visit.remote_ip,
        user_agent: visit.user_agent,
    };
    let (granting, _) = ask(server, snapshot, &question).await?;
    let is_person = matches!(caller.principal, Principal::User(_));
    let name = match (&caller.principal, visit.person) {
        (Principal::User(_), Some((_, user))) => name_of(user),
        (Principal::Key(key), _) => format!("the virtual key {key}"),
        _ => "a guest".to_owned(),
    };
    let stopped = |asking, name, why| Ok(Look::Stopped(Box::new(Stop { asking, name, is_person, why })));
    let (terms, headline, warnings) = match granting {
        Granting::Granted(terms) => (terms, None, Vec::new()),
        Granting::Consent(wanted) => (wanted.terms, Some(wanted.headline), wanted.warnings),
        Granting::StepUp { message } => return stopped(asking, name, Why::StepUp { message }),
        Granting::Unapproved { title, message, standing } => {
            return stopped(asking, name, Why::Unapproved { title, message, standing });
        }
        Granting::Denied { message } => return stopped(asking, name, Why::Denied { message }),
        Granting::Undecided => return Err(Fault::Undecided),
    };
    let scopes = TokenList::parse(terms.scopes.clone()).unwrap_or_default();
    if scopes.is_empty() {
        // Access to nothing is none.
        return stopped(asking, name, Why::Denied { message: None });
    }
    let is_narrowed = scopes[..] != request.scopes[..] || !terms.tools.0.is_empty();
    let shown = shown(&caller.principal, &terms, &services, headline.as_deref(), &warnings);
    // Whoever shows it says how things stand: that is for eyes, and nothing that is agreed to.
    let service = |upstream| Service { upstream, connection: Connection::NoneNeeded };
    Ok(Look::Services(Box::new(ServicesStep {
        may_remember: is_person && asking.destination.may_be_remembered(),
        asking: Asking { scopes: words(&snapshot.auth, &scopes), ..asking },
        principal: caller.principal,
        name,
        services: services.into_iter().map(service).collect(),
        headline,
        warnings,
        is_narrowed,
        shown,
        terms,
    })))
}

/// A digest of everything that the person is asked to agree to.
fn shown(
    principal: &Principal,
    terms: &GrantTerms,
    services: &[UpstreamName],
    headline: Option<&str>,
    warnings: &[String],
) -> Digest {
    let services: Vec<&str> = services.iter().map(UpstreamName::as_str).collect();
    let tools = terms.tools.to_texts();
    let all = serde_json::json!([principal.to_string(), terms.scopes, tools, services, headline, warnings]);
    Digest::of(all.to_string().as_bytes())
}

/// Goes on as somebody.
pub async fn choose(server: &AuthorizationServer, visit: Visit<'_>, identity: Identity) -> Result<Choice, Fault> {
    let snapshot = server.snapshot.load_full();
    let principal = match identity {
        Identity::Person => match visit.person {
            Some((_, user)) => Principal::User(user.id.clone()),
            None => return Ok(Choice::NotSignedIn),
        },
        Identity::Key(key) => {
            // Counted before the key is looked at, so that a right one is no news to whoever tries many.
            if let Err(wait) = server.doors.keys.count(visit.remote_ip) {
                return Ok(Choice::TooOften(wait));
            }
            match snapshot.keys.caller(&key, server.env.now()) {
                Some(caller) => caller.principal,
                None => return Ok(Choice::WrongKey),
            }
        }
        Identity::Guest => return choose_guest(server, &snapshot, visit).await,
    };
    let session = visit.person.map(|(session, _)| session.id.clone());
    let chosen = authorizations::choose(&server.store, visit.request, visit.browser, principal, session).await?;
    Ok(chosen.map_or_else(Choice::Refused, |()| Choice::Chosen))
}

async fn choose_guest(server: &AuthorizationServer, snapshot: &Snapshot, visit: Visit<'_>) -> Result<Choice, Fault> {
    if !snapshot.auth.guests {
        return Ok(Choice::NoGuests);
    }
    // Whoever has no request makes no guest, and is not counted.
    if let Err(refused) = authorizations::get(&server.store, visit.request, visit.browser).await? {
        return Ok(Choice::Refused(refused));
    }
    if let Err(wait) = server.doors.guests.count(visit.remote_ip) {
        return Ok(Choice::TooOften(wait));
    }
    let session = visit.person.map(|(session, _)| session.id.clone());
    let (guest, most) = (GuestId::generate(&server.env), guests::MAX_GUESTS);
    let chosen =
        authorizations::choose_guest(&server.store, visit.request, visit.browser, guest, session, most).await?;
    Ok(match chosen {
        GuestChoice::Chosen => Choice::Chosen,
        GuestChoice::TooMany => Choice::TooManyGuests,
        GuestChoice::Refused(refused) => Choice::Refused(refused),
    })
}

/// Takes the choice back.
pub async fn back(server: &AuthorizationServer, visit: Visit<'_>) -> Result<Result<(), Refused>, Fault> {
    Ok(authorizations::unchoose(&server.store, visit.request, visit.browser).await?)
}

/// Says no. Where the browser is sent then, unless there is nobody to be told.
pub async fn cancel(server: &AuthorizationServer, visit: Visit<'_>) -> Result<Result<Option<String>, Refused>, Fault> {
    let actor = visit.person.map_or(Actor::System, |(_, user)| Actor::User(UserTag::from(&user.id)));
    let request = match authorizations::get(&server.store, visit.request, visit.browser).await? {
        Ok(request) => request,
        Err(refused) => return Ok(Err(refused)),
    };
    // Whom to tell is found first: once the request is gone, nobody could try again.
    let asking = asking_of(server, &server.settings(), &request).await?;
    let denied = authorizations::deny(&server.store, visit.request, visit.browser, actor).await?;
    Ok(denied.map(|_| asking.map(|asking| asking.destination.with_error(&server.issuer, &Check::Denied))))
}

/// Says yes to what was `shown`, and need not be asked again if `remember` and row A8 say so.
pub async fn finish(
    server: &AuthorizationServer,
    visit: Visit<'_>,
    shown: &str,
    remember: bool,
) -> Result<Finish, Fault> {
    let request = match authorizations::get(&server.store, visit.request, visit.browser).await? {
        Ok(request) => request,
        Err(refused) => return Ok(Finish::Changed(Look::Refused(refused))),
    };
    let step = match stand(server, visit, &request).await? {
        Look::Services(step) if step.shown.to_hex() == shown => *step,
        other => return Ok(Finish::Changed(other)),
    };
    let settings = server.settings();
    let ServicesStep { asking, principal, services, may_remember, terms, .. } = step;
    let services: Vec<UpstreamName> = services.into_iter().map(|service| service.upstream).collect();
    let remember = (remember && may_remember).then(|| consents::Remembered {
        redirect_host: asking.destination.shown.clone(),
        life: settings.tokens.refresh_life,
    });
    let code = mint::mint(&server.env, mint::CODE);
    let actor = actor_of(&principal);
    let consent = authorizations::Consent {
        access: access_of(&settings, &asking.client, &request.resources, &terms, &principal, &services),
        principal,
        code: code.digest(),
        code_life: settings.tokens.code_life,
        remember,
    };
    match authorizations::approve(&server.store, visit.request, visit.browser, consent, actor).await? {
        Approval::Approved(_) => Ok(Finish::Done(asking.destination.with_code(&server.issuer, code.expose()))),
        Approval::Refused(refused) => Ok(Finish::Changed(Look::Refused(refused))),
        // Another tab was faster, or the account was closed this very moment: the choice is made again.
        Approval::NotChosen | Approval::NotActive | Approval::Widened => {
            let unchosen = authorizations::unchoose(&server.store, visit.request, visit.browser).await?;
            Ok(Finish::Changed(match unchosen {
                Ok(()) => identity(&settings, visit, &request, asking, Some(Notice::IdentityGone)),
                Err(refused) => Look::Refused(refused),
            }))
        }
    }
}

/// Whom the audit trail has for what a principal agreed to.
pub(super) fn actor_of(principal: &Principal) -> Actor {
    match principal {
        Principal::User(id) => Actor::User(UserTag::from(id)),
        _ => Actor::System,
    }
}
