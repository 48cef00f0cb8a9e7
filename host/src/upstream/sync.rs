//! Keeps what is known of an upstream fresh: on a schedule, when it says that it changed, and when asked.
//!
//! A list that cannot be read costs no other list: what was last known of it stays. Reading a page is [`Reading::take`],
//! which is pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::mem::discriminant;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::catalog::{
    Definition, Listed, Offer, SkillDefinition, TemplateDefinition, ToolDefinition, UnusableDefinition,
};
use super::credential::Own;
use super::{Failure, Health, Link, Upstream, UpstreamError};
use crate::config::UpstreamTransport;
use crate::connection::lending::{Lack, Withheld};
use crate::ids::UpstreamName;
use crate::mcp::call::{Outcome, Params};
use crate::mcp::error::METHOD_NOT_FOUND;
use crate::mcp::json::to_raw;
use crate::mcp::param_headers::InvalidAnnotation;
use crate::mcp::revision::{About, Era, ListKind};

/// How long the first attempt may take before the gateway does not wait for it any more.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// Longest reading of one page, unless the upstream's calls have less time.
pub(super) const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest reading of one list.
const LIST_TIMEOUT: Duration = Duration::from_secs(120);
const MAX_PAGES: usize = 200;
const MAX_ITEMS: usize = 10_000;
/// Most text of one list, in bytes.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;
/// Items that are left out are written down one by one up to this many.
const MAX_COMPLAINTS: usize = 5;
/// Waits after failures double from the first to the second.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(500);
pub(super) const LAST_RETRY: Duration = Duration::from_secs(60);
/// Several changes in a row are read once.
const DEBOUNCE: Duration = Duration::from_millis(100);

impl Upstream {
    /// Reads what the upstream offers again and again until it is stopped. Calls `changed` after the first attempt, and
    /// whenever what is known of it or of its health differs from before, and goes on when that has ended: what it begins
    /// it ends soon.
    pub async fn keep_synced(self: Arc<Self>, changed: impl Fn() -> BoxFuture<'static, ()> + Send + Sync) {
        let mut retry = FIRST_RETRY;
        let mut last_trouble = None;
        loop {
            let Some(attempt) = self.attempt(&changed).await else { return };
            self.note_whether_closed(&attempt);
            let (health, is_news, trouble) = match attempt {
                Ok(Seen { offer, is_news, trouble }) => (Health::Up { tools: offer.tools.len() }, is_news, trouble),
                Err(error) => {
                    let reason = self.reason(&error);
                    (Health::Down { reason: reason.clone() }, false, Some(reason))
                }
            };
            let pause = match (&health, &trouble) {
                (_, None) => {
                    retry = FIRST_RETRY;
                    self.settings.sync_interval
                }
                (Health::Down { .. }, Some(_)) => next_retry(&mut retry, LAST_RETRY),
                (_, Some(_)) => next_retry(&mut retry, self.settings.sync_interval.max(LAST_RETRY)),
            };
            if let Some(reason) = &trouble {
                let failure = Failure { reason: reason.clone(), at: Instant::now() };
                self.failure.store(Some(Arc::new(failure)));
            }
            if let Some(reason) = trouble.as_deref().filter(|_| trouble != last_trouble) {
                let upstream = &self.settings.name;
                match &health {
                    Health::Down { .. } => tracing::warn!(%upstream, reason, "upstream is down"),
                    _ => tracing::warn!(%upstream, reason, "some of what the upstream offers cannot be read"),
                }
            }
            last_trouble = trouble;
            // What it offers can be had before anybody hears that it is up.
            if is_news {
                changed().await;
            }
            if self.settle(health) {
                changed().await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.signals.stale.notified() => tokio::time::sleep(DEBOUNCE).await,
                () = self.tasks.stopping().cancelled() => return,
            }
        }
    }

