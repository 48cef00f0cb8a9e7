//! What the operator writes, as it is written. What it means is in `rules`.

use std::collections::BTreeMap;

use portcullis_guest_sdk::serde::{Deserialize, Deserializer, de};
use portcullis_guest_sdk::{Approver, Hook};

/// The configuration.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub(crate) rules: Vec<Written>,
    /// The answer where no rule matches.
    #[serde(default)]
    pub(crate) otherwise: Otherwise,
}

#[derive(Clone, Copy, Default, PartialEq, Debug, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
pub(crate) enum Otherwise {
    Allow,
    Deny,
    #[default]
    Abstain,
}

/// What a rule does. Which of it goes with which hook is in `rules`.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "kebab-case")]
pub(crate) enum Then {
    Abstain,
    Allow,
    Show,
    Pass,
    Release,
    Deny,
    Hide,
    Block,
    StepUp,
    Approve,
    Throttle,
    Redact,
    Consent,
}

impl Then {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Abstain => "abstain",
            Self::Allow => "allow",
            Self::Show => "show",
            Self::Pass => "pass",
            Self::Release => "release",
            Self::Deny => "deny",
            Self::Hide => "hide",
            Self::Block => "block",
            Self::StepUp => "step-up",
            Self::Approve => "approve",
            Self::Throttle => "throttle",
            Self::Redact => "redact",
            Self::Consent => "consent",
        }
    }
}

/// How long an approval holds: `"once"`, or `{"seconds": n}`.
#[derive(Clone, Copy, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
pub(crate) enum Remember {
    Once,
    Seconds(u32),
}

/// A change: exactly one of `set`, `mask` and `remove`.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
pub(crate) struct Change {
    pub(crate) pointer: String,
    /// An expression.
    pub(crate) set: Option<String>,
    pub(crate) mask: Option<String>,
    pub(crate) remove: Option<bool>,
}

/// One hook or several.
pub(crate) struct Hooks(pub(crate) Vec<Hook>);

macro_rules! written {
    ($($member:ident: $kind:ty,)+) => {
        /// A rule as it is written: when, what, and the members that go with what.
        #[derive(Deserialize)]
        #[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
        pub(crate) struct Written {
            pub(crate) name: Option<String>,
            pub(crate) hook: Hooks,
            #[serde(rename = "if")]
            pub(crate) when: Option<String>,
            pub(crate) then: Then,
            $(#[serde(default)] pub(crate) $member: Option<$kind>,)+
        }

        impl Written {
            /// The members that nobody has taken out: those that do not go with what the rule does.
            pub(crate) fn left_over(&self) -> Vec<&'static str> {
                [$((stringify!($member), self.$member.is_some())),+]
                    .into_iter()
                    .filter_map(|(name, is_there)| is_there.then_some(name))
                    .collect()
            }
        }
    };
}

written! {
    code: String,
    message: String,
    detail: String,
    rpc_code: i32,
    rpc_data: String,
    scopes: Vec<String>,
    acr_values: Vec<String>,
    max_age_s: u32,
    title: String,
    summary: String,
    description: String,
    by: Approver,
    approvers: Vec<String>,
    ttl_s: u32,
    remember: Remember,
    retry_after_ms: u64,
    bucket: String,
    edits: Vec<Change>,
    replace: String,
    inspect_result: bool,
    timeout_ms: u32,
    notes: BTreeMap<String, String>,
    patterns: Vec<String>,
    replacement: String,
    drop_parts: String,
    tools: Vec<String>,
    access_ttl_s: u32,
    refresh_ttl_s: u32,
    require_sender_constraint: bool,
    claims: String,
    headline: String,
    warnings: Vec<String>,
}

impl<'de> Deserialize<'de> for Hooks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> de::Visitor<'de> for OneOrMore {
            type Value = Hooks;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a hook such as \"tool-call\", or a list of hooks")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Hooks, E> {
                let hook = Hook::deserialize(de::value::StrDeserializer::new(name))?;
                Ok(Hooks(vec![hook]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Hooks, A::Error> {
                let mut hooks = Vec::new();
                while let Some(hook) = items.next_element::<Hook>()? {
                    if hooks.contains(&hook) {
                        return Err(de::Error::custom(format!("{} is named twice", hook.as_str())));
                    }
                    hooks.push(hook);
                }
                Ok(Hooks(hooks))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}
