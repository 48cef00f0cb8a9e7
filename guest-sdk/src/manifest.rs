//! What a policy says about itself: the builder behind the contract's `manifest` interface.
//!
//! The list of hooks is not here: it is what [`crate::export!`] names, so the two cannot disagree.

use crate::{Capability, Determinism, Hook, Info, Need, Payload};

/// Name, version and needs of a policy.
#[derive(Clone, Debug)]
pub struct Manifest {
    info: Info,
}

impl Manifest {
    /// A policy without configuration that needs to see nothing but the facts that every hook gets.
    ///
    /// `name` is `[a-z0-9-]`, at most 64 bytes; `version` is usually `env!("CARGO_PKG_VERSION")`; `title` is the
    /// sentence that an operator sees in lists.
    pub fn new(name: &str, version: &str, title: &str) -> Self {
        Self {
            info: Info {
                name: name.to_owned(),
                version: version.to_owned(),
                title: title.to_owned(),
                license: None,
                hooks: Vec::new(),
                mutates: Vec::new(),
                needs: Vec::new(),
                capabilities: Capability::empty(),
                determinism: Determinism::Pure,
                config_schema: r#"{"type":"object","additionalProperties":false}"#.to_owned(),
                sample_config: "{}".to_owned(),
                min_host: None,
            },
        }
    }

    /// An SPDX expression.
    #[must_use]
    pub fn license(mut self, expression: &str) -> Self {
        self.info.license = Some(expression.to_owned());
        self
    }

    /// The JSON Schema of the configuration, and a sample that `configure` accepts.
    #[must_use]
    pub fn config(mut self, schema: &str, sample: &str) -> Self {
        schema.clone_into(&mut self.info.config_schema);
        sample.clone_into(&mut self.info.sample_config);
        self
    }

    /// What one hook wants to see. What is not asked for is not sent.
    #[must_use]
    pub fn needs(mut self, need: Need) -> Self {
        self.info.needs.retain(|other| other.hook != need.hook);
        self.info.needs.push(need);
        self
    }

    /// This hook may change what passes: `ToolCall` rewrites arguments, `ToolResult` and `ItemResult` redact, `ListTools`
    /// changes titles or descriptions, `Client` edits metadata.
    #[must_use]
    pub fn mutates(mut self, hook: Hook) -> Self {
        self.info.mutates.push(hook);
        self
    }

    /// The policy calls [`crate::clock`], [`crate::random`], [`crate::counters`] or [`crate::sets`]. The operator has to
    /// grant it in the binding.
    #[must_use]
    pub fn capability(mut self, capability: Capability) -> Self {
        self.info.capabilities |= capability;
        self
    }

    /// The answers depend on `Context::now_ms` too. Capabilities say for themselves what answers depend on.
    #[must_use]
    pub fn time_dependent(mut self) -> Self {
        self.info.determinism = Determinism::TimeDependent;
        self
    }

    /// Oldest version of Portcullis that the policy works with.
    #[must_use]
    pub fn min_host(mut self, version: &str) -> Self {
        self.info.min_host = Some(version.to_owned());
        self
    }

    /// The contract's record. Every exported hook gets a need, so that the host finds an explicit answer for each.
    pub(crate) fn into_info(self, hooks: &[Hook]) -> Info {
        let mut info = self.info;
        for hook in hooks {
            if !info.needs.iter().any(|need| need.hook == *hook) {
                info.needs.push(Need::of(*hook));
            }
        }
        info.hooks = hooks.to_vec();
        if info.capabilities.intersects(Capability::COUNTERS | Capability::RANDOM) {
            info.determinism = Determinism::Stateful;
        } else if info.capabilities.contains(Capability::CLOCK) {
            info.determinism = Determinism::TimeDependent;
        }
        info
    }
}

impl Need {
    /// Nothing beyond the facts that this hook always gets.
    pub fn of(hook: Hook) -> Self {
        Self {
            hook,
            arguments: Payload::None,
            output: Payload::None,
            texts: false,
            claims: Vec::new(),
            ext: Vec::new(),
        }
    }

    /// The arguments (`ToolCall`, `ItemAccess`) or parameters (`ServerRequest`).
    #[must_use]
    pub fn arguments(mut self) -> Self {
        self.arguments = Payload::Full;
        self
    }

    /// Texts (`ToolResult`, `ItemResult`) and structured content (`ToolResult`) of the result.
    #[must_use]
    pub fn output(mut self) -> Self {
        self.output = Payload::Full;
        self
    }

    /// Titles, descriptions and input schemas of tools.
    #[must_use]
    pub fn texts(mut self) -> Self {
        self.texts = true;
        self
    }

    /// A claim of the caller, read with [`crate::Caller::claim`]. `*` stands for all that the caller has.
    #[must_use]
    pub fn claim(mut self, name: &str) -> Self {
        self.claims.push(name.to_owned());
        self
    }

    /// A further fact, read with [`crate::Context::ext`].
    #[must_use]
    pub fn ext(mut self, name: &str) -> Self {
        self.ext.push(name.to_owned());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exported_hook_has_a_need() {
        let info = Manifest::new("sample", "1.2.3", "A sample")
            .needs(Need::of(Hook::ToolCall))
            .needs(Need::of(Hook::ToolCall).arguments().claim("department"))
            .into_info(&[Hook::ListTools, Hook::ToolCall]);
        assert_eq!(info.hooks, [Hook::ListTools, Hook::ToolCall]);
        let needs: Vec<_> = info.needs.iter().map(|need| (need.hook, need.arguments)).collect();
        assert_eq!(needs, [(Hook::ToolCall, Payload::Full), (Hook::ListTools, Payload::None)]);
        assert_eq!(info.needs[0].claims, ["department"]);
    }

    #[test]
    fn what_answers_depend_on_follows_from_the_capabilities() {
        let of =
            |capability| Manifest::new("sample", "1.2.3", "A sample").capability(capability).into_info(&[]).determinism;
        assert_eq!(of(Capability::empty()), Determinism::Pure);
        assert_eq!(of(Capability::SETS), Determinism::Pure);
        assert_eq!(of(Capability::CLOCK | Capability::SETS), Determinism::TimeDependent);
        assert_eq!(of(Capability::COUNTERS | Capability::CLOCK), Determinism::Stateful);
        let told = Manifest::new("sample", "1.2.3", "A sample").time_dependent().into_info(&[]);
        assert_eq!(told.determinism, Determinism::TimeDependent);
    }
}
