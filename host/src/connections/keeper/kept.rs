//! Credentials in memory: unsealed, for a while, and never longer than what they were read from stands.
//!
//! Whoever reads one from the store asks for the [`Generation`] of its place first, and keeps it under that: if its place was
//! told of in between, what was read may be what was there before, and is not kept. What goes out of use is
//! overwritten, since header values are made of memory that is.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use moka::sync::Cache;
use zeroize::Zeroizing;

use crate::connection::lending::Lent;
use crate::connection::{Origin, Place};
use crate::env::Timestamp;
use crate::identity::TokenList;

/// Credentials that are kept at once, if none is large.
const MAX_KEPT: u64 = 4_096;
/// What counts as one of them, in bytes of values.
const UNIT: usize = 4 * 1024;
/// How long one is kept that nobody changes.
const LIFE: Duration = Duration::from_secs(5 * 60);
/// Places that share a generation, roughly: one in so many.
const STRIPES: usize = 1_024;

/// A credential that was opened and works as far as is known.
#[derive(Debug)]
pub(super) struct Opened {
    /// With all headers, or variables, that there are values for.
    pub(super) lent: Arc<Lent>,
    pub(super) of: Of,
    /// What it was made for, if that is known.
    pub(super) origin: Option<Origin>,
    /// When its secrets were stored.
    pub(super) stored: Timestamp,
}

#[derive(Debug)]
pub(super) enum Of {
    OAuth {
        issuer: String,
        scopes: TokenList,
        expires: Option<Timestamp>,
        /// Whether there is a refresh token.
        is_renewable: bool,
    },
    Headers {
        /// Headers that lists show as missing already.
        told: Vec<String>,
    },
}

impl Opened {
    fn weight(&self) -> u32 {
        let headers = self.lent.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        let variables = self.lent.variables.iter().map(|(name, value)| name.len() + value.expose().len());
        let bytes: usize = headers.chain(variables).sum();
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1)
    }
}

/// A value of a header that does not print itself and is overwritten once nobody uses it. `None` if it is no such value.
pub(super) fn sensitive(parts: &[&str]) -> Option<HeaderValue> {
    let mut text = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| text.extend_from_slice(part.as_bytes()));
    if !text.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return None;
    }
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The name of a header of a request, in lower case.
pub(super) fn header_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_lowercase(name.as_bytes()).ok()
}

/// What was told of a place up to some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Generation(u64);

/// Credentials by their places.
pub(super) struct Kept {
    cache: Cache<Place, Arc<Opened>>,
    /// Each counts what was told of its places.
    told: Box<[Mutex<u64>]>,
    hasher: RandomState,
}

