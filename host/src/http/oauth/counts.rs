//! What the endpoints of the authorization server come to, for operators.

use crate::telemetry::Grid;

/// See `GrantType`; what is none, or not on, is `none`.
const GRANTS: &[&str] = &[
    "authorization_code",
    "refresh_token",
    "client_credentials",
    "device_code",
    "token_exchange",
    "jwt_bearer",
    "none",
];

/// What was asked of the token endpoint, and who signed in.
#[derive(Debug)]
pub struct Counts {
    pub(super) tokens: Grid<2>,
    pub(super) sign_ins: Grid<2>,
}

impl Default for Counts {
    fn default() -> Self {
        let outcomes: &[&str] = &["done", "refused", "waiting", "fault"];
        Self { tokens: Grid::new([GRANTS, outcomes]), sign_ins: Grid::new([&["password", "provider"], outcomes]) }
    }
}

impl Counts {
    /// Requests to the token endpoint by grant type and outcome.
    pub fn tokens(&self) -> Vec<([&'static str; 2], u64)> {
        self.tokens.read()
    }

    /// Sign-ins by way and outcome; `waiting` is whoever tries too often.
    pub fn sign_ins(&self) -> Vec<([&'static str; 2], u64)> {
        self.sign_ins.read()
    }
}
