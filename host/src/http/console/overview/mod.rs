//! `/`: what needs somebody, what came of requests lately, and how the upstreams fare.
//!
//! Everything here is what `GET /api/v1/health`, `/api/v1/traffic` and `/api/v1/upstreams` tell as well.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::routing::get;

use super::chart::Chart;
use super::desk::{Answer, Asked, Desk, Head};
use super::fields::page;
use super::{Person, Route, shows};
use crate::admin::upstreams::{State as Standing, UpstreamView};
use crate::env::Timestamp;
use crate::http::api::health::{self, ExpiringView, HealthView};
use crate::http::api::{Api, traffic};
use crate::http::oauth::pages::Site;
use crate::upstream::Health;

mod charts;
mod notices;

use notices::Notice;

pub(super) const PAGES: &[Route<Desk>] = &[shows("/", || get(show))];

/// Upstreams that are shown one by one, those that are not up before the others.
const MAX_UPSTREAMS: usize = 50;

#[derive(Template)]
#[template(path = "console/overview.html")]
struct OverviewPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    notices: Vec<Notice>,
    span: Span,
    charts: [Chart; 3],
    upstreams: Vec<UpstreamRow>,
    upstreams_more: usize,
    health: &'a HealthView,
    expiring: Vec<ExpiringRow<'a>>,
    version: &'static str,
    started: Moment,
}

/// The time that charts are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Span {
    Hour,
    Day,
}

impl Span {
    fn asked(word: Option<&str>) -> Self {
        if word == Some("day") { Self::Day } else { Self::Hour }
    }

    const fn is_day(self) -> bool {
        matches!(self, Self::Day)
    }

    /// How many minutes, and how many of them make a column.
    const fn minutes(self) -> (u64, u64) {
        match self {
            Self::Hour => (60, 2),
            Self::Day => (24 * 60, 60),
        }
    }
}

/// A moment as the API tells it, and as people read it.
pub(super) struct Moment {
    pub(super) at: String,
    pub(super) words: String,
}

impl Moment {
    /// Of a moment in RFC 3339.
    pub(super) fn of(at: &str) -> Self {
        let words = match (at.get(..10), at.get(11..16)) {
            (Some(day), Some(time)) => format!("{day} {time} UTC"),
            _ => at.to_owned(),
        };
        Self { at: at.to_owned(), words }
    }
}

/// An upstream as it fares.
struct UpstreamRow {
    name: String,
    state: &'static str,
    /// The class of its badge.
    class: &'static str,
    since: Option<Moment>,
    tools: Option<usize>,
    reason: Option<String>,
}

/// Something that ends.
struct ExpiringRow<'a> {
    view: &'a ExpiringView,
    kind: &'static str,
    /// Where something can be done about it.
    link: String,
    at: Moment,
    advice: &'static str,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let api = &desk.api;
    let span = Span::asked(asked.get("span"));
    let health = health::view(api, &person.operator()).await?;
    let (minutes, each) = span.minutes();
    let traffic = traffic::view(api, minutes, each);
    let mut upstreams = upstreams(api);
    let upstreams_more = upstreams.len().saturating_sub(MAX_UPSTREAMS);
    upstreams.truncate(MAX_UPSTREAMS);
    Ok(desk.page(OverviewPage {
        site: desk.site(),
        head: desk.head(&person, "/"),
        notices: notices::of(&health),
        span,
        charts: charts::of(&traffic),
        upstreams,
        upstreams_more,
        expiring: health.expiring.iter().map(expiring).collect(),
        health: &health,
        version: env!("CARGO_PKG_VERSION"),
        started: Moment::of(&api.control.started.to_string()),
    }))
}

/// All upstreams, those first that somebody should look at.
fn upstreams(api: &Api) -> Vec<UpstreamRow> {
    let now = api.control.env.now();
    let mut rows: Vec<UpstreamRow> = api.control.upstream_views().iter().map(|view| upstream(view, now)).collect();
    rows.sort_by_key(|row| (row.class == "good", row.class.is_empty()));
    rows
}

fn upstream(view: &UpstreamView, now: Timestamp) -> UpstreamRow {
    let row = |state, class, reason| {
        let name = view.name.to_string();
        UpstreamRow { name, state, class, since: None, tools: None, reason }
    };
    match &view.state {
        Standing::Disabled => row("disabled", "", None),
        Standing::Broken { reason } => row("broken", "error", Some(reason.clone())),
        Standing::Running { upstream, trouble } => {
            let (row, tools) = match &*upstream.health() {
                Health::Starting => (row("starting", "warning", trouble.clone()), None),
                Health::Up { tools } => {
                    let class = if trouble.is_some() { "warning" } else { "good" };
                    (row("up", class, trouble.clone()), Some(*tools))
                }
                Health::Down { reason } => (row("down", "error", Some(reason.clone())), None),
            };
            let since = Moment::of(&now.before(upstream.since().elapsed()).to_string());
            UpstreamRow { since: Some(since), tools, ..row }
        }
    }
}

fn expiring(view: &ExpiringView) -> ExpiringRow<'_> {
    let (kind, link, advice) = match view.kind {
        "key" => ("Virtual key", page("/keys", &view.name), "Give it another end, or make another one."),
        "api_token" => ("API token", "/people".to_owned(), "Its person makes another one."),
        "certificate" => ("Certificate", "/settings".to_owned(), "Renew its file: it is read again by itself."),
        _ => ("Signing key", "/settings/signing-keys".to_owned(), "Nothing to do: the next one takes over by itself."),
    };
    ExpiringRow { view, kind, link, at: Moment::of(&view.at), advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_to_the_minute() {
        assert_eq!(Moment::of("2027-01-01T23:59:01.000Z").words, "2027-01-01 23:59 UTC");
        assert_eq!(Moment::of("never").words, "never");
    }

    #[test]
    fn charts_are_of_an_hour_unless_a_day_is_asked_for() {
        let spans = [None, Some("day"), Some("hour"), Some("year")].map(Span::asked);
        assert_eq!(spans, [Span::Hour, Span::Day, Span::Hour, Span::Hour]);
    }
}
