//! The names of counters: what a limit is for, in at most as many bytes as the host takes.
//!
//! Different things never share a name, whatever characters they have in theirs. A name that would be too long ends in a
//! digest of the whole of it; two of those could only be made to meet on purpose, and would then share a limit.

/// Longest key, in bytes, as the contract has it.
const MAX_LEN: usize = 256;
/// Length of the digest in hex, with a character before it.
const DIGEST: usize = 33;

/// A key in the making.
pub(crate) struct Key(String);

impl Key {
    /// For a rule of this name.
    pub(crate) fn new(rule: &str) -> Self {
        Self(rule.to_owned())
    }

    /// Tells apart by these words.
    pub(crate) fn add(&mut self, what: &str, words: &[&str]) {
        self.0.push(' ');
        self.0.push_str(what);
        for word in words {
            self.0.push('=');
            for character in word.chars() {
                if matches!(character, ' ' | '=' | '\\' | '#') {
                    self.0.push('\\');
                }
                self.0.push(character);
            }
        }
    }

    /// The key as the host takes it.
    pub(crate) fn into_string(self) -> String {
        if self.0.len() <= MAX_LEN {
            return self.0;
        }
        let kept = &self.0[..self.0.floor_char_boundary(MAX_LEN - DIGEST)];
        format!("{kept}#{:032x}", fnv1a(self.0.as_bytes()))
    }
}

/// FNV-1a of 128 bits.
fn fnv1a(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[(&str, &[&str])]) -> String {
        let mut key = Key::new("rules/0");
        parts.iter().for_each(|(what, words)| key.add(what, words));
        key.into_string()
    }

    #[test]
    fn different_things_have_different_keys() {
        assert_eq!(key(&[("caller", &["portcullis", "ada"])]), "rules/0 caller=portcullis=ada");
        assert_ne!(key(&[("caller", &["a", "b=c"])]), key(&[("caller", &["a=b", "c"])]));
        assert_ne!(key(&[("caller", &["a tool=x"])]), key(&[("caller", &["a"]), ("tool", &["x"])]));
        assert_ne!(key(&[("caller", &["a\\"])]), key(&[("caller", &["a\\\\"])]));
    }

    #[test]
    fn a_long_key_is_cut_and_still_tells_apart() {
        let long = "ö".repeat(200);
        let keys = [key(&[("caller", &[&long, "a"])]), key(&[("caller", &[&long, "b"])])];
        assert!(keys.iter().all(|key| key.len() <= MAX_LEN && key.starts_with("rules/0 caller=ööö")), "{keys:?}");
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn the_digest_is_fnv1a() {
        assert_eq!(format!("{:032x}", fnv1a(b"")), "6c62272e07bb014262b821756295c58d");
        assert_eq!(format!("{:032x}", fnv1a(b"a")), "d228cb696f1a8caf78912b704e4a8964");
    }
}
