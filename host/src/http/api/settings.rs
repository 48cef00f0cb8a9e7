//! What the gateway runs with, setting by setting. No secrets: `config::told` has none.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::openapi::{Described, get};
use super::{Answer, Api, ok};
use crate::config::told::{Effect, Said, told};

/// What the gateway runs with.
#[derive(Serialize, ToSchema)]
#[schema(as = Settings)]
pub(in crate::http) struct SettingsView {
    /// The file that it came from, if it came from one.
    pub(in crate::http) file: Option<String>,
    /// When that was read last, whether it was taken or not.
    #[schema(format = DateTime)]
    pub(in crate::http) read: String,
    /// Why it was not taken, if it was not: what ran before goes on.
    pub(in crate::http) refused: Option<String>,
    /// Whether something in it waits for the next start.
    pub(in crate::http) awaits_restart: bool,
    /// In the order of the documentation. Upstreams, keys, policies and sets have lists of their own.
    pub(in crate::http) settings: Vec<SettingView>,
}

/// One setting.
#[derive(Serialize, ToSchema)]
#[schema(as = Setting)]
pub(in crate::http) struct SettingView {
    /// As in the documentation, such as `listen.public`.
    pub(in crate::http) key: String,
    /// What holds now, whether the file says it or not. Secrets are not told.
    pub(in crate::http) value: Value,
    /// When a change comes into force: with a `reload`, or at the next `start`.
    pub(in crate::http) effect: &'static str,
    /// What holds from the next start on, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) next: Option<Value>,
}

/// What the document of the API says of it.
pub(super) fn operations() -> Vec<Described> {
    vec![get("/api/v1/settings", "showSettings", "What the gateway runs with, without secrets").shows::<SettingsView>()]
}

pub(super) async fn show(State(api): State<Arc<Api>>) -> Answer {
    Ok(ok(&json!(view(&api))))
}

/// All of it now.
pub(in crate::http) fn view(api: &Api) -> SettingsView {
    let (config, last) = (api.control.config.load(), api.control.last_reload());
    SettingsView {
        file: config.file.as_ref().map(|file| file.display().to_string()),
        read: last.at.to_string(),
        refused: last.error.clone(),
        awaits_restart: api.control.awaits_restart(&config),
        settings: in_force(told(api.control.begun_with()), told(&config)),
    }
}

/// What holds, of what the gateway was started with and what was read last.
fn in_force(begun: Vec<Said>, read: Vec<Said>) -> Vec<SettingView> {
    let mut begun: BTreeMap<String, Value> = begun.into_iter().map(|said| (said.key, said.value)).collect();
    let view = |said: Said| {
        let Said { key, value, effect } = said;
        let at_start = match effect {
            Effect::Reload => None,
            Effect::Start => begun.remove(&key),
        };
        let (value, next) = match at_start {
            Some(held) if held != value => (held, Some(value)),
            Some(_) | None => (value, None),
        };
        SettingView { key, value, effect: effect.as_str(), next }
    };
    read.into_iter().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_next_start_does_not_hold_yet() {
        let said = |key: &str, value: u64, effect| Said { key: key.to_owned(), value: json!(value), effect };
        let at =
            |value| vec![said("limits.streams", value, Effect::Start), said("policy.replay", value, Effect::Reload)];
        let views = in_force(at(1), at(2));
        let told: Vec<_> = views.into_iter().map(|view| (view.value, view.next)).collect();
        assert_eq!(told, [(json!(1), Some(json!(2))), (json!(2), None)]);
        assert!(in_force(at(1), at(1)).iter().all(|view| view.next.is_none()));
    }
}
