//! When a key is announced, signs, retires and goes. Pure: the next step follows from the keys, the settings and the time.
//!
//! Invariants: a key signs only after it was published for as long as the settings say, unless there is none that signs; a
//! key that has signed stays published for as long as anything that it signed counts; of announced keys there is one for
//! each algorithm. Whoever takes the steps may be interrupted after any of them: the next one follows from what is there.

use std::time::Duration;

use crate::config::auth::TokenSettings;
use crate::env::Timestamp;
use crate::oauth::MAX_ACCESS_TOKEN_LIFE;
use crate::oauth::signing::{Algorithm, SigningKey, Stage};

/// For how long a key stays published after it has signed: the longest life of a token that it may have signed, and some
/// for gateways that learn late of its successor, and for clocks.
pub const RETAINED: Duration = MAX_ACCESS_TOKEN_LIFE.saturating_add(Duration::from_secs(5 * 60));

/// What of the settings decides about keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What tokens are to be signed with.
    pub algorithm: Algorithm,
    /// How long a key signs.
    pub rotation: Duration,
    /// How long it is published before.
    pub announce: Duration,
}

impl From<&TokenSettings> for Rules {
    fn from(settings: &TokenSettings) -> Self {
        Self { algorithm: settings.algorithm, rotation: settings.key_rotation, announce: settings.key_announce }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a key that may sign from then on.
    Announce { usable_from: Timestamp },
    /// Let this announced key sign.
    Activate { id: String },
    /// Let this key sign no more, and keep it published until then.
    Retire { id: String, until: Timestamp },
    /// Take out this retired key.
    Remove { id: String },
}

/// The step that is due, if any is. That there is a key that signs comes first.
pub fn due(keys: &[SigningKey], rules: &Rules, now: Timestamp) -> Option<Step> {
    let of_ours = |key: &&SigningKey| key.algorithm == rules.algorithm;
    let active = keys.iter().filter(of_ours).find(|key| key.is_active());
    let is_any_active = keys.iter().any(SigningKey::is_active);
    if let Some(ready) = keys.iter().filter(of_ours).find(|key| usable_from(key).is_some_and(|from| from <= now)) {
        return Some(Step::Activate { id: ready.id.clone() });
    }
    if !is_any_active {
        return Some(Step::Announce { usable_from: now });
    }
    let is_over = |key: &&SigningKey| matches!(key.stage, Stage::Retired { until } if until <= now);
    if let Some(over) = keys.iter().find(is_over) {
        return Some(Step::Remove { id: over.id.clone() });
    }
    let is_announced = keys.iter().filter(of_ours).any(|key| usable_from(key).is_some());
    if !is_announced && active.is_none_or(|key| now >= succeeded(key, rules)) {
        return Some(Step::Announce { usable_from: now.after(rules.announce) });
    }
    let others = || keys.iter().filter(|key| key.algorithm != rules.algorithm);
    if let Some(unused) = others().find(|key| usable_from(key).is_some()) {
        // Nobody has seen anything that it signed.
        return Some(Step::Retire { id: unused.id.clone(), until: now });
    }
    if active.is_some()
        && let Some(former) = others().find(|key| key.is_active())
    {
        return Some(Step::Retire { id: former.id.clone(), until: now.after(RETAINED) });
    }
    None
}

/// The key that signs: the active one of the algorithm, or, until there is such a one, the latest of another.
pub fn signing<'a>(keys: &'a [SigningKey], rules: &Rules) -> Option<&'a SigningKey> {
    let active = keys.iter().filter_map(|key| match key.stage {
        Stage::Active { since, .. } => Some(((key.algorithm == rules.algorithm, since), key)),
        Stage::Announced { .. } | Stage::Retired { .. } => None,
    });
    active.max_by_key(|(rank, _)| *rank).map(|(_, key)| key)
}

/// Since when an announced key may sign.
pub fn usable_from(key: &SigningKey) -> Option<Timestamp> {
    match key.stage {
        Stage::Announced { usable_from, .. } => Some(usable_from),
        Stage::Active { .. } | Stage::Retired { .. } => None,
    }
}

