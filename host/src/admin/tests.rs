//! Several gateways on one store: what an operator changes on one of them holds on all.

use std::collections::BTreeSet;
use std::time::Duration;

use super::keys::NewKey;
use super::testing::{Replica, Skewed, shared, until};
use crate::audit::{Actor, AuditEvent, OperatorProof, RevocationReason};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::identity::key::{AllowList, Standing};
use crate::identity::user::{DisplayName, Role};
use crate::ids::{KeyName, Owner, UpstreamName, UserId};
use crate::secret::{Digest, Plaintext};
use crate::store::changes::{KEPT, Revision};
use crate::store::keys::{Edit, by_name};
use crate::store::revocations::{self, Whose};
use crate::store::sweeper::sweep;
use crate::store::{Store, audit, pins, users};
use crate::vault::deployment::Named;
use crate::vault::rotation::Shred;

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);
/// In which every gateway has to know of a change.
const SOON: Duration = Duration::from_secs(2);

fn standing(standing: Standing) -> Edit {
    Edit { standing: Some(standing), ..Edit::default() }
}

fn key(name: &str, expires: Option<Timestamp>) -> NewKey {
    let (allow, scopes, groups) = (AllowList::default(), TokenList::default(), TokenList::default());
    NewKey { name: KeyName::parse(name).unwrap(), allow, scopes, groups, owner: None, expires }
}

fn opens(replica: &Replica, secret: &Plaintext) -> bool {
    let control = &replica.control;
    control.snapshot.load().keys.caller(secret, control.env.now()).is_some()
}

async fn three(store: &Store, clocks: [&Skewed; 3]) -> [Replica; 3] {
    let [a, b, c] = clocks;
    [
        Replica::start(store.as_replica(1), a, &[]).await,
        Replica::start(store.as_replica(2), b, &[]).await,
        Replica::start(store.as_replica(3), c, &[]).await,
    ]
}

#[tokio::test]
async fn a_key_that_is_revoked_on_one_is_refused_on_the_others() {
    let (store, clock) = shared().await;
    let replicas = three(&store, [&clock; 3]).await;
    let [a, b, c] = &replicas;
    let (created, secret) = a.control.create_key(key("ci", None), OPERATOR).await.unwrap();
    assert!(opens(a, &secret), "at once on the one that wrote");
    let took = until("the others know the key", async || opens(b, &secret) && opens(c, &secret)).await;
    assert!(took < SOON, "{took:?}");

    b.control.change_key(&created.name, None, standing(Standing::Disabled), OPERATOR).await.unwrap();
    assert!(!opens(b, &secret));
    let took = until("it is refused", async || !opens(a, &secret) && !opens(c, &secret)).await;
    assert!(took < SOON, "{took:?}");

    c.control.change_key(&created.name, None, standing(Standing::Enabled), OPERATOR).await.unwrap();
    until("it opens again", async || replicas.iter().all(|replica| opens(replica, &secret))).await;
    c.control.delete_key(&created.name, None, OPERATOR).await.unwrap();
    let took = until("it is refused", async || replicas.iter().all(|replica| !opens(replica, &secret))).await;
    assert!(took < SOON, "{took:?}");
    for replica in replicas {
        replica.stop().await;
    }
}

#[tokio::test]
async fn both_secrets_of_a_rotated_key_open_everywhere_until_the_earlier_one_ends_everywhere() {
    const OVERLAP: Duration = Duration::from_secs(60);
    let (store, clock) = shared().await;
    let replicas = three(&store, [&clock; 3]).await;
    let [a, b, _] = &replicas;
    let (created, first) = a.control.create_key(key("ci", None), OPERATOR).await.unwrap();
    let rotated = b.control.rotate_key(&created.name, None, OVERLAP, OPERATOR).await.unwrap();
    let second = rotated.secret;
    let all = |secret: &Plaintext| replicas.iter().all(|replica| opens(replica, secret));
    let none = |secret: &Plaintext| !replicas.iter().any(|replica| opens(replica, secret));
    until("all know both", async || all(&first) && all(&second)).await;
    clock.advance(OVERLAP);
    assert!(none(&first) && all(&second), "nobody has to be told that the time is over");
    let earlier = async || by_name(&store, &created.name).await.unwrap().unwrap().earlier;
    assert!(earlier().await.is_some());
    assert_eq!(a.control.forget_earlier_secrets().await.unwrap(), 1);
    assert_eq!((earlier().await, a.control.forget_earlier_secrets().await.unwrap()), (None, 0));

    let third = a.control.rotate_key(&created.name, None, OVERLAP, OPERATOR).await.unwrap().secret;
    until("all know both", async || all(&second) && all(&third)).await;
    b.control.end_earlier_secret(&created.name, None, OPERATOR).await.unwrap();
    let took = until("it is refused", async || none(&second)).await;
    assert!(took < SOON && all(&third), "{took:?}");
    for replica in replicas {
        replica.stop().await;
    }
}

