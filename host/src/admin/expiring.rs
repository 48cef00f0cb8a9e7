//! What ends soon: virtual keys, operators' API tokens, and what the listeners show over TLS.
//!
//! Keys and certificates are in memory. Tokens are in no index by their end, so that a bounded number of them is looked at,
//! the newest first; whoever asks is told whether that was all.

use std::sync::PoisonError;
use std::time::Duration;

use super::Control;
use crate::env::Timestamp;
use crate::identity::key::Standing;
use crate::ids::{ApiTokenId, KeyName, UserId};
use crate::store::table::MAX_PAGE;
use crate::store::{Cursor, StoreError, api_tokens};

/// Pages of tokens that are looked at.
const PAGES: usize = 5;

/// What ends soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// The soonest first.
    pub items: Vec<Expiry>,
    /// Whether everything was looked at.
    pub is_whole: bool,
}

/// Something that ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    pub what: Ending,
    pub at: Timestamp,
}

/// What ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Key(KeyName),
    ApiToken {
        id: ApiTokenId,
        name: String,
    },
    /// Of this listener. One that has ended already is among them, since it is still shown.
    Certificate(&'static str),
}

impl Control {
    /// What ends within this time from now; of API tokens only those of one user, if one is given.
    ///
    /// # Errors
    /// The store's.
    pub async fn expiring(&self, within: Duration, whose: Option<UserId>) -> Result<Expiring, StoreError> {
        let now = self.env.now();
        let until = now.after(within);
        let mut items = self.expiring_keys(now, until);
        let (tokens, is_whole) = self.expiring_tokens((now, until), whose).await?;
        items.extend(tokens);
        let certificates = self.certificates.expiries().filter_map(|(listener, at)| Some((listener, at?)));
        let soon = certificates.filter(|(_, at)| *at <= until);
        items.extend(soon.map(|(listener, at)| Expiry { what: Ending::Certificate(listener), at }));
        items.sort_by_key(|expiry| expiry.at);
        Ok(Expiring { items, is_whole })
    }

    fn expiring_keys(&self, now: Timestamp, until: Timestamp) -> Vec<Expiry> {
        let known = self.known_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let enabled = known.file.iter().chain(&known.stored).filter(|key| key.standing == Standing::Enabled);
        let ends = enabled.filter_map(|key| Some((&key.name, key.expires.filter(|at| now < *at && *at <= until)?)));
        ends.map(|(name, at)| Expiry { what: Ending::Key(name.clone()), at }).collect()
    }

    /// Also whether these are all.
    async fn expiring_tokens(
        &self,
        (now, until): (Timestamp, Timestamp),
        whose: Option<UserId>,
    ) -> Result<(Vec<Expiry>, bool), StoreError> {
        let mut found = Vec::new();
        let mut after: Option<Cursor> = None;
        for _ in 0..PAGES {
            let page = api_tokens::list(&self.store, whose.clone(), after, MAX_PAGE).await?;
            let ends = page.items.into_iter().filter_map(|token| {
                let at = token.expires.filter(|at| now < *at && *at <= until)?;
                Some(Expiry { what: Ending::ApiToken { id: token.id, name: token.name.to_string() }, at })
            });
            found.extend(ends);
            after = page.next;
            if after.is_none() {
                return Ok((found, true));
            }
        }
        Ok((found, false))
    }
}
