//! Clients that describe themselves at the address that is their id: fetched, judged, and kept for a while
//! (draft-ietf-oauth-client-id-metadata-document; `docs/threat-model.md` row T15).
//!
//! Addresses come from strangers, so they are fetched by the guarded fetcher and under a rate for each host. Whoever asks
//! for the same address at once waits for one fetch. What does not describe a client is not remembered. A copy counts as
//! long as its headers say, within bounds; after that there is none, whatever the host does. Policies see each version that
//! is fetched once, and again when the policies or the settings are others.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HeaderValue};
use http::{StatusCode, Uri};
use serde_json::value::RawValue;

use super::{Author, authentication, rules};
use crate::authorization::rates::{Limit, Rate};
use crate::authorization::{AuthorizationServer, Fault};
use crate::config::Auth;
use crate::env::Timestamp;
use crate::identity::Caller;
use crate::ids::{ClientId, Principal};
use crate::oauth::client::{ClientOrigin, KnownClient};
use crate::oauth::document::{self, Unfit};
use crate::oauth::grant::OnReuse;
use crate::outbound::{self, Fetch, FetchError, Limits};
use crate::pipeline::renewal::Presenter;
use crate::pipeline::{Snapshot, registration};
use crate::policy;
use crate::policy::authority::{ClientRequest, ClientSource};

/// Documents that are kept.
const MAX_KEPT: u64 = 1_000;
/// Fetches from one host in a minute.
const FETCHES: u32 = 120;
const LIMITS: Limits =
    Limits { connect: Duration::from_secs(3), total: Duration::from_secs(5), body: document::MAX_BYTES };

#[derive(Debug)]
pub(super) struct Documents {
    kept: moka::future::Cache<ClientId, Arc<Kept>>,
    fetches: Rate<String>,
}

/// A document that describes a client.
#[derive(Debug)]
struct Kept {
    version: Version,
    client: Arc<KnownClient>,
    /// What it was judged by.
    judges: Judges,
}

/// A document as it was fetched.
#[derive(Clone, Debug)]
struct Version {
    text: Box<RawValue>,
    until: Timestamp,
}

/// What says whether a document makes a client.
#[derive(Clone, Debug)]
struct Judges {
    policies: u64,
    settings: Arc<Auth>,
}

impl Judges {
    fn of(snapshot: &Snapshot) -> Self {
        Self { policies: snapshot.policies.generation(), settings: snapshot.auth.clone() }
    }

    fn are(&self, snapshot: &Snapshot) -> bool {
        self.policies == snapshot.policies.generation() && Arc::ptr_eq(&self.settings, &snapshot.auth)
    }
}

