//! Refuses every tool that does not say of itself that it changes nothing.

use portcullis_guest_sdk::{Call, Context, Manifest, NoConfig, Policy, Problem, ToolCall, Verdict, export};

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

export!(ReadOnly with tool_call);

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::ToolHints;
    use portcullis_guest_sdk::serde_json::json;
    use portcullis_guest_sdk::testing::{call, context, hinted, tool};

    use super::*;

    #[test]
    fn only_reading_is_allowed() {
        let read = hinted("notes", "read_note", ToolHints::READ_ONLY);
        assert!(matches!(ReadOnly.before(&context(), &call(read, &json!({}))), Verdict::Allow(_)));
        let delete = tool("notes", "delete_note");
        assert!(matches!(ReadOnly.before(&context(), &call(delete, &json!({}))), Verdict::Deny(_)));
    }
}
