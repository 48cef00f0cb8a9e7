//! What policies were asked, word for word: whoever reads it is written down first.

use super::Control;
use crate::audit::{Actor, AuditEvent};
use crate::store::recordings::{self as stored, Filter, Question, Recording};
use crate::store::{Cursor, Page, StoreError, audit};

impl Control {
    /// What one decision's policies were asked, if it was recorded.
    pub async fn recording(&self, decision: &str, actor: Actor) -> Result<Option<Recording>, StoreError> {
        let recording = stored::get(&self.store, &self.secret, decision).await?;
        if let Some(recording) = &recording {
            let event = AuditEvent::RecordingRead { decision: recording.decision.clone() };
            audit::record(&self.store, actor, event).await?;
        }
        Ok(recording)
    }

    /// A page of the recorded questions, newest first, each with the id of its decision.
    pub async fn recordings(
        &self,
        filter: Filter,
        after: Option<Cursor>,
        limit: usize,
        actor: Actor,
    ) -> Result<Page<(String, Question)>, StoreError> {
        let page = stored::list(&self.store, &self.secret, &filter, after.as_ref(), limit).await?;
        if !page.items.is_empty() {
            let Filter { binding, hook } = filter;
            let policy = binding.map(|binding| binding.to_string());
            let event = AuditEvent::RecordingsRead { policy, hook, questions: page.items.len() as u64 };
            audit::record(&self.store, actor, event).await?;
        }
        Ok(page)
    }
}