    /// Takes note of whether it lists anything to whoever has no credential. What else keeps it from being read says nothing of
    /// that.
    pub(super) fn note_whether_closed(&self, attempt: &Result<Seen, UpstreamError>) {
        let is_closed = match attempt {
            Ok(_) => false,
            Err(
                UpstreamError::Status { status: 401 | 403 }
                | UpstreamError::Rejected { .. }
                | UpstreamError::Withheld(Withheld::Missing(_)),
            ) => true,
            Err(_) => return,
        };
        self.is_closed.store(is_closed, Ordering::Relaxed);
    }

    /// What keeps it from being up, with what an operator can do about it.
    fn reason(&self, error: &UpstreamError) -> String {
        let advice = format!("portcullis upstream connect {}", self.settings.name);
        match error {
            UpstreamError::Status { status: 401 } if self.own.wants() => {
                format!("it lists nothing to the gateway without a credential: {advice}")
            }
            UpstreamError::Rejected { why, .. } => format!("{why}: {advice}"),
            // Some programs do not run without what each principal gives them.
            error @ UpstreamError::Unreachable { .. } if matches!(self.link, Link::Programs(_)) => {
                format!("{error}; if it does not run without values of its own: {advice}")
            }
            UpstreamError::Withheld(Withheld::Missing(lack)) => format!("{lack}: {advice}"),
            error => error.to_string(),
        }
    }

    /// Asks for a reading now.
    pub fn refresh(&self) {
        self.signals.stale.notify_one();
    }

