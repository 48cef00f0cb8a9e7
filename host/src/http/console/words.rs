//! Words of the API as people read them, and marks that say them.

/// A mark: a word, and what colour goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Badge {
    pub(super) class: &'static str,
    pub(super) text: &'static str,
}

impl Badge {
    pub(super) const fn plain(text: &'static str) -> Self {
        Self { class: "", text }
    }

    pub(super) const fn good(text: &'static str) -> Self {
        Self { class: "good", text }
    }

    pub(super) const fn warning(text: &'static str) -> Self {
        Self { class: "warning", text }
    }

    pub(super) const fn error(text: &'static str) -> Self {
        Self { class: "error", text }
    }
}

/// A moment of the API (RFC 3339 in UTC) to the minute.
pub(super) fn moment(at: &str) -> String {
    match (at.get(..10), at.get(11..16)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => at.to_owned(),
    }
}

/// A list in one line.
pub(super) fn listed(words: &[String]) -> String {
    words.join(", ")
}

/// A text in which names of code stand between backticks, by its parts, and whether each is code. A backtick that nothing
/// answers stays what it is.
pub(super) fn parts(text: &str) -> Vec<(bool, &str)> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some((before, (code, after))) =
        rest.split_once('`').and_then(|(before, behind)| Some((before, behind.split_once('`')?)))
    {
        parts.extend([(false, before), (true, code)]);
        rest = after;
    }
    parts.push((false, rest));
    parts.retain(|(_, part)| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_stands_between_backticks() {
        assert_eq!(parts("plain `code`."), [(false, "plain "), (true, "code"), (false, ".")]);
        assert_eq!(parts("`a` or `b"), [(true, "a"), (false, " or `b")]);
        assert!(parts("").is_empty());
    }

    #[test]
    fn moments_are_told_to_the_minute() {
        assert_eq!(moment("2026-01-31T07:08:09.123Z"), "2026-01-31 07:08 UTC");
        assert_eq!(moment("soon"), "soon");
    }
}