#[tokio::test]
async fn a_key_ends_at_the_same_time_everywhere_however_wrong_the_clocks_are() {
    let (store, clock) = shared().await;
    let minutes = 5 * 60 * 1_000;
    let replicas = three(&store, [&clock, &clock.by(minutes), &clock.by(-minutes)]).await;
    for (at, replica) in replicas.iter().enumerate() {
        let minute = replica.control.env.now().after(Duration::from_secs(60));
        let created = replica.control.create_key(key(&format!("k{at}"), Some(minute)), OPERATOR).await;
        let (_, secret) = created.unwrap();
        until("all know it", async || replicas.iter().all(|replica| opens(replica, &secret))).await;
        clock.advance(Duration::from_millis(59_999));
        assert!(replicas.iter().all(|replica| opens(replica, &secret)), "by the clock of {at}");
        clock.advance(Duration::from_millis(1));
        assert!(replicas.iter().all(|replica| !opens(replica, &secret)), "by the clock of {at}");
    }
    for replica in replicas {
        replica.stop().await;
    }
}

#[tokio::test]
async fn what_was_read_earlier_is_never_published_over_what_is_newer() {
    let (store, clock) = shared().await;
    let replica = Replica::new(store, &clock, SOON, &[]).await;
    let control = &replica.control;
    let (_, secret) = control.create_key(key("ci", None), OPERATOR).await.unwrap();
    control.publish_with_keys(None, Vec::new(), Revision::default(), |_| {});
    assert!(opens(&replica, &secret), "a read from before it was there came late");
    control.publish_with_keys(None, Vec::new(), control.keys_are_of(), |_| {});
    assert!(!opens(&replica, &secret));
    replica.stop().await;
}

#[tokio::test]
async fn who_missed_too_much_reads_everything_again() {
    let (store, clock) = shared().await;
    let a = Replica::start(store.as_replica(1), &clock, &["one"]).await;
    let mut b = Replica::new(store.as_replica(2), &clock, Duration::from_secs(10), &["one"]).await;
    let (created, secret) = a.control.create_key(key("ci", None), OPERATOR).await.unwrap();
    for replica in [&a, &b] {
        replica.configure(&["two"]);
    }
    a.control.reload(OPERATOR).await.unwrap();
    clock.advance(KEPT);
    assert!(sweep(&store).await >= 2, "the announcements are gone");
    a.control.create_key(key("other", None), OPERATOR).await.unwrap();
    b.follow();
    until("the key is known", async || opens(&b, &secret)).await;
    until("the reload is not missed", async || policies(&b) == ["two"]).await;
    a.control.delete_key(&created.name, None, OPERATOR).await.unwrap();
    until("it follows from there", async || !opens(&b, &secret)).await;
    for replica in [a, b] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn pins_are_read_again_where_they_are_known() {
    let (store, clock) = shared().await;
    let (a, b) = (store.as_replica(1), Replica::start(store.as_replica(2), &clock, &[]).await);
    let (notes, other) = (UpstreamName::parse("notes").unwrap(), UpstreamName::parse("other").unwrap());
    let definition = |tool: &str| {
        let text = format!("{{\"name\":\"{tool}\"}}");
        pins::Definition { tool: tool.to_owned(), digest: Digest::of(text.as_bytes()).to_hex(), text }
    };
    for upstream in [&notes, &other] {
        pins::adopt(&a, upstream, vec![definition("add")]).await.unwrap();
    }
    let (known, at) = pins::of(&a, &notes).await.unwrap().unwrap();
    b.control.pinned.put(&notes, known, at);
    pins::accept(&a, &notes, definition("delete"), OPERATOR).await.unwrap();
    pins::accept(&a, &other, definition("delete"), OPERATOR).await.unwrap();
    let took = until("they are read again", async || b.control.pinned.of(&notes).unwrap().len() == 2).await;
    assert!(took < SOON, "{took:?}");
    assert_eq!(b.control.pinned.upstreams(), BTreeSet::from([notes]), "nobody has heard of the other one here");
    b.stop().await;
}

#[tokio::test]
async fn who_follows_what_is_published_is_told_of_changed_people() {
    let (store, clock) = shared().await;
    let replica = Replica::start(store.as_replica(1), &clock, &[]).await;
    let mut published = replica.control.published.subscribe();
    let new = users::NewUser {
        id: UserId::generate(&clock.env()),
        login: None,
        name: DisplayName::of("Ada"),
        email: None,
        role: Role::User,
        groups: TokenList::default(),
        invited: false,
        password: None,
    };
    users::create(&store.as_replica(2), new, OPERATOR).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), published.changed()).await.expect("it is told").unwrap();
    replica.stop().await;
}

