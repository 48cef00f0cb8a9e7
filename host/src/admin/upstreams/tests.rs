//! Upstreams of the store on real gateways without surfaces.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::admin::testing::{Replica, Skewed, shared, until};
use crate::audit::OperatorProof;
use crate::config::UpstreamTransport;
use crate::store::{Location, sealed};
use crate::tasks::Tasks;
use crate::upstream::stand_in::{self, Says, about};

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);
const CANARY: &str = "canary-8c1f4ae2";

fn name(name: &str) -> UpstreamName {
    UpstreamName::parse(name).unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other}"),
    }
}

/// The address of a server that offers nothing, or never answers, as long as the tasks run.
async fn serve(tasks: &Tasks, answers: bool) -> String {
    let says = move |_: &str, _: &Value| match answers {
        true => Says::Result(about("empty", &json!({}))),
        false => Says::Waits,
    };
    stand_in::serve(tasks, says).await
}

async fn create(replica: &Replica, of: &str, definition: Value) -> Result<UpstreamView, UpstreamError> {
    replica.control.create_upstream(name(of), object(definition), Care::Unchecked, OPERATOR).await
}

async fn change(replica: &Replica, of: &str, expected: u64, patch: Value) -> Result<UpstreamView, UpstreamError> {
    let change = Change { definition: Some(object(patch)), enabled: None };
    replica
        .control
        .change_upstream(&name(of), Some(vec![expected]), change, Care::Unchecked, (Role::Owner, OPERATOR))
        .await
}

#[tokio::test]
async fn who_is_no_owner_sends_nothing_elsewhere_that_an_owner_has_said() {
    let (store, clock) = shared().await;
    let replica = Replica::new(store.as_replica(1), &clock, Duration::from_secs(60), &[]).await;
    create(&replica, "sealed", json!({ "url": "http://127.0.0.1:1/mcp", "headers": { "x-key": CANARY } }))
        .await
        .unwrap();
    let as_operator = async |of: &str, patch: Value| {
        let change = Change { definition: Some(object(patch)), enabled: None };
        let who = (Role::Operator, OPERATOR);
        replica.control.change_upstream(&name(of), None, change, Care::Unchecked, who).await
    };
    for (of, patch) in [
        ("sealed", json!({ "url": "http://127.0.0.1:2/mcp", "headers": { "x-key": "sealed" } })),
        ("sealed", json!({ "headers": { "x-file": "file:key" } })),
        ("sealed", json!({ "tls": { "ca_file": "ca.pem" } })),
    ] {
        let refused = as_operator(of, patch.clone()).await;
        assert!(matches!(refused, Err(UpstreamError::ForOwners)), "{of}: {patch}");
    }
    let changed =
        as_operator("sealed", json!({ "url": "http://127.0.0.1:2/mcp", "headers": { "x-key": "another" } })).await;
    assert!(changed.is_ok(), "they may give what is theirs");
    replica.stop().await;
}

async fn set_enabled(replica: &Replica, of: &str, enabled: bool) -> UpstreamView {
    let change = Change { definition: None, enabled: Some(enabled) };
    replica.control.change_upstream(&name(of), None, change, Care::Unchecked, (Role::Owner, OPERATOR)).await.unwrap()
}

/// What an upstream that is in force sends under this header.
fn header(replica: &Replica, of: &str, header: &str) -> Option<String> {
    let snapshot = replica.control.snapshot.load();
    let settings = snapshot.upstreams.get(&name(of))?.settings();
    let UpstreamTransport::StreamableHttp { headers, .. } = &settings.transport else { return None };
    headers.get(header).map(|value| value.expose().to_owned())
}

fn url(replica: &Replica, of: &str) -> Option<String> {
    let snapshot = replica.control.snapshot.load();
    match &snapshot.upstreams.get(&name(of))?.settings().transport {
        UpstreamTransport::StreamableHttp { url, .. } => Some(url.to_string()),
        UpstreamTransport::Stdio { .. } => None,
    }
}

fn broken(replica: &Replica, of: &str) -> Option<String> {
    match replica.control.upstream_view(&name(of))?.state {
        State::Broken { reason } => Some(reason),
        State::Running { .. } | State::Disabled => None,
    }
}

