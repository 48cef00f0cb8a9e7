//! Secrets, by how much we may know of them.
//!
//! [`Plaintext`] is a secret that was presented or is about to be shown, [`SecretBytes`] one that is no text; [`Digest`]
//! is what we keep of a secret that we only verify, [`Sealed`] what the vault made of one that has to be replayed. They are
//! types of their own, so that none stands where another belongs. None prints itself, what is in the clear is overwritten
//! when it goes out of use, and all are compared in constant time. Copies that libraries make on the way (headers, JSON and
//! TLS buffers) are theirs and are not overwritten.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::{aead, constant_time, digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// A secret in the clear. Lives as short as possible and never reaches a log.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Plaintext(String);

impl Plaintext {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// A secret that is text, or `None`.
    pub fn from_bytes(bytes: &SecretBytes) -> Option<Self> {
        std::str::from_utf8(bytes.expose()).ok().map(Self::new)
    }

    /// The secret itself. Each use is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What we keep of it.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

/// Takes as long for every secret of the same length.
impl PartialEq for Plaintext {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

impl Eq for Plaintext {}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A secret in the clear that is not text, such as a key. Lives as short as possible and never reaches a log.
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    pub fn new(secret: Vec<u8>) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// A copy of these bytes, which are overwritten.
    pub fn taken_from(bytes: &mut [u8]) -> Self {
        let secret = Self::new(bytes.to_vec());
        bytes.zeroize();
        secret
    }

    /// The secret itself. Each use is a place to look at in a review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Takes as long for every secret of the same length.
impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for SecretBytes {}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// SHA-256 of a secret of at least 256 random bits, so that no salt is needed.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(out)
    }

    /// A digest that was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Lower-case hex.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[digest]")
    }
}

/// What the vault made of a secret that has to be replayed. It says nothing to anyone without the vault's keys, and
/// only the vault makes and opens it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Box<[u8]>);

impl Sealed {
    /// Bytes that [`Self::as_bytes`] told before.
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[sealed]")
    }
}

impl Serialize for Sealed {
    /// Base64url without padding.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self::from_bytes(bytes))
    }
}

/// The deployment's own key for what it hands out and wants back unchanged: ids of tasks and cursors of operators, which
/// anyone may read, and callers' cursors and states of requests, which nobody may.
pub struct DeploymentSecret {
    signing: hmac::Key,
    sealing: aead::RandomizedNonceKey,
}

/// Bytes of a signature made by [`DeploymentSecret::sign`].
const SIGNATURE_BYTES: usize = 16;
/// Purpose of the key that [`DeploymentSecret::seal`] uses.
const SEALING_KEY: &[u8] = b"portcullis sealing key 1";

impl DeploymentSecret {
    /// From 256 random bits.
    pub fn new(bytes: &[u8; 32]) -> Self {
        let signing = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let sealing = hmac::sign(&signing, SEALING_KEY);
        let sealing = aead::RandomizedNonceKey::new(&aead::AES_256_GCM, sealing.as_ref());
        Self { signing, sealing: sealing.expect("a SHA-256 tag is as long as an AES-256 key") }
    }

    /// An opaque text that only we can read, and only for the same `purpose` and `binding` (AES-256-GCM).
    pub fn seal(&self, purpose: &str, binding: &[u8], payload: &[u8]) -> String {
        let mut sealed = payload.to_vec();
        let aad = aead::Aad::from(associated(purpose, binding));
        let nonce = self.sealing.seal_in_place_append_tag(aad, &mut sealed);
        let nonce = nonce.expect("payloads are far below the limit of AES-GCM");
        sealed.extend_from_slice(nonce.as_ref());
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// The payload of a text that [`Self::seal`] made for the same purpose and binding, or `None`.
    pub fn unseal(&self, purpose: &str, binding: &[u8], text: &str) -> Option<Vec<u8>> {
        let mut sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let nonce = sealed.split_off(sealed.len().checked_sub(aead::NONCE_LEN)?);
        let nonce = aead::Nonce::try_assume_unique_for_key(&nonce).ok()?;
        let aad = aead::Aad::from(associated(purpose, binding));
        let payload = self.sealing.open_in_place(nonce, aad, &mut sealed).ok()?;
        Some(payload.to_vec())
    }

    /// An opaque, tamper-evident text that carries `payload` for `purpose`.
    pub fn sign(&self, purpose: &str, payload: &[u8]) -> String {
        let mut bytes = self.tag(purpose, payload).to_vec();
        bytes.extend_from_slice(payload);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// A key of its own for `purpose` and `context`, which says nothing about any other.
    pub fn derive(&self, purpose: &str, context: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.whole_tag(purpose, context).as_ref());
        key
    }

    /// The payload of a text that [`Self::sign`] made for the same purpose, or `None`.
    pub fn open(&self, purpose: &str, text: &str) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (tag, payload) = bytes.split_at_checked(SIGNATURE_BYTES)?;
        constant_time::verify_slices_are_equal(tag, &self.tag(purpose, payload)).ok()?;
        Some(payload.to_vec())
    }

