//! Why a decision was made as it was: the chain of policies, and what those in force say of the same questions.

use std::path::PathBuf;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};

use super::super::admin::{ask, segment, table, text};
use super::super::output::{is_not_found, plain, rows};
use super::super::{AdminSocket, print};
use super::in_force::InForce;
use super::replay::{question, tell_differences};
use crate::config::Reuse;
use crate::policy::replay::{PastQuestion, Replayed};
use crate::policy::workbench::Workbench;
use crate::policy::{Engine, module_digest};

/// Show how a decision came about: which policies were asked, and what each said.
///
/// If the decision was recorded (record = true in [policy]), the running gateway puts the same questions, with the same
/// answers of the host, to the policies that it has in force, and it is told whether they say the same. Nothing comes of it.
/// Policies that were not asked then are not asked now.
#[derive(clap::Args)]
pub(in crate::cli) struct Explain {
    /// The decision's id, as `portcullis decision list` and the log show it.
    id: String,
    /// A module that was asked then and is in force no more: what it says with the configuration that its policy has now, and
    /// without a deadline. May be given several times.
    #[arg(long, value_name = "FILE")]
    module: Vec<PathBuf>,
    #[command(flatten)]
    with: AdminSocket,
}

impl Explain {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let id = segment(&self.id)?;
        let decision = ask(&self.with, Method::GET, &format!("/api/v1/decisions/{id}"), None)?;
        print(&plain(&in_full(&decision)))?;
        let question = json!({ "decision": self.id });
        let tried = match ask(&self.with, Method::POST, "/api/v1/policies/try", Some(question)) {
            Err(error) if is_not_found(&error) => {
                return print(
                    "\nit cannot be asked again: it was not recorded; record = true in [policy] records decisions",
                );
            }
            tried => tried.context("it cannot be asked again")?,
        };
        print(&plain(&asked_again(&decision, &tried)))?;
        if self.module.is_empty() { Ok(()) } else { self.ask_modules(&id) }
    }

    /// Puts what each of the modules was asked then to it once more.
    fn ask_modules(&self, id: &str) -> anyhow::Result<()> {
        let recording = ask(&self.with, Method::GET, &format!("/api/v1/recordings/{id}"), None)?;
        let engine = Engine::start(1)?;
        for file in &self.module {
            let bytes = super::read_module(file)?;
            let digest = module_digest(&bytes);
            let asked = rows(&recording, "questions").iter().filter(|asked| text(&asked["module_digest"]) == &*digest);
            let asked: Vec<&Value> = asked.collect();
            print(&format!("\n{} (sha256:{digest}):", file.display()))?;
            if asked.is_empty() {
                print("it was not asked then")?;
                continue;
            }
            let bench = Workbench::load(&engine, &bytes);
            let bench = bench.with_context(|| format!("{} cannot be used", file.display()))?;
            for recorded in asked {
                let (name, hook) = (text(&recorded["policy"]), text(&recorded["hook"]));
                match self.ask_module(&bench, recorded) {
                    Err(error) => print(&plain(&format!("{name} at {hook}: not asked: {error:#}")))?,
                    Ok((question, replayed)) => tell(name, &question, &replayed)?,
                }
            }
        }
        Ok(())
    }

    fn ask_module(&self, bench: &Workbench, recorded: &Value) -> anyhow::Result<(PastQuestion, Replayed)> {
        let question = question(recorded)?;
        let policy = InForce::of(&self.with, question.binding.as_str())?;
        let replayed = bench.configure(&policy.config, Reuse::Fresh)?.replay(&question);
        Ok((question, replayed))
    }
}

/// What the policies in force said of a recorded decision.
fn asked_again(decision: &Value, tried: &Value) -> String {
    let mut out = vec![format!(
        "\nthe same, put to those of the policies in force that were asked then (generation {}):",
        tried["generation"]
    )];
    for step in rows(tried, "steps") {
        out.push(step_again(step));
        out.extend(step["failure"].as_str().map(|failure| format!("    it fails: {failure}")));
        if step["before"]["same"] != true {
            let answer = step["answer"].as_str().unwrap_or_default();
            out.extend(answer.lines().map(|line| format!("    {line}")));
        }
        if let Some(then) = digest_then(decision, step).filter(|then| *then != text(&step["module_digest"])) {
            out.push(format!("    its module was another one then: --module FILE asks that one, sha256:{then}"));
        }
    }
    out.extend(tried["gone"].as_array().into_iter().flatten().map(|gone| format!("{}: asked no more", text(gone))));
    if let Some(count) = tried["not_kept"].as_u64().filter(|count| *count > 0) {
        out.push(format!("{count} of its questions were too long to be kept, and are not asked"));
    }
    if tried["complete"] != true {
        out.push("there was not enough time for all questions".to_owned());
    }
    let end = &tried["end"];
    out.push(match (end["passes"] == true, end["message"].as_str()) {
        (true, _) => "by these it would pass".to_owned(),
        (false, Some(message)) => format!("by these it would be refused: {} ({message})", text(&end["check"])),
        (false, None) => format!("by these it would be refused: {}", text(&end["check"])),
    });
    out.join("\n")
}

