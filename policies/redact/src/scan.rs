//! Finds what looks like a secret or a personal datum in a text. Linear in the text: each scanner looks at a character a
//! bounded number of times, and none goes back further than the longest thing it knows.
//!
//! Texts are often JSON: the letter of an escape such as `\n` is no part of the word that follows it, so that a key on a line
//! of its own is found there too and no escape is cut in two.

use std::ops::Range;

use portcullis_guest_sdk::serde::Deserialize;

/// What is looked for. Where two overlap, the earlier one names both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A PEM private key, header and footer included.
    PrivateKey,
    /// A JSON Web Token.
    Jwt,
    /// An API key with a prefix that its issuer is known by.
    ApiKey,
    Email,
    /// An International Bank Account Number whose check digits are right.
    Iban,
    /// A payment card number whose check digit is right.
    CreditCard,
    /// A word that the operator listed.
    Word,
}

impl Kind {
    /// Its name in configuration, replacements and notes.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::PrivateKey => "private-key",
            Self::Jwt => "jwt",
            Self::ApiKey => "api-key",
            Self::Email => "email",
            Self::Iban => "iban",
            Self::CreditCard => "credit-card",
            Self::Word => "word",
        }
    }
}

/// Something that was found, by its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) range: Range<usize>,
    pub(crate) kind: Kind,
}

/// Everything of these kinds in `text`, in order and without overlap. `words` are compared without regard to ASCII case.
pub(crate) fn scan(text: &str, kinds: &[Kind], words: &[String]) -> Vec<Found> {
    let mut found = Vec::new();
    for kind in kinds {
        let ranges = match kind {
            Kind::PrivateKey => private_keys(text),
            Kind::Jwt => tokens(text, SHORTEST_JWT, |byte| is_word(byte) || byte == b'.', jwt),
            Kind::ApiKey => tokens(text, SHORTEST_KEY, is_word, api_key),
            Kind::Email => emails(text),
            Kind::Iban => groups(text, &IBAN),
            Kind::CreditCard => groups(text, &CARD),
            Kind::Word => Vec::new(),
        };
        found.extend(ranges.into_iter().map(|range| Found { range, kind: *kind }));
    }
    found.extend(listed_words(text, words).into_iter().map(|range| Found { range, kind: Kind::Word }));
    without_overlap(found)
}

/// Those that overlap become one, of the earliest kind among them: nothing of either is left over.
fn without_overlap(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by_key(|one| (one.range.start, one.kind));
    let mut kept: Vec<Found> = Vec::with_capacity(found.len());
    for one in found {
        match kept.last_mut().filter(|last| one.range.start < last.range.end) {
            Some(last) => {
                last.range.end = last.range.end.max(one.range.end);
                last.kind = last.kind.min(one.kind);
            }
            None => kept.push(one),
        }
    }
    kept
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Length of the JSON escape that begins at a backslash, or of the backslash alone.
fn escape_length(bytes: &[u8]) -> usize {
    match bytes.get(1) {
        Some(b'n' | b'r' | b't' | b'b' | b'f' | b'"' | b'/' | b'\\') => 2,
        Some(b'u') if bytes.len() >= 6 && bytes[2..6].iter().all(u8::is_ascii_hexdigit) => 6,
        _ => 1,
    }
}

/// Finds in runs of bytes that belong together; `find_in` answers with a part of the run. All bytes are ASCII, so that ranges
/// lie between characters.
fn tokens(
    text: &str,
    least: usize,
    belongs: impl Fn(u8) -> bool,
    find_in: impl Fn(&str) -> Option<Range<usize>>,
) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        if bytes[start] == b'\\' {
            start += escape_length(&bytes[start..]);
            continue;
        }
        if !belongs(bytes[start]) {
            start += 1;
            continue;
        }
        let end = bytes[start..].iter().position(|byte| !belongs(*byte)).map_or(bytes.len(), |length| start + length);
        if end - start >= least
            && let Some(part) = find_in(&text[start..end])
        {
            found.push(start + part.start..start + part.end);
        }
        start = end;
    }
    found
}

/// Shortest token that any API key has.
const SHORTEST_KEY: usize = 15;
/// Shortest token that any JWT has.
const SHORTEST_JWT: usize = 20;

