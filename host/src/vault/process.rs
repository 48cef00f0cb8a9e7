//! What the operating system may show of this process: no core dumps, and no looking into its memory.
//!
//! Buffers of our own are overwritten; those of libraries are not, so that the process as a whole is kept closed. Root can
//! still look into it.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};

/// What is shown of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// Whether it may leave a core dump, and processes of the same user may read its memory (`PR_SET_DUMPABLE`).
    pub dumpable: bool,
    /// Largest core dump, in bytes; `None` without a limit.
    pub core_limit: Option<u64>,
}

/// Forbids core dumps of this process and of those that it starts, and that others of the same user look into it.
pub fn close() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// What the operating system says now.
pub fn exposure() -> io::Result<Exposure> {
    let dumpable = dumpable_behavior()? == DumpableBehavior::Dumpable;
    Ok(Exposure { dumpable, core_limit: getrlimit(Resource::Core).current })
}
