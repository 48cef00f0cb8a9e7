//! Approvals in a real store: who gets what they agreed to, and how often.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::Location;
use super::super::sweeper::sweep;
use super::super::tests::{StandingClock, memory};
use super::super::verify::DiscrepancyKind;
use super::*;
use crate::audit::OperatorProof;
use crate::ids::{BindingName, KeyName, Principal, UpstreamName};

const ACTOR: Actor = Actor::Operator(OperatorProof::Socket);
const HOUR: Duration = Duration::from_secs(3_600);

fn subject(arguments: &str) -> Subject {
    Subject {
        principal: Principal::Key(KeyName::parse("ci").unwrap()),
        client: String::new(),
        operation: "tools/call".to_owned(),
        upstream: UpstreamName::parse("notes").unwrap(),
        item: "delete".to_owned(),
        definition: "ab".repeat(32),
        arguments: Digest::of(arguments.as_bytes()),
        policy: BindingName::parse("confirm").unwrap(),
        code: "destructive".to_owned(),
    }
}

fn wish(memory: Memory) -> Wish {
    let (title, summary) = ("Delete a note".to_owned(), "Note 7 would be gone.".to_owned());
    Wish { title, summary, by: Approver::Operator, ttl: HOUR, memory }
}

fn id(number: usize) -> ApprovalId {
    ApprovalId::parse(&format!("{number:024x}")).unwrap()
}

async fn asked(store: &Store, number: usize, subject: Subject, wish: Wish) -> Approval {
    match request(store, id(number), subject, wish, None).await.unwrap() {
        Request::Found(approval) => *approval,
        Request::TooMany => panic!("there is room"),
    }
}

async fn given(store: &Store, number: usize, memory: Memory) -> Approval {
    let approval = asked(store, number, subject("{}"), wish(memory)).await;
    match decide(store, &approval.id, Verdict::Approve, None, ACTOR).await.unwrap() {
        Decision::Decided(approval) => *approval,
        other => panic!("{other:?}"),
    }
}

fn usage(approval: &Approval, round: u32) -> Use {
    Use { id: approval.id.clone(), bound_to: approval.bound_to, round }
}

async fn clocked() -> (StandingClock, Store) {
    let clock = StandingClock::at(1_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    (clock, store)
}

async fn ids(store: &Store, standing: Option<Standing>, now: Timestamp) -> Vec<ApprovalId> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = list(store, standing, now, after, 2).await.unwrap();
        found.extend(page.items.into_iter().map(|approval| approval.id));
        let Some(next) = page.next else { return found };
        after = Some(next);
    }
}

#[test]
fn a_subject_is_all_of_its_parts() {
    type Change = fn(&mut Subject);
    let changes: [Change; 9] = [
        |subject| subject.principal = Principal::Gateway,
        |subject| subject.client = "c".to_owned(),
        |subject| subject.operation = "prompts/get".to_owned(),
        |subject| subject.upstream = UpstreamName::parse("other").unwrap(),
        |subject| subject.item = "add".to_owned(),
        |subject| subject.definition = String::new(),
        |subject| subject.arguments = Digest::of(b"1"),
        |subject| subject.policy = BindingName::parse("other").unwrap(),
        |subject| subject.code = "other".to_owned(),
    ];
    let mut digests = BTreeSet::from([subject("{}").digest().to_hex()]);
    for change in changes {
        let mut other = subject("{}");
        change(&mut other);
        assert!(digests.insert(other.digest().to_hex()), "{other:?}");
    }
    let moved = Subject { client: "d".to_owned(), item: "elete".to_owned(), ..subject("{}") };
    assert!(digests.insert(moved.digest().to_hex()));
}

