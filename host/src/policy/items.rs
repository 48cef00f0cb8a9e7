//! Where prompts, resources, tasks and questions to clients are permitted: one function for each kind, and every surface
//! goes through them.
//!
//! The contract's interfaces for these kinds are not bound to modules yet, so that what decides here is the caller's
//! allow-list and what its client declared. A refusal looks like the absence of the item.

use super::asking::CallContext;
use super::bindings::PolicySet;
use super::chain::Permit;
use super::decision::{Refusal, Trail};
use crate::ids::UpstreamName;
use crate::mcp::call::{Access, Outcome};
use crate::mcp::client::Client;
use crate::mcp::talk::{Ask, Question};

impl PolicySet {
    /// Whether the caller sees an upstream's prompts and resources.
    pub fn shows_items(&self, ctx: &CallContext<'_>, upstream: &UpstreamName) -> bool {
        ctx.caller.allow.permits_items(upstream)
    }

    /// Whether a prompt, resource or task may be used, and as what.
    ///
    /// A task belongs to a call that was permitted and is named by an id that only its caller has.
    pub fn check_access(&self, ctx: &CallContext<'_>, access: Access) -> (Result<Permit<Access>, Refusal>, Trail) {
        let is_task = matches!(access.item, crate::mcp::call::Item::Task { .. });
        let permits =
            if is_task { ctx.caller.allow.reaches(&access.upstream) } else { self.shows_items(ctx, &access.upstream) };
        let permit = if permits { Ok(Permit::of(access)) } else { Err(Refusal::Hidden) };
        (permit, Trail::default())
    }

    /// What of the outcome of an access may reach the caller.
    pub fn inspect_access(
        &self,
        _ctx: &CallContext<'_>,
        _upstream: &UpstreamName,
        outcome: Outcome,
    ) -> (Result<Outcome, Refusal>, Trail) {
        (Ok(outcome), Trail::default())
    }

    /// Whether an upstream may ask this of the caller's client.
    ///
    /// # Errors
    /// The question itself where it may not, so that it can be answered.
    pub fn check_ask(&self, client: &Client, ask: Ask) -> Result<Permit<Ask>, Ask> {
        if self.permits_question(client, ask.question) { Ok(Permit::of(ask)) } else { Err(ask) }
    }

    /// Whether a question of this kind may reach the caller's client.
    pub fn permits_question(&self, client: &Client, question: Question) -> bool {
        client.answers(question)
    }
}
