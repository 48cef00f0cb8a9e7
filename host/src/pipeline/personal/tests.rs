//! What one caller sees, and calls, of an upstream that shows each person something else.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::config::{Auth, Binding, ModuleSource, PolicySettings, WhenAllAbstain};
use crate::glob::Glob;
use crate::identity::key::{AllowEntry, AllowList};
use crate::identity::{Caller, Keyring};
use crate::ids::BindingName;
use crate::mcp::call::{Outcome, Params};
use crate::mcp::client::Client;
use crate::mcp::json::raw;
use crate::mcp::revision::{About, Answer, Capabilities, Era, ListKind, Revision};
use crate::mcp::talk::Party;
use crate::pipeline::{self, Mark, Scope};
use crate::policy::{Engine, PolicySet, Transport};
use crate::upstream::catalog::{Offer, PinStanding, ToolDefinition};
use crate::upstream::testing::{Scene, key};

fn name(text: &str) -> UpstreamName {
    UpstreamName::parse(text).unwrap()
}

fn offer(upstream: &str, tools: &[&str]) -> Arc<Offer> {
    let tool = |tool: &&str| {
        let text = raw(format!(r#"{{"name":"{tool}"}}"#));
        Arc::new(ToolDefinition::parse(&name(upstream), &text).unwrap())
    };
    Arc::new(Offer { tools: tools.iter().map(tool).collect(), ..Offer::default() })
}

fn shelf(upstream: &str, tools: &[&str]) -> Shelf {
    let about = About {
        revision: "2026-07-28".to_owned(),
        era: Era::Modern,
        capabilities: Capabilities::read(None),
        server_info: None,
        instructions: None,
    };
    let offer = Some(offer(upstream, tools));
    Shelf { upstream: name(upstream), prefix: true, about: Some(Arc::new(about)), offer, stale: false, connect: None }
}

fn names(catalog: &Catalog) -> Vec<String> {
    catalog.view(None).unwrap().tools_after(None).map(|tool| tool.exposed.clone()).collect()
}

#[test]
fn who_sees_the_same_has_the_same_catalog_and_a_new_common_one_is_another() {
    let build =
        || Arc::new(Catalog::build(&[shelf("mail", &["send"]), shelf("notes", &["add"])], |_| PinStanding::Pinned));
    let (common, catalogs) = (build(), PersonalCatalogs::new(Arc::default()));
    let of_ann = || vec![(shelf("mail", &["send", "ann_only"]), Digest::of(b"ann"))];
    let (one, same) = (catalogs.with(&common, of_ann()), catalogs.with(&common, of_ann()));
    assert!(Arc::ptr_eq(&one, &same));
    assert_eq!(names(&one), ["mail__ann_only", "mail__send", "notes__add"]);
    assert_eq!(names(&common), ["mail__send", "notes__add"]);
    let (alone, notes) = (one.view(Some(&name("notes"))).unwrap(), common.view(Some(&name("notes"))).unwrap());
    assert!(Arc::ptr_eq(alone, notes), "what is the same is kept once");

    let other = catalogs.with(&common, vec![(shelf("mail", &[]), Digest::of(b"ben"))]);
    assert_eq!(names(&other), ["notes__add"]);
    assert!(!Arc::ptr_eq(&one, &catalogs.with(&build(), of_ann())));
}

#[test]
fn requests_need_the_lists_that_they_may_be_about() {
    let calls = |name: &str| Request::CallTool { name: name.to_owned(), params: crate::mcp::call::Params::default() };
    assert!(matches!(Need::of(&calls("mail__send")), Need::Named("mail__send")));
    assert!(matches!(Need::of(&Request::Discover), Need::Everything));
    assert!(matches!(Need::of(&Request::Ping), Need::Nothing));
}

/// A gateway in front of an upstream that shows nothing to strangers, and `send` and `ann_only` to Ann.
struct Gateway {
    scene: Scene,
    services: Arc<Services>,
    policies: Arc<PolicySet>,
}

impl Gateway {
    async fn with(policies: &[Binding]) -> Self {
        let scene = Scene::with(&[("k-ann", &["send", "ann_only"]), ("k-ben", &["send"])]).await;
        scene.sync().await;
        let services = Arc::new(Services { lender: scene.purse.clone(), ..Services::for_tests().await });
        let bindings = policies.to_vec();
        let settings = PolicySettings {
            when_all_abstain: WhenAllAbstain::Allow,
            max_components: 1,
            bindings,
            ..PolicySettings::default()
        };
        let engine = Engine::start(1).unwrap();
        let policies = PolicySet::load(&settings, &[], &engine, &crate::builtin::module, None, 1).unwrap();
        Self { scene, services, policies: Arc::new(policies) }
    }

    fn snapshot(&self) -> Snapshot {
        let upstream = &self.scene.upstream;
        let catalog = Arc::new(Catalog::build(&[upstream.shelf()], |_| PinStanding::Pinned));
        Snapshot {
            auth: Arc::new(Auth::keys_only()),
            keys: Arc::new(Keyring::new([])),
            people: crate::identity::People::default(),
            policies: self.policies.clone(),
            catalog,
            upstreams: Arc::new([(upstream.name().clone(), upstream.clone())].into()),
            revision: crate::store::changes::Revision::default(),
        }
    }

    async fn handle(&self, who: &str, request: Request) -> Result<Answer, Refusal> {
        pipeline::handle(&self.snapshot(), &self.services, &origin(who), request).await
    }

    async fn lists(&self, who: &str) -> Vec<String> {
        self.lists_to(&origin(who)).await
    }

    async fn lists_to(&self, origin: &Origin) -> Vec<String> {
        let request = Request::List { kind: ListKind::Tools, cursor: None, params: Params::default() };
        let answer = pipeline::handle(&self.snapshot(), &self.services, origin, request).await;
        let Ok(Answer::Page(page)) = answer else { panic!("there is always a list") };
        let name = |item: &Arc<serde_json::value::RawValue>| {
            let item: Value = serde_json::from_str(item.get()).unwrap();
            item["name"].as_str().unwrap().to_owned()
        };
        page.items.iter().map(name).collect()
    }

    /// The result of a call; `None` if there is no such tool.
    async fn calls(&self, who: &str, name: &str) -> Option<Value> {
        let request = Request::CallTool { name: name.to_owned(), params: Params::default() };
        match self.handle(who, request).await {
            Ok(Answer::Done { outcome: Outcome::Result(result), .. }) => serde_json::from_str(result.get()).ok(),
            Err(Refusal::Unconnected(unconnected)) => match unconnected.answer {
                Outcome::Result(result) => serde_json::from_str(result.get()).ok(),
                other => panic!("{other:?}"),
            },
            Err(Refusal::UnknownTool { .. }) => None,
            other => panic!("{other:?}"),
        }
    }
}

fn origin(who: &str) -> Origin {
    let allow = AllowList(vec![AllowEntry { upstream: Glob::any(), tools: vec![Glob::any()] }]);
    let client = Arc::new(Client::gateway());
    Origin {
        caller: Caller::new(key(who), Arc::new(allow)),
        revision: Revision::V2026_07_28,
        scope: Scope::default(),
        party: Party { principal: key(who), client, ..Party::gateway() },
        transport: Transport::StreamableHttp,
        remote_ip: None,
        user_agent: None,
        param_headers: Vec::new(),
        mark: Mark::default(),
        events: tokio::sync::mpsc::channel(1).0,
        cancelled: tokio_util::sync::CancellationToken::new(),
    }
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn who_has_no_connection_is_shown_how_to_connect_and_who_has_one_their_own_list() {
    let gateway = Gateway::with(&[]).await;
    gateway.scene.purse.put(&key("ann"), 1, "k-ann");
    assert_eq!(gateway.lists("ann").await, ["mail__ann_only", "mail__send"]);
    assert_eq!(gateway.lists("ben").await, ["mail__connect"]);
    assert_eq!(gateway.calls("ben", "mail__ann_only").await, None);

    let lacking = gateway.calls("ben", "mail__connect").await.unwrap();
    assert_eq!(lacking["isError"], true);
    assert_eq!(lacking["_meta"][pipeline::credentials::CONNECTIONS_META][0]["state"], "not_connected", "{lacking}");
    assert!(text(&lacking).contains("/connect/link#"), "{lacking}");
    let connected = gateway.calls("ann", "mail__connect").await.unwrap();
    assert!(text(&connected).contains("mail is connected"), "it is known by its name: {connected}");
    assert_eq!(connected["isError"], Value::Null);

    gateway.scene.purse.put(&key("ben"), 1, "k-ben");
    gateway.scene.upstream.forget_own_of(&key("ben"));
    assert_eq!(gateway.lists("ben").await, ["mail__send"]);
    assert_eq!(gateway.calls("ben", "mail__ann_only").await, None);
}

#[tokio::test]
async fn a_client_whose_grant_was_narrowed_has_nothing_read_that_it_cannot_use() {
    let gateway = Gateway::with(&[]).await;
    gateway.scene.purse.put(&key("ann"), 1, "k-ann");
    let narrowed = |who: &str, pattern: &str| {
        let mut origin = origin(who);
        origin.caller.tools.narrow(vec![Glob::parse(pattern).unwrap()]);
        origin
    };
    assert_eq!(gateway.lists_to(&narrowed("ann", "notes/*")).await, [""; 0]);
    assert_eq!(gateway.lists_to(&narrowed("ben", "mail/send")).await, [""; 0], "it is not left with that");
    assert_eq!(gateway.scene.shows().lists, 0);
    assert_eq!(gateway.lists_to(&narrowed("ben", "mail/*")).await, ["mail__connect"]);
    assert_eq!(gateway.lists_to(&narrowed("ann", "mail/send")).await, ["mail__send"]);
}

#[tokio::test]
async fn a_call_waits_for_a_list_that_was_never_read() {
    let gateway = Gateway::with(&[]).await;
    gateway.scene.purse.put(&key("ann"), 1, "k-ann");
    assert!(gateway.calls("ann", "mail__ann_only").await.is_some());
    assert_eq!(gateway.scene.shows().lists, 1);
    assert_eq!(gateway.calls("ann", "other__tool").await, None);
}

#[tokio::test]
async fn a_look_that_does_not_wait_says_whether_everything_is_known() {
    let gateway = Gateway::with(&[]).await;
    gateway.scene.purse.put(&key("ann"), 1, "k-ann");
    let (snapshot, origin) = (gateway.snapshot(), origin("ann"));
    assert!(as_known(&snapshot, &gateway.services, &key("ann")).is_none());
    assert!(as_of_now(&snapshot, &gateway.services, &origin).is_none(), "it is being read");
    assert!(gateway.scene.upstream.own_changed().await.unwrap().has(&key("ann")));
    let seen = as_of_now(&snapshot, &gateway.services, &origin).unwrap();
    assert_eq!(names(&seen.catalog), ["mail__ann_only", "mail__send"]);
    let known = as_known(&snapshot, &gateway.services, &key("ann")).unwrap();
    assert!(Arc::ptr_eq(&known.catalog, &seen.catalog), "what policies said of it is still known");
}

#[tokio::test]
async fn nobodys_list_is_read_without_the_policies_word() {
    let name = BindingName::parse("no-background-use").unwrap();
    let binding = Binding {
        config: json!({ "credentials": [{ "purposes": ["sync"], "action": "deny" }] }),
        time: Duration::from_secs(10),
        ..Binding::new(name, ModuleSource::Builtin("consent-rules".to_owned()))
    };
    let gateway = Gateway::with(&[binding]).await;
    gateway.scene.purse.put(&key("ann"), 1, "k-ann");
    assert_eq!(gateway.lists("ann").await, Vec::<String>::new());
    assert_eq!(gateway.scene.shows().lists, 0);
    assert_eq!(gateway.lists("ben").await, ["mail__connect"], "where nothing is shown nobody is asked");
}
