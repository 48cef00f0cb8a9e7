//! Declarations of upstreams in a real store.

use serde_json::json;

use super::super::users::tests::on_memory;
use super::*;
use crate::audit::OperatorProof;

const ACTOR: Actor = Actor::Operator(OperatorProof::Socket);
const OTHER: Actor = Actor::Operator(OperatorProof::Token);

fn name(name: &str) -> UpstreamName {
    UpstreamName::parse(name).unwrap()
}

fn content(definition: Value) -> Content {
    Content { definition, ..Content::default() }
}

pub(in crate::store) async fn declared(store: &Store, of: &str) -> Declaration {
    let definition = json!({ "url": format!("https://{of}.example/mcp"), "timeout": 1.50 });
    match declare(store, name(of), content(definition), false, ACTOR).await.unwrap() {
        Declaring::Declared(declaration) => *declaration,
        other => panic!("{other:?}"),
    }
}

async fn a_declaration_has_a_name_of_its_own(store: Store) {
    let notes = declared(&store, "notes").await;
    assert_eq!((notes.revision, notes.enabled, notes.created_by), (1, true, ACTOR));
    assert_eq!(get(&store, &name("notes")).await.unwrap(), Some(notes));
    let again = declare(&store, name("notes"), content(json!({})), false, ACTOR);
    assert_eq!(again.await.unwrap(), Declaring::NameTaken);
    let large = content(json!("x".repeat(MAX_DEFINITION_BYTES)));
    assert_eq!(declare(&store, name("large"), large, false, ACTOR).await.unwrap(), Declaring::TooLarge);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn a_name_is_not_free_while_connections_are_left_under_it(store: Store) {
    declared(&store, "notes").await;
    let holder = crate::connection::Holder::Shared;
    connections::tests::connected(&store, &holder, "notes").await;
    connections::tests::connected(&store, &holder, "notes-2").await;
    assert_eq!(withdraw(&store, &name("notes"), None, ACTOR).await.unwrap(), Withdrawal::Withdrawn);
    let again = || declare(&store, name("notes"), content(json!({})), false, ACTOR);
    assert_eq!(again().await.unwrap(), Declaring::StillEnding);
    let whose = Whose::Upstream(name("notes"));
    connections::end_all_of(&store, whose, crate::connection::End::UpstreamGone, ACTOR).await.unwrap();
    assert!(matches!(again().await.unwrap(), Declaring::Declared(_)));
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn of_two_changes_of_one_revision_one_is_made(store: Store) {
    declared(&store, "notes").await;
    let notes = name("notes");
    let disable = Edit { enabled: Some(false), ..Edit::default() };
    let Changing::Changed(changed) = change(&store, &notes, Some(1), disable.clone(), OTHER).await.unwrap() else {
        panic!()
    };
    let changed_at = changed.created.as_millis();
    assert_eq!((changed.revision, changed.enabled, changed.created_by, changed.changed_by), (2, false, ACTOR, OTHER));
    assert_eq!(change(&store, &notes, Some(1), disable.clone(), ACTOR).await.unwrap(), Changing::Conflict(2));
    assert_eq!(change(&store, &notes, None, disable.clone(), ACTOR).await.unwrap(), Changing::Unchanged(changed));
    let created = Some(Timestamp::from_millis(changed_at + 1));
    let of_another = Edit { created, enabled: Some(true), ..Edit::default() };
    let conflict = change(&store, &notes, Some(2), of_another, ACTOR).await.unwrap();
    assert_eq!(conflict, Changing::Conflict(2), "it was declared at another time: it is another one");
    assert_eq!(change(&store, &name("other"), None, disable, ACTOR).await.unwrap(), Changing::NotFound);
    let large = Edit { content: Some(content(json!("x".repeat(MAX_DEFINITION_BYTES)))), ..Edit::default() };
    assert_eq!(change(&store, &notes, None, large, ACTOR).await.unwrap(), Changing::TooLarge);
    assert_eq!(withdraw(&store, &notes, Some(vec![1, 3]), ACTOR).await.unwrap(), Withdrawal::Conflict(2));
    assert_eq!(withdraw(&store, &notes, Some(vec![1, 2]), ACTOR).await.unwrap(), Withdrawal::Withdrawn);
    assert_eq!(withdraw(&store, &notes, None, ACTOR).await.unwrap(), Withdrawal::NotFound);
    let again = declared(&store, "notes").await;
    assert_eq!(again.revision, 3, "what was said of the one before is not said of this one");
    let edit = Edit { enabled: Some(false), ..Edit::default() };
    for seen in 1..=2 {
        let conflict = change(&store, &notes, Some(seen), edit.clone(), ACTOR).await.unwrap();
        assert_eq!(conflict, Changing::Conflict(3));
        assert_eq!(withdraw(&store, &notes, Some(vec![seen]), ACTOR).await.unwrap(), Withdrawal::Conflict(3));
    }
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn each_change_is_announced_and_nothing_else(store: Store) {
    let since = |seen| store.read(move |tx| changes::since(tx, seen));
    let (none, start) = all(&store).await.unwrap();
    assert_eq!(none, []);
    declared(&store, "notes").await;
    declared(&store, "files").await;
    let (names, revision) = all(&store).await.unwrap();
    assert_eq!(names.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["files", "notes"]);
    assert_eq!(since(start).await.unwrap(), changes::News::Changes { changes: vec![Change::Upstreams; 2], revision });
    change(&store, &name("notes"), None, Edit::default(), ACTOR).await.unwrap();
    assert_eq!(since(revision).await.unwrap(), changes::News::Changes { changes: Vec::new(), revision });
    let page = list(&store, None, 1).await.unwrap();
    assert_eq!(page.items[0].name.as_str(), "notes");
    withdraw(&store, &name("notes"), None, ACTOR).await.unwrap();
    assert_eq!(list(&store, page.next, 1).await.unwrap().items[0].name.as_str(), "files");
}

async fn secrets_are_as_many_as_fit_and_sealed_by_a_key_that_is_there(store: Store) {
    let of = |count: usize, bytes: usize| {
        let secrets = (0..count).map(|id| (id.to_string(), Sealed::from_bytes(vec![0; bytes]))).collect();
        Content { definition: json!({}), secrets }
    };
    let notes = |content: Content| declare(&store, name("notes"), content, false, ACTOR);
    assert_eq!(notes(of(MAX_SECRETS + 1, 10)).await.unwrap(), Declaring::TooLarge);
    assert_eq!(notes(of(2, MAX_SEALED_BYTES / 2)).await.unwrap(), Declaring::TooLarge);
    assert_eq!(notes(of(1, 40)).await.unwrap(), Declaring::Stale, "nobody could open it");
    assert_eq!(lost(&store, of(2, 40).secrets).await.unwrap(), BTreeSet::from(["0".to_owned(), "1".to_owned()]));
    declared(&store, "notes").await;
    let edit = Edit { content: Some(Content { definition: json!({ "a": 1 }), ..of(1, 40) }), ..Edit::default() };
    assert_eq!(change(&store, &name("notes"), Some(1), edit, ACTOR).await.unwrap(), Changing::Stale);
    assert_eq!(get(&store, &name("notes")).await.unwrap().unwrap().revision, 1);
}

#[test]
fn declarations_without_secrets_stay_readable() {
    let text = r#"{"name":"notes","definition":"{}","enabled":true,"revision":3,"created_ms":1,"created_by":"system","changed_ms":2,"changed_by":"system"}"#;
    let by = serde_json::to_string(&ActorRecord::from(Actor::System)).unwrap();
    let bytes = [&[1_u8][..], text.replace("\"system\"", &by).as_bytes()].concat();
    let declaration = Declaration::try_from(UPSTREAMS.decode(&bytes).unwrap()).unwrap();
    assert_eq!((declaration.revision, declaration.secrets.len(), declaration.created_by), (3, 0, Actor::System));
}

on_memory!(
    secrets_are_as_many_as_fit_and_sealed_by_a_key_that_is_there,
    a_declaration_has_a_name_of_its_own,
    a_name_is_not_free_while_connections_are_left_under_it,
    of_two_changes_of_one_revision_one_is_made,
    each_change_is_announced_and_nothing_else,
);
