//! Applies a redaction as the host does, so that a test sees what the caller would.

use serde_json::Value;

use crate::{CallResult, Part, Redaction, json};

/// The texts and the structured content that are left after a redaction, with the checks that the host makes.
///
/// # Errors
/// What the host would refuse the redaction for.
pub fn apply(result: &CallResult, redaction: &Redaction) -> Result<(Vec<String>, Option<Value>), String> {
    let mut texts = Vec::new();
    for part in &result.parts {
        if redaction.drop_parts.contains(&part.index) {
            continue;
        }
        texts.push(replaced(part, redaction)?);
    }
    if let Some(span) = redaction.spans.iter().find(|span| result.parts.iter().all(|part| part.index != span.part)) {
        return Err(format!("there is no part {}", span.part));
    }
    let mut structured = match &result.structured {
        Some(text) => Some(serde_json::from_str(text).map_err(|error| error.to_string())?),
        None => None,
    };
    for edit in &redaction.structured {
        let document = structured.as_mut().ok_or("an edit of nothing")?;
        json::apply(document, edit).map_err(|error| format!("{:?}: {error}", edit.pointer))?;
    }
    Ok((texts, structured))
}

fn replaced(part: &Part, redaction: &Redaction) -> Result<String, String> {
    let text = part.text.as_deref().unwrap_or_default();
    let (mut out, mut done) = (String::new(), 0);
    for span in redaction.spans.iter().filter(|span| span.part == part.index) {
        let (start, end) = (span.start as usize, span.end as usize);
        if start < done || end < start {
            return Err(format!("spans out of order at {start}..{end}"));
        }
        let kept =
            text.get(done..start).ok_or_else(|| format!("{start} is inside of a character or behind the end"))?;
        text.get(start..end).ok_or_else(|| format!("{end} is inside of a character or behind the end"))?;
        out.push_str(kept);
        out.push_str(&span.replacement);
        done = end;
    }
    out.push_str(&text[done..]);
    Ok(out)
}
