//! What a client may be granted in the name of somebody: the policies' word, with the approvals that they want, and a line
//! in the decision trail.
//!
//! A policy that wants an approval is asked again once it is there, as for a call; what an operator has agreed to holds for
//! the same principal, client and scopes. One that wants the person to show again who they are is asked
//! again if they have.

use std::net::IpAddr;
use std::time::Duration;

use super::approvals::{Asked, Standing, ask_for, digest, wish};
use super::recording::Recording;
use super::renewal::Presenter;
use super::{Services, Snapshot};
use crate::audit::{RecordedOutcome, RecordedVerdict};
use crate::env::Timestamp;
use crate::identity::Caller;
use crate::ids::{BindingName, UpstreamName};
use crate::mcp::json::to_raw;
use crate::policy::authority::{ConsentWanted, GrantDecision, GrantRequest, GrantTerms, LifetimeCaps};
use crate::policy::{self, ApprovalWanted, Failure, Satisfied};
use crate::store::StoreError;
use crate::store::approvals::{Memory, Subject, Wish};

/// What the trails call the question.
const OPERATION: &str = "grant.authorize";
/// An approval of a grant is about no single upstream. No upstream's own approvals have this operation.
const NO_UPSTREAM: &str = "portcullis";
/// For how long it holds once it was given.
const APPROVED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Approvals and step-ups that one grant may take.
const MAX_SATISFIED: usize = 8;

/// In whose name a client asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub caller: &'a Caller,
    pub remote_ip: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
    /// When the person showed last who they are, if there is one.
    pub authenticated: Option<Timestamp>,
    /// When the client began to ask.
    pub began: Timestamp,
}

/// What becomes of it.
#[derive(Debug)]
pub enum Granting {
    Granted(GrantTerms),
    /// The person has to be asked, and told this.
    Consent(ConsentWanted),
    /// The person has to show again who they are.
    StepUp {
        message: String,
    },
    /// Somebody else has to agree, and has not.
    Unapproved {
        title: String,
        message: String,
        standing: Standing,
    },
    /// In the words of the policy that says no, if it said any.
    Denied {
        message: Option<String>,
    },
    /// A policy did not answer, or wants to be asked later. Nobody has said no.
    Undecided,
}

/// Lets the policies decide what a client gets.
///
/// # Errors
/// Whether somebody agreed cannot be known.
pub async fn grant(
    snapshot: &Snapshot,
    services: &Services,
    asker: &Asker<'_>,
    request: &GrantRequest,
    caps: LifetimeCaps,
) -> Result<Granting, StoreError> {
    let mut recording = Recording::start(services, OPERATION);
    recording.about(None, &request.client.id);
    let decided = decide(snapshot, services, asker, (request, caps), &mut recording).await;
    let (verdict, reason, outcome) = match &decided {
        Ok(Ok(GrantDecision::Granted(_))) => (RecordedVerdict::Allow, None, RecordedOutcome::Result),
        Ok(Ok(GrantDecision::Consent(_))) => (RecordedVerdict::Consent, None, RecordedOutcome::Result),
        Ok(Err(Stopped { refusal, standing })) => {
            let (verdict, reason) = recording.verdict_of(refusal);
            let is_denied = matches!(standing, Some(Standing::Denied { .. }));
            let verdict = if is_denied { RecordedVerdict::Deny } else { verdict };
            (verdict, Some(reason), RecordedOutcome::Refused)
        }
        Err(_) => (RecordedVerdict::Error, Some("store".to_owned()), RecordedOutcome::Error),
    };
    recording.conclude(snapshot, services, (&asker.caller.principal, ""), verdict, reason, outcome);
    Ok(match decided? {
        Ok(GrantDecision::Granted(terms)) => Granting::Granted(terms),
        Ok(GrantDecision::Consent(wanted)) => Granting::Consent(wanted),
        Err(stopped) => told(stopped),
    })
}

/// Why it does not go on, and where the approval stands that it is for want of.
struct Stopped {
    refusal: policy::Refusal,
    standing: Option<Standing>,
}

impl From<policy::Refusal> for Stopped {
    fn from(refusal: policy::Refusal) -> Self {
        Self { refusal, standing: None }
    }
}

fn told(Stopped { refusal, standing }: Stopped) -> Granting {
    use policy::Refusal as R;
    match (refusal, standing) {
        (R::ApprovalNeeded { approval, .. }, Some(standing)) => {
            let ApprovalWanted { title, reason, .. } = *approval;
            Granting::Unapproved { title, message: reason.message, standing }
        }
        // What no sign-in here can give is a denial.
        (R::StepUp { scopes, acr_values, reason, .. }, _) if scopes.is_empty() && acr_values.is_empty() => {
            Granting::StepUp { message: reason.message }
        }
        (R::Denied { reason, .. } | R::StepUp { reason, .. }, _) => Granting::Denied { message: Some(reason.message) },
        (R::Hidden | R::ApprovalNeeded { .. } | R::NoPolicyAllowed { .. }, _) => Granting::Denied { message: None },
        (R::PolicyFailed { .. } | R::Throttled { .. }, _) => Granting::Undecided,
    }
}

