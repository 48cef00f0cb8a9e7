//! How the gateway itself hears that an upstream's lists changed: on the GET stream of its own session, or by
//! `subscriptions/listen`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Inner;
use super::detect::Dialect;
use super::session::{Carrier, Session};
use super::subscription::{Heard, Listening};
use super::watch::{FIRST_PAUSE, LAST_PAUSE};
use crate::mcp::revision::{About, Filter};
use crate::mcp::talk::Party;
use crate::upstream::UpstreamError;

/// Longest wait until a stream is agreed to.
const AGREE_TIMEOUT: Duration = Duration::from_secs(30);
/// After a stream of this length the next one is opened without a pause of note.
const HEALTHY_LIFE: Duration = Duration::from_secs(10);

impl Inner {
    /// Listens again and again, until it turns out that there is nothing to listen to.
    pub(super) async fn listen(self: &Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut missed = false;
        loop {
            let began = Instant::now();
            match self.listen_once(&mut missed).await {
                Ok(ControlFlow::Break(())) => return,
                Ok(ControlFlow::Continue(())) => {}
                Err(error) => tracing::debug!(%error, "changes of an upstream's lists are not heard of"),
            }
            if began.elapsed() >= HEALTHY_LIFE {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Listens until a stream ends. `missed`: whether changes may have been missed since the last one.
    async fn listen_once(self: &Arc<Self>, missed: &mut bool) -> Result<ControlFlow<()>, UpstreamError> {
        let party = self.peer.own.party().await?;
        let about = self.about(&party).await?;
        if !about.capabilities.any_list_changed() {
            return Ok(ControlFlow::Break(()));
        }
        if self.found(party.lent.as_ref()).await?.dialect == Dialect::Modern {
            return self.listen_modern(&party, &about, missed).await;
        }
        let session = self.session(&party).await.map_err(|failed| failed.error)?;
        Ok(listen_legacy(&session, missed).await)
    }

    async fn listen_modern(
        &self,
        party: &Party,
        about: &About,
        missed: &mut bool,
    ) -> Result<ControlFlow<()>, UpstreamError> {
        let filter = Filter {
            tools: about.capabilities.tools_list_changed,
            prompts: about.capabilities.prompts_list_changed,
            resources: about.capabilities.resources_list_changed,
            uris: Vec::new(),
        };
        let opened = tokio::time::timeout(AGREE_TIMEOUT, Listening::open(&self.peer, party, &filter)).await;
        let mut listening = match opened.unwrap_or(Err(UpstreamError::TimedOut { after: AGREE_TIMEOUT })) {
            Err(UpstreamError::Unsupported { .. }) => return Ok(ControlFlow::Break(())),
            opened => opened?,
        };
        if listening.granted == Filter::default() {
            return Ok(ControlFlow::Break(()));
        }
        if std::mem::replace(missed, true) {
            self.peer.signals.stale.notify_one();
        }
        while let Some(heard) = listening.next().await? {
            match heard {
                Heard::ListChanged => self.peer.signals.stale.notify_one(),
                Heard::ResourceUpdated(_) => {}
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Keeps the gateway's session and its stream; what comes on it finds its way by itself.
async fn listen_legacy(session: &Arc<Session>, missed: &mut bool) -> ControlFlow<()> {
    let _hold = session.hold();
    session.desk().hears = true;
    session.keep_stream();
    if std::mem::replace(missed, true) {
        session.peer.signals.stale.notify_one();
    }
    loop {
        let changed = session.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if matches!(session.carrier, Carrier::Streamable { .. }) && session.peer.is_streamless() {
            return ControlFlow::Break(());
        }
        tokio::select! {
            () = changed => {}
            () = session.over.cancelled() => return ControlFlow::Continue(()),
        }
    }
}
