//! The keys that encrypt secrets: can each of them be reached, and is it the one that the store needs?

use http::Method;
use serde_json::Value;

use super::Subject;
use super::check::Check;
use super::store::Closed;
use crate::config::StoreUrl;
use crate::ids::KekId;
use crate::store::{Peeked, StoreError};
use crate::vault::reach::{Reached, compare, reach};

const AREA: &str = "vault";
const MEND: &str = "look at `portcullis vault status` and [[vault.keys]]: docs/vault.md";
const PUT_BACK: &str = "put the key back that belongs to this store, from its own backup: docs/vault.md";

pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    if subject.living.is_some() {
        return match subject.ask(Method::GET, "/api/v1/vault").await {
            Ok(vault) => of_living(&vault),
            Err(error) => vec![Check::problem(AREA, format!("the gateway says nothing of it: {error:#}"), MEND)],
        };
    }
    let Subject { config, env, outbound, .. } = subject;
    let store = subject.store().await;
    let is_shared = matches!(config.store, StoreUrl::Postgres(_));
    let reached = reach(&config.vault, is_shared, env, outbound).await;
    let has_all = reached.iter().all(|(_, reached)| *reached == Reached::Works);
    // A key that is at hand may be another one than the store's.
    if let Closed::Readable(store) = store
        && has_all
        && let Err(fault) = compare(&config.vault, store, env, outbound).await
    {
        return vec![Check::problem(AREA, fault, PUT_BACK)];
    }
    reached.into_iter().map(|(kid, reached)| of_key(&kid, reached, store)).collect()
}

fn of_key(kid: &KekId, reached: Reached, store: &Closed) -> Check {
    match (reached, store) {
        (Reached::Works, _) => Check::ok(AREA, format!("the key {kid} works")),
        (Reached::Fault(fault), _) => Check::problem(AREA, format!("the key {kid}: {fault}"), MEND),
        (Reached::NotMade, Closed::Readable(Peeked { vault, .. })) if vault.is_made || !vault.in_use.is_empty() => {
            Check::problem(AREA, format!("the file of the key {kid} is not there, and the store needs it"), PUT_BACK)
        }
        (Reached::NotMade, Closed::Unreadable(error)) if !matches!(error, StoreError::Absent) => {
            let finding = format!("the file of the key {kid} is not there, and what the store needs is not known");
            Check::warning(AREA, finding, PUT_BACK)
        }
        (Reached::NotMade, Closed::Readable(_) | Closed::Unreadable(_) | Closed::InMemory | Closed::NotMade(_)) => {
            Check::ok(AREA, format!("the key {kid} is made by the first start"))
        }
    }
}

fn of_living(vault: &Value) -> Vec<Check> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut checks = Vec::new();
    for key in vault["keys"].as_array().into_iter().flatten().filter(|key| key["state"] != "retired") {
        let kid = text(&key["kid"]);
        checks.push(match key["fault"].as_str() {
            None => Check::ok(AREA, format!("the key {kid} works")),
            Some(fault) => Check::problem(AREA, format!("the key {kid}: {fault}"), MEND),
        });
    }
    let rewrapping = &vault["rewrapping"];
    if rewrapping.is_object() && rewrapping["done"] != true {
        let finding = "data keys are being wrapped anew, and some are not yet";
        checks.push(Check::warning(AREA, finding, "go on with `portcullis vault rewrap`"));
    }
    let process = &vault["process"];
    if process["dumpable"] != false || process["core_limit"] != 0 {
        let finding = "core dumps of the gateway are possible, with secrets in the clear";
        checks.push(Check::warning(AREA, finding, "take vault.allow_core_dumps away and restart the gateway"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::Grade;
    use super::*;

    #[test]
    fn a_key_out_of_reach_is_a_problem() {
        let vault = |fault: Value, dumpable: bool| {
            json!({
                "keys": [{ "kid": "a", "state": "active", "fault": fault }, { "kid": "b", "state": "retired", "fault": "x" }],
                "rewrapping": null, "process": { "dumpable": dumpable, "core_limit": 0 },
            })
        };
        let grades = |vault: Value| of_living(&vault).iter().map(|check| check.grade).collect::<Vec<_>>();
        assert_eq!(grades(vault(Value::Null, false)), [Grade::Ok]);
        assert_eq!(grades(vault(json!("it cannot be reached"), true)), [Grade::Problem, Grade::Warning]);
    }
}
