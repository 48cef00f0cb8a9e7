//! `requestState` as callers see it (2026-07-28, patterns § MRTR): sealed, and good only for the principal, the client, the
//! endpoint, the method and the name it was given for, for a quarter of an hour.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::approvals::digest;
use super::{Origin, Refusal, Services};
use crate::env::Timestamp;
use crate::identity::Caller;
use crate::ids::{ApprovalId, Principal, ReplicaId, UpstreamName};
use crate::mcp::call::Params;
use crate::secret::Digest;
use crate::store::approvals::Use;

/// Longest state of an upstream that is carried, in bytes.
pub const MAX_UPSTREAM_STATE: usize = 64 * 1024;
/// How long a state is good.
const LIFE: Duration = Duration::from_secs(15 * 60);
const PURPOSE: &str = "request state";

/// What a caller brings back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The request is still under way here and waits for answers.
    Parked { id: u64, owner: ReplicaId },
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    charged: Option<Charged>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    uses: Vec<SealedUse>,
}

/// That policies' counters were charged for this request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Charged {
    /// Digest of the arguments, as they came.
    arguments: String,
    /// Tells one state from the others: each saves one round its charges.
    nonce: [u8; 16],
    /// The replica that sealed it, which alone knows whether it came back before. States that do not name one save nothing.
    #[serde(default)]
    by: Option<ReplicaId>,
}

#[derive(Serialize, Deserialize)]
struct SealedUse {
    id: ApprovalId,
    bound_to: [u8; 32],
    round: u32,
}

/// What one round of a request brings on to the next, besides the upstream's own state.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    charged: Option<Charged>,
    uses: Vec<Use>,
}

impl Carried {
    /// Of a request with these arguments, if it was charged, that used these approvals.
    pub(super) fn of(services: &Services, charged: Option<&str>, uses: Vec<Use>) -> Self {
        let charged = charged.map(|arguments| Charged {
            arguments: digest(arguments).to_hex(),
            nonce: services.env.random::<16>(),
            by: Some(services.replica.clone()),
        });
        let next = |used: Use| Use { round: used.round.saturating_add(1), ..used };
        Self { charged, uses: uses.into_iter().map(next).collect() }
    }

    /// Whether a request with these arguments was charged already.
    pub(super) fn is_charged_for(&self, arguments: impl FnOnce() -> String) -> bool {
        self.charged.as_ref().is_some_and(|charged| charged.arguments == digest(&arguments()).to_hex())
    }

    /// The next round of the use of an approval for this, if there was one before.
    pub(super) fn approval(&self, bound_to: &Digest) -> Option<Use> {
        self.uses.iter().find(|used| used.bound_to == *bound_to).cloned()
    }
}

/// What a state is good for.
#[derive(Clone, Copy)]
pub struct Purpose<'a> {
    pub principal: &'a Principal,
    /// The client that acts, if one does.
    pub client: Option<&'a str>,
    /// The one upstream whose endpoint the request was made at, if it was not the common one.
    pub endpoint: Option<&'a UpstreamName>,
    pub method: &'a str,
    /// What the request is about, under the caller's name for it.
    pub name: &'a str,
}

impl<'a> Purpose<'a> {
    pub fn of(origin: &'a Origin, method: &'a str, name: &'a str) -> Self {
        let Caller { principal, client, .. } = &origin.caller;
        Self { principal, client: client.as_deref(), endpoint: origin.scope.endpoint(), method, name }
    }

    fn binding(&self) -> Vec<u8> {
        let endpoint = self.endpoint.map_or("", UpstreamName::as_str);
        let holder = held_by(self.principal, self.client);
        format!("{holder}\n{endpoint}\n{}\n{}", self.method, self.name).into_bytes()
    }
}

/// Whose something is: a principal's, through the client that acts for it. No name of an upstream has a space.
pub(super) fn held_by(principal: &Principal, client: Option<&str>) -> String {
    match client {
        Some(client) => format!("{principal}\nclient {client}"),
        None => principal.to_string(),
    }
}

