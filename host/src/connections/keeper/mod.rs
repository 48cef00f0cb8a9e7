//! The keeper: opens, renews, lends and ends connections.
