//! Approvals that policies want: shown, and decided. Whoever is an operator may decide them all, whomever the policy named:
//! persons are known from their sign-in only, and an operator could as well change the policy.

use super::Control;
use crate::audit::Actor;
use crate::ids::ApprovalId;
use crate::pipeline::approvals::ARGUMENTS;
use crate::store::approvals::{self as stored, Approval, Decision, Standing, TooLate, Verdict};
use crate::store::{Cursor, Page, StoreError};

/// Why an approval was not decided.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    #[error("there is no such approval; those that nobody decided are forgotten an hour after their time")]
    NotFound,
    #[error("it is decided already")]
    AlreadyDecided,
    #[error("its time is over: the caller has to ask again")]
    Lapsed,
    #[error("the store did not take the decision")]
    Store(#[from] StoreError),
}

impl Control {
    /// A page of the approvals that stand like this, or of all, newest first.
    pub async fn approvals(
        &self,
        standing: Option<Standing>,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<Approval>, StoreError> {
        stored::list(&self.store, standing, self.env.now(), after, limit).await
    }

    /// The approval with this id.
    pub async fn approval(&self, id: &ApprovalId) -> Result<Option<Approval>, StoreError> {
        stored::get(&self.store, id).await
    }

    /// The arguments that an approval is for, as they would be sent, if they were kept.
    pub fn arguments_of(&self, approval: &Approval) -> Option<String> {
        let sealed = approval.sealed_arguments.as_ref()?;
        let arguments = self.secret.unseal(ARGUMENTS, approval.bound_to.as_bytes(), sealed)?;
        String::from_utf8(arguments).ok()
    }

    /// Approves or denies. Takes effect with the caller's next request.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub async fn decide_approval(
        &self,
        id: &ApprovalId,
        verdict: Verdict,
        note: Option<String>,
        actor: Actor,
    ) -> Result<Approval, ApprovalError> {
        match stored::decide(&self.store, id, verdict, note, actor).await? {
            Decision::Decided(approval) => Ok(*approval),
            Decision::NotFound => Err(ApprovalError::NotFound),
            Decision::TooLate(TooLate::AlreadyDecided) => Err(ApprovalError::AlreadyDecided),
            Decision::TooLate(TooLate::Lapsed) => Err(ApprovalError::Lapsed),
        }
    }
}
