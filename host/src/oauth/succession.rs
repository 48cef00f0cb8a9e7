//! How a refresh token's successor is kept for whoever comes back with the token a moment later.
//!
//! The successor is sealed under a key that comes of the token before it, and of nothing else: we keep digests of tokens, so
//! that neither the store nor its backups open anything. Each sealed successor opens with the token before it, and so a
//! chain of them leads from a token that comes back to the head.
//!
//! A key is derived for each seal, with a salt of its own (HKDF-SHA-256, RFC 5869), and used once (AES-256-GCM): tokens are 256
//! random bits, so that there is no other key that opens the same text, and nothing to commit to.

use aws_lc_rs::{aead, hkdf};
use zeroize::Zeroizing;

use crate::env::Env;
use crate::secret::{Plaintext, Sealed};

const VERSION: u8 = 1;
const SALT_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const LABEL: &[u8] = b"rt-succ";

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The successor of a token, readable only with that token.
pub fn seal(env: &Env, token: &Plaintext, successor: &Plaintext) -> Sealed {
    let salt: [u8; SALT_BYTES] = env.random();
    let (key, nonce) = derived(token, &salt);
    let mut text = successor.expose().as_bytes().to_vec();
    let sealed = key.seal_in_place_append_tag(nonce, aead::Aad::from([VERSION]), &mut text);
    sealed.expect("a token is far below the limit of AES-GCM");
    Sealed::from_bytes([&[VERSION], &salt[..], &text].concat())
}

/// The successor of a token, if this is one.
pub fn open(token: &Plaintext, sealed: &Sealed) -> Option<Plaintext> {
    let (version, rest) = sealed.as_bytes().split_first()?;
    let (salt, text) = rest.split_at_checked(SALT_BYTES)?;
    let (key, nonce) = derived(token, salt);
    let mut text = Zeroizing::new(text.to_vec());
    let opened = key.open_in_place(nonce, aead::Aad::from([*version]), &mut text).ok()?;
    if *version != VERSION {
        return None;
    }
    std::str::from_utf8(opened).ok().map(Plaintext::new)
}

/// The last of the tokens that follow a token, each sealed under the one before it.
pub fn head(token: &Plaintext, successors: &[Sealed]) -> Option<Plaintext> {
    successors.iter().try_fold(token.clone(), |token, sealed| open(&token, sealed))
}

/// The key for one seal, and its only nonce.
fn derived(token: &Plaintext, salt: &[u8]) -> (aead::LessSafeKey, aead::Nonce) {
    let mut material = Zeroizing::new([0; KEY_BYTES + aead::NONCE_LEN]);
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(token.expose().as_bytes());
    let filled = secret.expand(&[LABEL], Length(material.len())).and_then(|okm| okm.fill(&mut material[..]));
    filled.expect("44 bytes are far below the limit of HKDF");
    let (key, nonce) = material.split_at(KEY_BYTES);
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("the key has the length of an AES-256 key");
    let nonce = aead::Nonce::try_assume_unique_for_key(nonce).expect("the nonce has the length of one");
    (aead::LessSafeKey::new(key), nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::grant::{MAX_LINKS, MAX_SEALED_BYTES};

    fn token(name: &str) -> Plaintext {
        Plaintext::new(format!("pcr_{name}"))
    }

    #[test]
    fn a_successor_opens_with_the_token_before_it_and_no_other() {
        let env = Env::system();
        let sealed = seal(&env, &token("a"), &token("b"));
        assert_eq!(open(&token("a"), &sealed), Some(token("b")));
        assert_eq!(open(&token("b"), &sealed), None);
        assert_eq!(open(&Plaintext::new(""), &sealed), None);
        assert_ne!(seal(&env, &token("a"), &token("b")), sealed, "each seal has a salt of its own");
    }

    #[test]
    fn a_successor_that_was_changed_anywhere_does_not_open() {
        let sealed = seal(&Env::system(), &token("a"), &token("b"));
        for position in 0..sealed.as_bytes().len() {
            let mut changed = sealed.as_bytes().to_vec();
            changed[position] ^= 1;
            assert_eq!(open(&token("a"), &Sealed::from_bytes(changed)), None, "byte {position}");
            let cut = &sealed.as_bytes()[..position];
            assert_eq!(open(&token("a"), &Sealed::from_bytes(cut)), None, "cut at {position}");
        }
    }

    #[test]
    fn a_chain_leads_to_the_head_and_a_broken_one_nowhere() {
        let env = Env::system();
        let tokens: Vec<Plaintext> = (0..=MAX_LINKS).map(|number| token(&number.to_string())).collect();
        let links: Vec<Sealed> = tokens.windows(2).map(|pair| seal(&env, &pair[0], &pair[1])).collect();
        assert_eq!(head(&tokens[0], &links).as_ref(), tokens.last());
        assert_eq!(head(&tokens[3], &links[3..]).as_ref(), tokens.last());
        assert_eq!(head(&tokens[0], &[]), Some(tokens[0].clone()));
        assert_eq!(head(&tokens[0], &links[1..]), None);
        assert_eq!(head(&tokens[1], &links), None);
        let missing: Vec<Sealed> = [&links[..2], &links[3..]].concat();
        assert_eq!(head(&tokens[0], &missing), None);
    }

    #[test]
    fn a_sealed_token_is_as_small_as_the_store_wants_it() {
        let long = Plaintext::new(format!("pcr_{}", "x".repeat(64)));
        assert!(seal(&Env::system(), &token("a"), &long).as_bytes().len() < MAX_SEALED_BYTES / 4);
    }
}