impl Kept {
    pub(super) fn new() -> Self {
        let weigh = |_: &Place, opened: &Arc<Opened>| opened.weight();
        let cache = Cache::builder().max_capacity(MAX_KEPT).weigher(weigh).time_to_live(LIFE).build();
        Self { cache, told: (0..STRIPES).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    pub(super) fn get(&self, place: &Place) -> Option<Arc<Opened>> {
        self.cache.get(place)
    }

    /// Before a credential is read from the store.
    pub(super) fn generation(&self, place: &Place) -> Generation {
        Generation(*self.stripe(place))
    }

    /// Keeps a credential that was read after `as_of`, unless its place was told of since.
    pub(super) fn keep(&self, place: &Place, opened: Arc<Opened>, as_of: Generation) {
        let told = self.stripe(place);
        if *told == as_of.0 {
            self.cache.insert(place.clone(), opened);
        }
    }

    /// Something has changed at this place.
    pub(super) fn forget(&self, place: &Place) {
        let mut told = self.stripe(place);
        *told += 1;
        self.cache.invalidate(place);
    }

    /// Something has changed at all places like this, also at those that are being read.
    pub(super) fn forget_all(&self, is_like: impl Fn(&Place) -> bool) {
        for stripe in &self.told {
            *stripe.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        // What is put in from now on was read after the change.
        for (place, _) in &self.cache {
            if is_like(&place) {
                self.cache.invalidate(place.as_ref());
            }
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.cache.run_pending_tasks();
        self.cache.entry_count()
    }

    fn stripe(&self, place: &Place) -> MutexGuard<'_, u64> {
        let hash = usize::try_from(self.hasher.hash_one(place) % STRIPES as u64).unwrap_or_default();
        self.told[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Holder;
    use crate::ids::{ConnectionId, KeyName, Principal, UpstreamName};

    fn place(number: usize) -> Place {
        let key = KeyName::parse(&number.to_string()).unwrap();
        Place { holder: Holder::Of(Principal::Key(key)), upstream: UpstreamName::parse("notes").unwrap() }
    }

    fn opened(place: &Place, bytes: usize) -> Arc<Opened> {
        let value = sensitive(&[&"x".repeat(bytes)]).unwrap();
        let connection = ConnectionId::parse(&"0a".repeat(12)).unwrap();
        let headers = vec![(header_name("x-api-key").unwrap(), value)];
        let lent = Arc::new(Lent {
            place: place.clone(),
            connection,
            revision: 1,
            given: 1,
            scopes: Vec::new(),
            headers,
            variables: Vec::new(),
        });
        Arc::new(Opened { lent, of: Of::Headers { told: Vec::new() }, origin: None, stored: Timestamp::default() })
    }

    #[test]
    fn a_racing_read_never_brings_back_what_was_there_before() {
        let kept = Kept::new();
        let here = place(1);
        let as_of = kept.generation(&here);
        kept.forget(&here);
        kept.keep(&here, opened(&here, 1), as_of);
        assert!(kept.get(&here).is_none(), "it was read before the change");
        let as_of = kept.generation(&here);
        kept.forget_all(|_| false);
        kept.keep(&here, opened(&here, 1), as_of);
        assert!(kept.get(&here).is_none(), "nobody knows which places those are that are being read");
        kept.keep(&here, opened(&here, 1), kept.generation(&here));
        assert!(kept.get(&here).is_some());
        kept.forget(&here);
        assert!(kept.get(&here).is_none());
    }

    #[test]
    fn all_like_this_are_forgotten_and_no_others() {
        let kept = Kept::new();
        for number in 0..100 {
            let here = place(number);
            kept.keep(&here, opened(&here, 1), kept.generation(&here));
        }
        kept.forget_all(|of| *of == place(7));
        for number in 0..100 {
            assert_eq!(kept.get(&place(number)).is_some(), number != 7);
        }
    }

    #[test]
    fn credentials_in_memory_are_bounded_in_number_and_weight() {
        let kept = Kept::new();
        for number in 0..3 * usize::try_from(MAX_KEPT).unwrap() {
            let here = place(number);
            kept.keep(&here, opened(&here, 10), kept.generation(&here));
        }
        assert!(kept.count() <= MAX_KEPT, "{}", kept.count());
        let kept = Kept::new();
        for number in 0..500 {
            let here = place(number);
            kept.keep(&here, opened(&here, 100 * UNIT), kept.generation(&here));
        }
        assert!(kept.count() <= MAX_KEPT / 100, "{}", kept.count());
    }

    #[test]
    fn a_value_does_not_print_itself_and_is_visible_ascii() {
        let value = sensitive(&["Bearer ", "hunter2"]).unwrap();
        assert_eq!((value.to_str().unwrap(), value.is_sensitive()), ("Bearer hunter2", true));
        assert!(!format!("{value:?}").contains("hunter2"));
        for bad in ["a\r\nb: c", "a\nb", "a\0", "ä", "\u{7f}", "a\tb"] {
            assert!(sensitive(&["Bearer ", bad]).is_none(), "{bad:?}");
        }
        assert!(header_name("x-api-key").is_some());
        for bad in ["X-Api-Key", "x api", "x:y", "", "x\r\n"] {
            assert!(header_name(bad).is_none(), "{bad:?}");
        }
    }
}