    fn tag(&self, purpose: &str, payload: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut tag = [0; SIGNATURE_BYTES];
        tag.copy_from_slice(&self.whole_tag(purpose, payload).as_ref()[..SIGNATURE_BYTES]);
        tag
    }

    fn whole_tag(&self, purpose: &str, payload: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.signing);
        context.update(&[u8::try_from(purpose.len()).expect("purposes are short literals")]);
        context.update(purpose.as_bytes());
        context.update(payload);
        context.sign()
    }
}

/// What a sealed text is bound to.
fn associated(purpose: &str, binding: &[u8]) -> Vec<u8> {
    let length = u8::try_from(purpose.len()).expect("purposes are short literals");
    [&[length], purpose.as_bytes(), binding].concat()
}

impl fmt::Debug for DeploymentSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Lower-case hex of any bytes.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a String does not fail");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print_themselves() {
        let secret = Plaintext::new("pk_hunter2");
        let bytes = SecretBytes::new(b"hunter2".to_vec());
        let sealed = Sealed::from_bytes(*b"sealed");
        let printed = format!("{secret:?} {:?} {bytes:?} {sealed:?}", secret.digest());
        assert_eq!(printed, "[redacted] [digest] [redacted] [sealed]");
    }

    #[test]
    fn secrets_are_overwritten_when_they_go_out_of_use() {
        assert!(std::mem::needs_drop::<Plaintext>() && std::mem::needs_drop::<SecretBytes>());
        fn overwritten<T: ZeroizeOnDrop>() {}
        overwritten::<Plaintext>();
        overwritten::<Zeroizing<Vec<u8>>>();
        let mut bytes = *b"hunter2";
        assert_eq!(SecretBytes::taken_from(&mut bytes).expose(), b"hunter2");
        assert_eq!(bytes, [0; 7]);
    }

    #[test]
    fn secrets_equal_themselves_and_no_other() {
        for (one, other) in [("", ""), ("a", "a"), ("hunter2", "hunter2")] {
            assert!(Plaintext::new(one) == Plaintext::new(other));
            assert!(SecretBytes::new(one.into()) == SecretBytes::new(other.into()));
        }
        for (one, other) in [("a", ""), ("a", "b"), ("hunter2", "hunter")] {
            assert!(Plaintext::new(one) != Plaintext::new(other));
            assert!(SecretBytes::new(one.into()) != SecretBytes::new(other.into()));
        }
    }

    #[test]
    fn a_signed_text_opens_only_unchanged_and_for_its_purpose() {
        let key = DeploymentSecret::new(&[7; 32]);
        let text = key.sign("cursor", b"notes__add");
        assert_eq!(key.open("cursor", &text).as_deref(), Some(b"notes__add".as_slice()));
        assert_eq!(key.open("session", &text), None);
        assert_eq!(DeploymentSecret::new(&[8; 32]).open("cursor", &text), None);
        for position in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[position] = if forged[position] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("base64 is ASCII");
            assert_ne!(key.open("cursor", &forged).as_deref(), Some(b"notes__add".as_slice()), "byte {position}");
        }
        assert_eq!(key.open("cursor", ""), None);
    }

    #[test]
    fn a_sealed_text_opens_only_unchanged_for_its_purpose_and_binding() {
        let key = DeploymentSecret::new(&[7; 32]);
        let text = key.seal("state", b"ci", b"hunter2");
        assert!(!text.contains("hunter2") && key.seal("state", b"ci", b"hunter2") != text);
        assert_eq!(key.unseal("state", b"ci", &text).as_deref(), Some(b"hunter2".as_slice()));
        assert_eq!(key.unseal("state", b"ic", &text), None);
        assert_eq!(key.unseal("stat", b"eci", &text), None);
        assert_eq!(DeploymentSecret::new(&[8; 32]).unseal("state", b"ci", &text), None);
        for position in 0..text.len() - 1 {
            let mut forged = text.clone().into_bytes();
            forged[position] = if forged[position] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("base64 is ASCII");
            assert_eq!(key.unseal("state", b"ci", &forged), None, "byte {position}");
        }
        assert!(key.unseal("state", b"ci", "").is_none() && key.unseal("state", b"ci", "AAAA").is_none());
    }
}
