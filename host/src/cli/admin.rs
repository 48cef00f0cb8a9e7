//! Commands that ask the running gateway, through its admin socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::Value;

use super::{WithConfig, load, on_runtime, print};
use crate::outbound::ask_socket_if;

#[derive(clap::Args)]
pub(super) struct Decisions {
    /// How many, newest first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
    /// Only of this principal, such as key:ci.
    #[arg(long)]
    principal: Option<String>,
    /// Only of this tool, by the upstream's own name for it.
    #[arg(long)]
    tool: Option<String>,
    /// Only with this verdict: allow, deny, hidden, error, …
    #[arg(long)]
    verdict: Option<String>,
    #[command(flatten)]
    with: WithConfig,
}

impl Decisions {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut path = format!("/api/v1/decisions?limit={}", self.limit);
        for (name, value) in [("principal", &self.principal), ("tool", &self.tool), ("verdict", &self.verdict)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", segment(value)?));
            }
        }
        let answer = ask(&self.with, Method::GET, &path, None)?;
        let row = |decision: &Value| {
            let step = |step: &Value| {
                let code = step["reason_code"].as_str().map(|code| format!("({code})")).unwrap_or_default();
                format!("{} {}{code} {}µs", text(&step["policy"]), text(&step["verdict"]), step["micros"])
            };
            let steps: Vec<String> = decision["steps"].as_array().into_iter().flatten().map(step).collect();
            let cell = |name: &str| text(&decision[name]).to_owned();
            let tool = [cell("upstream"), cell("tool")]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("/");
            let ended = format!("{} ms", decision["elapsed_ms"]);
            vec![
                cell("at"),
                cell("principal"),
                cell("operation"),
                tool,
                cell("verdict"),
                cell("outcome"),
                ended,
                steps.join(", "),
            ]
        };
        let rows = answer["decisions"].as_array().into_iter().flatten().map(row);
        print(&table(&["AT", "PRINCIPAL", "OPERATION", "TOOL", "VERDICT", "OUTCOME", "TOOK", "POLICIES"], rows))
    }
}

pub(super) fn status(with: &WithConfig) -> anyhow::Result<()> {
    let answer = ask(with, Method::GET, "/api/v1/status", None)?;
    let object = answer.as_object().context("the gateway's answer is not an object")?;
    let rows = object.iter().map(|(name, value)| {
        vec![name.replace('_', " "), value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)]
    });
    print(&table(&[], rows))
}

/// All rows of a paged list; `path` may have a query.
pub(super) fn every_page(with: &WithConfig, path: &str, rows: &str) -> anyhow::Result<Vec<Value>> {
    let gateway = Running::of(with)?;
    let mut all = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let and = if path.contains('?') { '&' } else { '?' };
        let page = match &cursor {
            Some(cursor) => format!("{path}{and}limit=200&cursor={cursor}"),
            None => format!("{path}{and}limit=200"),
        };
        let mut answer = gateway.ask(Method::GET, &page, None)?;
        if let Value::Array(mut page) = answer[rows].take() {
            all.append(&mut page);
        }
        cursor = answer["next_cursor"].as_str().map(ToOwned::to_owned);
        if cursor.is_none() {
            return Ok(all);
        }
    }
}

/// Asks the running gateway. An error tells what it answered.
pub(super) fn ask(with: &WithConfig, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
    Running::of(with)?.ask(method, path, body)
}

/// Asks the running gateway for what is done only if a thing still has this revision.
pub(super) fn ask_if(
    with: &WithConfig,
    method: Method,
    path: &str,
    body: Option<Value>,
    revision: u64,
) -> anyhow::Result<Value> {
    Running::of(with)?.ask_if(method, path, body, Some(&format!("\"{revision}\"")))
}

/// Asks the running gateway for what may take minutes.
pub(super) fn ask_patiently(with: &WithConfig, path: &str, patience: Duration) -> anyhow::Result<Value> {
    Running { patience, ..Running::of(with)? }.ask(Method::GET, path, None)
}

/// Longest wait for what is done at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running gateway, behind its admin socket.
struct Running {
    socket: PathBuf,
    patience: Duration,
}

