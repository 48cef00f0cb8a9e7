//! Who is let in at `/mcp`, with what, and what the others are told: rows M2, M3, T6, T7 and T8 of the threat model.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use http::StatusCode;

use super::testing::{Edge, knock, limits, piece, resource_of, snapshot_of, text, virtual_key};
use super::*;
use crate::audit::{Actor, RevocationReason};
use crate::authorization::Fault;
use crate::authorization::resource::{Refusal, Unadmitted};
use crate::authorization::tokens::{ISSUER, RESOURCE, scopes, signed, token};
use crate::config::{Auth, AuthMode};
use crate::connection::extra::Extra;
use crate::env::{Env, Timestamp};
use crate::glob::Glob;
use crate::http::error::LacksScopes;
use crate::identity::key::{AllowList, Standing as KeyStanding, VirtualKey};
use crate::identity::user::{DisplayName, Role};
use crate::identity::{TokenList, ToolScope};
use crate::ids::{Principal, UserId};
use crate::oauth::ResourceList;
use crate::oauth::token::AccessToken;
use crate::secret::Digest;
use crate::store::changes::News;
use crate::store::follower::{Follower, Subscriber};
use crate::store::revocations::{self, Whose};
use crate::store::{Store, StoreError, users};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
const GUEST: &str = "guest:0a0a0a0a0a0a0a0a0a0a0a0a";
const ABOUT: &str = r#"resource_metadata="http://127.0.0.1:7400/.well-known/oauth-protected-resource/mcp""#;

fn auth(mode: AuthMode) -> Auth {
    Auth { mcp: mode, guests: true, ..Auth::unset() }
}

async fn edge(mode: AuthMode) -> Edge {
    let edge = Edge::new(limits()).await;
    edge.admit(auth(mode));
    edge
}

fn now() -> Timestamp {
    Env::system().now()
}

fn bearer(token: &AccessToken) -> String {
    format!("Bearer {}", signed(token))
}

fn challenge(response: &Response) -> &str {
    response.headers().get("www-authenticate").map_or("", |value| value.to_str().unwrap())
}

impl Edge {
    async fn initialize(&self, headers: &[(&str, &str)]) -> Response {
        self.ask("POST", "/mcp", headers, INITIALIZE).await
    }

    async fn status(&self, token: &AccessToken) -> u16 {
        self.initialize(&[("authorization", &bearer(token))]).await.status().as_u16()
    }

    /// The session that a token opens.
    async fn session_of(&self, token: &AccessToken) -> String {
        let response = self.initialize(&[("authorization", &bearer(token))]).await;
        response.headers()["mcp-session-id"].to_str().unwrap().to_owned()
    }

    async fn ping(&self, token: &AccessToken, session: &str) -> u16 {
        let headers = [("authorization", &*bearer(token)), ("mcp-session-id", session)];
        self.ask("POST", "/mcp", &headers, PING).await.status().as_u16()
    }
}

/// An active account in this store.
async fn user(store: &Store) -> UserId {
    let id = UserId::generate(&Env::system());
    let new = users::NewUser {
        id: id.clone(),
        login: None,
        name: DisplayName::of("Ada"),
        email: None,
        role: Role::User,
        groups: scopes("lab"),
        invited: false,
        password: None,
    };
    assert!(matches!(users::create(store, new, Actor::System).await.unwrap(), users::Creation::Created(_)));
    id
}

