//! Whatever happens in whatever order, nobody is lent what they may not have.

use proptest::prelude::*;

use super::*;
use crate::connection::End;
use crate::store::changes::{News, Revision};
use crate::store::follower::Subscriber as _;

const PLACES: usize = 4;

fn here(number: usize) -> Place {
    let user = principal_of(&user()).to_string();
    [ci(), at("key:ci", "files"), at(&user, "notes"), at("shared", "notes")][number % PLACES].clone()
}

#[derive(Clone, Debug)]
enum Step {
    Connect {
        of: usize,
        minutes: Option<u64>,
        is_renewable: bool,
    },
    Disconnect {
        of: usize,
    },
    /// Without the keeper, as another gateway does it: it is told of that later.
    DisconnectElsewhere {
        of: usize,
    },
    Grant {
        of: usize,
        access: usize,
    },
    Pass {
        minutes: u64,
    },
    /// The next refresh fails like this.
    Fail {
        how: usize,
    },
    Mark {
        of: usize,
    },
    Lend {
        of: usize,
    },
    Refuse {
        of: usize,
    },
    Follow,
    /// All at once, with a change of access in the middle.
    Race {
        of: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let of = || 0..PLACES;
    prop_oneof![
        3 => (of(), prop::option::of(0..90_u64), any::<bool>())
            .prop_map(|(of, minutes, is_renewable)| Step::Connect { of, minutes, is_renewable }),
        1 => of().prop_map(|of| Step::Disconnect { of }),
        1 => of().prop_map(|of| Step::DisconnectElsewhere { of }),
        3 => (of(), 0..4_usize).prop_map(|(of, access)| Step::Grant { of, access }),
        2 => (0..70_u64).prop_map(|minutes| Step::Pass { minutes }),
        1 => (0..3_usize).prop_map(|how| Step::Fail { how }),
        1 => of().prop_map(|of| Step::Mark { of }),
        6 => of().prop_map(|of| Step::Lend { of }),
        2 => of().prop_map(|of| Step::Refuse { of }),
        2 => Just(Step::Follow),
        2 => of().prop_map(|of| Step::Race { of }),
    ]
}

struct Model {
    scene: Scene,
    seen: Revision,
    lent: HashMap<Place, Arc<Lent>>,
}

impl Model {
    fn is_granted(&self, place: &Place) -> bool {
        self.scene.access.lock().unwrap().get(place).copied().unwrap_or(Access::Granted).is_granted()
    }

    /// What was lent is for this place, whose holder may have it, and works by what is stored.
    async fn check(&mut self, place: &Place, lent: Result<Arc<Lent>, Withheld>, was_followed: bool) {
        let Ok(lent) = lent else {
            assert_ne!(lent.unwrap_err(), Withheld::Fault, "nothing has failed");
            return;
        };
        assert!(self.is_granted(place), "{place} may have it");
        assert_eq!(&lent.place, place);
        // What was ended elsewhere is felt once that was told of.
        if was_followed {
            let stored = self.scene.get(place).await.expect("it is there");
            assert_eq!((&stored.id, stored.revision), (&lent.connection, lent.revision), "it is the newest");
            assert_eq!(stored.state, State::Connected);
            assert!(stored.tokens().unwrap().expires.is_none_or(|expires| self.scene.now() < expires));
        }
        self.lent.insert(place.clone(), lent);
    }

    async fn is_followed(&self) -> bool {
        self.scene.store.read(changes::revision).await.unwrap() == self.seen
    }

    async fn follow(&mut self) {
        let seen = self.seen;
        let news = self.scene.store.read(move |tx| changes::since(tx, seen)).await.unwrap();
        self.scene.keeper.take(&news).await.unwrap();
        let (News::Changes { revision, .. } | News::Everything { revision }) = news;
        self.seen = revision;
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Connect { of, minutes, is_renewable } => {
                let life = minutes.map(|minutes| Duration::from_secs(60 * minutes));
                self.scene.connect(&here(of), "own", is_renewable.then_some("r"), life).await;
            }
            Step::Disconnect { of } => {
                self.scene.keeper.disconnect(&here(of), End::Disconnected, Actor::System).await.unwrap();
                let lent = self.scene.lend(&here(of)).await;
                assert_eq!(lent, Err(not_connected()), "it is gone at once");
            }
            Step::DisconnectElsewhere { of } => {
                let why = End::Disconnected;
                connections::disconnect(&self.scene.store, &here(of), why, Actor::System).await.unwrap();
            }
            Step::Grant { of, access } => {
                let all = [Access::Granted, Access::Withdrawn, Access::HolderGone, Access::UpstreamGone];
                self.scene.set_access(&here(of), all[access]);
            }
            Step::Pass { minutes } => self.scene.forward(Duration::from_secs(60 * minutes)),
            Step::Fail { how } => self.scene.issuer.will(Err([
                NotIssued::Refused(Reason::RefreshRefused),
                NotIssued::Refused(Reason::ClientForgotten),
                later(),
            ][how]
                .clone())),
            Step::Mark { of } => {
                if let Some(there) = self.scene.get(&here(of)).await {
                    let trouble = connections::Trouble::Reauth(Reason::Unauthorized);
                    connections::mark(&self.scene.store, &here(of), there.revision, trouble, Actor::System)
                        .await
                        .unwrap();
                }
            }
            Step::Lend { of } => {
                let was_followed = self.is_followed().await;
                let lent = self.scene.keeper.lend(&wanted(&here(of))).await;
                self.check(&here(of), lent, was_followed).await;
            }
            Step::Refuse { of } => {
                let Some(old) = self.lent.get(&here(of)).cloned() else { return };
                let wish = wanted(&here(of));
                let was_followed = self.is_followed().await;
                let lent = self.scene.keeper.rejected(&wish, &old, &Rejected::Unauthorized).await;
                if let Ok(lent) = &lent {
                    assert_ne!((&lent.connection, lent.revision), (&old.connection, old.revision));
                }
                self.check(&here(of), lent, was_followed).await;
            }
            Step::Follow => self.follow().await,
            Step::Race { of } => self.race(&here(of)).await,
        }
    }

    /// Access goes while many are at it: whoever begins after that is lent nothing, whatever the others are.
    async fn race(&self, place: &Place) {
        let wish = wanted(place);
        let many = futures_util::future::join_all((0..4).map(|_| self.scene.keeper.lend(&wish)));
        let (early, late) = tokio::join!(many, async {
            tokio::task::yield_now().await;
            self.scene.set_access(place, Access::Withdrawn);
            self.scene.lend(place).await
        });
        assert_eq!(late, Err(not_connected()));
        for lent in early.into_iter().flatten() {
            assert_eq!(&lent.place, place);
        }
    }
}

async fn holds(steps: Vec<Step>) {
    let mut model = Model { scene: Scene::new().await, seen: Revision::default(), lent: HashMap::new() };
    for step in steps {
        model.take(step).await;
    }
    for number in 0..PLACES {
        model.follow().await;
        let lent = model.scene.keeper.lend(&wanted(&here(number))).await;
        model.check(&here(number), lent, true).await;
    }
    assert_eq!(model.scene.store.verify().await.unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_lent_what_they_may_not_have(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(holds(steps));
    }
}
