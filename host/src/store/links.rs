//! Connect links that were opened: each by one browser, once.
//!
//! A link that nobody opens leaves nothing here. One that was opened stands here for as long as it could be opened again
//! and for as long as its browser may take to make the connection; what a link is is [`crate::connection::link`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{Bounds, Direction, Table};
use super::record::DigestRecord;
use super::table::{Index, Typed, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx};
use crate::audit::Actor;
use crate::connection::link::Link;
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{Principal, UpstreamName};
use crate::secret::Digest;

/// What the browser that opens a link gets to make the connection, at least.
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Most links of one principal that are open at once.
pub const MAX_OF_ONE: usize = 50;
/// Links of one browser for one upstream that are looked at.
const MAX_SEEN: usize = 100;

pub(super) const LINKS: Typed<Record> = Typed {
    table: Table::Links,
    version: 1,
    older: &[],
    key: |record| record.id.as_bytes().to_vec(),
    indexes: &[
        Index { table: Table::LinksByBrowser, key: Record::by_browser },
        Index { table: Table::LinksByPrincipal, key: Record::by_principal },
    ],
    expires: Some(|record| Some(Timestamp::from_millis(record.until_ms))),
};

/// A link that a browser has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenLink {
    pub id: String,
    pub principal: Principal,
    pub upstream: UpstreamName,
    pub scopes: TokenList,
    /// Who had it made, if that is not whoever called.
    pub by: Option<Actor>,
    /// The connection was made.
    pub is_done: bool,
    pub until: Timestamp,
}

/// What came of [`open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    First(Box<OpenLink>),
    /// The same browser had opened it.
    Again(Box<OpenLink>),
    /// Another browser had.
    Taken,
    /// Its time is over.
    Expired,
    /// Its principal has [`MAX_OF_ONE`] that are open.
    TooMany,
}

/// Opens a link in a browser, by the digest of its cookie.
pub async fn open(store: &Store, link: &Link, browser: Digest) -> Result<Opened, StoreError> {
    let link = link.clone();
    store.write(move |tx| open_in(tx, &link, browser)).await
}

fn open_in(tx: &mut WriteTx<'_>, link: &Link, browser: Digest) -> Result<Opened, StoreError> {
    let now = tx.now();
    if let Some(record) = LINKS.get(tx, link.id.as_bytes())? {
        let is_same = record.browser.0 == browser;
        let there = Box::new(OpenLink::try_from(record)?);
        return Ok(if is_same { Opened::Again(there) } else { Opened::Taken });
    }
    if link.expires <= now {
        return Ok(Opened::Expired);
    }
    let theirs = Bounds::within(&of_principal(&link.principal.to_string()));
    if tx.range(Table::LinksByPrincipal, &theirs, Direction::Forward, MAX_OF_ONE)?.len() == MAX_OF_ONE {
        return Ok(Opened::TooMany);
    }
    let record = Record {
        id: link.id.clone(),
        principal: link.principal.to_string(),
        upstream: link.upstream.to_string(),
        scopes: link.scopes.to_vec(),
        by: link.by.clone(),
        browser: browser.into(),
        is_done: false,
        // No sooner than the link itself, which could be opened again otherwise.
        until_ms: now.after(PATIENCE).max(link.expires).as_millis(),
    };
    LINKS.put(tx, &record)?;
    Ok(Opened::First(Box::new(OpenLink::try_from(record)?)))
}

/// The link for an upstream that a browser has opened: the one with this id, or one that is not done before one that is, and
/// of those the last.
pub async fn of_browser(
    store: &Store,
    browser: Digest,
    upstream: &UpstreamName,
    id: Option<&str>,
) -> Result<Option<OpenLink>, StoreError> {
    let (upstream, id) = (upstream.clone(), id.map(str::to_owned));
    store
        .read(move |tx| {
            let records = all_of(tx, browser, &upstream)?;
            let meant = records.into_iter().filter(|record| id.as_ref().is_none_or(|id| *id == record.id));
            let best = meant.max_by_key(|record| (!record.is_done, record.until_ms));
            best.map(OpenLink::try_from).transpose()
        })
        .await
}

