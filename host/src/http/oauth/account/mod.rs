//! `/account`: what people see and end of their own. What is somebody else's is not found (404).

use std::net::IpAddr;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;

use super::csrf::{self, Fields, Form};
use super::pages::{self, Site, moment, page, retry_after, see_other};
use super::sign_in::{self, Next, Person, address, browser};
use super::{Access, OAuth, Route};
use crate::authorization::Fault;
use crate::authorization::account::{Holdings, OwnConsent, OwnGrant};
use crate::authorization::people::Changed;
use crate::identity::browser::{BrowserSession, Method};
use crate::identity::user::{DisplayName, Email, Login};
use crate::ids::{BrowserSessionId, GrantId};
use crate::store::Cursor;
use crate::store::browser_sessions::Ending;
use crate::store::consents::Forgetting;
use crate::store::grants::Revocation;

const fn row(path: &'static str, handler: fn() -> axum::routing::MethodRouter<Arc<OAuth>>) -> Route {
    Route { methods: "POST", path, access: Access::Browser, handler }
}

pub(super) const ROUTES: &[Route] = &[
    Route { methods: "GET", path: "/account", access: Access::Browser, handler: || get(show) },
    row("/account/grants/{id}/revoke", || post(revoke_grant)),
    row("/account/sessions/{id}/end", || post(end_session)),
    row("/account/sessions/end-others", || post(end_others)),
    row("/account/consents/{id}/forget", || post(forget_consent)),
    row("/account/password", || post(change_password)),
    row("/account/connections/{upstream}/disconnect", || post(connections::disconnect)),
];

mod connections;

use connections::ConnectionRow;

/// Purposes of forms.
const REVOKE: &str = "revoke a grant";
const END: &str = "end a session";
const END_OTHERS: &str = "end other sessions";
const FORGET: &str = "forget a consent";
const PASSWORD: &str = "change the password";
/// Purpose of the sealed text that says where a list of grants goes on.
const OLDER: &str = "account grants 1";

/// Purpose of the sealed text that says what was just done: nobody else can have a person told that something was.
const JUST_DONE: &str = "account done 1";

/// What was just done, as the address of the page says it.
const DONE: &[(&str, &str)] = &[
    ("revoked", "The access is revoked. The client cannot use the gateway in your name any more."),
    ("ended", "That browser is signed out."),
    ("ended-others", "All other browsers are signed out."),
    ("forgotten", "You will be asked again."),
    ("disconnected", "The connection is ended. What was stored for it is erased."),
    ("password", "Your password is changed, and all other browsers are signed out."),
];

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    site: &'a Site,
    sign_out: String,
    name: String,
    login: Option<String>,
    email: Option<String>,
    role: &'static str,
    done: Option<&'static str>,
    grants: Vec<GrantRow>,
    older: Option<String>,
    sessions: Vec<SessionRow>,
    end_others: Option<String>,
    consents: Vec<ConsentRow>,
    connections: Vec<ConnectionRow>,
    /// Token of the form with which the password is changed, where there is one.
    password: Option<String>,
    password_problem: Option<String>,
}

struct GrantRow {
    id: String,
    token: String,
    name: String,
    client: String,
    created: String,
    last_used: String,
    until: String,
    scopes: Vec<String>,
    resources: Vec<String>,
}

struct SessionRow {
    id: String,
    token: String,
    agent: String,
    method: String,
    created: String,
    last_seen: String,
    is_this: bool,
}

struct ConsentRow {
    id: String,
    token: String,
    name: String,
    redirect_host: String,
    given: String,
    until: String,
    scopes: Vec<String>,
}

async fn show(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    let Some(person) = oauth.person(request.headers()).await? else {
        return Ok(oauth.to_sign_in(&Next::default()));
    };
    let query = request.uri().query().unwrap_or_default();
    let find = |name| form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).map(|(_, value)| value);
    let binding = person.user.id.as_str().as_bytes();
    let done = find("done").and_then(|sealed| oauth.server.secret.unseal(JUST_DONE, binding, &sealed));
    let done = done.and_then(|word| DONE.iter().find(|(known, _)| known.as_bytes() == word)).map(|(_, text)| *text);
    let older = find("older").and_then(|text| oauth.server.secret.unseal(OLDER, binding, &text));
    answer(&oauth, &person, older.and_then(Cursor::from_bytes), (StatusCode::OK, done, None)).await
}

