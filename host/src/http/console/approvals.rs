//! `/approvals`: what policies want somebody to agree to, what waits, and what was said.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use http::StatusCode;

use super::desk::{Answer, Asked, Desk, Done, Head, Sent};
use super::fields::page;
use super::known::Known;
use super::words::{self, Badge};
use super::{Person, Route, asks, does, shows, text};
use crate::http::api::approvals::{self as api, ApprovalQuery, ApprovalView, ByView, MemoryView, NewDecision, Word};
use crate::http::api::{Problem, clients};
use crate::http::oauth::csrf::Fields;
use crate::http::oauth::pages::Site;

const HERE: &str = "/approvals";
/// What is shown unless something else is asked for: what waits.
const WAITING: &str = "pending";
/// Asked for where all are wanted.
const ALL: &str = "all";

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(HERE, || get(list)),
    // With the arguments, which are for operators.
    asks("/approvals/{id}", || get(show)),
    does("/approvals/{id}/give", || post(give)),
    does("/approvals/{id}/refuse", || post(refuse)),
];

const STATES: [(&str, &str); 6] = [
    (WAITING, "Waiting"),
    (ALL, "All"),
    ("approved", "Given"),
    ("used", "Used"),
    ("denied", "Refused"),
    ("lapsed", "Lapsed"),
];

fn badge(state: &str) -> Badge {
    match state {
        WAITING => Badge::warning("Waiting"),
        "approved" => Badge::good("Given"),
        "used" => Badge::plain("Used"),
        "denied" => Badge::error("Refused"),
        _ => Badge::plain("Lapsed"),
    }
}

/// What a policy calls it; where it says nothing, what would be done.
fn title(approval: &ApprovalView) -> String {
    text::line(if approval.title.trim().is_empty() { &approval.item } else { &approval.title })
}

fn address_of(approval: &ApprovalView, verb: &str) -> String {
    format!("{HERE}/{}/{verb}", approval.id)
}

#[derive(Template)]
#[template(path = "console/approvals/list.html")]
struct ListPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    state: &'a str,
    states: &'static [(&'static str, &'static str)],
    approvals: Vec<ApprovalView>,
    known: Known,
    older: Option<String>,
}

/// Whom an approval tells of: who asks, and who has said something.
fn people_of(approval: &ApprovalView) -> impl Iterator<Item = &str> {
    let said = approval.decided.as_ref().map(|said| said.by.as_str());
    said.into_iter().chain([approval.principal.as_str()])
}

async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let state = asked.get("state").unwrap_or(WAITING);
    let wanted = (state != ALL).then(|| state.to_owned());
    let query = ApprovalQuery { limit: None, cursor: asked.take("cursor"), state: wanted };
    let (approvals, next) = api::page(&desk.api, query).await?;
    let people: Vec<&str> = approvals.iter().flat_map(people_of).collect();
    let known = desk.known(&people).await?;
    Ok(desk.page(ListPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        state,
        states: &STATES,
        approvals,
        known,
        older: next.map(|next| asked.with(HERE, "cursor", &next)),
    }))
}

#[derive(Template)]
#[template(path = "console/approvals/show.html")]
struct ShowPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    badge: Badge,
    known: Known,
    /// What the client is called, and where its page is, if it is registered here.
    client: Option<(String, String)>,
    /// Where the pages are of what is still there.
    upstream_page: Option<String>,
    policy_page: Option<String>,
    by: String,
    remember: String,
    /// What the button says that gives it.
    give: String,
    /// To be read by people; none where they are not kept.
    arguments: Option<String>,
    /// Whether all of them are shown: nobody agrees to what they have not seen.
    can_be_given: bool,
    approval: ApprovalView,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let approval = api::one(&desk.api, &id).await?;
    let (remember, give) = match approval.remember {
        MemoryView::Once(_) => ("it counts for one call".to_owned(), "Give it once".to_owned()),
        MemoryView::For { seconds } => {
            let time = humantime::format_duration(std::time::Duration::from_secs(seconds));
            (format!("it counts for {time}"), format!("Give it for {time}"))
        }
    };
    let by = match &approval.by {
        ByView::Kind("caller") => "the caller, and operators".to_owned(),
        ByView::Kind(_) => "operators".to_owned(),
        ByView::Listed(names) => format!("{}, and operators", words::listed(names)),
    };
    let arguments = approval.arguments.as_ref().filter(|arguments| !arguments.is_null());
    let people: Vec<&str> = people_of(&approval).collect();
    let (known, client) = (desk.known(&people).await?, client_of(&desk, &approval).await?);
    Ok(desk.page(ShowPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        badge: badge(approval.state),
        known,
        client,
        upstream_page: desk.page_of_upstream(approval.upstream.as_str()),
        policy_page: desk.page_of_policy(approval.policy.as_str()),
        by,
        remember,
        give,
        can_be_given: arguments.is_none_or(text::is_all_shown),
        arguments: arguments.map(text::pretty),
        approval,
    }))
}

/// What the client is called that asks, and where its page is.
async fn client_of(desk: &Desk, approval: &ApprovalView) -> Result<Option<(String, String)>, Problem> {
    if approval.client.is_empty() {
        return Ok(None);
    }
    match clients::one(&desk.api, &approval.client).await {
        Ok(found) => {
            let client = clients::view(&found);
            let name = client["client_name"].as_str().unwrap_or(&approval.client).to_owned();
            Ok(Some((name, page("/clients", &approval.client))))
        }
        Err(problem) if problem.status == StatusCode::NOT_FOUND => Ok(None),
        Err(problem) => Err(problem),
    }
}

async fn give(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(fields): Sent,
) -> Answer {
    decide((&desk, &person), &id, Word::Approve, fields).await
}

async fn refuse(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(fields): Sent,
) -> Answer {
    decide((&desk, &person), &id, Word::Deny, fields).await
}

async fn decide((desk, person): (&Desk, &Person), id: &str, decision: Word, mut fields: Fields) -> Answer {
    let note = Some(fields.take("note").trim().to_owned()).filter(|note| !note.is_empty());
    let done = match decision {
        Word::Approve => Done::Given,
        Word::Deny => Done::Refused,
    };
    let approval = api::rule(&desk.api, id, NewDecision { decision, note }, person.actor()).await?;
    Ok(desk.done(person, &format!("{HERE}/{}", approval.id), done))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::approvals::Standing;

    #[test]
    fn every_state_has_its_words() {
        for (word, text) in STATES.iter().filter(|(word, _)| *word != ALL) {
            assert!(Standing::parse(word).is_some(), "{word}");
            assert_eq!(badge(word).text, *text, "{word}");
        }
    }
}