/// Prefix and fewest characters after it.
const API_KEYS: &[(&str, usize)] = &[
    ("sk-", 16),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("rk_live_", 16),
    ("pk_", 32),
    ("ghp_", 30),
    ("gho_", 30),
    ("ghu_", 30),
    ("ghs_", 30),
    ("ghr_", 30),
    ("github_pat_", 30),
    ("glpat-", 20),
    ("xoxa-", 10),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xoxr-", 10),
    ("xoxs-", 10),
    ("AIza", 35),
    ("npm_", 36),
    ("hf_", 30),
];

/// Where a key begins in a token: at its start or behind something that is no letter or digit.
fn beginnings(token: &str) -> impl Iterator<Item = usize> {
    let bytes = token.as_bytes();
    (0..bytes.len()).filter(move |at| *at == 0 || !bytes[at - 1].is_ascii_alphanumeric())
}

/// A prefix with enough behind it that is not just words in small letters with dashes between them.
fn api_key(token: &str) -> Option<Range<usize>> {
    let last = token.bytes().rposition(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())?;
    beginnings(token).take_while(|at| *at <= last).find_map(|at| {
        let rest = &token[at..];
        if is_aws_key_id(rest) {
            return Some(at..at + AWS_KEY_ID);
        }
        let fits = |(prefix, least): &(&str, usize)| {
            rest.starts_with(prefix) && at + prefix.len() <= last && rest.len() >= prefix.len() + least
        };
        API_KEYS.iter().any(fits).then_some(at..token.len())
    })
}

const AWS_KEY_ID: usize = 20;

fn is_aws_key_id(rest: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    (rest.starts_with("AKIA") || rest.starts_with("ASIA"))
        && rest.len() >= AWS_KEY_ID
        && rest.bytes().take(AWS_KEY_ID).all(is_part)
        && !rest.as_bytes().get(AWS_KEY_ID).is_some_and(u8::is_ascii_alphanumeric)
}

