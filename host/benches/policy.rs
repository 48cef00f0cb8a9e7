//! What a policy decision costs: `cargo bench -p portcullis --bench policy`.
//!
//! Everything but the last two baselines goes through the gateway's own chain, as a request does. After criterion's medians come
//! percentiles of single runs. The baselines answer the Rego rule of `rego` without us: the same engine linked natively, and
//! the same engine behind HTTP on loopback, as a sidecar would have it. Modules of other languages are measured if
//! `tests/run examples` has built them.

use std::hint::black_box;
use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use portcullis::config::{Binding, ModuleSource, PolicySettings};
use portcullis::env::{Env, Timestamp};
use portcullis::identity::Caller;
use portcullis::ids::{BindingName, DecisionId, KeyName, Principal, UpstreamName};
use portcullis::mcp::call::Call;
use portcullis::mcp::json::raw;
use portcullis::policy::{CallContext, Charges, Engine, PolicySet, Transport};
use portcullis::upstream::catalog::{Tool, ToolDefinition};
use serde_json::{Value, json};

const SAMPLES: usize = 20_000;

/// The rule that the interpreters are given: of seven conditions, all of them looked at.
const CEL_RULE: &str = "mcp.tool.target == 'notes' && mcp.tool.name.startsWith('tool_') && !hints.read_only && \
     has(args.path) && args.path.startsWith('/tmp/') && args.limit <= 100 && caller.subject != ''";
const REGO_RULE: &str = r#"
package portcullis.tool_call

default allow := false

allow if {
    input.request.tool.upstream == "notes"
    startswith(input.request.tool.name, "tool_")
    not "read-only" in input.request.tool.hints
    input.args.path
    startswith(input.args.path, "/tmp/")
    input.args.limit <= 100
    input.caller.subject != ""
}
"#;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(3));
    let scene = Scene::new();
    chains(&mut criterion, &scene);
    lists(&mut criterion, &scene);
    interpreters(&mut criterion, &scene);
    languages(&mut criterion, &scene);
    concurrency(&scene);
    swaps(&scene);
    baselines(&mut criterion);
    criterion.final_summary();
}

/// What all measurements share.
struct Scene {
    engine: Engine,
    env: Env,
    caller: Caller,
    tools: Vec<Arc<Tool>>,
    /// What takes long waits for a policy thread.
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    fn new() -> Self {
        let upstream = UpstreamName::parse("notes").expect("a name");
        let tool = |number: usize| {
            let text = format!(
                r#"{{"name":"tool_{number}","description":"Does what tool {number} does.","inputSchema":{{"type":"object"}}}}"#
            );
            let definition = ToolDefinition::parse(&upstream, &raw(text)).expect("a definition");
            Arc::new(Tool::new(Arc::new(definition), format!("notes__tool_{number}")))
        };
        Self {
            engine: Engine::start(64).expect("the engine starts"),
            env: Env::system(),
            caller: Caller::new(Principal::Key(KeyName::parse("bench").expect("a name")), Arc::default()),
            tools: (0..2_000).map(tool).collect(),
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime"),
        }
    }

    fn context<'a>(&'a self, charges: &'a Charges) -> CallContext<'a> {
        CallContext {
            trace: None,
            decision: DecisionId::generate(&self.env),
            caller: &self.caller,
            revision: "2026-07-28",
            session: None,
            transport: Transport::StreamableHttp,
            remote_ip: None,
            user_agent: Some("bench/1"),
            trace_id: None,
            now: Timestamp::from_millis(0),
            charges,
            satisfied: &[],
            view: None,
        }
    }

