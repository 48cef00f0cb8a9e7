//! Format 1 of sealed fields and wrapped data keys: pure functions over keys and bytes.
//!
//! ```text
//! sealed field   version 1 ‖ algorithm 1 ‖ length and text of the kid ‖ data key's id (16) ‖ salt (32) ‖ commitment (32)
//!                ‖ AES-256-GCM ciphertext ‖ tag (16)
//! record key     HKDF-SHA-256(data key, salt, info) → 32 bytes of key ‖ 32 bytes of commitment   (RFC 5869)
//! info           "portcullis vault 1" ‖ table ‖ field
//! AAD            deployment (16) ‖ table ‖ primary key ‖ owner ‖ field ‖ revision ‖ everything before the ciphertext
//! ```
//!
//! Each part of `info` and AAD has its length before it (32 bits, big-endian), so that no two lists of parts are the same
//! bytes. The salt is random for each write and so the record key is used once: the nonce is zero. AES-GCM alone does not
//! commit to its key (one ciphertext can be made that opens under two); the commitment does, and is compared first.
//!
//! The header's kid tells what wrapped the data key when the field was written. A data key that was wrapped anew since opens
//! the field all the same.
//!
//! Fixtures with fixed inputs hold all of this still: what one version has written, every later one reads.

use aws_lc_rs::{aead, constant_time, hkdf, hmac};
use zeroize::Zeroizing;

use crate::ids::{DeploymentId, KekId, Owner};
use crate::secret::{Digest, Sealed, SecretBytes};
use crate::store::data_keys::DataKeyId;
use crate::store::sealed::Place;

/// Largest secret, in bytes. Sealed and in base64 it still fits into a record.
pub const MAX_PLAINTEXT: usize = 128 * 1024;
/// Bytes of every key.
pub(super) const KEY_BYTES: usize = 32;
/// Random bytes for each write.
pub(super) const SALT_BYTES: usize = 32;

const VERSION: u8 = 1;
/// AES-256-GCM. Numbers 2 and 3 are kept for XChaCha20-Poly1305 and AES-256-GCM-SIV.
const AES_256_GCM: u8 = 1;
const COMMITMENT_BYTES: usize = 32;
const ID_BYTES: usize = 16;

const FIELD_LABEL: &[u8] = b"portcullis vault 1";
const WRAP_LABEL: &[u8] = b"portcullis vault wrap 1";
const ROOT_LABEL: &[u8] = b"portcullis vault root 1";
const TAG_LABEL: &[u8] = b"portcullis vault data key 1";
const CHECK_LABEL: &[u8] = b"portcullis vault check 1";

/// Why a sealed field was not opened. Not one of them says what a key or a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is cut short or is no sealed field")]
    Malformed,
    #[error("it has a format or algorithm that this version does not know")]
    UnknownFormat,
    #[error("its owner has no such data key: it is missing, or the field is another owner's")]
    NoDataKey,
    #[error("its owner's data key was destroyed, as somebody wished")]
    Shredded,
    #[error("its owner's data key is damaged or was not wrapped by us")]
    DataKeyDamaged,
    #[error("it is damaged, or was sealed for another place, revision or deployment")]
    Mismatch,
}

/// What stands before the ciphertext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kid: KekId,
    pub(super) data_key: DataKeyId,
    salt: [u8; SALT_BYTES],
    commitment: [u8; COMMITMENT_BYTES],
}

