//! Which clients may come, and as what: the policies' word, and a line in the decision trail.
//!
//! Nobody waits at the other end of a registration for an operator to agree (RFC 7591 has no answer that says so): where a
//! policy wants an approval the registration is refused, and an operator can add the client.

use serde_json::value::RawValue;

use super::recording::Recording;
use super::renewal::Presenter;
use super::{Services, Snapshot};
use crate::audit::RecordedVerdict;
use crate::policy;
use crate::policy::authority::ClientRequest;

/// What the trails call the question.
const OPERATION: &str = "client.register";

/// Lets the policies decide about a client: its metadata as they leave it. `about` is what the trail calls the client, and
/// `accept` says of everything that a policy makes of the metadata whether it can be registered.
///
/// # Errors
/// What the policies say against it.
pub async fn client(
    snapshot: &Snapshot,
    services: &Services,
    presenter: &Presenter<'_>,
    (request, about): (&ClientRequest, &str),
    accept: &(dyn Fn(&RawValue) -> Result<(), String> + Sync),
) -> Result<Box<RawValue>, policy::Refusal> {
    let mut recording = Recording::start(services, OPERATION);
    recording.about(None, about);
    let (checked, trail) = {
        let ctx = recording.context_of(services, presenter);
        snapshot.policies.check_client(&ctx, request, accept).await
    };
    recording.heard(trail);
    let verdict = checked.as_ref().map(|_| RecordedVerdict::Allow);
    recording.answered(snapshot, services, &presenter.caller.principal, verdict);
    checked
}
