//! Permits that somebody has to agree to first.
//!
//! A policy that wants an approval refuses, and says for what. If the approval is there, the policies are asked again,
//! and the one that wanted it is told so; if not, somebody is asked, and the caller may come again. An approval is good
//! for one caller, one tool as it is defined now and one set of arguments, as they would be sent: whatever policies
//! rewrite is done before. What was given for one request is used up in one transaction before the request goes.
//!
//! Where an upstream wants to know something first, a modern caller makes its request again (MRTR). It brings back, sealed,
//! which approvals it used: each further round is one step of the same use, in order, so that no round can be repeated.

use tokio::time::Instant;

use super::recording::Recording;
use super::state::Carried;
use super::{Origin, Refusal, Services, Snapshot, mark, settled, view};
use crate::env::Timestamp;
use crate::ids::{ApprovalId, BindingName, UpstreamName};
use crate::mcp::call::{Access, Call};
use crate::mcp::canonical::comparable;
use crate::policy::{
    self, ApprovalWanted, CallContext, Failure, Hook, ItemFacts, Permit, PolicySet, Reason, Satisfied, Trail,
};
use crate::secret::Digest;
use crate::store::StoreError;
use crate::store::approvals::{self as stored, Approval, Consumption, Memory, Request, State, Subject, Use, Wish};

/// Approvals that one request may take; so often, and once more, the policies are asked about it.
const MAX_APPROVALS: usize = 8;
/// Longest arguments that are kept for whoever decides.
const MAX_KEPT_ARGUMENTS: usize = 48 * 1024;
/// What those are sealed for.
pub const ARGUMENTS: &str = "approval arguments";

/// Why a request does not go that policies would let pass if somebody agreed.
#[derive(Debug)]
pub struct Unapproved {
    /// The policy that wants the approval.
    pub binding: BindingName,
    pub reason: Reason,
    pub title: String,
    pub standing: Standing,
    /// Whether it is for a call of a tool, which has a result that a model reads.
    pub is_call: bool,
}

/// What became of asking for an approval.
#[derive(Debug)]
pub enum Standing {
    /// Nobody has decided yet.
    Pending {
        id: ApprovalId,
        until: Timestamp,
    },
    Denied {
        id: ApprovalId,
        until: Timestamp,
        note: Option<String>,
    },
    /// So many wait for a decision that no more are taken.
    TooMany,
}

/// What policies decide on, and an approval can be for.
trait Decided: Clone + Send {
    /// Which policies are asked about it.
    const HOOK: Hook;

    fn check(
        self,
        policies: &PolicySet,
        ctx: &CallContext<'_>,
        facts: ItemFacts<'_>,
    ) -> impl Future<Output = (Result<Permit<Self>, policy::Refusal>, Trail)> + Send;

    fn upstream(&self) -> &UpstreamName;

    /// The upstream's own name for it.
    fn item(&self) -> &str;

    /// Digest of its definition; empty for what has none.
    fn definition(&self) -> &str;

    /// What of it an approval is for, as JSON text.
    fn arguments(&self) -> String;
}

impl Decided for Call {
    const HOOK: Hook = Hook::ToolCall;

    async fn check(
        self,
        policies: &PolicySet,
        ctx: &CallContext<'_>,
        _: ItemFacts<'_>,
    ) -> (Result<Permit<Self>, policy::Refusal>, Trail) {
        policies.check(ctx, self).await
    }

    fn upstream(&self) -> &UpstreamName {
        &self.tool.upstream
    }

    fn item(&self) -> &str {
        &self.tool.name
    }

    fn definition(&self) -> &str {
        &self.tool.digest
    }

    fn arguments(&self) -> String {
        Self::arguments(self).map_or_else(String::new, |arguments| arguments.get().to_owned())
    }
}

impl Decided for Access {
    const HOOK: Hook = Hook::ItemAccess;

    async fn check(
        self,
        policies: &PolicySet,
        ctx: &CallContext<'_>,
        facts: ItemFacts<'_>,
    ) -> (Result<Permit<Self>, policy::Refusal>, Trail) {
        policies.check_access(ctx, self, facts).await
    }

    fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    fn item(&self) -> &str {
        self.item.name()
    }

