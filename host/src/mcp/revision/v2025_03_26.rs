//! 2025-03-26: streamable HTTP, and the only revision with JSON-RPC batches, which receivers must accept
//! (2025-03-26, basic § batching). See [`super::legacy`].

use super::Traits;

pub const VERSION: &str = "2025-03-26";

pub(super) const TRAITS: Traits = Traits {
    batches: true,
    version_header: false,
    primed_streams: false,
    completions: true,
    elicitation_form: false,
    elicitation_url: false,
    tasks: false,
    passes: |_| false,
};