async fn decide(
    snapshot: &Snapshot,
    services: &Services,
    asker: &Asker<'_>,
    (request, caps): (&GrantRequest, LifetimeCaps),
    recording: &mut Recording,
) -> Result<Result<GrantDecision, Stopped>, StoreError> {
    for left in (0..=MAX_SATISFIED).rev() {
        let presenter = asker.presenter();
        let ctx = recording.context_of(services, &presenter);
        let (checked, trail) = snapshot.policies.check_grant(&ctx, request, caps).await;
        recording.heard_again(trail);
        let (refusal, satisfied) = match checked {
            Ok(decision) => return Ok(Ok(decision)),
            Err(refusal) if left == 0 => return Ok(Err(refusal.into())),
            Err(policy::Refusal::StepUp { binding, scopes, acr_values, max_age, reason }) => {
                let satisfied = Satisfied { binding: binding.clone(), code: reason.code.clone() };
                let is_enough = scopes.iter().all(|scope| request.scopes.contains(scope)) && acr_values.is_empty();
                // Scopes that are asked for anyway are not what is missing.
                let scopes = if is_enough { Vec::new() } else { scopes };
                let refusal = policy::Refusal::StepUp { binding, scopes, acr_values, max_age, reason };
                if !is_enough || !asker.has_stepped_up(max_age, services.env.now()) {
                    return Ok(Err(refusal.into()));
                }
                (refusal, satisfied)
            }
            Err(policy::Refusal::ApprovalNeeded { binding, approval }) => {
                let satisfied = Satisfied { binding: binding.clone(), code: approval.reason.code.clone() };
                match approved(services, asker, request, (&binding, &approval), recording).await? {
                    None => (policy::Refusal::ApprovalNeeded { binding, approval }, satisfied),
                    Some(standing) => {
                        let refusal = policy::Refusal::ApprovalNeeded { binding, approval };
                        return Ok(Err(Stopped { refusal, standing: Some(standing) }));
                    }
                }
            }
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        if recording.is_satisfied(&satisfied) {
            let what = format!("it wants what it was told that it is given ({})", refusal.check());
            let failure = Failure::InvalidAnswer { what };
            return Ok(Err(policy::Refusal::PolicyFailed { binding: satisfied.binding, failure }.into()));
        }
        recording.satisfied(satisfied);
    }
    Ok(Err(policy::Refusal::NoPolicyAllowed { hook: policy::Hook::Grant }.into()))
}

impl<'a> Asker<'a> {
    fn presenter(&self) -> Presenter<'a> {
        let Self { caller, remote_ip, user_agent, .. } = *self;
        Presenter { caller, remote_ip, user_agent }
    }

    /// Whether the person has shown who they are as lately as is wanted; where no time is said, since the client began to
    /// ask (RFC 9470 §3).
    fn has_stepped_up(&self, max_age: Option<Duration>, now: Timestamp) -> bool {
        let since = max_age.map_or(self.began, |age| now.before(age));
        self.authenticated.is_some_and(|authenticated| authenticated >= since)
    }
}

/// Where the approval stands that a policy wants, or `None` if it is given. If nobody was asked, an operator is now.
async fn approved(
    services: &Services,
    asker: &Asker<'_>,
    request: &GrantRequest,
    (binding, wanted): (&BindingName, &ApprovalWanted),
    recording: &mut Recording,
) -> Result<Option<Standing>, StoreError> {
    let mut scopes = request.scopes.clone();
    scopes.sort_unstable();
    let subject = Subject {
        principal: asker.caller.principal.clone(),
        client: request.client.id.clone(),
        operation: OPERATION.to_owned(),
        upstream: UpstreamName::parse(NO_UPSTREAM).expect("the name follows its rule"),
        item: String::new(),
        definition: String::new(),
        arguments: digest(to_raw(&scopes).get()),
        policy: binding.clone(),
        code: wanted.reason.code.clone(),
    };
    // What whoever decides is shown. Bound are the scopes.
    let shown = serde_json::json!({
        "client": request.client.id,
        "client_name": request.client.name,
        "redirect_host": request.client.redirect_host,
        "scopes": scopes,
        "resources": request.resources,
    });
    let wish = Wish { memory: Memory::For(APPROVED_FOR), ..wish(wanted) };
    Ok(match ask_for(services, subject, wish, &shown.to_string()).await? {
        Asked::Given(given) => {
            recording.needed(&given.id);
            None
        }
        Asked::Not(standing) => {
            if let Standing::Pending { id, .. } | Standing::Denied { id, .. } = &standing {
                recording.needed(id);
            }
            Some(standing)
        }
    })
}