    fn definition(&self) -> &'static str {
        ""
    }

    fn arguments(&self) -> String {
        self.params.members.to_raw().get().to_owned()
    }
}

/// Lets the policies decide about a call; where they want an approval, finds or asks for it.
///
/// # Errors
/// [`Refusal::Policy`], [`Refusal::Unapproved`] or [`Refusal::Store`].
pub(super) async fn permit_call(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    call: Call,
    carried: Carried,
) -> Result<Permit<Call>, Refusal> {
    permit(snapshot, services, origin, recording, call, ItemFacts::default(), carried).await
}

/// The same for something else than a tool.
///
/// # Errors
/// The same.
pub(super) async fn permit_access(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    access: Access,
    facts: ItemFacts<'_>,
    carried: Carried,
) -> Result<Permit<Access>, Refusal> {
    permit(snapshot, services, origin, recording, access, facts, carried).await
}

async fn permit<T: Decided>(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    decided: T,
    facts: ItemFacts<'_>,
    carried: Carried,
) -> Result<Permit<T>, Refusal> {
    let policies = &*snapshot.policies;
    if !policies.concerns(T::HOOK) {
        let ctx = CallContext { view: view(snapshot, origin), ..recording.context(services, origin) };
        let checked = decided.check(policies, &ctx, facts).await;
        return settled(recording, checked);
    }
    // Boxed, so that a request without policies does not pay for its size.
    Box::pin(with_approvals(snapshot, services, origin, recording, decided, facts, carried)).await
}

async fn with_approvals<T: Decided>(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    decided: T,
    facts: ItemFacts<'_>,
    mut carried: Carried,
) -> Result<Permit<T>, Refusal> {
    if carried.is_charged_for(|| decided.arguments()) {
        recording.was_charged();
    }
    let mut uses: Vec<Use> = Vec::new();
    // The policy that was satisfied last, and the arguments that were approved.
    let mut approved: Option<(BindingName, Digest)> = None;
    for left in (0..=MAX_APPROVALS).rev() {
        let ctx = CallContext { view: view(snapshot, origin), ..recording.context(services, origin) };
        let (checked, trail) = decided.clone().check(&snapshot.policies, &ctx, facts).await;
        recording.heard_again(trail);
        let (binding, wanted) = match checked {
            Ok(permit) => {
                if let Some((binding, arguments)) = approved
                    && digest(&permit.get().arguments()) != arguments
                {
                    let what = "the arguments are not those any more that it wanted an approval for".to_owned();
                    return Err(failed(binding, what));
                }
                if written(origin, use_up(services, &uses)).await? {
                    recording.permitted(services, || decided.arguments(), uses);
                    return Ok(permit);
                }
                // Another request was faster. What is left is found, or asked for, anew.
                (uses, approved, carried) = (Vec::new(), None, Carried::default());
                recording.nothing_satisfied();
                continue;
            }
            Err(policy::Refusal::ApprovalNeeded { binding, .. }) if left == 0 => {
                return Err(failed(binding, format!("a request takes at most {MAX_APPROVALS} approvals")));
            }
            Err(policy::Refusal::ApprovalNeeded { binding, approval }) => (binding, approval),
            Err(refusal) => return Err(Refusal::Policy(refusal)),
        };
        let satisfied = Satisfied { binding: binding.clone(), code: wanted.reason.code.clone() };
        if recording.is_satisfied(&satisfied) {
            return Err(failed(binding, "it wants an approval although it was told that it is given".to_owned()));
        }
        let arguments = match &wanted.arguments {
            Some(arguments) => arguments.get().to_owned(),
            None => decided.arguments(),
        };
        let subject = Subject {
            principal: origin.caller.principal.clone(),
            client: origin.caller.client_id().to_owned(),
            operation: recording.operation().to_owned(),
            upstream: decided.upstream().clone(),
            item: decided.item().to_owned(),
            definition: decided.definition().to_owned(),
            arguments: digest(&arguments),
            policy: binding.clone(),
            code: wanted.reason.code.clone(),
        };
        if approved.as_ref().is_some_and(|(_, arguments)| *arguments != subject.arguments) {
            return Err(failed(
                binding,
                "the arguments change from one time that they are looked at to the next".to_owned(),
            ));
        }
        approved = Some((binding.clone(), subject.arguments));
        let bound_to = subject.digest();
        if let Some(used) = carried.approval(&bound_to) {
            recording.needed(&used.id);
            uses.push(used);
        } else {
            match written(origin, ask(services, subject, &wanted, &arguments)).await? {
                Asked::Given(given) => {
                    recording.needed(&given.id);
                    if let State::GivenOnce { .. } = given.state {
                        uses.push(Use { id: given.id, bound_to, round: 0 });
                    }
                }
                Asked::Not(standing) => {
                    if let Standing::Pending { id, .. } | Standing::Denied { id, .. } = &standing {
                        recording.needed(id);
                    }
                    let ApprovalWanted { title, reason, .. } = *wanted;
                    let is_call = T::HOOK == Hook::ToolCall;
                    let unapproved = Unapproved { binding, reason, title, standing, is_call };
                    return Err(Refusal::Unapproved(Box::new(unapproved)));
                }
            }
        }
        recording.satisfied(satisfied);
    }
    // Each time that all was given, other requests were faster.
    Err(Refusal::Policy(policy::Refusal::NoPolicyAllowed { hook: T::HOOK }))
}