/// Seals a state for a caller.
pub fn seal(services: &Services, purpose: &Purpose<'_>, state: State) -> String {
    seal_round(services, purpose, state, &Carried::default())
}

/// The same, with what the next round of the request is to know.
pub(super) fn seal_round(services: &Services, purpose: &Purpose<'_>, state: State, carried: &Carried) -> String {
    let until = services.env.now().after(LIFE).as_millis();
    let charged = carried.charged.clone();
    let seal =
        |Use { id, bound_to, round }: &Use| SealedUse { id: id.clone(), bound_to: *bound_to.as_bytes(), round: *round };
    let uses = carried.uses.iter().map(seal).collect();
    let payload = serde_json::to_vec(&Sealed { until, state, charged, uses }).expect("our own types serialise");
    services.secret.seal(PURPOSE, &purpose.binding(), &payload)
}

/// Opens what a caller brought back.
///
/// # Errors
/// [`Refusal::BadState`], without a word about why.
pub fn open(services: &Services, purpose: &Purpose<'_>, sealed: &str) -> Result<State, Refusal> {
    open_round(services, purpose, sealed).map(|(state, _)| state)
}

fn open_round(services: &Services, purpose: &Purpose<'_>, sealed: &str) -> Result<(State, Carried), Refusal> {
    let payload = services.secret.unseal(PURPOSE, &purpose.binding(), sealed).ok_or(Refusal::BadState)?;
    let Sealed { until, state, charged, uses } = serde_json::from_slice(&payload).map_err(|_| Refusal::BadState)?;
    if services.env.now() >= Timestamp::from_millis(until) {
        return Err(Refusal::BadState);
    }
    let open = |SealedUse { id, bound_to, round }: SealedUse| Use { id, bound_to: Digest::from_bytes(bound_to), round };
    Ok((state, Carried { charged, uses: uses.into_iter().map(open).collect() }))
}

/// Puts in the place of a retry's state what the upstream itself gave. A retry of a request that needs nothing of it becomes
/// a request like any other. What the round before has done is told.
///
/// # Errors
/// [`Refusal::BadState`], also for a request that was under way here and is not any more.
pub(super) fn take_up(
    services: &Services,
    purpose: &Purpose<'_>,
    upstream: &UpstreamName,
    params: &mut Params,
) -> Result<Carried, Refusal> {
    let Some(retry) = &mut params.retry else { return Ok(Carried::default()) };
    let Some(sealed) = retry.state.take() else { return Ok(Carried::default()) };
    let (state, mut carried) = open_round(services, purpose, &sealed)?;
    // A state that comes a second time is another request, and pays for itself. So does one that comes to another replica,
    // which cannot tell: otherwise each of them would let it pass once.
    carried.charged = carried.charged.filter(|charged| {
        charged.by.as_ref() == Some(&services.replica) && services.spent.entry(charged.nonce).or_insert(()).is_fresh()
    });
    match state {
        State::Upstream { upstream: of, state } if of == *upstream => retry.state = state,
        State::Again => params.retry = None,
        State::Upstream { .. } | State::Parked { .. } => return Err(Refusal::BadState),
    }
    Ok(carried)
}

/// States that saved their request its charges.
pub type Spent = moka::sync::Cache<[u8; 16], ()>;

/// Most of them that are remembered.
const MAX_SPENT: u64 = 100_000;

