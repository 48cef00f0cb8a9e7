//! Policies: what is in force, whether it works, and whether the last reload was taken.

use http::Method;
use serde_json::Value;

use super::Subject;
use super::check::Check;

const AREA: &str = "policies";

pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    if subject.living.is_none() {
        let count = subject.config.policy.bindings.len();
        return match count {
            0 => vec![none()],
            count => vec![Check::warning(
                AREA,
                format!("{count} were not loaded"),
                "`portcullis check` loads and tries them",
            )],
        };
    }
    match subject.ask(Method::GET, "/api/v1/policies").await {
        Ok(policies) => of_living(&policies),
        Err(error) => {
            let finding = format!("the gateway says nothing of them: {error:#}");
            vec![Check::problem(AREA, finding, "look into its log")]
        }
    }
}

fn none() -> Check {
    Check::warning(
        AREA,
        "there are none: whoever may use a tool uses it as they like",
        "docs/policies.md has where to begin",
    )
}

fn of_living(policies: &Value) -> Vec<Check> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bindings = || policies["bindings"].as_array().into_iter().flatten();
    let mut checks = Vec::new();
    if let Some(error) = policies["last_reload"]["error"].as_str() {
        let goes_on = if policies["last_reload"]["generation"] == policies["generation"] {
            "what was before goes on".to_owned()
        } else {
            format!("generation {} runs since then", policies["generation"])
        };
        let finding = format!("the last reload was refused, and {goes_on}: {error}");
        checks.push(Check::problem(
            AREA,
            finding,
            "mend it; `portcullis check` tells more; then `portcullis policy reload`",
        ));
    }
    for binding in bindings() {
        let name = text(&binding["name"]);
        let mode = text(&binding["mode"]);
        if binding["degraded"] == true {
            let finding = format!("{name} fails ({} times), and what it fails about is refused", binding["failures"]);
            checks.push(Check::problem(
                AREA,
                finding,
                "look into the gateway's log, and roll back: `portcullis policy rollback`",
            ));
        }
        for warning in binding["warnings"].as_array().into_iter().flatten() {
            let mend = "change the policy or its binding, or leave it as it is";
            checks.push(Check::warning(AREA, format!("{name}: {}", text(warning)), mend));
        }
        if mode == "off" {
            checks.push(Check::warning(AREA, format!("{name} is off"), "take mode = \"off\" away, or the policy"));
        }
    }
    match bindings().count() {
        0 => checks.push(none()),
        count if checks.is_empty() => checks.push(Check::ok(AREA, format!("{count} are in force"))),
        _ => {}
    }
    checks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::Grade;
    use super::*;

    #[test]
    fn what_fails_or_was_refused_is_a_problem() {
        let binding = |name: &str, degraded: bool, mode: &str| json!({ "name": name, "degraded": degraded, "failures": 3, "mode": mode, "warnings": [] });
        let grades = |policies: Value| of_living(&policies).iter().map(|check| check.grade).collect::<Vec<_>>();
        let last = json!({ "error": null });
        assert_eq!(grades(json!({ "bindings": [binding("a", false, "enforce")], "last_reload": last })), [Grade::Ok]);
        assert_eq!(grades(json!({ "bindings": [], "last_reload": last })), [Grade::Warning]);
        let bad = json!({
            "bindings": [binding("a", true, "enforce"), binding("b", false, "off")], "last_reload": { "error": "x" },
        });
        assert_eq!(grades(bad), [Grade::Problem, Grade::Problem, Grade::Warning]);
        let found = |generation: u64| {
            let last = json!({ "error": "x", "generation": 4 });
            of_living(&json!({ "bindings": [], "generation": generation, "last_reload": last }))[0].finding.clone()
        };
        assert_eq!(found(4), "the last reload was refused, and what was before goes on: x");
        assert_eq!(found(5), "the last reload was refused, and generation 5 runs since then: x");
    }
}
