//! What virtual keys may use: key by upstream, and for one key tool by tool, with the line of its list that says so.
//!
//! It is asked of what requests are decided on now, by the same functions ([`access`]). Policies are not asked: they may hide more.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use utoipa::{IntoParams, ToSchema};

use super::openapi::words::{ExtentWord, ReachedByWord};
use super::openapi::{Described, get};
use super::{Answer, Api, Paging, Path, Problem, Query, keys, next_cursor, ok};
use crate::env::Timestamp;
use crate::glob::Glob;
use crate::identity::key::AllowList;
use crate::ids::{KeyName, UpstreamName};
use crate::pipeline::Snapshot;
use crate::pipeline::access::{self, Line, Reach};
use crate::store::Cursor;

const LIST: &str = "keys access";
const TOOLS: &str = "tools of a key";
/// Upstreams beside each key; those behind them are asked for.
const MAX_UPSTREAMS: usize = 12;
/// Tables that are worked out at once.
const MAX_TURNS: usize = 2;

/// Turns at working out what keys may use.
pub struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_TURNS)))
    }
}

/// Paging and filter in one, since a query string is flat.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct MatrixQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    /// A pattern over names of upstreams.
    pub(in crate::http) upstream: Option<String>,
    /// Upstreams behind this name.
    pub(in crate::http) after: Option<String>,
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ToolQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    /// A pattern over names of upstreams.
    pub(in crate::http) upstream: Option<String>,
}

/// What a key may use.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyAccess)]
pub(in crate::http) struct KeyAccessView {
    #[schema(value_type = String)]
    pub(in crate::http) name: KeyName,
    /// Whether it opens anything now: it is neither disabled nor expired.
    pub(in crate::http) valid: bool,
    /// At most 12 upstreams, by name.
    pub(in crate::http) upstreams: Vec<ReachView>,
    /// The last of these where there are more: they are behind it (`after`).
    #[schema(value_type = Option<String>)]
    pub(in crate::http) more_after: Option<UpstreamName>,
}

/// What a key may use of one upstream.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyReach)]
pub(in crate::http) struct ReachView {
    #[schema(value_type = String)]
    pub(in crate::http) upstream: UpstreamName,
    #[schema(value_type = ExtentWord)]
    pub(in crate::http) reach: &'static str,
    /// How many tools the upstream has; null while that is not known.
    pub(in crate::http) tools: Option<usize>,
    /// How many of those the key may use.
    pub(in crate::http) reached: usize,
}

/// Whether a key may use a tool, and why.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyTool)]
pub(in crate::http) struct ToolView {
    #[schema(value_type = String)]
    pub(in crate::http) upstream: UpstreamName,
    /// The upstream's own name for it.
    pub(in crate::http) tool: String,
    pub(in crate::http) reached: bool,
    #[schema(value_type = ReachedByWord)]
    pub(in crate::http) by: &'static str,
    /// The first line of the key's allow-list that has it, counted from 1.
    pub(in crate::http) line: Option<usize>,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get(
            "/api/v1/access/keys",
            "listKeyAccess",
            "What of each upstream each key may use, before policies are asked",
        )
        .filters::<MatrixQuery>()
        .pages::<KeyAccessView>("keys")
        .refuses(StatusCode::TOO_MANY_REQUESTS, &["busy"])
        .refuses(StatusCode::SERVICE_UNAVAILABLE, &["stopping"]),
        get(
            "/api/v1/keys/{name}/access",
            "showKeyAccess",
            "Every tool, and by which line of its list a key may use it, before policies are asked",
        )
        .filters::<ToolQuery>()
        .pages::<ToolView>("tools"),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<MatrixQuery>) -> Answer {
    let (keys, next) = matrix(&api, query).await?;
    Ok(ok(&json!({ "keys": keys, "next_cursor": next })))
}

/// A page of the keys with what each may use, and the cursor of the next one.
pub(in crate::http) async fn matrix(
    api: &Api,
    query: MatrixQuery,
) -> Result<(Vec<KeyAccessView>, Option<String>), Problem> {
    let MatrixQuery { limit, cursor, upstream, after } = query;
    let paging = Paging { limit, cursor };
    let (columns, more) = columns(&api.control.snapshot.load(), upstream.as_deref(), after.as_deref())?;
    let page = api.control.list_keys(paging.cursor(api, LIST)?, paging.limit()).await?;
    // Loaded now, so that it knows the keys that the list has.
    let (snapshot, now) = (api.control.snapshot.load_full(), api.control.env.now());
    let names: Vec<KeyName> = page.items.into_iter().map(|key| key.name).collect();
    let rows = move || names.iter().map(|name| row(&snapshot, name, (&columns, more.as_ref()), now)).collect();
    Ok((computed(&api.access_turns, rows).await?, next_cursor(api, LIST, page.next.as_ref())))
}

/// What one key may use of upstreams, with the same filter.
pub(in crate::http) async fn summary(
    api: &Api,
    name: &str,
    upstream: Option<&str>,
    after: Option<&str>,
) -> Result<KeyAccessView, Problem> {
    let name = keys::read_name(name)?;
    let (snapshot, now) = (api.control.snapshot.load_full(), api.control.env.now());
    let (columns, more) = columns(&snapshot, upstream, after)?;
    if !snapshot.keys.has(&name) {
        return Err(Problem::not_found("key"));
    }
    computed(&api.access_turns, move || row(&snapshot, &name, (&columns, more.as_ref()), now)).await
}

/// What takes long where lists are long, off the threads that serve others. It keeps its turn to its end, though whoever
/// asked is gone.
async fn computed<T: Send + 'static>(turns: &Turns, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let turn = turns.0.clone().try_acquire_owned().map_err(|_| {
        let detail = "what keys may use is being worked out for others; ask again in a moment";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail)
    })?;
    let work = move || {
        let result = work();
        drop(turn);
        result
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "what keys may use could not be worked out");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the gateway is stopping")
    })
}

