//! A token for a client in its own name, `client_credentials` (RFC 6749 §4.4).
//!
//! It acts as the virtual key that an operator has bound the client to (`[auth.clients.known.ID] key`), and no client can bind
//! itself. There is no refresh token (§4.4.3): the client comes again. Its tokens follow from one grant a day, which can be seen
//! and revoked like any other; whoever revokes it for good takes the binding away, or disables the key.

use super::super::{AuthorizationServer, Fault};
use super::unattended::{Question, issue, ours, scopes, terms};
use super::{From, Issued, NoGrant, Refused};
use crate::config::Auth;
use crate::ids::Principal;
use crate::oauth::client::{Authentication, ClientOrigin, GrantType, KnownClient};
use crate::policy::authority::GrantKind;
use crate::secret::Digest;
use crate::store::grants::Of;

/// What a client asks for.
#[derive(Debug)]
pub struct Wanted {
    /// None: all that it may have.
    pub scope: Option<String>,
    /// None: the endpoint for all upstreams.
    pub resources: Vec<String>,
    /// Thumbprint of the key that was proven (DPoP).
    pub proof: Option<Digest>,
    pub from: From,
}

/// Gives a token to a client that has shown who it is.
///
/// # Errors
/// Nothing was decided.
pub async fn grant(
    server: &AuthorizationServer,
    client: &KnownClient,
    wanted: Wanted,
) -> Result<Result<Issued, Refused>, Fault> {
    let snapshot = server.snapshot.load_full();
    let settings = &snapshot.auth;
    let Some(principal) = bound_to(settings, client) else { return Ok(Err(Refused::GrantType)) };
    let Wanted { scope, mut resources, proof, from } = wanted;
    // In whatever order it asks: the same is the same grant.
    resources.sort_unstable();
    let scopes = match scopes(settings, client, scope.as_deref()) {
        Ok(scopes) => scopes,
        Err(refused) => return Ok(Err(refused)),
    };
    let Some(resources) = ours(server, &snapshot, resources) else { return Ok(Err(Refused::Resources)) };
    let Some(caller) = server.acting(&snapshot, &principal, &client.id, &scopes).await? else {
        return Ok(Err(Refused::Grant(NoGrant::Principal)));
    };
    let question = Question {
        kind: GrantKind::ClientCredentials,
        scopes: &scopes,
        already_granted: &[],
        resources: &resources,
        caller: &caller,
        life: settings.tokens.access_life,
        proof,
        from: &from,
    };
    let terms = match terms(server, &snapshot, client, question).await {
        Ok(terms) => terms,
        Err(refused) => return Ok(Err(refused)),
    };
    let of = Of::Client(client.id.clone());
    issue(server, client, (principal, of), resources, &terms, proof).await
}