fn failed(binding: BindingName, what: String) -> Refusal {
    Refusal::Policy(policy::Refusal::PolicyFailed { binding, failure: Failure::InvalidAnswer { what } })
}

/// Digest of a JSON text, the same for all that mean the same.
pub(super) fn digest(json: &str) -> Digest {
    Digest::of(comparable(json).as_bytes())
}

/// What comes of a write to the store, which the request's trace is told of.
async fn written<T>(origin: &Origin, write: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let begun = Instant::now();
    let written = write.await;
    let failure = written.is_err().then_some("store");
    mark::note(origin, "store write", begun.elapsed(), None, failure);
    written
}

/// Whether all of them were still there to be used.
async fn use_up(services: &Services, uses: &[Use]) -> Result<bool, Refusal> {
    if uses.is_empty() {
        return Ok(true);
    }
    let consumption = stored::consume(&services.store, uses.to_vec()).await.map_err(Refusal::Store)?;
    Ok(consumption == Consumption::Consumed)
}

pub(super) enum Asked {
    Given(Box<Approval>),
    Not(Standing),
}

/// Finds the approval for a subject. If it is neither given nor denied nor asked for, it is asked for now.
async fn ask(
    services: &Services,
    subject: Subject,
    wanted: &ApprovalWanted,
    arguments: &str,
) -> Result<Asked, Refusal> {
    ask_for(services, subject, wish(wanted), arguments).await.map_err(Refusal::Store)
}

/// The same, as it is wished for.
pub(super) async fn ask_for(
    services: &Services,
    subject: Subject,
    wish: Wish,
    arguments: &str,
) -> Result<Asked, StoreError> {
    let bound_to = subject.digest();
    let found = stored::find(&services.store, bound_to).await?;
    let counts = |approval: &Approval| {
        let standing = approval.standing(services.env.now());
        !matches!(standing, stored::Standing::Lapsed | stored::Standing::Used)
    };
    let approval = match found.filter(counts) {
        Some(approval) => approval,
        None => {
            let sealed = (arguments.len() <= MAX_KEPT_ARGUMENTS)
                .then(|| services.secret.seal(ARGUMENTS, bound_to.as_bytes(), arguments.as_bytes()));
            let id = ApprovalId::generate(&services.env);
            match stored::request(&services.store, id, subject, wish, sealed).await? {
                Request::Found(approval) => *approval,
                Request::TooMany => return Ok(Asked::Not(Standing::TooMany)),
            }
        }
    };
    let (id, until) = (approval.id.clone(), approval.ends());
    Ok(match &approval.state {
        State::Given { .. } | State::GivenOnce { .. } => Asked::Given(Box::new(approval)),
        State::Denied { said, .. } => Asked::Not(Standing::Denied { id, until, note: said.note.clone() }),
        State::Pending { .. } | State::Used { .. } => Asked::Not(Standing::Pending { id, until }),
    })
}

