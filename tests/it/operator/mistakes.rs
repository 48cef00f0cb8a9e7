//! Mistakes in the configuration of a gateway that runs: every table of it has one here. What runs goes on, and the line is named.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use http::StatusCode;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Gateway, program};
use serde_json::{Value, json};

/// For each table, a mistake in it and what is told of it: the number of its line among those that were added, counted from
/// 1, and the beginning of its message. The table is the one of the last header; what has none is said before all tables.
const MISTAKES: &[(&str, usize, &str)] = &[
    ("public_url = \"ftp://x.example\"", 1, "public_url must begin with http"),
    ("data_dir = 7", 1, "data_dir must be a string"),
    ("[listen]\npublic = \"here\"", 2, "listen.public is not an IP address"),
    ("[listen.admin_tls]\ncertificate = \"none.pem\"\nkey = \"none.key\"", 2, "listen.admin_tls.certificate does not"),
    ("[store]\nurl = \"mysql://x.example\"", 2, "store.url is not a store"),
    ("[store]\nmax_staleness = \"soon\"", 2, "store.max_staleness is not a duration"),
    ("[metrics]\nopen = \"yes\"", 2, "open must be true or false"),
    ("[telemetry]\nsample = 2.0", 2, "telemetry.sample must be from 0.0"),
    ("[telemetry.otlp_headers]\nauthorization = \"hunter2\"", 2, "header \"authorization\" looks like a credential"),
    ("[audit]\nexport = \"trail.log\"", 2, "audit.export must be"),
    ("[limits]\nsessions = 0", 2, "sessions must be from 1"),
    ("[mcp]\nlegacy_sse = 1", 2, "legacy_sse must be"),
    ("[edge]\nidle_timeout = \"soon\"", 2, "idle_timeout is not a duration"),
    ("[edge]\ntrusted_proxies = [\"10.0.0.1/8\"]", 2, "an entry of trusted_proxies has a prefix"),
    ("[replica]\nlisten = \"here\"", 2, "replica.listen is not an IP address"),
    (
        "[listen.public_tls]\ncertificate = \"none.pem\"\nkey = \"none.key\"",
        2,
        "listen.public_tls.certificate does not",
    ),
    ("[vault]\ncache_ttl = \"-1s\"", 2, "vault.cache_ttl"),
    ("[auth]\nmcp = \"none\"", 2, "mcp must be one of"),
    ("[auth.tokens]\nacess = \"1m\"", 2, "unknown key `acess`"),
    ("[outbound]\nallow = [\"10.0.0.1/8\"]", 2, "an entry of outbound.allow"),
    ("[upstreams.more]\nurl = \"ftp://x.example\"", 2, "url must begin with http"),
    ("[keys.more]\nsecret = \"hunter2-hunter2-hunter2-hunter2-hunter2\"", 2, "secret must be a reference"),
    ("[policy]\nmax_components = 0", 2, "max_components must be from 1"),
    ("[[policies]]\nname = \"x\"\nmodule = \"builtin:nothing\"", 3, "module"),
    ("[sets.more]\nfile = \"none.txt\"", 2, "set more"),
    ("[auth.sign_in]\nsession_idle = \"0s\"", 2, "session_idle must not be zero"),
    ("[auth.operators]\nstep_up_after = \"13h\"", 2, "step_up_after must not be longer than 12h"),
    ("[auth.providers.x]\nissuer = \"x\"\nclient_id = \"y\"", 2, "issuer is not an issuer"),
    ("[auth.providers.again]\nissuer = \"https://x.example\"\nclient_id = \"y\"", 1, "no provider can be called"),
    ("[auth.clients.known.x]\nredirect_uris = [\"ftp:x\"]", 2, "an entry of redirect_uris"),
    ("[auth.grants]\nclient_credentials = \"yes\"", 2, "client_credentials must be true or false"),
    ("[auth.allow]\nusers = [\"a\"]", 2, "users must be a table"),
    ("[[vault.keys]]\nkid = \"a b\"\nsource = \"file\"", 2, "kid key id"),
    ("[upstreams.up.auth]\nkind = \"nothing\"", 2, "kind must be one of"),
    ("[upstreams.up.tls]\nca_file = \"none.pem\"", 2, "tls.ca_file does not exist"),
    (
        "[[policies]]\nname = \"x\"\nmodule = \"builtin:redact\"\n[policies.match]\nhooks = [\"nothing\"]",
        5,
        "match.hooks names the hook",
    ),
    ("[nothing]", 1, "unknown key `nothing`"),
    ("[limits\nsessions = 1", 1, ""),
    ("[auth.clients]\nmax_registered = 0", 2, "max_registered must be from 1"),
    ("[[auth.grants.identity_assertions]]\nissuer = \"x\"", 2, "issuer is not an issuer"),
    ("[[auth.allow.users]]\nupstream = \"*\"\ntools = \"x\"", 3, "tools must be an array"),
    ("[[auth.allow.guests]]\nupstream = \"*\"", 1, "an allow entry needs upstream and tools"),
    ("[auth.allow.groups]\nops = [\"up\"]", 2, "auth.allow.groups has no meaning"),
    (
        "[keys.more]\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n[[keys.more.allow]]\nupstream = \"up\"\ntool = [\"*\"]",
        5,
        "unknown key `tool`",
    ),
    ("[[policy.trusted_keys]]\nname = \"x\"\nkey = \"ed25519:AAAA\"", 3, "a trusted key is not an Ed25519"),
    (
        "[[policies]]\nname = \"x\"\nmodule = \"builtin:redact\"\n[policies.limits]\ntime = \"1h\"",
        5,
        "limits.time must be at most 1s",
    ),
    ("[upstreams.\"A b\"]\nurl = \"http://x.example\"", 1, "upstream name \"A b\" must be"),
];