impl Running {
    /// That of this configuration.
    fn of(with: &WithConfig) -> anyhow::Result<Self> {
        Ok(Self { socket: load(with)?.listen.admin_socket, patience: PATIENCE })
    }

    fn ask(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        self.ask_if(method, path, body, None)
    }

    fn ask_if(&self, method: Method, path: &str, body: Option<Value>, if_match: Option<&str>) -> anyhow::Result<Value> {
        let (status, answer) = on_runtime(async {
            let body = body.map(|body| body.to_string());
            let answer = ask_socket_if(&self.socket, method, path, body, if_match, self.patience).await;
            answer.with_context(|| format!("cannot ask the gateway at {}: is it running?", self.socket.display()))
        })?;
        let answer: Value = if answer.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&answer).context("the gateway's answer is not JSON")?
        };
        if !status.is_success() {
            bail!("{}", refusal(&answer));
        }
        Ok(answer)
    }
}

/// What a problem document says to a person: at which stage something failed, and each mistake with its setting.
fn refusal(problem: &Value) -> String {
    let mistakes: Vec<String> = problem["mistakes"].as_array().into_iter().flatten().map(mistake).collect();
    let detail = problem["detail"].as_str().unwrap_or("the gateway refused");
    match (mistakes.is_empty(), problem["stage"].as_str()) {
        (false, _) => mistakes.join("\n"),
        (true, Some(stage)) => format!("{stage}: {detail}"),
        (true, None) => detail.to_owned(),
    }
}

/// A mistake in a definition, on a line or two. Its text names the setting.
pub(super) fn mistake(mistake: &Value) -> String {
    let hint = mistake["hint"].as_str().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
    format!("{}{hint}", text(&mistake["message"]))
}

/// The path of a list with these filters in its query.
pub(super) fn filtered(path: &str, filters: &[(&str, Option<String>)]) -> anyhow::Result<String> {
    let mut path = path.to_owned();
    for (name, value) in filters {
        if let Some(value) = value {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("{name}={}", segment(value)?));
        }
    }
    Ok(path)
}

/// A value as one segment of a path or one value of a query.
pub(super) fn segment(value: &str) -> anyhow::Result<String> {
    if value.is_empty() {
        bail!("a name is empty");
    }
    Ok(value.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    }))
}

/// The strings of a list, side by side.
pub(super) fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" ")
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Rows in columns as wide as they need to be.
pub(super) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = (!head.is_empty()).then(|| head.iter().map(ToString::to_string).collect());
    let rows: Vec<Vec<String>> = head.into_iter().chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let rows = [vec!["a".to_owned(), "long".to_owned()], vec!["häh".to_owned(), String::new()]];
        assert_eq!(table(&["N", "M"], rows.into_iter()), "N    M\na    long\nhäh");
    }

    #[test]
    fn a_refusal_tells_each_mistake_or_the_stage() {
        let mistakes = json!([{ "field": "url", "message": "url is no URL", "hint": "write one" }, { "field": null, "message": "x" }]);
        let told = refusal(&json!({ "detail": "d", "stage": "settings", "mistakes": mistakes }));
        assert_eq!(told, "url is no URL\n  hint: write one\nx");
        assert_eq!(refusal(&json!({ "detail": "nobody is there", "stage": "reach" })), "reach: nobody is there");
        assert_eq!(refusal(&json!({ "detail": "no" })), "no");
    }

    #[test]
    fn a_segment_is_escaped() {
        assert_eq!(segment("key:a b/ü").unwrap(), "key%3Aa%20b%2F%C3%BC");
        assert!(segment("").is_err());
    }

    #[test]
    fn filters_stand_in_the_query() {
        let some = |value: &str| Some(value.to_owned());
        assert_eq!(filtered("/api/v1/grants", &[("client", None), ("kind", None)]).unwrap(), "/api/v1/grants");
        let path = filtered("/a", &[("client", some("https://a/b?c")), ("kind", some("user"))]).unwrap();
        assert_eq!(path, "/a?client=https%3A%2F%2Fa%2Fb%3Fc&kind=user");
    }
}
