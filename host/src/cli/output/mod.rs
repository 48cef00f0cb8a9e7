//! How answers are printed: as tables for people, or as JSON for scripts. The one place that renders.
//!
//! JSON is what the API answered, whole and alone on standard output. A table fits a terminal, has no colours, and is as wide
//! as it needs to be where standard output is none. What others wrote is shown without characters that mislead.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{WithConfig, print};

mod progress;
mod table;

pub(super) use progress::{Progress, Reached};
pub(super) use table::table;

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// What the API answered, for scripts.
    Json,
}

impl Format {
    /// What these arguments ask for, as far as it can be told of a line that is not understood.
    pub(super) fn of_arguments(arguments: &[String]) -> Self {
        let mut pairs = arguments.iter().zip(arguments.iter().skip(1));
        let is_said = arguments.iter().any(|argument| argument == "--output=json")
            || pairs.any(|(flag, value)| flag == "--output" && value == "json");
        if is_said { Self::Json } else { Self::Table }
    }
}

/// Prints what the gateway answered, or what `told` makes of it for a person. An answer without content is nothing to print
/// in JSON.
pub(super) fn tell(with: &WithConfig, answer: &Value, told: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
    match with.output {
        Format::Table => print(&plain(&told(answer))),
        Format::Json if answer.is_null() => Ok(()),
        Format::Json => print(&format!("{answer:#}")),
    }
}

/// Prints a line at once. Tells whether anybody reads on.
pub(super) fn print_on(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.context("cannot write to standard output").map(|()| true),
    }
}

/// What the gateway said no with: a problem document (RFC 9457).
#[derive(Debug)]
pub(super) struct Refused(pub(super) Value);

impl std::fmt::Display for Refused {
    /// At which stage something failed, and each mistake with its setting.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(problem) = self;
        let mistakes: Vec<String> = problem["mistakes"].as_array().into_iter().flatten().map(mistake).collect();
        let detail = problem["detail"].as_str().unwrap_or("the gateway refused");
        match (mistakes.is_empty(), problem["stage"].as_str()) {
            (false, _) => formatter.write_str(&mistakes.join("\n")),
            (true, Some(stage)) => write!(formatter, "the trial fails at {stage}: {detail}"),
            (true, None) => formatter.write_str(detail),
        }
    }
}

impl std::error::Error for Refused {}

/// Whether the gateway said that there is no such thing.
pub(super) fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Refused>(), Some(Refused(problem)) if problem["code"] == "not_found")
}

/// An error as a problem document: the gateway's own, or one about this command.
pub(super) fn problem(error: &anyhow::Error, explained: &str) -> Value {
    let refused = error.chain().find_map(|cause| cause.downcast_ref::<Refused>());
    match refused {
        Some(Refused(problem)) if problem["detail"].is_string() => problem.clone(),
        _ => problem_of("failed", explained),
    }
}

/// A problem document about this command.
pub(super) fn problem_of(code: &str, detail: &str) -> Value {
    json!({ "title": "the command failed", "code": code, "detail": detail })
}

/// A mistake in a definition, on a line or two. Its text names the setting.
pub(super) fn mistake(mistake: &Value) -> String {
    let hint = mistake["hint"].as_str().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
    format!("{}{hint}", text(&mistake["message"]))
}

/// The strings of a list, side by side.
pub(super) fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" ")
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The rows of a list.
pub(super) fn rows<'a>(answer: &'a Value, member: &str) -> &'a [Value] {
    answer[member].as_array().map_or(&[], Vec::as_slice)
}

/// What others wrote, without characters that make a terminal show something else than what is there.
pub(super) fn plain(text: &str) -> String {
    let misleads = |c: char| {
        let controls_direction =
            matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        (c.is_control() && c != '\n') || controls_direction
    };
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if misleads(c) {
            write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String does not fail");
        } else {
            out.push(c);
        }
        out
    })
}

/// Columns of the terminal that standard output is, if it is one.
fn terminal_width() -> Option<usize> {
    let size = io::stdout().is_terminal().then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misleads_is_written_out() {
        assert_eq!(plain("a\nb \u{1b}[2Jc\u{202e}d\r"), "a\nb \\u001b[2Jc\\u202ed\\u000d");
        assert_eq!(plain("häh 漢字 🙂"), "häh 漢字 🙂");
    }

    #[test]
    fn a_refusal_tells_each_mistake_or_the_stage() {
        let mistakes = json!([{ "field": "url", "message": "url is no URL", "hint": "write one" }, { "field": null, "message": "x" }]);
        let told = |problem: Value| Refused(problem).to_string();
        assert_eq!(
            told(json!({ "detail": "d", "stage": "settings", "mistakes": mistakes })),
            "url is no URL\n  hint: write one\nx"
        );
        let failed = json!({ "detail": "nobody is there", "stage": "reach" });
        assert_eq!(told(failed), "the trial fails at reach: nobody is there");
        assert_eq!(told(json!({ "detail": "no" })), "no");
    }

    #[test]
    fn an_error_is_the_gateways_problem_or_one_of_this_command() {
        let refusal = json!({ "status": 409, "code": "name_taken", "detail": "d", "title": "Conflict" });
        let wrapped = anyhow::Error::new(Refused(refusal.clone())).context("nothing was changed");
        assert_eq!(problem(&wrapped, "x"), refusal);
        let own = problem(&anyhow::anyhow!("no gateway"), "no gateway: is it running?");
        assert_eq!((text(&own["code"]), text(&own["detail"])), ("failed", "no gateway: is it running?"));
        assert_eq!(problem(&Refused(Value::Null).into(), "x")["code"], "failed", "what is no document is none");
    }

    #[test]
    fn the_format_is_seen_in_a_line_that_is_not_understood() {
        let of = |line: &str| Format::of_arguments(&line.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>());
        assert_eq!(of("portcullis key lsit --output json"), Format::Json);
        assert_eq!(of("portcullis --output=json"), Format::Json);
        assert_eq!(of("portcullis key list --output table json"), Format::Table);
    }
}
