//! How connections are made: TLS, passwords, and how long one waits for others.

use std::process::Command;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_the_lock_may_be_longer_than_a_statement_and_ends() {
    let server = Server::shared();
    let database = database(server, &server.new_schema());
    let store = open(&database).await;
    store.write(step(1)).await.unwrap();
    let hold = |seconds: u32| {
        let lock = database.lock();
        let statement = format!("BEGIN; SELECT pg_advisory_xact_lock({lock}); SELECT pg_sleep({seconds}); COMMIT");
        let holding = tokio::task::spawn_blocking(move || Server::shared().ask(&statement));
        let held = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted \
            AND (classid::bigint << 32 | objid::bigint) = {lock}"
        );
        (holding, held)
    };

    let (holding, held) = hold(3);
    eventually("the lock is taken", async || (server.ask(&held) == "1").then_some(())).await;
    assert_eq!(store.write(step(2)).await.unwrap(), 2, "longer than the timeout of statements");
    holding.await.unwrap();

    let (holding, held) = hold(8);
    eventually("the lock is taken", async || (server.ask(&held) == "1").then_some(())).await;
    let refused = store.write(step(3)).await;
    assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
    assert!(store.is_reachable());
    assert_eq!(store.read(count).await.unwrap(), 2, "reads do not wait for it");
    holding.await.unwrap();
    assert_eq!(store.write(step(3)).await.unwrap(), 3);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_never_told() {
    let server = Server::shared();
    let right = database(server, &server.new_schema());
    let wrong = Database { password: Some(Plaintext::new("canary-of-a-guess")), ..right.clone() };
    let none = Database { password: None, ..right.clone() };
    let mut texts = vec![format!("{right:?} {right}")];
    for refused in [wrong, none] {
        let error = try_open(&refused).await.unwrap_err();
        assert!(matches!(error, StoreError::OpenDatabase { .. }), "{error:?}");
        texts.push(whole(&error));
    }
    for text in texts {
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("127.0.0.1"), "{text}");
    }
    open(&right).await.close().await;
    assert!(!server.log().contains("canary"), "nor to the server's log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_told_when_it_is_opened() {
    let server = Server::shared();
    let right = database(server, &server.new_schema());
    let nobody = Database { hosts: vec![Host::Tcp { name: "127.0.0.1".to_owned(), port: 1 }], ..right.clone() };
    let nothing = Database { name: "nothing_there".to_owned(), ..right.clone() };
    let no_socket = Database { hosts: vec![Host::Unix { directory: "/nowhere".into(), port: 5432 }], ..right.clone() };
    for (database, told) in [(nobody, "refused"), (nothing, "nothing_there"), (no_socket, "No such file")] {
        let error = try_open(&database).await.unwrap_err();
        let text = whole(&error);
        assert!(matches!(error, StoreError::OpenDatabase { .. }) && text.contains(told), "{text}");
    }
    // The first host that takes writes counts.
    let mut hosts = vec![Host::Tcp { name: "127.0.0.1".to_owned(), port: 1 }];
    hosts.extend(right.hosts.clone());
    open(&Database { hosts, ..right }).await.close().await;
}

