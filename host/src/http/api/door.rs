//! The door of the API: who comes in, and by what.
//!
//! Somebody is known by the admin socket, the operator token, an API token, or the cookie of the admin listener, in this order,
//! and by one of them only: a credential that is wrong is not made up for by another one. What is wrong is counted
//! (`docs/threat-model.md` rows H2 and T20). A cookie comes with every request that a page somewhere has a browser send, so
//! that it counts only where the browser says that the page is ours; and for what changes something only with the token that
//! our pages are given.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::access::{Access, Lacks, Who, Wish};
use super::{Operator, Problem};
use crate::authorization::doors::Door;
use crate::authorization::{AuthorizationServer, Fault};
use crate::http::console::Console;
use crate::http::serve::Peer;
use crate::http::threshold::{Doorkeeper, admit};
use crate::identity::api_token::API_TOKEN_PREFIX;
use crate::identity::browser::Surface;
use crate::secret::{Digest, Plaintext};

/// Header with the token of a page of ours, for what changes something.
pub(super) const CSRF_HEADER: &str = "x-portcullis-csrf";

/// What is looked at to tell who somebody is.
const SHOWN: [&str; 4] = ["authorization", "cookie", "origin", "sec-fetch-site"];

/// Tells who an operator is.
pub struct Operators {
    token: Digest,
    wrong: Door,
    server: Arc<AuthorizationServer>,
    console: Option<Arc<Console>>,
}

/// Why nobody comes in.
#[derive(Debug)]
enum Shut {
    /// It is nobody.
    Nobody,
    /// The same, and from where nobody comes too often.
    Waits(Duration),
    /// Somebody's browser, and no page of ours.
    Foreign,
    /// It cannot be told now.
    Fault(Fault),
}

impl From<Fault> for Shut {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What stands at a row: its door, and who may pass.
#[derive(Clone)]
pub(super) struct Post {
    pub(super) operators: Arc<Operators>,
    pub(super) access: Access,
    pub(super) area: &'static str,
    /// Whether a person in a browser has to have shown lately who they are.
    pub(super) wants_fresh: bool,
}

/// Whether somebody's session is used by looking who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    AsUse,
    /// Something of theirs goes on by itself: their session rests on.
    Again,
}

/// What somebody showed to be let in, to be looked at again as long as they stay.
pub(super) struct Admission {
    operators: Arc<Operators>,
    peer: Option<Peer>,
    headers: HeaderMap,
    wish: Wish,
}

impl Admission {
    /// To what viewers may read in an area.
    pub(super) fn to_read(
        operators: Arc<Operators>,
        peer: Option<Peer>,
        headers: &HeaderMap,
        area: &'static str,
    ) -> Self {
        let shown = headers.iter().filter(|(name, _)| SHOWN.contains(&name.as_str()));
        let headers = shown.map(|(name, value)| (name.clone(), value.clone())).collect();
        Self {
            operators,
            peer,
            headers,
            wish: Wish { access: Access::Viewer, is_read: true, area, wants_fresh: false },
        }
    }

    /// Whether they would be let in now. If that cannot be told, they would not.
    pub(super) async fn holds(&self) -> bool {
        let Self { operators, peer, headers, wish } = self;
        let who = operators.look(*peer, &Method::GET, headers, Look::Again).await;
        who.is_ok_and(|who| who.may(*wish).is_ok())
    }
}

/// Lets a request pass that comes from whom the row wants, or answers 401 or 403.
pub(super) async fn check(State(post): State<Post>, request: Request, next: Next) -> Response {
    match admit(&post, request, next).await {
        Ok((_, response)) | Err(response) => response,
    }
}

impl Doorkeeper for Post {
    type Person = Operator;

