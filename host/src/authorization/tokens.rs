//! Access tokens for tests: one key, which everything that verifies them knows.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::env::{Env, Timestamp};
use crate::identity::{TokenList, ToolScope};
use crate::ids::{ClientId, GrantId, Principal, TokenId};
use crate::oauth::ResourceList;
use crate::oauth::signing::Algorithm;
use crate::oauth::signing_key::SigningSecret;
use crate::oauth::token::{AccessToken, Signer, Verifier};

pub(crate) const ISSUER: &str = "http://127.0.0.1:7400";
pub(crate) const RESOURCE: &str = "http://127.0.0.1:7400/mcp";

static KEY: LazyLock<(SigningSecret, String)> = LazyLock::new(|| {
    let secret = SigningSecret::generate(Algorithm::EdDsa).expect("a key is made");
    let (id, _) = secret.public().expect("it has a public half");
    (secret, id)
});

pub(crate) static VERIFIER: LazyLock<Arc<Verifier>> = LazyLock::new(|| Arc::new(verifier()));

/// Another one that knows the same key.
pub(crate) fn verifier() -> Verifier {
    let (secret, id) = &*KEY;
    let (_, public) = secret.public().expect("it has a public half");
    Verifier::new(ISSUER, [(id.as_str(), &public)]).expect("it is a key")
}

/// A token for everything of this principal's, for ten minutes.
pub(crate) fn token(principal: &str, issued: Timestamp) -> AccessToken {
    AccessToken {
        id: TokenId::generate(&Env::system()),
        principal: Principal::parse(principal).expect("a principal"),
        client: ClientId::parse("app").expect("a client"),
        grant: GrantId::generate(&Env::system()),
        resources: ResourceList::parse(vec![RESOURCE.to_owned()]).expect("a resource"),
        scopes: scopes("mcp"),
        tools: ToolScope::default(),
        proof: None,
        actors: Vec::new(),
        claims: None,
        issued,
        expires: issued.after(Duration::from_secs(600)),
        epoch: 1,
    }
}

pub(crate) fn scopes(words: &str) -> TokenList {
    TokenList::parse(words.split_whitespace().map(str::to_owned).collect()).expect("scopes")
}

/// As it is sent.
pub(crate) fn signed(token: &AccessToken) -> String {
    let (secret, id) = &*KEY;
    Signer::new(id, secret).expect("a key that signs").sign(ISSUER, token).expect("a token")
}
