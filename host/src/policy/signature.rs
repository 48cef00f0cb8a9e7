//! Signatures of modules: Ed25519 over the SHA-256 of the module, in a file `MODULE.sig` beside it. Pure.
//!
//! A signature says that the holder of a key vouches for these bytes. Which keys count, and whether one of them is enough,
//! is the operator's to say (`policy.signatures`, `policy.trusted_keys`). What comes with the binary is covered by
//! whatever covers the binary.
//!
//! What is signed is the text `portcullis-policy-v1:sha256:` and the digest in lower-case hex, so that a signature made
//! for this says nothing elsewhere, and that any tool for Ed25519 can check it.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::text::one_line;
use crate::config::{self, TrustedKey};
use crate::secret::{self, Plaintext};

/// Largest file of signatures.
pub const MAX_SIGNATURES_BYTES: usize = 64 << 10;
/// Most signatures of one module.
const MAX_SIGNATURES: usize = 32;
/// What the text of a public key begins with.
const PUBLIC_PREFIX: &str = "ed25519:";
const PUBLIC_KEY_BYTES: usize = 32;
/// Bytes of a public key's digest that name the key.
const KEY_ID_BYTES: usize = 8;
const CONTEXT: &str = "portcullis-policy-v1:sha256:";
const ALGORITHM: &str = "ed25519";
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
const PEM_LINE: usize = 64;

/// Where the signatures of the module in this file are.
pub fn file_beside(module: &Path) -> PathBuf {
    let mut name = module.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Why a key or a file of signatures cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error(
        "this is no public key: write ed25519: and the base64 of its 32 bytes, as `portcullis policy keygen` prints it"
    )]
    PublicKey,
    #[error("this is no private Ed25519 key in PEM (PKCS #8), as `portcullis policy keygen` writes it")]
    PrivateKey,
    #[error("the signatures cannot be read: {0}")]
    Unreadable(String),
    #[error("the signatures are of other bytes: they name sha256:{named}, and the module is sha256:{found}")]
    OtherModule { named: String, found: String },
    #[error("the signature of key {key} is not valid")]
    Invalid { key: String },
    #[error("it is not signed: there is no {file}")]
    Unsigned { file: String },
    #[error("it is not signed: its manifest has no layer of type application/vnd.portcullis.signatures.v1+json")]
    UnsignedArtifact,
    #[error("it is not signed: no signatures were uploaded with it")]
    UnsignedUpload,
    #[error("no trusted key signed it; it is signed by {}", list(.signers))]
    NotTrusted { signers: Vec<String> },
    #[error("it lacks the signature of {}", list(.missing))]
    Incomplete { missing: Vec<String> },
    #[error("signatures are required, but no key is trusted: set policy.trusted_keys")]
    NoTrustedKey,
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

/// The public half of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// Reads `ed25519:BASE64`.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let encoded = text.trim().strip_prefix(PUBLIC_PREFIX).ok_or(SignatureError::PublicKey)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SignatureError::PublicKey)?;
        let key = Self(bytes.try_into().map_err(|_| SignatureError::PublicKey)?);
        key.parsed().map(|_| key)
    }

    /// The beginning of the key's SHA-256, in hex: what a signature names it by.
    pub fn id(&self) -> String {
        secret::hex(&secret::Digest::of(&self.0).as_bytes()[..KEY_ID_BYTES])
    }

    /// As settings hold it.
    pub fn to_bytes(self) -> [u8; PUBLIC_KEY_BYTES] {
        self.0
    }

    fn parsed(&self) -> Result<ParsedPublicKey, SignatureError> {
        ParsedPublicKey::new(&ED25519, self.0).map_err(|_| SignatureError::PublicKey)
    }

    fn verifies(&self, digest: &str, signature: &[u8]) -> bool {
        self.parsed().is_ok_and(|key| key.verify_sig(signed_text(digest).as_bytes(), signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A key that signs.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key of this seed, which must be random.
    pub fn of_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("every 32 bytes are the seed of a key"))
    }

    /// Reads PEM with a PKCS #8 key, with or without the public half in it.
    pub fn parse(pem: &Plaintext) -> Result<Self, SignatureError> {
        let (_, rest) = pem.expose().split_once(PEM_BEGIN).ok_or(SignatureError::PrivateKey)?;
        let (body, _) = rest.split_once(PEM_END).ok_or(SignatureError::PrivateKey)?;
        let encoded: String = body.split_whitespace().collect();
        let der = STANDARD.decode(encoded).map_err(|_| SignatureError::PrivateKey)?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self).map_err(|_| SignatureError::PrivateKey)
    }

    /// PEM with the PKCS #8 key, for a file that nobody else can read.
    pub fn to_pem(&self) -> Plaintext {
        let der = self.0.to_pkcs8v1().expect("a key that we hold can be written");
        let encoded = STANDARD.encode(der.as_ref());
        let mut pem = format!("{PEM_BEGIN}\n");
        for line in encoded.as_bytes().chunks(PEM_LINE) {
            pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
            pem.push('\n');
        }
        pem.push_str(PEM_END);
        pem.push('\n');
        Plaintext::new(pem)
    }

    pub fn public(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref().try_into();
        PublicKey(bytes.expect("a public key of Ed25519 has 32 bytes"))
    }

    /// Signs the module with this digest, in lower-case hex.
    fn sign(&self, digest: &str) -> Vec<u8> {
        self.0.sign(signed_text(digest).as_bytes()).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

fn signed_text(digest: &str) -> String {
    format!("{CONTEXT}{digest}")
}

/// The signatures of one module, as their file has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureFile {
    /// `sha256:` and lower-case hex.
    digest: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    /// [`PublicKey::id`] of the key that made it.
    key: String,
    algorithm: String,
    /// Base64.
    signature: String,
}

