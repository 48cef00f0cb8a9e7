//! What the running gateway has: its policies, how the last reload went, and the way back.

use http::Method;
use serde_json::{Value, json};

use super::super::WithConfig;
use super::super::admin::{ask, table, text, words};
use super::super::output::tell;
use super::super::status::AWAITED;

pub(super) fn list(with: &WithConfig) -> anyhow::Result<()> {
    tell(with, &ask(with, Method::GET, "/api/v1/policies", None)?, standing)
}

pub(super) fn reload(with: &WithConfig) -> anyhow::Result<()> {
    tell(with, &ask(with, Method::POST, "/api/v1/policies/reload", None)?, standing)
}

/// What is to be done so that a rollback lasts.
const LASTS: &str = "what is written stays: mend the configuration file before the next reload, or change or unbind what is \
                     wrong in the store before another binding there changes";

/// Put the policies of an earlier generation into force again.
///
/// Nothing that is written is touched. What the configuration file says counts again from the next reload or start on, and a
/// reload comes with the next change of a watched file. What the store says counts again from then on, too, and from the next
/// change of any binding there on.
#[derive(clap::Args)]
pub(in crate::cli) struct Rollback {
    /// Which generation, of those that `generations` shows; without it, the one before the running one.
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
    #[command(flatten)]
    with: WithConfig,
}

impl Rollback {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let body = self.to.map_or_else(|| json!({}), |to| json!({ "to": to }));
        let answer = ask(&self.with, Method::POST, "/api/v1/policies/rollback", Some(body))?;
        let told = |answer: &Value| {
            let generations = generations_of(answer);
            format!("{generations}\n{LASTS}")
        };
        tell(&self.with, &answer, told)
    }
}

pub(super) fn generations(with: &WithConfig) -> anyhow::Result<()> {
    tell(with, &ask(with, Method::GET, "/api/v1/policies/generations", None)?, generations_of)
}

fn generations_of(answer: &Value) -> String {
    let row = |generation: &Value| {
        let policies = generation["policies"].as_array().into_iter().flatten();
        let policies = policies.map(|policy| {
            let digest: String = text(&policy["digest"]).chars().take(12).collect();
            format!(
                "{} ({} {}, {digest}, config {})",
                text(&policy["name"]),
                text(&policy["module_name"]),
                text(&policy["version"]),
                text(&policy["config_digest"])
            )
        });
        let cause = match generation["of"].as_u64() {
            Some(of) => format!("{} to {of}", text(&generation["cause"])),
            None => text(&generation["cause"]).to_owned(),
        };
        vec![
            generation["generation"].to_string(),
            text(&generation["at"]).to_owned(),
            if generation["running"] == true { "running".to_owned() } else { String::new() },
            format!("{cause} by {}", text(&generation["actor"])),
            policies.collect::<Vec<_>>().join(", "),
        ]
    };
    let rows = answer["generations"].as_array().into_iter().flatten().map(row);
    table(&["GENERATION", "AT", "", "CAUSE", "POLICIES"], rows)
}

fn standing(answer: &Value) -> String {
    let bindings = || answer["bindings"].as_array().into_iter().flatten();
    let row = |binding: &Value| {
        let digest: String = text(&binding["digest"]).chars().take(12).collect();
        let module = format!("{} {}", text(&binding["module_name"]), text(&binding["version"]));
        let health = match (&binding["degraded"], binding["failures"].as_u64().unwrap_or(0)) {
            (Value::Bool(true), failures) => format!("degraded, {failures} failures"),
            (_, 0) => "ok".to_owned(),
            (_, failures) => format!("{failures} failures"),
        };
        vec![
            text(&binding["name"]).to_owned(),
            binding["priority"].to_string(),
            text(&binding["mode"]).to_owned(),
            module,
            digest,
            text(&binding["instances"]["mode"]).to_owned(),
            health,
            words(&binding["hooks"]),
        ]
    };
    let head = ["NAME", "PRIORITY", "MODE", "MODULE", "DIGEST", "INSTANCES", "HEALTH", "HOOKS"];
    let mut out = vec![table(&head, bindings().map(row))];
    for binding in bindings() {
        let lines = |list: &Value| list.as_array().into_iter().flatten().map(|line| text(line).to_owned()).collect();
        let remarks: Vec<String> = lines(&binding["instances"]["remarks"]);
        let warnings: Vec<String> = lines(&binding["warnings"]);
        for line in warnings.iter().chain(&remarks) {
            out.push(format!("{}: {line}", text(&binding["name"])));
        }
    }
    let last = &answer["last_reload"];
    if let Some(changes) = last["changes"]["summary"].as_str() {
        out.push(format!("what the reload changed: {changes}"));
    }
    let (running, at) = (&answer["generation"], text(&last["at"]));
    // What runs may have come after the reload: by a rollback, or a binding of the store.
    let is_latest = last["generation"] == *running;
    out.push(match (last["error"].as_str(), is_latest) {
        (None, true) => format!("generation {running}, loaded {at}"),
        (None, false) => {
            format!("generation {running} runs; generation {}, before it, was loaded {at}", last["generation"])
        }
        (Some(error), true) => format!("generation {running} still runs: the reload at {at} was refused\n{error}"),
        (Some(error), false) => {
            format!("generation {running} runs; the reload before it, at {at}, was refused\n{error}")
        }
    });
    if answer["awaits_restart"] == true {
        out.push(format!("restart {AWAITED}"));
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_a_reload_is_not_told_to_have_been_before_it() {
        let told = |generation: u64, error: Value, awaits_restart: bool| {
            let last = json!({ "at": "T1", "generation": 4, "error": error });
            let answer = json!({
                "generation": generation, "bindings": [], "last_reload": last, "awaits_restart": awaits_restart,
            });
            standing(&answer).lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(told(4, Value::Null, false), ["generation 4, loaded T1"]);
        assert_eq!(told(5, Value::Null, false), ["generation 5 runs; generation 4, before it, was loaded T1"]);
        assert_eq!(told(4, json!("why"), false), ["generation 4 still runs: the reload at T1 was refused", "why"]);
        assert_eq!(
            told(5, json!("why"), true),
            [
                "generation 5 runs; the reload before it, at T1, was refused",
                "why",
                "restart awaited: the file has other settings that count from the next start",
            ]
        );
    }

    #[test]
    fn sets_that_differ_in_configuration_alone_can_be_told_apart() {
        let policy = json!({
            "name": "guard", "module_name": "allow-tools", "version": "0.1.0", "digest": "0123456789abcdef",
            "config_digest": "fedcba987654", "mode": "enforce",
        });
        let generation = json!({
            "generation": 3, "at": "T1", "actor": "operator:socket", "cause": "rollback", "of": 1, "running": true,
            "policies": [policy],
        });
        let told = generations_of(&json!({ "generations": [generation] }));
        assert!(told.contains("rollback to 1 by operator:socket"), "{told}");
        assert!(told.contains("guard (allow-tools 0.1.0, 0123456789ab, config fedcba987654)"), "{told}");
    }
}
