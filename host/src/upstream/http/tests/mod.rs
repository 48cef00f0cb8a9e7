//! The link against an upstream that follows a script.

mod detection;
mod modern;
mod scene;
mod sessions;
mod sse;
mod streams;
mod watches;
