//! What a policy decision costs, on the prebuilt `allow-tools`.
//!
//! `decision/*` goes through the gateway's own chain: fresh instance, `configure`, hook. `typed call alone` is the same module
//! in an instance that is reused, which the gateway never does: the floor. After criterion's medians come percentiles of
//! single runs. `cargo bench -p portcullis-tests --bench policy`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use portcullis::config::{Binding, ModuleSource, PolicySettings, WhenAllAbstain};
use portcullis::env::{Env, Timestamp};
use portcullis::glob::Glob;
use portcullis::identity::Caller;
use portcullis::ids::{BindingName, DecisionId, KeyName, Principal, UpstreamName};
use portcullis::mcp::call::Call;
use portcullis::mcp::json::raw;
use portcullis::policy::{CallContext, Engine, PolicySet, Transport};
use portcullis::upstream::catalog::{Tool, ToolDefinition};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Store};

mod contract {
    wasmtime::component::bindgen!({ path: "../guest-sdk/wit", world: "tool-guard" });
}

use contract::exports::portcullis::policy::tool_call;
use contract::portcullis::policy::{log, types};

const SAMPLES: usize = 20_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(5));
    let engine = Engine::start(64).expect("the engine starts");
    let tools = tools(200);
    let caller = Caller { principal: Principal::Key(KeyName::parse("bench").expect("a name")), allow: Arc::default() };
    let env = Env::system();
    for policies in [0, 1, 4] {
        let set = policy_set(&engine, policies);
        let check = || {
            let (permit, trail) = set.check(&context(&env, &caller), call(&tools[0]));
            assert!(permit.is_ok());
            trail
        };
        criterion.bench_function(&format!("decision/tools/call, {policies} policies"), |bencher| bencher.iter(check));
        percentiles(&format!("decision/tools/call, {policies} policies"), || drop(black_box(check())));
        if policies == 1 {
            criterion.bench_function("decision/tools/list of 200, 1 policy", |bencher| {
                bencher.iter(|| set.filter(&context(&env, &caller), &tools));
            });
            for (hook, name) in [(0, "list-tools"), (1, "tool-call")] {
                let mut micros: Vec<u64> = (0..SAMPLES).map(|_| check().0[hook].micros * 1_000).collect();
                tell(&format!("one {name} hook: fresh instance, configure, call"), &mut micros);
            }
        }
    }
    typed_call_alone(&mut criterion);
    criterion.final_summary();
}

fn context<'a>(env: &Env, caller: &'a Caller) -> CallContext<'a> {
    CallContext {
        decision: DecisionId::generate(env),
        caller,
        revision: "2026-07-28",
        session: None,
        transport: Transport::StreamableHttp,
        remote_ip: None,
        user_agent: Some("bench/1"),
        trace_id: None,
        now: Timestamp::from_millis(0),
    }
}

