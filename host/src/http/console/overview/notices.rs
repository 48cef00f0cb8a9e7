//! What needs somebody, in sentences with a link to where something can be done about it. Pure.

use super::Moment;
use crate::http::api::health::{AmountView, ExpiringView, HealthView};
use crate::http::api::metrics::Check;

/// Longest part of a reason that stands here, in characters; the whole of it is where the link leads.
const MAX_REASON: usize = 300;

/// Something that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) is_urgent: bool,
    pub(super) text: String,
    pub(super) link: (&'static str, &'static str),
}

impl Notice {
    /// What stands before it.
    pub(super) const fn word(&self) -> &'static str {
        if self.is_urgent { "Not ready" } else { "Look" }
    }

    fn remark(text: String, link: (&'static str, &'static str)) -> Self {
        Self { is_urgent: false, text, link }
    }
}

/// The most urgent first.
pub(super) fn of(health: &HealthView) -> Vec<Notice> {
    let (failed, remarks): (Vec<Notice>, Vec<Notice>) =
        health.checks.iter().filter(|check| !check.is_ok()).map(of_check).partition(|notice| notice.is_urgent);
    let mut notices = failed;
    if let Some(reason) = &health.reload_refused {
        let text = format!("The last reload was refused, and what ran before goes on: {}", shortened(reason));
        notices.push(Notice::remark(text, ("/settings", "Settings")));
    }
    if let Some(reason) = &health.bindings_not_followed {
        let reason = shortened(reason);
        let text =
            format!("Policies of the store have changed and cannot be followed; what ran before goes on: {reason}");
        notices.push(Notice::remark(text, ("/policies", "Policies")));
    }
    notices.extend(remarks);
    if health.awaits_restart {
        let text = "The configuration file says something that takes effect at the next start.".to_owned();
        notices.push(Notice::remark(text, ("/settings", "Settings")));
    }
    let waiting = amount(health.approvals_waiting, "approval waits for a decision.", "approvals wait for a decision.");
    notices.extend(waiting.map(|text| Notice::remark(text, ("/approvals?state=pending", "Approvals"))));
    let (one, more) = ("connection has to be made anew.", "connections have to be made anew.");
    let broken = amount(health.connections_to_renew, one, more);
    notices.extend(broken.map(|text| Notice::remark(text, ("/connections?state=needs_reauth", "Connections"))));
    notices.extend(endings(&health.expiring));
    notices
}

/// What a check is about, and where something can be done about it.
fn subject(check: &Check) -> (&'static str, (&'static str, &'static str)) {
    match check.name {
        "store" => ("Store", ("/settings", "Settings")),
        "staleness" => ("Other gateways", ("/settings", "Settings")),
        "start" => ("Start", ("/upstreams", "Upstreams")),
        "draining" => ("Stop", ("/settings", "Settings")),
        "vault" => ("Vault", ("/settings/vault", "Vault")),
        "signing-keys" => ("Signing keys", ("/settings/signing-keys", "Signing keys")),
        "policies" => ("Policies", ("/policies", "Policies")),
        "upstreams" => ("Upstreams", ("/upstreams", "Upstreams")),
        "audit-export" => ("Audit trail", ("/settings", "Settings")),
        name => (name, ("/settings", "Settings")),
    }
}

/// What a check is about, in a word or two.
pub(super) fn called(check: &Check) -> &'static str {
    subject(check).0
}

/// What came of a check, in a word or two.
pub(super) fn stands(check: &Check) -> &'static str {
    match check.name {
        "start" if check.is_ok() => "done",
        "draining" if check.is_ok() => "not asked for",
        _ => check.status,
    }
}

fn of_check(check: &Check) -> Notice {
    let (what, link) = subject(check);
    let detail = check.detail.as_deref().unwrap_or(check.status);
    Notice { is_urgent: check.has_failed(), text: format!("{what}: {}.", shortened(detail)), link }
}

