//! Where the secrets of connections are sealed.
//!
//! A secret stays sealed for its connection when that has ended and its tokens wait to be revoked.

use super::record::{CredentialRecord, Record, RevocationRecord};
use super::{CONNECTIONS, REVOCATIONS};
use crate::connection::Place;
use crate::ids::ConnectionId;
use crate::secret::Sealed;
use crate::store::StoreError;
use crate::store::engine::Table;
use crate::store::sealed::{self, SealedField, SealedIn};
use crate::store::table::unreadable;

pub(in crate::store) const SEALED: SealedIn<Record> = SealedIn { table: &CONNECTIONS, fields };
pub(in crate::store) const SEALED_REVOCATIONS: SealedIn<RevocationRecord> =
    SealedIn { table: &REVOCATIONS, fields: fields_to_revoke };

/// A secret of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    Access,
    Refresh,
    /// The values of all headers.
    Headers,
}

/// Where a secret of a connection is sealed that is stored, or is about to be, at this revision.
pub fn sealed_at(place: &Place, id: &ConnectionId, revision: u64, secret: Secret) -> sealed::Place {
    let field = match secret {
        Secret::Access => "access",
        Secret::Refresh => "refresh",
        Secret::Headers => "headers",
    };
    let (table, key) = (Table::Connections.name(), id.as_str().as_bytes().to_vec());
    sealed::Place { owner: place.owner(), table, key, field, revision }
}

fn fields(record: &Record) -> Result<Vec<SealedField>, StoreError> {
    let of = (record.place()?, id(&record.id)?, record.revision);
    Ok(match &record.credential {
        CredentialRecord::OAuth { access, refresh, .. } => tokens(&of, access, refresh.as_ref()),
        CredentialRecord::Headers { values, .. } => vec![at(&of, Secret::Headers, values)],
    })
}

fn fields_to_revoke(record: &RevocationRecord) -> Result<Vec<SealedField>, StoreError> {
    let of = (record.place()?, id(&record.connection)?, record.revision);
    Ok(tokens(&of, &record.access, record.refresh.as_ref()))
}

type Of = (Place, ConnectionId, u64);

fn tokens(of: &Of, access: &Sealed, refresh: Option<&Sealed>) -> Vec<SealedField> {
    let access = at(of, Secret::Access, access);
    [access].into_iter().chain(refresh.map(|refresh| at(of, Secret::Refresh, refresh))).collect()
}

fn at((place, id, revision): &Of, secret: Secret, sealed: &Sealed) -> SealedField {
    (sealed_at(place, id, *revision, secret), sealed.clone())
}

fn id(text: &str) -> Result<ConnectionId, StoreError> {
    ConnectionId::parse(text).ok_or_else(|| unreadable(Table::Connections, "an id is none"))
}
