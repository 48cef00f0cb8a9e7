//! `[replica]`, and what replicas compare of their configurations.

use super::*;
use crate::config::Replica;

#[test]
fn a_replica_is_reached_where_it_says() {
    assert_eq!(parsed("").unwrap().replica, Replica::default());
    let text = "[replica]\nlisten = \"0.0.0.0:7402\"\nadvertise = \"Gateway-1.internal:7402\"\npeers = [\"10.0.0.8:7402\", \"[::1]:1\"]";
    let expected = Replica {
        listen: Some("0.0.0.0:7402".parse().unwrap()),
        advertise: Some("gateway-1.internal:7402".to_owned()),
        peers: vec!["10.0.0.8:7402".to_owned(), "[::1]:1".to_owned()],
    };
    assert_eq!(parsed(text).unwrap().replica, expected);
}

#[test]
fn mistakes_about_replicas_are_told() {
    for (section, part) in [
        ("listen = \"gateway-1:7402\"", "is not an IP address and a port"),
        ("listen = \"127.0.0.1:7400\"", "must differ from listen.public"),
        ("listen = \"127.0.0.1:7401\"", "must differ from listen.public"),
        ("listen = \"0.0.0.0:7402\"", "replica.advertise is missing"),
        ("advertise = \"10.0.0.7:7402\"", "needs replica.listen"),
        ("listen = \"10.0.0.7:1\"\nadvertise = \"10.0.0.7\"", "is not a host and a port"),
        ("listen = \"10.0.0.7:1\"\nadvertise = \"a@b:1\"", "is not a host and a port"),
        ("listen = \"10.0.0.7:1\"\nadvertise = \"http://b:1\"", "is not a host and a port"),
        ("peers = [\"10.0.0.7:0\"]", "is not a host and a port"),
        ("port = 7", "port"),
    ] {
        let told = parsed(&format!("[replica]\n{section}")).unwrap_err().to_string();
        assert!(told.contains(part), "{section}: {told}");
    }
    let many = vec!["\"10.0.0.7:1\""; MAX_PEERS + 1].join(", ");
    assert!(parsed(&format!("[replica]\npeers = [{many}]")).unwrap_err().to_string().contains("more than 32"));
}

#[test]
fn replicas_differ_in_what_is_not_their_own() {
    let of = |text: &str| parsed(text).unwrap().fingerprint;
    let one = of("data_dir = \"a\"\n[listen]\npublic = \"127.0.0.1:1\"\n[limits]\nsessions = 5\nstreams = 6\n");
    assert_eq!(one, of("# Ours.\n[limits]\nstreams = 6\nsessions = 5\n[replica]\nlisten = \"10.0.0.7:1\"\n"));
    assert_ne!(one, of("[limits]\nstreams = 6\nsessions = 6\n"));
    assert_ne!(one, of(""));
}
