//! What a decision came to and why, in a sentence, and what somebody can do about it. Pure.
//!
//! Names stand between backticks, which a page shows as code.

use super::super::fields::page;
use super::super::text;
use crate::http::api::trails::{DecisionView, StepView};
use crate::ids::UpstreamName;

/// What verdicts look like. The word is said beside it, always.
const BADGES: [(&str, &[&str]); 3] = [
    ("good", &["allow", "release", "show", "pass"]),
    ("warning", &["approve", "step-up", "consent", "throttle", "redact", "filter"]),
    ("error", &["deny", "hidden", "hide", "block", "error"]),
];

/// The class of a badge.
pub(super) fn badge(verdict: &str) -> &'static str {
    BADGES.iter().find(|(_, verdicts)| verdicts.contains(&verdict)).map_or("", |(class, _)| class)
}

/// The same of all verdicts that have one, for rows that scripts make.
pub(super) fn badges() -> String {
    let of = |(class, verdicts): &(&'static str, &[&'static str])| {
        verdicts.iter().map(|verdict| ((*verdict).to_owned(), (*class).into())).collect::<Vec<_>>()
    };
    let map: serde_json::Map<String, serde_json::Value> = BADGES.iter().flat_map(of).collect();
    serde_json::Value::Object(map).to_string()
}

/// Something to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    pub(super) text: String,
    /// A path of the console.
    pub(super) link: Option<String>,
}

impl Advice {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), link: None }
    }

    /// The same, as a plain text where its link leads to nothing any more.
    pub(super) fn that_leads(self, is_there: impl Fn(&str) -> bool) -> Self {
        Self { link: self.link.filter(|link| is_there(link)), ..self }
    }

    fn at(link: impl Into<String>, text: impl Into<String>) -> Self {
        Self { text: text.into(), link: Some(link.into()) }
    }
}

/// The step that decided a refusal: the last one that counts and has something against it.
fn decided_by(decision: &DecisionView) -> Option<&StepView> {
    const AGAINST: [&str; 7] = ["deny", "hide", "block", "error", "throttle", "step-up", "approve"];
    let counts = |step: &&StepView| step.mode == "enforce" && AGAINST.contains(&step.verdict);
    decision.steps.iter().rev().find(counts)
}

/// What the caller wanted, as they named it.
fn subject(decision: &DecisionView) -> String {
    match (&decision.upstream, &decision.tool) {
        (Some(upstream), Some(tool)) => format!("{}/{}", upstream.as_str(), quiet(tool)),
        (Some(upstream), None) => upstream.as_str().to_owned(),
        (None, Some(tool)) => quiet(tool),
        (None, None) => decision.operation.clone(),
    }
}

/// A text that others chose, without what marks code.
fn quiet(text: &str) -> String {
    text::line(text).replace('`', "'")
}

/// What it came to and why, for whoever is called this.
pub(super) fn sentence(decision: &DecisionView, who: &str) -> String {
    let reason = decision.reason_code.as_deref().unwrap_or_default();
    match decision.outcome {
        "refused" => refusal(decision, who, reason),
        "cancelled" => "Allowed, and taken back by the caller before there was an answer.".to_owned(),
        "tool_error" => format!("Allowed. `{}` itself answered with an error.", subject(decision)),
        "error" if decision.verdict == "error" => "Not decided: the store of the gateway failed meanwhile.".to_owned(),
        "error" => "Allowed. The upstream answered with an error, or could not be reached.".to_owned(),
        _ if decision.verdict == "allow" => "Allowed, and answered.".to_owned(),
        _ => format!("Decided as `{}`, and answered.", decision.verdict),
    }
}

fn refusal(decision: &DecisionView, who: &str, reason: &str) -> String {
    let (who, subject) = (quiet(who), subject(decision));
    if decision.verdict == "allow" {
        return format!("Allowed by policies, and not sent: {}", lack(reason, &who, decision));
    }
    match (decision.verdict, decided_by(decision)) {
        ("hidden", Some(step)) => {
            format!(
                "Refused: the policy `{}` hides `{subject}` from `{who}`, for whom there is no such thing.",
                step.policy.as_str()
            )
        }
        ("hidden", None) => unknown(reason, &who, &subject),
        ("throttle", Some(step)) => {
            format!(
                "Put off by `{}` at {}: too much at once{}.",
                step.policy.as_str(),
                decision.operation,
                because(step)
            )
        }
        ("approve", Some(step)) => {
            format!(
                "Put off by `{}` at {}: somebody has to approve it first{}.",
                step.policy.as_str(),
                decision.operation,
                because(step)
            )
        }
        ("step-up", Some(step)) => {
            format!(
                "Refused by `{}` at {} until the client has more authority{}.",
                step.policy.as_str(),
                decision.operation,
                because(step)
            )
        }
        ("error", Some(step)) => {
            format!(
                "Refused: the policy `{}` failed at {}, and what fails denies{}.",
                step.policy.as_str(),
                decision.operation,
                because(step)
            )
        }
        (_, Some(step)) => format!("Refused by `{}` at {}{}.", step.policy.as_str(), decision.operation, because(step)),
        (_, None) if reason == "no-policy-allowed" => {
            format!("Refused: policies are bound to {} and none of them allowed it.", decision.operation)
        }
        (_, None) => format!("Refused at {}: `{}`.", decision.operation, quiet(reason)),
    }
}

