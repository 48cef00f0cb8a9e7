//! The traits that an author implements, one for each hook.
//!
//! Every method has a default without an opinion. The host makes a fresh copy of the module for each call and nothing
//! kept in memory survives it, so hooks take `&self`: the configured policy is all the state there is.

use crate::bindings::exports::portcullis::policy::list_tools::{Outcome, Override};
use crate::{
    Access, Call, CallResult, Context, Inspection, Item, ItemOutput, Listing, Policy, Question, Tool, Verdict,
    Visibility, client, credential, grant, refresh,
};

/// Hook `list_tools`: which tools a caller sees. A tool that is hidden cannot be called either.
pub trait ListTools: Policy {
    /// Judges one tool. The host asks about any tools at any time, so the answer must not depend on the others.
    fn list(&self, ctx: &Context, tool: &Tool) -> Listing {
        let _ = (ctx, tool);
        Listing::abstain()
    }

    /// Judges the tools that the host asks about at once. To be replaced only where a common part of the work is costly.
    fn filter(&self, ctx: &Context, tools: &[Tool]) -> Outcome {
        let mut outcome = Outcome { visible: Vec::with_capacity(tools.len()), overrides: Vec::new() };
        for (index, tool) in (0..).zip(tools) {
            let listing = self.list(ctx, tool);
            outcome.visible.push(listing.visibility);
            if listing.title.is_some() || listing.description.is_some() {
                let (title, description) = (listing.title, listing.description);
                outcome.overrides.push(Override { index, title, description });
            }
        }
        outcome
    }
}

/// Hook `list_items`: which resources, templates, prompts and skills a caller sees. One that is hidden cannot be used
/// either.
pub trait ListItems: Policy {
    /// Judges one item. The host asks about any items at any time, so the answer must not depend on the others.
    fn list(&self, ctx: &Context, item: &Item) -> Visibility {
        let _ = (ctx, item);
        Visibility::Abstain
    }

    /// Judges the items that the host asks about at once. To be replaced only where a common part of the work is costly.
    fn filter(&self, ctx: &Context, items: &[Item]) -> Vec<Visibility> {
        items.iter().map(|item| self.list(ctx, item)).collect()
    }
}

/// Hook `tool_call`: whether a call may go to its upstream.
pub trait ToolCall: Policy {
    /// Judges one call, before it goes to its upstream.
    fn before(&self, ctx: &Context, call: &Call) -> Verdict {
        let _ = (ctx, call);
        Verdict::abstain()
    }
}

/// Hook `tool_result`: what of a result may reach the caller.
pub trait ToolResult: Policy {
    /// Judges one result, before it goes to the caller.
    fn after(&self, ctx: &Context, result: &CallResult) -> Inspection {
        let _ = (ctx, result);
        Inspection::abstain()
    }
}

/// Hook `item_access`: whether a resource, prompt, completion or task may be used. Arguments cannot be rewritten here.
pub trait ItemAccess: Policy {
    /// Judges one use, before it goes to the upstream.
    fn before(&self, ctx: &Context, access: &Access) -> Verdict {
        let _ = (ctx, access);
        Verdict::abstain()
    }
}

/// Hook `item_result`: what of a resource, of a prompt or of a task's outcome may reach the caller.
pub trait ItemResult: Policy {
    /// Judges what the upstream answered, before it goes to the caller.
    fn after(&self, ctx: &Context, output: &ItemOutput) -> Inspection {
        let _ = (ctx, output);
        Inspection::abstain()
    }
}

/// Hook `server_request`: whether an upstream may ask this of the caller's client (sampling, elicitation, roots).
/// Parameters cannot be rewritten here.
pub trait ServerRequest: Policy {
    /// Judges one question, before it goes to the client.
    fn before(&self, ctx: &Context, question: &Question) -> Verdict {
        let _ = (ctx, question);
        Verdict::abstain()
    }
}

/// Hook `grant`: which authority a client gets from consent. It can narrow what was requested and never widen it.
pub trait Grant: Policy {
    /// Judges one request for authority.
    fn authorize(&self, ctx: &Context, request: &grant::Request) -> grant::Decision {
        let _ = (ctx, request);
        grant::Decision::Abstain
    }
}

/// Hook `refresh`: whether a refresh token may be used once more, and with which authority.
pub trait Refresh: Policy {
    /// Judges one use of a refresh token.
    fn renew(&self, ctx: &Context, request: &refresh::Request) -> refresh::Decision {
        let _ = (ctx, request);
        refresh::Decision::Abstain
    }
}

/// Hook `client`: whether a client may register, and with which metadata.
pub trait Client: Policy {
    /// Judges one registration.
    fn register(&self, ctx: &Context, request: &client::Request) -> client::Decision {
        let _ = (ctx, request);
        client::Decision::Abstain
    }
}

/// Hook `credential`: whether a stored credential for an upstream may be used for a caller.
pub trait Credential: Policy {
    /// Judges one use of a credential.
    fn release(&self, ctx: &Context, request: &credential::Request) -> credential::Decision {
        let _ = (ctx, request);
        credential::Decision::Abstain
    }
}