impl Header {
    /// The header of a sealed field, and how long it is.
    pub(super) fn read(sealed: &Sealed) -> Result<(Self, usize), Refusal> {
        let bytes = sealed.as_bytes();
        let (version, rest) = bytes.split_first().ok_or(Refusal::Malformed)?;
        let (algorithm, rest) = rest.split_first().ok_or(Refusal::Malformed)?;
        if (*version, *algorithm) != (VERSION, AES_256_GCM) {
            return Err(Refusal::UnknownFormat);
        }
        let (length, rest) = rest.split_first().ok_or(Refusal::Malformed)?;
        let (kid, rest) = rest.split_at_checked(usize::from(*length)).ok_or(Refusal::Malformed)?;
        let kid = std::str::from_utf8(kid).ok().and_then(|kid| KekId::parse(kid).ok()).ok_or(Refusal::Malformed)?;
        let (data_key, rest) = rest.split_first_chunk::<ID_BYTES>().ok_or(Refusal::Malformed)?;
        let (salt, rest) = rest.split_first_chunk().ok_or(Refusal::Malformed)?;
        let (commitment, rest) = rest.split_first_chunk().ok_or(Refusal::Malformed)?;
        if rest.len() < aead::MAX_TAG_LEN {
            return Err(Refusal::Malformed);
        }
        let header = Self { kid, data_key: DataKeyId(*data_key), salt: *salt, commitment: *commitment };
        Ok((header, bytes.len() - rest.len()))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Self { kid, data_key, salt, commitment } = self;
        let length = u8::try_from(kid.as_str().len()).expect("a kid has at most 64 bytes");
        [&[VERSION, AES_256_GCM, length], kid.as_str().as_bytes(), &data_key.0, salt, commitment].concat()
    }
}

/// The data key of an owner, unwrapped.
pub(super) struct OpenKey {
    pub(super) id: DataKeyId,
    /// What wraps it.
    pub(super) kid: KekId,
    pub(super) key: SecretBytes,
}

/// Seals a secret for its place. The salt is drawn for this one write.
pub(super) fn seal(
    deployment: &DeploymentId,
    place: &Place,
    key: &OpenKey,
    salt: [u8; SALT_BYTES],
    plaintext: &[u8],
) -> Sealed {
    let record = RecordKey::derive(&key.key, &salt, &[FIELD_LABEL, place.table.as_bytes(), place.field.as_bytes()]);
    let header = Header { kid: key.kid.clone(), data_key: key.id, salt, commitment: record.commitment }.to_bytes();
    let aad = associated(deployment, place, &header);
    Sealed::from_bytes(record.seal(header, &aad, plaintext))
}

/// The secret that [`seal`] sealed with this key for the same place.
pub(super) fn open(
    deployment: &DeploymentId,
    place: &Place,
    key: &OpenKey,
    sealed: &Sealed,
) -> Result<SecretBytes, Refusal> {
    let (header, length) = Header::read(sealed)?;
    let info = [FIELD_LABEL, place.table.as_bytes(), place.field.as_bytes()];
    let record = RecordKey::derive(&key.key, &header.salt, &info);
    let (head, ciphertext) = sealed.as_bytes().split_at(length);
    record.open(&header.commitment, &associated(deployment, place, head), ciphertext).ok_or(Refusal::Mismatch)
}

/// Wraps a data key by a key-encryption key that we hold ourselves: salt ‖ commitment ‖ ciphertext ‖ tag.
pub(super) fn wrap(kek: &SecretBytes, salt: [u8; SALT_BYTES], key: &SecretBytes) -> Sealed {
    let record = RecordKey::derive(kek, &salt, &[WRAP_LABEL]);
    let head = [salt, record.commitment].concat();
    let aad = head.clone();
    Sealed::from_bytes(record.seal(head, &aad, key.expose()))
}

/// The data key that [`wrap`] wrapped by the same key, or `None`.
pub(super) fn unwrap(kek: &SecretBytes, wrapped: &Sealed) -> Option<SecretBytes> {
    let (salt, rest) = wrapped.as_bytes().split_first_chunk::<SALT_BYTES>()?;
    let (commitment, ciphertext) = rest.split_first_chunk::<COMMITMENT_BYTES>()?;
    let record = RecordKey::derive(kek, salt, &[WRAP_LABEL]);
    record.open(commitment, &[salt.as_slice(), commitment].concat(), ciphertext)
}

