//! How much of the gateway one principal may take at once: calls, and streams that stay open (threat H7).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Limits;
use crate::http::error::Refused;
use crate::ids::Principal;
use crate::mcp::error::{RpcError, THROTTLED};
use crate::mcp::message::RequestId;

/// Principals that are counted at once.
const MAX_COUNTED_PRINCIPALS: u64 = 100_000;
/// What a caller is told to wait when it has too many calls under way.
const CALL_RETRY: Duration = Duration::from_secs(1);
/// The same for streams, which rarely end.
const STREAM_RETRY: Duration = Duration::from_secs(10);

/// A place among a principal's calls, held until it is dropped.
pub(super) type CallPlace = OwnedSemaphorePermit;

/// A place among all streams and among the principal's own, held until it is dropped.
#[derive(Debug)]
pub(super) struct StreamPlace {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// Whose places are taken: a principal's. Those who present nothing are many, and are told from one another by where they
/// call from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payer<'a> {
    principal: &'a Principal,
    network: Option<IpAddr>,
}

impl<'a> Payer<'a> {
    pub(super) fn of(principal: &'a Principal, address: Option<IpAddr>) -> Self {
        Self { principal, network: address.filter(|_| *principal == Principal::Anonymous).map(network) }
    }
}

/// What one household or machine has: an address, or all of IPv6 that is given out as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// The places of all principals.
pub(super) struct Places {
    own: Cache<Principal, Arc<Own>>,
    /// Of those who present nothing, by where they call from.
    strangers: Cache<IpAddr, Arc<Own>>,
    calls_per_principal: usize,
    streams_per_principal: usize,
    streams: Arc<Semaphore>,
}

struct Own {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    passages: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            own: Cache::builder().max_capacity(MAX_COUNTED_PRINCIPALS).build(),
            strangers: Cache::builder().max_capacity(MAX_COUNTED_PRINCIPALS).build(),
            calls_per_principal: limits.calls_per_principal.min(Semaphore::MAX_PERMITS),
            streams_per_principal: limits.streams_per_principal.min(Semaphore::MAX_PERMITS),
            streams: Arc::new(Semaphore::new(limits.streams.min(Semaphore::MAX_PERMITS))),
        }
    }

    fn own(&self, payer: Payer<'_>) -> Arc<Own> {
        let begin = || {
            let calls = Arc::new(Semaphore::new(self.calls_per_principal));
            let streams = Arc::new(Semaphore::new(self.streams_per_principal));
            let passages = Arc::new(Semaphore::new(self.calls_per_principal));
            Arc::new(Own { calls, streams, passages })
        };
        match payer.network {
            Some(network) => self.strangers.get_with(network, begin),
            None => self.own.get_with_by_ref(payer.principal, begin),
        }
    }

    /// Streams that may still be opened.
    pub(super) fn free_streams(&self) -> usize {
        self.streams.available_permits()
    }

    /// A place among the principal's calls; 429 if it has too many under way.
    pub(super) fn call(&self, payer: Payer<'_>, id: Option<&RequestId>) -> Result<CallPlace, Refused> {
        let place = self.own(payer).calls.clone().try_acquire_owned();
        place.map_err(|_| too_many(id))
    }

    /// A place for a message that goes to another replica and is no call, such as a notification; 429 if as many of the
    /// principal's are on their way as it may have calls.
    pub(super) fn passage(&self, payer: Payer<'_>) -> Result<CallPlace, Refused> {
        let place = self.own(payer).passages.clone().try_acquire_owned();
        place.map_err(|_| too_many(None))
    }

    /// A place for a stream that stays open; 429 if the principal has too many, 503 if there are too many in all.
    pub(super) fn stream(&self, payer: Payer<'_>, id: Option<&RequestId>) -> Result<StreamPlace, Refused> {
        let refuse = |status, message: &str| {
            Refused::rpc(status, id, &RpcError::new(THROTTLED, message)).retry_after(STREAM_RETRY)
        };
        let own = self.own(payer).streams.clone().try_acquire_owned();
        let own = own.map_err(|_| refuse(StatusCode::TOO_MANY_REQUESTS, "too many streams are open"))?;
        let all = self.streams.clone().try_acquire_owned();
        let all = all.map_err(|_| refuse(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open"))?;
        Ok(StreamPlace { _own: own, _all: all })
    }
}

fn too_many(id: Option<&RequestId>) -> Refused {
    let error = RpcError::new(THROTTLED, "too many requests at once");
    Refused::rpc(StatusCode::TOO_MANY_REQUESTS, id, &error).retry_after(CALL_RETRY)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;
    use crate::http::mcp::testing::{key, limits};

    #[test]
    fn places_are_bounded_for_each_and_for_all() {
        let places = Places::new(&Limits { calls_per_principal: 1, streams_per_principal: 2, streams: 3, ..limits() });
        let (ann, bob) = (key("ann"), key("bob"));
        let (ann, bob) = (Payer::of(&ann, None), Payer::of(&bob, None));
        let status = |refused: Refused| {
            let response = refused.into_response();
            assert!(response.headers().contains_key("retry-after"));
            response.status().as_u16()
        };
        let call = places.call(ann, None).ok();
        assert_eq!(places.call(ann, None).err().map(status), Some(429));
        assert!(places.call(bob, None).is_ok(), "each has its own");
        drop(call);
        assert!(places.call(ann, None).is_ok());

        let passage = places.passage(ann).ok().unwrap();
        assert_eq!(places.passage(ann).err().map(status), Some(429));
        assert!(places.passage(bob).is_ok() && places.call(ann, None).is_ok());
        drop(passage);
        assert!(places.passage(ann).is_ok());

        let streams: Vec<StreamPlace> = (0..2).map(|_| places.stream(ann, None).ok().unwrap()).collect();
        assert_eq!(places.stream(ann, None).err().map(status), Some(429));
        let last = places.stream(bob, None).ok();
        assert!(last.is_some());
        assert_eq!(places.stream(bob, None).err().map(status), Some(503));
        drop(streams);
        assert!(places.stream(bob, None).is_ok());
    }
    #[test]
    fn those_who_present_nothing_do_not_take_each_others_places() {
        let places = Places::new(&Limits { calls_per_principal: 1, ..limits() });
        let is_free = |principal: &Principal, address: &str| {
            places.call(Payer::of(principal, Some(address.parse().unwrap())), None).is_ok()
        };
        let nobody = Principal::Anonymous;
        let _place = places.call(Payer::of(&nobody, Some("2001:db8::1".parse().unwrap())), None).ok().unwrap();
        assert!(!is_free(&nobody, "2001:db8::2"), "of the same network");
        assert!(is_free(&nobody, "2001:db8:0:1::1") && is_free(&nobody, "192.0.2.1"));
        let _place = places.call(Payer::of(&nobody, Some("192.0.2.1".parse().unwrap())), None).ok().unwrap();
        assert!(
            !is_free(&nobody, "192.0.2.1") && !is_free(&nobody, "::ffff:192.0.2.1") && is_free(&nobody, "192.0.2.2")
        );
        let ann = key("ann");
        let _place = places.call(Payer::of(&ann, Some("192.0.2.1".parse().unwrap())), None).ok().unwrap();
        assert!(!is_free(&ann, "192.0.2.2"), "a key's are its own, wherever it calls from");
    }
}