    fn set(&self, bindings: Vec<Binding>, previous: Option<&PolicySet>) -> PolicySet {
        let settings = PolicySettings { bindings, ..PolicySettings::default() };
        PolicySet::load(&settings, &[], &self.engine, &portcullis::builtin::module, previous, 1)
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Whether a call passes, and how long each policy took.
    fn decide(&self, set: &PolicySet) -> bool {
        let charges = Charges::default();
        let call = Call::new(self.tools[0].clone(), Some(raw(r#"{"path":"/tmp/x","limit":10}"#.to_owned())));
        let ctx = self.context(&charges);
        let (permit, trail) = self.runtime.block_on(set.check(&ctx, call));
        black_box(trail);
        permit.is_ok()
    }

    fn list(&self, set: &PolicySet, count: usize) -> usize {
        let charges = Charges::default();
        let ctx = self.context(&charges);
        self.runtime.block_on(set.filter(&ctx, &self.tools[..count])).0.expect("nothing fails").len()
    }
}

fn builtin(name: &str, number: usize, config: &Value) -> Binding {
    let name = name.to_owned();
    let mut binding =
        Binding::new(BindingName::parse(&format!("p{number}")).expect("a name"), ModuleSource::Builtin(name));
    binding.config = config.clone();
    binding.time = Duration::from_millis(500);
    binding
}

fn allow_tools() -> Value {
    json!({
        "otherwise": "hide",
        "rules": [
            { "tools": ["tracker/close_issue"], "action": "deny", "message": "no" },
            { "tools": ["notes/*"], "action": "allow" },
        ],
    })
}

fn chains(criterion: &mut Criterion, scene: &Scene) {
    for policies in [0, 1, 2, 4, 8] {
        let set = scene.set((0..policies).map(|number| builtin("allow-tools", number, &allow_tools())).collect(), None);
        let name = format!("tools/call, {policies} × allow-tools (list-tools and tool-call each)");
        criterion.bench_function(&name, |bencher| bencher.iter(|| assert!(scene.decide(&set))));
        percentiles(&name, || assert!(scene.decide(&set)));
    }
    let set = scene.set(vec![builtin("read-only", 0, &json!({}))], None);
    let name = "one hook: read-only, no configuration";
    criterion.bench_function(name, |bencher| bencher.iter(|| scene.decide(&set)));
    percentiles(name, || _ = black_box(scene.decide(&set)));
    let set = scene.set(
        vec![builtin("confirm-destructive", 0, &json!({ "which": "all", "except": { "tools": ["notes/*"] } }))],
        None,
    );
    let name = "one hook: confirm-destructive, with arguments";
    criterion.bench_function(name, |bencher| bencher.iter(|| scene.decide(&set)));
    percentiles(name, || _ = black_box(scene.decide(&set)));
}

fn lists(criterion: &mut Criterion, scene: &Scene) {
    let set = scene.set(vec![builtin("allow-tools", 0, &allow_tools())], None);
    for count in [10, 200, 2_000] {
        let name = format!("tools/list of {count}, 1 × allow-tools, nothing remembered");
        criterion.bench_function(&name, |bencher| bencher.iter(|| assert_eq!(scene.list(&set, count), count)));
    }
}

fn interpreters(criterion: &mut Criterion, scene: &Scene) {
    let cel = json!({ "rules": [{ "name": "r", "hook": "tool-call", "if": CEL_RULE, "then": "allow" }] });
    let rego = json!({ "modules": { "main.rego": REGO_RULE } });
    for (module, config) in [("cel", cel), ("rego", rego)] {
        let mut binding = builtin(module, 0, &config);
        binding.memory_bytes = 64 << 20;
        binding.matches.hooks = Some(vec!["tool-call"]);
        let set = scene.set(vec![binding], None);
        let name = format!("one hook: {module}, seven conditions");
        criterion.bench_function(&name, |bencher| bencher.iter(|| assert!(scene.decide(&set))));
        percentiles(&name, || assert!(scene.decide(&set)));
    }
}

/// The example policy in each language that was built.
fn languages(criterion: &mut Criterion, scene: &Scene) {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/examples-policies");
    let Ok(entries) = std::fs::read_dir(&built) else { return };
    let mut modules: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path().join("policy.wasm"))).collect();
    modules.retain(|path| path.exists());
    modules.sort();
    for module in modules {
        let language = module.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let mut binding =
            Binding::new(BindingName::parse("example").expect("a name"), ModuleSource::File(module.clone()));
        binding.config = match language.as_str() {
            "wat" => json!({}),
            _ => json!({ "deny": ["delete_*"], "roots": ["/tmp/"] }),
        };
        binding.time = Duration::from_millis(500);
        binding.memory_bytes = 64 << 20;
        binding.matches.hooks = Some(vec!["tool-call"]);
        let set = scene.set(vec![binding], None);
        let decide = || {
            let charges = Charges::default();
            let call = Call::new(scene.tools[0].clone(), Some(raw(r#"{"path":"/tmp/x"}"#.to_owned())));
            let ctx = scene.context(&charges);
            scene.runtime.block_on(set.check(&ctx, call)).0.is_ok()
        };
        let name = format!("one hook: {language}, the example policy");
        criterion.bench_function(&name, |bencher| bencher.iter(decide));
        percentiles(&name, || _ = black_box(decide()));
    }
}

/// Decisions per second of 1 to 2 × cores threads at once.
fn concurrency(scene: &Scene) {
    let set = scene.set(vec![builtin("allow-tools", 0, &allow_tools())], None);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    for threads in 1..=2 * cores {
        let stop = AtomicBool::new(false);
        let begun = Instant::now();
        let decisions: u64 = std::thread::scope(|scope| {
            let work = || {
                let mut count = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    assert!(scene.decide(&set));
                    count += 1;
                }
                count
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            #[expect(clippy::disallowed_methods, reason = "no runtime here: the threads measure meanwhile")]
            std::thread::sleep(Duration::from_secs(1));
            stop.store(true, Ordering::Relaxed);
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        let per_second = decisions as f64 / begun.elapsed().as_secs_f64();
        say(&format!(
            "{threads} threads on {cores} cores: {per_second:.0} tools/call decisions per second, two hooks each"
        ));
    }
}

/// A set of a hundred bindings: built anew, and with one of them changed.
fn swaps(scene: &Scene) {
    let binding = |number: usize| {
        let mut config = allow_tools();
        config["rules"][0]["message"] = json!(format!("no {number}"));
        builtin("allow-tools", number, &config)
    };
    let begun = Instant::now();
    let mut bindings: Vec<Binding> = (0..100).map(binding).collect();
    let first = scene.set(bindings.clone(), None);
    say(&format!("a set of 100 bindings, built anew: {} ms", begun.elapsed().as_millis()));
    bindings[50].config["otherwise"] = json!("deny");
    let begun = Instant::now();
    let second = scene.set(bindings, Some(&first));
    say(&format!("the same with one configuration changed: {} ms", begun.elapsed().as_millis()));
    drop((first, second));
}

fn baselines(criterion: &mut Criterion) {
    let input = json!({
        "request": { "tool": { "upstream": "notes", "name": "tool_0", "hints": ["destructive", "open-world"] } },
        "caller": { "subject": "bench" },
        "args": { "path": "/tmp/x", "limit": 10 },
    })
    .to_string();
    let mut engine = rego();
    let mut native = || evaluate(&mut engine, &input);
    criterion.bench_function("baseline: the Rego rule natively, in process", |bencher| bencher.iter(&mut native));
    percentiles("baseline: the Rego rule natively, in process", || assert!(native()));
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("it listens");
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || sidecar(&connection));
        }
    });
    let mut connection = BufReader::new(TcpStream::connect(address).expect("it listens"));
    connection.get_ref().set_nodelay(true).expect("an option of TCP");
    let mut over_http = || ask(&mut connection, &input);
    criterion.bench_function("baseline: the Rego rule in an HTTP sidecar", |bencher| bencher.iter(&mut over_http));
    percentiles("baseline: the Rego rule in an HTTP sidecar", || assert!(over_http()));
}

fn rego() -> regorus::Engine {
    let mut engine = regorus::Engine::new();
    engine.add_policy("main.rego".to_owned(), REGO_RULE.to_owned()).expect("it parses");
    engine
}

fn evaluate(engine: &mut regorus::Engine, input: &str) -> bool {
    engine.set_input(regorus::Value::from_json_str(input).expect("it is JSON"));
    engine.eval_rule("data.portcullis.tool_call.allow".to_owned()).expect("it evaluates") == regorus::Value::from(true)
}

/// Answers questions on one connection, in HTTP/1.1 as small as it can be, until the other side goes.
fn sidecar(connection: &TcpStream) {
    let mut engine = rego();
    let mut reader = BufReader::new(connection);
    connection.set_nodelay(true).expect("an option of TCP");
    while let Some(body) = read_message(&mut reader) {
        let answer = format!(r#"{{"result":{}}}"#, evaluate(&mut engine, &body));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        if (&*connection).write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn ask(connection: &mut BufReader<TcpStream>, input: &str) -> bool {
    let request =
        format!("POST /v1/data HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{input}", input.len());
    connection.get_mut().write_all(request.as_bytes()).expect("it is there");
    read_message(connection).is_some_and(|answer| answer.contains("true"))
}

/// The body of the next message.
fn read_message(reader: &mut impl std::io::BufRead) -> Option<String> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}

fn percentiles(name: &str, mut run: impl FnMut()) {
    let mut nanos: Vec<u64> = (0..SAMPLES)
        .map(|_| {
            let started = Instant::now();
            run();
            u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
        })
        .collect();
    nanos.sort_unstable();
    let at = |of_100: usize| nanos[(nanos.len() - 1) * of_100 / 100] as f64 / 1_000.0;
    say(&format!("{name}: p50 {:.1} µs, p99 {:.1} µs ({} runs)", at(50), at(99), nanos.len()));
}

#[expect(clippy::print_stdout, reason = "a benchmark's output is its result")]
fn say(text: &str) {
    println!("{text}");
}
