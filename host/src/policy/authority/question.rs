//! Questions of authority for policies in shadow.

use super::super::asking::{Asking, CallContext};
use super::super::bindings::{BoundPolicy, PolicySet};
use super::super::decision::{Hook, Refusal, Step};
use super::super::matching::About;
use super::{ClientRequest, CredentialRequest, GrantRequest, RefreshRequest};

/// What was to be decided.
#[derive(Debug)]
pub(in crate::policy) enum AuthorityQuestion {
    Grant(GrantRequest),
    Refresh(RefreshRequest),
    Client(ClientRequest),
    Credential(CredentialRequest),
}

impl AuthorityQuestion {
    pub(in crate::policy) const fn hook(&self) -> Hook {
        match self {
            Self::Grant(_) => Hook::Grant,
            Self::Refresh(_) => Hook::Refresh,
            Self::Client(_) => Hook::Client,
            Self::Credential(_) => Hook::Credential,
        }
    }

    pub(in crate::policy) fn about(&self) -> About<'_> {
        match self {
            Self::Grant(request) => About::Authority(&request.upstreams),
            Self::Refresh(request) => About::Authority(&request.upstreams),
            Self::Client(_) => About::Authority(&[]),
            Self::Credential(request) => {
                About::Credential { upstream: &request.upstream, tool: request.tool.as_deref() }
            }
        }
    }

    /// About how much memory its texts take.
    pub(in crate::policy) fn bytes(&self) -> usize {
        let all = |texts: &[String]| texts.iter().map(|text| 32 + text.len()).sum::<usize>();
        match self {
            Self::Grant(request) => {
                request.client.metadata.get().len()
                    + all(&request.scopes)
                    + all(&request.already_granted)
                    + all(&request.resources)
            }
            Self::Refresh(request) => all(&request.granted.scopes) + all(&request.requested),
            Self::Client(request) => request.metadata.get().len(),
            Self::Credential(request) => all(&request.scopes),
        }
    }
}

impl PolicySet {
    /// Asks one policy in shadow.
    pub(in crate::policy) async fn ask_shadow_about_authority(
        &self,
        policy: &BoundPolicy,
        ctx: &CallContext<'_>,
        question: &AuthorityQuestion,
        steps: &mut Vec<Step>,
    ) -> Result<(), Refusal> {
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, question.hook(), &[policy], steps);
        match question {
            AuthorityQuestion::Grant(request) => self.ask_about_grant(&mut asking, policy, request).await.map(drop),
            AuthorityQuestion::Refresh(request) => self.ask_about_refresh(&mut asking, policy, request).await.map(drop),
            AuthorityQuestion::Client(request) => {
                self.ask_about_client(&mut asking, policy, request, &request.metadata, &|_| Ok(())).await.map(drop)
            }
            AuthorityQuestion::Credential(request) => {
                self.ask_about_credential(&mut asking, policy, request).await.map(drop)
            }
        }
    }
}
