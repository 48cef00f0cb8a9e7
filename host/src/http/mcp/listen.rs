//! `subscriptions/listen` (2026-07-28, patterns/subscriptions): a stream of changes that a caller asked to hear of,
//! until it leaves or we end.

use std::sync::Arc;

use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::fanout::{Kinds, Listening};
use super::modern::party;
use super::places::StreamPlace;
use super::reply::{Gone, KEEP_ALIVE, Pieces, event_stream};
use super::stays::{Stay, Until};
use super::watches::{Reserved, Watches};
use super::work::EVENT_QUEUE;
use super::{From, Mcp};
use crate::http::error::Refused;
use crate::mcp::client::Client;
use crate::mcp::message::{self, RequestId};
use crate::mcp::revision::v2026_07_28::{acknowledged, end_of_listening, list_changed, listened};
use crate::mcp::revision::{Filter, Revision};
use crate::mcp::sse;
use crate::mcp::talk::Event;
use crate::pipeline::{self, Origin};

/// Resources that one stream begins to watch at once.
const CONCURRENT_WATCHES: usize = 8;

/// Answers with the stream.
pub(super) fn open(
    mcp: &Arc<Mcp>,
    from: &From<'_>,
    id: RequestId,
    client: Arc<Client>,
    filter: Filter,
) -> Result<Response, Refused> {
    let place = mcp.places.stream(from.payer(), Some(&id))?;
    let (events, inbox) = mpsc::channel(EVENT_QUEUE);
    let origin = from.origin(Revision::V2026_07_28, party(from, client, None), events, mcp.closing.child_token());
    let (pieces, body) = Pieces::new(mcp.settings.limits.stall_timeout);
    let subscription = Subscription { mcp: mcp.clone(), id, origin: Arc::new(origin), pieces };
    mcp.tasks.spawn(subscription.run(filter, inbox, place));
    Ok(event_stream(body))
}

struct Subscription {
    mcp: Arc<Mcp>,
    /// Of the request that opened the stream; every message names it.
    id: RequestId,
    origin: Arc<Origin>,
    pieces: Pieces,
}

impl Subscription {
    async fn run(self, filter: Filter, inbox: mpsc::Receiver<Event>, place: StreamPlace) {
        tokio::select! {
            () = self.pieces.closed() => {}
            _ = self.tell(filter, inbox) => {}
        }
        self.origin.cancelled.cancel();
        drop(place);
    }

    async fn tell(&self, filter: Filter, mut inbox: mpsc::Receiver<Event>) -> Result<(), Gone> {
        let kinds = Kinds { tools: filter.tools, prompts: filter.prompts, resources: filter.resources };
        let watches = Arc::new(Watches::default());
        let caller = &self.origin.caller;
        let stay = Stay::begin(&self.mcp, &caller.principal, caller.pass.as_ref(), Until::Left);
        let listening = Listening::begin(&self.mcp, self.origin.clone(), kinds, watches.clone());
        let Some(granted) = self.mcp.closing.run_until_cancelled(self.watch(filter, &watches)).await else {
            return self.end().await;
        };
        self.send(&acknowledged(&self.id, &granted)).await?;
        loop {
            tokio::select! {
                biased;
                () = self.mcp.closing.cancelled() => break,
                () = stay.over() => break,
                kind = listening.change() => self.send(&list_changed(&self.id, kind)).await?,
                Some(event) = inbox.recv() => {
                    // What an upstream asks here is dropped: nobody can answer on this stream.
                    if let Event::Notice(notice) = event && let Some(message) = listened(&self.id, &notice) {
                        self.send(&message).await?;
                    }
                }
                () = tokio::time::sleep(KEEP_ALIVE) => self.pieces.send(sse::KEEP_ALIVE).await?,
            }
        }
        watches.end_all();
        self.end().await
    }

    /// Watches what can be watched: what is granted of the filter.
    async fn watch(&self, filter: Filter, watches: &Arc<Watches>) -> Filter {
        // There are no more of them than one listener may have.
        let reserved: Vec<Reserved> =
            filter.uris.iter().filter_map(|uri| watches.reserve(uri).ok().flatten()).collect();
        let snapshot = self.mcp.snapshot.load_full();
        let one = |reserved: Reserved| {
            let snapshot = &snapshot;
            async move {
                let uri = reserved.uri().to_owned();
                let watch = pipeline::watch(snapshot, &self.mcp.services, &self.origin, &uri).await;
                watch.is_ok_and(|watch| reserved.keep(watch)).then_some(uri)
            }
        };
        let watched = stream::iter(reserved.into_iter().map(one)).buffered(CONCURRENT_WATCHES);
        let uris = watched.filter_map(std::future::ready).collect().await;
        Filter { uris, ..filter }
    }

    async fn send(&self, message: &str) -> Result<(), Gone> {
        self.pieces.send(sse::event(message)).await
    }

    /// The result of the request, which tells that the end is meant (§ graceful closure).
    async fn end(&self) -> Result<(), Gone> {
        self.send(&message::result(&self.id, &end_of_listening(&self.id))).await
    }
}
