//! Has no opinion on anything: a place to begin.

use portcullis_guest_sdk::{Call, Context, Manifest, NoConfig, Policy, Problem, ToolCall, Verdict, export};

pub struct Template;

impl Policy for Template {
    type Config = NoConfig;

    fn manifest() -> Manifest {
        Manifest::new("template", "0.1.0", "Has no opinion; a place to begin")
    }

    fn configure(_: NoConfig) -> Result<Self, Vec<Problem>> {
        Ok(Self)
    }
}

impl ToolCall for Template {
    fn before(&self, _: &Context, _: &Call) -> Verdict {
        Verdict::abstain()
    }
}

export!(Template with tool_call);
