//! Values of headers, as they are sealed: all of a connection in one text.
//!
//! Pure. The text is a JSON object from names to values. That names and values are fit for a request is for whoever takes
//! them from a person to see to; whoever sends them looks again.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::secret::{Plaintext, SecretBytes};

/// Most headers of one connection.
pub const MAX_HEADERS: usize = 64;

/// What [`read`] reads.
pub fn written(values: &BTreeMap<String, Plaintext>) -> SecretBytes {
    // Large enough from the beginning: a buffer that grows leaves copies behind.
    let room: usize = values.iter().map(|(name, value)| 6 * (name.len() + value.expose().len()) + 8).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(room + 2));
    let values: BTreeMap<&str, &str> = values.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    serde_json::to_writer(&mut *text, &values).expect("texts are written into memory");
    SecretBytes::taken_from(&mut text)
}

/// The values by name, or `None` if it is no such text.
pub fn read(text: &SecretBytes) -> Option<BTreeMap<String, Plaintext>> {
    let values: BTreeMap<String, String> = serde_json::from_slice(text.expose()).ok()?;
    let values: BTreeMap<_, _> = values.into_iter().map(|(name, value)| (name, Plaintext::new(value))).collect();
    (values.len() <= MAX_HEADERS).then_some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_are_read_as_they_were_written(values in prop::collection::btree_map(".{0,20}", ".{0,40}", 0..8)) {
            let values: BTreeMap<String, Plaintext> =
                values.into_iter().map(|(name, value)| (name, Plaintext::new(value))).collect();
            prop_assert_eq!(read(&written(&values)), Some(values));
        }

        #[test]
        fn nothing_else_is_read_as_values(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(values) = read(&SecretBytes::new(bytes.clone())) {
                let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                prop_assert!(values.len() <= json.as_object().unwrap().len());
            }
        }
    }

    #[test]
    fn there_are_not_too_many() {
        let many = |count: usize| (0..count).map(|number| (number.to_string(), Plaintext::new("v"))).collect();
        assert!(read(&written(&many(MAX_HEADERS))).is_some());
        assert!(read(&written(&many(MAX_HEADERS + 1))).is_none());
        assert!(read(&SecretBytes::new(b"[\"x\"]".to_vec())).is_none());
    }
}
