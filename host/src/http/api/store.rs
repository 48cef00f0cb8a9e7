//! The store as a whole: a backup as a stream, what it holds, whether its indexes are right.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use futures_util::stream;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use utoipa::ToSchema;

use super::openapi::{Described, get};
use super::{Answer, Api, Operator, Problem, ok};
use crate::admin::store::{Backup, WalkError};

/// What the store holds, and how its writer has fared since it was opened.
#[derive(ToSchema)]
#[schema(as = StoreStats)]
#[expect(dead_code, reason = "its shape is told here; `store::stats` writes it")]
struct StatsView {
    tables: Vec<TableView>,
    /// Of a store that is in memory there is none.
    file: Option<FileView>,
    writer: WriterView,
}

#[derive(ToSchema)]
#[schema(as = StoreTable)]
#[expect(dead_code, reason = "its shape is told here; `store::stats` writes it")]
struct TableView {
    table: String,
    rows: u64,
    /// Keys and values.
    bytes: u64,
    /// All that the table takes, with what is between and around the rows.
    allocated_bytes: u64,
}

/// The file of an embedded store, or the table of a database with its index.
#[derive(ToSchema)]
#[schema(as = StoreFile)]
#[expect(dead_code, reason = "its shape is told here; `store::stats` writes it")]
struct FileView {
    bytes: u64,
    page_bytes: u64,
    /// A database does not tell.
    free_pages: Option<u64>,
}

#[derive(ToSchema)]
#[schema(as = StoreWriter)]
#[expect(dead_code, reason = "its shape is told here; `store::stats` writes it")]
struct WriterView {
    /// Transactions that wait now.
    queued: u64,
    transactions: u64,
    commits: u64,
    failed_commits: u64,
    /// Most transactions of one commit.
    largest_group: u64,
    commit_p50_micros: u64,
    commit_p99_micros: u64,
    commit_max_micros: u64,
}

/// Where the store disagrees with itself.
#[derive(ToSchema)]
#[schema(as = StoreVerification)]
#[expect(dead_code, reason = "its shape is told here; `store::verify` writes it")]
struct VerificationView {
    discrepancies: Vec<DiscrepancyView>,
    /// How many more there are.
    untold: u64,
}

#[derive(ToSchema)]
#[schema(as = Discrepancy)]
#[expect(dead_code, reason = "its shape is told here; `store::verify` writes it")]
struct DiscrepancyView {
    index: String,
    /// In hex.
    key: String,
    kind: String,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get(
            "/api/v1/store/backup",
            "backUpStore",
            "Everything that the gateway remembers, as a stream whose end tells whether all of it arrived",
        )
        .streams("application/octet-stream")
        .conflicts(&["store_busy"]),
        get("/api/v1/store/stats", "showStoreStats", "What the store holds, and how its writer fares")
            .shows::<StatsView>()
            .conflicts(&["store_busy"]),
        get("/api/v1/store/verify", "verifyStore", "Where indexes and tables disagree")
            .shows::<VerificationView>()
            .conflicts(&["store_busy"]),
    ]
}

/// The whole store in the format of `store::dump`. Its end tells whether everything arrived.
pub(in crate::http) async fn back_up(State(api): State<Arc<Api>>, Extension(operator): Extension<Operator>) -> Answer {
    let backup = api.control.back_up(operator.0).await?;
    let pieces = stream::try_unfold(backup, async |mut backup: Backup| {
        let piece = backup.dump.next().await.inspect_err(|error| tracing::error!(%error, "a backup broke off"))?;
        Ok::<_, crate::store::StoreError>(piece.map(|piece| (piece, backup)))
    });
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        // A browser keeps it as a file.
        (CONTENT_DISPOSITION, "attachment; filename=\"portcullis.dump\""),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
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