/// From a header to the end of the token, if two more parts with something in them follow: signed (RFC 7515 §3.1) and
/// encrypted ones (RFC 7516 §3.1) alike.
fn jwt(token: &str) -> Option<Range<usize>> {
    let token = token.trim_end_matches('.');
    let parts: Vec<&str> = token.split('.').collect();
    let mut part_at = 0;
    for three in parts.windows(3) {
        let header = beginnings(three[0]).find(|at| three[0][*at..].starts_with("eyJ"));
        let rest_at = part_at + three[0].len() + three[1].len() + 2;
        if let Some(at) = header
            && three[0].len() - at >= 10
            && three[1].len() + token.len() - rest_at >= 10
            && token.len() - rest_at >= 8
        {
            return Some(part_at + at..token.len());
        }
        part_at += three[0].len() + 1;
    }
    None
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const PRIVATE: &str = "PRIVATE KEY";
const DASHES: &str = "-----";
/// Longest label between the dashes, in bytes.
const MAX_LABEL: usize = 64;

/// From `-----BEGIN … PRIVATE KEY…-----` to the end of the matching END line, or of the text: half a key is one too.
fn private_keys(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find(BEGIN).map(|at| from + at) {
        let label_at = start + BEGIN.len();
        from = label_at;
        let Some(label) = text[label_at..].find(DASHES).filter(|length| *length <= MAX_LABEL) else { continue };
        if !text[label_at..label_at + label].contains(PRIVATE) {
            continue;
        }
        let body = label_at + label + DASHES.len();
        let end = text[body..].find(END).and_then(|at| {
            let label_at = body + at + END.len();
            text[label_at..]
                .find(DASHES)
                .filter(|length| *length <= MAX_LABEL)
                .map(|length| label_at + length + DASHES.len())
        });
        from = end.unwrap_or(text.len());
        found.push(start..from);
    }
    found
}

/// Addresses with a host of two labels or more. Each byte is looked at for the `@` before and for the one behind it, and no
/// other, so that the time stays linear without a longest address.
fn emails(text: &str) -> Vec<Range<usize>> {
    let address_at = |at: usize| {
        let local = Some(local_length(&text[..at])).filter(|length| *length > 0)?;
        let domain = domain_length(&text[at + 1..])?;
        Some(at - local..at + 1 + domain)
    };
    text.bytes().enumerate().filter(|(_, byte)| *byte == b'@').filter_map(|(at, _)| address_at(at)).collect()
}

/// Length of the mailbox name that ends here. One in ASCII ends at other letters, which may be the sentence before it.
fn local_length(before: &str) -> usize {
    let is_ascii = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-');
    let length = before.bytes().rev().take_while(is_ascii).count();
    if length == 0 {
        return before.chars().rev().take_while(|character| character.is_alphanumeric()).map(char::len_utf8).sum();
    }
    let start = before.len() - length;
    let in_escape =
        before[..start].ends_with('\\') && matches!(before.as_bytes()[start], b'n' | b'r' | b't' | b'b' | b'f');
    if in_escape { length - 1 } else { length }
}

/// Length of the host name that begins here. One in ASCII ends at other letters, unless it is none without them.
fn domain_length(after: &str) -> Option<usize> {
    let in_ascii = after.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')).count();
    let host = |length: usize| {
        let domain = after[..length].trim_end_matches(['.', '-']);
        let (labels, top) = domain.rsplit_once('.')?;
        let is_top = top.chars().count() >= 2 && (top.starts_with("xn--") || top.chars().all(char::is_alphabetic));
        (!labels.is_empty() && !labels.starts_with('.') && is_top).then_some(domain.len())
    };
    let in_any = || {
        let belongs = |character: &char| character.is_alphanumeric() || matches!(character, '.' | '-');
        after.chars().take_while(belongs).map(char::len_utf8).sum()
    };
    host(in_ascii).or_else(|| host(in_any()))
}

/// Longest number that [`groups`] looks for.
const LONGEST: usize = 34;

/// What may stand between groups; the last is a space that does not break.
const SEPARATORS: [&[u8]; 3] = [b" ", b"-", "\u{a0}".as_bytes()];

/// How a kind of number is written.
struct Shape {
    belongs: fn(u8) -> bool,
    /// Whether a number can begin with these bytes; what cannot is not read any further.
    begins: fn(&[u8]) -> bool,
    shortest: usize,
    longest: usize,
    /// Fewest characters before a separator.
    group: usize,
    is_it: fn(&[u8]) -> bool,
}

const CARD: Shape = Shape {
    belongs: |byte| byte.is_ascii_digit(),
    begins: |bytes| bytes.iter().take(4).filter(|byte| byte.is_ascii_digit()).count() == 4,
    shortest: 13,
    longest: 19,
    group: 4,
    is_it: is_card,
};

const IBAN: Shape = Shape {
    belongs: |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit(),
    begins: |bytes| matches!(bytes, [a, b, c, d, ..] if a.is_ascii_uppercase() && b.is_ascii_uppercase() && c.is_ascii_digit() && d.is_ascii_digit()),
    shortest: 15,
    longest: LONGEST,
    group: 4,
    is_it: is_iban,
};

/// Numbers in groups that single spaces or dashes may part, as people write them; `is_it` sees them without. A number that is
/// part of a longer word is none.
fn groups(text: &str, shape: &Shape) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        if bytes[start] == b'\\' {
            start += escape_length(&bytes[start..]);
        } else if !bytes[start].is_ascii_alphanumeric() {
            start += 1;
        } else {
            let number = if (shape.begins)(&bytes[start..]) { number_at(bytes, start, shape) } else { None };
            match number {
                Some(end) => {
                    found.push(start..end);
                    start = end;
                }
                None => start = word_end(bytes, start),
            }
        }
    }
    found
}

/// Where the number that begins here ends: the longest reading that is one.
fn number_at(bytes: &[u8], start: usize, shape: &Shape) -> Option<usize> {
    let mut compact = [0_u8; LONGEST];
    let (mut length, mut in_group, mut at) = (0, 0, start);
    let mut longest = None;
    while at < bytes.len() && length < shape.longest {
        if (shape.belongs)(bytes[at]) {
            compact[length] = bytes[at];
            (length, in_group, at) = (length + 1, in_group + 1, at + 1);
            let ends = !bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
            if ends && length >= shape.shortest && (shape.is_it)(&compact[..length]) {
                longest = Some(at);
            }
        } else {
            let separator = SEPARATORS.iter().find(|separator| bytes[at..].starts_with(separator));
            let Some(separator) = separator.filter(|_| in_group >= shape.group) else { break };
            (in_group, at) = (0, at + separator.len());
        }
    }
    longest
}

fn word_end(bytes: &[u8], start: usize) -> usize {
    bytes[start..].iter().position(|byte| !byte.is_ascii_alphanumeric()).map_or(bytes.len(), |length| start + length)
}

