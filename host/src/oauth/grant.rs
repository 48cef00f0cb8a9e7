//! A grant: what a consent gave to a client, and the family of refresh tokens that follows from it (RFC 9700 §4.14).
//!
//! The state machine of a refresh token (`docs/authorization.md`): a token is used once; if it comes back within its grace, the
//! newest of its family is answered; if it comes back later, somebody has a copy and the family ends.

use std::time::Duration;

use super::Window;
use super::access::{Access, ResourceList};
use super::request::Mismatch;
use crate::audit::RevocationReason;
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{ClientId, GrantId, Principal};
use crate::secret::{Digest, Sealed};

/// Longest life of a grant that may be set.
pub const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// How long a grant and its tokens are remembered after their end, where nothing else is set.
pub const KEPT_AFTER_END: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Longest such time that may be set.
pub const MAX_KEPT_AFTER_END: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// How far ahead of now the making of a grant may be: so much, a clock that is right now may have been wrong. One from
/// further ahead counts no more, so that a clock that once was far ahead leaves nothing that cannot be revoked.
pub const MAX_AHEAD: Duration = Duration::from_secs(60 * 60);
/// Longest sealed successor, in bytes.
pub const MAX_SEALED_BYTES: usize = 1024;
/// Links that lead from a token that comes back to the head, at most.
pub const MAX_LINKS: usize = 8;
/// Most refresh tokens of one grant: each of them is remembered for as long as it is. One a minute for two months are fewer.
pub const MAX_GENERATIONS: u32 = 100_000;

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub id: GrantId,
    pub principal: Principal,
    pub client: ClientId,
    pub access: Access,
    /// Thumbprint of the key that has to be proven with each refresh (DPoP).
    pub proof: Option<Digest>,
    pub created: Timestamp,
    /// When it was last refreshed, or made.
    pub last_used: Timestamp,
    /// When it ends if nobody uses it. Never after `until`.
    pub idle_until: Timestamp,
    /// When it ends whatever happens.
    pub until: Timestamp,
    /// Which life of the store it was made in. A store that was restored from a backup has begun another one.
    pub epoch: u64,
    pub on_reuse: OnReuse,
    /// How long it is remembered after its end.
    pub kept: Duration,
    /// When and why it was revoked, if it was.
    pub revoked: Option<(Timestamp, RevocationReason)>,
}

/// What a refresh token that comes back after its grace does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReuse {
    /// It ends the family.
    #[default]
    RevokeFamily,
    /// It is refused, and the family lives on: for command-line tools that share one credential among processes.
    Reject,
}

/// Why a grant, a code or a token counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// There never was one, or it is forgotten.
    Unknown,
    Expired,
    /// It, or whatever it rests on, was revoked.
    Revoked,
    /// It is from before the store was restored.
    Restored,
    /// Its client is not registered any more.
    Client,
}

impl Grant {
    /// Why it counts no more at `now` in this life of the store, if it does not. A watermark is not considered.
    pub fn end(&self, now: Timestamp, epoch: u64) -> Option<Gone> {
        if self.revoked.is_some() {
            Some(Gone::Revoked)
        } else if self.epoch != epoch {
            Some(Gone::Restored)
        } else if now >= self.until || now >= self.idle_until || now.after(MAX_AHEAD) < self.created {
            Some(Gone::Expired)
        } else {
            None
        }
    }

    /// When it may be forgotten.
    pub fn forgotten(&self) -> Timestamp {
        let end = self.idle_until.min(self.until);
        self.revoked.map_or(end, |(at, _)| at.min(end)).after(self.kept)
    }

    /// The same after a refresh.
    pub fn refreshed(self, now: Timestamp, idle: Duration) -> Self {
        Self { last_used: now, idle_until: now.after(idle).min(self.until), ..self }
    }

    /// Whether a refresh with this is one of the grant's own.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, presented: &Presented) -> Result<(), Mismatch> {
        let Presented { token: _, client, proof, scopes, resources, is_stored: _ } = presented;
        let require = |fits: bool, failure| if fits { Ok(()) } else { Err(failure) };
        require(*client == self.client, Mismatch::Client)?;
        require(self.proof.is_none() || self.proof == *proof, Mismatch::Proof)?;
        let mut wanted = scopes.iter().flat_map(|scopes| scopes.iter());
        require(wanted.all(|scope| self.access.scopes.contains(scope)), Mismatch::Scope)?;
        require(resources.iter().all(|resource| self.access.resources.contains(resource)), Mismatch::Resource)
    }
}

/// A refresh token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    pub digest: Digest,
    pub grant: GrantId,
    /// 0 for the first of the family.
    pub generation: u32,
    pub issued: Timestamp,
    /// The head of its family is the one that was not used.
    pub used: Option<Used>,
    /// When it may be forgotten.
    pub forgotten: Timestamp,
}

/// The use of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// How long it may come back.
    pub grace: Window,
    pub successor: Digest,
    /// How often it came back.
    pub replays: u32,
}

/// What a client presents to refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    pub token: Digest,
    pub client: ClientId,
    /// Thumbprint of the key that was proven (DPoP).
    pub proof: Option<Digest>,
    /// The scopes that are asked for, if they are to be fewer.
    pub scopes: Option<TokenList>,
    /// The resources that are asked for; none: all that were granted.
    pub resources: ResourceList,
    /// Whether the client is there only as long as the store has it ([`super::client::KnownClient::is_stored`]).
    pub is_stored: bool,
}

/// The refresh token that takes the place of the one that is presented, made beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    pub digest: Digest,
    /// The token itself, readable only with the token that it succeeds.
    pub sealed: Sealed,
    /// When the access token says that it was issued that is answered with it.
    pub signed: Timestamp,
}

/// How often and how long a used refresh token may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    window: Duration,
    replays: u32,
}

impl Grace {
    /// The longest grace.
    pub const MAX_WINDOW: Duration = Duration::from_secs(60);

    /// From the first use on, at most [`Self::MAX_WINDOW`]; zero is none at all.
    pub fn new(window: Duration, replays: u32) -> Self {
        Self { window: window.min(Self::MAX_WINDOW), replays }
    }

    pub const fn window(&self) -> Duration {
        self.window
    }

    pub const fn replays(&self) -> u32 {
        self.replays
    }
}

impl Default for Grace {
    /// 30 seconds and 64 times: so many processes may share one token.
    fn default() -> Self {
        Self { window: Duration::from_secs(30), replays: 64 }
    }
}