fn step_again(step: &Value) -> String {
    let (name, hook) = (text(&step["policy"]), text(&step["hook"]));
    if step["before"]["same"] == true {
        return format!("{name} at {hook}: same");
    }
    let code = step["code"].as_str().map(|code| format!(" {code}")).unwrap_or_default();
    let (before, now) = (text(&step["before"]["verdict"]), text(&step["verdict"]));
    format!("{name} at {hook}: diverged: {before} then, {now}{code} now")
}

/// The module that was asked then what this step is about.
fn digest_then<'a>(decision: &'a Value, step: &Value) -> Option<&'a str> {
    let is_it = |then: &&Value| then["policy"] == step["policy"] && then["hook"] == step["hook"];
    rows(decision, "steps").iter().find(is_it)?["module_digest"].as_str()
}

fn tell(name: &str, question: &PastQuestion, replayed: &Replayed) -> anyhow::Result<()> {
    let hook = question.hook;
    let log = match replayed {
        Replayed::Same { log } => {
            print(&format!("{name} at {hook}: same"))?;
            log.as_slice()
        }
        Replayed::Diverged { what } => {
            print(&format!("{name} at {hook}: diverged: {what}"))?;
            &[]
        }
        Replayed::Different { answer, differences, log } => {
            print(&format!("{name} at {hook}: diverged"))?;
            tell_differences(question, answer, differences)?;
            log.as_slice()
        }
    };
    log.iter().try_for_each(|line| print(&format!("    log {line}")))
}

/// A decision with each step that led to it.
pub(in crate::cli) fn in_full(decision: &Value) -> String {
    let steps = decision["steps"].as_array().into_iter().flatten();
    let steps = table(&["POLICY", "HOOK", "VERDICT", "REASON", "RULE", "MODULE", "TOOK", "NOTES"], steps.map(row));
    format!("{}\n{steps}", head(decision))
}

fn head(decision: &Value) -> String {
    let cell = |name: &str| text(&decision[name]);
    let about = [cell("upstream"), cell("tool")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    let reason = decision["reason_code"].as_str().map(|code| format!(" ({code})")).unwrap_or_default();
    format!(
        "{} {}: {} {} for {}\n{}{reason}, then {}, after {} ms; generation {}\n",
        cell("at"),
        cell("id"),
        cell("operation"),
        about.join("/"),
        cell("principal"),
        cell("verdict"),
        cell("outcome"),
        decision["elapsed_ms"],
        decision["policy_generation"],
    )
}

fn row(step: &Value) -> Vec<String> {
    let cell = |name: &str| text(&step[name]).to_owned();
    let digest: String = cell("module_digest").chars().take(12).collect();
    let module = [cell("module_name"), cell("version"), digest];
    let notes = step["notes"].as_array().into_iter().flatten();
    let notes = notes.map(|note| format!("{}={}", text(&note["key"]), text(&note["value"])));
    vec![
        cell("policy"),
        cell("hook"),
        cell("verdict"),
        cell("reason_code"),
        cell("rule"),
        module.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
        format!("{} µs", step["micros"]),
        notes.collect::<Vec<_>>().join(" "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_now_stands_beside_what_was_said_then() {
        let decision = json!({ "steps": [
            { "policy": "guard", "hook": "tool-call", "module_digest": "aa" },
            { "policy": "other", "hook": "tool-call", "module_digest": "bb" },
        ] });
        let tried = json!({
            "generation": 7, "gone": ["former"], "not_kept": 1, "complete": false,
            "steps": [
                { "policy": "guard", "hook": "tool-call", "module_digest": "aa", "verdict": "allow", "answer": "{}",
                  "before": { "verdict": "allow", "same": true } },
                { "policy": "other", "hook": "tool-call", "module_digest": "cc", "verdict": "deny", "code": "two",
                  "answer": "{\n  \"deny\": 1\n}", "failure": null, "before": { "verdict": "deny", "same": false } },
            ],
            "end": { "passes": false, "check": "deny", "message": "policy other says deny two" },
        });
        assert_eq!(
            asked_again(&decision, &tried).lines().skip(2).collect::<Vec<_>>(),
            [
                "guard at tool-call: same",
                "other at tool-call: diverged: deny then, deny two now",
                "    {",
                "      \"deny\": 1",
                "    }",
                "    its module was another one then: --module FILE asks that one, sha256:bb",
                "former: asked no more",
                "1 of its questions were too long to be kept, and are not asked",
                "there was not enough time for all questions",
                "by these it would be refused: deny (policy other says deny two)",
            ]
        );
    }
}
