//! Modules in pieces: whole or not there, and gone with all of it.

use serde_json::json;

use super::*;
use crate::audit::OperatorProof;
use crate::secret::Digest;
use crate::store::fixtures::rows;
use crate::store::policy_bindings::{Edit, commit};
use crate::store::sweeper::sweep;
use crate::store::tests::{StandingClock, memory};
use crate::store::{Location, audit};

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);

fn module(content: Vec<u8>) -> NewModule {
    NewModule {
        digest: Digest::of(&content).to_hex(),
        name: "guard".to_owned(),
        version: "1.0.0".to_owned(),
        manifest: json!({ "title": "Guard" }),
        signatures: None,
        content,
    }
}

/// As many bytes, no two pieces of which are alike.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from((at / 251 + at) % 256).unwrap()).collect()
}

async fn kept(store: &Store, content: Vec<u8>) -> UploadedModule {
    match keep(store, module(content), OPERATOR).await.unwrap() {
        Keeping::Kept(kept) => *kept,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_module_comes_back_as_it_was_and_is_gone_with_all_pieces() {
    let store = memory().await;
    let content = bytes(STEP * PIECE_BYTES + 7);
    let there = kept(&store, content.clone()).await;
    assert_eq!((there.bytes, there.uploaded_by), (content.len() as u64, OPERATOR));
    let (known, read) = super::content(&store, &there.digest).await.unwrap().unwrap();
    assert!(read == content && known == there);
    assert_eq!(rows(&store, Table::PolicyModulePieces).await.len(), STEP + 1);
    assert!(store.examine().await.unwrap().is_sound());
    let again = keep(&store, module(content), OPERATOR).await.unwrap();
    assert_eq!(again, Keeping::Known(Box::new(there.clone())));

    assert_eq!(remove(&store, &there.digest, OPERATOR).await.unwrap(), Removal::Removed);
    assert_eq!(remove(&store, &there.digest, OPERATOR).await.unwrap(), Removal::NotFound);
    assert!(rows(&store, Table::PolicyModulePieces).await.is_empty());
    assert_eq!(super::content(&store, &there.digest).await.unwrap(), None);
    let page = audit::list(&store, None, 10).await.unwrap();
    let events: Vec<&str> = page.items.iter().map(|row| row.entry.event.name()).collect();
    assert_eq!(events, ["policy_module.removed", "policy_module.uploaded"]);
}

#[tokio::test]
async fn a_piece_that_is_lost_is_missed() {
    let store = memory().await;
    let there = kept(&store, bytes(STEP * PIECE_BYTES + 7)).await;
    let lose = move |tx: &mut WriteTx<'_>| tx.remove(Table::PolicyModulePieces, &key(&there.digest, 2));
    store.write(lose).await.unwrap();
    assert!(!store.examine().await.unwrap().is_sound());
}

#[tokio::test]
async fn signatures_that_arrive_stay_with_a_second_upload() {
    let store = memory().await;
    let NewModule { digest, name, version, manifest, content, .. } = module(bytes(9));
    let signatures = Some("signed".to_owned());
    let (manifest, bytes) = (manifest.to_string(), content.len() as u64);
    let signed = Arriving { digest, name, version, bytes, manifest, signatures };
    store.write(move |tx| begin(tx, &signed, OPERATOR).map(drop)).await.unwrap();
    let there = keep(&store, module(content), OPERATOR).await.unwrap();
    let Keeping::Kept(there) = there else { panic!("{there:?}") };
    assert_eq!(there.signatures.as_deref(), Some("signed"));
}

#[tokio::test]
async fn signatures_come_later_and_stay() {
    let store = memory().await;
    let there = kept(&store, bytes(9)).await;
    let signed = NewModule { signatures: Some("signed".to_owned()), ..module(bytes(9)) };
    let signed = keep(&store, signed, OPERATOR).await.unwrap();
    let expected = UploadedModule { signatures: Some("signed".to_owned()), ..there };
    assert_eq!(signed, Keeping::Known(Box::new(expected.clone())));
    let again = keep(&store, module(bytes(9)), OPERATOR).await.unwrap();
    assert_eq!(again, Keeping::Known(Box::new(expected)));
}

#[tokio::test]
async fn what_broke_off_is_found_by_nobody_and_forgotten() {
    let clock = StandingClock::at(1_000_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    let NewModule { digest, name, version, manifest, signatures, content } = module(bytes(9));
    let manifest = manifest.to_string();
    let arriving =
        Arriving { digest: digest.clone(), name, version, bytes: content.len() as u64, manifest, signatures };
    let first = digest.clone();
    let broken = move |tx: &mut WriteTx<'_>| {
        begin(tx, &arriving, OPERATOR)?;
        tx.put(Table::PolicyModulePieces, &key(&first, 0), &content)
    };
    store.write(broken.clone()).await.unwrap();
    assert_eq!((get(&store, &digest).await.unwrap(), super::content(&store, &digest).await.unwrap()), (None, None));
    assert!(list(&store, None, 10).await.unwrap().items.is_empty());
    assert!(store.examine().await.unwrap().is_sound());
    store.write(broken.clone()).await.unwrap();
    assert_eq!(remove(&store, &digest, OPERATOR).await.unwrap(), Removal::Removed);
    assert!(rows(&store, Table::PolicyModulePieces).await.is_empty());
    store.write(broken).await.unwrap();
    clock.advance(ARRIVAL);
    assert_eq!(sweep(&store).await, 1);
    assert!(rows(&store, Table::PolicyModulePieces).await.is_empty());

    // One that arrives after a beginning stays.
    let there = kept(&store, bytes(9)).await;
    clock.advance(ARRIVAL);
    sweep(&store).await;
    assert_eq!(get(&store, &digest).await.unwrap(), Some(there));
    assert!(store.examine().await.unwrap().is_sound());
}

#[tokio::test]
async fn there_is_room_for_so_many() {
    let store = memory().await;
    for count in 1..=MAX_MODULES {
        kept(&store, bytes(count)).await;
    }
    assert_eq!(keep(&store, module(bytes(MAX_MODULES + 1)), OPERATOR).await.unwrap(), Keeping::TooMany);
    let huge = NewModule { manifest: json!("x".repeat(MAX_MANIFEST_BYTES)), ..module(bytes(1)) };
    assert_eq!(keep(&store, huge, OPERATOR).await.unwrap(), Keeping::TooLarge);
    let store = memory().await;
    kept(&store, bytes(9)).await;
    let mut all = vec![0; usize::try_from(MAX_BYTES).unwrap() - 8];
    assert_eq!(keep(&store, module(all.clone()), OPERATOR).await.unwrap(), Keeping::Full);
    all.resize(all.len() + 9, 0);
    assert_eq!(keep(&store, module(all), OPERATOR).await.unwrap(), Keeping::Full, "larger than all may be together");
}

#[tokio::test]
async fn what_is_bound_stays_and_what_is_gone_cannot_be_bound() {
    let store = memory().await;
    let there = kept(&store, bytes(9)).await;
    let name = BindingName::parse("guard").unwrap();
    let put = |digest: &str| Edit::Put {
        name: name.clone(),
        definition: json!({ "module": format!("sha256:{digest}") }),
        module: Some(digest.to_owned()),
    };
    let before = policy_bindings::all(&store).await.unwrap();
    let gone = commit(&store, &before, put(&"0".repeat(64)), OPERATOR).await.unwrap();
    assert_eq!(gone, policy_bindings::Committing::NoModule);
    let bound = commit(&store, &before, put(&there.digest), OPERATOR).await.unwrap();
    assert!(matches!(bound, policy_bindings::Committing::Done { .. }), "{bound:?}");
    let before = policy_bindings::all(&store).await.unwrap();
    assert_eq!(remove(&store, &there.digest, OPERATOR).await.unwrap(), Removal::Bound(vec![name.clone()]));
    commit(&store, &before, Edit::Remove { name }, OPERATOR).await.unwrap();
    assert_eq!(remove(&store, &there.digest, OPERATOR).await.unwrap(), Removal::Removed);
}
