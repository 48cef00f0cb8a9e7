//! Bindings: only what was tried out with all others is written.

use serde_json::json;

use super::*;
use crate::audit::OperatorProof;
use crate::store::tests::memory;

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);

fn name(name: &str) -> BindingName {
    BindingName::parse(name).unwrap()
}

fn put(of: &str, definition: Value) -> Edit {
    Edit::Put { name: name(of), definition, module: None }
}

async fn done(store: &Store, edit: Edit) -> Option<StoredBinding> {
    let before = all(store).await.unwrap();
    match commit(store, &before, edit, OPERATOR).await.unwrap() {
        Committing::Done { binding, .. } => binding.map(|binding| *binding),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn revisions_go_on_over_removals_and_every_change_is_told() {
    let store = memory().await;
    let first = done(&store, put("a", json!({ "priority": 1 }))).await.unwrap();
    let second = done(&store, put("a", json!({ "priority": 2 }))).await.unwrap();
    assert_eq!((first.revision, second.revision, second.created), (1, 2, first.created));
    done(&store, put("b", json!({}))).await;
    assert_eq!(done(&store, Edit::Remove { name: name("a") }).await, None);
    assert_eq!(get(&store, &name("a")).await.unwrap(), None);
    let anew = done(&store, put("a", json!({}))).await.unwrap();
    assert_eq!(anew.revision, 3, "nothing that was seen of the one before is taken for this one");
    let all = all(&store).await.unwrap();
    assert_eq!(all.all.iter().map(|binding| binding.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(all.at, store.read(changes::revision).await.unwrap());
    let page = audit::list(&store, None, 10).await.unwrap();
    let events: Vec<AuditEvent> = page.items.into_iter().map(|row| row.entry.event).collect();
    let changed = AuditEvent::PolicyBindingChanged {
        binding: name("a"),
        revision: 2,
        before: r#"{"priority":1}"#.to_owned(),
        after: r#"{"priority":2}"#.to_owned(),
    };
    assert!(events.contains(&changed), "{events:?}");
    let gone = AuditEvent::PolicyUnbound { binding: name("a"), before: r#"{"priority":2}"#.to_owned() };
    assert!(events.contains(&gone), "{events:?}");
    assert!(store.examine().await.unwrap().is_sound());
}

#[tokio::test]
async fn what_was_tried_with_other_bindings_is_not_written() {
    let store = memory().await;
    let before = all(&store).await.unwrap();
    done(&store, put("a", json!({}))).await;
    assert_eq!(commit(&store, &before, put("b", json!({})), OPERATOR).await.unwrap(), Committing::Moved);
    assert_eq!(commit(&store, &before, Edit::Remove { name: name("a") }, OPERATOR).await.unwrap(), Committing::Moved);
    let large = put("b", json!("x".repeat(MAX_DEFINITION_BYTES)));
    let now = all(&store).await.unwrap();
    assert_eq!(commit(&store, &now, large, OPERATOR).await.unwrap(), Committing::TooLarge);
    assert_eq!(all(&store).await.unwrap(), now);
}

#[tokio::test]
async fn there_is_room_for_so_many() {
    let store = memory().await;
    for count in 0..MAX_BINDINGS {
        done(&store, put(&format!("b{count}"), json!({}))).await;
    }
    let full = all(&store).await.unwrap();
    assert_eq!(commit(&store, &full, put("more", json!({})), OPERATOR).await.unwrap(), Committing::TooMany);
    done(&store, put("b7", json!({ "mode": "off" }))).await;
    done(&store, Edit::Remove { name: name("b8") }).await;
    done(&store, put("more", json!({}))).await;
}
