//! Schemas of words, for fields whose types are texts. The words are those of the nouns: a test compares.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident: $($word:literal)*;)*) => {$(
        $(#[$doc])*
        pub(in crate::http::api) enum $name {}

        impl $name {
            pub(super) const ALL: &[&str] = &[$($word),*];
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let words = Self::ALL.iter().copied();
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

words! {
    /// What people may do as operators.
    RoleWord: "user" "viewer" "operator" "owner";
    /// How it is known who somebody is.
    ProofWord: "socket" "operator_token" "session" "api_token";
    UserStatusWord: "invited" "active" "suspended" "deleted";
    GrantStateWord: "active" "revoked" "expired";
    PrincipalKindWord: "key" "user" "guest";
    ConnectionStateWord: "active" "needs_reauth" "needs_update" "orphaned" "unused";
    FlowStageWord: "pending" "claimed" "over";
    ApprovalStateWord: "pending" "approved" "used" "denied" "lapsed";
    PinStateWord: "pinned" "changed" "first-seen" "gone";
    UpstreamStateWord: "starting" "up" "down" "disabled" "broken";
    TrialOutcomeWord: "works" "wants_credential" "failed";
    TrialStageWord: "settings" "reach" "speak" "list";
    SigningKeyStateWord: "announced" "active" "retired";
    ManagedByWord: "file" "store";
    /// How much of an upstream's tools.
    ExtentWord: "none" "some" "all";
    /// `line`: its own list has a line for it; `open_to_all_keys`: every key may use the upstream; `no_pattern`: no line for the
    /// upstream names it; `no_line`: there is no line for the upstream.
    ReachedByWord: "line" "open_to_all_keys" "no_pattern" "no_line";
    ClientOriginWord: "file" "operator" "registered";
    ModeWord: "enforce" "shadow";
    BindingModeWord: "enforce" "shadow" "off";
    OutcomeWord: "result" "tool_error" "error" "refused" "cancelled";
    /// What a policy said, or all together; of one in shadow, what it would have said.
    VerdictWord: "abstain" "allow" "release" "consent" "deny" "hidden" "step-up" "approve" "throttle" "show" "hide" "filter"
        "pass" "redact" "block" "error" "would_abstain" "would_release" "would_consent" "would_allow" "would_deny"
        "would_step-up" "would_approve" "would_throttle" "would_show" "would_hide" "would_filter" "would_pass"
        "would_redact" "would_block" "would_error";
}