/// ISO/IEC 7812: a number of a known issuer with a right check digit (Luhn). Without the issuers every tenth time stamp would
/// be a card.
fn is_card(digits: &[u8]) -> bool {
    let value = |digit: u8| u32::from(digit - b'0');
    let doubled = |digit: u8| {
        let twice = value(digit) * 2;
        if twice > 9 { twice - 9 } else { twice }
    };
    let luhn = || -> u32 {
        let in_turn = |(at, digit): (usize, &u8)| if at % 2 == 1 { doubled(*digit) } else { value(*digit) };
        digits.iter().rev().enumerate().map(in_turn).sum()
    };
    is_issued(digits) && luhn().is_multiple_of(10)
}

/// Whether an issuer has numbers that begin so and have this length.
fn is_issued(digits: &[u8]) -> bool {
    let lead = digits.iter().take(4).fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    let lengths = match lead {
        4000..=4999 => 13..=19,                                    // Visa
        2221..=2720 | 5100..=5599 => 16..=16,                      // Mastercard
        3400..=3499 | 3700..=3799 => 15..=15,                      // American Express
        3000..=3059 | 3095 | 3600..=3699 | 3800..=3999 => 14..=19, // Diners Club
        3528..=3589 => 16..=19,                                    // JCB
        5000..=5099 | 5600..=5899 | 6000..=6999 => 13..=19,        // Maestro, Discover, UnionPay, RuPay
        2200..=2204 | 9792 => 16..=19,                             // Mir, Troy
        _ => return false,
    };
    lengths.contains(&digits.len())
}

/// ISO 13616: country, two check digits, up to 30 characters; the whole modulo 97 is 1. What begins so was looked at before.
fn is_iban(characters: &[u8]) -> bool {
    let rearranged = characters[4..].iter().chain(&characters[..4]);
    let remainder = rearranged.fold(0_u32, |rest, character| match character {
        b'0'..=b'9' => (rest * 10 + u32::from(character - b'0')) % 97,
        _ => (rest * 100 + u32::from(character - b'A') + 10) % 97,
    });
    remainder == 1
}