/// What of the things that end is somebody's to do. Keys that sign are followed by others without anybody.
fn endings(expiring: &[ExpiringView]) -> Vec<Notice> {
    let certificates = expiring.iter().filter(|view| view.kind == "certificate").map(|view| {
        let at = Moment::of(&view.at).words;
        let ends = if view.ended { "has ended" } else { "ends" };
        let text = format!("The certificate of the {} listener {ends}: {at}.", view.name);
        Notice::remark(text, ("#expiring", "What ends soon"))
    });
    let of_kind = |kind: &str, one: &str, more: &str| {
        let mut these = expiring.iter().filter(|view| view.kind == kind);
        let first = these.next()?;
        let count = these.count() + 1;
        let what = if count == 1 { one } else { more };
        let text = format!("{count} {what} within 14 days, from {} on.", Moment::of(&first.at).words);
        Some(Notice::remark(text, ("#expiring", "What ends soon")))
    };
    let keys = of_kind("key", "virtual key ends", "virtual keys end");
    let tokens = of_kind("api_token", "API token ends", "API tokens end");
    certificates.chain(keys).chain(tokens).collect()
}

/// Nothing where there are none.
fn amount(amount: AmountView, one: &str, more: &str) -> Option<String> {
    let AmountView { count, more: is_more } = amount;
    let at_least = if is_more { "At least " } else { "" };
    let what = if count == 1 { one } else { more };
    (count > 0).then(|| format!("{at_least}{count} {what}"))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> HealthView {
        let none = AmountView { count: 0, more: false };
        HealthView {
            ready: true,
            checks: vec![Check { name: "store", status: "ok", detail: None }],
            reload_refused: None,
            bindings_not_followed: None,
            awaits_restart: false,
            approvals_waiting: none,
            connections_to_renew: none,
            expiring: Vec::new(),
            expiring_more: false,
        }
    }

    fn texts(health: &HealthView) -> Vec<String> {
        of(health).into_iter().map(|notice| notice.text).collect()
    }

    #[test]
    fn where_all_is_well_there_is_nothing_to_say() {
        assert_eq!(of(&nothing()), []);
        let (kind, id, at) = ("signing_key", None, "2027-01-01T10:30:00.000Z".to_owned());
        let expiring = vec![ExpiringView { kind, name: "k1".to_owned(), id, at, ended: false }];
        assert_eq!(of(&HealthView { expiring, ..nothing() }), [], "the next one takes over by itself");
    }

    #[test]
    fn what_keeps_the_gateway_from_serving_comes_first() {
        let check = |name, status, detail: &str| Check { name, status, detail: Some(detail.to_owned()) };
        let checks =
            vec![check("policies", "remark", "their last runs all failed: p"), check("store", "failed", "away")];
        let health = HealthView {
            checks,
            reload_refused: Some("line 3: no".to_owned()),
            approvals_waiting: AmountView { count: 2, more: true },
            ..nothing()
        };
        let expected = [
            "Store: away.",
            "The last reload was refused, and what ran before goes on: line 3: no",
            "Policies: their last runs all failed: p.",
            "At least 2 approvals wait for a decision.",
        ];
        assert_eq!(texts(&health), expected);
        assert_eq!(of(&health).iter().filter(|notice| notice.is_urgent).count(), 1);
    }

    #[test]
    fn what_came_of_a_check_is_said_in_words_of_people() {
        let said = |name, status| {
            let check = Check { name, status, detail: None };
            (called(&check), stands(&check))
        };
        assert_eq!(said("start", "ok"), ("Start", "done"));
        assert_eq!(said("draining", "ok"), ("Stop", "not asked for"));
        assert_eq!(said("draining", "failed"), ("Stop", "failed"));
        assert_eq!(said("signing-keys", "ok"), ("Signing keys", "ok"));
    }

    #[test]
    fn what_ends_soon_is_counted_by_its_kind() {
        let view = |kind, name: &str, ended| {
            let at = "2027-01-01T10:30:00.000Z".to_owned();
            ExpiringView { kind, name: name.to_owned(), id: None, at, ended }
        };
        let expiring = vec![view("certificate", "public", true), view("key", "a", false), view("key", "b", false)];
        let expected = [
            "The certificate of the public listener has ended: 2027-01-01 10:30 UTC.",
            "2 virtual keys end within 14 days, from 2027-01-01 10:30 UTC on.",
        ];
        assert_eq!(texts(&HealthView { expiring, ..nothing() }), expected);
    }
}