fn policies(replica: &Replica) -> Vec<String> {
    let snapshot = replica.control.snapshot.load();
    snapshot.policies.bindings().iter().map(|bound| bound.name().to_string()).collect()
}

async fn events(store: &Store, name: &str) -> usize {
    let rows = audit::list(store, None, 200).await.unwrap().items;
    rows.iter().filter(|row| row.entry.event.name() == name).count()
}

#[tokio::test]
async fn what_an_operator_does_about_policies_is_done_everywhere() {
    let (store, clock) = shared().await;
    let a = Replica::start(store.as_replica(1), &clock, &["one"]).await;
    let b = Replica::start(store.as_replica(2), &clock, &["one"]).await;
    for replica in [&a, &b] {
        replica.configure(&["two"]);
    }
    // Not what an operator asked for: the others look at their own files.
    a.control.reload(Actor::System).await.unwrap();
    assert_eq!((policies(&a), policies(&b)), (vec!["two".to_owned()], vec!["one".to_owned()]));
    a.control.reload(OPERATOR).await.unwrap();
    until("the other one reads its files", async || policies(&b) == ["two"]).await;
    assert_eq!(a.control.snapshot.load().policies.digest(), b.control.snapshot.load().policies.digest());

    // A third one knows only what is in its files now.
    let c = Replica::start(store.as_replica(3), &clock, &["two"]).await;
    b.control.roll_back(None, OPERATOR).await.unwrap();
    assert_eq!(policies(&b), ["one"]);
    until("the first one goes back too", async || policies(&a) == ["one"]).await;
    until("the third one says that it cannot", async || events(&store, "policies.not_followed").await == 1).await;
    assert_eq!(policies(&c), ["two"]);

    // Who goes back to what runs already has nothing to do, and who did it first does it once.
    let before = events(&store, "policies.rolled_back").await;
    assert_eq!(before, 2);
    a.control.reload(OPERATOR).await.unwrap();
    until("the others read their files", async || policies(&b) == ["two"]).await;
    assert_eq!(events(&store, "policies.rolled_back").await, before);
    for replica in [a, b, c] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn a_reload_that_cannot_be_followed_is_told_and_changes_nothing() {
    let (store, clock) = shared().await;
    let a = Replica::start(store.as_replica(1), &clock, &["one"]).await;
    let b = Replica::start(store.as_replica(2), &clock, &["one"]).await;
    b.configure(&["not a name"]);
    a.control.reload(OPERATOR).await.unwrap();
    until("it is told", async || events(&store, "policies.not_followed").await == 1).await;
    assert_eq!(policies(&b), ["one"]);
    let rows = audit::list(&store, None, 1).await.unwrap().items;
    assert!(
        matches!(&rows[0].entry.event, AuditEvent::PoliciesNotFollowed { reason } if reason.contains("not a name"))
    );
    for replica in [a, b] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn what_waits_for_the_next_start_waits_whatever_is_reloaded_meanwhile() {
    let (store, clock) = shared().await;
    let replica = Replica::new(store, &clock, SOON, &[]).await;
    let awaits = async |more: &str| {
        replica.configure_with(more);
        replica.control.reload(OPERATOR).await.unwrap();
        replica.control.awaits_restart(&replica.control.config.load())
    };
    assert!(
        !awaits("[keys.ann]\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n").await
    );
    for more in
        ["[limits]\nlist_page = 7\n", "[replica]\nlisten = \"127.0.0.1:7999\"\n", "[policy]\nmax_components = 7\n"]
    {
        assert!(awaits(more).await, "{more}");
        assert!(awaits(more).await, "the second time as well: {more}");
    }
    assert!(!awaits("").await, "as it runs");
    replica.stop().await;
}

/// Whose grants were revoked.
async fn revoked(store: &Store) -> Vec<String> {
    let page = revocations::watermarks(store, None).await.unwrap();
    page.items.iter().map(|watermark| watermark.whose.to_string()).collect()
}

#[tokio::test]
async fn what_was_granted_to_a_key_or_a_client_of_the_file_ends_with_it() {
    let key =
        |name: &str, secret: &str| format!("[keys.{name}]\nsha256 = \"{}\"\n", Digest::of(secret.as_bytes()).to_hex());
    let client =
        |id: &str| format!("[auth.clients.known.{id}]\nname = \"{id}\"\nredirect_uris = [\"http://127.0.0.1/{id}\"]\n");
    let first = [key("ann", "a"), key("bob", "b"), key("cat", "c"), client("editor"), client("shell")].concat();
    for (what, then, expected) in [
        ("nothing changes", first.clone(), vec![]),
        ("another secret", first.replace(&key("ann", "a"), &key("ann", "x")), vec!["principal:key:ann"]),
        ("taken out", first.replace(&key("bob", "b"), ""), vec!["principal:key:bob"]),
        (
            "disabled",
            first.replace(&key("cat", "c"), &format!("{}disabled = true\n", key("cat", "c"))),
            vec!["principal:key:cat"],
        ),
        ("more of it", format!("{first}{}", key("eve", "e")), vec![]),
        ("a client less", first.replace(&client("shell"), ""), vec!["client:shell"]),
    ] {
        let (store, clock) = shared().await;
        let replica = Replica::new(store.clone(), &clock, SOON, &[]).await;
        replica.configure_with(&first);
        replica.control.reload(OPERATOR).await.unwrap();
        assert_eq!(revoked(&store).await, Vec::<String>::new(), "all of it is new");
        replica.configure_with(&then);
        replica.control.reload(OPERATOR).await.unwrap();
        assert_eq!(revoked(&store).await, expected, "{what}");
        replica.stop().await;
    }
}

#[tokio::test]
async fn what_changes_in_the_file_while_no_gateway_runs_is_noticed_at_the_start() {
    let key =
        |name: &str, secret: &str| format!("[keys.{name}]\nsha256 = \"{}\"\n", Digest::of(secret.as_bytes()).to_hex());
    let first = [key("ann", "a"), key("bob", "b"), key("cat", "c")].concat();
    let then = [key("ann", "x"), key("cat", "c"), key("eve", "e")].concat();
    let (store, clock) = shared().await;
    let run = async |more: &str, reload: Option<&str>| {
        let replica = Replica::configured(store.clone(), &clock, SOON, (&[], more)).await;
        if let Some(more) = reload {
            replica.configure_with(more);
            replica.control.reload(OPERATOR).await.unwrap();
        }
        replica.stop().await;
        revoked(&store).await
    };
    assert_eq!(run(&first, None).await, [""; 0]);
    assert_eq!(run(&first, None).await, [""; 0], "nothing has changed");
    let mut over = run(&then, None).await;
    over.sort();
    assert_eq!(over, ["principal:key:ann", "principal:key:bob"]);
    // What a reload has ended is not ended once more.
    let cat = Whose::parse("principal:key:cat").unwrap();
    run(&then, Some(&key("ann", "x"))).await;
    let before = revocations::watermark(&store, cat.clone()).await.unwrap().expect("it is gone");
    clock.advance(Duration::from_secs(1));
    run(&key("ann", "x"), None).await;
    assert_eq!(revocations::watermark(&store, cat).await.unwrap(), Some(before));
}

#[tokio::test]
async fn a_key_of_the_file_does_not_take_over_what_was_granted_to_one_of_the_store() {
    let (store, clock) = shared().await;
    let replica = Replica::new(store.clone(), &clock, SOON, &[]).await;
    replica.control.create_key(key("ci", None), OPERATOR).await.unwrap();
    let taken = format!("[keys.ci]\nsha256 = \"{}\"\n", Digest::of(b"another").to_hex());
    replica.configure_with(&taken);
    replica.control.reload(OPERATOR).await.unwrap();
    assert_eq!(revoked(&store).await, ["principal:key:ci"]);
    let first = revocations::watermark(&store, Whose::parse("principal:key:ci").unwrap()).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(1));
    // And back: what was granted to the one of the file is not that of the store.
    replica.configure_with("");
    replica.control.reload(OPERATOR).await.unwrap();
    let second = revocations::watermark(&store, first.whose).await.unwrap().unwrap();
    assert!(second.not_before > first.not_before);
    replica.stop().await;
}

#[tokio::test]
async fn what_is_shredded_on_one_is_forgotten_on_the_others() {
    let (store, clock) = shared().await;
    let [a, b, c] = three(&store, [&clock; 3]).await;
    let [owner, other] = ["key:ci", "key:cd"].map(|owner| Owner::parse(owner).unwrap());
    for owner in [&owner, &other] {
        assert!(a.control.vault.put(owner, "token", b"hunter2").await.unwrap());
        assert!(matches!(b.control.vault.get(owner, "token").await.unwrap(), Named::Secret(_)));
    }
    let cached = async |replica: &Replica| replica.control.vault.status().await.unwrap().cached;
    let before = cached(&b).await;
    let opens =
        async |replica: &Replica| matches!(replica.control.vault.get(&owner, "token").await.unwrap(), Named::Secret(_));
    assert!(opens(&b).await && opens(&c).await, "from now on its data key is in memory there");
    assert_eq!(a.control.shred(&owner, OPERATOR).await.unwrap(), Shred::Shredded);
    assert!(!opens(&a).await, "at once on the one that destroyed it");
    let took = until("it opens nowhere", async || !opens(&b).await && !opens(&c).await).await;
    assert!(took < SOON, "{took:?}");
    assert_eq!(cached(&b).await, before - 1, "the other one's stays in memory");
}

#[tokio::test]
async fn what_was_granted_in_the_name_of_a_key_of_the_file_goes_with_it() {
    let (store, clock) = shared().await;
    let replica = Replica::start(store.clone(), &clock, &[]).await;
    let with = async |keys: &[(&str, &str)]| {
        let key = |(name, secret): &(&str, &str)| {
            format!("[keys.{name}]\nsha256 = \"{}\"\n", Plaintext::new(*secret).digest().to_hex())
        };
        replica.configure_with(&keys.iter().map(key).collect::<String>());
        replica.control.reload(OPERATOR).await.unwrap();
    };
    let revoked = async |name: &str| {
        let whose = Whose::Principal(crate::ids::Principal::Key(KeyName::parse(name).unwrap()));
        revocations::watermark(&store, whose).await.unwrap().map(|watermark| watermark.reason)
    };
    with(&[("ci", "pk_1"), ("laptop", "pk_2"), ("other", "pk_3")]).await;
    with(&[("ci", "pk_9"), ("other", "pk_3")]).await;
    for (name, expected) in [("ci", true), ("laptop", true), ("other", false)] {
        assert_eq!(revoked(name).await, expected.then_some(RevocationReason::PrincipalGone), "{name}");
    }
    replica.stop().await;
}

#[test]
fn what_counts_from_the_next_start_is_told_alike() {
    let page = include_str!("../../../docs/configuration.md").replace('\n', " ");
    let (_, after) = page.split_once("comes into force as a whole or not at all. Changes of ").unwrap();
    let (told, _) = after.split_once(" take effect at the next start").unwrap();
    let mut told: Vec<&str> = told.split('`').skip(1).step_by(2).collect();
    let mut known = super::reload::AT_THE_NEXT_START;
    told.sort_unstable();
    known.sort_unstable();
    assert_eq!(told, known);
}
