//! Policy modules in OCI registries: what names one there, and what was pulled. How that is done is `outbound::registry`.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

/// `oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST`: an artifact by the digest of its manifest, never by a tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    authority: String,
    repository: String,
    /// Of the manifest, lower-case hex.
    digest: String,
}

/// Why a text is no reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("is not of the form oci://HOST/REPOSITORY@sha256:DIGEST")]
    Form,
    #[error("names a tag, which can move to other bytes")]
    Tag,
}

impl Reference {
    /// What every reference begins with.
    pub const SCHEME: &str = "oci://";

    /// Reads a reference, `oci://` included.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let rest = text.strip_prefix(Self::SCHEME).ok_or(ReferenceError::Form)?;
        let (name, digest) = rest.split_once('@').ok_or(ReferenceError::Tag)?;
        let digest = digest.strip_prefix("sha256:").ok_or(ReferenceError::Form)?;
        let (authority, repository) = name.split_once('/').ok_or(ReferenceError::Form)?;
        if repository.contains(':') {
            return Err(ReferenceError::Tag);
        }
        if !is_sha256(digest) || !is_repository(repository) || !is_authority(authority) {
            return Err(ReferenceError::Form);
        }
        Ok(Self { authority: authority.to_owned(), repository: repository.to_owned(), digest: digest.to_owned() })
    }

    /// Host and port of the registry.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Digest of the manifest, lower-case hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/{}@sha256:{}", Self::SCHEME, self.authority, self.repository, self.digest)
    }
}

/// Whether this is a SHA-256 as digests of artifacts have it: 64 lower-case hexadecimal digits.
pub fn is_sha256(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_repository(name: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/');
    let is_part = |part: &str| part.bytes().any(|byte| byte != b'.');
    name.bytes().all(allowed) && name.split('/').all(is_part)
}

fn is_authority(text: &str) -> bool {
    let authority: Result<http::uri::Authority, _> = text.parse();
    authority.is_ok_and(|authority| !authority.host().is_empty() && !text.contains('@'))
}

/// An artifact whose parts have the digests that its manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    pub module: Bytes,
    /// The text of a signature file, where the artifact has one.
    pub signatures: Option<Bytes>,
}

/// What came of pulling: each artifact, or in words for an operator why there is none.
pub type Pulled = BTreeMap<Reference, Result<Artifact, String>>;

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_reference_names_a_manifest_by_its_digest() {
        for name in ["registry.example:5000/team/policies/no-deletes", "127.0.0.1/a", "[::1]:5000/a.b_c-d"] {
            let text = format!("oci://{name}@sha256:{DIGEST}");
            let reference = Reference::parse(&text).unwrap();
            assert_eq!((reference.to_string(), reference.digest()), (text, DIGEST));
        }
    }

    #[test]
    fn other_texts_are_no_references() {
        for (text, expected) in [
            ("oci://registry.example/a:latest".to_owned(), ReferenceError::Tag),
            ("oci://registry.example/a".to_owned(), ReferenceError::Tag),
            (format!("oci://registry.example/a:1@sha256:{DIGEST}"), ReferenceError::Tag),
            (format!("https://registry.example/a@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci:///a@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example/../a@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example//a@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example/@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example/A@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example/a?x@sha256:{DIGEST}"), ReferenceError::Form),
            ("oci://registry.example/a@sha256:12".to_owned(), ReferenceError::Form),
            (format!("oci://registry.example/a@sha512:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example/a@sha256:{}", DIGEST.to_uppercase()), ReferenceError::Form),
            (format!("oci://user@registry.example/a@sha256:{DIGEST}"), ReferenceError::Form),
        ] {
            assert_eq!(Reference::parse(&text), Err(expected), "{text}");
        }
    }
}
