//! Policies of the store, over a store in memory.
