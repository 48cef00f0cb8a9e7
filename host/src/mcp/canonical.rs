//! One text for all JSON texts that mean the same (RFC 8785), to take digests of.
//!
//! One difference: an integer that a double cannot hold exactly stays as it is written. RFC 8785 §3.1 leaves such
//! numbers out, and to servers that read them exactly two of them are not the same.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::json::{check, quote, string_end};

/// The canonical form of a document, or `None` if it is not acceptable JSON ([`check`]).
pub fn canonical(document: &str) -> Option<String> {
    check(document.as_bytes()).ok()?;
    let mut writer = Writer { text: document, at: 0 };
    let mut out = String::with_capacity(document.len());
    writer.value(&mut out);
    Some(out)
}

/// The same for two documents only if they mean the same. One that has no canonical form stands for itself: it is no
/// other's canonical form either.
pub fn comparable(document: &str) -> Cow<'_, str> {
    canonical(document).map_or(Cow::Borrowed(document), Cow::Owned)
}

/// Walks a document that was checked, so that whatever is expected is there and no level is too deep.
struct Writer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Writer<'a> {
    fn value(&mut self, out: &mut String) {
        match self.peek() {
            b'{' => self.object(out),
            b'[' => {
                self.at += 1;
                let mut before = '[';
                while self.goes_on(b']') {
                    out.push(std::mem::replace(&mut before, ','));
                    self.value(out);
                }
                out.push_str(if before == '[' { "[]" } else { "]" });
            }
            b'"' => out.push_str(&quote(&self.string())),
            _ => {
                let literal = self.literal();
                match literal.as_bytes() {
                    [b'-' | b'0'..=b'9', ..] => number(literal, out),
                    _ => out.push_str(literal),
                }
            }
        }
    }

    /// §3.2.3: members in the order of the UTF-16 code units of their names.
    fn object(&mut self, out: &mut String) {
        self.at += 1;
        let mut members = Vec::new();
        while self.goes_on(b'}') {
            let name = self.string();
            self.peek();
            self.at += 1; // The colon.
            let mut value = String::new();
            self.value(&mut value);
            members.push((name, value));
        }
        members.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
        out.push('{');
        for (at, (name, value)) in members.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{}:{value}", quote(name)).expect("writing to a String does not fail");
        }
        out.push('}');
    }

    /// Whether another item follows. What parts items, and what ends them, is stepped over.
    fn goes_on(&mut self, end: u8) -> bool {
        let next = self.peek();
        if next == b',' || next == end {
            self.at += 1;
        }
        next != end
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> u8 {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.text.as_bytes()[self.at]
    }

    fn string(&mut self) -> String {
        self.peek();
        let end = string_end(self.text.as_bytes(), self.at) + 1;
        let string = serde_json::from_str(&self.text[self.at..end]).expect("a checked document's string is one");
        self.at = end;
        string
    }

    fn literal(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| matches!(c, ',' | ']' | '}') || c.is_ascii_whitespace()).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }
}

/// §3.2.2.3: a number as ECMAScript writes it.
fn number(literal: &str, out: &mut String) {
    let is_integer = !literal.contains(['.', 'e', 'E']);
    if is_integer && literal != "-0" {
        return out.push_str(literal);
    }
    let double: f64 = literal.parse().expect("JSON's numbers are Rust's");
    if double == 0.0 {
        return out.push('0');
    }
    let (digits, whole) = shortest(double.abs());
    if double < 0.0 {
        out.push('-');
    }
    let count = i32::try_from(digits.len()).expect("a double has at most 17 digits");
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    match whole {
        1..=21 if whole >= count => *out += &(digits + &zeros(whole - count)),
        1..=21 => {
            let (whole, fraction) = digits.split_at(usize::try_from(whole).unwrap_or(0));
            *out += &format!("{whole}.{fraction}");
        }
        -5..=0 => *out += &format!("0.{}{digits}", zeros(-whole)),
        _ => {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            *out += &format!("{first}{point}{rest}e{:+}", whole - 1);
        }
    }
}