fn listed_words(text: &str, words: &[String]) -> Vec<Range<usize>> {
    if words.is_empty() {
        return Vec::new();
    }
    // ASCII case does not change lengths, so that ranges in one are ranges in the other.
    let folded = text.to_ascii_lowercase();
    let of_word = |word: &String| {
        let word = word.to_ascii_lowercase();
        folded.match_indices(&word).map(|(start, _)| start..start + word.len()).collect::<Vec<_>>()
    };
    words.iter().flat_map(of_word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Kind] = &[Kind::PrivateKey, Kind::Jwt, Kind::ApiKey, Kind::Email, Kind::Iban, Kind::CreditCard];

    /// What is found, as `kind:text`.
    fn found(text: &str, words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        scan(text, ALL, &words).into_iter().map(|one| format!("{}:{}", one.kind.as_str(), &text[one.range])).collect()
    }

    #[test]
    fn what_should_be_found_is_found() {
        for (text, expected) in [
            ("mail ann.b+c@mail.example.com.", "email:ann.b+c@mail.example.com"),
            ("<ann@example.org>", "email:ann@example.org"),
            ("ünï-ann@example.org", "email:-ann@example.org"),
            ("key=sk-test-7Yq2NfX4mB9cRw1ZtK8sLd0P;", "api-key:sk-test-7Yq2NfX4mB9cRw1ZtK8sLd0P"),
            ("AKIAIOSFODNN7EXAMPLE", "api-key:AKIAIOSFODNN7EXAMPLE"),
            ("key-AKIAIOSFODNN7EXAMPLE-old", "api-key:AKIAIOSFODNN7EXAMPLE"),
            ("prod_ghp_0123456789abcdefghijklmnopqrstuvwxyz", "api-key:ghp_0123456789abcdefghijklmnopqrstuvwxyz"),
            (r#"{"env":"a\nsk-test-7Yq2NfX4mB9cRw1ZtK8sLd0P"}"#, "api-key:sk-test-7Yq2NfX4mB9cRw1ZtK8sLd0P"),
            (
                r"a\neyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefgh12\n",
                "jwt:eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefgh12",
            ),
            (r"a\n4111111111111111\n", "credit-card:4111111111111111"),
            (r"a\u000a4111111111111111", "credit-card:4111111111111111"),
            (r"a\nann@example.com", "email:ann@example.com"),
            (
                "token.eyJhbGciOiJkaXIifQ..aXYtaXYtaXY.Y2lwaGVy.dGFn",
                "jwt:eyJhbGciOiJkaXIifQ..aXYtaXYtaXY.Y2lwaGVy.dGFn",
            ),
            ("an ann@bücher.de.", "email:ann@bücher.de"),
            ("联系ann@example.com谢谢", "email:ann@example.com"),
            ("用户@例子.广告", "email:用户@例子.广告"),
            ("卡号：4111111111111111", "credit-card:4111111111111111"),
            ("«4111\u{a0}1111\u{a0}1111\u{a0}1111»", "credit-card:4111\u{a0}1111\u{a0}1111\u{a0}1111"),
            ("3782 822463 10005", "credit-card:3782 822463 10005"),
            ("«ghp_0123456789abcdefghijklmnopqrstuvwxyz»", "api-key:ghp_0123456789abcdefghijklmnopqrstuvwxyz"),
            (
                "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefgh12",
                "jwt:eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefgh12",
            ),
            ("card 4111 1111 1111 1111, thanks", "credit-card:4111 1111 1111 1111"),
            ("5500-0000-0000-0004", "credit-card:5500-0000-0000-0004"),
            ("to DE89 3704 0044 0532 0130 00 now", "iban:DE89 3704 0044 0532 0130 00"),
            ("GB82WEST12345698765432", "iban:GB82WEST12345698765432"),
            (
                "x -----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- y",
                "private-key:-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
            ),
            ("-----BEGIN PRIVATE KEY-----\ncut off", "private-key:-----BEGIN PRIVATE KEY-----\ncut off"),
        ] {
            assert_eq!(found(text, &[]), [expected], "{text}");
        }
    }

    #[test]
    fn what_should_be_left_alone_is_left_alone() {
        for text in [
            "",
            "no at sign, no key",
            "user@localhost",
            "@example.com",
            "a@b.c1",
            "task-test-7Yq2NfX4mB9cRw1ZtK8sLd0P",
            "sk-short",
            "4111 1111 1111 1112",
            "0000 0000 0000 0000",
            "x4111111111111111",
            "DE89 3704 0044 0532 0130 02",
            "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----",
            "eyJhbGciOiJIUzI1NiJ9.only-two",
            "AKIAiosfodnn7example",
            "sk-learn-based-approach-to-it",
            "1700000000005",
            "1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7",
        ] {
            assert_eq!(found(text, &[]), [""; 0], "{text}");
        }
    }

    #[test]
    fn listed_words_are_found_in_any_case_and_what_overlaps_becomes_one() {
        assert_eq!(found("Project Falcon, FALCON", &["falcon"]), ["word:Falcon", "word:FALCON"]);
        assert_eq!(found("ann@falcon.example", &["falcon", "ann"]), ["email:ann@falcon.example"]);
        assert_eq!(found("aaaa", &["aaa", "aa"]), ["word:aaaa"]);
        assert_eq!(found("the project alpha team", &["project alpha", "alpha team"]), ["word:project alpha team"]);
        assert_eq!(found("sk-0123456789abcdef0@example.com", &[]), ["api-key:sk-0123456789abcdef0@example.com"]);
    }

    #[test]
    fn ranges_never_cut_a_character() {
        let pieces = [
            "ä",
            "€",
            "🦀",
            "ann@example.com",
            "4111111111111111",
            "sk-0123456789abcdef0",
            " ",
            "-",
            "@",
            "\u{200b}",
            "DE89370400440532013000",
        ];
        let mut state = 7_u64;
        for _ in 0..5_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let mut end = 0;
            for one in scan(&text, ALL, &["€".to_owned()]) {
                assert!(text.get(one.range.clone()).is_some(), "{text:?} {one:?}");
                assert!(one.range.start >= end && !one.range.is_empty(), "{text:?} {one:?}");
                end = one.range.end;
            }
        }
    }

    #[test]
    fn long_texts_of_the_worst_kind_stay_cheap() {
        for piece in [
            "@",
            "1 ",
            "1234 ",
            "-----BEGIN ",
            "-----BEGIN PRIVATE KEY-----",
            "a@",
            "ä@",
            "DE89 ",
            "eyJ.",
            "eyJ-",
            "sk-",
            "-",
            "\\",
        ] {
            scan(&piece.repeat(200_000 / piece.len()), ALL, &["aaaa".to_owned()]);
        }
    }
}
