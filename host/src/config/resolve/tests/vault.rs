//! `[vault]` and `[[vault.keys]]`.

use super::*;
use crate::config::{Vault, VaultKey, VaultKeySource, VaultKeyState};
use crate::ids::KekId;

fn key(kid: &str, state: VaultKeyState, source: VaultKeySource) -> VaultKey {
    VaultKey { kid: KekId::parse(kid).unwrap(), state, source }
}

#[test]
fn without_a_word_the_ring_is_a_file_in_the_data_directory() {
    let config = parse("data_dir = \"d\"", Path::new("/etc"), &environment, NOW).unwrap();
    let file = key("file", VaultKeyState::Active, VaultKeySource::File("/etc/d/vault.key".into()));
    let cache_ttl = Duration::from_secs(300);
    assert_eq!(config.vault, Vault { keys: vec![file], is_default: true, cache_ttl, allow_core_dumps: false });
}

#[test]
fn each_kind_of_source_is_read() {
    let text = r#"
[vault]
cache_ttl = "0s"
allow_core_dumps = true
[[vault.keys]]
kid = "a"
source = "file"
path = "a.key"
[[vault.keys]]
kid = "b"
source = "credential"
credential = "vault"
state = "decrypt-only"
[[vault.keys]]
kid = "c"
source = "env"
variable = "TOKEN"
[[vault.keys]]
kid = "c-old"
source = "env"
variable = "UNSET"
state = "retired"
[[vault.keys]]
kid = "e-old"
source = "transit"
token = "file:gone"
state = "retired"
[[vault.keys]]
kid = "d"
source = "age"
path = "/d.txt"
[[vault.keys]]
kid = "e"
source = "transit"
url = "https://bao.example:8200"
mount = "team/transit"
key = "portcullis"
token = "env:TOKEN"
namespace = "n"
[[vault.keys]]
kid = "f"
source = "transit"
url = "http://127.0.0.1:8200/"
key = "portcullis"
token = "env:TOKEN"
[[vault.keys]]
kid = "g"
source = "pkcs11"
module = "/usr/lib/hsm.so"
token = "HSM"
key = "kek"
pin = "env:TOKEN"
"#;
    let environment = |name: &str| match name {
        "CREDENTIALS_DIRECTORY" => Some("/run/credentials/p".to_owned()),
        name => environment(name),
    };
    let vault = parse(text, Path::new("/etc"), &environment, NOW).unwrap().vault;
    assert!(!vault.is_default && vault.allow_core_dumps && vault.cache_ttl.is_zero());
    let secret = || Plaintext::new("hunter2");
    let transit = |url: &str, mount: &str, namespace: Option<&str>| VaultKeySource::Transit {
        url: url.parse().unwrap(),
        mount: mount.to_owned(),
        key: "portcullis".to_owned(),
        token: secret(),
        token_file: None,
        namespace: namespace.map(str::to_owned),
    };
    let pkcs11 = VaultKeySource::Pkcs11 {
        module: "/usr/lib/hsm.so".into(),
        token: "HSM".to_owned(),
        key: "kek".to_owned(),
        pin: secret(),
    };
    let variable = VaultKeySource::Environment { variable: "TOKEN".to_owned(), key: secret() };
    let expected = [
        key("a", VaultKeyState::Active, VaultKeySource::File("/etc/a.key".into())),
        key("b", VaultKeyState::DecryptOnly, VaultKeySource::Credential("/run/credentials/p/vault".into())),
        key("c", VaultKeyState::Active, variable),
        key("c-old", VaultKeyState::Retired, VaultKeySource::None),
        key("e-old", VaultKeyState::Retired, VaultKeySource::None),
        key("d", VaultKeyState::Active, VaultKeySource::Age("/d.txt".into())),
        key("e", VaultKeyState::Active, transit("https://bao.example:8200", "team/transit", Some("n"))),
        key("f", VaultKeyState::Active, transit("http://127.0.0.1:8200/", "transit", None)),
        key("g", VaultKeyState::Active, pkcs11),
    ];
    assert_eq!(vault.keys, expected);
}

#[test]
fn what_is_wrong_with_a_key_is_told() {
    let file = "kid = \"a\"\nsource = \"file\"\n";
    let transit = "kid = \"a\"\nsource = \"transit\"\nkey = \"k\"\n";
    for (keys, told) in [
        ("kid = \"a\"\n", "needs kid and source"),
        (file, "needs path"),
        (&format!("{file}path = \"a\"\nstate = \"decrypt-only\"\n"), "no key of the vault is active"),
        (&format!("{file}path = \"a\"\nurl = \"https://a\"\n"), "url is not a setting"),
        (&format!("{file}path = \"a\"\n[[vault.keys]]\n{file}path = \"b\"\n"), "another key of the vault is called a"),
        ("kid = \"A B\"\nsource = \"file\"\npath = \"a\"\n", "key id"),
        ("kid = \"a\"\nsource = \"credential\"\ncredential = \"v\"\n", "CREDENTIALS_DIRECTORY is not set"),
        ("kid = \"a\"\nsource = \"credential\"\ncredential = \"../v\"\n", "not the name of a credential"),
        ("kid = \"a\"\nsource = \"env\"\nvariable = \"UNSET\"\n", "UNSET, which is not set"),
        (&format!("{transit}token = \"env:TOKEN\"\nurl = \"http://bao.example\"\n"), "must be an https URL"),
        (&format!("{transit}token = \"env:TOKEN\"\nurl = \"https://u@bao.example\"\n"), "user information"),
        (&format!("{transit}token = \"hvs.abc\"\nurl = \"https://bao.example\"\n"), "must be a reference"),
        (&format!("{transit}token = \"env:TOKEN\"\nurl = \"https://b\"\nmount = \"../sys\"\n"), "mount"),
    ] {
        let mistakes = parsed(&format!("[[vault.keys]]\n{keys}")).unwrap_err().to_string();
        assert!(mistakes.contains(told), "{keys}: {mistakes}");
        assert!(!mistakes.contains("hunter2"), "{mistakes}");
    }
}