/// The root of a key-encryption key that we hold ourselves.
pub(super) fn root_of(kek: &SecretBytes) -> SecretBytes {
    let mut root = Zeroizing::new([0; KEY_BYTES]);
    expand(kek, ROOT_LABEL, &[ROOT_LABEL], root.as_mut());
    SecretBytes::new(root.to_vec())
}

/// The tag of a wrapped data key under the root of what wrapped it (HMAC-SHA-256). It shows that whoever wrapped the key
/// held the key-encryption key, which unwrapping alone does not where anyone can wrap, and for which owner and deployment.
pub(super) fn tag(
    root: &SecretBytes,
    version: u32,
    deployment: &DeploymentId,
    (owner, id, kid): (&Owner, DataKeyId, &KekId),
    wrapped: &Sealed,
) -> Digest {
    let owner = owner.to_string();
    mac(
        root,
        &[
            TAG_LABEL,
            &version.to_be_bytes(),
            deployment.as_bytes(),
            owner.as_bytes(),
            &id.0,
            kid.as_str().as_bytes(),
            wrapped.as_bytes(),
        ],
    )
}

/// What only a holder of the key-encryption key of this id can make in this deployment (HMAC-SHA-256 under its root).
pub(super) fn check(root: &SecretBytes, version: u32, deployment: &DeploymentId, kid: &KekId) -> Digest {
    mac(root, &[CHECK_LABEL, &version.to_be_bytes(), deployment.as_bytes(), kid.as_str().as_bytes()])
}

fn mac(root: &SecretBytes, parts: &[&[u8]]) -> Digest {
    let key = hmac::Key::new(hmac::HMAC_SHA256, root.expose());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hmac::sign(&key, &prefixed(parts)).as_ref());
    Digest::from_bytes(bytes)
}

fn associated(deployment: &DeploymentId, place: &Place, header: &[u8]) -> Vec<u8> {
    let Place { owner, table, key, field, revision } = place;
    let owner = owner.to_string();
    prefixed(&[
        deployment.as_bytes(),
        table.as_bytes(),
        key,
        owner.as_bytes(),
        field.as_bytes(),
        &revision.to_be_bytes(),
        header,
    ])
}

