//! 2025-06-18: no more batches, structured tool output, the version header, elicitation by form (2025-06-18, changelog).
//! See [`super::legacy`].

use super::Traits;

pub const VERSION: &str = "2025-06-18";

pub(super) const TRAITS: Traits = Traits {
    batches: false,
    version_header: true,
    primed_streams: false,
    completions: true,
    elicitation_form: true,
    elicitation_url: false,
    tasks: false,
    passes: |_| false,
};