#[tokio::test]
async fn m2_what_opens_is_what_the_mode_takes_and_all_others_are_challenged() {
    const PLAIN: &str = r#"Bearer realm="portcullis""#;
    let missing = format!(r#"Bearer scope="mcp", {ABOUT}"#);
    let invalid = format!(r#"Bearer error="invalid_token", scope="mcp", {ABOUT}"#);
    let good = bearer(&token(GUEST, now()));
    let old = bearer(&token(GUEST, now().before(Duration::from_secs(600))));
    let unsigned = format!("{good}x");
    // What is presented, and what comes of it in each mode.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], [Result<(), &'a str>; 3]);
    let credentials: [Case<'_>; 12] = [
        ("nothing", &[], [Err(PLAIN), Err(&missing), Err(&missing)]),
        ("a key", &[("authorization", "Bearer pk_ann")], [Ok(()), Ok(()), Err(&invalid)]),
        ("a key in its header", &[("x-portcullis-key", "pk_ann")], [Ok(()), Ok(()), Err(&missing)]),
        ("an unknown key", &[("authorization", "Bearer pk_eve")], [Err(PLAIN), Err(&invalid), Err(&invalid)]),
        ("an unknown key in its header", &[("x-portcullis-key", "pk_eve")], [Err(PLAIN), Err(&missing), Err(&missing)]),
        ("an empty one", &[("authorization", "Bearer ")], [Err(PLAIN), Err(&invalid), Err(&invalid)]),
        ("another scheme", &[("authorization", "Basic pk_ann")], [Err(PLAIN), Err(&missing), Err(&missing)]),
        ("a token", &[("authorization", &good)], [Err(PLAIN), Ok(()), Ok(())]),
        ("an old token", &[("authorization", &old)], [Err(PLAIN), Err(&invalid), Err(&invalid)]),
        ("one with another signature", &[("authorization", &unsigned)], [Err(PLAIN), Err(&invalid), Err(&invalid)]),
        ("no token", &[("authorization", "Bearer eyJ")], [Err(PLAIN), Err(&invalid), Err(&invalid)]),
        (
            "a token and a key",
            &[("authorization", &good), ("x-portcullis-key", "pk_ann")],
            [Err(PLAIN), Err(&invalid), Err(&invalid)],
        ),
    ];
    for (position, mode) in [AuthMode::Keys, AuthMode::Both, AuthMode::Oauth].into_iter().enumerate() {
        let edge = edge(mode).await;
        for (what, headers, expected) in &credentials {
            for (method, body) in [("POST", INITIALIZE), ("POST", "{"), ("POST", PING), ("GET", ""), ("DELETE", "")] {
                let response = edge.ask(method, "/mcp", headers, body).await;
                let seen = match response.status() {
                    StatusCode::UNAUTHORIZED => Err(challenge(&response)),
                    _ => Ok(()),
                };
                assert_eq!(seen, expected[position], "{mode:?}: {method} {body} with {what}");
            }
        }
        if edge.mcp.settings.legacy_sse {
            assert_eq!(edge.ask("GET", "/sse", &[("accept", "text/event-stream")], "").await.status(), 401);
            assert_eq!(edge.ask("POST", "/messages?session=x", &[], PING).await.status(), 401);
        }
    }
}

#[tokio::test]
async fn a_token_and_a_key_together_are_told_apart_from_one_that_is_not_valid() {
    let edge = edge(AuthMode::Both).await;
    let good = bearer(&token(GUEST, now()));
    let both = edge.initialize(&[("authorization", &good), ("x-portcullis-key", "pk_ann")]).await;
    assert_eq!(both.status(), 401);
    assert!(text(both).await.contains("present either an access token or a key, and not both"));
    let wrong = edge.initialize(&[("authorization", "Bearer eyJ")]).await;
    assert!(text(wrong).await.contains("a valid access token or key is required"));
}

#[tokio::test]
async fn t6_a_token_opens_what_it_names_and_what_is_below_that() {
    let edge = edge(AuthMode::Both).await;
    let whole = RESOURCE.to_owned();
    let part = |name: &str| format!("{RESOURCE}/{name}");
    for (resources, opened) in [
        (vec![whole.clone()], [true, true, true]),
        (vec![part("a")], [false, true, false]),
        (vec![part("a"), part("b")], [false, true, true]),
        (vec![part("b"), whole], [true, true, true]),
        (vec![format!("{RESOURCE}/")], [false; 3]),
        (vec![ISSUER.to_owned()], [false; 3]),
        (vec!["http://localhost:7400/mcp".to_owned()], [false; 3]),
        (vec!["https://other.example/mcp".to_owned(), part("a")], [false, true, false]),
    ] {
        let token = AccessToken { resources: ResourceList::parse(resources.clone()).unwrap(), ..token(GUEST, now()) };
        let credential = bearer(&token);
        for (path, is_open) in ["/mcp", "/mcp/a", "/mcp/b"].into_iter().zip(opened) {
            let response = edge.ask("POST", path, &[("authorization", &credential)], INITIALIZE).await;
            // Behind the entrance it turns out that there is no such upstream.
            let let_in = if path == "/mcp" { 200 } else { 404 };
            assert_eq!(response.status().as_u16(), if is_open { let_in } else { 401 }, "{resources:?} at {path}");
            if !is_open {
                let about = ABOUT.replace("/mcp\"", &format!("{path}\""));
                assert_eq!(challenge(&response), format!(r#"Bearer error="invalid_token", scope="mcp", {about}"#));
            }
        }
    }
    let odd = edge.ask("POST", "/mcp/%22%3E%0d", &[], INITIALIZE).await;
    assert_eq!(
        challenge(&odd),
        format!(r#"Bearer scope="mcp", {ABOUT}"#),
        "nothing of a path comes back that is no name"
    );
}

#[tokio::test]
async fn t7_a_token_in_the_query_is_never_taken() {
    let edge = edge(AuthMode::Both).await;
    let good = signed(&token(GUEST, now()));
    let header = format!("Bearer {good}");
    for target in
        [format!("/mcp?access_token={good}"), format!("/mcp?x=1&access%5ftoken={good}"), "/mcp?access_token".to_owned()]
    {
        for headers in [&[][..], &[("authorization", &*header)], &[("x-portcullis-key", "pk_ann")]] {
            for method in ["POST", "GET", "DELETE"] {
                assert_eq!(edge.ask(method, &target, headers, INITIALIZE).await.status(), 400, "{method} {target}");
            }
        }
    }
    edge.admit(auth(AuthMode::Keys));
    let target = "/mcp?access_token=x";
    assert_eq!(edge.ask("POST", target, &[("x-portcullis-key", "pk_ann")], INITIALIZE).await.status(), 200);
}

#[tokio::test]
async fn t8_a_token_without_the_scope_for_everything_is_told_all_that_it_needs() {
    let edge = edge(AuthMode::Both).await;
    let of = |words: &str| AccessToken { scopes: scopes(words), ..token(GUEST, now()) };
    for (held, needed) in [("", "mcp"), ("notes:read notes:write", "notes:read notes:write mcp")] {
        let response = edge.initialize(&[("authorization", &bearer(&of(held)))]).await;
        assert_eq!(response.status(), 403);
        assert_eq!(challenge(&response), format!(r#"Bearer error="insufficient_scope", scope="{needed}", {ABOUT}"#));
    }
    assert_eq!(edge.status(&of("notes:read mcp")).await, 200);
    let without = Auth { scopes: Vec::new(), ..auth(AuthMode::Both) };
    edge.admit(without);
    assert_eq!(edge.status(&of("")).await, 200, "where it is not defined, nobody needs it");
}

#[tokio::test]
async fn t8_a_step_up_leads_to_the_endpoint_and_keeps_what_the_client_has() {
    let edge = edge(AuthMode::Both).await;
    let caller = |words: Option<&str>| {
        let edge = &edge;
        let credential = words.map(|words| bearer(&AccessToken { scopes: scopes(words), ..token(GUEST, now()) }));
        async move {
            let mut headers = HeaderMap::new();
            let credential = credential.unwrap_or_else(|| "Bearer pk_ann".to_owned());
            headers.insert("authorization", http::HeaderValue::try_from(credential).unwrap());
            edge.mcp.gate.admit(&knock(&headers)).await.unwrap()
        }
    };
    let answer = |caller: Caller| {
        let headers = HeaderMap::new();
        let (transport, mark) = (Transport::StreamableHttp, Mark::default());
        let (scope, extra) = (Scope::default(), Extra::default());
        let from = From { caller, scope, headers: &headers, extra, peer: None, passing: None, transport, mark };
        let mut response = StatusCode::FORBIDDEN.into_response();
        response.extensions_mut().insert(LacksScopes(vec!["notes:write".to_owned(), "mcp".to_owned()]));
        StepsUp::of(&from).complete(&edge.mcp.gate, response)
    };
    let of_token = answer(caller(Some("mcp notes:read")).await);
    let expected = format!(r#"Bearer error="insufficient_scope", scope="mcp notes:read notes:write", {ABOUT}"#);
    assert_eq!(challenge(&of_token), expected);
    // The operator gives a key its scopes: no sign-in does, and none may begin.
    assert_eq!(challenge(&answer(caller(None).await)), "");
    edge.admit(Auth { required: false, ..auth(AuthMode::Both) });
    let anonymous = edge.mcp.gate.admit(&knock(&HeaderMap::new())).await.unwrap();
    let expected = format!(r#"Bearer error="insufficient_scope", scope="mcp notes:write", {ABOUT}"#);
    assert_eq!(challenge(&answer(anonymous)), expected);
}

#[tokio::test]
async fn m3_a_session_is_of_one_principal_through_one_client() {
    let edge = edge(AuthMode::Both).await;
    let own = token(GUEST, now());
    let session = edge.session_of(&own).await;
    assert_eq!(edge.ping(&own, &session).await, 200);
    let renewed = AccessToken { id: token(GUEST, now()).id, ..own.clone() };
    assert_eq!(edge.ping(&renewed, &session).await, 200, "the next token of the same grant");
    let other_client = AccessToken { client: crate::ids::ClientId::parse("other").unwrap(), ..own.clone() };
    assert_eq!(edge.ping(&other_client, &session).await, 404);
    assert_eq!(edge.ping(&token("guest:0b0b0b0b0b0b0b0b0b0b0b0b", now()), &session).await, 404);
    assert_eq!(edge.post(&session, PING).await.status(), 404, "nor is it a key's");
    let of_key = edge.session("2025-11-25", "{}").await;
    assert_eq!(edge.ping(&token("key:ann", now()), &of_key).await, 404, "nor that of the key itself for its clients");
    assert_eq!(
        edge.ask("POST", "/mcp", &[("mcp-session-id", &session)], PING).await.status(),
        401,
        "it opens nothing alone"
    );
}

#[tokio::test]
async fn each_kind_of_principal_is_what_it_is_now() {
    let edge = edge(AuthMode::Both).await;
    let ada = user(&edge.store).await;
    edge.follow().await;
    let of_user = token(&format!("user:{ada}"), now());
    assert_eq!(edge.status(&of_user).await, 200);
    assert_eq!(edge.status(&token(&format!("user:{}", UserId::generate(&Env::system())), now())).await, 401);
    assert_eq!(edge.status(&token("gateway", now())).await, 401);
    assert_eq!(edge.status(&token("anonymous", now())).await, 401);

    let of_guest = token(GUEST, now());
    assert_eq!(edge.status(&of_guest).await, 200);
    edge.admit(Auth { guests: false, ..auth(AuthMode::Both) });
    assert_eq!(edge.status(&of_guest).await, 401, "at once");
    edge.admit(auth(AuthMode::Both));
    assert_eq!(edge.status(&of_guest).await, 200, "and they are restored");

    let of_key = token("key:ann", now());
    assert_eq!(edge.status(&of_key).await, 200);
    let ann = || virtual_key("ann", "pk_ann");
    let past = Some(now().before(Duration::from_secs(1)));
    for (what, keys) in [
        ("disabled", vec![VirtualKey { standing: KeyStanding::Disabled, ..ann() }]),
        ("expired", vec![VirtualKey { expires: past, ..ann() }]),
        ("deleted", vec![]),
    ] {
        let changed = Snapshot { auth: Arc::new(auth(AuthMode::Both)), ..snapshot_of(keys) };
        edge.snapshot.store(Arc::new(changed));
        assert_eq!(edge.status(&of_key).await, 401, "inside a token: {what}");
        assert_eq!(edge.initialize(&[("x-portcullis-key", "pk_ann")]).await.status(), 401, "by its header: {what}");
    }

    let change = users::Edit::Suspend;
    let account = users::get(&edge.store, &ada).await.unwrap().unwrap();
    users::change(
        &edge.store,
        &ada,
        Some(account.revision),
        vec![change, users::Edit::Groups(TokenList::default())],
        Actor::System,
    )
    .await
    .unwrap();
    assert_eq!(
        edge.status(&token(&format!("user:{ada}"), now().after(Duration::from_secs(2)))).await,
        401,
        "the next request"
    );
    assert_eq!(edge.status(&of_user).await, 401);
}

#[tokio::test]
async fn a_revocation_is_felt_by_the_next_request() {
    let edge = edge(AuthMode::Both).await;
    edge.follow().await;
    let of = |client: &str| AccessToken { client: crate::ids::ClientId::parse(client).unwrap(), ..token(GUEST, now()) };
    let (one, other) = (of("one"), of("other"));
    assert_eq!((edge.status(&one).await, edge.status(&other).await), (200, 200));
    let jti = Digest::of(one.id.as_str().as_bytes());
    revocations::revoke_token(&edge.store, one.grant.clone(), jti, Actor::System).await.unwrap();
    assert_eq!((edge.status(&one).await, edge.status(&other).await), (401, 200));
    let whose = Whose::Client(other.client.clone());
    revocations::revoke_all(&edge.store, whose, RevocationReason::Operator, Actor::System).await.unwrap();
    assert_eq!(edge.status(&other).await, 401);
    assert_eq!(edge.status(&of("third")).await, 200);
}

#[tokio::test]
async fn who_waits_for_what_was_revoked_is_decided_on_as_everything_is_then() {
    let edge = edge(AuthMode::Both).await;
    let clock = Env::system().adjustable().1;
    let follower = Follower::begin(edge.store.clone(), clock, Duration::from_secs(10)).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("authorization", http::HeaderValue::try_from(bearer(&token(GUEST, now()))).unwrap());
    let pass = edge.mcp.gate.admit(&knock(&headers)).await.unwrap().pass;
    let whose = Whose::Client(crate::ids::ClientId::parse("other").unwrap());
    revocations::revoke_all(&edge.store, whose, RevocationReason::Operator, Actor::System).await.unwrap();
    let guest = Principal::parse(GUEST).unwrap();
    let knock = knock(&headers);
    let mut waiting =
        Box::pin(async { tokio::join!(edge.mcp.gate.admit(&knock), edge.mcp.gate.again(&guest, pass.as_ref())) });
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "it is not taken in yet");
    edge.admit(Auth { guests: false, ..auth(AuthMode::Both) });
    edge.mcp.tasks.spawn(follower.run(vec![edge.standing.clone()], edge.mcp.tasks.stopping().clone()));
    let is_refused =
        |admitted: Result<Caller, Unadmitted>| matches!(admitted, Err(Unadmitted::Refused(Refusal::Guest)));
    let (admitted, again) = waiting.await;
    assert_eq!((is_refused(admitted), is_refused(again)), (true, true));
}

#[tokio::test]
async fn a_fault_is_no_denial() {
    let edge = edge(AuthMode::Both).await;
    let ada = user(&edge.store).await;
    let known = token(&format!("user:{ada}"), now());
    assert_eq!(edge.status(&known).await, 200);
    edge.store.close().await;
    assert_eq!(edge.status(&known).await, 200, "the store is not asked");
    let unknown = token(&format!("user:{}", UserId::generate(&Env::system())), now());
    let response = edge.initialize(&[("authorization", &bearer(&unknown))]).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &http::HeaderValue::from_static("1"))
    );
    assert_eq!(edge.status(&token(GUEST, now())).await, 200);
}

#[tokio::test]
async fn callers_have_what_their_principal_and_their_grant_have_in_common() {
    let edge = edge(AuthMode::Both).await;
    let ada = user(&edge.store).await;
    let some = Arc::new(AllowList::default());
    let key = VirtualKey {
        scopes: scopes("read mcp"),
        groups: scopes("ops"),
        allow: AllowList::default(),
        ..virtual_key("ann", "pk_ann")
    };
    let allow = {
        let mut allow = auth(AuthMode::Both).allow;
        allow.guests = some.clone();
        allow
    };
    let settings = Auth { allow, ..auth(AuthMode::Both) };
    edge.snapshot.store(Arc::new(Snapshot { auth: Arc::new(settings.clone()), ..snapshot_of([key]) }));
    let tools = ToolScope(vec![vec![Glob::parse("notes/*").unwrap()]]);
    let admitted = |principal: String| {
        let token = AccessToken {
            scopes: scopes("mcp write"),
            tools: tools.clone(),
            claims: Some(r#"{"a":1}"#.into()),
            ..token(&principal, now())
        };
        let mut headers = HeaderMap::new();
        headers.insert("authorization", http::HeaderValue::try_from(bearer(&token)).unwrap());
        let gate = edge.mcp.gate.clone();
        async move { gate.admit(&knock(&headers)).await.unwrap() }
    };
    for (principal, words, groups, allow) in [
        (format!("user:{ada}"), "mcp write", "lab", &*settings.allow.users),
        (GUEST.to_owned(), "mcp write", "", &*some),
        ("key:ann".to_owned(), "mcp", "ops", &AllowList::default()),
    ] {
        let caller = admitted(principal.clone()).await;
        assert_eq!(caller.principal.to_string(), principal);
        assert_eq!(
            (caller.scopes.join(" "), caller.groups.join(" ")),
            (words.to_owned(), groups.to_owned()),
            "{principal}"
        );
        assert_eq!((caller.client_id(), &caller.tools, &*caller.allow), ("app", &tools, allow), "{principal}");
        assert_eq!(caller.claims.as_deref(), Some(r#"{"a":1}"#));
        let pass = caller.pass.clone().unwrap();
        assert_eq!(pass.scopes, scopes("mcp write"));
        let again = edge.mcp.gate.again(&caller.principal, Some(&pass)).await.unwrap();
        assert_eq!((&again.scopes, &again.groups, &again.tools), (&caller.scopes, &caller.groups, &caller.tools));
    }
}

#[tokio::test]
async fn whoever_presents_nothing_is_anonymous_where_nothing_is_required() {
    let edge = edge(AuthMode::Both).await;
    let open = |mode| Auth { required: false, ..auth(mode) };
    for (mode, status) in [(AuthMode::Keys, 200), (AuthMode::Both, 200), (AuthMode::Oauth, 401)] {
        edge.admit(open(mode));
        assert_eq!(edge.initialize(&[]).await.status(), status, "{mode:?}");
        for bad in ["Bearer pk_eve", "Bearer eyJ.x.y", "Basic x"] {
            assert_eq!(edge.initialize(&[("authorization", bad)]).await.status(), 401, "{mode:?} {bad}");
        }
    }
    edge.admit(open(AuthMode::Both));
    let caller = edge.mcp.gate.admit(&knock(&HeaderMap::new())).await.unwrap();
    assert_eq!((caller.principal, caller.client), (Principal::Anonymous, None));
    assert!(Arc::ptr_eq(&caller.allow, &edge.snapshot.load().auth.allow.guests));
}

#[tokio::test]
async fn nobody_is_anonymous_on_a_listener_for_others_unless_that_is_meant() {
    let edge = edge(AuthMode::Both).await;
    let gate = resource_of(&edge.mcp.services, &edge.snapshot, edge.standing.clone(), None, false);
    let is_let_in = async || gate.admit(&knock(&HeaderMap::new())).await.is_ok();
    let stays = async || {
        let again = gate.again(&Principal::Anonymous, None).await.is_ok();
        (again, gate.witness(&Principal::Anonymous, None).is_some())
    };
    // As after a reload of a file that names another listener.
    edge.admit(Auth { required: false, ..auth(AuthMode::Both) });
    assert_eq!((is_let_in().await, stays().await), (false, (false, false)));
    edge.admit(Auth { required: false, anonymous_on_network: true, ..auth(AuthMode::Both) });
    assert_eq!((is_let_in().await, stays().await), (true, (true, true)));
    edge.admit(Auth { required: false, anonymous_on_network: true, ..auth(AuthMode::Oauth) });
    assert_eq!((is_let_in().await, stays().await), (false, (false, false)));
}

#[tokio::test]
async fn a_token_in_the_browser_of_somebody_else_is_refused() {
    let edge = edge(AuthMode::Both).await;
    let (ada, bob) = (user(&edge.store).await, user(&edge.store).await);
    let services = edge.mcp.services.clone();
    let signed_in = bob.clone();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let browsers: crate::authorization::resource::Browsers = Box::new(move |headers| {
        counted.fetch_add(1, Ordering::SeqCst);
        let cookie = headers["cookie"].to_str().unwrap_or_default().to_owned();
        let bob = signed_in.clone();
        Box::pin(async move {
            match cookie.as_str() {
                "bob" => Ok(Some(bob)),
                "broken" => Err(Fault::Busy),
                _ => Ok(None),
            }
        })
    });
    let gate = resource_of(&services, &edge.snapshot, edge.standing.clone(), Some(browsers), true);
    let admitted = |principal: String, cookie: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", http::HeaderValue::try_from(bearer(&token(&principal, now()))).unwrap());
        if let Some(cookie) = cookie {
            headers.insert("cookie", http::HeaderValue::try_from(cookie).unwrap());
        }
        let gate = gate.clone();
        async move {
            let parts = http::Request::new(()).into_parts().0;
            let admitted = gate.admit(&knock(&headers)).await;
            admitted
                .map_or_else(|error| entrance::refuse(&gate, &parts, &error).into_response().status().as_u16(), |_| 200)
        }
    };
    for (principal, cookie, status) in [
        (format!("user:{ada}"), None, 200),
        (format!("user:{ada}"), Some("theme=dark"), 200),
        (format!("user:{ada}"), Some("bob"), 401),
        (format!("user:{bob}"), Some("bob"), 200),
        (format!("user:{ada}"), Some("broken"), 503),
        (GUEST.to_owned(), Some("bob"), 200),
        ("key:ann".to_owned(), Some("bob"), 200),
    ] {
        assert_eq!(admitted(principal.clone(), cookie).await, status, "{principal} {cookie:?}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3, "each browser was asked about once");
    assert_eq!(admitted(format!("user:{ada}"), Some("broken")).await, 503);
    assert_eq!(asked.load(Ordering::SeqCst), 4, "what could not be told is asked again");
}

#[tokio::test]
async fn another_loopback_name_of_the_gateway_is_answered_with_the_right_one() {
    let edge = edge(AuthMode::Both).await;
    let good = bearer(&token(GUEST, now()));
    for (host, credential, status) in [
        ("127.0.0.1:7400", None, 401),
        ("localhost:7400", None, 421),
        ("LOCALHOST.:7400", None, 421),
        ("[::1]:7400", None, 421),
        ("127.0.0.2:7400", None, 421),
        ("127.0.0.1", None, 421),
        ("gateway.example", None, 401),
        ("localhost.example:7400", None, 401),
        ("localhost:7400", Some(&*good), 421),
        ("127.0.0.1:7400", Some(&*good), 200),
        ("localhost:7400", Some("Bearer pk_ann"), 200),
        ("localhost:7400", Some("Bearer pk_eve"), 401),
    ] {
        let mut headers = vec![("host", host)];
        headers.extend(credential.map(|credential| ("authorization", credential)));
        let response = edge.initialize(&headers).await;
        assert_eq!(response.status(), status, "{host} {credential:?}");
        if status == 421 {
            assert!(text(response).await.contains("http://127.0.0.1:7400/mcp"), "{host}");
        }
    }
    edge.admit(auth(AuthMode::Keys));
    assert_eq!(edge.initialize(&[("host", "localhost:7400")]).await.status(), 401, "there is nothing to find");
    edge.admit(Auth { required: false, ..auth(AuthMode::Both) });
    assert_eq!(edge.initialize(&[("host", "localhost:7400")]).await.status(), 200, "nothing is to be found");
}

#[tokio::test]
async fn a_browser_gets_a_page_that_says_how_to_connect() {
    const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let edge = edge(AuthMode::Both).await;
    let response = edge.ask("GET", "/mcp/notes", &[("accept", BROWSER)], "").await;
    assert_eq!(response.status(), 401);
    assert!(challenge(&response).ends_with(r#"oauth-protected-resource/mcp/notes""#));
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    assert!(headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    assert_eq!(headers["cache-control"], "no-store");
    let page = text(response).await;
    assert!(page.contains("http://127.0.0.1:7400/mcp/notes") && page.contains("pk_"), "{page}");
    edge.admit(auth(AuthMode::Oauth));
    assert!(!text(edge.ask("GET", "/mcp", &[("accept", BROWSER)], "").await).await.contains("pk_"));
    let is_json = async |method: &str, headers: &[(&str, &str)]| {
        let response = edge.ask(method, "/mcp", headers, "").await;
        assert_eq!(response.status(), 401);
        response.headers()["content-type"] == "application/json"
    };
    assert!(is_json("GET", &[]).await);
    assert!(is_json("GET", &[("accept", "text/event-stream")]).await);
    assert!(is_json("GET", &[("accept", "text/html, application/json")]).await);
    assert!(is_json("POST", &[("accept", BROWSER)]).await);
    assert!(is_json("GET", &[("accept", BROWSER), ("authorization", "Bearer eyJ")]).await);
    edge.admit(auth(AuthMode::Keys));
    assert!(is_json("GET", &[("accept", BROWSER)]).await);
}

/// The stream of a session, after its first piece.
async fn stream(edge: &Edge, token: &AccessToken, session: &str) -> axum::body::BodyDataStream {
    let headers = [("authorization", &*bearer(token)), ("mcp-session-id", session), ("accept", "text/event-stream")];
    let mut stream = edge.ask("GET", "/mcp", &headers, "").await.into_body().into_data_stream();
    piece(&mut stream).await.unwrap();
    stream
}

async fn rest(stream: &mut axum::body::BodyDataStream) {
    while piece(stream).await.is_some() {}
}

#[tokio::test]
async fn a_stream_ends_with_its_grant_its_key_and_its_kind() {
    let patience = Duration::from_secs(20);
    let edge = edge(AuthMode::Both).await;
    edge.follow().await;
    let ended = async |token: &AccessToken, end: &dyn Fn()| {
        let session = edge.session_of(token).await;
        let mut stream = stream(&edge, token, &session).await;
        end();
        tokio::time::timeout(patience, rest(&mut stream)).await.is_ok()
    };
    let of_guest = token(GUEST, now());
    assert!(ended(&of_guest, &|| edge.admit(Auth { guests: false, ..auth(AuthMode::Both) })).await);
    edge.admit(auth(AuthMode::Both));
    let of_key = token("key:ann", now());
    let without = || Snapshot { auth: Arc::new(auth(AuthMode::Both)), ..snapshot_of([virtual_key("bob", "pk_bob")]) };
    assert!(ended(&of_key, &|| edge.snapshot.store(Arc::new(without()))).await);

    let of_grant = token(GUEST, now());
    let session = edge.session_of(&of_grant).await;
    let mut stream = stream(&edge, &of_grant, &session).await;
    let whose = Whose::Client(of_grant.client.clone());
    revocations::revoke_all(&edge.store, whose, RevocationReason::Operator, Actor::System).await.unwrap();
    tokio::time::timeout(patience, rest(&mut stream)).await.expect("it ends");
}

/// Takes in nothing.
struct Broken;

impl Subscriber for Broken {
    fn take<'a>(&'a self, _: &'a News) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Err(StoreError::Busy) })
    }
}

#[tokio::test]
async fn a_stream_of_a_token_ends_when_nobody_knows_what_was_revoked() {
    let edge = edge(AuthMode::Both).await;
    let clock = Env::system().adjustable().1;
    let follower = Follower::begin(edge.store.clone(), clock, Duration::from_secs(10)).await.unwrap();
    let subscribers: Vec<Arc<dyn Subscriber>> = vec![Arc::new(Broken), edge.standing.clone()];
    edge.mcp.tasks.spawn(follower.run(subscribers, edge.mcp.tasks.stopping().clone()));
    let of_guest = token(GUEST, now());
    let session = edge.session_of(&of_guest).await;
    let mut of_token = stream(&edge, &of_guest, &session).await;
    let own = edge.session("2025-11-25", "{}").await;
    let headers = [("mcp-session-id", &*own), ("accept", "text/event-stream")];
    let mut of_key = edge.send("ann", "GET", "/mcp", &headers, "").await.into_body().into_data_stream();
    piece(&mut of_key).await.unwrap();
    // Perhaps it is about the guest.
    let whose = Whose::Client(crate::ids::ClientId::parse("other").unwrap());
    revocations::revoke_all(&edge.store, whose, RevocationReason::Operator, Actor::System).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), rest(&mut of_token)).await.expect("it ends");
    assert!(edge.mcp.sessions.named(&session).is_some(), "it can go on with new streams later");
    assert!(tokio::time::timeout(Duration::from_secs(2), rest(&mut of_key)).await.is_err(), "keys are known");
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_its_token_by_an_hour_at_most() {
    use crate::admin::testing::Skewed;
    use crate::http::replica::Directory;
    let clock = Skewed::right();
    let freshness = Freshness::new(None, clock.env().adjustable().1);
    let edge = Edge::with(limits(), Directory::Alone, None, clock.env(), freshness).await;
    edge.admit(auth(AuthMode::Both));
    let token = token(GUEST, clock.env().now());
    let session = edge.session_of(&token).await;
    let mut stream = stream(&edge, &token, &session).await;
    clock.advance(Duration::from_secs(60 * 60));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(edge.ping(&token, &session).await, 401, "it is too old for anything new");
    assert!(edge.mcp.sessions.named(&session).is_some(), "what it has goes on");
    clock.advance(Duration::from_secs(10 * 60));
    rest(&mut stream).await;
}

#[tokio::test]
async fn t18_a_bound_token_opens_with_a_proof_of_its_key_and_not_otherwise() {
    use serde_json::json;

    use crate::oauth::dpop::{Asked, testing::client};
    use crate::oauth::signing::Algorithm;

    let edge = edge(AuthMode::Both).await;
    let (one, other) = (client(Algorithm::Es256), client(Algorithm::EdDsa));
    let bound = signed(&AccessToken { proof: Some(one.thumbprint()), ..token(GUEST, now()) });
    let free = signed(&token(GUEST, now()));
    let secret = crate::secret::Plaintext::new(bound.as_str());
    let asked = Asked { method: "POST", address: RESOURCE, access_token: Some(&secret), now: now() };
    let proof = || one.proof(&asked, &json!({}));
    let send = async |scheme: &str, token: &str, proofs: &[&str]| {
        let authorization = format!("{scheme} {token}");
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend(proofs.iter().map(|proof| ("dpop", *proof)));
        let response = edge.initialize(&headers).await;
        let all = response.headers().get_all("www-authenticate").iter().map(|value| value.to_str().unwrap().to_owned());
        let challenges: Vec<String> = all.collect();
        let nonce = response.headers().get("dpop-nonce").map(|nonce| nonce.to_str().unwrap().to_owned());
        (response.status().as_u16(), challenges, nonce)
    };
    let used = proof();
    // The body is waited for, and the proof counts for the whole request.
    assert_eq!(send("DPoP", &bound, &[&used]).await.0, 200);
    assert_eq!(send("dpop", &bound, &[&proof()]).await.0, 200);

    let elsewhere = one.proof(&Asked { address: "http://127.0.0.1:7400/sse", ..asked }, &json!({}));
    let other_method = one.proof(&Asked { method: "GET", ..asked }, &json!({}));
    let without_hash = one.proof(&Asked { access_token: None, ..asked }, &json!({}));
    let old = one.proof(&asked, &json!({ "iat": 1_000 }));
    let (of_other, fresh) = (other.proof(&asked, &json!({})), proof());
    for (scheme, sent, proofs, error) in [
        ("DPoP", &bound, vec![used.as_str()], "invalid_dpop_proof"),
        ("DPoP", &bound, vec![], "invalid_dpop_proof"),
        ("DPoP", &bound, vec![&fresh, &fresh], "invalid_dpop_proof"),
        ("DPoP", &bound, vec![&elsewhere], "invalid_dpop_proof"),
        ("DPoP", &bound, vec![&other_method], "invalid_dpop_proof"),
        ("DPoP", &bound, vec![&without_hash], "invalid_dpop_proof"),
        ("DPoP", &bound, vec![&of_other], "invalid_dpop_proof"),
        ("DPoP", &bound, vec![&old], "use_dpop_nonce"),
        ("Bearer", &bound, vec![], "invalid_dpop_proof"),
        ("Bearer", &bound, vec![&fresh], "invalid_dpop_proof"),
        ("DPoP", &free, vec![&fresh], "invalid_token"),
        ("DPoP", &free, vec![], "invalid_token"),
    ] {
        let (status, challenges, nonce) = send(scheme, sent, &proofs).await;
        assert_eq!(status, 401, "{scheme} {proofs:?}");
        assert!(challenges[0].starts_with("Bearer ") && challenges[0].contains(ABOUT), "{challenges:?}");
        let expected = format!(r#"DPoP error="{error}", algs="ES256 EdDSA PS256 RS256""#);
        assert_eq!(challenges[1..], [expected], "{scheme} {proofs:?}");
        assert_eq!(nonce.is_some(), error == "use_dpop_nonce");
    }
    // With the nonce, the same clock is right.
    let (_, _, nonce) = send("DPoP", &bound, &[&old]).await;
    let with_nonce = one.proof(&asked, &json!({ "iat": 1_000, "nonce": nonce.unwrap() }));
    assert_eq!(send("DPoP", &bound, &[&with_nonce]).await.0, 200);
    // Nobody is led to prove a key where nothing needs one.
    assert_eq!(send("Bearer", "eyJ.x.y", &[]).await.1.len(), 1);
}

#[tokio::test]
async fn t20_many_wrong_keys_of_one_address_have_to_wait_and_right_ones_never() {
    let edge = edge(AuthMode::Both).await;
    let initialize = async |credential: &str, from: &str| {
        use tower::ServiceExt as _;
        let request = axum::extract::Request::builder().method("POST").uri("/mcp");
        let request = request.header("content-type", "application/json").header("authorization", credential);
        let peer = crate::http::serve::Peer::Tcp(format!("{from}:50000").parse().unwrap());
        let request = request.extension(peer).body(axum::body::Body::from(INITIALIZE)).unwrap();
        edge.mcp.clone().router().oneshot(request).await.into_response()
    };
    let (here, there) = ("192.0.2.1", "192.0.2.2");
    for number in 0..600 {
        assert_eq!(initialize(&format!("Bearer pk_{number}"), here).await.status(), 401, "{number}");
    }
    // On a busy machine some more are let in meanwhile: one for each tenth of a second.
    let mut refused = initialize("Bearer pk_wrong", here).await;
    for _ in 0..300 {
        if refused.status() != 401 {
            break;
        }
        refused = initialize("Bearer pk_wrong", here).await;
    }
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after") && !refused.headers().contains_key("www-authenticate"));
    assert_eq!(initialize("Bearer pk_wrong", there).await.status(), 401, "another address");
    for right in ["Bearer pk_ann".to_owned(), bearer(&token(GUEST, now()))] {
        assert_eq!(initialize(&right, here).await.status(), 200, "{right}");
    }
}
