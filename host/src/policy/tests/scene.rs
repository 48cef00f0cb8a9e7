//! What tests of policies stand on: an engine, bindings, an upstream with tools, a caller.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::json;

use super::guest::Guest;
use crate::config::{Binding, ModuleSource, PolicySettings, Protocol, Upstream, UpstreamAuth, UpstreamTransport};
use crate::env::{Env, Timestamp};
use crate::identity::caller::Caller;
use crate::identity::key::AllowList;
use crate::ids::{BindingName, DecisionId, KeyName, Principal, UpstreamName};
use crate::mcp::call::{Call, Outcome};
use crate::mcp::json::raw;
use crate::policy::{CallContext, Engine, Failure, LoadErrors, PolicySet, Refusal, Transport};
use crate::upstream::catalog::{Tool, ToolDefinition};

/// One engine for all tests: starting one reserves the pool's address space.
pub(super) fn engine() -> &'static Engine {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::start(64).expect("tests need an engine"));
    &ENGINE
}

/// One binding in the making.
pub(super) struct Bound {
    pub(super) binding: Binding,
    bytes: Vec<u8>,
}

/// Binds a guest to everything, with time and memory enough.
pub(super) fn bind(name: &str, guest: &Guest) -> Bound {
    bind_bytes(name, guest.core())
}

pub(super) fn bind_bytes(name: &str, bytes: Vec<u8>) -> Bound {
    let new = Binding::new(BindingName::parse(name).unwrap(), ModuleSource::Builtin(name.to_owned()));
    let binding = Binding { time: Duration::from_secs(2), memory_bytes: 4 << 20, ..new };
    Bound { binding, bytes }
}

impl Bound {
    pub(super) fn with(mut self, change: impl FnOnce(&mut Binding)) -> Self {
        change(&mut self.binding);
        self
    }
}

/// The settings of these bindings and where their modules are.
pub(super) fn settings(bound: Vec<Bound>) -> (PolicySettings, impl Fn(&str) -> Option<&'static [u8]>) {
    let (bindings, modules): (Vec<Binding>, Vec<(String, &'static [u8])>) = bound
        .into_iter()
        .map(|Bound { binding, bytes }| {
            let name = binding.name.to_string();
            (binding, (name, &*bytes.leak()))
        })
        .unzip();
    let settings = PolicySettings { bindings, ..PolicySettings::default() };
    (settings, move |wanted: &str| modules.iter().find(|(name, _)| name == wanted).map(|(_, bytes)| *bytes))
}

pub(super) fn try_load(bound: Vec<Bound>) -> Result<PolicySet, LoadErrors> {
    let (settings, modules) = settings(bound);
    PolicySet::load(&settings, &[upstream("notes")], engine(), &modules, None, 1)
}

pub(super) fn load(bound: Vec<Bound>) -> PolicySet {
    try_load(bound).unwrap_or_else(|errors| panic!("{errors}"))
}

pub(super) fn upstream(name: &str) -> Upstream {
    Upstream {
        name: UpstreamName::parse(name).unwrap(),
        transport: UpstreamTransport::StreamableHttp {
            url: http::Uri::from_static("http://127.0.0.1/"),
            protocol: Protocol::Auto,
            headers: BTreeMap::new(),
        },
        prefix: true,
        call_timeout: Duration::from_secs(30),
        sync_interval: Duration::from_secs(30),
        trust: "high".to_owned(),
        labels: vec!["internal".to_owned()],
        auth: UpstreamAuth::None,
        extra_headers: Vec::new(),
        allow_on_all_keys: false,
        tls: None,
    }
}

pub(super) fn tool(upstream: &str, name: &str) -> Arc<Tool> {
    let definition = json!({
        "name": name,
        "title": format!("Title of {name}"),
        "description": format!("Description of {name}"),
        "inputSchema": { "type": "object" },
    });
    let upstream_name = UpstreamName::parse(upstream).unwrap();
    let definition = ToolDefinition::parse(&upstream_name, &raw(definition.to_string())).unwrap();
    Arc::new(Tool::new(Arc::new(definition), format!("{upstream}__{name}")))
}

pub(super) fn call(tool: &Arc<Tool>, arguments: Option<&str>) -> Call {
    Call::new(tool.clone(), arguments.map(|text| raw(text.to_owned())))
}

pub(super) fn caller() -> Caller {
    Caller::new(Principal::Key(KeyName::parse("ci").unwrap()), Arc::new(AllowList::default()))
}

pub(super) fn context(caller: &Caller) -> CallContext<'_> {
    CallContext {
        decision: DecisionId::generate(&Env::system()),
        caller,
        revision: "2026-07-28",
        session: None,
        transport: Transport::StreamableHttp,
        remote_ip: Some(IpAddr::from([192, 0, 2, 1])),
        user_agent: Some("test/1.0"),
        trace_id: None,
        trace: None,
        now: Timestamp::from_millis(1_700_000_000_000),
        charges: Box::leak(Box::default()),
        satisfied: &[],
        view: None,
    }
}

/// What comes of something that waits, for tests that do not.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(future)
}

/// What became of a call, in one line.
pub(super) fn check(set: &PolicySet, tool: &Arc<Tool>, arguments: Option<&str>) -> String {
    let caller = caller();
    match now(set.check(&context(&caller), call(tool, arguments))).0 {
        Ok(permit) => {
            let arguments = permit.get().arguments().map_or("none", |arguments| arguments.get());
            format!("allow {arguments}")
        }
        Err(refusal) => told(&refusal),
    }
}

/// What became of a result, in one line.
pub(super) fn inspect(set: &PolicySet, result: &str) -> String {
    let caller = caller();
    let outcome = Outcome::Result(raw(result.to_owned()));
    match now(set.inspect(&context(&caller), &tool("notes", "add"), outcome, Duration::from_millis(7))).0 {
        Ok(Outcome::Result(result)) => result.get().to_owned(),
        Ok(Outcome::Error(_) | Outcome::NeedsInput(_)) => "error".to_owned(),
        Err(refusal) => told(&refusal),
    }
}

pub(super) fn told(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Denied { binding, reason, .. } => format!("{binding} denied: {} {}", reason.code, reason.message),
        Refusal::PolicyFailed { binding, failure } => format!("{binding} failed: {}", failure.code()),
        other => other.check().to_owned(),
    }
}

/// The failure that refused a call.
pub(super) fn failure(set: &PolicySet) -> Failure {
    let caller = caller();
    match now(set.check(&context(&caller), call(&tool("notes", "add"), Some("{}")))).0 {
        Err(Refusal::PolicyFailed { failure, .. }) => failure,
        other => panic!("no failure but {other:?}"),
    }
}
