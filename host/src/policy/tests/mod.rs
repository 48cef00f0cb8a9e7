//! The policy layer as a whole: real modules in the real engine, from bytes to refusals.

mod authority;
mod bindings;
mod cache;
mod contract;
mod enforcement;
mod frozen;
mod guest;
mod hostile;
mod imports;
mod items;
mod lanes;
mod loading;
mod prebuilt;
mod publish;
mod scene;
mod shadow;
mod tryout;
mod visible;

/// One policy about registrations that always answers this: for tests of whoever asks.
pub(crate) fn about_clients(answer: serde_json::Value) -> crate::policy::PolicySet {
    use crate::policy::Hook;
    let guest = guest::Guest::new().answers(Hook::Client, answer).mutates(Hook::Client);
    scene::load(vec![scene::bind("one", &guest)])
}

/// One policy about grants that always answers this.
pub(crate) fn about_grants(answer: serde_json::Value) -> crate::policy::PolicySet {
    use crate::policy::Hook;
    scene::load(vec![scene::bind("one", &guest::Guest::new().answers(Hook::Grant, answer))])
}

/// An answer about a grant that is none, so that the policy has failed.
pub(crate) fn no_answer() -> serde_json::Value {
    let terms = serde_json::json!({ "scopes": [""], "require-sender-constraint": false, "notes": [] });
    serde_json::json!({ "allow": terms })
}

/// The answer of a policy that says no.
pub(crate) fn denial(code: &str) -> serde_json::Value {
    guest::deny(code)
}
