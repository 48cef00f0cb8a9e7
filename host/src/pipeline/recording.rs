//! What the decision trail and the log will say of a request, and what policies know of it meanwhile.

use std::time::Duration;

use tokio::time::Instant;

use super::approvals::{Standing, Unapproved};
use super::renewal::Presenter;
use super::state::Carried;
use super::{Mark, Origin, Services, Snapshot};
use crate::audit::{DecisionRecord, DecisionStep, RecordedMode, RecordedOutcome, RecordedVerdict};
use crate::connection::lending::Lack;
use crate::ids::{ApprovalId, DecisionId, Principal, UpstreamName};
use crate::mcp::call::Outcome;
use crate::policy::{self, CallContext, Charges, Recorded, Satisfied, Shadow, Step, Trail, Transport};
use crate::store::approvals::Use;
use crate::store::{decisions, recordings};
use crate::telemetry::Trace;

/// Steps that the log line of a request has.
const MAX_LOGGED_STEPS: usize = 16;

pub(super) struct Recording {
    decision: DecisionId,
    operation: &'static str,
    upstream: Option<UpstreamName>,
    /// The upstream's own name for the tool or item, or what the caller asked for if there is no such thing.
    item: Option<String>,
    /// There is such a thing, and the caller may not use it.
    is_out_of_reach: bool,
    started: Instant,
    steps: Vec<Step>,
    shadows: Vec<Shadow>,
    charges: Charges,
    satisfied: Vec<Satisfied>,
    approvals: Vec<ApprovalId>,
    /// What a next round of it is to know.
    carried: Carried,
    /// What upstreams took, and the size of what they answered.
    upstream_took: Duration,
    result_bytes: usize,
    mark: Mark,
    trace: Option<Trace>,
}

impl Recording {
    /// `operation` is the protocol's method.
    pub(super) fn start(services: &Services, operation: &'static str) -> Self {
        Self {
            decision: DecisionId::generate(&services.env),
            operation,
            upstream: None,
            item: None,
            is_out_of_reach: false,
            started: Instant::now(),
            steps: Vec::new(),
            shadows: Vec::new(),
            charges: Charges::default(),
            satisfied: Vec::new(),
            approvals: Vec::new(),
            carried: Carried::default(),
            upstream_took: Duration::ZERO,
            result_bytes: 0,
            mark: Mark::default(),
            trace: None,
        }
    }

