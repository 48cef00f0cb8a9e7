//! Asking policies what they would say, of a recorded call or of one that an operator types. It changes nothing, and is
//! written down where something recorded is read for it ([`Control::recording`]).

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::{Control, whole_question};
use crate::audit::Actor;
use crate::env::Timestamp;
use crate::identity::Caller;
use crate::identity::tokens::TokenList;
use crate::ids::{ClientId, DecisionId, Principal, UpstreamName};
use crate::pipeline::{Snapshot, access};
use crate::policy::tryout::{Aside, NotAside, Tried, TypedCall, Variation};
use crate::store::StoreError;
use crate::upstream::catalog::Tool;

/// Questions at once.
pub(super) const MAX_AT_ONCE: usize = 2;

/// What policies are asked.
#[derive(Debug)]
pub enum Question {
    /// A recorded call, by the id of its decision.
    Recorded(String),
    Typed(Typed),
}

/// A call that nobody makes.
#[derive(Debug)]
pub struct Typed {
    pub principal: Principal,
    pub client: Option<ClientId>,
    /// What a client's token has, instead of what the principal itself has.
    pub scopes: Option<TokenList>,
    pub upstream: UpstreamName,
    /// The upstream's own name for it.
    pub tool: String,
    /// A JSON object.
    pub arguments: Box<RawValue>,
}

/// What came of it, by which policies.
#[derive(Debug)]
pub struct Answered {
    pub generation: u64,
    pub tried: Tried,
    /// Of a typed call: whether the principal may use the tool at all. Where it may not, policies are not even asked.
    pub is_admitted: bool,
    /// Questions of a recorded call that were too long to be kept.
    pub not_kept: usize,
}

/// Why policies were not asked.
#[derive(Debug, thiserror::Error)]
pub enum TryError {
    #[error("there is no recording of this decision")]
    NoRecording,
    #[error("nobody is {0} at the moment: there is no such key or account, or it is not valid")]
    NoSuchCaller(Principal),
    #[error("upstream {upstream} has no tool {tool:?} in the catalog")]
    NoSuchTool { upstream: UpstreamName, tool: String },
    #[error(transparent)]
    NotAside(#[from] NotAside),
    #[error("policies are being tried by others already")]
    Busy,
    #[error("asking was interrupted")]
    Interrupted,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Control {
    /// Asks the policies in force, or one of them, perhaps otherwise configured, without anything coming of it.
    ///
    /// # Errors
    /// [`TryError`].
    pub async fn try_policies(
        &self,
        question: Question,
        variation: Option<Variation>,
        actor: Actor,
    ) -> Result<Answered, TryError> {
        let room = self.asking_aside.clone().try_acquire_owned().map_err(|_| TryError::Busy)?;
        let snapshot = self.snapshot.load_full();
        match question {
            Question::Recorded(decision) => self.try_recorded(&snapshot, &decision, variation, (actor, room)).await,
            Question::Typed(typed) => self.try_typed(&snapshot, typed, variation, room).await,
        }
    }

    async fn try_recorded(
        &self,
        snapshot: &Arc<Snapshot>,
        decision: &str,
        variation: Option<Variation>,
        (actor, room): (Actor, OwnedSemaphorePermit),
    ) -> Result<Answered, TryError> {
        let recording = self.recording(decision, actor).await?.ok_or(TryError::NoRecording)?;
        let only = variation.as_ref().map(|variation| variation.binding.clone());
        let asked = recording.questions.into_iter();
        let asked: Vec<_> =
            asked.filter(|question| only.as_ref().is_none_or(|only| *only == question.binding)).collect();
        let count = asked.len();
        let whole = asked.into_iter().filter_map(|question| {
            let verdict = question.verdict.clone();
            Some((whole_question(recording.decision.clone(), question)?, verdict))
        });
        let whole: Vec<_> = whole.collect();
        let not_kept = count - whole.len();
        let policies = snapshot.policies.clone();
        let ask = move || {
            // It is not over before this, though nobody waits for it any more.
            let _room = room;
            Ok::<_, NotAside>(policies.to_try(variation.as_ref())?.ask_again(&whole))
        };
        let tried = tokio::task::spawn_blocking(ask).await.map_err(|_| TryError::Interrupted)??;
        Ok(Answered { generation: snapshot.policies.generation(), tried, is_admitted: true, not_kept })
    }

    async fn try_typed(
        &self,
        snapshot: &Arc<Snapshot>,
        typed: Typed,
        variation: Option<Variation>,
        room: OwnedSemaphorePermit,
    ) -> Result<Answered, TryError> {
        let now = self.env.now();
        let caller = caller_of(snapshot, &typed, now).ok_or_else(|| TryError::NoSuchCaller(typed.principal.clone()))?;
        let tool = tool_of(snapshot, &typed.upstream, &typed.tool);
        let no_such = || TryError::NoSuchTool { upstream: typed.upstream.clone(), tool: typed.tool.clone() };
        let tool = tool.ok_or_else(no_such)?;
        let is_admitted = caller.allow.permits(&typed.upstream, &typed.tool);
        let policies = snapshot.policies.clone();
        // It goes along, since what is prepared is prepared to its end though nobody waits for it any more.
        let prepare = move || (policies.to_try(variation.as_ref()), room);
        let (aside, _room) = tokio::task::spawn_blocking(prepare).await.map_err(|_| TryError::Interrupted)?;
        let aside: Aside = aside?;
        let decision = DecisionId::generate(&self.env);
        let call = TypedCall { decision, caller: &caller, tool, arguments: typed.arguments, now };
        let tried = aside.ask(call).await;
        Ok(Answered { generation: snapshot.policies.generation(), tried, is_admitted, not_kept: 0 })
    }
}

/// The caller that a principal would be now. Nobody is the gateway itself.
fn caller_of(snapshot: &Snapshot, typed: &Typed, now: Timestamp) -> Option<Caller> {
    let own = match &typed.principal {
        Principal::Key(_) => snapshot.keys.holder(&typed.principal, now)?,
        Principal::User(id) => {
            let person = snapshot.people.get(id).filter(|person| person.is_active)?;
            let caller = Caller::new(typed.principal.clone(), access::of_user(snapshot, id, now));
            Caller { groups: person.groups.clone(), ..caller }
        }
        Principal::Guest(_) | Principal::Anonymous => {
            Caller::new(typed.principal.clone(), snapshot.auth.allow.guests.clone())
        }
        Principal::Gateway => return None,
    };
    let client = typed.client.as_ref().map(|client| client.to_string().into());
    let scopes = typed.scopes.clone().unwrap_or_else(|| own.scopes.clone());
    Some(Caller { client, scopes, ..own })
}

/// The tool as the catalog has it, by the upstream's own name.
fn tool_of(snapshot: &Snapshot, upstream: &UpstreamName, name: &str) -> Option<Arc<Tool>> {
    let view = snapshot.catalog.view(Some(upstream))?;
    view.tools_after(None).find(|tool| tool.upstream == *upstream && tool.name == name).cloned()
}
