//! The first tokens of a grant: of a code ([`super::exchange`]), or of a device that was let in ([`super::device`]).
//!
//! They are made before anything is written: a key that does not sign costs nobody a code or an approval.

use std::time::Duration;

use super::super::mint::{self, mint};
use super::super::{AuthorizationServer, Fault};
use super::access::{Saying, Signed, signed};
use super::{Issued, Refused};
use crate::config::auth::TokenSettings;
use crate::ids::{GrantId, Principal};
use crate::oauth::access::{Access, ResourceList};
use crate::oauth::client::{GrantType, KnownClient};
use crate::secret::{Digest, Plaintext};
use crate::store::grants::NewGrant;

/// A grant of what somebody has consented to, and what the client gets if it is made. The access token is for these resources.
pub(super) fn first(
    server: &AuthorizationServer,
    client: &KnownClient,
    settings: &TokenSettings,
    (principal, access): (&Principal, &Access),
    (resources, proof): (ResourceList, Option<Digest>),
) -> Result<Result<(NewGrant, Issued), Refused>, Fault> {
    let Access { scopes, limits, .. } = access;
    let may_refresh = client.allows(GrantType::RefreshToken) && limits.refresh_life != Some(Duration::ZERO);
    let refresh = may_refresh.then(|| mint(&server.env, mint::REFRESH));
    let new = new_grant(server, client, settings, (refresh.as_ref(), limits.refresh_life));
    let saying = Saying {
        grant: &new.id,
        principal,
        client: &client.id,
        resources,
        scopes: scopes.clone(),
        tools: limits.tools.clone(),
        proof,
        actors: Vec::new(),
        claims: limits.claims.clone(),
        // It does not outlive what it follows from: nobody could revoke it then.
        life: limits.access_life.unwrap_or(settings.access_life).min(settings.access_life).min(new.life).min(new.idle),
    };
    let Signed { token: access_token, life, at } = match signed(server, saying)? {
        Ok(signed) => signed,
        Err(refused) => return Ok(Err(refused)),
    };
    let issued =
        Issued { access_token, is_bound: proof.is_some(), life, refresh_token: refresh, scopes: scopes.clone() };
    Ok(Ok((NewGrant { signed: at, ..new }, issued)))
}

/// A grant that cannot be refreshed lives no longer than its access token.
fn new_grant(
    server: &AuthorizationServer,
    client: &KnownClient,
    settings: &TokenSettings,
    (refresh, most): (Option<&Plaintext>, Option<Duration>),
) -> NewGrant {
    let lives = |life: Duration| {
        if refresh.is_some() { most.map_or(life, |most| most.min(life)) } else { settings.access_life }
    };
    NewGrant {
        id: GrantId::generate(&server.env),
        refresh: refresh.map(Plaintext::digest),
        life: lives(settings.refresh_life),
        idle: lives(settings.refresh_idle),
        on_reuse: client.on_reuse,
        kept: settings.keep_ended,
        signed: server.env.now(),
        is_stored: client.is_stored(),
    }
}
