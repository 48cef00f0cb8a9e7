//! Modules in pieces.
