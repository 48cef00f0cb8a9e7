//! Secrets that are handed out and only verified: codes, refresh tokens, cookies, client secrets.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::env::Env;
use crate::secret::{Digest, Plaintext};

/// What each kind begins with, so that secret scanners and people recognise it.
pub const CODE: &str = "pcc_";
pub const REFRESH: &str = "pcr_";
pub const REGISTRATION: &str = "pct_";
pub const CLIENT_SECRET: &str = "pcs_";
pub const DEVICE: &str = "pcd_";
pub const SET_UP: &str = "psu_";
pub const COOKIE: &str = "";

/// Characters at the end that tell a scanner a token from a text that looks like one. They prove nothing.
const CHECK_CHARS: usize = 6;

/// A new secret: the prefix, 256 random bits in unpadded base64url, and six characters by which a scanner tells that it is
/// one of ours.
pub fn mint(env: &Env, prefix: &str) -> Plaintext {
    let random = URL_SAFE_NO_PAD.encode(env.random::<32>());
    let check = Digest::of(format!("{prefix}{random}").as_bytes()).to_hex();
    Plaintext::new(format!("{prefix}{random}{}", &check[..CHECK_CHARS]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_its_prefix_and_cannot_be_guessed() {
        let env = Env::system();
        let (one, other) = (mint(&env, REFRESH), mint(&env, REFRESH));
        assert!(one != other);
        assert!(one.expose().starts_with("pcr_") && one.expose().len() == 4 + 43 + CHECK_CHARS);
    }
}
