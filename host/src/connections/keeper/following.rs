//! What the keeper hears of changes: what is in memory goes as soon as something of it may be otherwise.

use futures_util::future::BoxFuture;

use super::Keeper;
use crate::connection::{Holder, Place};
use crate::ids::{Owner, Principal, UpstreamName, UserId};
use crate::store::StoreError;
use crate::store::changes::{Change, News};
use crate::store::follower::Subscriber;

impl Subscriber for Keeper {
    fn take<'a>(&'a self, news: &'a News) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async {
            match news {
                News::Changes { changes, .. } => changes.iter().for_each(|change| self.hear(change)),
                News::Everything { .. } => self.forget_all(|_| true),
            }
            // Whoever waits for another gateway looks again.
            self.0.told.send_modify(|told| *told = told.wrapping_add(1));
            Ok(())
        })
    }
}

impl Keeper {
    /// What is kept counts first, so that whoever keeps something meanwhile notices.
    fn forget_all(&self, is_like: impl Fn(&Place) -> bool) {
        self.0.kept.forget_all(&is_like);
        self.0.exchanging.forget_all(&is_like);
    }

    fn hear(&self, change: &Change) {
        match change {
            Change::Connection { principal, upstream } => {
                if let (Some(holder), Ok(upstream)) = (Holder::parse(principal), UpstreamName::parse(upstream)) {
                    self.0.kept.forget(&Place { holder, upstream });
                }
            }
            // Access is asked for each time; what nobody may use is not kept in memory either.
            Change::Keys => self.forget_all(|place| matches!(place.holder, Holder::Of(Principal::Key(_)))),
            Change::User { id } => {
                if let Some(holder) = UserId::parse(id).map(|id| Holder::Of(Principal::User(id))) {
                    self.forget_all(|place| place.holder == holder);
                }
            }
            Change::DataKey { owner } => {
                if let Some(owner) = Owner::parse(owner) {
                    self.forget_all(|place| place.owner() == owner);
                }
            }
            Change::Upstreams | Change::Vault => self.forget_all(|_| true),
            _ => {}
        }
    }
}
