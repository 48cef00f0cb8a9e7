//! Every section: what it gives where it is right, and what is told where it is wrong.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::config::{PolicySettings, Protocol, Upstream, UpstreamAuth, UpstreamTransport, raw::schema};
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, ManagedBy, Standing, VirtualKey};
use crate::ids::{KeyName, UpstreamName};
use crate::outbound::Network;
use crate::secret::{Digest, Plaintext};

mod policies;
mod replica;
mod serving;
mod upstream_auth;
mod vault;
mod watch;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

const GOOD_KEY: &str = "pk_0123456789abcdefghijklmnopqrstuvwxyz";

fn environment(name: &str) -> Option<String> {
    match name {
        "GOOD_KEY" => Some(GOOD_KEY.to_owned()),
        "OTHER_KEY" => Some(format!("pk_{}", "x".repeat(32))),
        "SHORT_KEY" => Some(format!("pk_{}", "x".repeat(31))),
        "ODD_KEY" => Some(format!("pk_{} ", "x".repeat(40))),
        "STRANGE_KEY" => Some("x".repeat(40)),
        "TOKEN" => Some("hunter2".to_owned()),
        "DATABASE_URL" => Some("postgres://me:hunter2@db/store".to_owned()),
        "TWO_LINES" => Some("hunter2\nhunter3".to_owned()),
        _ => None,
    }
}

/// A directory with the files that the texts below name.
fn base_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("secrets")).unwrap();
    std::fs::write(dir.path().join("policy.wasm"), b"\0asm").unwrap();
    std::fs::write(dir.path().join("secrets/key"), format!("{GOOD_KEY}\n")).unwrap();
    std::fs::write(dir.path().join("cases.json"), "[{}, 5]").unwrap();
    std::fs::write(dir.path().join("object.json"), "{}").unwrap();
    std::fs::write(dir.path().join("hosts.txt"), "# Ours.\n\na.example\r\n  b.example#2 \n  # Not this.\na.example\n")
        .unwrap();
    dir
}

fn parsed(text: &str) -> Result<Config, Mistakes> {
    let dir = base_dir();
    parse(text, dir.path(), &environment, NOW)
}

fn globs(patterns: &[&str]) -> Vec<Glob> {
    patterns.iter().map(|pattern| Glob::parse(pattern).unwrap()).collect()
}

