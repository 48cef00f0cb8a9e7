//! Whether whoever consented may still be acted for: asked whenever a code is redeemed and a refresh token used.

use crate::env::Timestamp;
use crate::identity::user::User;
use crate::identity::{Caller, TokenList};
use crate::ids::{ClientId, Principal};
use crate::pipeline::{Snapshot, access};
use crate::store::users;

use super::{AuthorizationServer, Fault};

impl AuthorizationServer {
    /// The caller that a principal is now when this client acts for it; `None` if it opens nothing: its key is gone, disabled or
    /// expired, its account is not active, or there are no guests any more.
    ///
    /// # Errors
    /// It cannot be known.
    pub async fn acting(
        &self,
        snapshot: &Snapshot,
        principal: &Principal,
        client: &ClientId,
        scopes: &TokenList,
    ) -> Result<Option<Caller>, Fault> {
        let caller = self.principal(snapshot, principal, self.env.now()).await?;
        Ok(caller.map(|caller| {
            let scopes = match principal {
                // No more than the key has itself: that is all that counts where a token is used.
                Principal::Key(_) => scopes.in_common_with(&caller.scopes),
                _ => scopes.clone(),
            };
            Caller { client: Some(client.as_str().into()), scopes, ..caller }
        }))
    }

    async fn principal(
        &self,
        snapshot: &Snapshot,
        principal: &Principal,
        now: Timestamp,
    ) -> Result<Option<Caller>, Fault> {
        let allow = &snapshot.auth.allow;
        Ok(match principal {
            Principal::Key(_) => snapshot.keys.holder(principal, now),
            Principal::User(id) => {
                let user = users::get(&self.store, id).await?.filter(User::is_active);
                let allow = access::of_user(snapshot, id, now);
                user.map(|user| Caller { groups: user.groups, ..Caller::new(principal.clone(), allow) })
            }
            Principal::Guest(_) => snapshot.auth.guests.then(|| Caller::new(principal.clone(), allow.guests.clone())),
            Principal::Anonymous | Principal::Gateway => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Scene, client_id, key, tokens, virtual_key};
    use super::*;
    use crate::identity::Keyring;
    use crate::identity::key::VirtualKey;

    #[tokio::test]
    async fn policies_see_the_scopes_that_count_where_the_token_is_used() {
        let scene = Scene::new().await;
        let own = VirtualKey { scopes: tokens(&["notes:write", "other"]), ..virtual_key("ci") };
        scene.publish(|snapshot| snapshot.keys = Arc::new(Keyring::new([own])));
        let asked = tokens(&["mcp", "notes:write"]);
        let snapshot = scene.server.snapshot.load_full();
        let of = async |principal: &Principal| {
            let caller = scene.server.acting(&snapshot, principal, &client_id("app"), &asked).await.unwrap().unwrap();
            caller.scopes
        };
        assert_eq!(of(&key("ci")).await, tokens(&["notes:write"]));
        let person = Principal::User(scene.person("ada@corp.example").await);
        assert_eq!(of(&person).await, asked);
    }
}