fn because(step: &StepView) -> String {
    let code = step.reason_code.as_deref().map(|code| format!(": `{}`", quiet(code))).unwrap_or_default();
    let rule = step.rule.as_deref().map(|rule| format!(", by its rule `{}`", quiet(rule))).unwrap_or_default();
    format!("{code}{rule}")
}

fn unknown(reason: &str, who: &str, subject: &str) -> String {
    match reason {
        "header-mismatch" => "Refused: the headers of the request and its message name different things.".to_owned(),
        "bad-state" => {
            "Refused: what the client brought back from an earlier round is not from here, or it is over.".to_owned()
        }
        "unknown-task" => format!("Refused: `{who}` has no such task, or it is over."),
        "not-allowed" => format!(
            "Refused: there is `{subject}`, and not for `{who}`. Their allow-list does not have it, or the client asked for less."
        ),
        _ => format!(
            "Refused: for `{who}` there is no `{subject}`. No upstream offers it, their allow-list does not have it, or the \
             client asked for less."
        ),
    }
}

fn lack(reason: &str, who: &str, decision: &DecisionView) -> String {
    let upstream = decision.upstream.as_ref().map_or("the upstream", |name| name.as_str());
    match reason {
        "not_connected" => format!("`{who}` is not connected to `{upstream}` yet."),
        "needs_reauth" => format!("the connection of `{who}` to `{upstream}` has to be made again."),
        "needs_update" => format!("the connection of `{who}` to `{upstream}` lacks values."),
        "insufficient_scope" => format!("the connection of `{who}` to `{upstream}` covers too little."),
        "no_identity" => format!("`{who}` is nobody whom the gateway could vouch for at `{upstream}`."),
        other => format!("the credential of `{who}` for `{upstream}` cannot be used: `{}`.", quiet(other)),
    }
}

/// What somebody can look at or do now; whether they may decide about approvals.
pub(super) fn advice(decision: &DecisionView, may_decide: bool) -> Vec<Advice> {
    let upstream = decision.upstream.as_ref().map(UpstreamName::as_str);
    let of_upstream = |text: &str| upstream.map(|name| Advice::at(page("/upstreams", name), text.replace("{}", name)));
    let mut advice = Vec::new();
    let is_refused = decision.outcome == "refused";
    for id in decision.approvals.iter().filter(|_| may_decide && is_refused && decision.verdict == "approve") {
        advice.push(Advice::at(
            format!("/approvals/{id}"),
            "Decide about the approval that it waits for. The caller tries again then.",
        ));
    }
    if is_refused && let Some(step) = decided_by(decision) {
        let name = step.policy.as_str();
        let text = match step.rule.as_deref() {
            Some(rule) => format!("Look at the binding `{name}`: its rule `{}` decided.", quiet(rule)),
            None => format!("Look at the binding `{name}`: what it matches, and its configuration."),
        };
        advice.push(Advice::at(page("/policies/bindings", name), text));
    }
    match decision.reason_code.as_deref() {
        Some("no-policy-allowed") => {
            advice.push(Advice::at("/policies", "Look which policies are bound to this: one of them has to allow it."));
        }
        Some("not-allowed") if is_refused => advice.extend(of_allow_list(decision)),
        Some("unknown-tool" | "unknown-item") if is_refused => {
            advice.extend(of_upstream("Look whether `{}` offers it, and whether it is up."));
            advice.extend(of_allow_list(decision));
        }
        Some("not_connected" | "needs_reauth" | "needs_update" | "insufficient_scope" | "too_old") if is_refused => {
            advice.push(Advice::at(
                "/connections",
                "Look at the connection. Its person makes it, by the link that the client was given.",
            ));
            advice.extend(of_upstream("Look how `{}` wants its callers to be known."));
        }
        _ => {}
    }
    if is_refused && decision.verdict == "throttle" {
        advice.push(Advice::plain("Or wait: the same call passes once there was less for a while."));
    }
    if matches!(decision.outcome, "error" | "tool_error") {
        advice.extend(of_upstream("Look at `{}`: its state, and what failed last."));
    }
    advice
}