#[tokio::test]
async fn a_secret_is_sealed_kept_and_gone_with_its_upstream() {
    let (dir, tasks, clock) = (tempfile::tempdir().unwrap(), Tasks::new(), Skewed::right());
    let path = dir.path().join("store.redb");
    let open = || Store::open(Location::File(path.clone()), clock.env());
    let replica = Replica::new(open().await.unwrap(), &clock, Duration::from_secs(10), &[]).await;
    let url = serve(&tasks, true).await;
    let definition = json!({ "url": url, "headers": { "x-key": CANARY, "x-team": "env:PATH" } });
    let made = create(&replica, "notes", definition).await.unwrap();
    assert_eq!(header(&replica, "notes", "x-key").as_deref(), Some(CANARY));
    let shown = Value::Object(made.definition().unwrap());
    assert_eq!(shown["headers"], json!({ "x-key": SEALED, "x-team": "env:PATH" }));
    assert!(!format!("{made:?}").contains(CANARY));

    let changed =
        change(&replica, "notes", 1, json!({ "trust": "high", "headers": { "x-team": null } })).await.unwrap();
    assert_eq!(changed.declared.unwrap().revision, 2);
    assert_eq!(header(&replica, "notes", "x-key").as_deref(), Some(CANARY), "it was not mentioned");
    assert_eq!(header(&replica, "notes", "x-team"), None);
    replica.control.stop_upstreams(Duration::from_secs(5)).await;
    let store = replica.control.store.clone();
    replica.stop().await;
    store.close().await;
    let bytes = std::fs::read(&path).unwrap();
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("x-key") && !has(CANARY), "the store alone tells nobody");

    let replica = Replica::new(open().await.unwrap(), &clock, Duration::from_secs(10), &[]).await;
    assert_eq!(header(&replica, "notes", "x-key").as_deref(), Some(CANARY), "it is there after a restart");
    let sealed = stored::get(&replica.control.store, &name("notes")).await.unwrap().unwrap().secrets;
    assert_eq!(sealed.len(), 1);
    change(&replica, "notes", 2, json!({ "headers": { "x-key": "another" } })).await.unwrap();
    let kept = stored::get(&replica.control.store, &name("notes")).await.unwrap().unwrap().secrets;
    assert!(kept.len() == 1 && kept.keys().ne(sealed.keys()), "the earlier one is gone");
    assert_eq!(replica.control.store.verify().await.unwrap(), []);
    let mut found = 0;
    for table in crate::store::SEALED {
        let (fields, _) = sealed::fields(&replica.control.store, *table, None, 100).await.unwrap();
        found += fields.iter().filter(|(place, _)| place.table == "upstreams").count();
    }
    assert_eq!(found, 1, "the walk through all sealed fields comes upon it");
    replica.stop().await;
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn what_is_wrong_is_told_and_changes_nothing() {
    let (store, clock) = shared().await;
    let more = "[upstreams.filed]\ncommand = ['true']\nprefix = false\n";
    let replica = Replica::configured(store, &clock, Duration::from_secs(10), (&[], more)).await;
    let mistaken = |made: Result<UpstreamView, UpstreamError>| match made.unwrap_err() {
        UpstreamError::Mistakes(misfits) => misfits[0].field.clone(),
        other => panic!("{other}"),
    };
    for (definition, field) in [
        (json!({ "url": "ftp://x" }), Some("url")),
        (json!({ "command": ["true"], "colour": "red" }), Some("colour")),
        (json!({ "command": ["true"], "prefix": false }), Some("prefix")),
        (json!({ "command": ["true"], "environment": { "A": "sealed:1" } }), Some("environment.A")),
        (json!({}), None),
    ] {
        assert_eq!(mistaken(create(&replica, "notes", definition.clone()).await).as_deref(), field, "{definition}");
    }
    let program = || json!({ "command": ["true"] });
    assert!(matches!(create(&replica, "filed", program()).await, Err(UpstreamError::NameTaken)));
    assert!(matches!(create(&replica, "try", program()).await, Err(UpstreamError::Reserved)));
    assert!(matches!(change(&replica, "filed", 1, program()).await, Err(UpstreamError::ManagedByFile)));
    assert!(matches!(change(&replica, "notes", 1, program()).await, Err(UpstreamError::NotFound)));
    let removed = replica.control.remove_upstream(&name("notes"), None, OPERATOR).await;
    assert!(matches!(removed, Err(UpstreamError::NotFound)));
    create(&replica, "notes", program()).await.unwrap();
    assert!(matches!(create(&replica, "notes", program()).await, Err(UpstreamError::NameTaken)));
    assert_eq!(mistaken(change(&replica, "notes", 1, json!({ "url": "https://x" })).await), None, "url and command");
    let conflict = change(&replica, "notes", 7, program()).await;
    assert!(matches!(conflict, Err(UpstreamError::Conflict { revision: 1 })));
    assert_eq!(replica.control.upstream_view(&name("notes")).unwrap().declared.unwrap().revision, 1);
    replica.stop().await;
}