/// A configuration with a mistake in it, and the line in front of the mistake's first one. A mistake in a table that is there
/// stands in it, in place of what the same key says.
fn mistaken(text: &str, mistake: &str) -> (String, usize) {
    let mut lines: Vec<&str> = text.lines().collect();
    let (header, setting) =
        if mistake.starts_with('[') { mistake.split_once('\n').unwrap_or((mistake, "")) } else { ("", mistake) };
    let begin = match lines.iter().position(|line| *line == header) {
        _ if header.is_empty() => 0,
        Some(at) => at + 1,
        None => return (format!("{text}\n{mistake}\n"), lines.len()),
    };
    let key = setting.split(' ').next();
    let mut table = lines[begin..].iter().take_while(|line| !line.starts_with('['));
    let at = match table.position(|line| line.split(' ').next() == key) {
        Some(at) => {
            lines[begin + at] = setting;
            begin + at
        }
        None => {
            lines.insert(begin, setting);
            begin
        }
    };
    (lines.join("\n") + "\n", at - usize::from(!header.is_empty()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_a_mistake_in_any_table_keeps_what_runs_and_names_the_line() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("ci").start().await;
    let text = fs::read_to_string(&gateway.file).unwrap().trim_end().to_owned();
    let caller = gateway.caller("ci");
    for (added, line, message) in MISTAKES {
        let (wrong, before) = mistaken(&text, added);
        gateway.replace("portcullis.toml", wrong.as_bytes());
        let reply = gateway.operator("POST", "/api/v1/policies/reload", None).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{added}: {}", reply.text());
        let told = reply.json()["detail"].as_str().unwrap().to_owned();
        let place = format!("portcullis.toml:{}:", before + line);
        assert!(told.contains(&place) && told.contains(message), "{added}\n{place} {message}\n{told}");
        assert!(!told.contains("hunter2"), "{told}");
        assert_eq!(caller.call("up__echo", json!({})).await.status, StatusCode::OK, "{added}");
        let view = gateway.operator("GET", "/api/v1/policies", None).await.json();
        assert_eq!((&view["generation"], &view["last_reload"]["ok"]), (&json!(1), &json!(false)), "{added}");
    }
    gateway.replace("portcullis.toml", text.as_bytes());
    let reply = gateway.operator("POST", "/api/v1/policies/reload", None).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
}

/// The headers of all tables that a configuration may have; `*` stands for a name that an operator chooses.
fn tables(schema: &Value, node: &Value, header: &str, found: &mut BTreeSet<String>) {
    let under = |key: &str| if header.is_empty() { key.to_owned() } else { format!("{header}.{key}") };
    if let Some(name) = node["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        tables(schema, &schema["$defs"][name], header, found);
    }
    for (key, member) in node["properties"].as_object().into_iter().flatten() {
        found.insert(header.to_owned());
        tables(schema, member, &under(key), found);
    }
    let named = node["patternProperties"].as_object().into_iter().flatten().map(|(_, member)| member);
    for member in named.chain(node.get("additionalProperties")) {
        tables(schema, member, &under("*"), found);
    }
    for member in node["oneOf"].as_array().into_iter().flatten().chain(node.get("items")) {
        tables(schema, member, header, found);
    }
}

#[test]
fn every_table_of_the_configuration_has_a_mistake() {
    let printed = Command::new(program("portcullis")).args(["config", "schema"]).output().unwrap();
    let schema: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let mut lacking = BTreeSet::new();
    tables(&schema, &schema, "", &mut lacking);
    assert!(lacking.contains("") && lacking.contains("upstreams.*.auth"), "{lacking:?}");
    for (mistake, ..) in MISTAKES {
        let header = mistake.lines().rfind(|line| line.starts_with('[')).unwrap_or_default().trim_matches(['[', ']']);
        lacking.retain(|table| {
            let fits = |(expected, name): (&str, &str)| expected == "*" || expected == name;
            table.split('.').count() != header.split('.').count() || !table.split('.').zip(header.split('.')).all(fits)
        });
    }
    assert!(lacking.is_empty(), "no mistake is made in {lacking:?}");
}