/// As whom a client acts by itself, if it may: one that an operator wrote down, that has shown who it is.
fn bound_to(settings: &Auth, client: &KnownClient) -> Option<Principal> {
    let may = settings.grants.client_credentials
        && client.allows(GrantType::ClientCredentials)
        && client.authentication != Authentication::Public
        && client.origin == ClientOrigin::Configured;
    let configured = settings.clients.known.iter().find(|configured| configured.client.id == client.id)?;
    configured.key.clone().filter(|_| may).map(Principal::Key)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;

    use super::super::super::testing::{Scene, client_id, configured, key, operator, tokens, virtual_key};
    use super::*;
    use crate::audit::RevocationReason;
    use crate::authorization::token::unattended::GRANT_LIFE;
    use crate::config::auth::{ConfiguredClient, ScopeWords};
    use crate::identity::Keyring;
    use crate::identity::key::{Standing, VirtualKey};
    use crate::ids::KeyName;
    use crate::policy::authority::GrantTerms;
    use crate::secret::Plaintext;
    use crate::store::grants;

    /// A server with the client `app`, which is bound to the key `ci`.
    async fn scene() -> (Scene, KnownClient) {
        let scene = Scene::with(|auth| {
            auth.grants.client_credentials = true;
            let scope = |name: &str| ScopeWords { name: name.to_owned(), words: "Words".to_owned() };
            auth.scopes = vec![scope("mcp"), scope("notes:write")];
        })
        .await;
        let mut client = configured(scene.client("app").await);
        client.id = client_id("machine");
        client.metadata.grant_types = vec![GrantType::ClientCredentials];
        bind(&scene, &client, Some("ci"));
        (scene, client)
    }

    fn bind(scene: &Scene, client: &KnownClient, key: Option<&str>) {
        let key = key.map(|name| KeyName::parse(name).unwrap());
        scene.publish(|snapshot| {
            let mut auth = Auth::clone(&snapshot.auth);
            auth.clients.known = vec![ConfiguredClient { client: client.clone(), key }];
            snapshot.auth = Arc::new(auth);
        });
    }

    fn wanted() -> Wanted {
        Wanted { scope: None, resources: Vec::new(), proof: None, from: From::default() }
    }

    async fn asked(scene: &Scene, client: &KnownClient, wanted: Wanted) -> Result<Issued, Refused> {
        grant(&scene.server, client, wanted).await.unwrap()
    }

    #[tokio::test]
    async fn a_client_acts_as_the_key_that_it_is_bound_to() {
        let (scene, client) = scene().await;
        let issued = asked(&scene, &client, wanted()).await.unwrap();
        assert!(issued.refresh_token.is_none() && !issued.is_bound);
        let verifier = scene.server.signing.verifier();
        let epoch = scene.server.signing.epoch();
        let token = verifier.verify(issued.access_token.expose(), scene.now(), epoch).unwrap();
        assert_eq!((token.principal, token.client), (key("ci"), client.id.clone()));
        assert_eq!(token.scopes, tokens(&["mcp", "notes:write"]));
        assert_eq!(token.resources.to_vec(), ["https://gateway.example/mcp"]);
        // The next one follows from the same grant, and one that gives something else from another.
        let second = asked(&scene, &client, wanted()).await.unwrap();
        let again = verifier.verify(second.access_token.expose(), scene.now(), epoch).unwrap();
        assert_eq!(again.grant, token.grant);
        let narrow = Wanted { scope: Some("mcp".to_owned()), ..wanted() };
        let narrow = asked(&scene, &client, narrow).await.unwrap();
        let other = verifier.verify(narrow.access_token.expose(), scene.now(), epoch).unwrap();
        assert!(other.grant != token.grant && other.scopes == tokens(&["mcp"]));
        // A grant that was revoked is not taken up again.
        grants::revoke(&scene.server.store, &token.grant, RevocationReason::Operator, operator()).await.unwrap();
        scene.forward(Duration::from_millis(1));
        let third = asked(&scene, &client, wanted()).await.unwrap();
        let third = verifier.verify(third.access_token.expose(), scene.now(), epoch).unwrap();
        assert_ne!(third.grant, token.grant);
        // Nor one that ends before the token would.
        scene.forward(GRANT_LIFE - Duration::from_secs(60));
        let fourth = asked(&scene, &client, wanted()).await.unwrap();
        let fourth = scene.server.signing.verifier().verify(fourth.access_token.expose(), scene.now(), epoch).unwrap();
        assert_ne!(fourth.grant, third.grant);
    }

    #[tokio::test]
    async fn the_same_is_one_grant_in_whatever_order_and_whatever_policies_say_of_it() {
        let (scene, client) = scene().await;
        let grants = async || {
            let of = Of::Client(client.id.clone());
            grants::list(&scene.server.store, of, None, 10).await.unwrap().items.len()
        };
        for scope in ["mcp notes:write", "notes:write mcp"] {
            let wanted = Wanted { scope: Some(scope.to_owned()), ..wanted() };
            assert_eq!(asked(&scene, &client, wanted).await.unwrap().scopes, tokens(&["mcp", "notes:write"]));
        }
        assert_eq!(grants().await, 1);
        let principal = bound_to(&scene.server.settings(), &client).unwrap();
        let said = async |claims: &str| {
            let terms = GrantTerms {
                scopes: vec!["notes:write".to_owned(), "mcp".to_owned()],
                tools: crate::identity::ToolScope::default(),
                access_ttl: scene.server.settings().tokens.access_life,
                refresh_ttl: None,
                require_sender_constraint: false,
                claims: serde_json::from_str(claims).unwrap(),
                notes: Vec::new(),
            };
            let resources = ours(&scene.server, &scene.server.snapshot.load(), Vec::new()).unwrap();
            let of = (principal.clone(), Of::Client(client.id.clone()));
            let issued = issue(&scene.server, &client, of, resources, &terms, None).await;
            let issued = issued.unwrap().unwrap();
            let epoch = scene.server.signing.epoch();
            let verifier = scene.server.signing.verifier();
            verifier.verify(issued.access_token.expose(), scene.now(), epoch).unwrap().claims
        };
        for number in ["1", "2"] {
            let claims = format!(r#"{{"number":{number}}}"#);
            assert_eq!(said(&claims).await.as_deref(), Some(claims.as_str()));
        }
        assert_eq!(grants().await, 1);
    }

    #[tokio::test]
    async fn nobody_else_gets_a_token_this_way() {
        let (scene, client) = scene().await;
        for other in [
            KnownClient { authentication: Authentication::Public, ..client.clone() },
            KnownClient { origin: ClientOrigin::Registered, ..client.clone() },
            KnownClient { id: client_id("app"), ..client.clone() },
        ] {
            assert_eq!(asked(&scene, &other, wanted()).await.unwrap_err(), Refused::GrantType, "{other:?}");
        }
        let mut unregistered = client.clone();
        unregistered.metadata.grant_types = vec![GrantType::AuthorizationCode];
        assert_eq!(asked(&scene, &unregistered, wanted()).await.unwrap_err(), Refused::GrantType);
        bind(&scene, &client, None);
        assert_eq!(asked(&scene, &client, wanted()).await.unwrap_err(), Refused::GrantType);
        bind(&scene, &client, Some("ci"));
        scene.publish(|snapshot| {
            let mut auth = Auth::clone(&snapshot.auth);
            auth.grants.client_credentials = false;
            snapshot.auth = Arc::new(auth);
        });
        assert_eq!(asked(&scene, &client, wanted()).await.unwrap_err(), Refused::GrantType);
    }

    #[tokio::test]
    async fn what_is_not_the_clients_is_not_given() {
        let (scene, mut client) = scene().await;
        client.metadata.scopes = tokens(&["mcp"]);
        for scope in ["notes:write", "mcp notes:write", "admin", " ", "a\"b"] {
            let wanted = Wanted { scope: Some(scope.to_owned()), ..wanted() };
            assert_eq!(asked(&scene, &client, wanted).await.unwrap_err(), Refused::Scopes, "{scope}");
        }
        assert_eq!(asked(&scene, &client, wanted()).await.unwrap().scopes, tokens(&["mcp"]));
        for resource in
            ["https://evil.example/mcp", "https://gateway.example/mcp/", "https://gateway.example/mcp/notes"]
        {
            let wanted = Wanted { resources: vec![resource.to_owned()], ..wanted() };
            assert_eq!(asked(&scene, &client, wanted).await.unwrap_err(), Refused::Resources, "{resource}");
        }
        client.requires_proof = true;
        assert_eq!(asked(&scene, &client, wanted()).await.unwrap_err(), Refused::ProofNeeded);
        let proven = Wanted { proof: Some(Plaintext::new("key").digest()), ..wanted() };
        assert!(asked(&scene, &client, proven).await.unwrap().is_bound);

        // A key that opens nothing gives nothing.
        let disabled = VirtualKey { standing: Standing::Disabled, ..virtual_key("ci") };
        scene.publish(|snapshot| snapshot.keys = Arc::new(Keyring::new([disabled])));
        client.requires_proof = false;
        assert_eq!(asked(&scene, &client, wanted()).await.unwrap_err(), Refused::Grant(NoGrant::Principal));
    }

    #[tokio::test]
    async fn policies_decide_what_a_client_gets_by_itself() {
        let (scene, client) = scene().await;
        // That the operator has bound the client to a key is the consent: policies that want one have it.
        for otherwise in ["deny", "abstain"] {
            scene.decide_by(json!({ "grants_otherwise": otherwise }));
            let refused = asked(&scene, &client, wanted()).await.unwrap_err();
            assert_eq!(refused, Refused::Grant(NoGrant::Policy), "{otherwise}");
        }
        for otherwise in ["allow", "consent"] {
            scene.decide_by(json!({ "grants_otherwise": otherwise }));
            assert!(asked(&scene, &client, wanted()).await.is_ok(), "{otherwise}");
        }
    }
}
