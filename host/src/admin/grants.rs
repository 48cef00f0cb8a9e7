//! Grants as operators see them: listed with the names of client and principal, and revoked one by one or many at once.

use super::Control;
use crate::audit::{Actor, RevocationReason};
use crate::ids::GrantId;
use crate::store::grants::{self, Listed, Names, Revocation, Wanted};
use crate::store::revocations::{self, Watermark, Whose};
use crate::store::{Cursor, Page, StoreError};

impl Control {
    /// A page of grants, newest first, and what their clients and principals are called.
    ///
    /// # Errors
    /// The store's.
    pub async fn grants(
        &self,
        wanted: Wanted,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Page<Listed>, Names), StoreError> {
        let page = grants::search(&self.store, wanted, after, limit).await?;
        let names = self.names_of(&page.items).await?;
        Ok((page, names))
    }

    /// One grant, and what its client and principal are called.
    ///
    /// # Errors
    /// The store's.
    pub async fn grant(&self, id: &GrantId) -> Result<Option<(Listed, Names)>, StoreError> {
        let Some(listed) = grants::get(&self.store, id).await? else { return Ok(None) };
        let names = self.names_of(std::slice::from_ref(&listed)).await?;
        Ok(Some((listed, names)))
    }

    async fn names_of(&self, listed: &[Listed]) -> Result<Names, StoreError> {
        let mut names = grants::names(&self.store, listed).await?;
        let auth = self.snapshot.load().auth.clone();
        for known in auth.clients.known.iter().map(|known| &known.client) {
            if let Some(name) = &known.metadata.name {
                names.clients.insert(known.id.clone(), name.clone());
            }
        }
        Ok(names)
    }

    /// Revokes a grant: its refresh tokens, and its access tokens as soon as the gateways have heard of it.
    ///
    /// # Errors
    /// The store's.
    pub async fn revoke_grant(&self, id: &GrantId, actor: Actor) -> Result<Revocation, StoreError> {
        grants::revoke(&self.store, id, RevocationReason::Operator, actor).await
    }

    /// Revokes all that was granted until now to a client, a principal, a kind of principal, or anybody.
    ///
    /// # Errors
    /// The store's.
    pub async fn revoke_grants(&self, whose: Whose, actor: Actor) -> Result<Watermark, StoreError> {
        revocations::revoke_all(&self.store, whose, RevocationReason::Operator, actor).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{Replica, shared};
    use super::*;
    use crate::audit::OperatorProof;
    use crate::store::grants::Of;

    #[tokio::test]
    async fn what_is_not_there_cannot_be_revoked_and_everything_can() {
        let (store, clock) = shared().await;
        let replica = Replica::new(store, &clock, Duration::from_secs(10), &[]).await;
        let (control, actor) = (&replica.control, Actor::Operator(OperatorProof::Socket));
        let id = GrantId::generate(&control.env);
        assert_eq!(control.revoke_grant(&id, actor).await.unwrap(), Revocation::NotFound);
        let watermark = control.revoke_grants(Whose::Everybody, actor).await.unwrap();
        assert_eq!(watermark.not_before, control.env.now());
        let wanted = Wanted { of: Of::All, client: None, kind: None, state: None };
        let (page, names) = control.grants(wanted, None, 10).await.unwrap();
        assert_eq!((page.items, page.next, names), (Vec::new(), None, Names::default()));
        replica.stop().await;
    }
}
