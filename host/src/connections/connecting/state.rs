//! The parameter `state` of a way: 256 random bits, and where the browser goes on to afterwards under our seal.
//!
//! The store has only its digest. Whoever sees it on its way learns nothing, and can put nothing else in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::env::Env;
use crate::secret::{DeploymentSecret, Plaintext};

/// What is sealed.
const PURPOSE: &str = "connect state next";
/// Between the random part and the rest. Neither has it.
const SEPARATOR: char = '.';
/// Longest path to go on to, in bytes.
pub(super) const MAX_NEXT: usize = 256;

/// 256 random bits in unpadded base64url: a `state` without more, and a PKCE verifier (RFC 7636 §4.1).
pub(super) fn random(env: &Env) -> Plaintext {
    Plaintext::new(URL_SAFE_NO_PAD.encode(env.random::<32>()))
}

/// A new one. A path that is too long is left out.
pub(super) fn new(env: &Env, secret: &DeploymentSecret, next: Option<&str>) -> Plaintext {
    let random = random(env);
    match next.filter(|next| next.len() <= MAX_NEXT) {
        None => random,
        Some(next) => {
            let sealed = secret.seal(PURPOSE, random.expose().as_bytes(), next.as_bytes());
            Plaintext::new(format!("{}{SEPARATOR}{sealed}", random.expose()))
        }
    }
}

/// Where one that came back leads.
pub(super) fn next_of(secret: &DeploymentSecret, state: &Plaintext) -> Option<String> {
    let (random, sealed) = state.expose().split_once(SEPARATOR)?;
    String::from_utf8(secret.unseal(PURPOSE, random.as_bytes(), sealed)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_leads_where_it_was_made_for_and_nowhere_else() {
        let (env, secret) = (Env::system(), DeploymentSecret::new(&[7; 32]));
        let (one, two) = (new(&env, &secret, Some("/account")), new(&env, &secret, None));
        assert_eq!(next_of(&secret, &one).as_deref(), Some("/account"));
        assert_eq!((next_of(&secret, &two), two.expose().len()), (None, 43));
        assert_eq!(next_of(&DeploymentSecret::new(&[8; 32]), &one), None);
        // The rest of one behind the random part of another.
        let sealed = one.expose().split_once(SEPARATOR).unwrap().1;
        assert_eq!(next_of(&secret, &Plaintext::new(format!("{}.{sealed}", two.expose()))), None);
        assert_eq!(next_of(&secret, &new(&env, &secret, Some(&"x".repeat(MAX_NEXT + 1)))), None);
        assert!(one.expose().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    }
}