    /// Reads everything once; `None` if the upstream was stopped before. An upstream that does not answer counts as down
    /// before the attempt has ended, so that nobody waits for it when the gateway starts.
    async fn attempt(
        &self,
        changed: &(impl Fn() -> BoxFuture<'static, ()> + Send + Sync),
    ) -> Option<Result<Seen, UpstreamError>> {
        let attempt = self.see();
        tokio::pin!(attempt);
        let mut is_first = *self.health.load_full() == Health::Starting;
        loop {
            tokio::select! {
                seen = &mut attempt => return Some(seen),
                () = tokio::time::sleep(FIRST_PATIENCE), if is_first => {
                    is_first = false;
                    let reason = "it has not answered yet".to_owned();
                    if self.settle(Health::Down { reason }) {
                        changed().await;
                    }
                }
                () = self.tasks.stopping().cancelled() => return None,
            }
        }
    }

    /// Takes note of its health. Whether it was another before.
    fn settle(&self, health: Health) -> bool {
        let before = self.health.load_full();
        let is_other = *before != health;
        if is_other {
            if discriminant(&*before) != discriminant(&health) {
                self.since.store(Arc::new(Instant::now()));
            }
            self.health.store(Arc::new(health));
        }
        is_other
    }

    /// Reads all lists that the upstream declares to the gateway, and keeps what it finds.
    pub(super) async fn see(&self) -> Result<Seen, UpstreamError> {
        let known_about = self.known_about();
        let about = self.read_about(PAGE_TIMEOUT).await?;
        let known = self.offer.load_full();
        let (offer, unread) = self.read_lists(&self.own, &about, known.as_deref(), None).await?;
        let trouble = unread.in_words();
        let is_another_about = known_about.is_none_or(|known| !Arc::ptr_eq(&known, &about));
        match known.filter(|known| known.digest() == offer.digest()) {
            Some(known) => Ok(Seen { offer: known, is_news: is_another_about, trouble }),
            None => {
                let offer = Arc::new(offer);
                self.offer.store(Some(offer.clone()));
                Ok(Seen { offer, is_news: true, trouble })
            }
        }
    }

    /// Reads all lists that an upstream declares to `own`, as far as there is `room`. A list that cannot be read stays as it
    /// is `known`, and is among what is given besides.
    ///
    /// # Errors
    /// The first failure, if nothing could be read.
    pub(super) async fn read_lists(
        &self,
        own: &Own,
        about: &About,
        known: Option<&Offer>,
        room: Option<&Room>,
    ) -> Result<(Offer, Unread), UpstreamError> {
        let (name, declared, as_reader) = (&self.settings.name, &about.capabilities, (own, room));
        // Elsewhere annotations mean nothing (2026-07-28, transports/streamable-http § schema extension).
        let over_http = matches!(self.settings.transport, UpstreamTransport::StreamableHttp { .. });
        let headers_count = over_http && about.era == Era::Modern;
        let tool = |definition: &RawValue| match ToolDefinition::parse(name, definition)? {
            ToolDefinition { name, invalid_annotation: Some(invalid), .. } if headers_count => {
                Err(LeftOut::Annotation { name, invalid })
            }
            tool => Ok(tool),
        };
        let (tools, prompts, resources, templates, skills) = tokio::join!(
            self.read_list(as_reader, ListKind::Tools, declared.tools, tool),
            self.read_list(as_reader, ListKind::Prompts, declared.prompts, |prompt| Ok(Definition::prompt(
                name, prompt
            )?)),
            self.read_list(as_reader, ListKind::Resources, declared.resources, |found| Ok(Definition::resource(
                name, found
            )?)),
            self.read_list(as_reader, ListKind::Templates, declared.resources, |found| Ok(TemplateDefinition::parse(
                name, found
            )?)),
            self.read_list(as_reader, ListKind::Skills, declared.has_skills(), |skill| Ok(SkillDefinition::parse(
                name, skill
            )?)),
        );
        let mut lists = Lists::default();
        let offer = Offer {
            tools: lists.settle(ListKind::Tools, tools, known.map(|known| &known.tools)),
            prompts: lists.settle(ListKind::Prompts, prompts, known.map(|known| &known.prompts)),
            resources: lists.settle(ListKind::Resources, resources, known.map(|known| &known.resources)),
            templates: lists.settle(ListKind::Templates, templates, known.map(|known| &known.templates)),
            skills: lists.settle(ListKind::Skills, skills, known.map(|known| &known.skills)),
        };
        Ok((offer, lists.unread()?))
    }

    /// Reads a list to its end; `None` if the upstream does not declare it.
    async fn read_list<T: Listed>(
        &self,
        (own, room): (&Own, Option<&Room>),
        kind: ListKind,
        is_declared: bool,
        parse: impl Fn(&RawValue) -> Result<T, LeftOut>,
    ) -> Option<Result<Vec<Arc<T>>, UpstreamError>> {
        if !is_declared {
            return None;
        }
        let mut reading = Reading::new(parse);
        let reads = async {
            let mut cursor = None;
            loop {
                let mut params = Params::default();
                if let Some(cursor) = &cursor {
                    params.members.set("cursor", to_raw(cursor));
                }
                let outcome = self.ask(own, kind.method(), params, PAGE_TIMEOUT).await?;
                room.map_or(Ok(()), |room| room.take(&outcome))?;
                cursor = reading.take(kind, outcome)?;
                if cursor.is_none() {
                    return Ok(());
                }
            }
        };
        let read = tokio::time::timeout(LIST_TIMEOUT, reads).await;
        let read = read.unwrap_or(Err(UpstreamError::TimedOut { after: LIST_TIMEOUT }));
        reading.complain(&self.settings.name, kind);
        Some(read.map(|()| reading.items))
    }
}

/// What came of reading everything.
pub(super) struct Seen {
    pub(super) offer: Arc<Offer>,
    /// Whether anything differs from what was known before.
    pub(super) is_news: bool,
    /// Lists that could not be read.
    pub(super) trouble: Option<String>,
}

impl Offer {
    /// The same, where what another offer has just so is that one's: it is kept once.
    pub(super) fn sharing(self, with: &Self) -> Self {
        Self {
            tools: with_known(self.tools, &with.tools),
            prompts: with_known(self.prompts, &with.prompts),
            resources: with_known(self.resources, &with.resources),
            templates: with_known(self.templates, &with.templates),
            skills: with_known(self.skills, &with.skills),
        }
    }
}

/// Doubles `retry` up to `longest`, and gives what it was before.
pub(super) fn next_retry(retry: &mut Duration, longest: Duration) -> Duration {
    let pause = (*retry).min(longest);
    *retry = (*retry * 2).min(longest);
    pause
}

/// How much text several lists that are read together may have.
pub(super) struct Room {
    limit: usize,
    taken: AtomicUsize,
}

impl Room {
    /// For so many bytes.
    pub(super) fn of(limit: usize) -> Self {
        Self { limit, taken: AtomicUsize::new(0) }
    }

