//! The tools of an upstream: their definitions, and how each stands to what was agreed to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Control;
use super::pins::{PinView, offered_tools};
use crate::ids::UpstreamName;
use crate::store::{StoreError, pins as stored};
use crate::upstream::catalog::ToolDefinition;

/// A page ends with the definition that brings it to so many bytes.
const PAGE_BYTES: usize = 1 << 20;

/// A tool that an upstream offers, or that was agreed to and is not offered now.
#[derive(Clone, Debug)]
pub struct ToolView {
    pub pin: PinView,
    /// What is offered now. Of one name with several definitions, the one that nobody agreed to.
    pub offered: Option<Arc<ToolDefinition>>,
    /// JSON text of what was agreed to, where that is not what is offered; `None` as well where it was too large to be kept.
    pub agreed: Option<String>,
}

/// Some tools of an upstream, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    pub items: Vec<ToolView>,
    pub has_more: bool,
}

impl Control {
    /// Tools of an upstream with names after `after`: at most `limit` of those that `keep` keeps, and fewer where definitions
    /// are large. One that does not run has none.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn tools(
        &self,
        upstream: &UpstreamName,
        after: Option<&str>,
        limit: usize,
        keep: impl Fn(&PinView) -> bool,
    ) -> Result<Tools, StoreError> {
        let Some(running) = self.snapshot.load().upstreams.get(upstream).cloned() else { return Ok(Tools::default()) };
        let mut offered: BTreeMap<String, Arc<ToolDefinition>> = BTreeMap::new();
        for tool in offered_tools(&running, self.pinned.of(upstream).as_deref()) {
            offered.entry(tool.name.clone()).or_insert(tool);
        }
        let is_behind = |pin: &PinView| after.is_none_or(|after| pin.tool.as_str() > after);
        let pins = self.pins_of(upstream, &running).into_iter().filter(|pin| is_behind(pin) && keep(pin));
        let (mut items, mut bytes) = (Vec::new(), 0);
        for pin in pins {
            if items.len() == limit || bytes >= PAGE_BYTES {
                return Ok(Tools { items, has_more: true });
            }
            let offered = offered.remove(&pin.tool);
            let agreed = self.agreed(upstream, &pin).await?;
            bytes += offered.as_ref().map_or(0, |offered| offered.text().get().len());
            bytes += agreed.as_ref().map_or(0, String::len);
            items.push(ToolView { pin, offered, agreed });
        }
        Ok(Tools { items, has_more: false })
    }

    /// What was agreed to of a tool that is not offered like that.
    async fn agreed(&self, upstream: &UpstreamName, pin: &PinView) -> Result<Option<String>, StoreError> {
        let is_other = pin.pinned.as_ref().is_some_and(|pinned| pin.offered.as_ref() != Some(&pinned.digest));
        if !is_other {
            return Ok(None);
        }
        Ok(stored::get(&self.store, upstream, &pin.tool).await?.and_then(|(_, text)| text))
    }
}