/// Why an address leads to no client.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("no document is taken from this host")]
    Host,
    /// Each would be a request to ourselves, and could lead to the next.
    #[error("the address is one of our own")]
    Ours,
    #[error("the address answers {0}")]
    Status(StatusCode),
    #[error("the document cannot be fetched: {0}")]
    Fetch(#[from] FetchError),
    #[error("too many documents of this host are fetched")]
    TooMany,
    #[error("the policies did not decide ({0})")]
    Undecided(&'static str),
    #[error("the policies refuse it ({0})")]
    Refused(&'static str),
}

impl Missing {
    /// Whether it may be otherwise in a moment: then nobody knows whether there is such a client.
    fn is_passing(&self) -> bool {
        match self {
            Self::TooMany | Self::Undecided(_) => true,
            Self::Status(status) => outbound::is_passing(*status),
            Self::Fetch(error) => error.is_passing(),
            Self::Unfit(_) | Self::Host | Self::Ours | Self::Refused(_) => false,
        }
    }
}

impl Documents {
    pub(super) fn new() -> Self {
        Self { kept: moka::future::Cache::new(MAX_KEPT), fetches: Rate::new() }
    }

    pub(super) async fn find(
        &self,
        server: &AuthorizationServer,
        snapshot: &Snapshot,
        id: &ClientId,
    ) -> Result<Option<Arc<KnownClient>>, Fault> {
        match self.look(server, snapshot, id).await {
            Ok(client) => Ok(Some(client)),
            Err(missing) => {
                tracing::info!(client = %id, reason = %missing, "there is no client at this address");
                if missing.is_passing() { Err(Fault::Busy) } else { Ok(None) }
            }
        }
    }

    async fn look(
        &self,
        server: &AuthorizationServer,
        snapshot: &Snapshot,
        id: &ClientId,
    ) -> Result<Arc<KnownClient>, Arc<Missing>> {
        let settings = &snapshot.auth.clients;
        if !settings.metadata_documents {
            return Err(Arc::new(Missing::Host));
        }
        document::check_address(id).map_err(|unfit| Arc::new(unfit.into()))?;
        let host = document::host(id);
        if is_ours(&server.issuer, id) {
            return Err(Arc::new(Missing::Ours));
        }
        if !settings.document_hosts.is_empty() && !settings.document_hosts.iter().any(|one| one.matches(&host)) {
            return Err(Arc::new(Missing::Host));
        }
        let now = server.env.now();
        let mut version = None;
        if let Some(kept) = self.kept.get(id).await {
            let is_current = now < kept.version.until;
            if is_current && kept.judges.are(snapshot) {
                return Ok(kept.client.clone());
            }
            // Whoever else sees the same old copy takes it out as well; at worst that fetches once more.
            self.kept.invalidate(id).await;
            version = Some(kept.version.clone()).filter(|_| is_current);
        }
        let looked = async {
            let version = match version {
                Some(version) => version,
                None => self.fetch(server, id, host, now).await?,
            };
            let client = judge(server, snapshot, id, &version.text).await?;
            Ok(Arc::new(Kept { version, client: Arc::new(client), judges: Judges::of(snapshot) }))
        };
        Ok(self.kept.try_get_with(id.clone(), looked).await?.client.clone())
    }

    async fn fetch(
        &self,
        server: &AuthorizationServer,
        id: &ClientId,
        host: String,
        now: Timestamp,
    ) -> Result<Version, Missing> {
        self.fetches.count(host, Limit::per_minute(FETCHES)).map_err(|_| Missing::TooMany)?;
        let url: Uri = id.as_str().parse().map_err(|_| Unfit::Address)?;
        let fetch = Fetch::get(url).header(ACCEPT, HeaderValue::from_static("application/json")).limits(LIMITS);
        let fetched = server.fetcher.fetch(fetch).await?;
        if fetched.status != StatusCode::OK {
            return Err(Missing::Status(fetched.status));
        }
        document::read(id, &fetched.headers, &fetched.body, &rules(&server.settings(), Author::Document))?;
        let text = serde_json::from_slice(&fetched.body).map_err(|_| Unfit::Json)?;
        Ok(Version { text, until: now.after(document::life(&fetched.headers)) })
    }
}

/// Whether an address lies below the issuer's.
fn is_ours(issuer: &str, id: &ClientId) -> bool {
    let (Ok(ours), Ok(address)) = (issuer.parse::<Uri>(), id.as_str().parse::<Uri>()) else { return false };
    let place = |uri: &Uri| (uri.host().map(str::to_ascii_lowercase), uri.port_u16().unwrap_or(443));
    let below = address.path().strip_prefix(ours.path().trim_end_matches('/'));
    place(&ours) == place(&address) && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The client that a document describes, as the policies leave it.
async fn judge(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    id: &ClientId,
    text: &RawValue,
) -> Result<KnownClient, Missing> {
    let rules = rules(&snapshot.auth, Author::Document);
    let asked = document::describe(id, text.get().as_bytes(), &rules)?;
    let accept = |edited: &RawValue| {
        let edited = document::describe(id, edited.get().as_bytes(), &rules).map_err(|unfit| unfit.to_string())?;
        edited.check_narrows(&asked).map_err(ToOwned::to_owned)
    };
    let caller = Caller::new(Principal::Anonymous, snapshot.auth.allow.guests.clone());
    let presenter = Presenter { caller: &caller, remote_ip: None, user_agent: None };
    let request = ClientRequest { source: ClientSource::MetadataDocument, metadata: text.to_owned() };
    let left = registration::client(snapshot, &server.services, &presenter, (&request, id.as_str()), &accept).await;
    let left = left.map_err(|refusal: policy::Refusal| {
        let missing = if refusal.is_passing() { Missing::Undecided } else { Missing::Refused };
        missing(refusal.check())
    })?;
    let described = document::describe(id, left.get().as_bytes(), &rules)?;
    let (authentication, _none) = authentication(&server.env, described.method, None);
    Ok(KnownClient {
        id: id.clone(),
        origin: ClientOrigin::Document,
        requires_proof: described.metadata.requires_proof,
        metadata: described.metadata,
        authentication,
        on_reuse: OnReuse::default(),
        requires_pushed: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_the_issuer_is_ours() {
        let is_ours = |issuer: &str, id: &str| super::is_ours(issuer, &ClientId::parse(id).unwrap());
        let id = "https://corp.example/gate/client.json";
        for issuer in ["https://corp.example", "https://corp.example/gate", "https://CORP.example:443/gate/"] {
            assert!(is_ours(issuer, id), "{issuer}");
        }
        for issuer in ["https://corp.example/ga", "https://corp.example:8443", "https://www.corp.example", ""] {
            assert!(!is_ours(issuer, id), "{issuer}");
        }
    }
}
