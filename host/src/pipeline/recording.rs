//! What the decision trail and the log will say of a request.

use std::time::Duration;

use tokio::time::Instant;

use super::{Origin, Services, Snapshot};
use crate::audit::{DecisionRecord, DecisionStep, RecordedOutcome, RecordedVerdict};
use crate::ids::{DecisionId, UpstreamName};
use crate::policy::{self, CallContext, Step, Trail};

pub(super) struct Recording {
    decision: DecisionId,
    operation: &'static str,
    upstream: Option<UpstreamName>,
    /// The upstream's own name for the tool or item, or what the caller asked for if there is no such thing.
    item: Option<String>,
    started: Instant,
    steps: Vec<Step>,
}

impl Recording {
    /// `operation` is the protocol's method.
    pub(super) fn start(services: &Services, operation: &'static str) -> Self {
        let decision = DecisionId::generate(&services.env);
        Self { decision, operation, upstream: None, item: None, started: Instant::now(), steps: Vec::new() }
    }

    /// What it is about, as far as that is known.
    pub(super) fn about(&mut self, upstream: Option<&UpstreamName>, item: &str) {
        self.upstream = upstream.cloned();
        self.item = Some(item.to_owned());
    }

    pub(super) fn heard(&mut self, trail: Trail) {
        self.steps.extend(trail.0);
    }

    pub(super) fn asked_a_policy(&self) -> bool {
        !self.steps.is_empty()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What policies see around this decision.
    pub(super) fn context<'a>(&self, services: &Services, origin: &'a Origin) -> CallContext<'a> {
        CallContext {
            decision: self.decision.clone(),
            caller: &origin.caller,
            revision: origin.revision.as_str(),
            session: origin.party.session.as_deref(),
            transport: origin.transport,
            remote_ip: origin.remote_ip,
            user_agent: origin.user_agent.as_deref(),
            trace_id: None,
            now: services.env.now(),
        }
    }

    /// Ends a request for something that there is not.
    pub(super) fn unknown(self, snapshot: &Snapshot, services: &Services, origin: &Origin, reason: &str) {
        let reason = Some(reason.to_owned());
        self.end(snapshot, services, origin, RecordedVerdict::Hidden, reason, RecordedOutcome::Refused);
    }

    /// Ends a request that the policies refused.
    pub(super) fn refuse(self, snapshot: &Snapshot, services: &Services, origin: &Origin, refusal: &policy::Refusal) {
        use policy::Refusal as R;
        let verdict = match refusal {
            R::Hidden => RecordedVerdict::Hidden,
            R::Denied { .. } | R::NoPolicyAllowed { .. } => RecordedVerdict::Deny,
            R::StepUp { .. } => RecordedVerdict::StepUp,
            R::Throttled { .. } => RecordedVerdict::Throttle,
            R::ApprovalNeeded { .. } => RecordedVerdict::Approve,
            R::PolicyFailed { .. } => RecordedVerdict::Error,
        };
        let decided_by = self.steps.iter().rev().find_map(|step| step.code.clone());
        let reason = decided_by.unwrap_or_else(|| refusal.check().to_owned());
        self.end(snapshot, services, origin, verdict, Some(reason), RecordedOutcome::Refused);
    }

    /// Ends a request that the policies let pass.
    pub(super) fn allow(self, snapshot: &Snapshot, services: &Services, origin: &Origin, outcome: RecordedOutcome) {
        self.end(snapshot, services, origin, RecordedVerdict::Allow, None, outcome);
    }

    fn end(
        self,
        snapshot: &Snapshot,
        services: &Services,
        origin: &Origin,
        verdict: RecordedVerdict,
        reason_code: Option<String>,
        outcome: RecordedOutcome,
    ) {
        let elapsed = self.started.elapsed();
        tracing::info!(
            decision = %self.decision,
            principal = %origin.caller.principal,
            revision = %origin.revision,
            operation = self.operation,
            upstream = self.upstream.as_ref().map(UpstreamName::as_str),
            tool = self.item.as_deref(),
            %verdict,
            reason = reason_code.as_deref(),
            %outcome,
            generation = snapshot.policies.generation(),
            elapsed_ms = elapsed.as_millis(),
            "request"
        );
        // A full queue is counted there; a call waits for no store.
        _ = services.decisions.try_record(DecisionRecord {
            id: self.decision.as_str().to_owned(),
            at: services.env.now(),
            principal: origin.caller.principal.clone(),
            operation: self.operation.to_owned(),
            upstream: self.upstream,
            tool: self.item,
            revision: origin.revision.as_str().to_owned(),
            verdict,
            reason_code,
            generation: snapshot.policies.generation(),
            steps: self.steps.into_iter().map(decision_step).collect(),
            outcome,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        });
    }
}

fn decision_step(step: Step) -> DecisionStep {
    let Step { binding, module, hook, verdict, code, micros, notes: _ } = step;
    DecisionStep {
        binding,
        module_digest: module.to_string(),
        hook: hook.to_string(),
        verdict: RecordedVerdict::parse(verdict).unwrap_or(RecordedVerdict::Error),
        reason_code: code,
        micros,
    }
}
