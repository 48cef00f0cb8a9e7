//! Keys that sign access tokens, and the states that they pass: announced, active, retired, gone.
//!
//! A key is published before it signs and after it has signed, so that nobody who verifies ever meets one that they could
//! not have fetched (`docs/threat-model.md` row T11). At most one key of an algorithm is active.

use crate::audit::SigningKeyState;
use crate::env::Timestamp;
use crate::secret::Sealed;

/// Most keys that there may be.
pub const MAX_KEYS: usize = 16;
/// Longest id of a key, longest public part, and longest sealed private part, in bytes.
pub const MAX_ID_BYTES: usize = 128;
pub const MAX_PUBLIC_BYTES: usize = 8 * 1024;
pub const MAX_SEALED_BYTES: usize = 16 * 1024;

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// `kid`
    pub id: String,
    pub algorithm: Algorithm,
    /// The public part as JSON text (RFC 7517).
    pub public: String,
    pub created: Timestamp,
    pub stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

/// Where a key stands. What is no longer needed of it is no longer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Published, and may sign from then on.
    Announced {
        private: Sealed,
        usable_from: Timestamp,
    },
    Active {
        private: Sealed,
        since: Timestamp,
    },
    /// Published until then, for what it has signed.
    Retired {
        until: Timestamp,
    },
}

/// Why a change of the keys is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NotFound,
    /// There is a key of this id, or there are [`MAX_KEYS`], or it is larger than a key may be.
    NoRoom,
    /// It is not in the state that this begins with.
    WrongState,
    /// It has not been announced, or published, for long enough.
    TooSoon,
}

impl Algorithm {
    /// The name that RFC 7518 and RFC 8037 give it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Rs256, Self::Es256, Self::EdDsa].into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

impl SigningKey {
    /// Whether it signs.
    pub const fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Active { .. })
    }

    /// Its state in one word.
    pub const fn state(&self) -> SigningKeyState {
        match self.stage {
            Stage::Announced { .. } => SigningKeyState::Announced,
            Stage::Active { .. } => SigningKeyState::Active,
            Stage::Retired { .. } => SigningKeyState::Retired,
        }
    }

    /// Whether it is within its bounds.
    pub fn fits(&self) -> bool {
        let private = match &self.stage {
            Stage::Announced { private, .. } | Stage::Active { private, .. } => private.as_bytes().len(),
            Stage::Retired { .. } => 0,
        };
        (1..=MAX_ID_BYTES).contains(&self.id.len())
            && self.public.len() <= MAX_PUBLIC_BYTES
            && private <= MAX_SEALED_BYTES
    }

    /// Begins to sign.
    ///
    /// # Errors
    /// It is not announced, or was not for long enough.
    pub fn activated(self, now: Timestamp) -> Result<Self, Refused> {
        match self.stage {
            Stage::Announced { usable_from, .. } if now < usable_from => Err(Refused::TooSoon),
            Stage::Announced { private, .. } => Ok(Self { stage: Stage::Active { private, since: now }, ..self }),
            Stage::Active { .. } | Stage::Retired { .. } => Err(Refused::WrongState),
        }
    }

    /// Signs no more, and stays published until then. Its private part is forgotten.
    pub fn retired(self, until: Timestamp) -> Self {
        Self { stage: Stage::Retired { until }, ..self }
    }
}
