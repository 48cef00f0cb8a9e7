//! Tests of this aggregate.