    /// The protocol's method.
    pub(super) const fn operation(&self) -> &'static str {
        self.operation
    }

    /// What it is about, as far as that is known.
    pub(super) fn about(&mut self, upstream: Option<&UpstreamName>, item: &str) {
        self.upstream = upstream.cloned();
        self.item = Some(item.to_owned());
    }

    /// What it is about is there, beyond the allow-list, the scopes or the endpoint of whoever asks.
    pub(super) fn out_of_reach(&mut self) {
        self.is_out_of_reach = true;
    }

    /// Takes note of what policies said.
    pub(super) fn heard(&mut self, trail: Trail) {
        let Trail { steps, shadows } = trail;
        self.steps.extend(steps);
        self.shadows.extend(shadows);
    }

    /// The same, where the policies were asked this before and their last word counts: shadows are asked once.
    pub(super) fn heard_again(&mut self, trail: Trail) {
        let Trail { steps, shadows } = trail;
        self.steps.extend(steps);
        self.shadows = shadows;
    }

    /// It is another round of a request whose first one was charged.
    pub(super) fn was_charged(&mut self) {
        self.charges = Charges::already_charged();
    }

    /// It may go, and has used these approvals. `arguments` are as they came.
    pub(super) fn permitted(&mut self, services: &Services, arguments: impl FnOnce() -> String, uses: Vec<Use>) {
        self.carried = Carried::of(services, self.charges.any().then(arguments).as_deref(), uses);
    }

    /// What a next round of it is to know.
    pub(super) const fn carried(&self) -> &Carried {
        &self.carried
    }

    /// From now on, the policy that wanted it knows that this was given.
    pub(super) fn satisfied(&mut self, satisfied: Satisfied) {
        self.satisfied.push(satisfied);
    }

    pub(super) fn is_satisfied(&self, satisfied: &Satisfied) -> bool {
        self.satisfied.contains(satisfied)
    }

    /// Nothing that was given counts any more.
    pub(super) fn nothing_satisfied(&mut self) {
        self.satisfied.clear();
    }

    /// An approval has to do with it.
    pub(super) fn needed(&mut self, approval: &ApprovalId) {
        if !self.approvals.contains(approval) {
            self.approvals.push(approval.clone());
        }
    }

    /// Its upstream was asked, took this long and answered this, if anything.
    pub(super) fn sent(&mut self, took: Duration, answer: Option<&Outcome>) {
        self.upstream_took += took;
        self.result_bytes += match answer {
            Some(Outcome::Result(text) | Outcome::Error(text)) => text.get().len(),
            Some(Outcome::NeedsInput(_)) | None => 0,
        };
    }

    pub(super) fn asked_a_policy(&self) -> bool {
        !self.steps.is_empty() || !self.shadows.is_empty()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What policies see around this decision.
    pub(super) fn context<'a>(&'a self, services: &Services, origin: &'a Origin) -> CallContext<'a> {
        CallContext {
            decision: self.decision.clone(),
            caller: &origin.caller,
            revision: origin.revision.as_str(),
            session: origin.party.session.as_deref(),
            transport: origin.transport,
            remote_ip: origin.remote_ip,
            user_agent: origin.user_agent.as_deref(),
            trace_id: origin.party.trace.as_ref().map(Trace::id),
            trace: origin.party.trace.as_ref(),
            now: services.env.now(),
            charges: &self.charges,
            satisfied: &self.satisfied,
            view: None,
        }
    }

    /// The same around a decision about authority, which no message of MCP asks for.
    pub(super) fn context_of<'a>(&'a self, services: &Services, presenter: &Presenter<'a>) -> CallContext<'a> {
        CallContext {
            decision: self.decision.clone(),
            caller: presenter.caller,
            revision: "",
            session: None,
            transport: Transport::Internal,
            remote_ip: presenter.remote_ip,
            user_agent: presenter.user_agent,
            trace_id: None,
            trace: None,
            now: services.env.now(),
            charges: &self.charges,
            satisfied: &self.satisfied,
            view: None,
        }
    }

    /// Ends a request for something that there is not, or not for whoever asks.
    pub(super) fn unknown(self, snapshot: &Snapshot, services: &Services, origin: &Origin, reason: &str) {
        let reason = Some(if self.is_out_of_reach { "not-allowed" } else { reason }.to_owned());
        self.end(snapshot, services, origin, RecordedVerdict::Hidden, reason, RecordedOutcome::Refused);
    }

    /// Ends a request that the policies refused.
    pub(super) fn refuse(self, snapshot: &Snapshot, services: &Services, origin: &Origin, refusal: &policy::Refusal) {
        let (verdict, reason) = self.verdict_of(refusal);
        self.end(snapshot, services, origin, verdict, Some(reason), RecordedOutcome::Refused);
    }

    /// What the trail calls a refusal, and the reason that it has for it.
    pub(super) fn verdict_of(&self, refusal: &policy::Refusal) -> (RecordedVerdict, String) {
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
        (verdict, decided_by.unwrap_or_else(|| refusal.check().to_owned()))
    }

    /// Ends a request that nobody agreed to.
    pub(super) fn unapproved(
        self,
        snapshot: &Snapshot,
        services: &Services,
        origin: &Origin,
        Unapproved { reason, standing, .. }: &Unapproved,
    ) {
        let verdict = match standing {
            Standing::Pending { .. } | Standing::TooMany => RecordedVerdict::Approve,
            Standing::Denied { .. } => RecordedVerdict::Deny,
        };
        self.end(snapshot, services, origin, verdict, Some(reason.code.clone()), RecordedOutcome::Refused);
    }

    /// Ends a request that the policies let pass, and that lacked a connection.
    pub(super) fn unconnected(self, snapshot: &Snapshot, services: &Services, origin: &Origin, lack: &Lack) {
        let reason = Some(lack.as_str().to_owned());
        self.end(snapshot, services, origin, RecordedVerdict::Allow, reason, RecordedOutcome::Refused);
    }

    /// Ends a request that could not be decided: the store failed.
    pub(super) fn undecided(self, snapshot: &Snapshot, services: &Services, origin: &Origin) {
        let reason = Some("store".to_owned());
        self.end(snapshot, services, origin, RecordedVerdict::Error, reason, RecordedOutcome::Error);
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
        let (principal, revision) = (&origin.caller.principal, origin.revision.as_str());
        let told = Self { mark: origin.mark.clone(), trace: origin.party.trace.clone(), ..self };
        told.conclude(snapshot, services, (principal, revision), verdict, reason_code, outcome);
    }

    /// Ends a request that is none of MCP, with this verdict or with what policies have against it.
    pub(super) fn answered(
        self,
        snapshot: &Snapshot,
        services: &Services,
        principal: &Principal,
        checked: Result<RecordedVerdict, &policy::Refusal>,
    ) {
        let (verdict, reason, outcome) = match checked {
            Ok(verdict) => (verdict, None, RecordedOutcome::Result),
            Err(refusal) => {
                let (verdict, reason) = self.verdict_of(refusal);
                (verdict, Some(reason), RecordedOutcome::Refused)
            }
        };
        self.conclude(snapshot, services, (principal, ""), verdict, reason, outcome);
    }

    /// Ends a request of whoever this is; where it is none of MCP, there is no revision.
    pub(super) fn conclude(
        self,
        snapshot: &Snapshot,
        services: &Services,
        (principal, revision): (&Principal, &str),
        verdict: RecordedVerdict,
        reason_code: Option<String>,
        outcome: RecordedOutcome,
    ) {
        let elapsed = self.started.elapsed();
        let generation = snapshot.policies.generation();
        let policy_took = Duration::from_micros(self.steps.iter().map(|step| step.micros).sum());
        let stages = [("identity", self.mark.identity), ("policy", policy_took), ("upstream", self.upstream_took)];
        services.meters.stages(stages);
        services.meters.decided(self.operation, verdict, outcome);
        let at = services.env.now();
        services.traffic.count(at, verdict, outcome, elapsed);
        let of = self.upstream.as_ref().and_then(|name| snapshot.upstreams.get(name));
        if let (Some(upstream), Some(tool), true) = (&self.upstream, &self.item, self.operation == super::calls::METHOD)
        {
            services.meters.called(upstream.as_str(), tool);
        }
        tracing::info!(
            request_id = self.mark.request.as_deref(),
            trace_id = self.trace.as_ref().map(Trace::id),
            decision = %self.decision,
            %principal,
            revision,
            operation = self.operation,
            upstream = self.upstream.as_ref().map(UpstreamName::as_str),
            tool = self.item.as_deref(),
            %verdict,
            reason = reason_code.as_deref(),
            policies = in_short(&self.steps).as_deref(),
            %outcome,
            generation,
            upstream_revision = of.and_then(|of| of.known_about()).map(|about| about.revision.clone()),
            identity_ms = millis(self.mark.identity),
            policy_ms = millis(policy_took),
            upstream_ms = millis(self.upstream_took),
            elapsed_ms = elapsed.as_millis(),
            total_ms = self.mark.received.map(|received| millis(received.elapsed())),
            request_bytes = self.mark.bytes,
            result_bytes = self.result_bytes,
            "request"
        );
        let record = DecisionRecord {
            id: self.decision.as_str().to_owned(),
            at,
            principal: principal.clone(),
            operation: self.operation.to_owned(),
            upstream: self.upstream,
            tool: self.item,
            revision: revision.to_owned(),
            verdict,
            reason_code,
            generation,
            steps: Vec::new(),
            approvals: self.approvals,
            outcome,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        };
        let mut steps = self.steps;
        if self.shadows.is_empty() {
            return keep(&services.decisions, &services.recordings, record, steps);
        }
        let (decisions, recordings) = (services.decisions.clone(), services.recordings.clone());
        services.shadows.submit(&snapshot.policies, self.shadows, move |shadows| {
            steps.extend(shadows);
            keep(&decisions, &recordings, record, steps);
        });
    }
}

