//! Values for headers, and how they stand in the one text that is sealed: a JSON object of names and values.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::secret::{Plaintext, SecretBytes};

/// Longest value, in bytes.
pub const MAX_VALUE: usize = 4096;

/// The text of these values.
pub fn write(values: &BTreeMap<String, Plaintext>) -> SecretBytes {
    let member = |(name, value): (&String, &Plaintext)| (name.clone(), Value::String(value.expose().to_owned()));
    let members: Map<String, Value> = values.iter().map(member).collect();
    SecretBytes::new(Value::Object(members).to_string().into_bytes())
}

/// The values of a text that [`write`] wrote.
pub fn read(text: &SecretBytes) -> Option<BTreeMap<String, Plaintext>> {
    let members: BTreeMap<String, String> = serde_json::from_slice(text.expose()).ok()?;
    Some(members.into_iter().map(|(name, value)| (name, Plaintext::new(value))).collect())
}

/// Whether this may be sent as the value of a header: visible ASCII, with spaces inside at most (`security.md` row U11).
pub fn is_value(text: &str) -> bool {
    let is_visible = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    (1..=MAX_VALUE).contains(&text.len()) && is_visible && text.trim_matches(' ').len() == text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn u11_a_value_that_passes_is_a_header_and_is_read_as_it_was_written(text in any::<String>(), name in "[a-z-]{1,20}") {
            let values: BTreeMap<String, Plaintext> = [(name, Plaintext::new(text.clone()))].into();
            prop_assert!(read(&write(&values)).unwrap() == values);
            if is_value(&text) {
                prop_assert!(http::HeaderValue::from_str(&text).is_ok());
                prop_assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            }
        }
    }

    #[test]
    fn u11_values_are_visible_ascii_without_spaces_around_and_bounded() {
        for good in ["x", "Bearer abc", "a=b; c", &"x".repeat(MAX_VALUE)] {
            assert!(is_value(good), "{good:?}");
        }
        for bad in ["", " x", "x ", "a\r\nb", "a\nb", "a\0b", "a\tb", "ä", "\u{7f}", &"x".repeat(MAX_VALUE + 1)] {
            assert!(!is_value(bad), "{bad:?}");
        }
        assert!(read(&SecretBytes::new(b"[]".to_vec())).is_none());
    }
}
