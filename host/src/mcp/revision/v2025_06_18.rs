//! 2025-06-18: no more batches, structured tool output, the version header. Its wire form of what we serve equals
//! that of 2025-11-25, see [`super::legacy`].

pub const VERSION: &str = "2025-06-18";