impl SignatureFile {
    /// No signature yet of the module with this digest, in lower-case hex.
    pub fn of(digest: &str) -> Self {
        Self { digest: format!("sha256:{digest}"), signatures: Vec::new() }
    }

    /// Reads a file of signatures. Whether they hold is for [`SignatureFile::check`] to say.
    pub fn parse(text: &[u8]) -> Result<Self, SignatureError> {
        if text.len() > MAX_SIGNATURES_BYTES {
            return Err(SignatureError::Unreadable(format!("they have more than {MAX_SIGNATURES_BYTES} bytes")));
        }
        let read: Self = serde_json::from_slice(text)
            .map_err(|error| SignatureError::Unreadable(one_line(&error.to_string(), 256)))?;
        if read.signatures.len() > MAX_SIGNATURES {
            return Err(SignatureError::Unreadable(format!("there are more than {MAX_SIGNATURES}")));
        }
        Ok(read)
    }

    /// The file.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("texts are JSON");
        text.push('\n');
        text
    }

    /// Whether these are signatures of the module with this digest.
    pub fn are_of(&self, digest: &str) -> bool {
        self.digest.strip_prefix("sha256:") == Some(digest)
    }

    /// Adds the signature of `key`, or renews it.
    pub fn add(&mut self, key: &SigningKey) {
        let digest = self.digest.strip_prefix("sha256:").unwrap_or(&self.digest);
        let signature = Signature {
            key: key.public().id(),
            algorithm: ALGORITHM.to_owned(),
            signature: STANDARD.encode(key.sign(digest)),
        };
        self.signatures.retain(|other| other.key != signature.key);
        self.signatures.push(signature);
    }

    /// The ids of the keys that are said to have signed.
    pub fn signers(&self) -> Vec<String> {
        self.signatures.iter().map(|signature| one_line(&signature.key, 64)).collect()
    }

    /// The names of those of `keys` that signed the module with this digest, if they are as many as are `required`.
    ///
    /// A signature in the name of a trusted key that is not valid refuses, whatever others say: somebody meddled.
    /// Signatures of keys that nobody trusts count for nothing.
    pub fn check(
        &self,
        digest: &str,
        required: config::Signatures,
        keys: &[TrustedKey],
    ) -> Result<Vec<String>, SignatureError> {
        if !self.are_of(digest) {
            let named = one_line(self.digest.strip_prefix("sha256:").unwrap_or(&self.digest), 80);
            return Err(SignatureError::OtherModule { named, found: digest.to_owned() });
        }
        let mut signed_by = Vec::new();
        let mut missing = Vec::new();
        for TrustedKey { name, key } in keys {
            let key = PublicKey(*key);
            let id = key.id();
            let Some(signature) = self.signatures.iter().find(|signature| signature.key == id) else {
                missing.push(name.clone());
                continue;
            };
            let bytes = STANDARD.decode(&signature.signature).unwrap_or_default();
            if signature.algorithm != ALGORITHM || !key.verifies(digest, &bytes) {
                return Err(SignatureError::Invalid { key: format!("{name} ({id})") });
            }
            signed_by.push(name.clone());
        }
        match required {
            config::Signatures::Off => Ok(signed_by),
            _ if keys.is_empty() => Err(SignatureError::NoTrustedKey),
            config::Signatures::Any if signed_by.is_empty() => {
                Err(SignatureError::NotTrusted { signers: self.signers() })
            }
            config::Signatures::All if !missing.is_empty() => Err(SignatureError::Incomplete { missing }),
            config::Signatures::Any | config::Signatures::All => Ok(signed_by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Signatures as Required;
    use crate::secret::Digest;

    fn key(seed: u8) -> SigningKey {
        SigningKey::of_seed(&[seed; 32])
    }

    fn trusted(keys: &[(&str, &SigningKey)]) -> Vec<TrustedKey> {
        let trusted = |(name, key): &(&str, &SigningKey)| TrustedKey { name: (*name).to_owned(), key: key.public().0 };
        keys.iter().map(trusted).collect()
    }

    fn signed(digest: &str, keys: &[&SigningKey]) -> SignatureFile {
        let mut signatures = SignatureFile::of(digest);
        keys.iter().for_each(|key| signatures.add(key));
        SignatureFile::parse(signatures.to_json().as_bytes()).unwrap()
    }

    #[test]
    fn any_or_all_of_the_trusted_keys_are_asked_for() {
        let digest = Digest::of(b"module").to_hex();
        let (one, two, stranger) = (key(1), key(2), key(3));
        let keys = trusted(&[("one", &one), ("two", &two)]);
        let none: [&SigningKey; 0] = [];
        for (required, signers, expected) in [
            (Required::Off, &none[..], Ok(vec![])),
            (Required::Any, &[&one], Ok(vec!["one"])),
            (Required::Any, &[&two, &stranger], Ok(vec!["two"])),
            (Required::Any, &[&stranger], Err("no trusted key signed it")),
            (Required::Any, &none[..], Err("signed by nobody")),
            (Required::All, &[&one, &two], Ok(vec!["one", "two"])),
            (Required::All, &[&one], Err("it lacks the signature of two")),
            (Required::All, &[&stranger], Err("it lacks the signature of one, two")),
        ] {
            match (signed(&digest, signers).check(&digest, required, &keys), expected) {
                (Ok(names), Ok(expected)) => assert_eq!(names, expected, "{required:?}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{required:?}: {error}"),
                (found, expected) => panic!("{required:?}: expected {expected:?}, found {found:?}"),
            }
        }
        for required in [Required::Any, Required::All] {
            let error = signed(&digest, &[&one]).check(&digest, required, &[]).unwrap_err();
            assert_eq!(error, SignatureError::NoTrustedKey);
        }
    }

    #[test]
    fn what_was_tampered_with_is_refused() {
        let digest = Digest::of(b"module").to_hex();
        let other = Digest::of(b"other").to_hex();
        let (one, two) = (key(1), key(2));
        let keys = trusted(&[("one", &one), ("two", &two)]);
        let signatures = signed(&digest, &[&one, &two]);
        assert!(matches!(signatures.check(&other, Required::Any, &keys), Err(SignatureError::OtherModule { .. })));

        let mut renamed = signatures.clone();
        renamed.digest = format!("sha256:{other}");
        assert!(matches!(renamed.check(&other, Required::Any, &keys), Err(SignatureError::Invalid { .. })));

        let mut swapped = signatures.clone();
        let signature = swapped.signatures[1].signature.clone();
        swapped.signatures[0].signature = signature;
        assert!(
            matches!(swapped.check(&digest, Required::Any, &keys), Err(SignatureError::Invalid { .. })),
            "also where two is valid"
        );

        let mut algorithm = signatures.clone();
        algorithm.signatures[0].algorithm = "none".to_owned();
        assert!(matches!(algorithm.check(&digest, Required::Any, &keys), Err(SignatureError::Invalid { .. })));

        let mut garbage = signatures;
        garbage.signatures[0].signature = "!".to_owned();
        assert!(matches!(garbage.check(&digest, Required::Any, &keys), Err(SignatureError::Invalid { .. })));
    }

    #[test]
    fn a_key_signs_once() {
        let digest = Digest::of(b"module").to_hex();
        let one = key(1);
        let mut signatures = signed(&digest, &[&one, &key(2)]);
        signatures.add(&one);
        assert_eq!(signatures.signers().len(), 2);
    }

    #[test]
    fn keys_are_written_and_read() {
        let one = key(1);
        let pem = one.to_pem();
        assert!(pem.expose().starts_with(PEM_BEGIN) && pem.expose().lines().all(|line| line.len() <= PEM_LINE));
        assert_eq!(SigningKey::parse(&pem).unwrap().public(), one.public());
        let text = one.public().to_string();
        assert_eq!(PublicKey::parse(&format!("{text}\n")), Ok(one.public()));
        assert_eq!(one.public().id().len(), 2 * KEY_ID_BYTES);
        assert!(!format!("{one:?}").contains(&pem.expose()[40..60]));
        for wrong in ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", &text[8..], &format!("{text}AAAA")] {
            assert_eq!(PublicKey::parse(wrong), Err(SignatureError::PublicKey), "{wrong}");
        }
        for wrong in ["", PEM_BEGIN, &pem.expose()[..80], &pem.expose().replace("MC", "XX")] {
            assert!(SigningKey::parse(&Plaintext::new(wrong)).is_err(), "{wrong}");
        }
    }

    /// A key that OpenSSL wrote (`openssl genpkey -algorithm ed25519`), without the public half. It is the first of
    /// RFC 8032 §7.1.
    #[test]
    fn a_key_of_another_tool_is_read() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
        let key = SigningKey::parse(&Plaintext::new(pem)).unwrap();
        assert_eq!(key.public().to_string(), "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    }
}