/// Room for them.
pub(super) fn spent() -> Spent {
    moka::sync::Cache::builder().max_capacity(MAX_SPENT).time_to_live(LIFE).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::call::Retry;

    #[tokio::test]
    async fn a_state_is_good_for_its_request_and_caller_alone() {
        let services = Services::for_tests().await;
        let ci = Principal::Key(crate::ids::KeyName::parse("ci").unwrap());
        let purpose =
            Purpose { principal: &ci, client: None, endpoint: None, method: "tools/call", name: "notes__add" };
        let state = State::Upstream { upstream: UpstreamName::parse("notes").unwrap(), state: Some("s".into()) };
        let sealed = seal(&services, &purpose, state.clone());
        assert_eq!(open(&services, &purpose, &sealed).unwrap(), state);
        let other = Principal::Key(crate::ids::KeyName::parse("ic").unwrap());
        for wrong in [
            Purpose { principal: &other, ..purpose },
            Purpose { client: Some("app"), ..purpose },
            Purpose { endpoint: Some(&UpstreamName::parse("notes").unwrap()), ..purpose },
            Purpose { method: "prompts/get", ..purpose },
            Purpose { name: "notes__delete", ..purpose },
        ] {
            assert!(open(&services, &wrong, &sealed).is_err());
        }
        assert!(open(&services, &purpose, "").is_err());
        let of_client = Purpose { client: Some("app"), ..purpose };
        let sealed = seal(&services, &of_client, state.clone());
        assert_eq!(open(&services, &of_client, &sealed).unwrap(), state);
        for wrong in [purpose, Purpose { client: Some("other"), ..purpose }] {
            assert!(open(&services, &wrong, &sealed).is_err());
        }
    }

    #[tokio::test]
    async fn what_a_round_has_done_is_known_to_the_next_one_alone() {
        let services = Services::for_tests().await;
        let ci = Principal::Key(crate::ids::KeyName::parse("ci").unwrap());
        let purpose =
            Purpose { principal: &ci, client: None, endpoint: None, method: "tools/call", name: "notes__add" };
        let notes = UpstreamName::parse("notes").unwrap();
        let used = Use { id: ApprovalId::parse(&"0a".repeat(12)).unwrap(), bound_to: Digest::of(b"subject"), round: 0 };
        let carried = Carried::of(&services, Some(r#"{"id": 7}"#), vec![used.clone()]);
        let sealed = seal_round(&services, &purpose, State::Again, &carried);
        let retry =
            || Params { retry: Some(Retry { responses: None, state: Some(sealed.clone()) }), ..Params::default() };
        let next = take_up(&services, &purpose, &notes, &mut retry()).unwrap();
        assert!(next.is_charged_for(|| r#"{"id":7}"#.to_owned()) && !next.is_charged_for(|| r#"{"id":8}"#.to_owned()));
        assert_eq!(next.approval(&used.bound_to), Some(Use { round: 1, ..used.clone() }));
        assert_eq!(next.approval(&Digest::of(b"other")), None);

        // Another replica has the same secret, and does not know which states came back.
        let elsewhere = Services::for_tests().await;
        let there = take_up(&elsewhere, &purpose, &notes, &mut retry()).unwrap();
        assert!(!there.is_charged_for(|| r#"{"id":7}"#.to_owned()), "it is saved its charges where it was charged");
        assert!(there.approval(&used.bound_to).is_some());

        let replayed = take_up(&services, &purpose, &notes, &mut retry()).unwrap();
        assert!(!replayed.is_charged_for(|| r#"{"id":7}"#.to_owned()), "it was saved its charges once");
        let plain = take_up(&services, &purpose, &notes, &mut Params::default()).unwrap();
        assert!(!plain.is_charged_for(|| r#"{"id":7}"#.to_owned()) && plain.approval(&used.bound_to).is_none());
    }

    #[tokio::test]
    async fn an_upstream_gets_its_own_state_back_and_no_other() {
        let services = Services::for_tests().await;
        let ci = Principal::Key(crate::ids::KeyName::parse("ci").unwrap());
        let purpose =
            Purpose { principal: &ci, client: None, endpoint: None, method: "tools/call", name: "notes__add" };
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
        assert!(
            take_up(
                &services,
                &purpose,
                &notes,
                &mut retry(State::Parked { id: 1, owner: ReplicaId::generate(&services.env) })
            )
            .is_err()
        );
        let mut again = retry(State::Again);
        take_up(&services, &purpose, &notes, &mut again).unwrap();
        assert!(again.retry.is_none());
    }
}