    /// Takes the room that a page needs.
    ///
    /// # Errors
    /// [`UpstreamError::TooLarge`], if there is not so much left.
    fn take(&self, page: &Outcome) -> Result<(), UpstreamError> {
        let Outcome::Result(page) = page else { return Ok(()) };
        let bytes = page.get().len();
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        match before.saturating_add(bytes) > self.limit {
            true => Err(UpstreamError::TooLarge { limit: self.limit }),
            false => Ok(()),
        }
    }
}

/// Lists that could not be read while others could, each with what kept it from that.
#[derive(Debug, Default)]
pub(super) struct Unread(Vec<(ListKind, UpstreamError)>);

impl Unread {
    /// All that there is was read.
    pub(super) fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn in_words(&self) -> Option<String> {
        let failures: Vec<String> = self.0.iter().map(|(kind, error)| format!("{}: {error}", kind.method())).collect();
        (!failures.is_empty()).then(|| failures.join("; "))
    }

    /// What the reader has to do something about.
    pub(super) fn lack(&self) -> Option<&Lack> {
        self.0.iter().find_map(|(_, error)| match error {
            UpstreamError::Withheld(Withheld::Missing(lack)) => Some(lack),
            _ => None,
        })
    }

    /// Whether one of them was too long.
    pub(super) fn is_too_large(&self) -> bool {
        self.0.iter().any(|(_, error)| matches!(error, UpstreamError::TooLarge { .. }))
    }
}

/// Which lists could be read.
#[derive(Default)]
struct Lists {
    read: usize,
    unread: Unread,
}

impl Lists {
    /// What a list has now: as it was read, or as it was last known.
    fn settle<T: Listed>(
        &mut self,
        kind: ListKind,
        list: Option<Result<Vec<Arc<T>>, UpstreamError>>,
        known: Option<&Vec<Arc<T>>>,
    ) -> Vec<Arc<T>> {
        match list {
            None => Vec::new(),
            Some(Ok(items)) => {
                self.read += 1;
                with_known(items, known.map_or(&[], Vec::as_slice))
            }
            Some(Err(error)) => {
                self.unread.0.push((kind, error));
                known.cloned().unwrap_or_default()
            }
        }
    }

    /// What could not be read.
    ///
    /// # Errors
    /// The first failure, if nothing could be read.
    fn unread(mut self) -> Result<Unread, UpstreamError> {
        if self.read == 0 && !self.unread.is_nothing() {
            return Err(self.unread.0.swap_remove(0).1);
        }
        Ok(self.unread)
    }
}

/// What was read, but for what was known already just so: that is kept, with what was made of it.
fn with_known<T: Listed>(mut items: Vec<Arc<T>>, known: &[Arc<T>]) -> Vec<Arc<T>> {
    let known: HashMap<&str, &Arc<T>> = known.iter().map(|item| (item.key(), item)).collect();
    for item in &mut items {
        if let Some(same) = known.get(item.key()).filter(|known| known.digest() == item.digest()) {
            *item = Arc::clone(same);
        }
    }
    items
}

/// Why an item is left out of a list.
#[derive(Debug)]
enum LeftOut {
    Unusable(UnusableDefinition),
    Annotation { name: String, invalid: InvalidAnnotation },
    Twice { name: String },
}

impl From<UnusableDefinition> for LeftOut {
    fn from(unusable: UnusableDefinition) -> Self {
        Self::Unusable(unusable)
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(unusable) => unusable.fmt(f),
            Self::Annotation { name, invalid } => write!(f, "{name:?}: {invalid}"),
            Self::Twice { name } => write!(f, "{name:?} is there already"),
        }
    }
}

