//! 2025-11-25: URL-mode elicitation, SSE polling, icons, experimental tasks. Of these, what passes through tools
//! needs no work here; what a legacy session needs is in [`super::legacy`].

pub const VERSION: &str = "2025-11-25";
