//! Connections at work: Portcullis as OAuth client of upstreams' authorization servers, and as the keeper that lends what
//! they gave.
//!
//! [`connecting`] is a person's way to a connection, [`keeper`] what becomes of one, [`provider`] what is said to
//! authorization servers. What a connection is is `connection`, where it is kept `store::connections`.

pub mod connecting;
pub mod issuer;
pub mod keeper;
pub mod provider;