#[tokio::test]
async fn asking_twice_for_the_same_is_asking_once() {
    let store = memory().await;
    let first = asked(&store, 1, subject("{}"), wish(Memory::Once)).await;
    assert_eq!(first.standing(Timestamp::from_millis(1_000)), Standing::Pending);
    assert_eq!(asked(&store, 2, subject("{}"), wish(Memory::Once)).await, first);
    assert_eq!(asked(&store, 3, subject(r#"{"id":8}"#), wish(Memory::Once)).await.id, id(3));
    assert_eq!(find(&store, subject("{}").digest()).await.unwrap(), Some(first.clone()));
    assert_eq!(get(&store, &first.id).await.unwrap(), Some(first));
    assert_eq!(find(&store, subject("none").digest()).await.unwrap(), None);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_decision_is_made_once_and_audited() {
    let store = memory().await;
    let asked = asked(&store, 1, subject("{}"), wish(Memory::Once)).await;
    let note = Some("go ahead".to_owned());
    let decided = decide(&store, &asked.id, Verdict::Approve, note.clone(), ACTOR).await.unwrap();
    let Decision::Decided(given) = decided else { panic!("{decided:?}") };
    assert_eq!(given.said().unwrap().note, note);
    for verdict in [Verdict::Approve, Verdict::Deny] {
        let again = decide(&store, &asked.id, verdict, None, ACTOR).await.unwrap();
        assert_eq!(again, Decision::TooLate(TooLate::AlreadyDecided));
    }
    assert_eq!(decide(&store, &id(9), Verdict::Deny, None, ACTOR).await.unwrap(), Decision::NotFound);
    let trail = audit::list(&store, None, 10).await.unwrap();
    assert_eq!(trail.items.len(), 1);
    assert_eq!(trail.items[0].entry.event, AuditEvent::ApprovalGiven(Box::new(given.ruling())));
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn what_was_given_once_is_used_once() {
    let store = memory().await;
    let approval = given(&store, 1, Memory::Once).await;
    let other = Use { bound_to: Digest::of(b"other"), ..usage(&approval, 0) };
    assert_eq!(consume(&store, vec![other]).await.unwrap(), Consumption::Gone);
    assert_eq!(consume(&store, vec![usage(&approval, 0)]).await.unwrap(), Consumption::Consumed);
    assert_eq!(consume(&store, vec![usage(&approval, 0)]).await.unwrap(), Consumption::Gone);
    // Another request for the same is asked for anew.
    assert_eq!(asked(&store, 2, subject("{}"), wish(Memory::Once)).await.id, id(2));
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn of_many_that_are_faster_one_goes() {
    let store = memory().await;
    let approval = given(&store, 1, Memory::Once).await;
    let mut racing = JoinSet::new();
    for _ in 0..64 {
        let (store, uses) = (store.clone(), vec![usage(&approval, 0)]);
        racing.spawn(async move { consume(&store, uses).await.unwrap() });
    }
    let outcomes = racing.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Consumption::Consumed).count(), 1);
}

#[tokio::test]
async fn each_round_of_a_request_comes_once_and_in_order() {
    let store = memory().await;
    let approval = given(&store, 1, Memory::Once).await;
    assert_eq!(consume(&store, vec![usage(&approval, 1)]).await.unwrap(), Consumption::Gone, "there was none before");
    for round in 0..3 {
        assert_eq!(consume(&store, vec![usage(&approval, round)]).await.unwrap(), Consumption::Consumed);
        assert_eq!(consume(&store, vec![usage(&approval, round)]).await.unwrap(), Consumption::Gone, "a replay");
        assert_eq!(consume(&store, vec![usage(&approval, round + 2)]).await.unwrap(), Consumption::Gone);
    }
}

#[tokio::test]
async fn all_that_a_request_needs_is_used_or_nothing() {
    let store = memory().await;
    let one = given(&store, 1, Memory::Once).await;
    let other = asked(&store, 2, subject("other"), wish(Memory::Once)).await;
    let both = || vec![usage(&one, 0), usage(&other, 0)];
    assert_eq!(consume(&store, both()).await.unwrap(), Consumption::Gone, "the other one is not given");
    assert_eq!(find(&store, one.bound_to).await.unwrap().as_ref(), Some(&one));
    decide(&store, &other.id, Verdict::Approve, None, ACTOR).await.unwrap();
    assert_eq!(consume(&store, both()).await.unwrap(), Consumption::Consumed);
}

#[tokio::test]
async fn each_has_its_time() {
    let (clock, store) = clocked().await;
    let now = || clock.env().now();
    let timed = given(&store, 1, Memory::For(HOUR)).await;
    assert_eq!(consume(&store, vec![usage(&timed, 0)]).await.unwrap(), Consumption::Gone, "it is not for one request");
    clock.advance(HOUR - Duration::from_millis(1));
    assert_eq!(timed.standing(now()), Standing::Given);
    clock.advance(Duration::from_millis(1));
    assert_eq!(timed.standing(now()), Standing::Lapsed);

    let once = given(&store, 2, Memory::Once).await;
    clock.advance(HOUR);
    assert_eq!(consume(&store, vec![usage(&once, 0)]).await.unwrap(), Consumption::Gone);

    let late = asked(&store, 3, subject("{}"), wish(Memory::Once)).await;
    clock.advance(HOUR);
    let decided = decide(&store, &late.id, Verdict::Approve, None, ACTOR).await.unwrap();
    assert_eq!(decided, Decision::TooLate(TooLate::Lapsed));

    let refused = asked(&store, 4, subject("{}"), wish(Memory::Once)).await;
    decide(&store, &refused.id, Verdict::Deny, None, ACTOR).await.unwrap();
    let again = asked(&store, 5, subject("{}"), wish(Memory::Once)).await;
    assert_eq!((again.id, again.state.standing(now())), (id(4), Standing::Denied));
    clock.advance(HOUR);
    assert_eq!(asked(&store, 6, subject("{}"), wish(Memory::Once)).await.id, id(6));
}

#[tokio::test]
async fn what_a_policy_wants_without_end_ends() {
    let (clock, store) = clocked().await;
    let forever = Wish { ttl: Duration::MAX, ..wish(Memory::For(Duration::MAX)) };
    let approval = asked(&store, 1, subject("{}"), forever).await;
    assert_eq!(approval.ends(), clock.env().now().after(approval::MAX_TTL));
    let decided = decide(&store, &approval.id, Verdict::Approve, None, ACTOR).await.unwrap();
    let Decision::Decided(given) = decided else { panic!("{decided:?}") };
    assert_eq!(given.ends(), clock.env().now().after(approval::MAX_MEMORY));
}

#[tokio::test]
async fn one_principal_has_a_bounded_number_of_open_questions() {
    let (clock, store) = clocked().await;
    for number in 0..MAX_PENDING {
        asked(&store, number, subject(&number.to_string()), wish(Memory::Once)).await;
    }
    let one_more = |number: usize| request(&store, id(number), subject(&number.to_string()), wish(Memory::Once), None);
    assert_eq!(one_more(MAX_PENDING).await.unwrap(), Request::TooMany);
    let other = Subject { principal: Principal::Gateway, ..subject("{}") };
    asked(&store, 1_000, other, wish(Memory::Once)).await;
    decide(&store, &id(3), Verdict::Deny, None, ACTOR).await.unwrap();
    assert!(matches!(one_more(MAX_PENDING).await.unwrap(), Request::Found(_)), "one was decided");
    assert_eq!(one_more(MAX_PENDING + 1).await.unwrap(), Request::TooMany);
    clock.advance(HOUR);
    assert!(matches!(one_more(MAX_PENDING + 1).await.unwrap(), Request::Found(_)), "the others' time is over");
    assert_eq!(store.verify().await.unwrap(), []);
    // The one that was denied, the other principal's, and the new one.
    assert_eq!(store.read(|tx| STORED.get(tx)).await.unwrap(), Some(3));
}

#[tokio::test]
async fn a_list_has_what_stands_like_this_newest_first() {
    let (clock, store) = clocked().await;
    for number in 1..=7 {
        asked(&store, number, subject(&number.to_string()), wish(Memory::Once)).await;
    }
    decide(&store, &id(2), Verdict::Approve, None, ACTOR).await.unwrap();
    decide(&store, &id(5), Verdict::Approve, None, ACTOR).await.unwrap();
    decide(&store, &id(3), Verdict::Deny, None, ACTOR).await.unwrap();
    let spent = get(&store, &id(5)).await.unwrap().unwrap();
    assert_eq!(consume(&store, vec![usage(&spent, 0)]).await.unwrap(), Consumption::Consumed);
    let now = clock.env().now();
    assert_eq!(ids(&store, Some(Standing::Pending), now).await, [7, 6, 4, 1].map(id));
    assert_eq!(ids(&store, Some(Standing::Given), now).await, [id(2)]);
    assert_eq!(ids(&store, Some(Standing::Used), now).await, [id(5)]);
    assert_eq!(ids(&store, Some(Standing::Denied), now).await, [id(3)]);
    assert_eq!(ids(&store, Some(Standing::Lapsed), now).await, []);
    assert_eq!(ids(&store, None, now).await, [7, 6, 5, 4, 3, 2, 1].map(id));
    clock.advance(HOUR);
    let now = clock.env().now();
    assert_eq!(ids(&store, Some(Standing::Pending), now).await, []);
    assert_eq!(ids(&store, Some(Standing::Lapsed), now).await, [7, 6, 4, 3, 2, 1].map(id));
}

#[tokio::test]
async fn what_has_been_over_for_long_is_forgotten() {
    let (clock, store) = clocked().await;
    for number in 0..MAX_PENDING {
        asked(&store, number, subject(&number.to_string()), wish(Memory::Once)).await;
    }
    for number in 0..10 {
        decide(&store, &id(number), Verdict::Approve, None, ACTOR).await.unwrap();
    }
    clock.advance(HOUR + HOUR - Duration::from_millis(1));
    assert_eq!(sweep(&store).await, 0);
    clock.advance(Duration::from_millis(1));
    assert_eq!(sweep(&store).await, MAX_PENDING - 10);
    clock.advance(7 * 24 * HOUR);
    assert_eq!(sweep(&store).await, 10);
    assert_eq!(store.read(|tx| STORED.get(tx)).await.unwrap(), Some(0));
    assert_eq!(ids(&store, None, clock.env().now()).await, []);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn of_all_with_the_same_subject_one_counts_whatever_their_ids() {
    let (clock, store) = clocked().await;
    for number in [9, 5, 7, 3, 8] {
        let approval = given(&store, number, Memory::Once).await;
        assert_eq!(find(&store, approval.bound_to).await.unwrap(), Some(approval.clone()));
        assert_eq!(consume(&store, vec![usage(&approval, 0)]).await.unwrap(), Consumption::Consumed);
        assert_eq!(find(&store, approval.bound_to).await.unwrap(), None, "it is used");
        assert_eq!(consume(&store, vec![usage(&approval, 1)]).await.unwrap(), Consumption::Consumed);
        assert_eq!(store.verify().await.unwrap(), []);
    }
    for number in [6, 2] {
        assert_eq!(asked(&store, number, subject("{}"), wish(Memory::Once)).await.id, id(number));
        clock.advance(HOUR);
    }
    assert_eq!(
        decide(&store, &id(6), Verdict::Approve, None, ACTOR).await.unwrap(),
        Decision::TooLate(TooLate::Lapsed)
    );
    assert_eq!(ids(&store, None, clock.env().now()).await, [9, 8, 7, 6, 5, 3, 2].map(id), "all are remembered");
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn what_others_choose_the_length_of_is_bounded_and_stays_bound() {
    let store = memory().await;
    let long = || "\u{1}".repeat(1 << 20);
    let large =
        Wish { title: long(), summary: long(), by: Approver::Listed(vec![long(); 1_000]), ..wish(Memory::Once) };
    let far = Subject { item: long(), code: long(), client: long(), operation: long(), ..subject("{}") };
    let digest = far.digest();
    let asked = request(&store, id(1), far.clone(), large, Some(long())).await.unwrap();
    let Request::Found(approval) = asked else { panic!("there is room") };
    assert!(approval.subject.item.len() <= 1_024 && approval.sealed_arguments.is_none());
    assert_eq!(find(&store, digest).await.unwrap(), Some(*approval));
    let other = Subject { item: format!("{}x", far.item), ..far };
    assert_eq!(find(&store, other.digest()).await.unwrap(), None);
}

#[tokio::test]
async fn a_broken_index_is_told_of() {
    let store = memory().await;
    asked(&store, 1, subject("{}"), wish(Memory::Once)).await;
    store.write(|tx| tx.put(Table::ApprovalsByState, b"nonsense", b"gone")).await.unwrap();
    let found = store.verify().await.unwrap();
    let found: Vec<_> = found.iter().map(|discrepancy| (discrepancy.index, discrepancy.kind)).collect();
    assert_eq!(found, [("approvals_by_state", DiscrepancyKind::Stray)]);
}
