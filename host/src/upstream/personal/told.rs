//! People whose lists have changed, until somebody takes note.

use std::collections::BTreeSet;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::ids::Principal;

/// People who are remembered one by one. Beyond that it is everybody.
const MAX_PEOPLE: usize = 10_000;

/// Whose lists have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    Everybodys,
    Of(BTreeSet<Principal>),
}

impl Whose {
    /// Whether this principal's are among them.
    pub fn has(&self, principal: &Principal) -> bool {
        match self {
            Self::Everybodys => true,
            Self::Of(people) => people.contains(principal),
        }
    }

    fn is_nobodys(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, more: Self) {
        *self = match (mem::take(self), more) {
            (Self::Of(mut people), Self::Of(more)) if people.len() + more.len() <= MAX_PEOPLE => {
                people.extend(more);
                Self::Of(people)
            }
            _ => Self::Everybodys,
        };
    }
}

impl Default for Whose {
    /// Nobody's.
    fn default() -> Self {
        Self::Of(BTreeSet::new())
    }
}

/// Changes that wait to be heard of, by one who hears of them.
#[derive(Debug, Default)]
pub struct Told {
    whose: Mutex<Whose>,
    news: Notify,
}

impl Told {
    /// These people's lists have changed.
    pub fn tell(&self, whose: Whose) {
        self.lock().add(whose);
        self.news.notify_one();
    }

    pub(super) fn tell_of(&self, principal: &Principal) {
        self.tell(Whose::Of([principal.clone()].into()));
    }

    /// Waits for the next changes, all of them that there are.
    pub async fn next(&self) -> Whose {
        loop {
            let whose = mem::take(&mut *self.lock());
            if !whose.is_nobodys() {
                return whose;
            }
            self.news.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Whose> {
        // It is replaced whole.
        self.whose.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KeyName;

    fn key(number: usize) -> Principal {
        Principal::Key(KeyName::parse(&format!("k{number}")).unwrap())
    }

    #[tokio::test]
    async fn what_is_told_before_anybody_listens_is_heard_once() {
        let told = Told::default();
        told.tell_of(&key(1));
        told.tell_of(&key(2));
        told.tell_of(&key(1));
        let whose = told.next().await;
        assert_eq!(whose, Whose::Of([key(1), key(2)].into()));
        assert!(whose.has(&key(2)) && !whose.has(&key(3)));
        let (heard, ()) = tokio::join!(told.next(), async { told.tell_of(&key(3)) });
        assert_eq!(heard, Whose::Of([key(3)].into()));
    }

    #[tokio::test]
    async fn too_many_people_are_everybody() {
        let told = Told::default();
        for number in 0..=MAX_PEOPLE {
            told.tell_of(&key(number));
        }
        assert_eq!(told.next().await, Whose::Everybodys);
        told.tell_of(&key(1));
        assert_eq!(told.next().await, Whose::Of([key(1)].into()));
    }
}
