//! Text of guests, made fit for logs, lists and people. Pure.
//!
//! What could forge a line, hide itself or reorder what is seen never leaves a policy: control characters,
//! direction overrides, line separators and tag characters.

/// `text` as one line of at most `max_bytes`, with everything unprintable written as an escape.
pub(super) fn one_line(text: &str, max_bytes: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max_bytes));
    for character in cut(text, max_bytes).chars() {
        if is_deceptive(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    cut(&line, max_bytes).to_owned()
}

/// `text` without control characters; line breaks and tabs stay where `breaks` says so.
pub(super) fn without_controls(text: String, breaks: Breaks) -> String {
    let stays = |character| !is_deceptive(character) || (breaks == Breaks::Kept && matches!(character, '\n' | '\t'));
    if text.chars().all(stays) {
        return text;
    }
    text.chars().filter(|character| stays(*character)).collect()
}

/// What happens to line breaks and tabs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breaks {
    Kept,
    Dropped,
}

/// The beginning of `text`, of at most `max_bytes`, ending with a whole character.
pub(super) fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{2028}' | '\u{2029}'                             // line and paragraph separator
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' // direction embeddings, overrides and isolates
            | '\u{e0000}'..='\u{e007f}') // tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        for (text, max, expected) in [
            ("plain text", 100, "plain text"),
            ("two\nlines", 100, "two\\nlines"),
            ("\u{1b}[31mred", 100, "\\u{1b}[31mred"),
            ("\u{202e}txt.exe\u{2028}", 100, "\\u{202e}txt.exe\\u{2028}"),
            ("größer", 4, "gr\u{f6}"),
            ("größer", 3, "gr"),
            ("\n\n\n", 4, "\\n\\n"),
            ("", 10, ""),
        ] {
            assert_eq!(one_line(text, max), expected, "{text:?} in {max}");
        }
    }

    #[test]
    fn controls_go_and_breaks_stay_if_asked() {
        let text = "a\tb\nc\u{0}\u{7f}\u{85}\u{2066}\u{e0041}d";
        assert_eq!(without_controls(text.to_owned(), Breaks::Kept), "a\tb\ncd");
        assert_eq!(without_controls(text.to_owned(), Breaks::Dropped), "abcd");
        assert_eq!(without_controls("déjà vu 👍".to_owned(), Breaks::Dropped), "déjà vu 👍");
    }
}