/// Milliseconds with three places.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// `policy=verdict:code` for each policy that was asked, if any was.
fn in_short(steps: &[Step]) -> Option<String> {
    use std::fmt::Write as _;
    let mut line = String::new();
    for Step { binding, verdict, code, .. } in steps.iter().take(MAX_LOGGED_STEPS) {
        let space = if line.is_empty() { "" } else { " " };
        write!(line, "{space}{binding}={verdict}").expect("writing to a String does not fail");
        if let Some(code) = code {
            line.push(':');
            line.push_str(code);
        }
    }
    if steps.len() > MAX_LOGGED_STEPS {
        line.push_str(" …");
    }
    (!line.is_empty()).then_some(line)
}

/// Queues what is known of a decision. A full queue is counted there; a call waits for no store.
fn keep(
    decisions: &decisions::Recorder,
    recordings: &recordings::Recorder,
    mut record: DecisionRecord,
    mut steps: Vec<Step>,
) {
    let questions: Vec<_> = steps.iter_mut().filter_map(question).collect();
    if !questions.is_empty() {
        let (decision, at, generation) = (record.id.clone(), record.at, record.generation);
        _ = recordings.try_record(recordings::Recording { decision, at, generation, questions });
    }
    record.steps = steps.into_iter().map(decision_step).collect();
    _ = decisions.try_record(record);
}

/// What was recorded of a step, word for word.
fn question(step: &mut Step) -> Option<recordings::Question> {
    let Recorded { input, answer, imports } = *step.recorded.take()?;
    let import =
        |call: policy::ImportCall| recordings::Import { import: call.import, asked: call.asked, answer: call.answer };
    let imports = imports.into_iter().map(import).collect();
    Some(recordings::Question {
        binding: step.binding.clone(),
        module_name: step.module.name.to_string(),
        module_version: step.module.version.to_string(),
        module_digest: step.module.digest.to_string(),
        hook: step.hook.to_string(),
        verdict: step.verdict.to_owned(),
        micros: step.micros,
        words: recordings::Words::Whole(recordings::Transcript { input, answer, imports }),
    })
}

fn decision_step(step: Step) -> DecisionStep {
    let Step { binding, module, mode: _, hook, verdict, code, rule, micros, notes, recorded: _ } = step;
    DecisionStep {
        binding,
        module_name: module.name.to_string(),
        module_version: module.version.to_string(),
        module_digest: module.digest.to_string(),
        // The words of a shadow are its own.
        mode: if verdict.starts_with("would_") { RecordedMode::Shadow } else { RecordedMode::Enforce },
        hook: hook.to_string(),
        verdict: RecordedVerdict::parse(verdict).unwrap_or(RecordedVerdict::Error),
        reason_code: code,
        rule,
        micros,
        notes: notes.into_iter().map(|note| (note.key, note.value)).collect(),
    }
}
