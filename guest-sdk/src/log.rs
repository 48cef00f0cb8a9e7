//! Lines for the gateway's log, which marks them with the policy and the decision.
//!
//! The host keeps 2 KiB of a line and 32 lines of a call. Do not log arguments or results: they are the caller's.
//! Outside of WebAssembly lines are collected for [`crate::testing::logged`].

pub use crate::bindings::portcullis::policy::log::Level;

/// For the policy's author.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}

/// For the operator, when they look.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

/// Something the operator should look into.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

/// The policy cannot do its work.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

#[cfg(target_arch = "wasm32")]
fn write(level: Level, message: &str) {
    crate::bindings::portcullis::policy::log::write(level, message);
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: &str) {
    crate::testing::doubles::log::write(level, message);
}
