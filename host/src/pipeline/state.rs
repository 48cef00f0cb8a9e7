//! `requestState` as callers see it (2026-07-28, patterns § MRTR): sealed, and good only for the principal, the endpoint,
//! the method and the name it was given for, for a quarter of an hour.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Origin, Refusal, Services};
use crate::env::Timestamp;
use crate::ids::{Principal, UpstreamName};
use crate::mcp::call::Params;

/// Longest state of an upstream that is carried, in bytes.
pub const MAX_UPSTREAM_STATE: usize = 64 * 1024;
/// How long a state is good.
const LIFE: Duration = Duration::from_secs(15 * 60);
const PURPOSE: &str = "request state";

/// What a caller brings back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The request is still under way here and waits for answers.
    Parked { id: u64 },
    /// The upstream's own state, as it gave it.
    Upstream { upstream: UpstreamName, state: Option<String> },
    /// Nothing is under way: the request is simply made again.
    Again,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    /// Milliseconds since the epoch.
    until: u64,
    state: State,
}

/// What a state is good for.
#[derive(Clone, Copy)]
pub struct Purpose<'a> {
    pub principal: &'a Principal,
    /// The one upstream whose endpoint the request was made at, if it was not the common one.
    pub endpoint: Option<&'a UpstreamName>,
    pub method: &'a str,
    /// What the request is about, under the caller's name for it.
    pub name: &'a str,
}

impl<'a> Purpose<'a> {
    pub fn of(origin: &'a Origin, method: &'a str, name: &'a str) -> Self {
        Self { principal: &origin.caller.principal, endpoint: origin.scope.endpoint(), method, name }
    }

    fn binding(&self) -> Vec<u8> {
        let endpoint = self.endpoint.map_or("", UpstreamName::as_str);
        format!("{}\n{endpoint}\n{}\n{}", self.principal, self.method, self.name).into_bytes()
    }
}

/// Seals a state for a caller.
pub fn seal(services: &Services, purpose: &Purpose<'_>, state: State) -> String {
    let until = services.env.now().after(LIFE).as_millis();
    let payload = serde_json::to_vec(&Sealed { until, state }).expect("our own types serialise");
    services.secret.seal(PURPOSE, &purpose.binding(), &payload)
}

/// Opens what a caller brought back.
///
/// # Errors
/// [`Refusal::BadState`], without a word about why.
pub fn open(services: &Services, purpose: &Purpose<'_>, sealed: &str) -> Result<State, Refusal> {
    let payload = services.secret.unseal(PURPOSE, &purpose.binding(), sealed).ok_or(Refusal::BadState)?;
    let Sealed { until, state } = serde_json::from_slice(&payload).map_err(|_| Refusal::BadState)?;
    if services.env.now() < Timestamp::from_millis(until) { Ok(state) } else { Err(Refusal::BadState) }
}

/// Puts in the place of a retry's state what the upstream itself gave. A retry of a request that needs nothing of it becomes
/// a request like any other.
///
/// # Errors
/// [`Refusal::BadState`], also for a request that was under way here and is not any more.
pub(super) fn take_up(
    services: &Services,
    purpose: &Purpose<'_>,
    upstream: &UpstreamName,
    params: &mut Params,
) -> Result<(), Refusal> {
    let Some(retry) = &mut params.retry else { return Ok(()) };
    let Some(sealed) = retry.state.take() else { return Ok(()) };
    match open(services, purpose, &sealed)? {
        State::Upstream { upstream: of, state } if of == *upstream => retry.state = state,
        State::Again => params.retry = None,
        State::Upstream { .. } | State::Parked { .. } => return Err(Refusal::BadState),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::call::Retry;

    #[tokio::test]
    async fn a_state_is_good_for_its_request_and_caller_alone() {
        let services = Services::for_tests().await;
        let ci = Principal::Key(crate::ids::KeyName::parse("ci").unwrap());
        let purpose = Purpose { principal: &ci, endpoint: None, method: "tools/call", name: "notes__add" };
        let state = State::Upstream { upstream: UpstreamName::parse("notes").unwrap(), state: Some("s".into()) };
        let sealed = seal(&services, &purpose, state.clone());
        assert_eq!(open(&services, &purpose, &sealed).unwrap(), state);
        let other = Principal::Key(crate::ids::KeyName::parse("ic").unwrap());
        for wrong in [
            Purpose { principal: &other, ..purpose },
            Purpose { endpoint: Some(&UpstreamName::parse("notes").unwrap()), ..purpose },
            Purpose { method: "prompts/get", ..purpose },
            Purpose { name: "notes__delete", ..purpose },
        ] {
            assert!(open(&services, &wrong, &sealed).is_err());
        }
        assert!(open(&services, &purpose, "").is_err());
    }

    #[tokio::test]
    async fn an_upstream_gets_its_own_state_back_and_no_other() {
        let services = Services::for_tests().await;
        let ci = Principal::Key(crate::ids::KeyName::parse("ci").unwrap());
        let purpose = Purpose { principal: &ci, endpoint: None, method: "tools/call", name: "notes__add" };
        let (notes, tracker) = (UpstreamName::parse("notes").unwrap(), UpstreamName::parse("tracker").unwrap());
        let retry = |state: State| Params {
            retry: Some(Retry { responses: None, state: Some(seal(&services, &purpose, state)) }),
            ..Params::default()
        };
        let of_notes = || State::Upstream { upstream: notes.clone(), state: Some("own".into()) };
        let mut params = retry(of_notes());
        take_up(&services, &purpose, &notes, &mut params).unwrap();
        assert_eq!(params.retry.unwrap().state.as_deref(), Some("own"));
        assert!(take_up(&services, &purpose, &tracker, &mut retry(of_notes())).is_err());
        assert!(take_up(&services, &purpose, &notes, &mut retry(State::Parked { id: 1 })).is_err());
        let mut again = retry(State::Again);
        take_up(&services, &purpose, &notes, &mut again).unwrap();
        assert!(again.retry.is_none());
    }
}