/// A list that is being read, page by page.
struct Reading<T, P> {
    parse: P,
    items: Vec<Arc<T>>,
    keys: HashSet<String>,
    pages: usize,
    bytes: usize,
    last_cursor: Option<String>,
    left_out: usize,
    complaints: Vec<LeftOut>,
}

impl<T: Listed, P: Fn(&RawValue) -> Result<T, LeftOut>> Reading<T, P> {
    fn new(parse: P) -> Self {
        Self {
            parse,
            items: Vec::new(),
            keys: HashSet::new(),
            pages: 0,
            bytes: 0,
            last_cursor: None,
            left_out: 0,
            complaints: Vec::new(),
        }
    }

    /// Takes a page; gives the cursor of the next one. An upstream that does not know the method has an empty list: some
    /// declare resources and have never heard of templates.
    fn take(&mut self, kind: ListKind, page: Outcome) -> Result<Option<String>, UpstreamError> {
        let page = match page {
            Outcome::Result(page) => page,
            Outcome::Error(error) if self.pages == 0 && code_of(&error) == Some(METHOD_NOT_FOUND) => return Ok(None),
            Outcome::Error(_) => return Err(UpstreamError::Protocol { what: "a list was answered with an error" }),
            Outcome::NeedsInput(_) => {
                return Err(UpstreamError::Protocol { what: "a list was answered with a question" });
            }
        };
        self.pages += 1;
        self.bytes += page.get().len();
        if self.bytes > MAX_LIST_BYTES {
            return Err(UpstreamError::TooLarge { limit: MAX_LIST_BYTES });
        }
        let Page { items, next_cursor } =
            read_page(kind, &page).ok_or(UpstreamError::Protocol { what: "the answer to a list has no list" })?;
        for item in items {
            if self.items.len() + self.left_out == MAX_ITEMS {
                return Err(UpstreamError::Protocol { what: "a list of more than 10 000 items" });
            }
            self.add(item);
        }
        // An empty cursor is one (2026-07-28, pagination § implementation guidelines).
        if next_cursor.is_some() && (self.pages == MAX_PAGES || next_cursor == self.last_cursor) {
            return Err(UpstreamError::Protocol { what: "a list that does not end" });
        }
        self.last_cursor.clone_from(&next_cursor);
        Ok(next_cursor)
    }

    fn add(&mut self, item: &RawValue) {
        let parsed = (self.parse)(item).and_then(|item| match self.keys.insert(item.key().to_owned()) {
            true => Ok(item),
            false => Err(LeftOut::Twice { name: item.key().to_owned() }),
        });
        match parsed {
            Ok(item) => self.items.push(Arc::new(item)),
            Err(left_out) => {
                self.left_out += 1;
                if self.complaints.len() < MAX_COMPLAINTS {
                    self.complaints.push(left_out);
                }
            }
        }
    }

    fn complain(&self, upstream: &UpstreamName, kind: ListKind) {
        for left_out in &self.complaints {
            tracing::warn!(%upstream, list = kind.method(), reason = %left_out, "left out a definition");
        }
        if self.left_out > self.complaints.len() {
            let more = self.left_out - self.complaints.len();
            tracing::warn!(%upstream, list = kind.method(), more, "left out more definitions");
        }
    }
}

struct Page<'a> {
    items: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

fn read_page(kind: ListKind, page: &RawValue) -> Option<Page<'_>> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(page.get()).ok()?;
    let items = serde_json::from_str(members.get(kind.member())?.get()).ok()?;
    let next_cursor = match members.get("nextCursor") {
        Some(cursor) => serde_json::from_str(cursor.get()).ok()?,
        None => None,
    };
    Some(Page { items, next_cursor })
}