#[test]
fn an_empty_file_has_defaults() {
    let config = parse("", Path::new("/etc/portcullis"), &environment, NOW).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(config.file, None);
    assert_eq!(config.public_url.as_str(), "http://127.0.0.1:7400");
    assert_eq!(config.data_dir, Path::new("/etc/portcullis/portcullis-data"));
    assert_eq!(config.store, StoreUrl::Redb("/etc/portcullis/portcullis-data/portcullis.redb".into()));
    assert_eq!(
        config.listen,
        Listen {
            public: "127.0.0.1:7400".parse().unwrap(),
            admin: Some("127.0.0.1:7401".parse().unwrap()),
            admin_url: Some(PublicUrl::parse("http://127.0.0.1:7401").unwrap()),
            admin_socket: "/etc/portcullis/portcullis-data/admin.sock".into(),
        }
    );
    assert_eq!(
        config.edge,
        Edge {
            first_byte_timeout: seconds(10),
            header_timeout: seconds(10),
            body_timeout: seconds(30),
            idle_timeout: seconds(75),
            max_connections: 10_000,
            max_http2_streams: 128,
            drain_timeout: seconds(20),
            drain_delay: Duration::ZERO,
            trusted_proxies: Vec::new(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    );
    assert_eq!(
        config.limits,
        Limits {
            request_bytes: 4 << 20,
            upstream_message_bytes: 16 << 20,
            list_page: 1_000,
            sessions: 10_000,
            session_idle: seconds(30 * 60),
            calls_per_principal: 256,
            streams: 10_000,
            streams_per_principal: 1_000,
            stall_timeout: seconds(60),
            ask_timeout: seconds(600),
            parked_calls: 1_000,
            upstream_sessions: 1_000,
            upstream_session_idle: seconds(300),
        }
    );
    assert_eq!(config.mcp, Mcp { legacy_sse: false });
    assert!(config.upstreams.is_empty() && config.keys.is_empty());
    assert_eq!(config.policy, PolicySettings::default());
}

#[test]
fn the_schema_announces_the_defaults_that_hold() {
    // Writes what the schema announces into a file, and expects what an empty file gives.
    let schema = schema();
    let mut text = String::new();
    let sections = [("", &schema), ("listen", &schema["$defs"]["Listen"]), ("edge", &schema["$defs"]["Edge"])];
    let more = ["Limits", "Mcp", "Policy"].map(|name| (name.to_lowercase(), &schema["$defs"][name]));
    let sections = sections.map(|(name, schema)| (name.to_owned(), schema));
    for (section, schema) in sections.into_iter().chain(more) {
        if !section.is_empty() {
            text.push_str(&format!("[{section}]\n"));
        }
        for (name, property) in schema["properties"].as_object().unwrap() {
            if let Some(default) = property.get("default") {
                text.push_str(&format!("{name} = {default}\n"));
            }
        }
    }
    assert!(text.lines().count() > 20, "{text}");
    let dir = Path::new("/etc/portcullis");
    let announced = parse(&text, dir, &environment, NOW).unwrap();
    let empty = parse("", dir, &environment, NOW).unwrap();
    assert_eq!(format!("{announced:?}"), format!("{empty:?}"));
}

#[test]
fn a_file_that_says_everything_is_taken_at_its_word() {
    let text = format!(
        r#"
        public_url = "HTTPS://MCP.example.com:443/gate/"
        data_dir = "/var/lib/portcullis"
        [listen]
        public = "0.0.0.0:80"
        admin = "[::1]:81"
        admin_socket = "admin"
        [store]
        url = "memory:"
        [edge]
        first_byte_timeout = "1s"
        header_timeout = "2s"
        body_timeout = "3s"
        idle_timeout = "4s"
        max_connections = 5
        max_http2_streams = 6
        drain_timeout = "0s"
        drain_delay = "7s"
        trusted_proxies = ["10.0.0.0/8"]
        allowed_hosts = ["Mcp.Internal:7400"]
        allowed_origins = ["https://app.example.com"]
        [limits]
        request_size = 1024
        upstream_message_size = "1GiB"
        list_page = 7
        sessions = 8
        session_idle = "1h 30m"
        calls_per_principal = 9
        streams = 10
        streams_per_principal = 11
        stall_timeout = "12s"
        ask_timeout = "13s"
        parked_calls = 14
        upstream_sessions = 15
        upstream_session_idle = "16s"
        [mcp]
        legacy_sse = true

        [upstreams.tracker]
        transport = "streamable-http"
        url = "https://tracker.example.com/mcp?team=a"
        protocol = "legacy"
        headers = {{ Authorization = "Bearer env:TOKEN", X-Team = "core", "x-api-key" = "file:secrets/key" }}
        prefix = false
        call_timeout = "1m"
        sync_interval = "2m"
        trust = "internal"
        labels = ["a", "b"]
        [upstreams.notes]
        transport = "stdio"
        command = ["npx", "-y", "notes"]
        environment = {{ API_KEY = "env:TOKEN", LEVEL = "debug" }}
        working_dir = "secrets"
        start_timeout = "3m"
        memory_limit = "1GiB"
        process_limit = 100
        [upstreams.guessed]
        command = ["x"]

        [keys.ci]
        secret = "file:secrets/key"
        allow = [{{ upstream = "notes", tools = ["add", "list_*"] }}, {{ upstream = "t*", tools = [] }}]
        scopes = ["read", "notes:write"]
        groups = ["ops"]
        expires = "2027-01-01T00:00:00Z"
        disabled = true
        [keys.plain]
        sha256 = "{digest}"
        expires = 2027-01-01T01:00:00+01:00

        [policy]
        when_all_abstain = "allow"
        max_components = 3
        record = true
        replay = 0
        signatures = "all"
        trusted_keys = ["ed25519:{one_key}", {{ name = "release", key = "ed25519:{other_key}" }}]
        [sets]
        people = ["ann", "bob", "ann"]
        nobody = []
        hosts = {{ file = "hosts.txt" }}
        [[policies]]
        name = "last"
        module = "policy.wasm"
        [[policies]]
        name = "first"
        module = "builtin:allow-tools"
        digest = "sha256:{digest_upper}"
        config = {{ tools = ["a"], deep = {{ number = 1.5, whole = -1, on = true, at = 2027-01-01 }} }}
        priority = -1
        mode = "enforce"
        advisory = true
        allow_rewrite = true
        grants = ["sets", "clock"]
        limits = {{ time = "1s", memory = "256MiB", reuse = "frozen" }}
        tests = "cases.json"
        [policies.match]
        hooks = ["tool-call", "server-request"]
        upstreams = ["notes", "t*"]
        tools = ["add"]
        items = ["file:///a/*"]
        hints = ["destructive", "first-seen"]
        principals = ["key:ci*"]
        groups = ["ops", "*"]
        clients = ["https://*"]
        [[policies]]
        name = "second"
        module = "builtin:redact"
        mode = "shadow"
        priority = -1
        "#,
        one_key = STANDARD.encode([1; 32]),
        other_key = STANDARD.encode([2; 32]),
        digest = "ab".repeat(32),
        digest_upper = "AB".repeat(32),
    );
    let dir = base_dir();
    let config = parse(&text, dir.path(), &environment, NOW).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let seconds = Duration::from_secs;

    assert_eq!(config.public_url.as_str(), "https://mcp.example.com/gate");
    assert_eq!(config.data_dir, Path::new("/var/lib/portcullis"));
    assert_eq!(config.store, StoreUrl::Memory);
    let listen = Listen {
        public: "0.0.0.0:80".parse().unwrap(),
        admin: Some("[::1]:81".parse().unwrap()),
        admin_url: Some(PublicUrl::parse("http://[::1]:81").unwrap()),
        admin_socket: dir.path().join("admin"),
    };
    assert_eq!(config.listen, listen);
    let edge = Edge {
        first_byte_timeout: seconds(1),
        header_timeout: seconds(2),
        body_timeout: seconds(3),
        idle_timeout: seconds(4),
        max_connections: 5,
        max_http2_streams: 6,
        drain_timeout: Duration::ZERO,
        drain_delay: seconds(7),
        trusted_proxies: vec![Network::new("10.0.0.0".parse().unwrap(), 8).unwrap()],
        allowed_hosts: vec!["mcp.internal:7400".to_owned()],
        allowed_origins: vec!["https://app.example.com".to_owned()],
    };
    assert_eq!(config.edge, edge);
    let limits = Limits {
        request_bytes: 1024,
        upstream_message_bytes: 1 << 30,
        list_page: 7,
        sessions: 8,
        session_idle: seconds(90 * 60),
        calls_per_principal: 9,
        streams: 10,
        streams_per_principal: 11,
        stall_timeout: seconds(12),
        ask_timeout: seconds(13),
        parked_calls: 14,
        upstream_sessions: 15,
        upstream_session_idle: seconds(16),
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.mcp, Mcp { legacy_sse: true });
    assert_eq!(config.upstreams, expected_upstreams(dir.path()));
    assert_eq!(config.keys, expected_keys());
    assert_eq!(policies::without_lines(config.policy), policies::expected(dir.path()));
}

fn expected_upstreams(base_dir: &Path) -> Vec<Upstream> {
    let secrets = |pairs: &[(&str, &str)]| -> BTreeMap<String, Plaintext> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Plaintext::new(*value))).collect()
    };
    let guessed = Upstream {
        name: UpstreamName::parse("guessed").unwrap(),
        transport: UpstreamTransport::Stdio {
            command: vec!["x".to_owned()],
            environment: BTreeMap::new(),
            working_dir: None,
            start_timeout: Duration::from_secs(60),
            memory_limit: None,
            process_limit: None,
        },
        prefix: true,
        call_timeout: Duration::from_secs(300),
        sync_interval: Duration::from_secs(300),
        trust: String::new(),
        labels: Vec::new(),
        auth: UpstreamAuth::None,
        extra_headers: Vec::new(),
        allow_on_all_keys: false,
        tls: None,
    };
    let notes = Upstream {
        name: UpstreamName::parse("notes").unwrap(),
        transport: UpstreamTransport::Stdio {
            command: ["npx", "-y", "notes"].map(str::to_owned).to_vec(),
            environment: secrets(&[("API_KEY", "hunter2"), ("LEVEL", "debug")]),
            working_dir: Some(base_dir.join("secrets")),
            start_timeout: Duration::from_secs(180),
            memory_limit: Some(1 << 30),
            process_limit: Some(100),
        },
        ..guessed.clone()
    };
    let tracker = Upstream {
        name: UpstreamName::parse("tracker").unwrap(),
        transport: UpstreamTransport::StreamableHttp {
            url: "https://tracker.example.com/mcp?team=a".parse().unwrap(),
            protocol: Protocol::Legacy,
            headers: secrets(&[("authorization", "Bearer hunter2"), ("x-api-key", GOOD_KEY), ("x-team", "core")]),
        },
        prefix: false,
        call_timeout: Duration::from_secs(60),
        sync_interval: Duration::from_secs(120),
        trust: "internal".to_owned(),
        labels: vec!["a".to_owned(), "b".to_owned()],
        auth: UpstreamAuth::None,
        extra_headers: Vec::new(),
        allow_on_all_keys: false,
        tls: None,
    };
    vec![guessed, notes, tracker]
}

