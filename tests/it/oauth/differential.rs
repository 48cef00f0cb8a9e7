//! The same requests to an authorization server that others wrote, the library `oauth-as`, and to ours: what is answered must
//! be the same, or the difference must be a decision, which stands in [`DECIDED`] with its reason.

use std::fmt::Write as _;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use oauth_as::client::{Client as TheirClient, ClientAuth, ClientId};
use oauth_as::grant::GrantType;
use oauth_as::http::{ApprovalDecision, AuthorizationService, ServiceBuilder};
use oauth_as::scope::ScopeSet;
use oauth_as::server::{AuthorizationServer, ServerConfig, SystemClock};
use oauth_as::store::MemoryStorage;
use portcullis_tests::oauth::client::{Proof, basic, random};
use portcullis_tests::oauth::connection::send;
use portcullis_tests::oauth::{Browser, encoded, parameter};
use portcullis_tests::{Gateway, upstreams::fixture::Fixture};
use serde_json::Value;

use super::{Who, choose, gateway_with};

const ISSUER: &str = "https://as.example";
const CALLBACK: &str = "https://client.example/callback";
const PUBLIC: &str = "public";
const CONFIDENTIAL: &str = "confidential";
const SECRET: &str = "pcs_a-secret-of-a-client-that-both-know-0000000";
const VERIFIER: &str = "a-verifier-that-is-as-long-as-verifiers-have-to-be-0";

/// What differs by design: the case, what we answer, what they answer, and why ours is as it is.
const DECIDED: &[(&str, &str, &str, &str)] = &[
    ("authorize: no client", "400", "400 invalid_request", "a person sees a page, not JSON (A1)"),
    ("authorize: an unknown client", "400", "400 invalid_request", "a person sees a page, not JSON (A1)"),
    ("authorize: an unknown address", "400", "400 invalid_request", "a person sees a page, not JSON (A1)"),
    ("authorize: an address with more", "400", "400 invalid_request", "a person sees a page, not JSON (A1)"),
    ("authorize: no address", "400", "redirect with a code", "the address is always named and compared (A1)"),
    ("authorize: state twice", "redirect invalid_request", "redirect with a code", "RFC 6749 §3.1: once (A5)"),
    ("authorize: scope twice", "redirect invalid_request", "redirect with a code", "RFC 6749 §3.1: once (A5)"),
    ("authorize: client twice", "400", "redirect with a code", "RFC 6749 §3.1: once (A5)"),
    ("authorize: address twice", "400", "redirect with a code", "RFC 6749 §3.1: once (A5)"),
    ("authorize: challenge twice", "redirect invalid_request", "redirect with a code", "RFC 6749 §3.1: once (A5)"),
    (
        "authorize: a request object",
        "redirect request_not_supported",
        "redirect with a code",
        "RFC 9101 §6: who sends one means what is in it (A5)",
    ),
    (
        "token: without an address",
        "400 invalid_request",
        "400 invalid_grant",
        "RFC 6749 §4.1.3: it was in the request, and is missing",
    ),
    (
        "token: of a grant type that is not the client's",
        "400 unsupported_grant_type",
        "400 invalid_client",
        "it is turned off for everybody, which is said before who asks is looked at",
    ),
    ("token: without a client", "401 invalid_client", "400 invalid_client", "RFC 6749 §5.2 allows both: 401 (T3)"),
    ("token: by an unknown client", "401 invalid_client", "400 invalid_client", "RFC 6749 §5.2 allows both: 401 (T3)"),
    ("token: by another client", "401 invalid_client", "400 invalid_client", "RFC 6749 §5.2 allows both: 401 (T3)"),
    (
        "token: with a secret that a public client does not have",
        "401 invalid_client",
        "400 invalid_client",
        "RFC 6749 §5.2 allows both: 401 (T3)",
    ),
    ("token: with the code twice", "400 invalid_request", "200 tokens", "RFC 6749 §3.2: once (A5)"),
    ("token: with the grant type twice", "400 invalid_request", "200 tokens", "RFC 6749 §3.2: once (A5)"),
    (
        "token: refresh by another client",
        "401 invalid_client",
        "400 invalid_client",
        "RFC 6749 §5.2 allows both: 401 (T3)",
    ),
    (
        "introspect: a refresh token",
        "200 active true",
        "200 active false",
        "RFC 7662 §2.1: either kind may be asked about by its client",
    ),
    ("introspect: by nobody", "401 invalid_client", "400 invalid_client", "RFC 7662 §2.3: 401"),
    ("revoke: by nobody", "401 invalid_client", "400 invalid_client", "RFC 6749 §5.2 allows both: 401 (T3)"),
];

