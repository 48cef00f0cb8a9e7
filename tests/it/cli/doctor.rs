//! `portcullis doctor`: all is well where it is, and each mistake has its line.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Ran, dir_with, run_in};

async fn doctor(dir: &Path) -> (Option<i32>, Value) {
    let Ran { code, stdout, stderr } = run_in(dir, &["doctor", "--output", "json"]).await;
    (code, serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}")))
}

/// The problems of an area.
fn problems(told: &Value, area: &str) -> Vec<String> {
    let checks = told["checks"].as_array().unwrap().iter();
    let here = checks.filter(|check| check["area"] == area && check["result"] == "problem");
    here.map(|check| {
        assert!(check["mend"].as_str().is_some_and(|mend| !mend.is_empty()), "how to mend it is said: {check}");
        check["finding"].as_str().unwrap().to_owned()
    })
    .collect()
}

#[tokio::test]
async fn a_healthy_gateway_has_no_problems() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    let (code, told) = doctor(gateway.dir.path()).await;
    assert_eq!((code, &told["problems"]), (Some(0), &json!(0)), "{told:#}");
    for area in ["configuration", "gateway", "public URL", "clock", "files", "disk", "store", "vault", "upstreams"] {
        let is_ok = |check: &Value| check["area"] == area && check["result"] == "ok";
        assert!(told["checks"].as_array().unwrap().iter().any(is_ok), "{area} is not ok: {told:#}");
    }
    let table = run_in(gateway.dir.path(), &["doctor"]).await.printed();
    assert!(table.contains("up works (") && !table.contains("\nproblem"), "{table}");
}

#[tokio::test]
async fn each_mistake_of_a_living_gateway_has_its_line() {
    let up = Fixture::start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // The public URL leads to something else than the gateway.
    let elsewhere = up.url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap();
    let gateway =
        Gateway::builder().http_upstream("gone", &format!("http://{nobody}/mcp")).behind(elsewhere).start().await;
    let token = gateway.dir.path().join("data/operator-token");
    fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&gateway.file, Permissions::from_mode(0o666)).unwrap();

    let (code, told) = doctor(gateway.dir.path()).await;
    assert_eq!(code, Some(1), "{told:#}");
    for (area, parts) in [
        ("public URL", &["answers with status"][..]),
        ("files", &["operator-token has mode 644", "portcullis.toml has mode 666"]),
        ("upstreams", &["gone fails at reach"]),
    ] {
        let problems = problems(&told, area);
        assert_eq!(problems.len(), parts.len(), "{area}: {problems:?}");
        for part in parts {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part:?} is not in {problems:?}");
        }
    }
    assert!(!told.to_string().contains(fs::read_to_string(token).unwrap().trim()), "no secret is told");
}

#[tokio::test]
async fn each_mistake_of_a_file_is_told_and_nothing_is_made() {
    let dir = dir_with(&[("portcullis.toml", "public_url = \"x\"\n[edge]\nidle_timeout = \"soon\"\n")]);
    let (code, told) = doctor(dir.path()).await;
    assert_eq!(code, Some(1));
    let problems = problems(&told, "configuration");
    assert!(problems[0].starts_with("line 1:") && problems[1].starts_with("line 3:"), "{problems:?}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "data_dir = \"data\"\npublic_url = \"http://{nobody}\"\n[upstreams.gone]\nurl = \"http://{nobody}/mcp\"\n[upstreams.tool]\ncommand = [\"./missing\"]\n"
    );
    let dir = dir_with(&[("portcullis.toml", &config)]);
    let (code, told) = doctor(dir.path()).await;
    assert_eq!(code, Some(1), "{told:#}");
    assert_eq!(self::problems(&told, "upstreams").len(), 2, "{told:#}");
    assert_eq!(told["problems"], 2, "a gateway that does not run is no problem: {told:#}");
    assert!(!dir.path().join("data").exists(), "nothing is made");
}