/// The connection is made that a browser had opened links for. How many that were.
pub async fn done(
    store: &Store,
    browser: Digest,
    principal: &Principal,
    upstream: &UpstreamName,
) -> Result<usize, StoreError> {
    let (principal, upstream) = (principal.to_string(), upstream.clone());
    store
        .write(move |tx| {
            let records = all_of(tx, browser, &upstream)?;
            let mut marked = 0;
            for record in records.into_iter().filter(|record| !record.is_done && record.principal == principal) {
                LINKS.put(tx, &Record { is_done: true, ..record })?;
                marked += 1;
            }
            Ok(marked)
        })
        .await
}

/// Those whose time is not over.
fn all_of(tx: &mut ReadTx<'_>, browser: Digest, upstream: &UpstreamName) -> Result<Vec<Record>, StoreError> {
    let now = tx.now().as_millis();
    let these = Bounds::within(&of_browser_at(browser.as_bytes(), upstream.as_str()));
    let rows = tx.range(Table::LinksByBrowser, &these, Direction::Forward, MAX_SEEN)?;
    let mut found = Vec::new();
    for (_, id) in rows {
        found.extend(LINKS.get(tx, &id)?.filter(|record| now < record.until_ms));
    }
    Ok(found)
}

/// No principal has the byte 0 in it.
fn of_principal(principal: &str) -> Vec<u8> {
    [principal.as_bytes(), &[0]].concat()
}

fn of_browser_at(browser: &[u8; 32], upstream: &str) -> Vec<u8> {
    [browser.as_slice(), upstream.as_bytes(), &[0]].concat()
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    id: String,
    principal: String,
    upstream: String,
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    browser: DigestRecord,
    is_done: bool,
    until_ms: u64,
}

impl Record {
    fn by_browser(&self) -> Vec<u8> {
        [&of_browser_at(self.browser.0.as_bytes(), &self.upstream), self.id.as_bytes()].concat()
    }

    fn by_principal(&self) -> Vec<u8> {
        [&of_principal(&self.principal), self.id.as_bytes()].concat()
    }
}