/// Where it stands what a principal may use.
fn of_allow_list(decision: &DecisionView) -> Option<Advice> {
    let (kind, id) = decision.principal.split_once(':')?;
    let line = match (&decision.upstream, &decision.tool) {
        (Some(upstream), Some(tool)) => format!("a line for `{}` with the tool `{}`", upstream.as_str(), quiet(tool)),
        _ => "a line for its upstream with the tool".to_owned(),
    };
    match kind {
        "key" => {
            Some(Advice::at(page("/keys", id), format!("Look at the allow-list of the key `{id}`: it needs {line}.")))
        }
        "user" => Some(Advice::at(page("/people", id), format!("Look at what this person may use: it takes {line}."))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::words::parts;
    use super::*;
    use crate::ids::{BindingName, UpstreamName};

    fn step(policy: &str, mode: &'static str, verdict: &'static str, code: Option<&str>) -> StepView {
        StepView {
            policy: BindingName::parse(policy).unwrap(),
            module_name: policy.to_owned(),
            version: "0.1.0".to_owned(),
            module_digest: "ab".repeat(32),
            mode,
            hook: "tool-call".to_owned(),
            verdict,
            reason_code: code.map(ToOwned::to_owned),
            rule: None,
            micros: 5,
            notes: Vec::new(),
        }
    }

    fn decision(
        verdict: &'static str,
        outcome: &'static str,
        reason: Option<&str>,
        steps: Vec<StepView>,
    ) -> DecisionView {
        DecisionView {
            id: "01".to_owned(),
            at: "2027-01-31T00:00:00.000Z".to_owned(),
            principal: "key:ci".to_owned(),
            operation: "tools/call".to_owned(),
            upstream: Some(UpstreamName::parse("notes").unwrap()),
            tool: Some("add".to_owned()),
            revision: "2026-07-28".to_owned(),
            verdict,
            reason_code: reason.map(ToOwned::to_owned),
            policy_generation: 1,
            steps,
            approvals: Vec::new(),
            outcome,
            elapsed_ms: 3,
        }
    }

    fn links(decision: &DecisionView) -> Vec<String> {
        advice(decision, true).into_iter().filter_map(|advice| advice.link).collect()
    }

    #[test]
    fn a_refusal_names_the_policy_that_counts() {
        let steps = vec![
            step("freeze-guard", "enforce", "deny", Some("frozen")),
            step("newer", "shadow", "deny", Some("other")),
            step("polite", "enforce", "abstain", None),
        ];
        let denied = decision("deny", "refused", Some("frozen"), steps);
        assert_eq!(sentence(&denied, "key:ci"), "Refused by `freeze-guard` at tools/call: `frozen`.");
        assert_eq!(links(&denied), ["/policies/bindings/freeze-guard"]);
        let hidden = decision("hidden", "refused", Some("x"), vec![step("guard", "enforce", "hide", None)]);
        assert!(sentence(&hidden, "key:ci").contains("the policy `guard` hides `notes/add` from `key:ci`"));
    }

    #[test]
    fn what_nobody_decided_leads_to_allow_list_and_upstream() {
        let unknown = decision("hidden", "refused", Some("unknown-tool"), Vec::new());
        assert!(sentence(&unknown, "key:ci").starts_with("Refused: for `key:ci` there is no `notes/add`."));
        assert_eq!(links(&unknown), ["/upstreams/notes", "/keys/ci"]);
        let kept = decision("hidden", "refused", Some("not-allowed"), Vec::new());
        assert!(sentence(&kept, "key:ci").starts_with("Refused: there is `notes/add`, and not for `key:ci`."));
        assert_eq!(links(&kept), ["/keys/ci"]);
        let lacks = decision("allow", "refused", Some("not_connected"), Vec::new());
        assert_eq!(
            sentence(&lacks, "key:ci"),
            "Allowed by policies, and not sent: `key:ci` is not connected to `notes` yet."
        );
        assert_eq!(links(&lacks), ["/connections", "/upstreams/notes"]);
        let none = decision("deny", "refused", Some("no-policy-allowed"), Vec::new());
        assert!(sentence(&none, "key:ci").contains("none of them allowed it"));
        assert_eq!(links(&none), ["/policies"]);
    }

    #[test]
    fn what_was_allowed_says_how_it_ended() {
        for (outcome, said) in
            [("result", "answered"), ("tool_error", "itself"), ("error", "upstream"), ("cancelled", "taken back")]
        {
            let allowed = decision("allow", outcome, None, Vec::new());
            assert!(sentence(&allowed, "key:ci").contains(said), "{outcome}");
        }
        assert_eq!(advice(&decision("allow", "result", None, Vec::new()), true), []);
        assert_eq!(links(&decision("allow", "error", None, Vec::new())), ["/upstreams/notes"]);
    }

    #[test]
    fn what_is_gone_is_named_and_not_linked() {
        let unknown = decision("hidden", "refused", Some("unknown-tool"), Vec::new());
        let left = advice(&unknown, true).into_iter().map(|advice| advice.that_leads(|link| link == "/keys/ci"));
        let links: Vec<Option<String>> = left.map(|advice| advice.link).collect();
        assert_eq!(links, [None, Some("/keys/ci".to_owned())]);
    }

    #[test]
    fn names_are_code_whatever_callers_choose() {
        let mut odd = decision("hidden", "refused", Some("unknown-tool"), Vec::new());
        odd.tool = Some("a`b".to_owned());
        let sentence = sentence(&odd, "key:ci");
        assert!(parts(&sentence).contains(&(true, "notes/a'b")), "{sentence}");
    }

    #[test]
    fn every_verdict_that_has_a_badge_has_one() {
        for (verdict, class) in
            [("allow", "good"), ("deny", "error"), ("approve", "warning"), ("would_deny", ""), ("abstain", "")]
        {
            assert_eq!(badge(verdict), class, "{verdict}");
        }
        assert!(badges().contains(r#""hidden":"error""#));
    }
}
