//! What is kept in memory of all people: see [`People`].

use std::collections::{BTreeSet, HashMap};

use super::{USERS, get_in};
use crate::identity::user::User;
use crate::identity::{People, Person};
use crate::ids::UserId;
use crate::store::engine::{Bounds, Direction, MAX_RANGE, Table};
use crate::store::{Store, StoreError};

/// Most people who are read in one transaction where it is known who.
const STEP: usize = 500;

/// Everybody with an account. Read in steps: whoever wants to know of later changes follows them from before this began.
pub async fn people(store: &Store) -> Result<People, StoreError> {
    let (mut all, mut bounds) = (People::default(), Bounds::all());
    loop {
        let from = bounds.clone();
        let rows = store.read(move |tx| tx.range(Table::Users, &from, Direction::Forward, MAX_RANGE)).await?;
        for (_, row) in &rows {
            let user = User::try_from(USERS.decode(row)?)?;
            if let Some(person) = Person::of(&user) {
                all = all.with(&user.id, Some(person));
            }
        }
        match rows.last() {
            Some((last, _)) if rows.len() == MAX_RANGE => bounds = Bounds::after(last.clone()),
            _ => return Ok(all),
        }
    }
}

/// The same of some people; nobody is left of those who are gone.
pub async fn people_of(store: &Store, ids: Vec<UserId>) -> Result<Vec<(UserId, Option<Person>)>, StoreError> {
    let mut found = Vec::with_capacity(ids.len());
    for some in ids.chunks(STEP) {
        let some = some.to_vec();
        let read = store.read(move |tx| {
            let person = |id: &UserId| Ok((id.clone(), get_in(tx, id)?.as_ref().and_then(Person::of)));
            some.iter().map(person).collect::<Result<Vec<_>, StoreError>>()
        });
        found.extend(read.await?);
    }
    Ok(found)
}

/// What these people are called, deleted ones included as long as they are remembered.
pub async fn called(store: &Store, ids: BTreeSet<UserId>) -> Result<HashMap<UserId, String>, StoreError> {
    let (ids, mut called): (Vec<UserId>, _) = (ids.into_iter().collect(), HashMap::new());
    for some in ids.chunks(STEP) {
        let some = some.to_vec();
        let read = store.read(move |tx| {
            tx.prefetch(USERS.table, some.iter().map(|id| id.as_str().as_bytes()));
            let person = |id: &UserId| Ok(get_in(tx, id)?.map(|user| (id.clone(), user.called().to_owned())));
            some.iter().map(person).collect::<Result<Vec<_>, StoreError>>()
        });
        called.extend(read.await?.into_iter().flatten());
    }
    Ok(called)
}
