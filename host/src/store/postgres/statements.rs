//! The statements, all of them.
//!
//! Keys and values are `bytea`, whose order is that of bytes. The planner's choices are taken away ([`SESSION`]): each
//! statement goes through the primary key, on an empty table as on a large one.

use tokio_postgres::types::ToSql;

use super::super::StoreError;
use super::super::engine::Effects;
use super::fetched::{Part, Request, number};
use super::unavailable;

/// What holds on every connection. An operator who waits for more than the local disk keeps that; one who waits for less does
/// not: what was acknowledged is durable.
pub(super) const SESSION: &str = "\
    SET lock_timeout = '5s'; \
    SET statement_timeout = '2s'; \
    SET idle_in_transaction_session_timeout = '2s'; \
    SET client_min_messages = warning; \
    SET plan_cache_mode = force_generic_plan; \
    SET enable_seqscan = off; \
    SET enable_bitmapscan = off; \
    SET enable_hashjoin = off; \
    SET enable_mergejoin = off; \
    SET enable_sort = off; \
    SET jit = off; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// How the writer begins. The wait for the lock is bounded by `lock_timeout` alone, so the timeout of statements has to
/// be longer until the lock is there.
pub(super) const BEGIN_WRITE: &str = "\
    BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
    SET LOCAL statement_timeout = '6s'";

/// What the writer says next, in a statement of its own: what the statements after it see was committed before they
/// began, and so before the lock was given.
pub(super) const LOCK: &str = "\
    SELECT pg_advisory_xact_lock($1), pg_current_xact_id()::text, \
    (extract(epoch FROM clock_timestamp()) * 1000)::int8";

pub(super) const LOCKED: &str = "SET LOCAL statement_timeout = '2s'";

/// How a read begins: the snapshot is that of this moment.
pub(super) const BEGIN_READ: &str = "\
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";

/// What a walk through everything says after [`BEGIN_READ`]: it may take its time, and may wait for whoever reads what it
/// tells.
pub(super) const PATIENTLY: &str = "\
    SET LOCAL statement_timeout = '60s'; \
    SET LOCAL idle_in_transaction_session_timeout = '16min'";

/// The rows of a table from a key on, at most so many.
pub(super) fn page(schema: &str) -> String {
    format!("SELECT k, v FROM {schema}.kv WHERE tbl = $1 AND k >= $2 ORDER BY tbl, k LIMIT $3")
}

/// The numbers of all tables that have rows, each found by one look into the primary key.
pub(super) fn numbers(schema: &str) -> String {
    format!(
        "WITH RECURSIVE numbers AS ( \
         (SELECT tbl FROM {schema}.kv ORDER BY tbl LIMIT 1) UNION ALL \
         SELECT (SELECT kv.tbl FROM {schema}.kv WHERE kv.tbl > numbers.tbl ORDER BY kv.tbl LIMIT 1) \
         FROM numbers WHERE numbers.tbl IS NOT NULL) \
         SELECT tbl FROM numbers WHERE tbl IS NOT NULL"
    )
}

/// For each table that has any: rows, bytes of keys and values, and what the rows take as they are stored.
pub(super) fn count(schema: &str) -> String {
    format!(
        "SELECT tbl, count(*), sum(octet_length(k)::int8 + octet_length(v)::int8)::int8, sum(pg_column_size(kv.*)::int8)::int8 \
         FROM {schema}.kv GROUP BY tbl ORDER BY tbl"
    )
}

/// What the table takes on the disk with its index, and the size of a page.
pub(super) fn size(schema: &str) -> String {
    format!("SELECT pg_total_relation_size('{schema}.kv'), current_setting('block_size')::int8")
}

/// What became of a transaction.
pub(super) const STATUS: &str = "SELECT pg_xact_status($1::text::xid8)";

/// The server's version, and whether the table is there.
pub(super) fn look(schema: &str) -> String {
    format!(
        "SELECT current_setting('server_version_num')::int4, \
         to_regclass('{schema}.kv') IS NOT NULL"
    )
}

/// Makes the table. Rows change often, so their pages have room for that.
pub(super) fn create(schema: &str) -> String {
    format!(
        "CREATE SCHEMA IF NOT EXISTS {schema}; \
         CREATE TABLE IF NOT EXISTS {schema}.kv \
         (tbl smallint NOT NULL, k bytea NOT NULL, v bytea NOT NULL, PRIMARY KEY (tbl, k)) \
         WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05)"
    )
}

