//! Links by which connections are made: whoever has one acts for its holder, so that each is written down when it is made.

use super::Control;
use crate::audit::{Actor, AuditEvent};
use crate::connection::Place;
use crate::env::Timestamp;
use crate::store::{StoreError, audit};

impl Control {
    /// Writes down that a link was made with which a holder's credential for an upstream is made.
    ///
    /// # Errors
    /// The store's; nobody may be handed the link then.
    pub async fn made_connection_link(
        &self,
        Place { holder, upstream }: Place,
        expires: Timestamp,
        actor: Actor,
    ) -> Result<(), StoreError> {
        let event = AuditEvent::ConnectionLinkMade { holder: holder.to_string(), upstream, expires };
        audit::record(&self.store, actor, event).await
    }
}
