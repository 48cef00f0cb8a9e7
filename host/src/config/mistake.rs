//! Mistakes in the configuration: what is wrong, where, and what would be right.
//!
//! A message may quote names and settings but never a value that could be a secret.

use std::fmt;
use std::ops::Range;

/// Everything that is wrong with the configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    file: String,
    list: Vec<Mistake>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1. `None` where the mistake is the file as a whole.
    pub line: Option<usize>,
    /// In characters, counted from 1.
    pub column: Option<usize>,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Mistakes {
    /// The file itself cannot be used.
    pub(in crate::config) fn of_file(file: &str, fault: Fault) -> Self {
        Self { file: file.to_owned(), list: vec![fault.at(None)] }
    }

    /// Mistakes in `text`, which came from `file`.
    pub(in crate::config) fn in_text(file: &str, text: &str, mut found: Vec<Found>) -> Self {
        found.sort_by_key(|found| found.place.start);
        let mut list: Vec<Mistake> =
            found.into_iter().map(|Found { place, fault }| fault.at(Some(position(text, place.start)))).collect();
        list.dedup();
        Self { file: file.to_owned(), list }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.list.iter()
    }
}

impl fmt::Display for Mistakes {
    /// One line `file:line:column: message` for each mistake, with an indented hint below it where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file)?;
            if let (Some(line), Some(column)) = (mistake.line, mistake.column) {
                write!(f, "{line}:{column}:")?;
            }
            write!(f, " {}", mistake.message)?;
            if let Some(hint) = &mistake.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// What is wrong with a value, before anyone knows where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Fault {
    pub message: String,
    pub hint: Option<String>,
}

impl Fault {
    pub(in crate::config) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(in crate::config) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Says which setting the fault is about.
    pub(in crate::config) fn of(self, setting: impl fmt::Display) -> Self {
        Self { message: format!("{setting} {}", self.message), ..self }
    }

    fn at(self, position: Option<(usize, usize)>) -> Mistake {
        Mistake {
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            message: self.message,
            hint: self.hint,
        }
    }
}

/// A value that follows its rule, or what is wrong with it.
pub(in crate::config) type Checked<T> = Result<T, Fault>;

/// A fault and the bytes of the file that hold it.
pub(in crate::config) struct Found {
    pub place: Range<usize>,
    pub fault: Fault,
}

/// Line and column of a byte of `text`, counted from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..byte.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    // Every byte but the continuation bytes of UTF-8 begins a character.
    let column = 1 + before[line_start..].iter().filter(|byte| **byte & 0xC0 != 0x80).count();
    (line, column)
}

/// A hint that names the known word nearest to `word`, or all of them.
pub(in crate::config) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    nearest(word, known.clone()).or_else(|| {
        let all: Vec<&str> = known.collect();
        (!all.is_empty()).then(|| format!("known here: {}", all.join(", ")))
    })
}

/// A hint that names the known word nearest to `word`, if one is near.
pub(in crate::config) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let (distance, other) = known.map(|other| (distance(word, other), other)).min()?;
    (distance <= 1 + other.len() / 4).then(|| format!("did you mean `{other}`?"))
}

/// Longest word that is compared; longer ones are typing mistakes of nothing.
const LONGEST_WORD: usize = 64;

/// Levenshtein distance.
fn distance(one: &str, other: &str) -> usize {
    if one.len().max(other.len()) > LONGEST_WORD {
        return usize::MAX;
    }
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at_one, character) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at_one + 1;
        for at_other in 0..other.len() {
            let replaced = diagonal + usize::from(character != other[at_other]);
            diagonal = row[at_other + 1];
            row[at_other + 1] = replaced.min(diagonal + 1).min(row[at_other] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let text = "a = 1\nbé = 2\n";
        for (byte, expected) in [(0, (1, 1)), (4, (1, 5)), (6, (2, 1)), (9, (2, 3)), (14, (3, 1)), (99, (3, 1))] {
            assert_eq!(position(text, byte), expected, "byte {byte}");
        }
    }

    #[test]
    fn the_nearest_word_is_suggested() {
        let known = ["url", "command", "environment", "headers"];
        for (word, hint) in [
            ("comand", "did you mean `command`?"),
            ("enviroment", "did you mean `environment`?"),
            ("header", "did you mean `headers`?"),
            ("uri", "did you mean `url`?"),
            ("colour", "known here: url, command, environment, headers"),
        ] {
            assert_eq!(did_you_mean(word, known.into_iter()).as_deref(), Some(hint), "{word}");
        }
        assert_eq!(did_you_mean("x", std::iter::empty()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn mistakes_read_like_those_of_a_compiler() {
        let found = |start, message: &str| Found { place: start..start, fault: Fault::new(message) };
        let hinted = Found { place: 6..7, fault: Fault::new("unknown key `b`").hint("did you mean `a`?") };
        let mistakes = Mistakes::in_text("portcullis.toml", "a = 1\nb = 2\n", vec![hinted, found(4, "too small")]);
        assert_eq!(
            mistakes.to_string(),
            "portcullis.toml:1:5: too small\nportcullis.toml:2:1: unknown key `b`\n  hint: did you mean `a`?"
        );
        let unreadable = Mistakes::of_file("/etc/portcullis.toml", Fault::new("there is no such file"));
        assert_eq!(unreadable.to_string(), "/etc/portcullis.toml: there is no such file");
    }
}
