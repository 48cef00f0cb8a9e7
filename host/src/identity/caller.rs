//! Who acts over MCP, once identity is established.

use std::sync::Arc;

use super::tokens::TokenList;
use crate::identity::key::AllowList;
use crate::ids::Principal;

/// A caller whose credential was checked. Only `identity` makes one from a request.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Principal,
    /// The id of the OAuth client that acts; none where a virtual key is used directly.
    pub client: Option<Arc<str>>,
    /// What the principal may use at all, before any policy is asked.
    pub allow: Arc<AllowList>,
    /// For policies to read.
    pub scopes: TokenList,
    /// For policies to read.
    pub groups: TokenList,
}

impl Caller {
    /// A principal that acts for itself, without scopes and groups.
    pub fn new(principal: Principal, allow: Arc<AllowList>) -> Self {
        Self { principal, client: None, allow, scopes: TokenList::default(), groups: TokenList::default() }
    }

    /// The id of the client that acts, or the empty string where there is none.
    pub fn client_id(&self) -> &str {
        self.client.as_deref().unwrap_or_default()
    }
}
