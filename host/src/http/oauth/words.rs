//! Texts of strangers, as people are shown them: one line that reads as it stands (`docs/threat-model.md` row A12). That they
//! are escaped is the templates' matter.

/// What can be shown of a text, at most so many characters of it.
pub(in crate::http) fn shown(text: &str, most: usize) -> String {
    let visible = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !is_hidden(*c));
    let visible: String = visible.collect();
    let mut words = visible.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(most) {
        words.truncate(words[..end].char_indices().next_back().map_or(0, |(last, _)| last));
        words.push('…');
    }
    words
}

/// Controls, marks of direction (Unicode Standard Annex 9), what has no width and no shape, and what is for private use.
pub(in crate::http) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{e000}'..='\u{f8ff}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
                | '\u{f0000}'..='\u{10ffff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a12_a_text_is_one_line_that_reads_as_it_stands() {
        for (text, expected) in [
            ("Claude", "Claude"),
            ("  An\r\n\tapp\u{a0} ", "An app"),
            ("Cla\u{200b}u\u{202e}de\u{0}", "Claude"),
            ("\u{2066}x\u{2069}\u{feff}\u{e0041}", "x"),
            ("\u{202e}\u{200b}", ""),
            ("日本語 ñ é 👍", "日本語 ñ é 👍"),
            ("<b>&\"'", "<b>&\"'"),
        ] {
            assert_eq!(shown(text, 100), expected, "{text:?}");
        }
        let long = shown(&"ä".repeat(500), 100);
        assert_eq!((long.chars().count(), long.chars().last()), (100, Some('…')));
        assert_eq!(shown(&"ä".repeat(100), 100).chars().count(), 100);
    }
}