impl TryFrom<Record> for OpenLink {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let bad = |what: &str| unreadable(Table::Links, format_args!("{what} is none"));
        let Record { id, principal, upstream, scopes, by, browser: _, is_done, until_ms } = record;
        let by = by.map(|by| Actor::parse(&by).ok_or_else(|| bad("who had it made")));
        Ok(Self {
            id,
            principal: Principal::parse(&principal).ok_or_else(|| bad("a principal"))?,
            upstream: UpstreamName::parse(&upstream).map_err(|_| bad("an upstream"))?,
            scopes: TokenList::parse(scopes).map_err(|(_, error)| unreadable(Table::Links, error))?,
            by: by.transpose()?,
            is_done,
            until: Timestamp::from_millis(until_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::super::oauth_testing::*;
    use super::*;
    use crate::connection::link::LIFE;

    fn upstream(name: &str) -> UpstreamName {
        UpstreamName::parse(name).unwrap()
    }

    fn link(place: &Place, number: usize, of: &str) -> Link {
        Link {
            id: format!("{number:032x}"),
            principal: key(of),
            upstream: upstream("notes"),
            scopes: tokens(&["write"]),
            by: None,
            expires: place.now().after(LIFE),
        }
    }

    #[tokio::test]
    async fn a_link_opens_in_one_browser_and_there_again() {
        for mut place in engines().await {
            let link = link(&place, 1, "ci");
            let Opened::First(first) = open(&place.store, &link, digest("a")).await.unwrap() else { panic!() };
            assert_eq!((&first.principal, &first.upstream, first.is_done), (&key("ci"), &upstream("notes"), false));
            assert_eq!(first.scopes, tokens(&["write"]));
            place.restart().await;
            let store = &place.store;
            assert_eq!(open(store, &link, digest("a")).await.unwrap(), Opened::Again(first.clone()));
            assert_eq!(open(store, &link, digest("b")).await.unwrap(), Opened::Taken);
            let found =
                async |browser: &str, at: &str| of_browser(store, digest(browser), &upstream(at), None).await.unwrap();
            assert_eq!(found("a", "notes").await.as_ref(), Some(&*first));
            assert_eq!((found("b", "notes").await, found("a", "note").await), (None, None));
            verify(store).await;
        }
    }

    #[tokio::test]
    async fn a_link_is_done_once_its_connection_is_made_and_never_opens_twice() {
        let place = Place::memory().await;
        let store = &place.store;
        let (one, two) = (link(&place, 1, "ci"), link(&place, 2, "ci"));
        open(store, &one, digest("a")).await.unwrap();
        assert_eq!(done(store, digest("b"), &key("ci"), &upstream("notes")).await.unwrap(), 0);
        assert_eq!(done(store, digest("a"), &key("cd"), &upstream("notes")).await.unwrap(), 0);
        assert_eq!(done(store, digest("a"), &key("ci"), &upstream("tracker")).await.unwrap(), 0);
        assert_eq!(done(store, digest("a"), &key("ci"), &upstream("notes")).await.unwrap(), 1);
        assert_eq!(done(store, digest("a"), &key("ci"), &upstream("notes")).await.unwrap(), 0);
        assert!(matches!(open(store, &one, digest("a")).await.unwrap(), Opened::Again(link) if link.is_done));
        assert_eq!(open(store, &one, digest("b")).await.unwrap(), Opened::Taken);
        // Another one of the same browser comes before what is done.
        open(store, &two, digest("a")).await.unwrap();
        let found = of_browser(store, digest("a"), &upstream("notes"), None).await.unwrap().unwrap();
        assert_eq!((found.id, found.is_done), (two.id, false));
        verify(store).await;
    }

    #[tokio::test]
    async fn what_is_too_old_opens_nothing_and_leaves_nothing() {
        let place = Place::memory().await;
        let store = &place.store;
        let (used, unused) = (link(&place, 1, "ci"), link(&place, 2, "ci"));
        place.forward(LIFE - Duration::from_millis(1));
        assert!(matches!(open(store, &used, digest("a")).await.unwrap(), Opened::First(_)));
        place.forward(Duration::from_millis(1));
        assert_eq!(open(store, &unused, digest("a")).await.unwrap(), Opened::Expired);
        // Whoever opened one has the time that it takes.
        assert!(of_browser(store, digest("a"), &upstream("notes"), None).await.unwrap().is_some());
        place.forward(PATIENCE);
        assert_eq!(of_browser(store, digest("a"), &upstream("notes"), None).await.unwrap(), None);
        while place.sweep().await > 0 {}
        assert_eq!(store.read(|tx| rows(tx, Table::Links)).await.unwrap(), []);
        assert_eq!(open(store, &used, digest("b")).await.unwrap(), Opened::Expired);
        verify(store).await;
    }

    #[tokio::test]
    async fn each_principal_has_so_many_and_no_more() {
        let place = Place::memory().await;
        let store = &place.store;
        for number in 0..MAX_OF_ONE {
            let opened = open(store, &link(&place, number, "ci"), digest("a")).await.unwrap();
            assert!(matches!(opened, Opened::First(_)), "{opened:?}");
        }
        assert_eq!(open(store, &link(&place, MAX_OF_ONE, "ci"), digest("a")).await.unwrap(), Opened::TooMany);
        assert!(matches!(open(store, &link(&place, 999, "ci2"), digest("a")).await.unwrap(), Opened::First(_)));
        verify(store).await;
    }

    #[tokio::test]
    async fn of_64_browsers_that_open_one_link_one_has_it() {
        for place in engines().await {
            let link = link(&place, 1, "ci");
            let mut browsers = JoinSet::new();
            for number in 0..64 {
                let (store, link) = (place.store.clone(), link.clone());
                browsers.spawn(async move { open(&store, &link, digest(&number.to_string())).await.unwrap() });
            }
            let answers = browsers.join_all().await;
            assert_eq!(answers.iter().filter(|answer| matches!(answer, Opened::First(_))).count(), 1);
            assert_eq!(answers.iter().filter(|answer| **answer == Opened::Taken).count(), 63);
        }
    }
}
