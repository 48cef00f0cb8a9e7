//! `/decisions`: what was decided about calls, newest first and as it happens, and each of them explained.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::routing::{get, post};

use super::desk::{Answer, Asked, Desk, Head};
use super::fields::Listed;
use super::known::Known;
use super::{Person, Route, does, shows, text};
use crate::http::api::Api;
use crate::http::api::trails::{self, DecisionQuery, DecisionView};
use crate::http::oauth::pages::{Site, page_of_console};

mod explain;
mod recording;
mod show;

const PATH: &str = "/decisions";
/// Where the stream of new ones is.
const TAIL: &str = "/api/v1/decisions/tail";
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;
/// What a list can be narrowed to by the stream as well.
const FILTERS: [&str; 5] = ["principal", "upstream", "tool", "verdict", "outcome"];
const OUTCOMES: [&str; 5] = ["result", "tool_error", "error", "refused", "cancelled"];
/// The verdicts that a whole decision can have.
const VERDICTS: [&str; 7] = ["allow", "deny", "hidden", "step-up", "approve", "throttle", "error"];

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(PATH, || get(list)),
    shows("/decisions/{id}", || get(show::show)),
    does("/decisions/{id}/recording", || post(recording::read)),
];

#[derive(Template)]
#[template(path = "console/decisions.html")]
struct ListPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    asked: &'a Asked,
    verdicts: &'a [&'a str],
    outcomes: &'a [&'a str],
    rows: Vec<DecisionView>,
    known: Known,
    older: Option<String>,
    /// The stream of what comes after these, where they are the newest.
    tail: Option<String>,
    /// What was looked for is no id.
    is_no_id: bool,
    /// Why the filter leaves nothing.
    problem: Option<String>,
}

impl ListPage<'_> {
    fn said(&self, name: &str) -> &str {
        self.asked.get(name).unwrap_or_default()
    }

    fn badge(&self, verdict: &str) -> &'static str {
        explain::badge(verdict)
    }

    fn badges(&self) -> String {
        explain::badges()
    }

    fn at(&self, at: &str) -> String {
        to_the_second(at)
    }

    fn is_filtered(&self) -> bool {
        ["since", "until"].iter().chain(&FILTERS).any(|name| self.asked.get(name).is_some())
    }
}

async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let id = asked.get("id").map(id_in);
    if let Some(Some(id)) = id {
        return Ok(desk.go(&format!("{PATH}/{id}")));
    }
    let tail = tail_of(&desk.api, &asked).await?;
    let query = DecisionQuery {
        limit: None,
        cursor: asked.take("cursor"),
        principal: asked.take("principal"),
        upstream: asked.take("upstream"),
        tool: asked.take("tool"),
        verdict: asked.take("verdict"),
        outcome: asked.take("outcome"),
        since: asked.get("since").map(as_utc),
        until: asked.get("until").map(as_utc),
    };
    let listed = Listed::of(trails::decisions_page(&desk.api, query).await)?;
    let principals: Vec<&str> = listed.rows.iter().map(|row| row.principal.as_str()).collect();
    let known = desk.known(&principals).await?;
    Ok(page_of_console(
        listed.status(),
        ListPage {
            site: desk.site(),
            head: desk.head(&person, PATH),
            older: listed.next.map(|cursor| asked.with(PATH, "cursor", &cursor)),
            asked: &asked,
            verdicts: &VERDICTS,
            outcomes: &OUTCOMES,
            rows: listed.rows,
            known,
            // What cannot be read here is no stream either.
            tail: tail.filter(|_| listed.problem.is_none()),
            is_no_id: id.is_some(),
            problem: listed.problem,
        },
    ))
}

/// The address of the stream that goes on where a list of the newest rows ends. It is asked for before the list is read, so
/// that nothing falls in between; what stands in both comes once on the page.
async fn tail_of(api: &Arc<Api>, asked: &Asked) -> Result<Option<String>, crate::store::StoreError> {
    if asked.get("cursor").is_some() || asked.get("until").is_some() {
        return Ok(None);
    }
    let after = api.tails.decisions.last().await?;
    Ok(Some(stream(TAIL, asked, &FILTERS, after)))
}

/// The address of a stream with these of the filters that were asked for.
pub(super) fn stream(path: &str, asked: &Asked, filters: &[&str], after: u64) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("after", &after.to_string());
    for name in filters {
        if let Some(value) = asked.get(name) {
            query.append_pair(name, value);
        }
    }
    format!("{path}?{}", query.finish())
}

/// The address of this path that asks for this.
pub(super) fn asking(path: &str, name: &str, value: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    format!("{path}?{}", query.append_pair(name, value).finish())
}

/// The first id of a decision in a text that somebody has pasted, such as an error message.
fn id_in(text: &str) -> Option<&str> {
    let is_other = |letter: char| !letter.is_ascii_hexdigit();
    text.split(is_other).find(|word| word.len() == ID_DIGITS)
}

/// A moment as browsers send it, which is one of UTC here, or as the API has it.
fn as_utc(text: &str) -> String {
    match text.len() {
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text.to_owned(),
    }
}

/// A moment to the second, without the zone, which its column says.
pub(super) fn to_the_second(at: &str) -> String {
    at.get(..19).unwrap_or(at).replacen('T', " ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_what_was_pasted() {
        let id = "019b76da8f0a0123456789abcdef0123";
        for text in [id.to_owned(), format!("refused (decision {id})."), format!("  {id}\n"), format!("\"{id}\",")] {
            assert_eq!(id_in(&text), Some(id), "{text}");
        }
        for text in ["", "none", &id[1..], &format!("{id}0")] {
            assert_eq!(id_in(text), None, "{text}");
        }
    }

    #[test]
    fn moments_are_read_as_browsers_send_them_and_told_to_the_second() {
        assert_eq!(as_utc("2027-01-31T08:15"), "2027-01-31T08:15:00Z");
        assert_eq!(as_utc("2027-01-31T08:15:30"), "2027-01-31T08:15:30Z");
        assert_eq!(as_utc("2027-01-31T08:15:30Z"), "2027-01-31T08:15:30Z");
        assert_eq!(to_the_second("2027-01-31T08:15:30.123Z"), "2027-01-31 08:15:30");
    }
}
