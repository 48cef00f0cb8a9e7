//! Refuses every tool that does not say of itself that it changes nothing.

use portcullis_guest_sdk::{Call, Context, Manifest, NoConfig, Policy, Problem, SelfTests, ToolCall, Verdict, export};

/// The policy, which has nothing to configure.
pub struct ReadOnly;

impl Policy for ReadOnly {
    type Config = NoConfig;

    fn manifest() -> Manifest {
        Manifest::new("read-only", "0.1.0", "Refuses tools that may change something")
    }

    fn configure(_: NoConfig) -> Result<Self, Vec<Problem>> {
        Ok(Self)
    }
}

impl ToolCall for ReadOnly {
    fn before(&self, _: &Context, call: &Call) -> Verdict {
        if call.tool.is_read_only() {
            return Verdict::allow();
        }
        Verdict::deny(
            "read-only.changes",
            format!("{} may change something; only reading is allowed here.", call.tool.path()),
        )
    }
}

impl SelfTests for ReadOnly {
    const CASES: &'static str = include_str!("../cases.json");
}

export!(ReadOnly with tool_call, self_tests);

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::testing::cases;

    use super::*;

    #[test]
    fn the_cases_hold() {
        cases::<ReadOnly>(ReadOnly::CASES);
    }
}