/// Brings keys and ranges in both directions.
pub(super) fn fetch(schema: &str) -> String {
    let range = |part: i32, first: i32, order: &str| {
        let [second, third, fourth] = [first + 1, first + 2, first + 3];
        format!(
            "UNION ALL SELECT {part}, r.n, s.k, s.v \
             FROM unnest(${first}::int2[], ${second}::bytea[], ${third}::bytea[], ${fourth}::int8[]) \
             WITH ORDINALITY AS r(tbl, lower, upper, most, n) CROSS JOIN LATERAL \
             (SELECT kv.k, kv.v FROM {schema}.kv WHERE kv.tbl = r.tbl AND kv.k >= r.lower AND kv.k < r.upper \
             ORDER BY kv.tbl {order}, kv.k {order} LIMIT r.most) AS s "
        )
    };
    format!(
        "SELECT 0, r.n, NULL::bytea, kv.v \
         FROM unnest($1::int2[], $2::bytea[]) WITH ORDINALITY AS r(tbl, k, n) \
         JOIN {schema}.kv ON kv.tbl = r.tbl AND kv.k = r.k {}{}",
        range(1, 3, "ASC"),
        range(2, 7, "DESC"),
    )
}

pub(super) fn upsert(schema: &str) -> String {
    format!(
        "INSERT INTO {schema}.kv (tbl, k, v) \
         SELECT * FROM unnest($1::int2[], $2::bytea[], $3::bytea[]) \
         ON CONFLICT (tbl, k) DO UPDATE SET v = excluded.v"
    )
}

pub(super) fn delete(schema: &str) -> String {
    format!(
        "DELETE FROM {schema}.kv USING unnest($1::int2[], $2::bytea[]) AS gone(tbl, k) \
         WHERE kv.tbl = gone.tbl AND kv.k = gone.k"
    )
}

/// One row that [`fetch`] brought, for [`super::fetched::Fetched::learn`].
type Brought = (Part, usize, Vec<u8>, Vec<u8>);

/// Runs [`fetch`] for a request.
pub(super) async fn run_fetch(
    client: &tokio_postgres::Client,
    statement: &tokio_postgres::Statement,
    request: &Request,
) -> Result<Vec<Brought>, tokio_postgres::Error> {
    if request.is_empty() {
        return Ok(Vec::new());
    }
    let (tables, keys) = request.keys();
    let (forward, backward) = (request.forward(), request.backward());
    let parameters: [&(dyn ToSql + Sync); 10] = [
        &tables,
        &keys,
        &forward.tables,
        &forward.lower,
        &forward.upper,
        &forward.limits,
        &backward.tables,
        &backward.lower,
        &backward.upper,
        &backward.limits,
    ];
    let rows = client.query(statement, &parameters).await?;
    rows.iter().map(brought).collect()
}

fn brought(row: &tokio_postgres::Row) -> Result<Brought, tokio_postgres::Error> {
    let part = match row.try_get::<_, i32>(0)? {
        0 => Part::Keys,
        1 => Part::Forward,
        _ => Part::Backward,
    };
    // Ordinality begins at one.
    let at = usize::try_from(row.try_get::<_, i64>(1)? - 1).unwrap_or_default();
    Ok((part, at, row.try_get::<_, Option<Vec<u8>>>(2)?.unwrap_or_default(), row.try_get(3)?))
}

/// Effects as [`upsert`] and [`delete`] have them.
#[derive(Default)]
pub(super) struct Changes<'a> {
    pub(super) put: (Vec<i16>, Vec<&'a [u8]>, Vec<&'a [u8]>),
    pub(super) removed: (Vec<i16>, Vec<&'a [u8]>),
}

impl<'a> Changes<'a> {
    pub(super) fn of(effects: &'a Effects) -> Self {
        let mut changes = Self::default();
        for (table, rows) in effects.tables() {
            for (key, value) in rows {
                match value {
                    Some(value) => {
                        changes.put.0.push(number(table));
                        changes.put.1.push(key);
                        changes.put.2.push(value);
                    }
                    None => {
                        changes.removed.0.push(number(table));
                        changes.removed.1.push(key);
                    }
                }
            }
        }
        changes
    }
}

/// The one number that [`BEGIN_READ`] answers with.
pub(super) fn milliseconds(answers: &[tokio_postgres::SimpleQueryMessage]) -> Result<u64, StoreError> {
    let told = answers.iter().find_map(|answer| match answer {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    told.ok_or_else(|| unavailable("the server did not tell its time"))
}
