//! Has no opinion on anything: a place to begin.

use portcullis_guest_sdk::{Call, Context, Manifest, NoConfig, Policy, Problem, SelfTests, ToolCall, Verdict, export};

/// The policy. What `configure` makes of the operator's settings goes in here.
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

impl SelfTests for Template {
    const CASES: &'static str = include_str!("../cases.json");
}

export!(Template with tool_call, self_tests);

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::testing::cases;

    use super::*;

    #[test]
    fn the_cases_hold() {
        cases::<Template>(Template::CASES);
    }
}
