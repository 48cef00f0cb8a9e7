//! The modern era on the wire: each request stands alone, and closing the connection takes it back.

use std::sync::Arc;

use axum::response::Response;
use serde_json::value::RawValue;

use super::{From, Mcp, Ticket};
use crate::http::error::Refused;
use crate::mcp::message::RequestId;
use crate::mcp::revision::{Revision, v2026_07_28};

pub(super) async fn request(
    mcp: &Arc<Mcp>,
    from: From<'_>,
    id: RequestId,
    method: &str,
    params: Option<&RawValue>,
) -> Result<Response, Refused> {
    let request = v2026_07_28::decode(from.headers, method, params)
        .map_err(|rejection| Refused::from_rejection(&rejection, &id))?;
    let cancelled = mcp.tasks.stopping().child_token();
    let ticket = Ticket { id, revision: Revision::V2026_07_28, session: None, cancelled, ending: None };
    mcp.run(from, ticket, request).await
}
