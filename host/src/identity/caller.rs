//! Who acts over MCP, once identity is established.

use std::sync::Arc;

use crate::identity::key::AllowList;
use crate::ids::Principal;

/// A caller whose credential was checked. Only `identity::bearer` makes one.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Principal,
    /// What the principal may use at all, before any policy is asked.
    pub allow: Arc<AllowList>,
}
