//! Lists of people's own: when they are to be looked at again, and who hears that they have changed. Who keeps something open
//! at an upstream hears here that their connection has changed.

use std::sync::Arc;

use super::Control;
use crate::connection::Holder;
use crate::ids::{Owner, Principal, UpstreamName, UserId};
use crate::store::changes::Change;
use crate::upstream::Upstream;

impl Control {
    /// Passes on whose lists of an upstream have changed, as long as the upstream is ours.
    pub(super) async fn tell_of_lists(self: Arc<Self>, upstream: Arc<Upstream>) {
        while let Some(whose) = upstream.own_changed().await {
            self.lists_told.tell(whose);
        }
    }

    /// Has lists looked at again whose connections may have changed. Whoever keeps the credentials has heard of it before.
    pub(super) fn forget_lists(&self, change: &Change) {
        match change {
            Change::Connection { principal, upstream } => {
                if let (Some(Holder::Of(principal)), Ok(upstream)) =
                    (Holder::parse(principal), UpstreamName::parse(upstream))
                    && let Some(upstream) = self.snapshot.load().upstreams.get(&upstream)
                {
                    upstream.forget_own_of(&principal);
                }
            }
            Change::User { id } => {
                if let Some(user) = UserId::parse(id).map(Principal::User) {
                    self.forget_lists_of(|principal| *principal == user);
                }
            }
            Change::DataKey { owner } => {
                if let Some(Owner::Principal(holder)) = Owner::parse(owner) {
                    self.forget_lists_of(|principal| *principal == holder);
                }
            }
            Change::Vault | Change::Upstreams => self.forget_all_lists(),
            // Whoever may not use an upstream sees nothing of it, whatever is known.
            Change::Keys
            | Change::Policies { .. }
            | Change::Pins { .. }
            | Change::Grant { .. }
            | Change::Client { .. }
            | Change::ApiTokens
            | Change::SigningKeys
            | Change::PolicyBindings
            | Change::Watermark { .. } => {}
        }
    }

    /// Tells whoever keeps something open at an upstream that it may be lent something else there, or nothing. Whoever keeps the
    /// credentials has heard of it before.
    pub(super) fn tell_of_connections(&self, change: &Change) {
        let holder = match change {
            Change::Connection { principal, upstream } => {
                if let (Some(holder), Ok(upstream)) = (Holder::parse(principal), UpstreamName::parse(upstream))
                    && let Some(upstream) = self.snapshot.load().upstreams.get(&upstream)
                {
                    upstream.connection_changed(Some(&holder));
                }
                return;
            }
            Change::User { id } => UserId::parse(id).map(|user| Holder::Of(Principal::User(user))),
            Change::DataKey { owner } => match Owner::parse(owner) {
                Some(Owner::Principal(holder)) => Some(Holder::Of(holder)),
                _ => None,
            },
            Change::Keys | Change::Vault | Change::Upstreams => None,
            Change::Policies { .. }
            | Change::Pins { .. }
            | Change::Grant { .. }
            | Change::Client { .. }
            | Change::ApiTokens
            | Change::SigningKeys
            | Change::PolicyBindings
            | Change::Watermark { .. } => return,
        };
        self.tell_all_of_connections(holder.as_ref());
    }

    /// The same at all upstreams, of one holder or of all.
    pub(super) fn tell_all_of_connections(&self, holder: Option<&Holder>) {
        for upstream in self.snapshot.load().upstreams.values() {
            upstream.connection_changed(holder);
        }
    }

    pub(super) fn forget_all_lists(&self) {
        self.forget_lists_of(|_| true);
    }

    fn forget_lists_of(&self, is_theirs: impl Fn(&Principal) -> bool) {
        for upstream in self.snapshot.load().upstreams.values() {
            upstream.forget_own(&is_theirs);
        }
    }
}