/// The page as it is for somebody now.
async fn answer(
    oauth: &OAuth,
    person: &Person,
    after: Option<Cursor>,
    (status, done, password_problem): (StatusCode, Option<&'static str>, Option<String>),
) -> Result<Response, Response> {
    let holdings = oauth.server.holdings(&person.user, after).await.map_err(|fault| oauth.fault(&fault))?;
    let connected = connections::stands(oauth, &person.user).await?;
    let token = |purpose, subject: &str| oauth.form_token(&form(person, purpose, subject));
    let Holdings { grants, older, sessions, consents } = holdings;
    let user = &person.user;
    let has_others = sessions.iter().any(|session| session.id != person.session.id);
    let may_change = oauth.server.settings().sign_in.passwords && user.password.is_some() && user.login.is_some();
    let binding = user.id.as_str().as_bytes();
    let known_as = [Some(user.name.as_str()), user.login.as_ref().map(Login::as_str)];
    let known_as = known_as.into_iter().chain([user.email.as_ref().map(Email::as_str)]).flatten();
    let template = AccountPage {
        site: &oauth.site,
        sign_out: token(sign_in::SIGN_OUT, ""),
        name: known_as.into_iter().find(|name| !name.is_empty()).unwrap_or("you").to_owned(),
        login: user.login.as_ref().map(ToString::to_string),
        email: user.email.as_ref().map(ToString::to_string),
        role: user.role.as_str(),
        done,
        grants: grants.into_iter().map(|grant| GrantRow::of(grant, &token)).collect(),
        older: older.map(|older| oauth.server.secret.seal(OLDER, binding, older.as_bytes())),
        sessions: sessions.into_iter().map(|session| SessionRow::of(&session, person, &token)).collect(),
        end_others: has_others.then(|| token(END_OTHERS, "")),
        consents: consents.into_iter().map(|consent| ConsentRow::of(consent, &token)).collect(),
        connections: connected.iter().map(|stand| ConnectionRow::of(stand, &token)).collect(),
        password: may_change.then(|| token(PASSWORD, "")),
        password_problem,
    };
    Ok(page(status, template, &[]))
}

impl GrantRow {
    fn of(grant: OwnGrant, token: &impl Fn(&'static str, &str) -> String) -> Self {
        let OwnGrant { id, client, name, created, last_used, until, scopes, resources } = grant;
        Self {
            token: token(REVOKE, id.as_str()),
            id: id.to_string(),
            name,
            client: client.to_string(),
            created: moment(created),
            last_used: moment(last_used),
            until: moment(until),
            scopes,
            resources,
        }
    }
}

impl SessionRow {
    fn of(session: &BrowserSession, person: &Person, token: &impl Fn(&'static str, &str) -> String) -> Self {
        let agent = DisplayName::of(&session.agent).to_string();
        Self {
            id: session.id.to_string(),
            token: token(END, session.id.as_str()),
            agent: if agent.is_empty() { "A browser that does not say what it is".to_owned() } else { agent },
            method: match &session.method {
                Method::Password => "with a password".to_owned(),
                Method::Provider { issuer } => format!("through {issuer}"),
                Method::SetUpLink => "with the link of the first start".to_owned(),
            },
            created: moment(session.created),
            last_seen: moment(session.last_seen),
            is_this: session.id == person.session.id,
        }
    }
}

impl ConsentRow {
    fn of(consent: OwnConsent, token: &impl Fn(&'static str, &str) -> String) -> Self {
        let OwnConsent { digest, client: _, name, redirect_host, given, until, scopes } = consent;
        let id = digest.to_hex();
        Self { token: token(FORGET, &id), id, name, redirect_host, given: moment(given), until: moment(until), scopes }
    }
}

fn form<'a>(person: &Person, purpose: &'static str, subject: &'a str) -> Form<'a> {
    Form { purpose, subject, cookie: person.cookie }
}

/// A form of somebody who is signed in, whose token was not looked at yet.
struct Sent {
    person: Person,
    fields: Fields,
    address: Option<IpAddr>,
}

async fn sent(oauth: &OAuth, request: Request) -> Result<Sent, Response> {
    let headers = request.headers().clone();
    let address = address(&request);
    let fields = oauth.read_form(request).await?;
    let person = oauth.person(&headers).await?.ok_or_else(|| oauth.to_sign_in(&Next::default()))?;
    Ok(Sent { person, fields, address })
}

impl Sent {
    /// Takes it for what it is about.
    async fn taken(
        mut self,
        oauth: &OAuth,
        purpose: &'static str,
        subject: &str,
    ) -> Result<(Person, Fields), Response> {
        let token = self.fields.take(csrf::FIELD);
        oauth.take_form(&form(&self.person, purpose, subject), &token, self.address).await?;
        Ok((self.person, self.fields))
    }

    /// The same for a thing of the person's own. What is somebody else's is not there, as what nobody has, whatever token
    /// comes along.
    async fn taken_of_own(
        self,
        oauth: &OAuth,
        (purpose, subject): (&'static str, &str),
        is_own: Result<bool, Fault>,
    ) -> Result<Person, Response> {
        if !is_own.map_err(|fault| oauth.fault(&fault))? {
            return Err(pages::not_found(&oauth.site));
        }
        Ok(self.taken(oauth, purpose, subject).await?.0)
    }
}

/// Takes a form of somebody who is signed in.
async fn taken(
    oauth: &OAuth,
    request: Request,
    (purpose, subject): (&'static str, &str),
) -> Result<(Person, Fields), Response> {
    sent(oauth, request).await?.taken(oauth, purpose, subject).await
}

/// The page, with what was just done.
fn done(oauth: &OAuth, person: &Person, word: &str) -> Response {
    see_other(&oauth.site.address(&done_at(oauth, person, word)))
}

fn done_at(oauth: &OAuth, person: &Person, word: &str) -> String {
    let sealed = oauth.server.secret.seal(JUST_DONE, person.user.id.as_str().as_bytes(), word.as_bytes());
    format!("/account?done={sealed}")
}

async fn revoke_grant(
    State(oauth): State<Arc<OAuth>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Response> {
    let sent = sent(&oauth, request).await?;
    let id = GrantId::parse(&id).ok_or_else(|| pages::not_found(&oauth.site))?;
    let is_own = oauth.server.has_granted(&sent.person.user, &id).await;
    let person = sent.taken_of_own(&oauth, (REVOKE, id.as_str()), is_own).await?;
    match oauth.server.revoke_own_grant(&person.user, &id).await.map_err(|fault| oauth.fault(&fault))? {
        Revocation::Revoked => Ok(done(&oauth, &person, "revoked")),
        Revocation::NotFound => Err(pages::not_found(&oauth.site)),
    }
}

async fn end_session(
    State(oauth): State<Arc<OAuth>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Response> {
    let sent = sent(&oauth, request).await?;
    let id = BrowserSessionId::parse(&id).ok_or_else(|| pages::not_found(&oauth.site))?;
    let is_own = oauth.server.has_session(&sent.person.user, &id).await;
    let person = sent.taken_of_own(&oauth, (END, id.as_str()), is_own).await?;
    match oauth.server.end_own_session(&person.user, &id).await.map_err(|fault| oauth.fault(&fault))? {
        Ending::Ended if id == person.session.id => Ok(oauth.to_sign_in(&Next::default())),
        Ending::Ended => Ok(done(&oauth, &person, "ended")),
        Ending::NotFound => Err(pages::not_found(&oauth.site)),
    }
}

async fn end_others(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    let (person, _) = taken(&oauth, request, (END_OTHERS, "")).await?;
    let ended = oauth.server.end_other_sessions(&person.user, &person.session.id).await;
    ended.map_err(|fault| oauth.fault(&fault))?;
    Ok(done(&oauth, &person, "ended-others"))
}

async fn forget_consent(
    State(oauth): State<Arc<OAuth>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Response> {
    let sent = sent(&oauth, request).await?;
    let is_own = oauth.server.has_consented(&sent.person.user, &id).await;
    let person = sent.taken_of_own(&oauth, (FORGET, &id), is_own).await?;
    match oauth.server.forget_own_consent(&person.user, &id).await.map_err(|fault| oauth.fault(&fault))? {
        Forgetting::Forgotten => Ok(done(&oauth, &person, "forgotten")),
        Forgetting::NotFound => Err(pages::not_found(&oauth.site)),
    }
}

async fn change_password(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    let address = address(&request);
    let browser = browser(&oauth, request.headers());
    let (person, mut fields) = taken(&oauth, request, (PASSWORD, "")).await?;
    let (old, new) = (fields.take_secret("old"), fields.take_secret("new"));
    let again = async |status, problem: String| answer(&oauth, &person, None, (status, None, Some(problem))).await;
    if new != fields.take_secret("repeated") {
        return again(StatusCode::UNPROCESSABLE_ENTITY, "The new password and its repetition differ.".to_owned()).await;
    }
    if !oauth.server.settings().sign_in.passwords {
        return again(StatusCode::FORBIDDEN, "Nobody signs in with a password here.".to_owned()).await;
    }
    match oauth.server.change_password(&person.user, (old, new), address, browser).await {
        Ok(Changed::Changed(begun)) => {
            let to = Next::parse(&done_at(&oauth, &person, "password")).unwrap_or_default();
            Ok(oauth.begun(&begun, &to))
        }
        Ok(Changed::SignInAgain) => Ok(oauth.to_sign_in(&Next::default())),
        Ok(Changed::WrongPassword) => {
            again(StatusCode::FORBIDDEN, "The password that you have now is another one.".to_owned()).await
        }
        Ok(Changed::Weak(weak)) => {
            let problem = format!("That password will not do: {weak}.");
            again(StatusCode::UNPROCESSABLE_ENTITY, problem).await
        }
        Ok(Changed::HasNone) => again(StatusCode::FORBIDDEN, "Your account has no password.".to_owned()).await,
        Ok(Changed::Wait(wait)) => {
            let waiting = again(StatusCode::TOO_MANY_REQUESTS, sign_in::too_many_tries(wait)).await;
            waiting.map(|response| retry_after(response, sign_in::seconds(wait)))
        }
        Err(Fault::Busy) => {
            let problem = "Somebody else changed your account, or too many sign in at the moment. Try again.";
            again(StatusCode::TOO_MANY_REQUESTS, problem.to_owned()).await.map(|response| retry_after(response, 3))
        }
        Err(fault) => Err(oauth.fault(&fault)),
    }
}

#[cfg(test)]
mod tests;
