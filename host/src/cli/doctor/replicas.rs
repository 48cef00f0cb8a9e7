//! The replicas of a deployment: do they go by one configuration and one version, and is the file here in force?

use serde_json::Value;

use super::Subject;
use super::check::Check;

const AREA: &str = "replicas";

#[expect(clippy::unused_async, reason = "all areas are looked at alike")]
pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    let Some(status) = &subject.living else { return Vec::new() };
    let mut checks = of_living(&status["replica"], env!("CARGO_PKG_VERSION"));
    checks.extend(in_force(status, &subject.config.fingerprint.to_hex()));
    checks
}

/// The file is compared apart from what each replica has for itself.
fn in_force(status: &Value, fingerprint: &str) -> Option<Check> {
    if status["awaits_restart"] == true {
        let finding = "the gateway was started with other settings than the file has now";
        return Some(Check::warning("configuration", finding, "restart it, or put back what the file had"));
    }
    let running = status["configuration"].as_str().filter(|running| !running.is_empty())?;
    (running != fingerprint).then(|| {
        let finding = "the gateway runs with another configuration than the file has now";
        Check::warning(
            "configuration",
            finding,
            "`portcullis policy reload`, or a restart for what is read at the start alone",
        )
    })
}

fn of_living(replica: &Value, version: &str) -> Vec<Check> {
    let others = replica["others"].as_array().map_or(&[][..], Vec::as_slice);
    let mut checks = Vec::new();
    for other in others {
        let id = other["id"].as_str().unwrap_or_default();
        if other["same_configuration"] != true {
            let finding = format!("{id} goes by another configuration");
            checks.push(Check::problem(AREA, finding, "give all replicas the same file, and have each reload it"));
        }
        let its = other["version"].as_str().unwrap_or_default();
        if its != version {
            let finding = format!("{id} is version {its}, and this program is {version}");
            checks.push(Check::warning(AREA, finding, "finish the upgrade"));
        }
        if other["address"].is_null() {
            let finding =
                format!("{id} can be forwarded nothing: sessions that it began go on elsewhere without streams");
            checks.push(Check::warning(AREA, finding, "set `replica.listen` there: docs/replicas.md"));
        }
    }
    if checks.is_empty() && !others.is_empty() {
        checks.push(Check::ok(AREA, format!("{} others are alike", others.len())));
    }
    checks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::Grade;
    use super::*;

    #[test]
    fn replicas_that_differ_are_told() {
        let other = |same: bool, version: &str| json!({ "id": "r2", "same_configuration": same, "version": version, "address": "10.0.0.2:7402" });
        let grades = |other: Value| -> Vec<Grade> {
            of_living(&json!({ "others": [other] }), "1").iter().map(|check| check.grade).collect()
        };
        assert_eq!(grades(other(true, "1")), [Grade::Ok]);
        assert_eq!(grades(other(false, "2")), [Grade::Problem, Grade::Warning]);
        assert!(of_living(&json!({ "others": [] }), "1").is_empty());
    }

    #[test]
    fn a_file_that_is_not_in_force_is_told() {
        let status = json!({ "configuration": "aa" });
        assert_eq!(in_force(&status, "aa"), None);
        assert_eq!(in_force(&status, "bb").map(|check| check.grade), Some(Grade::Warning));
        assert_eq!(in_force(&json!({ "configuration": "" }), "bb"), None);
        let awaits = json!({ "configuration": "aa", "awaits_restart": true });
        assert_eq!(in_force(&awaits, "aa").map(|check| check.grade), Some(Grade::Warning));
    }
}
