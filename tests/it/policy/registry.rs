//! Policy modules in OCI registries: pulled once, by digest, before they come into force, or not at all.

use portcullis::policy::signature::{PublicKey, SignatureFile, SigningKey};
use portcullis::secret::Digest;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::upstreams::registry::{Asked, Registry};
use portcullis_tests::{Gateway, TestClock};
use serde_json::json;
use tempfile::TempDir;

use super::binding;
use super::reload::{code, configuration, denies, generation, policies};
use crate::cli::run_in;

/// A gateway whose one policy is this module.
async fn bound_to(up: &Fixture, module: &str) -> Gateway {
    Gateway::builder().http_upstream("up", &up.url).key("ci").section(&binding("guard", module, "")).start().await
}

/// Puts `text` into force, and says why it is refused, if it is.
async fn reload(gateway: &Gateway, text: &str) -> Result<(), String> {
    // The watcher would find it too; whichever comes first, this one is answered after it.
    gateway.replace("portcullis.toml", text.as_bytes());
    let reply = gateway.operator("POST", "/api/v1/policies/reload", None).await;
    if reply.status.is_success() { Ok(()) } else { Err(reply.json()["detail"].as_str().unwrap().to_owned()) }
}

fn paths(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(|asked| asked.path.as_str()).collect()
}

#[tokio::test]
async fn a_module_is_pulled_once_and_decides() {
    let (up, registry) = (Fixture::start().await, Registry::start().await);
    let one = registry.push("team/guard", &denies("one"), None);
    let gateway = bound_to(&up, &one.reference).await;
    assert_eq!(code(&gateway).await, "one");
    let view = policies(&gateway).await;
    let binding = &view["bindings"][0];
    assert_eq!(binding["module"], one.reference);
    assert_eq!(binding["digest"], Digest::of(&denies("one")).to_hex());
    assert_eq!(paths(&registry.asked()), [&one.manifest_path, &one.blob_path]);

    // Another one takes its place, and only that is pulled; the first stays what it is with a registry that is down.
    let two = registry.push("team/guard", &denies("two"), None);
    let text = configuration(&gateway);
    reload(&gateway, &text.replace(&one.reference, &two.reference)).await.unwrap();
    assert_eq!(code(&gateway).await, "two");
    assert_eq!(paths(&registry.asked()), [&two.manifest_path, &two.blob_path]);
    registry.go_down();
    reload(&gateway, &text.replace(&one.reference, &two.reference).replace("1s", "900ms")).await.unwrap();
    assert_eq!(code(&gateway).await, "two");
    assert_eq!(registry.asked(), [], "it is here already");
}

#[tokio::test]
async fn a_gateway_starts_with_what_it_has_pulled_before_and_with_nothing_else() {
    let (up, registry) = (Fixture::start().await, Registry::start().await);
    let module = registry.push("guard", &denies("one"), None);
    let builder = || {
        let section = binding("guard", &module.reference, "");
        Gateway::builder().http_upstream("up", &up.url).key("ci").section(&section)
    };
    let gateway = builder().start().await;
    let dir = gateway.stop().await;
    registry.go_down();
    registry.asked();
    let gateway = builder().try_start(dir, TestClock::default()).await.unwrap();
    gateway.wait_until_ready().await;
    assert_eq!(code(&gateway).await, "one");
    assert_eq!(registry.asked(), []);

    // What is on disk is trusted no more than a registry.
    let dir = gateway.stop().await;
    let kept = dir.path().join("data/policy-modules");
    let folders: Vec<_> = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), 1);
    std::fs::write(folders[0].join("module.wasm"), denies("bad")).unwrap();
    let refused = builder().try_start(dir, TestClock::default()).await.err().expect("there is no module");
    let reason = std::error::Error::source(&refused).map_or(refused.to_string(), ToString::to_string);
    assert!(reason.contains("503"), "{refused}: {reason}");
}

