//! Texts of strangers, as somebody reads them before agreeing to them: nothing that hides itself, and nothing unsaid.
//! Elsewhere what cannot be seen is left out; here it is written as its number, since it is part of what is agreed to.

use serde_json::Value;

use crate::http::oauth::words::is_hidden;

/// Longest name or title that is shown, in characters.
const MOST_OF_LINE: usize = 300;
/// Longest description.
const MOST_OF_TEXT: usize = 8_000;
/// Longest part of a definition.
const MOST_OF_JSON: usize = 24_000;

/// One line.
pub(super) fn line(text: &str) -> String {
    seen(text, MOST_OF_LINE, |_| false)
}

/// Several lines.
pub(super) fn lines(text: &str) -> String {
    seen(text, MOST_OF_TEXT, |character| matches!(character, '\n' | '\t'))
}

/// The same, however long it is.
pub(super) fn all_lines(text: &str) -> String {
    seen(text, usize::MAX, |character| matches!(character, '\n' | '\t'))
}

/// A part of a definition, as it is read best.
pub(super) fn pretty(value: &Value) -> String {
    seen(&whole(value), MOST_OF_JSON, |character| character == '\n')
}

/// Whether [`pretty`] shows all of it.
pub(super) fn is_all_shown(value: &Value) -> bool {
    whole(value).chars().nth(MOST_OF_JSON).is_none()
}

/// The same, however long it is.
pub(super) fn whole(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// The same of a line of it.
pub(super) fn line_of_json(line: &str) -> String {
    seen(line, MOST_OF_JSON, |_| false)
}

/// What is said of a text that is cut off, so that nobody takes the beginning for the whole.
fn cut_off(characters: usize) -> String {
    format!(" … [cut off here: {characters} characters more]")
}

fn seen(text: &str, most: usize, stays: impl Fn(char) -> bool) -> String {
    let mut seen = String::with_capacity(text.len().min(most));
    for character in text.chars().take(most) {
        if is_hidden(character) && !stays(character) {
            seen.extend(character.escape_unicode());
        } else {
            seen.push(character);
        }
    }
    let left = text.chars().skip(most).count();
    if left > 0 {
        seen.push_str(&cut_off(left));
    }
    seen
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_hides_itself() {
        assert_eq!(line("a\u{202e}b\u{200b}c\nd"), "a\\u{202e}b\\u{200b}c\\u{a}d");
        assert_eq!(lines("a\n\tb\u{1b}[2J"), "a\n\tb\\u{1b}[2J");
        assert_eq!(pretty(&json!({ "a": "x\u{2066}\n" })), "{\n  \"a\": \"x\\u{2066}\\n\"\n}");
        assert_eq!(line("größer <b>"), "größer <b>", "what can be seen stays, and templates escape it");
    }

    #[test]
    fn what_is_cut_off_says_so() {
        let long = "x".repeat(MOST_OF_LINE + 7);
        assert!(line(&long).ends_with("x … [cut off here: 7 characters more]"));
        assert!(!line(&long[7..]).contains('…'));
        let json = |length| Value::from("x".repeat(length));
        assert!(is_all_shown(&json(MOST_OF_JSON - 2)) && !is_all_shown(&json(MOST_OF_JSON)));
    }
}
