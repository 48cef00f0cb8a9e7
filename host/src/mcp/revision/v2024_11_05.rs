//! 2024-11-05: the first revision. Its HTTP transport is two endpoints, a stream and a place to post to; its wire form of
//! what we serve is in [`super::legacy`].

use super::Traits;

pub const VERSION: &str = "2024-11-05";

pub(super) const TRAITS: Traits = Traits {
    batches: false,
    version_header: false,
    primed_streams: false,
    // `completion/complete` is there, the capability came later (2025-03-26, changelog).
    completions: false,
    elicitation_form: false,
    elicitation_url: false,
    tasks: false,
    passes: |_| false,
};
