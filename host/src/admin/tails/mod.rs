//! Trails that somebody follows as they grow: who may, how many, and what is read for them.
//!
//! What follows a trail has a [`Place`] here, of which there are so many in all and so many for each of those who follow. A
//! [`feed`] reads a trail on for all of them at once, and only while somebody follows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::DecisionRecord;
use crate::store::Store;
use crate::store::audit::Found;
use crate::tasks::Tasks;

mod feed;
#[cfg(test)]
mod tests;

pub use feed::{Feed, Followed, News, Tail};

/// Tails in all.
const MAX_TAILS: usize = 64;
/// Tails of one person, or of another way in.
const MAX_OF_ONE: usize = 8;

/// Both trails, for whoever follows them.
pub struct Tails {
    pub decisions: Arc<Feed<DecisionRecord>>,
    pub audit: Arc<Feed<Found>>,
    /// How many tails each has.
    places: Mutex<HashMap<String, usize>>,
    tasks: Tasks,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("{MAX_OF_ONE} tails are open already for you: end one of them")]
    OfOne,
    #[error("as many tails are open as this gateway has, which are {MAX_TAILS}")]
    Here,
}

/// The right to follow a trail. It is given back when this is dropped.
pub struct Place {
    tails: Arc<Tails>,
    whose: String,
}

impl Tails {
    /// Of the trails of `store`; what reads them is one of `tasks`.
    pub fn new(store: &Store, tasks: &Tasks) -> Self {
        Self {
            decisions: Feed::new(store.clone(), tasks.clone()),
            audit: Feed::new(store.clone(), tasks.clone()),
            places: Mutex::default(),
            tasks: tasks.clone(),
        }
    }

    /// Where tails run.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// A place for a tail of whoever this is.
    ///
    /// # Errors
    /// There is none.
    pub fn place(self: &Arc<Self>, whose: String) -> Result<Place, Full> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = places.get(&whose).copied().unwrap_or_default();
        if of_one >= MAX_OF_ONE {
            return Err(Full::OfOne);
        }
        if places.values().sum::<usize>() >= MAX_TAILS {
            return Err(Full::Here);
        }
        places.insert(whose.clone(), of_one + 1);
        drop(places);
        Ok(Place { tails: self.clone(), whose })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.tails.places.lock().unwrap_or_else(PoisonError::into_inner);
        match places.get_mut(&self.whose) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = places.remove(&self.whose),
        }
    }
}