fn expected_keys() -> Vec<VirtualKey> {
    let tokens = |tokens: &[&str]| TokenList::parse(tokens.iter().map(|token| (*token).to_owned()).collect()).unwrap();
    let entry =
        |upstream: &str, tools: &[&str]| AllowEntry { upstream: Glob::parse(upstream).unwrap(), tools: globs(tools) };
    let ci = VirtualKey {
        name: KeyName::parse("ci").unwrap(),
        digest: Plaintext::new(GOOD_KEY).digest(),
        earlier: None,
        allow: AllowList(vec![entry("notes", &["add", "list_*"]), entry("t*", &[])]),
        scopes: tokens(&["read", "notes:write"]),
        groups: tokens(&["ops"]),
        owner: None,
        created: NOW,
        expires: Some(Timestamp::from_millis(1_798_761_600_000)),
        standing: Standing::Disabled,
        managed_by: ManagedBy::File,
        revision: 0,
    };
    let plain = VirtualKey {
        name: KeyName::parse("plain").unwrap(),
        digest: Digest::from_bytes([0xab; 32]),
        allow: AllowList::default(),
        scopes: TokenList::default(),
        groups: TokenList::default(),
        standing: Standing::Enabled,
        ..ci.clone()
    };
    vec![ci, plain]
}