/// When the successor of an active key is announced, so that it signs in time.
fn succeeded(key: &SigningKey, rules: &Rules) -> Timestamp {
    match key.stage {
        Stage::Active { since, .. } => since.after(rules.rotation.saturating_sub(rules.announce)),
        Stage::Announced { .. } | Stage::Retired { .. } => Timestamp::from_millis(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::Sealed;

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

    fn rules(algorithm: Algorithm) -> Rules {
        Rules { algorithm, rotation: 90 * DAY, announce: DAY }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + millis)
    }

    fn key(id: &str, algorithm: Algorithm, stage: Stage) -> SigningKey {
        SigningKey { id: id.to_owned(), algorithm, public: String::new(), created: at(0), stage }
    }

    fn announced(usable_from: Timestamp) -> Stage {
        Stage::Announced { private: Sealed::from_bytes(*b"x"), usable_from }
    }

    fn active(since: Timestamp) -> Stage {
        Stage::Active { private: Sealed::from_bytes(*b"x"), since }
    }

    #[test]
    fn the_first_key_signs_at_once() {
        let rules = rules(Algorithm::Rs256);
        assert_eq!(due(&[], &rules, at(0)), Some(Step::Announce { usable_from: at(0) }));
        let first = key("a", Algorithm::Rs256, announced(at(0)));
        assert_eq!(due(&[first], &rules, at(0)), Some(Step::Activate { id: "a".to_owned() }));
        assert_eq!(due(&[key("a", Algorithm::Rs256, active(at(0)))], &rules, at(0)), None);
        // What is left does not sign, and what is announced not yet.
        let left =
            [key("a", Algorithm::Rs256, Stage::Retired { until: at(9) }), key("b", Algorithm::Rs256, announced(at(9)))];
        assert_eq!(due(&left, &rules, at(0)), Some(Step::Announce { usable_from: at(0) }));
    }

    #[test]
    fn a_successor_is_announced_in_time_and_signs_when_its_time_has_come() {
        let rules = rules(Algorithm::EdDsa);
        let first = key("a", Algorithm::EdDsa, active(at(0)));
        let announce = at(0).after(89 * DAY);
        assert_eq!(due(std::slice::from_ref(&first), &rules, announce.before(Duration::from_millis(1))), None);
        let from = at(0).after(90 * DAY);
        assert_eq!(due(std::slice::from_ref(&first), &rules, announce), Some(Step::Announce { usable_from: from }));
        let late = announce.after(30 * DAY);
        let step = Step::Announce { usable_from: late.after(DAY) };
        assert_eq!(due(std::slice::from_ref(&first), &rules, late), Some(step), "late, and announced for as long");
        let both = [first, key("b", Algorithm::EdDsa, announced(from))];
        assert_eq!(due(&both, &rules, from.before(Duration::from_millis(1))), None);
        assert_eq!(due(&both, &rules, from), Some(Step::Activate { id: "b".to_owned() }));
        let retired = [
            key("a", Algorithm::EdDsa, Stage::Retired { until: from.after(RETAINED) }),
            key("b", Algorithm::EdDsa, active(from)),
        ];
        assert_eq!(due(&retired, &rules, from.after(RETAINED).before(Duration::from_millis(1))), None);
        assert_eq!(due(&retired, &rules, from.after(RETAINED)), Some(Step::Remove { id: "a".to_owned() }));
    }

    #[test]
    fn another_algorithm_signs_once_its_key_was_announced_long_enough() {
        let rules = rules(Algorithm::EdDsa);
        let former = || key("a", Algorithm::Rs256, active(at(0)));
        assert_eq!(due(&[former()], &rules, at(5)), Some(Step::Announce { usable_from: at(5).after(DAY) }));
        let both = [former(), key("b", Algorithm::EdDsa, announced(at(5).after(DAY)))];
        assert_eq!(due(&both, &rules, at(6)), None);
        assert_eq!(signing(&both, &rules).unwrap().id, "a");
        assert_eq!(due(&both, &rules, at(5).after(DAY)), Some(Step::Activate { id: "b".to_owned() }));
        let both = [former(), key("b", Algorithm::EdDsa, active(at(7)))];
        assert_eq!(signing(&both, &rules).unwrap().id, "b");
        assert_eq!(due(&both, &rules, at(8)), Some(Step::Retire { id: "a".to_owned(), until: at(8).after(RETAINED) }));
        // Changed back before it signed.
        let both = [former(), key("b", Algorithm::EdDsa, announced(at(5).after(DAY)))];
        let back = super::Rules { algorithm: Algorithm::Rs256, ..rules };
        assert_eq!(due(&both, &back, at(6)), Some(Step::Retire { id: "b".to_owned(), until: at(6) }));
    }

    /// What the store does with a step.
    fn take(keys: &mut Vec<SigningKey>, step: Step, algorithm: Algorithm, now: Timestamp, number: usize) {
        match step {
            Step::Announce { usable_from } => keys.push(key(&format!("k{number}"), algorithm, announced(usable_from))),
            Step::Activate { id } => {
                let at = keys.iter().position(|key| key.id == id).unwrap();
                let taken = keys[at].clone().activated(now).expect("it may sign");
                for former in keys.iter_mut().filter(|key| key.is_active() && key.algorithm == taken.algorithm) {
                    *former = former.clone().retired(now.after(RETAINED));
                }
                keys[at] = taken;
            }
            Step::Retire { id, until } => {
                let key = keys.iter_mut().find(|key| key.id == id).unwrap();
                assert!(!matches!(key.stage, Stage::Retired { .. }));
                *key = key.clone().retired(until);
            }
            Step::Remove { id } => keys.retain(|key| key.id != id),
        }
    }

    proptest! {
        /// Whatever becomes of the settings and the clock, and whoever stops in the middle.
        #[test]
        fn there_is_always_a_key_that_signs_and_nobody_meets_one_that_was_not_published(
            doings in proptest::collection::vec((0_usize..3, 1_u64..200, 1_u64..40, 0_u64..(40 * 24), 1_usize..12), 1..60)
        ) {
            let (mut keys, mut now, mut made) = (Vec::<SigningKey>::new(), at(0), 0);
            // What was signed, by which key and until when it counts.
            let mut signed: Vec<(String, Timestamp)> = Vec::new();
            for (algorithm, rotation, announce, hours, steps) in doings {
                let rules = Rules {
                    algorithm: ALGORITHMS[algorithm],
                    rotation: u32::try_from(rotation).unwrap() * DAY,
                    announce: u32::try_from(announce).unwrap() * HOUR,
                };
                now = now.after(u32::try_from(hours).unwrap() * HOUR);
                for _ in 0..steps {
                    let before = keys.clone();
                    let Some(step) = due(&keys, &rules, now) else { break };
                    if let Step::Announce { usable_from } = &step {
                        let had_signer = before.iter().any(SigningKey::is_active);
                        prop_assert!(!had_signer || *usable_from >= now.after(rules.announce));
                    }
                    take(&mut keys, step, rules.algorithm, now, made);
                    made += 1;
                    prop_assert!(!before.iter().any(SigningKey::is_active) || keys.iter().any(SigningKey::is_active));
                    for algorithm in ALGORITHMS {
                        let of = |is: fn(&SigningKey) -> bool| keys.iter().filter(|key| key.algorithm == algorithm && is(key)).count();
                        prop_assert!(of(SigningKey::is_active) <= 1);
                        prop_assert!(of(|key| usable_from(key).is_some()) <= 1 || of(SigningKey::is_active) == 0);
                    }
                    signed.retain(|(_, until)| now < *until);
                    for (id, _) in &signed {
                        prop_assert!(keys.iter().any(|key| key.id == *id), "{id} is needed and not published");
                    }
                    if let Some(key) = signing(&keys, &rules) {
                        signed.push((key.id.clone(), now.after(MAX_ACCESS_TOKEN_LIFE)));
                    }
                }
                prop_assert!(keys.len() <= crate::oauth::signing::MAX_KEYS);
            }
            // Left alone, it comes to rest.
            let rules = Rules { algorithm: Algorithm::Rs256, rotation: 90 * DAY, announce: DAY };
            let mut steps = 0;
            while let Some(step) = due(&keys, &rules, now) {
                take(&mut keys, step, rules.algorithm, now, made);
                made += 1;
                steps += 1;
                prop_assert!(steps < 40, "{keys:?}");
            }
            prop_assert!(signing(&keys, &rules).is_some());
        }
    }
}