/// Parts one after the other, each with its length before it.
fn prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| 4 + part.len()).sum());
    for part in parts {
        let length = u32::try_from(part.len()).expect("parts are parts of records, far below 4 GiB");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// A key for one write, and what commits to it.
struct RecordKey {
    key: aead::LessSafeKey,
    commitment: [u8; COMMITMENT_BYTES],
}

impl RecordKey {
    fn derive(secret: &SecretBytes, salt: &[u8; SALT_BYTES], info: &[&[u8]]) -> Self {
        let mut derived = Zeroizing::new([0; KEY_BYTES + COMMITMENT_BYTES]);
        expand(secret, salt, info, derived.as_mut());
        let (key, rest) = derived.split_at(KEY_BYTES);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("the key is as long as the algorithm wants it");
        let mut commitment = [0; COMMITMENT_BYTES];
        commitment.copy_from_slice(rest);
        Self { key: aead::LessSafeKey::new(key), commitment }
    }

    fn seal(&self, head: Vec<u8>, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut bytes = head;
        let length = bytes.len();
        // Grown once, so that no copy of the plaintext is left behind.
        bytes.reserve_exact(plaintext.len() + aead::MAX_TAG_LEN);
        bytes.extend_from_slice(plaintext);
        let tag = self.key.seal_in_place_separate_tag(nonce(), aead::Aad::from(aad), &mut bytes[length..]);
        bytes.extend_from_slice(tag.expect("secrets are far below the limit of AES-GCM").as_ref());
        bytes
    }

    fn open(&self, commitment: &[u8; COMMITMENT_BYTES], aad: &[u8], ciphertext: &[u8]) -> Option<SecretBytes> {
        constant_time::verify_slices_are_equal(commitment, &self.commitment).ok()?;
        let mut bytes = Zeroizing::new(ciphertext.to_vec());
        let plaintext = self.key.open_in_place(nonce(), aead::Aad::from(aad), &mut bytes).ok()?;
        Some(SecretBytes::taken_from(plaintext))
    }
}

/// Each record key is used for one write, so that there is no second nonce to tell from this one.
fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

/// HKDF-SHA-256 (RFC 5869).
fn expand(secret: &SecretBytes, salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let info = prefixed(info);
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret.expose());
    let info: [&[u8]; 1] = [&info];
    let filled = derived.expand(&info, Length(out.len())).and_then(|okm| okm.fill(out));
    filled.expect("64 bytes are far below the limit of HKDF");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::hex;

    fn deployment(digits: &str) -> DeploymentId {
        DeploymentId::parse(&digits.repeat(16)).unwrap()
    }

    fn place() -> Place {
        let owner = Owner::parse("key:ci").unwrap();
        Place { owner, table: "connections", key: b"ci/notes".to_vec(), field: "access_token", revision: 3 }
    }

    fn key() -> OpenKey {
        let key = SecretBytes::new((0..32).collect());
        OpenKey { id: DataKeyId([0xa5; 16]), kid: KekId::parse("k1").unwrap(), key }
    }

    const SALT: [u8; 32] = [0x5a; 32];

    fn sealed() -> Sealed {
        seal(&deployment("0d"), &place(), &key(), SALT, b"hunter2")
    }

    /// These bytes were written once and for all. A change that makes this test fail makes every store unreadable.
    #[test]
    fn format_1_is_frozen() {
        let fixtures = include_str!("fixtures/format-1.txt");
        let fixture = |name: &str| {
            let line = fixtures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.unwrap_or_else(|| panic!("the fixture {name}")).to_owned()
        };
        assert_eq!(hex(sealed().as_bytes()), fixture("sealed"));
        let empty = Place { owner: Owner::Deployment, key: Vec::new(), revision: 0, ..place() };
        assert_eq!(hex(seal(&deployment("0d"), &empty, &key(), SALT, b"").as_bytes()), fixture("sealed_empty"));
        let kek = SecretBytes::new((32..64).collect());
        let wrapped = wrap(&kek, SALT, &key().key);
        assert_eq!(hex(wrapped.as_bytes()), fixture("wrapped"));
        let root = root_of(&kek);
        assert_eq!(hex(root.expose()), fixture("root"));
        let of = (&place().owner, key().id, &key().kid);
        assert_eq!(tag(&root, 0, &deployment("0d"), of, &wrapped).to_hex(), fixture("tag"));
        assert_eq!(check(&root, 0, &deployment("0d"), &key().kid).to_hex(), fixture("check"));
    }

    /// The same bytes by way of the definitions, step by step, with nothing of ours but the layout.
    #[test]
    fn format_1_is_what_its_description_says() {
        let length = |part: &[u8]| u32::try_from(part.len()).unwrap().to_be_bytes();
        let list =
            |parts: &[&[u8]]| parts.iter().flat_map(|part| [&length(part)[..], part].concat()).collect::<Vec<u8>>();
        let hmac_of =
            |key: &[u8], message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec();
        // RFC 5869: extract, then two blocks of expand.
        let info = list(&[b"portcullis vault 1", b"connections", b"access_token"]);
        let prk = hmac_of(&SALT, key().key.expose());
        let first = hmac_of(&prk, &[&info[..], &[1]].concat());
        let second = hmac_of(&prk, &[&first[..], &info, &[2]].concat());
        let header = [&[1, 1, 2][..], b"k1", &[0xa5; 16], &SALT, &second].concat();
        let aad = list(&[
            &[0x0d; 16],
            b"connections",
            b"ci/notes",
            b"key:ci",
            b"access_token",
            &3_u64.to_be_bytes(),
            &header,
        ]);
        let cipher = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &first).unwrap());
        let mut ciphertext = b"hunter2".to_vec();
        cipher.seal_in_place_append_tag(nonce(), aead::Aad::from(aad), &mut ciphertext).unwrap();
        assert_eq!(sealed().as_bytes(), [header, ciphertext].concat());
    }

    #[test]
    fn the_store_reads_the_same_data_key_in_a_header() {
        let sealed = sealed();
        assert_eq!(crate::store::data_keys::sealer_of(&sealed), Some(key().id));
        let cut = Sealed::from_bytes(&sealed.as_bytes()[..20]);
        assert_eq!(crate::store::data_keys::sealer_of(&cut), None);
    }

    #[test]
    fn what_was_sealed_opens_at_its_place_only() {
        let sealed = sealed();
        let opened = |deployment: &DeploymentId, place: &Place, key: &OpenKey| open(deployment, place, key, &sealed);
        let here = deployment("0d");
        assert_eq!(opened(&here, &place(), &key()).unwrap().expose(), b"hunter2");
        let elsewhere = [
            Place { owner: Owner::parse("key:cj").unwrap(), ..place() },
            Place { owner: Owner::Deployment, ..place() },
            Place { table: "clients", ..place() },
            Place { key: b"ci/note".to_vec(), ..place() },
            Place { field: "refresh_token", ..place() },
            Place { revision: 2, ..place() },
            // The same bytes, cut elsewhere.
            Place { table: "connection", key: b"sci/notes".to_vec(), ..place() },
        ];
        for place in elsewhere {
            assert_eq!(opened(&here, &place, &key()), Err(Refusal::Mismatch), "{place:?}");
        }
        assert_eq!(opened(&deployment("0e"), &place(), &key()), Err(Refusal::Mismatch));
        let other = OpenKey { key: SecretBytes::new(vec![7; 32]), ..key() };
        assert_eq!(opened(&here, &place(), &other), Err(Refusal::Mismatch));
    }

    #[test]
    fn every_write_has_its_own_key() {
        let first = sealed();
        let second = seal(&deployment("0d"), &place(), &key(), [0x5b; 32], b"hunter2");
        let (head, length) = Header::read(&first).unwrap();
        let (other, _) = Header::read(&second).unwrap();
        assert_ne!(head.commitment, other.commitment);
        assert_ne!(first.as_bytes()[length..], second.as_bytes()[length..]);
    }

    #[test]
    fn a_data_key_is_unwrapped_by_what_wrapped_it_only() {
        let kek = SecretBytes::new(vec![1; 32]);
        let wrapped = wrap(&kek, SALT, &key().key);
        assert!(unwrap(&kek, &wrapped).unwrap() == key().key);
        assert!(unwrap(&SecretBytes::new(vec![2; 32]), &wrapped).is_none());
        for position in 0..wrapped.as_bytes().len() {
            let mut bytes = wrapped.as_bytes().to_vec();
            bytes[position] ^= 1;
            assert!(unwrap(&kek, &Sealed::from_bytes(bytes)).is_none(), "byte {position}");
            let cut = wrapped.as_bytes()[..position].to_vec();
            assert!(unwrap(&kek, &Sealed::from_bytes(cut)).is_none(), "{position} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_cut_is_refused(position in any::<prop::sample::Index>(), bit in 0..8_u8, secret: Vec<u8>) {
            let sealed = seal(&deployment("0d"), &place(), &key(), SALT, &secret);
            let opened = open(&deployment("0d"), &place(), &key(), &sealed).unwrap();
            prop_assert_eq!(opened.expose(), &secret[..]);
            let at = position.index(sealed.as_bytes().len());
            let mut flipped = sealed.as_bytes().to_vec();
            flipped[at] ^= 1 << bit;
            prop_assert!(open(&deployment("0d"), &place(), &key(), &Sealed::from_bytes(flipped)).is_err());
            let cut = sealed.as_bytes()[..at].to_vec();
            prop_assert!(open(&deployment("0d"), &place(), &key(), &Sealed::from_bytes(cut)).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = open(&deployment("0d"), &place(), &key(), &Sealed::from_bytes(bytes));
        }
    }
}
