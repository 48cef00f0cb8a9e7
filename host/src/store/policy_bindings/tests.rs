//! Bindings and their versions.
