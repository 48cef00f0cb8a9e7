//! The keys that encrypt secrets: can each of them be reached?

use http::Method;
use serde_json::Value;

use super::Subject;
use super::check::Check;
use crate::vault::reach::{Reached, reach};

const AREA: &str = "vault";
const MEND: &str = "look at `portcullis vault status` and [[vault.keys]]: docs/vault.md";

pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    if subject.living.is_some() {
        return match subject.ask(Method::GET, "/api/v1/vault").await {
            Ok(vault) => of_living(&vault),
            Err(error) => vec![Check::problem(AREA, format!("the gateway says nothing of it: {error:#}"), MEND)],
        };
    }
    let reached = reach(&subject.config.vault, &subject.env, &subject.outbound).await;
    let told = |(kid, reached): (crate::ids::KekId, Reached)| match reached {
        Reached::Works => Check::ok(AREA, format!("the key {kid} works")),
        Reached::NotMade => Check::ok(AREA, format!("the key {kid} is made by the first start")),
        Reached::Fault(fault) => Check::problem(AREA, format!("the key {kid}: {fault}"), MEND),
    };
    reached.into_iter().map(told).collect()
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