fn call(tool: &Arc<Tool>) -> Call {
    Call::new(tool.clone(), Some(raw(r#"{"path":"/tmp/x","limit":10}"#.to_owned())))
}

fn tools(count: usize) -> Vec<Arc<Tool>> {
    let upstream = UpstreamName::parse("notes").expect("a name");
    let tool = |number: usize| {
        let text = format!(
            r#"{{"name":"tool_{number}","description":"Does what tool {number} does.","inputSchema":{{"type":"object"}}}}"#
        );
        let definition = ToolDefinition::parse(&upstream, &raw(text)).expect("a definition");
        Arc::new(Tool::new(Arc::new(definition), format!("notes__tool_{number}")))
    };
    (0..count).map(tool).collect()
}

fn policy_set(engine: &Engine, policies: usize) -> PolicySet {
    let binding = |number: usize| Binding {
        name: BindingName::parse(&format!("p{number}")).expect("a name"),
        module: ModuleSource::Builtin("allow-tools".to_owned()),
        digest: None,
        config: configuration(),
        upstreams: vec![Glob::any()],
        tools: vec![Glob::any()],
        priority: 100,
        allow_rewrite: false,
        time: Duration::from_millis(500),
        memory_bytes: 16 << 20,
    };
    let settings = PolicySettings {
        when_all_abstain: WhenAllAbstain::Deny,
        max_components: 64,
        bindings: (0..policies).map(binding).collect(),
    };
    PolicySet::load(&settings, &[], engine, &portcullis::builtin::module, None, 1).expect("the prebuilt policy loads")
}

fn configuration() -> serde_json::Value {
    serde_json::json!({
        "otherwise": "hide",
        "rules": [
            { "tools": ["tracker/close_issue"], "action": "deny", "message": "no" },
            { "tools": ["notes/*"], "action": "allow" },
        ],
    })
}

struct Host;

impl log::Host for Host {
    fn write(&mut self, _: log::Level, _: String) {}
}

impl types::Host for Host {}

/// The `tool-call` hook in one instance that is used again and again.
fn typed_call_alone(criterion: &mut Criterion) {
    let mut config = Config::new();
    config.concurrency_support(false);
    let engine = wasmtime::Engine::new(&config).expect("an engine");
    let module = portcullis::builtin::module("allow-tools").expect("it is built in");
    let component = Component::new(&engine, module).expect("a component");
    let mut linker = Linker::<Host>::new(&engine);
    log::add_to_linker::<_, HasSelf<_>>(&mut linker, |host| host).expect("log is linked");
    let mut store = Store::new(&engine, Host);
    let pre = linker.instantiate_pre(&component).expect("all imports are there");
    let instance = pre.instantiate(&mut store).expect("an instance");
    let configuration_index =
        contract::exports::portcullis::policy::configuration::GuestIndices::new(&pre).expect("it has one");
    let configure = configuration_index.load(&mut store, &instance).expect("it has one");
    configure.call_configure(&mut store, &configuration().to_string()).expect("no trap").expect("accepted");
    let hook = tool_call::GuestIndices::new(&pre).expect("it has one").load(&mut store, &instance).expect("it has one");
    let (context, request) = (typed_context(), typed_request());
    let mut call = || hook.call_before(&mut store, &context, &request).expect("no trap");
    criterion.bench_function("typed call alone", |bencher| bencher.iter(&mut call));
    percentiles("typed call alone", || drop(black_box(call())));
}

fn typed_context() -> types::Context {
    types::Context {
        decision_id: "0".repeat(32),
        trace_id: String::new(),
        now_ms: 0,
        session_id: None,
        transport: types::Transport::StreamableHttp,
        protocol_version: "2026-07-28".to_owned(),
        remote_ip: None,
        user_agent: Some("bench/1".to_owned()),
        caller: types::Caller {
            subject: "key:bench".to_owned(),
            kind: types::SubjectKind::Service,
            issuer: "portcullis".to_owned(),
            tenant: String::new(),
            client_id: String::new(),
            actor_chain: Vec::new(),
            groups: Vec::new(),
            scopes: Vec::new(),
            acr: None,
            amr: Vec::new(),
            auth_time: None,
            claims: "{}".to_owned(),
        },
        satisfied: Vec::new(),
        ext: Vec::new(),
    }
}

fn typed_request() -> tool_call::Request {
    tool_call::Request {
        tool: types::Tool {
            upstream: "notes".to_owned(),
            name: "tool_0".to_owned(),
            exposed_as: "notes__tool_0".to_owned(),
            hints: types::ToolHints::DESTRUCTIVE,
            digest: "0".repeat(64),
            labels: Vec::new(),
            title: None,
            description: None,
            input_schema: None,
        },
        upstream: types::Upstream { id: "notes".to_owned(), trust: String::new(), labels: Vec::new() },
        arguments: None,
        arguments_bytes: 30,
        meta: None,
    }
}

fn percentiles(name: &str, mut run: impl FnMut()) {
    let mut nanos: Vec<u64> = (0..SAMPLES)
        .map(|_| {
            let started = Instant::now();
            run();
            u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
        })
        .collect();
    tell(name, &mut nanos);
}

#[expect(clippy::print_stdout, reason = "a benchmark's output is its result")]
fn tell(name: &str, nanos: &mut [u64]) {
    nanos.sort_unstable();
    let at = |of_100: usize| nanos[(nanos.len() - 1) * of_100 / 100] as f64 / 1_000.0;
    println!("{name}: p50 {:.1} µs, p99 {:.1} µs ({} runs)", at(50), at(99), nanos.len());
}