#[tokio::test]
async fn what_is_not_in_use_any_more_is_not_kept() {
    let (up, registry) = (Fixture::start().await, Registry::start().await);
    let (one, two) = (registry.push("a", &denies("one"), None), registry.push("b", &denies("two"), None));
    let gateway = bound_to(&up, &one.reference).await;
    let kept = || {
        let folders = std::fs::read_dir(gateway.dir.path().join("data/policy-modules")).unwrap();
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let digest = |reference: &str| vec![reference.rsplit_once(':').unwrap().1.to_owned()];
    assert_eq!(kept(), digest(&one.reference));
    reload(&gateway, &configuration(&gateway).replace(&one.reference, &two.reference)).await.unwrap();
    assert_eq!(kept(), digest(&two.reference));
}

#[tokio::test]
async fn a_registry_may_want_a_token_and_keep_blobs_elsewhere() {
    let (up, registry) = (Fixture::start().await, Registry::start().await);
    let module = registry.push("a", &denies("one"), None);
    registry.want_tokens();
    registry.redirect(&module.blob_path, &format!("http://{}/storage/1", registry.authority));
    registry.put("/storage/1", &denies("one"));
    let gateway = bound_to(&up, &module.reference).await;
    assert_eq!(code(&gateway).await, "one");
    let token = format!("/token?service={}&scope=repository%3Aa%3Apull", registry.authority.replace(':', "%3A"));
    let expected = [
        (module.manifest_path.as_str(), false),
        (&token, false),
        (&module.manifest_path, true),
        (&module.blob_path, true),
        ("/storage/1", false),
    ];
    let asked = registry.asked();
    let asked: Vec<_> = asked.iter().map(|asked| (asked.path.as_str(), asked.has_token)).collect();
    assert_eq!(asked, expected, "a token is for the registry alone");
}

#[tokio::test]
async fn what_cannot_be_pulled_is_refused_with_the_reason_and_changes_nothing() {
    let (up, registry, elsewhere) = (Fixture::start().await, Registry::start().await, Registry::start().await);
    let good = registry.push("good", &denies("one"), None);
    let gateway = bound_to(&up, &good.reference).await;
    let text = configuration(&gateway);
    let before = generation(&gateway).await;

    let missing = registry.push("missing", &denies("two"), None).reference.replace("/missing@", "/nowhere@");
    let lies = registry.push("lies", &denies("two"), None);
    registry.put(&lies.manifest_path, br#"{"layers":[]}"#);
    let other = registry.push("other", &denies("two"), None);
    registry.put(&other.blob_path, &denies("bad"));
    let large = registry.push("large", &denies("two"), None);
    registry.put(&large.blob_path, &vec![0; (64 << 20) + 1]);
    let layer = |kind: &str, size: u64| {
        let digest = format!("sha256:{}", Digest::of(b"").to_hex());
        json!({ "mediaType": kind, "digest": digest, "size": size })
    };
    let announced = registry.push_layers("announced", &json!([layer("application/wasm", 1 << 40)]));
    let image = registry.push_layers("image", &json!([layer("application/vnd.oci.image.layer.v1.tar", 1)]));
    let away = registry.push("away", &denies("two"), None);
    elsewhere.put("/storage", &denies("two"));
    registry.redirect(&away.blob_path, &format!("http://{}/storage", elsewhere.authority));
    let nobody = format!("oci://127.0.0.1:9/a@sha256:{}", Digest::of(b"x").to_hex());
    for (reference, parts) in [
        (&missing, &["answered 404", "manifest"][..]),
        (&lies.reference, &["the manifest has the SHA-256", "and not"]),
        (&other.reference, &["the module has the SHA-256", "and not"]),
        (&large.reference, &["larger than"]),
        (&announced.reference, &["the module has 1099511627776 bytes, and may have"]),
        (&image.reference, &["no layer of type application/wasm"]),
        (&away.reference, &["sends elsewhere, and that cannot be fetched"]),
        (&nobody, &["cannot be reached", "could not connect"]),
    ] {
        let reason = reload(&gateway, &text.replace(&good.reference, reference)).await.unwrap_err();
        let told = format!("policy guard: read: {reference} cannot be pulled: ");
        assert!(reason.contains(&told) && parts.iter().all(|part| reason.contains(part)), "{reference}: {reason}");
        assert_eq!((generation(&gateway).await, code(&gateway).await), (before, json!("one")), "{reference}");
    }
    assert_eq!(elsewhere.asked(), [], "an address of this machine that a registry names is not asked");

    // What moves is none, before anybody is asked.
    registry.asked();
    let tagged = good.reference.split_once('@').unwrap().0.to_owned() + ":latest";
    let reason = reload(&gateway, &text.replace(&good.reference, &tagged)).await.unwrap_err();
    assert!(reason.contains("names a tag, which can move") && reason.contains("portcullis.toml:"), "{reason}");
    assert_eq!(registry.asked(), []);
    reload(&gateway, &text.replace("1s", "900ms")).await.unwrap();
    assert_eq!(code(&gateway).await, "one");
}

#[tokio::test]
async fn signatures_come_with_the_module() {
    let (up, registry) = (Fixture::start().await, Registry::start().await);
    let (key, stranger) = (SigningKey::of_seed(&[1; 32]), SigningKey::of_seed(&[2; 32]));
    let signed_by = |key: &SigningKey, module: &[u8]| {
        let mut signatures = SignatureFile::of(&Digest::of(module).to_hex());
        signatures.add(key);
        signatures.to_json().into_bytes()
    };
    let one = registry.push("a", &denies("one"), Some(&signed_by(&key, &denies("one"))));
    let key: PublicKey = key.public();
    let trust = format!("[policy]\nsignatures = \"any\"\ntrusted_keys = [{{ name = \"build\", key = \"{key}\" }}]\n");
    let builder = Gateway::builder().http_upstream("up", &up.url).key("ci").section(&trust);
    let gateway = builder.section(&binding("guard", &one.reference, "")).start().await;
    assert_eq!(code(&gateway).await, "one");
    assert_eq!(policies(&gateway).await["bindings"][0]["signed_by"], json!(["build"]));
    let text = configuration(&gateway);
    let unsigned = registry.push("a", &denies("two"), None);
    let strange = registry.push("b", &denies("two"), Some(&signed_by(&stranger, &denies("two"))));
    let of_other = registry.push("c", &denies("two"), Some(&signed_by(&stranger, &denies("one"))));
    for (pushed, part) in [
        (unsigned, "signature: it is not signed: its manifest has no layer"),
        (strange, "signature: no trusted key signed it"),
        (of_other, "signature: the signatures are of other bytes"),
    ] {
        let reason = reload(&gateway, &text.replace(&one.reference, &pushed.reference)).await.unwrap_err();
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(code(&gateway).await, "one");
}

#[tokio::test]
async fn the_command_line_checks_what_is_in_a_registry_and_leaves_nothing_behind() {
    let registry = Registry::start().await;
    let module = registry.push("a", &denies("one"), None);
    let dir = TempDir::new().unwrap();
    let write = |reference: &str| {
        let text = format!("data_dir = \"data\"\n{}", binding("guard", reference, ""));
        std::fs::write(dir.path().join("portcullis.toml"), text).unwrap();
    };
    write(&module.reference);
    let checked = run_in(dir.path(), &["check"]).await.printed();
    assert!(checked.contains("ok (0 upstreams, 0 keys, 1 policies)"), "{checked}");
    assert!(!dir.path().join("data").exists());
    registry.go_down();
    let complaint = run_in(dir.path(), &["check"]).await.complaint();
    assert!(complaint.contains("policy guard: read: oci://") && complaint.contains("503"), "{complaint}");
    write(&module.reference.replace("@sha256:", ":"));
    let complaint = run_in(dir.path(), &["check"]).await.complaint();
    assert!(complaint.contains("names a tag") && complaint.contains("hint: name the manifest"), "{complaint}");
    let refused = run_in(dir.path(), &["policy", "inspect", &module.reference]).await.complaint();
    assert!(refused.contains("is in a registry"), "{refused}");
}
