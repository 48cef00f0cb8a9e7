//! An upstream that shows each key other tools, for tests of lists of people's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::http::{HeaderName, HeaderValue};
use futures_util::future::{BoxFuture, ready};
use serde_json::{Value, json};

use super::*;
use crate::connection::lending::{Lender, Lent, Rejected};
use crate::connection::{Holder, Place, Reason};
use crate::env::Env;
use crate::ids::{ConnectionId, KeyName, UpstreamName};
use crate::outbound::Outbound;
use crate::tasks::Tasks;
use crate::upstream::stand_in::{Says, about, serve};

/// What the upstream shows: tools by the value of `x-api-key`, the empty one for whoever shows none.
#[derive(Debug, Default)]
pub(crate) struct Shows {
    pub(crate) tools: BTreeMap<String, Vec<&'static str>>,
    pub(crate) is_down: bool,
    /// How often tools were listed.
    pub(crate) lists: usize,
}

/// What people have connected.
#[derive(Debug, Default)]
pub(crate) struct Purse(Mutex<BTreeMap<Place, Arc<Lent>>>);

impl Purse {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Arc<Lent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has a connection from now on, as of when it was given, with this value of the header.
    pub(crate) fn put(&self, who: &Principal, given: u64, key: &'static str) {
        let place = place(who);
        let connection = ConnectionId::parse(&"0a".repeat(12)).unwrap();
        let headers = vec![(HeaderName::from_static("x-api-key"), HeaderValue::from_static(key))];
        let (scopes, variables) = (Vec::new(), Vec::new());
        let lent = Lent { place: place.clone(), connection, revision: given, given, scopes, headers, variables };
        self.lock().insert(place, Arc::new(lent));
    }

    pub(crate) fn take(&self, who: &Principal) {
        self.lock().remove(&place(who));
    }
}

impl Lender for Purse {
    fn lend<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        let lent = self.lock().get(&wanted.place).cloned();
        Box::pin(ready(lent.ok_or(Withheld::Missing(Lack::NotConnected))))
    }

    fn rejected<'a>(
        &'a self,
        _: &'a Wanted,
        _: &'a Lent,
        _: &'a Rejected,
    ) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        Box::pin(ready(Err(Withheld::Missing(Lack::NeedsReauth(Reason::Unauthorized)))))
    }
}

fn place(who: &Principal) -> Place {
    Place { holder: Holder::Of(who.clone()), upstream: mail() }
}

pub(crate) fn mail() -> UpstreamName {
    UpstreamName::parse("mail").unwrap()
}

pub(crate) fn key(name: &str) -> Principal {
    Principal::Key(KeyName::parse(name).unwrap())
}

pub(crate) struct Scene {
    pub(crate) upstream: Arc<Upstream>,
    shows: Arc<Mutex<Shows>>,
    pub(crate) purse: Arc<Purse>,
}

impl Scene {
    /// An upstream that shows nothing to strangers, and this to whoever has the key of that name.
    pub(crate) async fn with(tools: &[(&str, &[&'static str])]) -> Self {
        let shows = Arc::new(Mutex::new(Shows::default()));
        let serving = shows.clone();
        let url = serve(&Tasks::new(), move |head, request| answer(head, request, &serving)).await;
        let text = format!(
            "[upstreams.mail]\nurl = '{url}'\n[upstreams.mail.auth]\nkind = 'per-user-headers'\nheaders = ['x-api-key']\n"
        );
        let config = config::parse(&text, Path::new("/"), &|_: &str| None, Env::system().now()).unwrap();
        let purse = Arc::new(Purse::default());
        let settings = config.upstreams[0].clone();
        let (outbound, lender) = (Outbound::new(), purse.clone());
        let upstream = Upstream::start(settings, (&outbound, lender), &config.limits, Path::new("."), &Tasks::new());
        let scene = Self { upstream, shows, purse };
        for (key, tools) in tools {
            scene.shows().tools.insert((*key).to_owned(), tools.to_vec());
        }
        scene
    }

    pub(crate) fn shows(&self) -> MutexGuard<'_, Shows> {
        self.shows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what strangers see, as is done again and again where somebody keeps it synced.
    pub(crate) async fn sync(&self) {
        let seen = self.upstream.see().await;
        self.upstream.note_whether_closed(&seen);
    }

    /// Reads somebody's list, if it is due.
    pub(super) async fn read(&self, who: &Principal) -> bool {
        let Some(beginning) = self.upstream.begin_own(who) else { return false };
        beginning.read_now(self.cleared(who)).await;
        true
    }

    /// The policies' word that somebody's credential may be shown.
    pub(super) fn cleared(&self, who: &Principal) -> impl Future<Output = Clearance> + use<> {
        ready(Clearance::Given(self.upstream.wanted(who).unwrap()))
    }

    /// What somebody sees: their own tools, or the word for what else.
    pub(super) fn sees(&self, who: &Principal) -> Vec<String> {
        match self.upstream.look(who).unwrap().shown {
            Shown::Common => vec!["common".to_owned()],
            Shown::Unread => vec!["unread".to_owned()],
            Shown::Own(list) => list.offer.tools.iter().map(|tool| tool.name.clone()).collect(),
        }
    }
}

/// What comes of one request.
fn answer(head: &str, request: &Value, shows: &Mutex<Shows>) -> Says {
    let key = head.lines().find_map(|line| line.strip_prefix("x-api-key: ")).unwrap_or_default();
    let mut shows = shows.lock().unwrap_or_else(PoisonError::into_inner);
    if shows.is_down {
        return Says::Nothing;
    }
    shows.lists += usize::from(request["method"] == "tools/list");
    let Some(tools) = shows.tools.get(key) else { return Says::Unauthorized };
    let tools: Vec<Value> = tools.iter().map(|tool| json!({ "name": tool, "inputSchema": {} })).collect();
    match request["method"].as_str() {
        Some("tools/list") => Says::Result(json!({ "tools": tools, "resultType": "complete" })),
        _ => Says::Result(about("mail", &json!({ "tools": {} }))),
    }
}