/// An approval as a policy wants it.
pub(super) fn wish(wanted: &ApprovalWanted) -> Wish {
    Wish {
        title: wanted.title.clone(),
        summary: wanted.summary.clone(),
        by: match &wanted.by {
            policy::Approver::Caller => stored::Approver::Caller,
            policy::Approver::Operator => stored::Approver::Operator,
            policy::Approver::Listed(names) => stored::Approver::Listed(names.clone()),
        },
        ttl: wanted.ttl,
        memory: match wanted.remember {
            policy::Remember::Once => Memory::Once,
            policy::Remember::For(time) => Memory::For(time),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::audit::{Actor, OperatorProof};
    use crate::ids::{KeyName, Principal};
    use crate::store::approvals::Verdict;

    fn wanted() -> ApprovalWanted {
        let reason = Reason { code: "c".to_owned(), message: "m".to_owned(), rule: None, detail: None };
        ApprovalWanted {
            title: "t".to_owned(),
            summary: "s".to_owned(),
            by: policy::Approver::Listed(vec!["ann".to_owned()]),
            ttl: Duration::from_secs(60),
            remember: policy::Remember::Once,
            reason,
            arguments: None,
        }
    }

    fn subject(arguments: &str) -> Subject {
        Subject {
            principal: Principal::Key(KeyName::parse("ci").unwrap()),
            client: String::new(),
            operation: "tools/call".to_owned(),
            upstream: UpstreamName::parse("notes").unwrap(),
            item: "delete".to_owned(),
            definition: String::new(),
            arguments: digest(arguments),
            policy: BindingName::parse("confirm").unwrap(),
            code: "c".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_is_asked_for_can_be_read_by_who_decides() {
        let services = Services::for_tests().await;
        let arguments = r#"{"password":"hunter2"}"#;
        let asked = ask(&services, subject(arguments), &wanted(), arguments).await.unwrap();
        let Asked::Not(Standing::Pending { id, .. }) = asked else { panic!("nobody has decided") };
        let approval = stored::get(&services.store, &id).await.unwrap().unwrap();
        assert_eq!(approval.wish.by, stored::Approver::Listed(vec!["ann".to_owned()]));
        let sealed = approval.sealed_arguments.unwrap();
        let bound_to = subject(arguments).digest();
        let opened = services.secret.unseal(ARGUMENTS, bound_to.as_bytes(), &sealed).unwrap();
        assert_eq!(opened, arguments.as_bytes());
        assert!(services.secret.unseal(ARGUMENTS, subject("{}").digest().as_bytes(), &sealed).is_none());

        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_KEPT_ARGUMENTS));
        let asked = ask(&services, subject(&large), &wanted(), &large).await.unwrap();
        let Asked::Not(Standing::Pending { id, .. }) = asked else { panic!("nobody has decided") };
        assert_eq!(stored::get(&services.store, &id).await.unwrap().unwrap().sealed_arguments, None);
    }

    #[tokio::test]
    async fn what_was_decided_is_found() {
        let services = Services::for_tests().await;
        let actor = Actor::Operator(OperatorProof::Socket);
        for (verdict, arguments) in [(Verdict::Approve, "{}"), (Verdict::Deny, "[]")] {
            let asked = ask(&services, subject(arguments), &wanted(), arguments).await.unwrap();
            let Asked::Not(Standing::Pending { id, .. }) = asked else { panic!("nobody has decided") };
            stored::decide(&services.store, &id, verdict, Some("why".to_owned()), actor).await.unwrap();
            let found = ask(&services, subject(arguments), &wanted(), arguments).await.unwrap();
            match (verdict, found) {
                (Verdict::Approve, Asked::Given(given)) => assert_eq!(given.id, id),
                (Verdict::Deny, Asked::Not(Standing::Denied { note, .. })) => assert_eq!(note.as_deref(), Some("why")),
                _ => panic!("it was decided otherwise"),
            }
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_is_neither_a_refusal_nor_an_approval() {
        let services = Services::for_tests().await;
        services.store.close().await;
        let asked = ask(&services, subject("{}"), &wanted(), "{}").await;
        assert!(matches!(asked, Err(Refusal::Store(_))));
        let used = Use { id: ApprovalId::parse(&"0a".repeat(12)).unwrap(), bound_to: digest("{}"), round: 0 };
        assert!(matches!(use_up(&services, &[used]).await, Err(Refusal::Store(_))));
        assert!(use_up(&services, &[]).await.unwrap(), "what needs none does not ask");
    }
}
