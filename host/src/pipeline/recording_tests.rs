//! The log line of a request, against the page that explains it.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::recording::Recording;
use super::{Services, Snapshot};
use crate::audit::{RecordedOutcome, RecordedVerdict};
use crate::config::{Auth, PolicySettings, WhenAllAbstain};
use crate::identity::Keyring;
use crate::ids::Principal;
use crate::policy::{Engine, PolicySet};

/// The names of the fields of what is logged as `request`.
#[derive(Clone, Default)]
struct Fields(Arc<Mutex<BTreeSet<String>>>);

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Fields {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if message.0 == "request" {
            let names = event.metadata().fields().iter().map(|field| field.name().to_owned());
            self.0.lock().unwrap().extend(names.filter(|name| name != "message"));
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn every_field_of_the_log_line_is_in_the_documentation_and_nothing_else() {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::start(1).unwrap());
    let settings =
        PolicySettings { when_all_abstain: WhenAllAbstain::Allow, max_components: 1, ..PolicySettings::default() };
    let policies = PolicySet::load(&settings, &[], &ENGINE, &|_| None, None, 1).unwrap();
    let snapshot = Snapshot::for_tests(Auth::keys_only(), Keyring::new([]), policies);
    let services = Services::for_tests().await;
    let fields = Fields::default();
    tracing::subscriber::with_default(fields.clone(), || {
        let recording = Recording::start(&services, "tools/call");
        let asker = (&Principal::Anonymous, "2026-07-28");
        recording.conclude(&snapshot, &services, asker, RecordedVerdict::Allow, None, RecordedOutcome::Result);
    });
    let written = fields.0.lock().unwrap().clone();
    assert!(written.len() > 15, "{written:?}");

    let page = include_str!("../../../docs/observability.md");
    let (_, section) = page.split_once("## The log line of a request").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let explained: BTreeSet<String> = rows.map(ToOwned::to_owned).collect();
    assert_eq!(written, explained);
}