/// A server with a certificate for `localhost` by an authority of its own, and the authority's file.
fn with_tls() -> (Server, tempfile::TempDir, PathBuf) {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).into_os_string().into_string().unwrap();
    let openssl = |arguments: &[&str]| {
        let done = Command::new("openssl").args(arguments).output().unwrap();
        assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    std::fs::write(path("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let (authority, authority_key) = (path("authority.pem"), path("authority.key"));
    let own = ["-x509", "-days", "2", "-subj", "/CN=Authority", "-keyout", &authority_key, "-out", &authority];
    openssl(&[&["req"], &new_key[..], &own[..]].concat());
    let (request, key, certificate) = (path("request.pem"), path("server.key"), path("server.crt"));
    openssl(&[&["req"], &new_key[..], &["-subj", "/CN=localhost", "-keyout", &key, "-out", &request]].concat());
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &authority,
        "-CAkey",
        &authority_key,
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        &path("names"),
        "-out",
        &certificate,
    ]);
    let server = Server::start(server::Sync::Off);
    server.kill();
    for file in ["server.key", "server.crt"] {
        let to = server.data().join(file);
        std::fs::copy(files.path().join(file), &to).unwrap();
        server.own(&to);
    }
    let settings = server.data().join("postgresql.auto.conf");
    std::fs::write(&settings, "ssl = on\n").unwrap();
    server.own(&settings);
    server.start_again();
    let authority = files.path().join("authority.pem");
    (server, files, authority)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_as_strict_as_asked_for() {
    let (server, _files, authority) = tokio::task::spawn_blocking(with_tls).await.unwrap();
    let plain = Server::shared();
    let with = |server: &Server, name: &str, tls: Tls| {
        let hosts = vec![Host::Tcp { name: name.to_owned(), port: server.port() }];
        Database { hosts, tls, ..database(server, "tls") }
    };
    let ours = || Authorities::File(authority.clone());
    let other = || Authorities::File(PathBuf::from("/nowhere.pem"));
    for (server, name, tls, told) in [
        (&server, "localhost", Tls::Disable, Ok("f")),
        (&server, "localhost", Tls::Prefer, Ok("t")),
        (&server, "127.0.0.1", Tls::Require, Ok("t")),
        (&server, "127.0.0.1", Tls::VerifyCa(ours()), Ok("t")),
        (&server, "localhost", Tls::VerifyFull(ours()), Ok("t")),
        (&server, "127.0.0.1", Tls::VerifyFull(ours()), Err("certificate not valid for name")),
        (&server, "localhost", Tls::VerifyCa(Authorities::System), Err("UnknownIssuer")),
        (&server, "localhost", Tls::VerifyFull(Authorities::System), Err("UnknownIssuer")),
        (&server, "localhost", Tls::VerifyFull(other()), Err("/nowhere.pem")),
        (plain, "localhost", Tls::Prefer, Ok("f")),
        (plain, "localhost", Tls::Require, Err("does not support TLS")),
        (plain, "localhost", Tls::VerifyFull(ours()), Err("does not support TLS")),
    ] {
        let opened = try_open(&with(server, name, tls.clone())).await;
        match (opened, told) {
            (Ok(store), Ok(encrypted)) => {
                store.read(count).await.unwrap();
                let sessions = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE application_name = 'portcullis'";
                assert_eq!(server.ask(sessions), encrypted, "{name} {tls:?}");
                store.close().await;
                let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'portcullis'";
                eventually("it has let go", async || (server.ask(sessions) == "0").then_some(())).await;
            }
            (Err(error), Err(told)) => assert!(whole(&error).contains(told), "{name} {tls:?}: {}", whole(&error)),
            (opened, told) => panic!("{name} {tls:?}: {opened:?} and not {told:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_wait_for_its_disk_is_told_to() {
    let server = Server::start(server::Sync::Off);
    server.ask("ALTER SYSTEM SET synchronous_commit = off");
    server.ask("SELECT pg_reload_conf()");
    let now_off = async || (server.ask("SHOW synchronous_commit") == "off").then_some(());
    eventually("the server has read it", now_off).await;
    let connector = super::super::Connector::new(&database(&server, "durable"), Default::default()).unwrap();
    let link = connector.link(super::super::Missing::Make).await.unwrap();
    assert_eq!(link.setting("synchronous_commit").await, "on");
    server.ask("ALTER SYSTEM SET synchronous_commit = remote_apply");
    server.ask("SELECT pg_reload_conf()");
    eventually("the server has read it", async || {
        (server.ask("SHOW synchronous_commit") == "remote_apply").then_some(())
    })
    .await;
    let link = connector.link(super::super::Missing::Make).await.unwrap();
    assert_eq!(link.setting("synchronous_commit").await, "remote_apply", "what is stricter stays");
}