/// The shortest digits that are read as this double again, of several the closest and of two as close the even ones, and
/// how many of them stand before the point. serde_json writes the same digits; the standard library's differ where two are
/// as close.
fn shortest(double: f64) -> (String, i32) {
    let text = serde_json::to_string(&double).expect("a number always serialises");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().expect("it is a small integer");
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let leading = all.len() - all.trim_start_matches('0').len();
    let before = i32::try_from(whole.len()).unwrap_or(0) - i32::try_from(leading).unwrap_or(0) + exponent;
    (all.trim_matches('0').to_owned(), before)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(document: &str) -> String {
        canonical(document).unwrap_or_else(|| panic!("{document} is not acceptable"))
    }

    #[test]
    fn numbers_are_written_as_appendix_b_has_them() {
        for (bits, expected) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            let mut out = String::new();
            number(&format!("{:e}", f64::from_bits(bits)), &mut out);
            assert_eq!(out, expected, "{bits:#x}");
        }
    }

    #[test]
    fn the_example_of_the_rfc_comes_out_as_there() {
        let input = "{\n  \"numbers\": [333333333.33333329, 1E30, 4.50,\n 2e-3, 0.000000000000000000000000001],\n  \
            \"string\": \"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\",\n  \"literals\": [null, true, false]\n}";
        let expected = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
            \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(form(input), expected);
    }

    #[test]
    fn members_are_in_the_order_of_utf_16() {
        let input = r#"{"\u20ac":"Euro","\r":"CR","\ufb33":"Dalet","1":"One","\ud83d\ude00":"Smiley","\u0080":"Control","\u00f6":"o"}"#;
        let names: Vec<String> = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&form(input))
            .map(|members| members.into_iter().map(|(_, value)| value.as_str().unwrap().to_owned()).collect())
            .unwrap();
        assert_eq!(names.len(), 7);
        let order = ["CR", "One", "Control", "o", "Euro", "Smiley", "Dalet"];
        let places: Vec<usize> = order.iter().map(|word| form(input).find(&format!(":\"{word}\"")).unwrap()).collect();
        assert!(places.is_sorted(), "{}", form(input));
    }

    #[test]
    fn what_means_the_same_is_the_same_text() {
        for (one, other) in [
            (r#" { "b" : [ ] , "a" : { } } "#, r#"{"a":{},"b":[]}"#),
            (r#"{"a":1.0,"b":1e2}"#, r#"{"b":100,"a":1}"#),
            (r#"["\u0061\/", -0, -0.0]"#, r#"["a/",0,0]"#),
            ("\t[[[1],[]],{}]\n", "[[[1],[]],{}]"),
            ("7", " 7"),
        ] {
            assert_eq!(form(one), form(other));
            assert_eq!(form(&form(one)), form(one));
        }
    }

    #[test]
    fn what_some_reader_tells_apart_is_told_apart() {
        for (one, other) in [
            ("9007199254740993", "9007199254740992"),
            ("18446744073709551617", "18446744073709551616"),
            ("1", "\"1\""),
            ("null", "\"null\""),
            ("{}", "[]"),
            (r#"{"a":{"b":1}}"#, r#"{"a":{},"b":1}"#),
            (r#"["a,b"]"#, r#"["a","b"]"#),
        ] {
            assert_ne!(comparable(one), comparable(other));
        }
    }

    #[test]
    fn what_is_not_acceptable_stands_for_itself() {
        for document in ["", "{", "1e400", r#"{"a":1,"a":2}"#, &"[".repeat(100_000), r#""\ud800""#] {
            assert_eq!(canonical(document), None);
            assert_eq!(comparable(document), document);
        }
    }

    proptest! {
        #[test]
        fn a_double_is_read_back_as_it_was(bits: u64) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let mut out = String::new();
            number(&format!("{double:e}"), &mut out);
            prop_assert_eq!(out.parse::<f64>().unwrap().to_bits() << 1, double.to_bits() << 1);
            let mut again = String::new();
            number(&out, &mut again);
            prop_assert_eq!(again, out);
        }
    }
}
