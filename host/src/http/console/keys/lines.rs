//! Allow-lists as people type them: a line for each upstream, such as `notes: read*, list`.
//!
//! Pure. What is written is read as the same list. A word with a comma, a quote or spaces at its ends stands in quotes, as JSON
//! has them.

use crate::http::api::keys::AllowLine;

/// The text of an allow-list.
pub(super) fn write(lines: &[AllowLine]) -> String {
    let line = |line: &AllowLine| {
        let tools: Vec<String> = line.tools.iter().map(|tool| word(tool, &[','])).collect();
        format!("{}: {}", word(&line.upstream, &[',', ':']), tools.join(", ")).trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn word(text: &str, ends: &[char]) -> String {
    let is_plain = !text.is_empty()
        && text.trim() == text
        && !text.contains(|letter: char| letter == '"' || letter.is_control() || ends.contains(&letter));
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// The allow-list of a text, or what is wrong with it.
pub(super) fn read(text: &str) -> Result<Vec<AllowLine>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| read_line(line).map_err(|wrong| format!("line {} {wrong}", at + 1))).collect()
}

fn read_line(line: &str) -> Result<AllowLine, &'static str> {
    let (upstream, rest) = read_word(line, ':')?;
    let mut rest = rest.strip_prefix(':').ok_or("has no `:` behind the upstream: all of it is `UPSTREAM: *`")?;
    let mut tools = Vec::new();
    while !rest.trim().is_empty() {
        let (tool, behind) = read_word(rest, ',')?;
        tools.push(tool);
        rest = match behind.strip_prefix(',') {
            Some(more) => more,
            None if behind.is_empty() => behind,
            None => return Err("has something behind a word in quotes"),
        };
    }
    Ok(AllowLine { upstream, tools })
}

/// A word that ends before `end`, and what is behind it.
fn read_word(text: &str, end: char) -> Result<(String, &str), &'static str> {
    let text = text.trim_start();
    if text.starts_with('"') {
        let mut words = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let word = words.next().and_then(Result::ok).ok_or("has a word whose quotes do not end")?;
        return Ok((word, text[words.byte_offset()..].trim_start()));
    }
    let at = text.find(end).unwrap_or(text.len());
    match text[..at].trim_end() {
        "" => Err("lacks a word"),
        word => Ok((word.to_owned(), &text[at..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(upstream: &str, tools: &[&str]) -> AllowLine {
        AllowLine { upstream: upstream.to_owned(), tools: tools.iter().map(|tool| (*tool).to_owned()).collect() }
    }

    #[test]
    fn a_text_is_a_list() {
        let text = " notes : read*,list \r\n\n*: *\nempty:\nodd: ns:tool, \"a, b\", two words";
        let expected = vec![
            line("notes", &["read*", "list"]),
            line("*", &["*"]),
            line("empty", &[]),
            line("odd", &["ns:tool", "a, b", "two words"]),
        ];
        assert_eq!(read(text), Ok(expected));
        for (text, wrong) in [
            ("notes", "line 1 has no `:`"),
            ("notes: *\n: x", "line 2 lacks a word"),
            ("notes: a,,b", "line 1 lacks a word"),
            ("notes: \"a", "line 1 has a word whose quotes"),
            ("notes: \"a\" b", "line 1 has something behind"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.starts_with(wrong), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let odd = ["", " x", "a,b", "a:b", "\"q\"", "line\nbreak", "*", "back\\slash", "ünï"];
        let lines: Vec<AllowLine> =
            odd.iter().map(|upstream| line(upstream, &odd)).chain([line("none", &[])]).collect();
        assert_eq!(read(&write(&lines)), Ok(lines));
        assert_eq!(write(&[line("notes", &["read*", "list"]), line("*", &["*"])]), "notes: read*, list\n*: *");
    }
}
