//! The store as a whole: a backup as a stream, what it holds, whether its indexes are right.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use futures_util::stream;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};

use super::{Answer, Api, Operator, Problem, ok};
use crate::admin::store::{Backup, WalkError};

/// The whole store in the format of `store::dump`. Its end tells whether everything arrived.
pub(super) async fn back_up(State(api): State<Arc<Api>>, Extension(operator): Extension<Operator>) -> Answer {
    let backup = api.control.back_up(operator.0).await?;
    let pieces = stream::try_unfold(backup, async |mut backup: Backup| {
        let piece = backup.dump.next().await.inspect_err(|error| tracing::error!(%error, "a backup broke off"))?;
        Ok::<_, crate::store::StoreError>(piece.map(|piece| (piece, backup)))
    });
    let headers =
        [(CONTENT_TYPE, "application/octet-stream"), (CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

pub(super) async fn stats(State(api): State<Arc<Api>>) -> Answer {
    Ok(ok(&api.control.store_stats().await?))
}

pub(super) async fn verify(State(api): State<Arc<Api>>) -> Answer {
    Ok(ok(&api.control.verify_store().await?.to_json()))
}

impl From<WalkError> for Problem {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Busy => Self::new(StatusCode::CONFLICT, "store_busy", error.to_string()),
            WalkError::Store(error) => error.into(),
        }
    }
}