/// A text, and of each mistake in it `line: message` with the beginning of the message.
type Wrong<'a> = (&'a str, &'a [&'a str]);

fn each_mistake_is_told(cases: &[Wrong<'_>]) {
    for (text, expected) in cases {
        let Err(mistakes) = parsed(text) else { panic!("no mistake in:\n{text}") };
        let told: Vec<String> =
            mistakes.iter().map(|mistake| format!("{}: {}", mistake.line.expect("a line"), mistake.message)).collect();
        let fits = told.len() == expected.len()
            && told.iter().zip(*expected).all(|(told, expected)| told.starts_with(expected));
        assert!(fits, "in:\n{text}\nexpected:\n{expected:#?}\ntold:\n{mistakes}");
        assert!(!mistakes.to_string().contains("hunter"), "{mistakes}");
    }
}

#[test]
fn mistakes_of_syntax_and_shape() {
    each_mistake_is_told(&[
        ("a = ", &["1: "]),
        ("[edge\n[limits\n", &["1: ", "2: "]),
        ("data_dir = 'a'\ndata_dir = 'b'", &["2: duplicate key"]),
        ("\ncolour = 'red'", &["2: unknown key `colour`"]),
        (
            "[edge]\nidle_timout = '5s'\n[limits]\nsession = 5",
            &["2: unknown key `idle_timout`", "4: unknown key `session`"],
        ),
        ("data_dir = 5", &["1: data_dir must be a string, not a whole number"]),
        ("[listen]\npublic = [1]", &["2: public must be a string, not an array"]),
        ("[policies]\nname = 'x'", &["1: policies must be an array, not a table"]),
        ("[upstreams]\nnotes = 'http://x'", &["2: notes must be a table, not a string"]),
        ("[upstreams.notes]\nheaders = 'Bearer hunter2'", &["2: headers must be a table, not a string"]),
        ("[upstreams.notes]\nprefix = 'no'\ncommand = ['x']", &["2: prefix must be true or false, not a string"]),
        ("[upstreams.notes]\ncommand = ['x', 5]", &["2: command must be a string, not a whole number"]),
        ("[upstreams.notes]\ntransport = 'sse'", &["2: transport must be one of streamable-http, stdio, not sse"]),
        ("[policy]\nwhen_all_abstain = 1", &["2: when_all_abstain must be a string"]),
        ("[limits]\nrequest_size = 1.5", &["2: request_size must be a size such as \"4MiB\""]),
        ("[limits]\nlist_page = 0.5", &["2: list_page must be a whole number, not a fraction"]),
        ("[limits]\nlist_page = 99999999999999999999", &["2: "]),
        ("[keys.ci]\nexpires = 5\nsha256 = ''", &["2: expires must be a date and time", "3: sha256 must be 64"]),
        ("[keys.ci]\nexpires = { year = 5 }\nsha256 = ''", &["2: expires must be a date and time", "3: sha256"]),
    ]);
}

#[test]
fn mistakes_of_addresses_and_paths() {
    each_mistake_is_told(&[
        ("public_url = 'mcp.example.com'", &["1: public_url must begin with http:// or https://"]),
        ("public_url = 'https://x.example/?a'", &["1: public_url must not have a query"]),
        ("public_url = 'http://'", &["1: public_url is not an absolute URL"]),
        ("public_url = '/gate'", &["1: public_url is not an absolute URL"]),
        ("data_dir = ''", &["1: data_dir is not a path"]),
        ("[listen]\npublic = 'localhost:7400'", &["2: listen.public is not an IP address and a port"]),
        ("[listen]\npublic = '0.0.0.0:7400'", &["2: public_url is missing, and 0.0.0.0:7400 cannot"]),
        ("[listen]\npublic = '[fe80::1%2]:7400'", &["2: public_url is missing, and [fe80::1%2]:7400 cannot"]),
        ("[listen]\npublic = '127.0.0.1:0'", &["2: public_url is missing"]),
        (
            "public_url = 'http://x'\n[listen]\npublic = '0.0.0.0:7400'\nadmin = 'off'\n[auth]\nrequired = false",
            &["6: auth.required = false on this listen.public lets in everybody"],
        ),
        ("[listen]\nadmin = 'none'", &["2: listen.admin is not an IP address and a port"]),
        (
            "[listen]\n\nadmin = '192.0.2.1:7401'",
            &["3: listen.admin must be a loopback address, since there is no listen.admin_tls"],
        ),
        ("[listen]\nadmin = '127.0.0.1:7400'", &["2: listen.public and listen.admin must differ"]),
        ("public_url = 'http://x'\n[listen]\npublic = '0.0.0.0:7401'", &["3: listen.public and listen.admin must"]),
        ("[listen]\nadmin_socket = ''", &["2: listen.admin_socket is not a path"]),
        (&format!("[listen]\nadmin_socket = '{}'", "x".repeat(104)), &["2: the path of the admin socket is longer"]),
        (&format!("\ndata_dir = '/{}'", "x".repeat(93)), &["2: the path of the admin socket is longer"]),
        ("[store]\nurl = 'redb:'", &["2: store.url is not a store"]),
        ("[store]\nurl = 'postgres://me:hunter2@x'", &["2: store.url names no database"]),
        ("[store]\nurl = 'postgres://me:hunter2@x/y'", &["2: store.url has a password in it"]),
        (
            "[store]\nurl = 'postgres://me@x/y'\npassword = 'hunter2'",
            &["2: store.url is a store that gateways share", "3: store.password must be a reference"],
        ),
        (
            "[vault]\ncache_ttl = '5m'\n[store]\nurl = 'env:DATABASE_URL'",
            &["4: store.url is a store that gateways share"],
        ),
        // What may be a key is not missed besides.
        ("[store]\nurl = 'env:DATABASE_URL'\n[vault]\nkey = []", &["4: unknown key `key`"]),
        ("[store]\npassword = 'env:TOKEN'", &["2: store.password is for a store in PostgreSQL only"]),
        (
            "[store]\nurl = 'env:DATABASE_URL'\npassword = 'env:TOKEN'",
            &["2: store.url is a store that gateways share", "3: store.url has a password already"],
        ),
        ("[store]\nurl = 'memory:x'", &["2: store.url is not a store"]),
    ]);
}

#[test]
fn mistakes_of_what_is_kept() {
    each_mistake_is_told(&[
        ("[store]\n\naudit_retention = '0s'", &["3: store.audit_retention must not be zero"]),
        ("[store]\naudit_retention = '-1d'", &["2: store.audit_retention must not be negative"]),
        ("[store]\naudit_retention = '59s'", &["2: store.audit_retention must not be shorter than a minute"]),
        ("[auth.tokens]\nkeep_ended = '2years'", &["2: keep_ended must not be longer than 1year 18h"]),
        ("[auth.tokens]\nkeep_ended = '30s'", &["2: keep_ended must not be shorter than a minute"]),
        ("[store]\naudit_retention = '11years'", &["2: store.audit_retention must not be longer than ten years"]),
        ("[store]\naudit_retention = 'forever'", &["2: store.audit_retention is not a duration"]),
        (
            "[store]\ndecision_retention = '0ms'\nrecording_retention = '0d'\ndecision_space = 0\nrecording_space = '0B'",
            &[
                "2: store.decision_retention must not be zero",
                "3: store.recording_retention must not be zero",
                "4: store.decision_space must not be zero",
                "5: store.recording_space must not be zero",
            ],
        ),
        ("[store]\nmax_staleness = '0s'", &["2: store.max_staleness must not be zero"]),
        ("[store]\nmax_staleness = '1999ms'", &["2: store.max_staleness must not be shorter than 2 s"]),
    ]);
}

#[test]
fn what_is_kept_is_kept_as_long_as_the_file_says() {
    let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
    let upkeep = parsed("").unwrap().upkeep;
    let week = Keeping { age: days(7), bytes: 1 << 30 };
    let expected = Upkeep {
        max_staleness: Duration::from_secs(10),
        audit_retention: days(400),
        orphan_retention: days(30),
        decisions: week,
        recordings: week,
    };
    assert_eq!(upkeep, expected);
    let text = "[store]\norphan_retention = '2d'\naudit_retention = '5years'\ndecision_retention = '1m'\nrecording_space = '4MiB'\nmax_staleness = '2s'";
    let upkeep = parsed(text).unwrap().upkeep;
    assert!(upkeep.audit_retention > days(5 * 365) && upkeep.audit_retention < days(5 * 366));
    assert_eq!((upkeep.decisions.age, upkeep.recordings.bytes), (Duration::from_secs(60), 4 << 20));
    assert_eq!((upkeep.max_staleness, upkeep.orphan_retention), (Duration::from_secs(2), days(2)));
}

#[test]
fn a_database_gets_its_password_by_reference() {
    for text in ["[store]\nurl = 'postgres://me@db/store'\npassword = 'env:TOKEN'", "[store]\nurl = 'env:DATABASE_URL'"]
    {
        let text = format!("{text}\n[[vault.keys]]\nkid = 'a'\nsource = 'file'\npath = 'a.key'\n");
        let config = parsed(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let StoreUrl::Postgres(database) = &config.store else { panic!("{:?}", config.store) };
        assert_eq!(database.password.as_ref().map(Plaintext::expose), Some("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

#[test]
fn mistakes_of_limits() {
    each_mistake_is_told(&[
        (
            "[edge]\nfirst_byte_timeout = '0s'\nheader_timeout = '5'\nbody_timeout = ''\nidle_timeout = '9years'",
            &[
                "2: first_byte_timeout must not be zero",
                "3: header_timeout is not a duration",
                "4: body_timeout is not a duration",
                "5: idle_timeout must not be longer than a year",
            ],
        ),
        (
            "[edge]\nmax_connections = 0\nmax_http2_streams = -1",
            &["2: max_connections must be from 1 to 1000000", "3: max_http2_streams must be from 1 to 1000000"],
        ),
        (
            "[edge]\nallowed_hosts = ['a', 'http://b']\nallowed_origins = [\n'http://a',\n'b']",
            &["2: an entry of allowed_hosts is not a host", "5: an entry of allowed_origins is not an origin"],
        ),
        (
            "[limits]\nrequest_size = 0\nupstream_message_size = '4MB'\nsession_idle = '0ms'",
            &["2: request_size must not be zero", "3: upstream_message_size is not a size", "4: session_idle must not"],
        ),
        (
            "[limits]\nlist_page = 0\nsessions = 0\ncalls_per_principal = 1000001",
            &["2: list_page must be from 1", "3: sessions must be from 1", "4: calls_per_principal must be from 1"],
        ),
        ("[policy]\nmax_components = 0", &["2: max_components must be from 1 to 1024"]),
    ]);
}

#[test]
fn mistakes_of_upstreams() {
    each_mistake_is_told(&[
        ("[upstreams.My_Notes]\ncommand = ['x']", &["1: upstream name \"My_Notes\" must be"]),
        ("\n[upstreams.notes]", &["2: upstream notes needs a url or a command"]),
        ("[upstreams.notes]\nurl = 'http://x'\ncommand = ['x']", &["1: upstream notes has both url and command"]),
        ("[upstreams.notes]\ntransport = 'stdio'", &["1: upstream notes needs a command"]),
        ("[upstreams.notes]\ntransport = 'streamable-http'", &["1: upstream notes needs a url"]),
        ("[upstreams.notes]\ntransport = 'stdio'\ncomand = ['x']", &["3: unknown key `comand`"]),
        ("[upstreams.notes]\nurl = 'x'", &["2: url must begin with http:// or https://"]),
        ("[upstreams.notes]\nurl = 'https://me:hunter2@x.example'", &["2: url must not have a user name"]),
        ("[upstreams.notes]\nurl = 'https://x.example/#a'", &["2: url must not have a fragment"]),
        ("[upstreams.notes]\nurl = 'ftp://x.example/'", &["2: url must begin with http:// or https://"]),
        ("[upstreams.notes]\ncommand = []", &["2: command must name a program"]),
        ("[upstreams.notes]\ncommand = ['', 'x']", &["2: command must name a program"]),
        ("[upstreams.notes]\ncommand = [\"a\\u0000\"]", &["2: command must not have zero bytes"]),
        ("[upstreams.notes]\ncommand = ['x']\nworking_dir = 'policy.wasm'", &["3: working_dir "]),
        (
            "[upstreams.notes]\ncommand = ['x']\ncall_timeout = '0s'\nsync_interval = '0s'\nstart_timeout = '0s'",
            &["3: call_timeout must not be", "4: sync_interval must not be", "5: start_timeout must not be"],
        ),
        (
            "[upstreams.notes]\nurl = 'http://x'\nworking_dir = '.'\n[upstreams.notes.environment]\nA = 'x'",
            &["3: working_dir has no meaning with the transport streamable-http", "5: environment has no meaning"],
        ),
        (
            "[upstreams.notes]\ncommand = ['x']\ntransport = 'stdio'\nurl = 'http://x'\nheaders = { A = 'x' }",
            &["4: url has no meaning with the transport stdio", "5: headers has no meaning"],
        ),
        (
            "[upstreams.a]\ncommand = ['x']\nprefix = false\n[upstreams.b]\nurl = 'http://x'\nprefix = false",
            &["6: upstream a has prefix = false already"],
        ),
    ]);
}

#[test]
fn mistakes_of_headers_and_environments() {
    let header = |line: &str| format!("[upstreams.notes]\nurl = 'http://x'\n[upstreams.notes.headers]\n{line}");
    let variable = |line: &str| format!("[upstreams.notes]\ncommand = ['x']\n[upstreams.notes.environment]\n{line}");
    for (line, expected) in [
        ("Authorization = 'Bearer hunter2'", "4: header \"Authorization\" looks like a credential"),
        ("X-Api-Key = 'hunter2'", "4: header \"X-Api-Key\" looks like a credential"),
        ("Cookie = 'a=hunter2'", "4: header \"Cookie\" looks like a credential"),
        ("Authorization = 'Bearer env:NONE'", "4: header \"Authorization\" refers to the environment variable NONE"),
        ("Authorization = 'env:TWO_LINES'", "4: header \"Authorization\" has a value with characters"),
        (
            "Authorization = 'file:none'",
            "4: header \"Authorization\" refers to the file \"none\", which does not exist",
        ),
        ("Host = 'x'", "4: header \"Host\" is set by the gateway itself"),
        ("content-type = 'x'", "4: header \"content-type\" is set by the gateway itself"),
        ("Mcp-Session-Id = 'x'", "4: header \"Mcp-Session-Id\" is set by the gateway itself"),
        ("Transfer-Encoding = 'x'", "4: header \"Transfer-Encoding\" is set by the gateway itself"),
        ("\"X Y\" = 'x'", "4: header \"X Y\" is not a header name"),
        ("A = \"x\\n\"", "4: header \"A\" has a value with characters"),
    ] {
        each_mistake_is_told(&[(&header(line), &[expected])]);
    }
    each_mistake_is_told(&[(&header("a = 'x'\nA = 'x'"), &["4: header \"a\" is there twice, in different"])]);
    for (line, expected) in [
        ("API_KEY = 'hunter2'", "4: environment variable \"API_KEY\" looks like a credential"),
        ("db_password = 'hunter2'", "4: environment variable \"db_password\" looks like a credential"),
        ("A = 'env:NONE'", "4: environment variable \"A\" refers to the environment variable NONE, which is not set"),
        ("A = 'env:'", "4: environment variable \"A\" does not name an environment variable"),
        ("\"A=B\" = 'x'", "4: environment variable \"A=B\" has a name"),
        ("A = \"\\u0000\"", "4: environment variable \"A\" must not have zero bytes"),
    ] {
        each_mistake_is_told(&[(&variable(line), &[expected])]);
    }
}

#[test]
fn mistakes_of_keys() {
    let hex = "0".repeat(64);
    each_mistake_is_told(&[
        ("[keys.A]\nsecret = 'env:GOOD_KEY'", &["1: key name \"A\" must be"]),
        ("[keys.ci]", &["1: key ci needs a secret"]),
        ("[keys.ci]\nsecrte = 'env:GOOD_KEY'", &["2: unknown key `secrte`"]),
        (&format!("[keys.ci]\nsecret = 'env:GOOD_KEY'\nsha256 = '{hex}'"), &["3: key ci has both"]),
        (&format!("[keys.ci]\nsecret = 'pk_hunter{hex}'"), &["2: secret must be a reference"]),
        ("[keys.ci]\nsecret = 'env:NONE'", &["2: secret refers to the environment variable NONE"]),
        ("[keys.ci]\nsecret = 'env:SHORT_KEY'", &["2: secret must lead to pk_ and at least 32"]),
        ("[keys.ci]\nsecret = 'env:STRANGE_KEY'", &["2: secret must lead to pk_"]),
        ("[keys.ci]\nsecret = 'env:ODD_KEY'", &["2: secret must lead to pk_"]),
        ("[keys.ci]\nsha256 = '123'", &["2: sha256 must be 64 hexadecimal digits"]),
        ("[keys.ci]\nsecret = 'env:GOOD_KEY'\nexpires = 'soon'", &["3: expires is not a date and time"]),
        ("[keys.ci]\nsecret = 'env:GOOD_KEY'\nexpires = 2027-01-01", &["3: expires is not a date and time"]),
        ("[keys.ci]\nsecret = 'env:GOOD_KEY'\nscopes = 'read'", &["3: scopes must be an array, not a string"]),
        (
            "[keys.ci]\nsecret = 'env:GOOD_KEY'\nscopes = [\n'read',\n'a b',\n]\ngroups = ['ops', 'ops']",
            &["5: an entry of scopes must be 1 to 128 printable ASCII", "7: an entry of groups is there twice"],
        ),
        (
            "[keys.a]\nsecret = 'env:GOOD_KEY'\n[keys.c]\nsecret = 'env:OTHER_KEY'\n\
             [keys.b]\nsecret = 'file:secrets/key'",
            &["5: keys a and b have the same secret"],
        ),
        (
            "[keys.ci]\nsecret = 'env:GOOD_KEY'\n[[keys.ci.allow]]\nupstream = 'note'\ntools = ['']\n\
             [[keys.ci.allow]]\nupstream = ''\n[[keys.ci.allow]]\ntools = ['x']\nupstraem = 'x'\n\
             [upstreams.notes]\ncommand = ['x']",
            &[
                "4: upstream names the upstream \"note\", which is not declared",
                "5: an entry of tools must be a pattern",
                "6: an allow entry needs upstream and tools",
                "7: upstream must be a pattern",
                "10: unknown key `upstraem`",
            ],
        ),
    ]);
}

#[test]
fn hints_say_what_would_be_right() {
    for (text, hint) in [
        ("[edge]\nidle_timout = '5s'", "did you mean `idle_timeout`?"),
        (
            "[listen]\nadmin = '192.0.2.1:7401'",
            "reach it through the admin socket or an SSH tunnel, set it to \"off\", or give it a certificate with \
             listen.admin_tls",
        ),
        ("[[policies]]\nname = 'x'\nmodule = 'builtin:redact'\nmode = 'shadows'", "did you mean `shadow`?"),
        ("[[policies]]\nname = 'x'\nmodule = 'builtin:redact'\ngrants = ['counter']", "did you mean `counters`?"),
        (
            "[[policies]]\nname = 'x'\nmodule = 'builtin:redact'\nmatch = { hooks = ['tool_call'] }",
            "did you mean `tool-call`?",
        ),
        (
            "[[policies]]\nname = 'x'\nmodule = 'builtin:redact'\nmatch = { hints = ['safe'] }",
            "known here: read-only, destructive, idempotent, open-world, first-seen, changed",
        ),
        ("[policies]", "a list of tables is written with double brackets, as in [[policies]]"),
        ("[[policies]]\nname = 'x'\nmodule = 'builtin:redcat'", "did you mean `redact`?"),
        (
            "[upstreams.notes]\ncommand = ['x']\n[keys.ci]\nsecret = 'env:GOOD_KEY'\n\
             allow = [{ upstream = 'note', tools = ['*'] }]",
            "did you mean `notes`?",
        ),
    ] {
        let Err(mistakes) = parsed(text) else { panic!("no mistake in {text}") };
        let hints: Vec<Option<&str>> = mistakes.iter().map(|mistake| mistake.hint.as_deref()).collect();
        assert_eq!(hints, [Some(hint)], "{text}");
    }
}

#[test]
fn a_file_is_loaded_with_its_own_directory_as_base() {
    let dir = base_dir();
    let path = dir.path().join("gate.toml");
    std::fs::write(&path, "[keys.ci]\nsecret = 'file:secrets/key'\n").unwrap();
    let config = load(&path, &environment, NOW).unwrap();
    assert_eq!(config.file.as_deref(), Some(path.as_path()));
    assert_eq!(config.data_dir, dir.path().join("portcullis-data"));
    assert_eq!(config.keys[0].digest, Plaintext::new(GOOD_KEY).digest());

    std::fs::write(&path, "colour = 1\n").unwrap();
    let told = load(&path, &environment, NOW).unwrap_err().to_string();
    assert!(told.starts_with(&format!("{}:1:1: unknown key `colour`", path.display())), "{told}");
}

#[test]
fn the_admin_socket_is_read_whatever_else_is_wrong() {
    let dir = base_dir();
    let path = dir.path().join("gate.toml");
    let socket = |text: &str| {
        std::fs::write(&path, text).unwrap();
        admin_socket(&path).map_err(|mistakes| mistakes.to_string())
    };
    for (text, expected) in [
        ("", "portcullis-data/admin.sock"),
        ("data_dir = 'd'\ncolour = 1\npublic_url = 'x'", "d/admin.sock"),
        ("data_dir = 'd'\n[listen]\npublic = 7\nadmin_socket = 'a.sock'\ncolour = 1", "a.sock"),
        ("[keys.ci]\nsecret = 'env:NO_SUCH'\n[[policies]]\nmodule = 'gone.wasm'", "portcullis-data/admin.sock"),
    ] {
        assert_eq!(socket(text), Ok(dir.path().join(expected)), "{text}");
    }
    for (text, parts) in [
        ("\ndata_dir = 7", [":2:", "must be a string, not a whole number"]),
        ("data_dir = ''", [":1:", "data_dir is not a path"]),
        ("[edge", [":1:", "gate.toml"]),
    ] {
        let told = socket(text).unwrap_err();
        assert!(parts.iter().all(|part| told.contains(part)), "{text}: {told}");
    }
    std::fs::remove_file(&path).unwrap();
    let told = admin_socket(&path).unwrap_err().to_string();
    assert!(told.starts_with(&format!("{}: does not exist\n  hint: ", path.display())), "{told}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_mistake() {
    let dir = base_dir();
    std::fs::write(dir.path().join("binary"), [0xff, 0xfe]).unwrap();
    std::fs::write(dir.path().join("huge"), vec![b'\n'; 1024 * 1024 + 1]).unwrap();
    std::fs::write(dir.path().join("largest"), vec![b'\n'; 1024 * 1024]).unwrap();
    for (name, message) in [
        ("none", "does not exist\n  hint: `--config FILE` or the variable PORTCULLIS_CONFIG says where it is"),
        ("secrets", "is not a regular file"),
        ("binary", "is not UTF-8 text"),
        ("huge", "is larger than 1024 KiB"),
    ] {
        let path = dir.path().join(name);
        let mistakes = load(&path, &environment, NOW).unwrap_err();
        assert_eq!(mistakes.to_string(), format!("{}: {message}", path.display()));
        assert!(mistakes.iter().all(|mistake| mistake.line.is_none()));
    }
    assert!(load(&dir.path().join("largest"), &environment, NOW).is_ok());
}
