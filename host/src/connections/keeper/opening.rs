//! From what is stored to what can be lent.
//!
//! A secret that does not open where it is found was put there by somebody else, or is damaged: it is marked and told
//! (`docs/threat-model.md` row U12). A vault that is out of reach says nothing of any secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;
use http::header::{AUTHORIZATION, HeaderValue};

use super::kept::{Generation, Of, Opened, header_name, sensitive};
use super::{Keeper, store_fault, tell_vault_fault};
use crate::connection::lending::{Lack, Lent};
use crate::connection::{Connection, Credential, Place, Reason, State, values, variable};
use crate::ids::ConnectionId;
use crate::secret::{Plaintext, Sealed, SecretBytes};
use crate::store::connections::{self, Secret, Trouble, sealed_at};
use crate::vault::{Opening, Refusal, VaultError};

/// What there is at a place.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Absent,
    Lacking(Lack),
    Opened(Arc<Opened>),
    /// The store or the vault failed.
    Fault,
}

type Headers = Vec<(HeaderName, HeaderValue)>;
type Variables = Vec<(String, Plaintext)>;

impl Keeper {
    /// What there is at a place, read once for all who want to know.
    pub(super) async fn read(&self, place: &Place, as_of: Generation) -> Found {
        let (keeper, here) = (self.clone(), place.clone());
        let work = || async move { keeper.read_alone(&here, as_of).await };
        self.0.reads.join((place.clone(), as_of), work).await.unwrap_or(Found::Fault)
    }

    async fn read_alone(&self, place: &Place, as_of: Generation) -> Found {
        let connection = match connections::get(&self.0.store, place).await {
            Ok(Some(connection)) => connection,
            Ok(None) => return Found::Absent,
            Err(error) => {
                store_fault(&error);
                return Found::Fault;
            }
        };
        if let State::NeedsReauth { reason, .. } = connection.state {
            return Found::Lacking(Lack::NeedsReauth(reason));
        }
        match self.open_all(&connection).await {
            Ok(Some(opened)) => {
                let opened = Arc::new(opened);
                self.0.kept.keep(place, opened.clone(), as_of);
                Found::Opened(opened)
            }
            Ok(None) => self.tell_unreadable(&connection).await,
            Err(error) => {
                tell_vault_fault(&error);
                Found::Fault
            }
        }
    }

    /// A connection with its secrets opened; `None` if one of them cannot be.
    async fn open_all(&self, connection: &Connection) -> Result<Option<Opened>, VaultError> {
        let (shown, of) = match &connection.credential {
            Credential::OAuth(tokens) => {
                let Some(access) = self.open_token(connection, Secret::Access, &tokens.access).await? else {
                    return Ok(None);
                };
                let of = Of::OAuth {
                    issuer: tokens.issuer.clone(),
                    scopes: tokens.scopes.clone(),
                    expires: tokens.expires,
                    is_renewable: tokens.refresh.is_some(),
                };
                (bearer(&access).map(|headers| (headers, Variables::new())), of)
            }
            Credential::Headers { names: _, values } => {
                let (place, id) = (&connection.place, &connection.id);
                let opened = self.open((place, id, connection.revision), Secret::Headers, values).await?;
                let told = match &connection.state {
                    State::NeedsUpdate { missing, .. } => missing.clone(),
                    _ => Vec::new(),
                };
                (opened.as_ref().and_then(values::read).and_then(|values| shown(&values)), Of::Headers { told })
            }
        };
        let Connection { id, place, revision, given, origin, stored, .. } = connection;
        Ok(shown.map(|(headers, variables)| {
            let scopes = connection.tokens().map_or_else(Vec::new, |tokens| tokens.scopes.to_vec());
            let (place, id) = (place.clone(), id.clone());
            let (revision, given) = (*revision, *given);
            let lent = Lent { place, connection: id, revision, given, scopes, headers, variables };
            Opened { lent: Arc::new(lent), of, origin: origin.clone(), stored: *stored }
        }))
    }

    /// A token of a connection; `None` if it cannot be opened.
    pub(super) async fn open_token(
        &self,
        connection: &Connection,
        secret: Secret,
        sealed: &Sealed,
    ) -> Result<Option<Plaintext>, VaultError> {
        let of = (&connection.place, &connection.id, connection.revision);
        Ok(self.open(of, secret, sealed).await?.as_ref().and_then(Plaintext::from_bytes))
    }

    /// A secret that is sealed for this place, connection and revision.
    pub(super) async fn open(
        &self,
        (place, id, revision): (&Place, &ConnectionId, u64),
        secret: Secret,
        sealed: &Sealed,
    ) -> Result<Option<SecretBytes>, VaultError> {
        match self.0.vault.open(&sealed_at(place, id, revision, secret), sealed).await? {
            Opening::Opened(secret) => Ok(Some(secret)),
            Opening::Refused(Refusal::Shredded) => Ok(None),
            Opening::Refused(refusal) => {
                tracing::error!(%place, connection = %id, %refusal, "a credential was not sealed where it is stored");
                Ok(None)
            }
        }
    }

    /// Its person has to connect anew, since nobody can read what is stored.
    pub(super) async fn tell_unreadable(&self, connection: &Connection) -> Found {
        let trouble = Trouble::Reauth(Reason::Unreadable);
        match self.mark_at(&connection.place, connection.revision, trouble).await {
            Ok(_) => Found::Lacking(Lack::NeedsReauth(Reason::Unreadable)),
            Err(error) => {
                store_fault(&error);
                Found::Fault
            }
        }
    }
}

/// RFC 6750 §2.1.
pub(super) fn bearer(access: &Plaintext) -> Option<Headers> {
    let is_token = !access.expose().is_empty() && !access.expose().contains(' ');
    is_token.then(|| sensitive(&["Bearer ", access.expose()]))?.map(|value| vec![(AUTHORIZATION, value)])
}

/// Values for headers, or for variables: which of the two is in the names.
fn shown(values: &BTreeMap<String, Plaintext>) -> Option<(Headers, Variables)> {
    if !values.is_empty() && values.keys().all(|name| variable::is_name(name)) {
        let is_fit = values.values().all(|value| sensitive(&[value.expose()]).is_some());
        let variables = values.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        return is_fit.then_some((Headers::new(), variables));
    }
    let header = |(name, value): (&String, &Plaintext)| Some((header_name(name)?, sensitive(&[value.expose()])?));
    let headers: Option<Headers> = values.iter().map(header).collect();
    headers.map(|headers| (headers, Variables::new()))
}