#[tokio::test]
async fn an_upstream_is_tried_before_it_is_saved() {
    let (store, clock) = shared().await;
    let (replica, tasks) = (Replica::new(store, &clock, Duration::from_secs(10), &[]).await, Tasks::new());
    let create = async |definition: Value| {
        replica.control.create_upstream(name("notes"), object(definition), Care::Tried, OPERATOR).await
    };
    let stage = |made: Result<UpstreamView, UpstreamError>| match made.unwrap_err() {
        UpstreamError::Failed { stage, .. } => stage,
        other => panic!("{other}"),
    };
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(stage(create(json!({ "url": format!("http://{nobody}/") })).await), Stage::Reach);
    assert_eq!(stage(create(json!({ "command": ["/no/such/program"] })).await), Stage::Reach);
    assert_eq!(stage(create(json!({ "command": ["true"] })).await), Stage::Speak);
    assert!(replica.control.upstream_views().is_empty(), "nothing was saved");
    let trials = replica.control.config.load().data_dir.join("trials");
    let left = std::fs::read_dir(trials).map_or(0, Iterator::count);
    assert_eq!(left, 0, "and no home of a program is left");

    let url = serve(&tasks, true).await;
    let made = create(json!({ "url": url })).await.unwrap();
    assert!(matches!(made.state, State::Running { .. }));
    let tried = replica.control.try_upstream(&name("notes")).await.unwrap();
    assert!(matches!(tried, Tried::Works { tools: 0, .. }), "{tried:?}");
    let change = Change { definition: Some(object(json!({ "url": format!("http://{nobody}/") }))), enabled: None };
    let changed = replica
        .control
        .change_upstream(&name("notes"), Some(vec![1]), change, Care::Tried, (Role::Owner, OPERATOR))
        .await;
    assert_eq!(stage(changed), Stage::Reach);
    assert_eq!(super::tests::url(&replica, "notes"), Some(url), "what runs goes on");
    replica.stop().await;
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_change_is_made_before_the_old_one_is_broken_with() {
    let (store, clock) = shared().await;
    let (replica, tasks) = (Replica::new(store, &clock, Duration::from_secs(10), &[]).await, Tasks::new());
    let (first, second, silent) = (serve(&tasks, true).await, serve(&tasks, true).await, serve(&tasks, false).await);
    create(&replica, "other", json!({ "url": first })).await.unwrap();
    create(&replica, "notes", json!({ "url": first })).await.unwrap();
    let running = |of: &str| replica.control.snapshot.load().upstreams[&name(of)].clone();
    let (other, notes) = (running("other"), running("notes"));

    change(&replica, "notes", 1, json!({ "url": second })).await.unwrap();
    assert_eq!(url(&replica, "notes"), Some(second.clone()));
    assert!(!Arc::ptr_eq(&running("notes"), &notes) && Arc::ptr_eq(&running("other"), &other), "others are untouched");

    let slow = change(&replica, "notes", 2, json!({ "url": silent }));
    let meanwhile = async {
        until("the change is stored", async || {
            stored::get(&replica.control.store, &name("notes")).await.unwrap().unwrap().revision == 3
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        url(&replica, "notes")
    };
    let (changed, meanwhile) = tokio::join!(slow, meanwhile);
    assert_eq!(meanwhile, Some(second), "it is used until the new one has tried");
    assert!(matches!(changed.unwrap().state, State::Running { .. }));
    assert_eq!(url(&replica, "notes"), Some(silent), "and not for ever");
    replica.stop().await;
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn one_that_is_overtaken_before_it_came_is_ended_and_nobody_waits_for_it() {
    let (store, clock) = shared().await;
    let (replica, tasks) = (Replica::new(store, &clock, Duration::from_secs(10), &[]).await, Tasks::new());
    let (first, second, silent) = (serve(&tasks, true).await, serve(&tasks, true).await, serve(&tasks, false).await);
    create(&replica, "notes", json!({ "url": first })).await.unwrap();
    let slow = change(&replica, "notes", 1, json!({ "url": silent }));
    let meanwhile = async {
        let notes = name("notes");
        until("it is coming", async || replica.control.running().coming.contains_key(&notes)).await;
        let overtaken = replica.control.running().coming.get(&notes).map(Arc::downgrade).unwrap();
        let began = tokio::time::Instant::now();
        change(&replica, "notes", 2, json!({ "url": second })).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "it did not wait until the first change was settled");
        until("it has ended", async || overtaken.strong_count() == 0).await;
    };
    let (changed, ()) = tokio::join!(slow, meanwhile);
    assert_eq!(changed.unwrap().declared.unwrap().revision, 3);
    assert_eq!(url(&replica, "notes"), Some(second));
    replica.stop().await;
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_change_that_nobody_tried_is_told_so() {
    let (store, clock) = shared().await;
    let replica = Replica::new(store, &clock, Duration::from_secs(10), &[]).await;
    create(&replica, "notes", json!({ "command": ["true"] })).await.unwrap();
    set_enabled(&replica, "notes", false).await;
    let edit = Change { definition: Some(object(json!({ "trust": "high" }))), enabled: None };
    replica
        .control
        .change_upstream(&name("notes"), Some(vec![2]), edit, Care::Tried, (Role::Owner, OPERATOR))
        .await
        .unwrap();
    set_enabled(&replica, "notes", true).await;
    let page = crate::store::audit::list(&replica.control.store, None, 100).await.unwrap();
    let told = page.items.into_iter().filter_map(|row| match row.entry.event {
        crate::audit::AuditEvent::UpstreamChanged { revision, enabled, unchecked, .. } => {
            Some((revision, enabled, unchecked))
        }
        _ => None,
    });
    let expected = [(4, true, true), (3, false, true), (2, false, false)];
    assert_eq!(
        told.collect::<Vec<_>>(),
        expected,
        "one that is off is tried by nobody, and by nobody who does not want to"
    );
    replica.stop().await;
}

#[tokio::test]
async fn other_gateways_follow() {
    let (store, clock) = shared().await;
    let tasks = Tasks::new();
    let a = Replica::start(store.as_replica(1), &clock, &[]).await;
    let b = Replica::start(store.as_replica(2), &clock, &[]).await;
    let server = serve(&tasks, true).await;
    let definition = json!({ "url": server, "headers": { "x-key": CANARY }, "trust": "low" });
    create(&a, "notes", definition).await.unwrap();
    until("the other one has it", async || header(&b, "notes", "x-key").as_deref() == Some(CANARY)).await;
    change(&b, "notes", 1, json!({ "trust": "high" })).await.unwrap();
    let trust = |replica: &Replica| {
        let snapshot = replica.control.snapshot.load();
        snapshot.upstreams.get(&name("notes")).map(|upstream| upstream.settings().trust.clone())
    };
    until("the first one knows the change", async || trust(&a).as_deref() == Some("high")).await;
    assert!(matches!(set_enabled(&a, "notes", false).await.state, State::Disabled));
    until("it is off everywhere", async || trust(&b).is_none() && trust(&a).is_none()).await;
    set_enabled(&b, "notes", true).await;
    until("it is on again", async || trust(&a).is_some() && trust(&b).is_some()).await;
    a.control.remove_upstream(&name("notes"), Some(vec![4]), OPERATOR).await.unwrap();
    until("it is gone", async || b.control.upstream_views().is_empty()).await;
    assert!(a.control.upstream_views().is_empty());
    for replica in [a, b] {
        replica.stop().await;
    }
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn what_comes_to_nothing_is_shown_and_mended_and_stops_nobody() {
    let (store, clock) = shared().await;
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "x").unwrap();
    let first = Replica::new(store.clone(), &clock, Duration::from_secs(10), &[]).await;
    let reference = format!("file:{}", secret.display());
    let definition = json!({ "command": ["true"], "environment": { "TOKEN": reference } });
    create(&first, "notes", definition).await.unwrap();
    std::fs::remove_file(&secret).unwrap();
    first.control.reload(OPERATOR).await.unwrap();
    let State::Running { trouble, .. } = first.control.upstream_view(&name("notes")).unwrap().state else {
        panic!("what runs goes on")
    };
    assert!(trouble.unwrap().contains("does not exist"));
    first.stop().await;

    let second = Replica::new(store, &clock, Duration::from_secs(10), &[]).await;
    assert!(broken(&second, "notes").unwrap().contains("does not exist"), "{:?}", broken(&second, "notes"));
    assert!(matches!(create(&second, "notes", json!({ "command": ["x"] })).await, Err(UpstreamError::NameTaken)));
    std::fs::write(&secret, "x").unwrap();
    second.control.publish_upstreams(Which::Troubled).await.unwrap();
    assert_eq!(broken(&second, "notes"), None);
    std::fs::remove_file(&secret).unwrap();
    assert!(matches!(set_enabled(&second, "notes", false).await.state, State::Disabled), "off needs no secret");
    second.stop().await;
}

#[tokio::test]
async fn the_file_wins_and_the_store_comes_back_after_it() {
    let (store, clock) = shared().await;
    let replica = Replica::new(store, &clock, Duration::from_secs(10), &[]).await;
    create(&replica, "notes", json!({ "command": ["true"], "trust": "store" })).await.unwrap();
    let trust = || replica.control.snapshot.load().upstreams[&name("notes")].settings().trust.clone();
    replica.configure_with("[upstreams.notes]\ncommand = ['true']\ntrust = 'file'\n");
    replica.control.reload(OPERATOR).await.unwrap();
    assert_eq!(trust(), "file");
    assert!(replica.control.upstream_view(&name("notes")).unwrap().declared.is_none());
    assert_eq!(replica.control.upstream_views().len(), 1);
    assert!(matches!(change(&replica, "notes", 1, json!({})).await, Err(UpstreamError::ManagedByFile)));
    replica.configure_with("");
    replica.control.reload(OPERATOR).await.unwrap();
    until("the store's one is back", async || trust() == "store").await;
    replica.stop().await;
}