pub(super) fn code_of(error: &RawValue) -> Option<i32> {
    #[derive(Deserialize)]
    struct Code {
        code: i32,
    }
    serde_json::from_str(error.get()).ok().map(|Code { code }| code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::call::NeedsInput;
    use crate::mcp::json::{Members, raw};

    fn prompts() -> Reading<Definition, impl Fn(&RawValue) -> Result<Definition, LeftOut>> {
        let upstream = UpstreamName::parse("notes").unwrap();
        Reading::new(move |prompt: &RawValue| Ok(Definition::prompt(&upstream, prompt)?))
    }

    fn page(items: &str, rest: &str) -> Outcome {
        Outcome::Result(raw(format!(r#"{{"prompts":[{items}]{rest}}}"#)))
    }

    fn error(code: i32) -> Outcome {
        Outcome::Error(raw(format!(r#"{{"code":{code},"message":"no"}}"#)))
    }

    fn names(reading: &Reading<Definition, impl Fn(&RawValue) -> Result<Definition, LeftOut>>) -> Vec<&str> {
        reading.items.iter().map(|item| item.key.as_str()).collect()
    }

    #[test]
    fn a_list_is_read_page_by_page() {
        let mut reading = prompts();
        let next = reading.take(ListKind::Prompts, page(r#"{"name":"b"},{"name":"a"}"#, r#","nextCursor":"","x":1"#));
        assert_eq!(next.unwrap().as_deref(), Some(""), "an empty cursor is one");
        let next = reading.take(ListKind::Prompts, page(r#"{"name":"c"}"#, r#","nextCursor":"2""#));
        assert_eq!(next.unwrap().as_deref(), Some("2"));
        let next = reading.take(ListKind::Prompts, page("", r#","nextCursor":null"#));
        assert_eq!(next.unwrap(), None);
        assert_eq!(names(&reading), ["b", "a", "c"]);
    }

    #[test]
    fn what_cannot_be_used_costs_nothing_else() {
        let mut reading = prompts();
        let items = r#"{"name":"a","v":1},{"title":"x"},3,{"name":"b"},{"name":"a","v":2}"#;
        assert_eq!(reading.take(ListKind::Prompts, page(items, "")).unwrap(), None);
        assert_eq!(names(&reading), ["a", "b"]);
        assert_eq!(reading.left_out, 3);
        assert_eq!(reading.complaints[2].to_string(), r#""a" is there already"#);
    }

    #[test]
    fn an_upstream_that_does_not_know_a_list_has_none() {
        let mut reading = prompts();
        assert_eq!(reading.take(ListKind::Prompts, error(METHOD_NOT_FOUND)).unwrap(), None);
        assert!(reading.items.is_empty());

        assert!(prompts().take(ListKind::Prompts, error(-32603)).is_err());
        let mut reading = prompts();
        reading.take(ListKind::Prompts, page(r#"{"name":"a"}"#, r#","nextCursor":"1""#)).unwrap();
        assert!(reading.take(ListKind::Prompts, error(METHOD_NOT_FOUND)).is_err(), "it knew it a moment ago");
    }

    #[test]
    fn what_is_no_list_is_a_failure() {
        for answer in ["{}", r#"{"prompts":{}}"#, r#"{"tools":[]}"#, r#"{"prompts":[],"nextCursor":1}"#] {
            let answer = Outcome::Result(raw(answer.to_owned()));
            let failure = prompts().take(ListKind::Prompts, answer).unwrap_err();
            assert!(matches!(failure, UpstreamError::Protocol { .. }), "{failure}");
        }
        let question = Outcome::NeedsInput(NeedsInput(Members::default()));
        assert!(prompts().take(ListKind::Prompts, question).is_err());
    }

    #[test]
    fn lists_are_bounded() {
        let mut reading = prompts();
        for at in 1..MAX_PAGES {
            reading.take(ListKind::Prompts, page("", &format!(r#","nextCursor":"{at}""#))).unwrap();
        }
        assert!(reading.take(ListKind::Prompts, page("", r#","nextCursor":"last""#)).is_err());

        let mut reading = prompts();
        let same = || page("", r#","nextCursor":"same""#);
        reading.take(ListKind::Prompts, same()).unwrap();
        assert!(reading.take(ListKind::Prompts, same()).is_err(), "it would never end");

        let items = |count: usize| (0..count).map(|at| format!(r#"{{"name":"p{at}"}}"#)).collect::<Vec<_>>().join(",");
        assert!(prompts().take(ListKind::Prompts, page(&items(MAX_ITEMS), "")).is_ok());
        assert!(prompts().take(ListKind::Prompts, page(&items(MAX_ITEMS + 1), "")).is_err());

        let mut reading = prompts();
        let large = format!(r#","x":"{}""#, "x".repeat(MAX_LIST_BYTES / 2));
        reading.take(ListKind::Prompts, page("", &format!(r#"{large},"nextCursor":"1""#))).unwrap();
        let failure = reading.take(ListKind::Prompts, page("", &large)).unwrap_err();
        assert!(matches!(failure, UpstreamError::TooLarge { .. }), "{failure}");
    }

    #[test]
    fn a_list_that_fails_keeps_what_was_known() {
        let upstream = UpstreamName::parse("notes").unwrap();
        let item =
            |name: &str| Arc::new(Definition::prompt(&upstream, &raw(format!(r#"{{"name":"{name}"}}"#))).unwrap());
        let keys = |items: Vec<Arc<Definition>>| items.iter().map(|item| item.key.clone()).collect::<Vec<_>>();
        let failed = || Some(Err(UpstreamError::TimedOut { after: Duration::from_secs(1) }));
        let known = vec![item("known")];
        let none = [""; 0];

        let mut lists = Lists::default();
        let read = lists.settle(ListKind::Tools, Some(Ok(vec![item("new"), item("known")])), Some(&known));
        assert!(Arc::ptr_eq(&read[1], &known[0]), "what stays the same is the same");
        assert_eq!(keys(read), ["new", "known"]);
        assert_eq!(keys(lists.settle(ListKind::Prompts, failed(), Some(&known))), ["known"]);
        assert_eq!(keys(lists.settle(ListKind::Resources, failed(), None)), none);
        assert_eq!(keys(lists.settle(ListKind::Templates, None, Some(&known))), none, "no longer declared");
        let trouble = lists.unread().unwrap().in_words().unwrap();
        assert_eq!(trouble, "prompts/list: no answer within 1 s; resources/list: no answer within 1 s");

        let mut lists = Lists::default();
        assert_eq!(keys(lists.settle(ListKind::Tools, failed(), None)), none);
        assert_eq!(keys(lists.settle(ListKind::Prompts, None, None)), none);
        assert!(lists.unread().is_err(), "nothing could be read");
        assert!(Lists::default().unread().unwrap().is_nothing(), "nothing was declared");
    }

    #[test]
    fn lists_that_are_read_together_have_so_much_room_and_no_more() {
        let room = Room::of(2 * r#"{"prompts":[]}"#.len());
        assert!(room.take(&page("", "")).is_ok() && room.take(&error(-32603)).is_ok());
        assert!(room.take(&page("", "")).is_ok());
        assert!(matches!(room.take(&page("", "")), Err(UpstreamError::TooLarge { .. })));
        let lack = Lack::NeedsScopes(vec!["mail.read".to_owned()]);
        let missing = UpstreamError::Withheld(Withheld::Missing(lack.clone()));
        let unread = Unread(vec![(ListKind::Prompts, UpstreamError::Died), (ListKind::Tools, missing)]);
        assert_eq!((unread.lack(), unread.is_too_large()), (Some(&lack), false));
    }

    #[test]
    fn retries_come_later_and_later() {
        let mut retry = FIRST_RETRY;
        let pauses: Vec<u64> = (0..9).map(|_| next_retry(&mut retry, LAST_RETRY).as_millis() as u64).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    }
}