#[tokio::test]
async fn redirect_addresses_are_those_that_the_gateway_uses() {
    let config = "data_dir = \"data\"\npublic_url = \"https://mcp.example.com\"\n[auth.providers.corp]\nissuer = \"https://id.example.com\"\nclient_id = \"c\"\n";
    let dir = dir_with(&[("portcullis.toml", config)]);
    let printed = run_in(dir.path(), &["redirect-uris"]).await.printed();
    for address in ["https://mcp.example.com/sign-in/corp/callback", "http://127.0.0.1:7401/sign-in/corp/callback"] {
        assert!(printed.contains(address), "{printed}");
    }
    let nothing: TempDir = dir_with(&[("portcullis.toml", "data_dir = \"data\"\n")]);
    assert_eq!(run_in(nothing.path(), &["redirect-uris"]).await.printed(), "there is nothing to register\n");
}

#[tokio::test]
async fn what_listeners_show_over_tls_is_looked_at() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = |host: &str, key: &str| {
        let tls = format!("public_tls = {{ certificate = \"chain.pem\", key = \"{key}\" }}");
        format!("data_dir = \"data\"\npublic_url = \"https://{host}:{}\"\n[listen]\n{tls}\n", nobody.port())
    };
    let dir = dir_with(&[
        ("portcullis.toml", &config("127.0.0.1", "key.pem")),
        ("chain.pem", include_str!("../../fixtures/tls/one.pem")),
        ("key.pem", include_str!("../../fixtures/tls/one.key")),
        ("other.pem", include_str!("../../fixtures/tls/other.key")),
    ]);
    let mode = |mode| fs::set_permissions(dir.path().join("key.pem"), Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    let (_, told) = doctor(dir.path()).await;
    assert_eq!(problems(&told, "TLS"), Vec::<String>::new(), "{told:#}");
    let is_ok = |check: &Value| {
        let finding = check["finding"].as_str().unwrap();
        check["area"] == "TLS" && check["result"] == "ok" && finding.contains("until 2126-10-29T06:23:22.000Z")
    };
    assert!(told["checks"].as_array().unwrap().iter().any(is_ok), "{told:#}");

    mode(0o644);
    fs::write(dir.path().join("portcullis.toml"), config("localhost", "key.pem")).unwrap();
    let (code, told) = doctor(dir.path()).await;
    let found = problems(&told, "TLS");
    assert_eq!((code, found.len()), (Some(1), 2), "{told:#}");
    for part in ["is not for localhost", "every user of this machine can read"] {
        assert!(found.iter().any(|problem| problem.contains(part)), "{part:?} is not in {found:?}");
    }

    fs::write(dir.path().join("portcullis.toml"), config("127.0.0.1", "other.pem")).unwrap();
    let (_, told) = doctor(dir.path()).await;
    let found = problems(&told, "TLS");
    assert!(found.len() == 1 && found[0].contains("the private key is not that of the first certificate"), "{told:#}");
    assert!(!told.to_string().contains("PRIVATE KEY"), "no secret is told");
}

#[tokio::test]
async fn the_key_that_a_store_needs_is_missed_and_told_from_another_one() {
    let gateway = Gateway::builder().on_disk().key("alice").start().await;
    let dir = gateway.stop().await;
    let (key, own) = (dir.path().join("data/vault.key"), dir.path().join("own.key"));
    let (_, told) = doctor(dir.path()).await;
    assert_eq!(problems(&told, "vault"), Vec::<String>::new(), "{told:#}");

    fs::rename(&key, &own).unwrap();
    let (code, told) = doctor(dir.path()).await;
    let found = problems(&told, "vault");
    assert_eq!((code, found.len()), (Some(1), 1), "{told:#}");
    assert!(found[0].contains("is not there, and the store needs it"), "{found:?}");
    assert!(!key.exists(), "nothing is made");

    run_in(dir.path(), &["vault", "keygen", "data/vault.key"]).await.printed();
    let (code, told) = doctor(dir.path()).await;
    let found = problems(&told, "vault");
    assert_eq!((code, found.len()), (Some(1), 1), "{told:#}");
    assert!(found[0].contains("is not the one"), "{found:?}");

    fs::rename(&own, &key).unwrap();
    let (_, told) = doctor(dir.path()).await;
    assert_eq!(problems(&told, "vault"), Vec::<String>::new(), "{told:#}");
}
