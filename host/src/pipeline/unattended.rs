//! What a client may be granted away from the browser of whoever it acts for: the policies' word, and a line in the decision
//! trail.
//!
//! A policy that wants a person to show again who they are, or an approval, refuses: there is no page on which that could be
//! done. Whether a consent can be had is for whoever asks to know.

use super::recording::Recording;
use super::renewal::Presenter;
use super::{Services, Snapshot};
use crate::audit::RecordedVerdict;
use crate::policy;
use crate::policy::authority::{GrantDecision, GrantRequest, LifetimeCaps};

/// What the trails call the question.
const OPERATION: &str = "grant.authorize";

/// Lets the policies decide what a client gets.
///
/// # Errors
/// They refuse, or one of them did not answer.
pub async fn grant(
    snapshot: &Snapshot,
    services: &Services,
    presenter: &Presenter<'_>,
    request: &GrantRequest,
    caps: LifetimeCaps,
) -> Result<GrantDecision, policy::Refusal> {
    let mut recording = Recording::start(services, OPERATION);
    recording.about(None, &request.client.id);
    let ctx = recording.context_of(services, presenter);
    let (checked, trail) = snapshot.policies.check_grant(&ctx, request, caps).await;
    recording.heard(trail);
    let verdict = checked.as_ref().map(|decision| match decision {
        GrantDecision::Granted(_) => RecordedVerdict::Allow,
        GrantDecision::Consent(_) => RecordedVerdict::Consent,
    });
    recording.answered(snapshot, services, &presenter.caller.principal, verdict);
    checked
}
