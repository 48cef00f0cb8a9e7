//! Whose API token somebody presents, at the door of the operators' API.

use super::AuthorizationServer;
use crate::identity::api_token::ApiToken;
use crate::identity::user::User;
use crate::secret::Plaintext;
use crate::store::api_tokens::{self, USED_STEP};
use crate::store::{Store, StoreError};

impl AuthorizationServer {
    /// The token with this secret and its person, as both are now. `None` for whatever opens nothing, for one reason as for
    /// another.
    ///
    /// # Errors
    /// The store's, which say nothing about the token.
    pub async fn api_token(&self, secret: &Plaintext) -> Result<Option<(ApiToken, User)>, StoreError> {
        if !ApiToken::looks_right(secret.expose()) {
            return Ok(None);
        }
        let found = api_tokens::find(&self.store, secret.digest()).await?;
        if let Some((token, _)) = &found
            && token.last_used.is_none_or(|last| self.env.now() >= last.after(USED_STEP))
        {
            note_use(&self.store, token).await;
        }
        Ok(found)
    }
}

/// Notes that a token was used. Whoever presents it may look at a gateway that cannot write.
async fn note_use(store: &Store, token: &ApiToken) {
    if let Err(error) = api_tokens::used(store, &token.id).await {
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::warn!(error, token = %token.id, "it was not noted that an API token was used");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authorization::people::testing::{House, OPERATOR};
    use crate::identity::TokenList;
    use crate::identity::user::{DisplayName, Role};
    use crate::ids::ApiTokenId;
    use crate::store::api_tokens::{Creation, NewToken};
    use crate::store::users::Edit;

    #[tokio::test]
    async fn a_token_is_its_persons_as_long_as_both_count() {
        let house = House::new("https://mcp.example.com", |_| {}).await;
        let ada = house.person("ada", "correct horse battery").await;
        house.edit(&ada, Edit::Role(Role::Operator)).await;
        let (server, secret) = (&house.server, ApiToken::new_secret(&house.server.env));
        let new = NewToken {
            id: ApiTokenId::generate(&server.env),
            name: DisplayName::of("ci"),
            user: ada.id.clone(),
            digest: secret.digest(),
            ceiling: Role::Operator,
            scopes: TokenList::default(),
            expires: None,
        };
        let created = api_tokens::create(&server.store, new, OPERATOR).await.unwrap();
        assert!(matches!(created, Creation::Created(_)));
        let find = async || server.api_token(&secret).await.unwrap();
        let role = async || find().await.map(|(token, user)| token.role(&user));
        assert_eq!(role().await, Some(Role::Operator));
        assert_eq!(server.api_token(&ApiToken::new_secret(&server.env)).await.unwrap(), None);
        assert_eq!(server.api_token(&Plaintext::new("pat_")).await.unwrap(), None);

        let noted = find().await.unwrap().0.last_used.expect("its use was noted");
        house.clock.advance(USED_STEP - Duration::from_millis(1));
        find().await;
        assert_eq!(find().await.unwrap().0.last_used, Some(noted), "within the minute it is not noted again");
        house.clock.advance(Duration::from_millis(1));
        find().await;
        assert!(find().await.unwrap().0.last_used > Some(noted));

        house.edit(&ada, Edit::Role(Role::Viewer)).await;
        assert_eq!(role().await, Some(Role::Viewer), "its person may less now");
        house.edit(&ada, Edit::Suspend).await;
        assert_eq!(role().await, None);
    }
}