    async fn judge(&self, request: &Parts, before: Option<&Operator>) -> Result<Operator, Response> {
        let Self { operators, access, area, wants_fresh } = self;
        let peer = request.extensions.get::<Peer>().copied();
        let look = if before.is_some() { Look::Again } else { Look::AsUse };
        let found = operators.look(peer, &request.method, &request.headers, look).await;
        let who = found.map_err(Shut::into_response)?;
        let is_read = is_read(&request.method);
        let wish = Wish { access: *access, is_read, area, wants_fresh: *wants_fresh };
        who.may(wish).map_err(|lacks| Problem::from(lacks).into_response())?;
        // A handler that asks for more than its row does asks this of whom it was told of.
        if let Some(Operator(_, before)) = before
            && before.role() > who.role()
        {
            return Err(Problem::from(Lacks::Role(before.role())).into_response());
        }
        Ok(Operator(who.actor(), Arc::new(who)))
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

impl Operators {
    /// Operators have the token of this digest, come over the socket as who runs the gateway, or are people of `server` with a
    /// role, who have signed in at `console` or have API tokens.
    pub fn new(token: Digest, server: Arc<AuthorizationServer>, console: Option<Arc<Console>>) -> Self {
        Self { token, wrong: Door::of_wrong_credentials(), server, console }
    }

    /// Who somebody is by what they show.
    async fn look(&self, peer: Option<Peer>, method: &Method, headers: &HeaderMap, look: Look) -> Result<Who, Shut> {
        if let Some(Peer::Unix { uid, .. }) = peer
            && (uid == 0 || uid == rustix::process::geteuid().as_raw())
        {
            return Ok(Who::Socket);
        }
        let Some(shown) = headers.get(AUTHORIZATION) else {
            return self.by_cookie(method, headers, look).await?.ok_or(Shut::Nobody);
        };
        let shown = shown.to_str().ok().and_then(|shown| shown.split_once(' '));
        let bearer = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if let Some((_, token)) = bearer
            && let Some(who) = self.by_bearer(&Plaintext::new(token.trim())).await?
        {
            return Ok(who);
        }
        match self.wrong.count(peer.and_then(Peer::ip)) {
            Ok(()) => Err(Shut::Nobody),
            Err(wait) => Err(Shut::Waits(wait)),
        }
    }

    async fn by_bearer(&self, token: &Plaintext) -> Result<Option<Who>, Fault> {
        if token.digest() == self.token {
            return Ok(Some(Who::OperatorToken));
        }
        if !token.expose().starts_with(API_TOKEN_PREFIX) {
            return Ok(None);
        }
        let found = self.server.api_token(token).await?;
        Ok(found.map(|(token, user)| Who::ApiToken { token: Box::new(token), user: Box::new(user) }))
    }

    async fn by_cookie(&self, method: &Method, headers: &HeaderMap, look: Look) -> Result<Option<Who>, Shut> {
        let Some(console) = &self.console else { return Ok(None) };
        let Some(cookie) = console.cookie(headers) else { return Ok(None) };
        let found = match look {
            Look::AsUse => self.server.signed_in_at(Surface::Admin, Some(&cookie)).await?,
            Look::Again => self.server.glance(Surface::Admin, Some(&cookie)).await?,
        };
        let Some((session, user)) = found else { return Ok(None) };
        let token = headers.get(CSRF_HEADER).and_then(|token| token.to_str().ok()).unwrap_or_default();
        let is_ours = match is_read(method) {
            true => console.may_read(headers),
            false => console.is_ours(headers) && console.is_page_token(cookie.digest(), token),
        };
        if !is_ours {
            return Err(Shut::Foreign);
        }
        let is_fresh = self.server.is_fresh(&session);
        Ok(Some(Who::Session { user: Box::new(user), cookie: cookie.digest(), is_fresh }))
    }
}

impl Shut {
    fn into_response(self) -> Response {
        match self {
            Self::Nobody => {
                let detail = "the operator token or an API token is required";
                let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail);
                let mut response = problem.into_response();
                let challenge = HeaderValue::from_static(r#"Bearer realm="portcullis admin""#);
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                response
            }
            Self::Waits(wait) => {
                let detail = "too many tokens that are wrong come from there: wait";
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", detail);
                let mut response = problem.into_response();
                let seconds = wait.as_secs().saturating_add(1);
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                response
            }
            Self::Foreign => {
                let detail = format!(
                    "a browser that is signed in is heard where a page of this listener asks: with its `Origin`, and for changes \
                     with the token of `/api/v1/me` in `{CSRF_HEADER}`"
                );
                Problem::new(StatusCode::FORBIDDEN, "not_our_page", detail).into_response()
            }
            Self::Fault(fault) => Problem::from(fault).into_response(),
        }
    }
}