/// The upstreams that are asked for, and the last of them where there are more.
fn columns(
    snapshot: &Snapshot,
    pattern: Option<&str>,
    after: Option<&str>,
) -> Result<(Vec<UpstreamName>, Option<UpstreamName>), Problem> {
    let pattern = pattern.map(read_pattern).transpose()?;
    let fits = |name: &&UpstreamName| pattern.as_ref().is_none_or(|pattern| pattern.matches(name.as_str()));
    let is_behind = |name: &&UpstreamName| after.is_none_or(|after| name.as_str() > after);
    let names = snapshot.upstreams.keys().filter(fits).filter(is_behind);
    let mut names: Vec<UpstreamName> = names.take(MAX_UPSTREAMS + 1).cloned().collect();
    let has_more = names.len() > MAX_UPSTREAMS;
    names.truncate(MAX_UPSTREAMS);
    let more = names.last().filter(|_| has_more).cloned();
    Ok((names, more))
}

fn read_pattern(text: &str) -> Result<Glob, Problem> {
    Glob::parse(text)
        .ok_or_else(|| Problem::invalid(format!("`upstream` is a pattern of 1 to {} bytes", Glob::MAX_LEN)))
}

fn row(
    snapshot: &Snapshot,
    name: &KeyName,
    (columns, more): (&[UpstreamName], Option<&UpstreamName>),
    now: Timestamp,
) -> KeyAccessView {
    let known = snapshot.keys.named(name);
    // A key that is not in force yet, or any more, opens nothing.
    let nothing = AllowList::default();
    let reach = |upstream: &UpstreamName| {
        let allow = known.map_or(&nothing, |(_, allow)| allow.as_ref());
        let Reach { extent, tools, reached } = access::of_upstream(snapshot, allow, upstream);
        ReachView { upstream: upstream.clone(), reach: extent.as_str(), tools, reached }
    };
    KeyAccessView {
        name: name.clone(),
        valid: known.is_some_and(|(key, _)| key.is_valid(now)),
        upstreams: columns.iter().map(reach).collect(),
        more_after: more.cloned(),
    }
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(name): Path, Query(query): Query<ToolQuery>) -> Answer {
    let (tools, next) = tools(&api, &name, query)?;
    Ok(ok(&json!({ "tools": tools, "next_cursor": next })))
}

/// A page of the tools that there are, each with whether and why this key may use it, and the cursor of the next one.
pub(in crate::http) fn tools(
    api: &Api,
    name: &str,
    query: ToolQuery,
) -> Result<(Vec<ToolView>, Option<String>), Problem> {
    let ToolQuery { limit, cursor, upstream } = query;
    let paging = Paging { limit, cursor };
    let name = keys::read_name(name)?;
    let pattern = upstream.as_deref().map(read_pattern).transpose()?;
    // Each key and each filter is a list of its own.
    let list = format!("{TOOLS} {name} {}", upstream.as_deref().unwrap_or_default());
    let cursor = paging.cursor(api, &list)?;
    let after = cursor.as_ref().and_then(place);
    let snapshot = api.control.snapshot.load_full();
    let (key, allow) = snapshot.keys.named(&name).ok_or_else(|| Problem::not_found("key"))?;
    let fits = |name: &&UpstreamName| pattern.as_ref().is_none_or(|pattern| pattern.matches(name.as_str()));
    let is_ahead = |name: &&UpstreamName| after.is_none_or(|(upstream, _)| name.as_str() >= upstream);
    let upstreams = snapshot.upstreams.keys().filter(fits).filter(is_ahead);
    let found = upstreams.flat_map(|upstream| {
        let after = after.filter(|(known, _)| *known == upstream.as_str()).map(|(_, tool)| tool);
        access::tools_of(&snapshot, upstream, after).map(move |tool| (upstream, tool))
    });
    let mut found: Vec<_> = found.take(paging.limit() + 1).collect();
    let has_more = found.len() > paging.limit();
    found.truncate(paging.limit());
    let next = found.last().filter(|_| has_more);
    let next = next.and_then(|(upstream, tool)| {
        let place = [upstream.as_str().as_bytes(), &[0], tool.exposed.as_bytes()].concat();
        next_cursor(api, &list, Cursor::from_bytes(place).as_ref())
    });
    let tools = found.into_iter().map(|(upstream, tool)| {
        let line = access::of_tool(key, allow, upstream, &tool.name);
        view(upstream, &tool.name, line)
    });
    Ok((tools.collect(), next))
}

/// Where a cursor is: an upstream, and the name of a tool at its own endpoint.
fn place(cursor: &Cursor) -> Option<(&str, &str)> {
    std::str::from_utf8(cursor.as_bytes()).ok()?.split_once('\0')
}

fn view(upstream: &UpstreamName, tool: &str, line: Line) -> ToolView {
    ToolView {
        upstream: upstream.clone(),
        tool: tool.to_owned(),
        reached: line.is_reached(),
        by: line.as_str(),
        line: match line {
            Line::Own(line) => Some(line + 1),
            Line::OfAllKeys | Line::NoPattern | Line::NoLine => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_so_much_is_worked_out_at_once() {
        let turns = Turns::default();
        let held: Vec<_> = (0..MAX_TURNS).map(|_| turns.0.clone().try_acquire_owned().unwrap()).collect();
        assert!(computed(&turns, || ()).await.is_err());
        drop(held);
        for _ in 0..=MAX_TURNS {
            assert!(computed(&turns, || ()).await.is_ok(), "turns are given back");
        }
    }
}