type Fields = Vec<(String, String)>;
/// What it is, what is changed, and the header of a client.
type Redemption<'a> = (&'a str, Vec<(&'a str, &'a str)>, Option<&'a str>);

/// An answer as far as the two can be compared.
fn outcome(status: u16, location: Option<&str>, body: &str) -> String {
    if let Some(location) = location.filter(|location| location.starts_with("https://client.example")) {
        return match (parameter(location, "error"), parameter(location, "code")) {
            (Some(error), None) => format!("redirect {error}"),
            (None, Some(_)) => "redirect with a code".to_owned(),
            other => format!("redirect {other:?}"),
        };
    }
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    match (json["error"].as_str(), json["access_token"].as_str(), json["active"].as_bool()) {
        (Some(error), ..) => format!("{status} {error}"),
        (None, Some(_), _) => format!("{status} tokens"),
        (.., Some(active)) => format!("{status} active {active}"),
        _ => format!("{status}"),
    }
}

struct Theirs(AuthorizationService<MemoryStorage, SystemClock>);

impl Theirs {
    async fn start() -> Self {
        let mut config = ServerConfig::new(ISSUER, format!("{ISSUER}/device"));
        config.scopes_supported = Some(vec!["mcp".to_owned()]);
        config.allowed_resources = Some([format!("{ISSUER}/mcp").into_boxed_str()].into());
        let server = Arc::new(AuthorizationServer::new(config, MemoryStorage::new()));
        let scopes = ScopeSet::from_tokens(["mcp"]).unwrap();
        for (id, auth) in
            [(PUBLIC, ClientAuth::Public), (CONFIDENTIAL, ClientAuth::ConfidentialSecret { secret: SECRET.to_owned() })]
        {
            let client = TheirClient {
                client_id: ClientId::new(id),
                auth,
                grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
                redirect_uris: vec![CALLBACK.to_owned()],
                allowed_scopes: scopes.clone(),
                default_scopes: scopes.clone(),
                name: None,
                registration: None,
            };
            server.register_client(client).await.unwrap();
        }
        let service = ServiceBuilder::new(server)
            .with_subject_resolver(|_| Some("ann".to_owned()))
            .with_approval_resolver(|_| ApprovalDecision::Approve);
        Self(service.build().unwrap())
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        authorization: Option<&str>,
        body: String,
    ) -> (u16, Option<String>, String) {
        let mut request = http::Request::builder().method(method).uri(path);
        if method == "POST" {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let answer = self.0.handle(request.body(http_body_util::Full::new(bytes::Bytes::from(body))).unwrap()).await;
        let location = answer.headers().get(LOCATION).map(|to| to.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        (status, location, String::from_utf8_lossy(&answer.into_body().into_bytes()).into_owned())
    }
}

/// Both servers, asked the same.
struct Both {
    theirs: Theirs,
    gateway: Gateway,
    /// Case by case what we and what they answer.
    said: Vec<(String, String, String)>,
}

impl Both {
    fn ours(&self, text: &str) -> String {
        text.replace(ISSUER, &format!("http://{}", self.gateway.public))
    }

    fn asked(&self, others: &[(&str, &str)], is_ours: bool) -> String {
        let mut fields: Fields = [
            ("response_type", "code"),
            ("client_id", PUBLIC),
            ("redirect_uri", CALLBACK),
            ("scope", "mcp"),
            ("state", "a-state"),
            ("code_challenge", Proof::of(VERIFIER.to_owned()).challenge.as_str()),
            ("code_challenge_method", "S256"),
            ("resource", &format!("{ISSUER}/mcp")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        change(&mut fields, others);
        if is_ours {
            fields.iter_mut().for_each(|(_, value)| *value = self.ours(value));
        }
        encoded(&fields)
    }

    /// An authorization request with something changed.
    async fn authorize(&mut self, case: &str, others: &[(&str, &str)]) {
        let (ours, _) = self.our_code(others).await;
        let (theirs, _) = self.their_code(others).await;
        self.said.push((format!("authorize: {case}"), ours, theirs));
    }

    async fn our_code(&self, others: &[(&str, &str)]) -> (String, Option<String>) {
        let mut browser = Browser::new(self.gateway.public);
        let url = format!("/oauth2/authorize?{}", self.asked(others, true));
        let mut page = browser.get(&url).await;
        if page.find("/identity").is_some() {
            page = choose(&mut browser, page, Who::Guest).await;
            page = browser.submit(&page.form("/finish")).await;
        }
        let code = page.told("code");
        (outcome(page.status(), Some(&page.url), page.reply.text()), code)
    }

    async fn their_code(&self, others: &[(&str, &str)]) -> (String, Option<String>) {
        let path = format!("/authorize?{}", self.asked(others, false));
        let (status, location, body) = self.theirs.send("GET", &path, None, String::new()).await;
        let code = location.as_deref().and_then(|location| parameter(location, "code"));
        (outcome(status, location.as_deref(), &body), code)
    }

    /// The same request to both endpoints. `own` are the fields of ours and theirs that cannot be the same.
    async fn post(&mut self, case: &str, endpoint: &str, authorization: Option<&str>, own: [Fields; 2]) -> [Value; 2] {
        let [mut ours, theirs] = own;
        ours.iter_mut().for_each(|(_, value)| *value = self.ours(value));
        let mut headers = vec![("content-type", "application/x-www-form-urlencoded")];
        headers.extend(authorization.map(|value| ("authorization", value)));
        let reply = send(self.gateway.public, "POST", &format!("/oauth2/{endpoint}"), &headers, encoded(&ours)).await;
        let path = format!("/{endpoint}");
        let (status, location, body) = self.theirs.send("POST", &path, authorization, encoded(&theirs)).await;
        let ours = outcome(reply.status.as_u16(), None, reply.text());
        self.said.push((format!("{endpoint}: {case}"), ours, outcome(status, location.as_deref(), &body)));
        [reply.text(), &body].map(|text| serde_json::from_str(text).unwrap_or_default())
    }

    /// Redeems a fresh code of each with something changed.
    async fn redeem(&mut self, case: &str, others: &[(&str, &str)], authorization: Option<&str>) -> [Value; 2] {
        let client = if authorization.is_some() { CONFIDENTIAL } else { PUBLIC };
        let (_, ours) = self.our_code(&[("client_id", client)]).await;
        let (_, theirs) = self.their_code(&[("client_id", client)]).await;
        let own = [ours, theirs].map(|code| redemption(&code.expect("a code"), others, authorization.is_none()));
        self.post(case, "token", authorization, own).await
    }
}

fn change(fields: &mut Fields, others: &[(&str, &str)]) {
    for (name, value) in others {
        if let Some(name) = name.strip_prefix('+') {
            fields.push((name.to_owned(), (*value).to_owned()));
            continue;
        }
        fields.retain(|(known, _)| known != name);
        if !value.is_empty() {
            fields.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
}

fn redemption(code: &str, others: &[(&str, &str)], names_itself: bool) -> Fields {
    let mut fields: Fields = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
        ("resource", &format!("{ISSUER}/mcp")),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    if names_itself {
        fields.push(("client_id".to_owned(), PUBLIC.to_owned()));
    }
    change(&mut fields, others);
    fields
}

fn refreshing(token: &str, others: &[(&str, &str)]) -> Fields {
    let mut fields: Fields = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", PUBLIC)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    change(&mut fields, others);
    fields
}

#[tokio::test]
async fn another_server_answers_the_same_or_the_difference_is_decided() {
    let up = Fixture::start().await;
    let settings = format!(
        "[auth.tokens]\nrefresh_grace = \"0s\"\n[auth.clients.known.{PUBLIC}]\nredirect_uris = [\"{CALLBACK}\"]\n\
         [auth.clients.known.{CONFIDENTIAL}]\nredirect_uris = [\"{CALLBACK}\"]\nsecret = \"file:client.secret\"\n"
    );
    let builder = gateway_with(&up, &settings).file("client.secret", SECRET.as_bytes());
    let gateway = builder.start().await;
    let mut both = Both { theirs: Theirs::start().await, gateway, said: Vec::new() };

    let (short, long, plus) = ("a".repeat(42), "a".repeat(44), format!("{}+", "a".repeat(42)));
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("as it should be", vec![]),
        ("no state", vec![("state", "")]),
        ("no scope", vec![("scope", "")]),
        ("no resource", vec![("resource", "")]),
        ("no client", vec![("client_id", "")]),
        ("an unknown client", vec![("client_id", "nobody")]),
        ("no address", vec![("redirect_uri", "")]),
        ("an unknown address", vec![("redirect_uri", "https://evil.example/")]),
        ("an address with more", vec![("redirect_uri", "https://client.example/callback/x")]),
        ("no response type", vec![("response_type", "")]),
        ("response type token", vec![("response_type", "token")]),
        ("no challenge", vec![("code_challenge", ""), ("code_challenge_method", "")]),
        ("no method", vec![("code_challenge_method", "")]),
        ("method plain", vec![("code_challenge_method", "plain"), ("code_challenge", VERIFIER)]),
        ("a short challenge", vec![("code_challenge", &short)]),
        ("a long challenge", vec![("code_challenge", &long)]),
        ("a challenge in another alphabet", vec![("code_challenge", &plus)]),
        ("an unknown scope", vec![("scope", "everything")]),
        ("one scope too many", vec![("scope", "mcp everything")]),
        ("another resource", vec![("resource", "https://elsewhere.example/mcp")]),
        ("a resource with a fragment", vec![("resource", "https://as.example/mcp#f")]),
        ("a resource that is no address", vec![("resource", "mcp")]),
        ("state twice", vec![("+state", "b")]),
        ("scope twice", vec![("+scope", "mcp")]),
        ("client twice", vec![("+client_id", PUBLIC)]),
        ("address twice", vec![("+redirect_uri", CALLBACK)]),
        ("challenge twice", vec![("+code_challenge", &short)]),
        ("a request object", vec![("request", "e30.e30.")]),
        ("an unknown parameter", vec![("color", "red")]),
    ];
    for (case, others) in cases {
        both.authorize(case, &others).await;
    }

    let header = basic(CONFIDENTIAL, SECRET);
    let (wrong_secret, other_verifier) = (basic(CONFIDENTIAL, "wrong"), random());
    let cases: Vec<Redemption<'_>> = vec![
        ("a code", vec![], None),
        ("a code of a confidential client", vec![], Some(&header)),
        ("with a wrong secret", vec![], Some(&wrong_secret)),
        ("without a resource", vec![("resource", "")], None),
        ("for another resource", vec![("resource", "https://elsewhere.example/mcp")], None),
        ("without an address", vec![("redirect_uri", "")], None),
        ("with another address", vec![("redirect_uri", "https://client.example/other")], None),
        ("without a verifier", vec![("code_verifier", "")], None),
        ("with another verifier", vec![("code_verifier", &other_verifier)], None),
        ("with a short verifier", vec![("code_verifier", "short")], None),
        ("without a code", vec![("code", "")], None),
        ("with a wrong code", vec![("code", "wrong")], None),
        ("without a grant type", vec![("grant_type", "")], None),
        ("of an unknown grant type", vec![("grant_type", "password")], None),
        ("of a grant type that is not the client's", vec![("grant_type", "client_credentials")], None),
        ("without a client", vec![("client_id", "")], None),
        ("by an unknown client", vec![("client_id", "nobody")], None),
        ("by another client", vec![("client_id", CONFIDENTIAL)], None),
        ("with a secret that a public client does not have", vec![("client_secret", "x")], None),
        ("in two ways at once", vec![("client_id", CONFIDENTIAL), ("client_secret", SECRET)], Some(&header)),
        ("with the code twice", vec![("+code", "x")], None),
        ("with the grant type twice", vec![("+grant_type", "authorization_code")], None),
    ];
    for (case, others, authorization) in cases {
        both.redeem(case, &others, authorization).await;
    }

    // A code that is used twice, and what becomes of the first one's tokens.
    let (_, ours) = both.our_code(&[]).await;
    let (_, theirs) = both.their_code(&[]).await;
    let codes = [ours.unwrap(), theirs.unwrap()];
    let redeem = || [redemption(&codes[0], &[], true), redemption(&codes[1], &[], true)];
    let first = both.post("a code for the first time", "token", None, redeem()).await;
    both.post("a code for the second time", "token", None, redeem()).await;
    let refresh = |tokens: &[Value; 2], others: &[(&str, &str)]| {
        [0, 1].map(|which| refreshing(tokens[which]["refresh_token"].as_str().unwrap_or_default(), others))
    };
    both.post("what came of a code that was used twice", "token", None, refresh(&first, &[])).await;

    // Rotation without grace, which is what both have then.
    let first = both.redeem("for refreshing", &[], None).await;
    for (case, others) in [
        ("refresh with more scopes", vec![("scope", "mcp everything")]),
        ("refresh for another resource", vec![("resource", "https://elsewhere.example/mcp")]),
        ("refresh by another client", vec![("client_id", "nobody")]),
        ("refresh without a token", vec![("refresh_token", "")]),
        ("refresh with a wrong token", vec![("refresh_token", "wrong")]),
    ] {
        both.post(case, "token", None, refresh(&first, &others)).await;
    }
    let second = both.post("refresh", "token", None, refresh(&first, &[])).await;
    both.post("refresh with a used token", "token", None, refresh(&first, &[])).await;
    both.post("refresh after that", "token", None, refresh(&second, &[])).await;

    // Asking about tokens, and taking them back.
    let tokens = both.redeem("for asking", &[], Some(&header)).await;
    let about = |name: &str| {
        [0, 1].map(|which| vec![("token".to_owned(), tokens[which][name].as_str().unwrap_or_default().to_owned())])
    };
    let nothing =
        || [vec![("token".to_owned(), "nothing".to_owned())], vec![("token".to_owned(), "nothing".to_owned())]];
    both.post("an access token", "introspect", Some(&header), about("access_token")).await;
    both.post("a refresh token", "introspect", Some(&header), about("refresh_token")).await;
    both.post("no token of anybody", "introspect", Some(&header), nothing()).await;
    both.post("by nobody", "introspect", None, about("access_token")).await;
    both.post("with a wrong secret", "introspect", Some(&wrong_secret), about("access_token")).await;
    both.post("no token of anybody", "revoke", Some(&header), nothing()).await;
    both.post("by nobody", "revoke", None, about("access_token")).await;
    both.post("without a token", "revoke", Some(&header), [vec![], vec![]]).await;
    both.post("an access token", "revoke", Some(&header), about("access_token")).await;
    both.post("an access token that was taken back", "introspect", Some(&header), about("access_token")).await;
    both.post("a refresh token", "revoke", Some(&header), about("refresh_token")).await;
    both.post("a refresh token that was taken back", "introspect", Some(&header), about("refresh_token")).await;

    let mut wrong = String::new();
    for (case, ours, theirs) in &both.said {
        let decided = DECIDED.iter().find(|(known, ..)| known == case);
        match decided {
            None if ours != theirs => writeln!(wrong, "{case}: we say {ours}, they say {theirs}").unwrap(),
            Some((_, we, they, why)) if we != ours || they != theirs => {
                writeln!(wrong, "{case}: we say {ours}, they say {theirs}, not {we} and {they} ({why})").unwrap();
            }
            _ => {}
        }
    }
    for (case, ..) in DECIDED {
        if !both.said.iter().any(|(said, ..)| said == case) {
            writeln!(wrong, "{case} was not asked").unwrap();
        }
    }
    assert!(both.said.len() > 60, "{}", both.said.len());
    assert!(wrong.is_empty(), "\n{wrong}");
}
