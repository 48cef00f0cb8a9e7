//! Whether a refresh token may be used once more: the policies' word, and a line in the decision trail.

use std::net::IpAddr;

use super::recording::Recording;
use super::{Services, Snapshot};
use crate::audit::RecordedVerdict;
use crate::identity::Caller;
use crate::policy;
use crate::policy::authority::{GrantTerms, LifetimeCaps, RefreshRequest};

/// What the trails call the question.
const OPERATION: &str = "refresh.renew";

/// In whose name a client acts, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Presenter<'a> {
    pub caller: &'a Caller,
    pub remote_ip: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
}

/// Lets the policies decide what the next access token gives: never more than was granted.
///
/// # Errors
/// They refuse, or one of them did not answer.
pub async fn renew(
    snapshot: &Snapshot,
    services: &Services,
    presenter: &Presenter<'_>,
    request: &RefreshRequest,
    caps: LifetimeCaps,
) -> Result<GrantTerms, policy::Refusal> {
    let mut recording = Recording::start(services, OPERATION);
    recording.about(None, presenter.caller.client_id());
    let ctx = recording.context_of(services, presenter);
    let (checked, trail) = snapshot.policies.check_refresh(&ctx, request, caps).await;
    recording.heard(trail);
    let verdict = checked.as_ref().map(|_| RecordedVerdict::Allow);
    recording.answered(snapshot, services, &presenter.caller.principal, verdict);
    checked
}
