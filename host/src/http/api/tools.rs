//! The tools of an upstream, with their definitions and how they stand to what was agreed to.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::openapi::words::PinStateWord;
use super::openapi::{Described, get};
use super::pins::{PinnedView, differences, view_of_pinned};
use super::upstreams::find;
use super::{Answer, Api, Paging, Path, Problem, Query, ok};
use crate::admin::pins::PinView;
use crate::admin::tools::ToolView;
use crate::upstream::catalog::ToolHints;

const LIST: &str = "tools";

/// Paging and filter in one, since a query string is flat.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ToolQuery {
    /// At most 200; 50 if it is not said. A page has fewer where definitions are large.
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    /// Only what somebody has to agree to.
    #[serde(default)]
    pub(in crate::http) changed: bool,
}

/// A tool that the upstream offers, or that was agreed to and is not offered now. Its texts are the upstream's.
#[derive(Serialize, ToSchema)]
#[schema(as = UpstreamTool)]
pub(in crate::http) struct ToolRow {
    /// The upstream's own name for it.
    pub(in crate::http) tool: String,
    pub(in crate::http) title: Option<String>,
    pub(in crate::http) description: Option<String>,
    #[schema(value_type = PinStateWord)]
    pub(in crate::http) state: &'static str,
    /// Null where it is not offered.
    pub(in crate::http) hints: Option<HintsView>,
    /// Of what is offered now.
    pub(in crate::http) offered_digest: Option<String>,
    pub(in crate::http) pinned: Option<PinnedView>,
    /// Names of the members that are not the same, where it is changed and both definitions are known.
    pub(in crate::http) differs_in: Option<Vec<String>>,
    pub(in crate::http) offered_definition: Value,
    /// Where it is not what is offered; null as well if it was too large to be kept.
    pub(in crate::http) pinned_definition: Value,
}

/// What the upstream says of calls, with the defaults of MCP where it says nothing. It is proof of nothing.
#[derive(Serialize, ToSchema)]
#[schema(as = ToolHints)]
pub(in crate::http) struct HintsView {
    pub(in crate::http) read_only: bool,
    pub(in crate::http) destructive: bool,
    pub(in crate::http) idempotent: bool,
    pub(in crate::http) open_world: bool,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/upstreams/{name}/tools", "listTools", "An upstream's tools with their definitions, by name")
            .asks::<ToolQuery>()
            .pages::<ToolRow>(LIST),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Path(name): Path, Query(query): Query<ToolQuery>) -> Answer {
    let (tools, next) = page(&api, &name, query).await?;
    Ok(ok(&json!({ "tools": tools, "next_cursor": next })))
}

/// A page of an upstream's tools, and the cursor of the next one.
pub(in crate::http) async fn page(
    api: &Api,
    name: &str,
    query: ToolQuery,
) -> Result<(Vec<ToolRow>, Option<String>), Problem> {
    let upstream = find(api, name)?.name;
    let ToolQuery { limit, cursor, changed } = query;
    let limit = Paging { limit, cursor: None }.limit();
    // Each filter of each upstream is a list of its own.
    let list = format!("{LIST} {upstream} {changed}");
    let after = cursor.map(|cursor| open_cursor(api, &list, &cursor)).transpose()?;
    let keep = |pin: &PinView| !changed || pin.is_changed();
    let tools = api.control.tools(&upstream, after.as_deref(), limit, keep).await?;
    let last = tools.items.last().filter(|_| tools.has_more);
    let next = last.map(|last| api.services.secret.sign(&list, last.pin.tool.as_bytes()));
    Ok((tools.items.iter().map(view).collect(), next))
}

fn open_cursor(api: &Api, list: &str, cursor: &str) -> Result<String, Problem> {
    let name = api.services.secret.open(list, cursor).and_then(|payload| String::from_utf8(payload).ok());
    name.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", "the cursor is not one of this list"))
}

fn view(tool: &ToolView) -> ToolRow {
    let ToolView { pin, offered, agreed } = tool;
    let definition = |text: Option<&str>| text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let offered_text = offered.as_ref().map(|offered| offered.text().get());
    let (now, before) = (definition(offered_text), definition(agreed.as_deref()));
    // Of one that is gone, what it was is told.
    let shown = if offered.is_some() { &now } else { &before };
    let said = |member: &str| shown.get(member)?.as_str().map(ToOwned::to_owned);
    let (title, description) = (said("title"), said("description"));
    ToolRow {
        tool: pin.tool.clone(),
        title,
        description,
        state: pin.standing(),
        hints: offered.as_ref().map(|offered| hints(offered.hints)),
        offered_digest: pin.offered.clone(),
        pinned: pin.pinned.as_ref().map(view_of_pinned),
        differs_in: agreed.as_deref().zip(offered_text).map(|(before, now)| differences(before, now)),
        offered_definition: now,
        pinned_definition: before,
    }
}

const fn hints(hints: ToolHints) -> HintsView {
    let ToolHints { read_only, destructive, idempotent, open_world } = hints;
    HintsView { read_only, destructive, idempotent, open_world }
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::audit::Actor;
    use crate::env::Timestamp;
    use crate::ids::UpstreamName;
    use crate::store::pins::Pin;
    use crate::upstream::catalog::ToolDefinition;

    fn tool(offered: Option<&Value>, agreed: Option<&Value>) -> Value {
        let upstream = UpstreamName::parse("notes").unwrap();
        let parse = |value: &Value| ToolDefinition::parse(&upstream, &to_raw_value(value).unwrap()).unwrap();
        let offered = offered.map(parse).map(Arc::new);
        let pin = |value: &Value| Pin {
            tool: "add".to_owned(),
            digest: parse(value).digest,
            first_pinned: Timestamp::default(),
            accepted: Timestamp::default(),
            by: Actor::System,
        };
        let pin = PinView {
            upstream: upstream.clone(),
            tool: "add".to_owned(),
            pinned: agreed.map(pin),
            offered: offered.as_ref().map(|offered| offered.digest.clone()),
        };
        json!(view(&ToolView { pin, offered, agreed: agreed.map(Value::to_string) }))
    }

    #[test]
    fn a_tool_says_what_it_was_and_what_it_is() {
        let before = json!({ "name": "add", "description": "Adds.", "inputSchema": {} });
        let now = json!({ "name": "add", "title": "Add", "inputSchema": {}, "annotations": { "readOnlyHint": true } });
        let changed = tool(Some(&now), Some(&before));
        assert_eq!((&changed["state"], &changed["title"]), (&json!("changed"), &json!("Add")));
        assert_eq!(changed["differs_in"], json!(["annotations", "description", "title"]));
        assert_eq!((&changed["pinned_definition"], &changed["offered_definition"]), (&before, &now));
        assert_eq!(
            changed["hints"],
            json!({ "read_only": true, "destructive": false, "idempotent": false, "open_world": true })
        );
        assert_eq!(changed["description"], Value::Null, "what it said before is not what it says");
        let gone = tool(None, Some(&before));
        assert_eq!((&gone["state"], &gone["description"]), (&json!("gone"), &json!("Adds.")));
        assert_eq!((&gone["hints"], &gone["differs_in"]), (&Value::Null, &Value::Null));
        let new = tool(Some(&now), None);
        assert_eq!((&new["state"], &new["pinned"]), (&json!("first-seen"), &Value::Null));
    }
}
