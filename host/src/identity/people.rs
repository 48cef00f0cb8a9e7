//! What of people with an account says what they may use, at one moment. Immutable: a change is a new one, which shares with
//! the one before whatever did not change.
//!
//! A tree of sixteen branches at each node, by the digits of a hash: a change copies one node of each level, so that it costs
//! the logarithm of how many people there are.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::tokens::TokenList;
use super::user::{Login, Status, User};
use crate::ids::UserId;

/// People in one leaf before it becomes a branch.
const LEAF: usize = 8;
/// Digits of a hash.
const MAX_DEPTH: u32 = 16;

/// A person with an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub login: Option<Login>,
    pub groups: TokenList,
    /// Whether anything is opened by the account.
    pub is_active: bool,
}

impl Person {
    /// What is known of a user; nobody is left of a deleted one.
    pub fn of(user: &User) -> Option<Self> {
        let is_there = user.status != Status::Deleted;
        is_there.then(|| Self { login: user.login.clone(), groups: user.groups.clone(), is_active: user.is_active() })
    }
}

/// All people with an account. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct People(Node);

#[derive(Clone, Debug)]
enum Node {
    Leaf(Arc<[(UserId, Person)]>),
    Branch(Arc<[Node; 16]>),
}

impl Default for Node {
    fn default() -> Self {
        Self::Leaf(Arc::default())
    }
}

impl People {
    /// The person with this account.
    pub fn get(&self, id: &UserId) -> Option<&Person> {
        let hash = hash(id);
        let (mut node, mut depth) = (&self.0, 0);
        loop {
            match node {
                Node::Branch(children) => (node, depth) = (&children[digit(hash, depth)], depth + 1),
                Node::Leaf(people) => {
                    return people.iter().find(|(known, _)| known == id).map(|(_, person)| person);
                }
            }
        }
    }

    /// Whether these are the same, and not only alike.
    pub fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Node::Leaf(own), Node::Leaf(other)) => Arc::ptr_eq(own, other) || own.is_empty() && other.is_empty(),
            (Node::Branch(own), Node::Branch(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }

    /// The same with another person under this id, or nobody.
    #[must_use]
    pub fn with(&self, id: &UserId, person: Option<Person>) -> Self {
        Self(self.0.with(hash(id), 0, id, person))
    }
}

impl FromIterator<(UserId, Person)> for People {
    fn from_iter<I: IntoIterator<Item = (UserId, Person)>>(people: I) -> Self {
        people.into_iter().fold(Self::default(), |all, (id, person)| all.with(&id, Some(person)))
    }
}

impl Node {
    fn with(&self, of: u64, depth: u32, id: &UserId, person: Option<Person>) -> Self {
        match self {
            Self::Branch(children) => {
                let mut children = children.as_ref().clone();
                let child = &mut children[digit(of, depth)];
                *child = child.with(of, depth + 1, id, person);
                Self::Branch(Arc::new(children))
            }
            Self::Leaf(people) => {
                let others = people.iter().filter(|(known, _)| known != id).cloned();
                let people: Vec<_> = others.chain(person.map(|person| (id.clone(), person))).collect();
                if people.len() <= LEAF || depth == MAX_DEPTH {
                    return Self::Leaf(people.into());
                }
                let empty = Self::Branch(Arc::default());
                people.into_iter().fold(empty, |node, (id, person)| node.with(hash(&id), depth, &id, Some(person)))
            }
        }
    }
}

/// Ids are ours: nobody chooses them to make a branch long.
fn hash(id: &UserId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

fn digit(hash: u64, depth: u32) -> usize {
    (hash >> (depth * 4) & 0xf) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn id(number: u32) -> UserId {
        UserId::parse(&format!("{number:024x}")).unwrap()
    }

    fn person(group: u8) -> Person {
        let groups = TokenList::parse(vec![format!("g{group}")]).unwrap();
        Person { login: None, groups, is_active: group.is_multiple_of(2) }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn people_are_what_was_said_of_them_last_and_earlier_ones_stay_what_they_were(
            changes in proptest::collection::vec((0_u32..300, proptest::option::weighted(0.8, any::<u8>())), 1..600)
        ) {
            let (mut all, mut model) = (People::default(), BTreeMap::new());
            let mut earlier = None;
            for (at, (number, group)) in changes.iter().enumerate() {
                all = all.with(&id(*number), group.map(person));
                match group {
                    Some(group) => model.insert(*number, *group),
                    None => model.remove(number),
                };
                if at == changes.len() / 2 {
                    earlier = Some((all.clone(), model.clone()));
                }
            }
            let (before, model_before) = earlier.unwrap();
            for number in 0..300 {
                prop_assert_eq!(all.get(&id(number)).cloned(), model.get(&number).copied().map(person));
                prop_assert_eq!(before.get(&id(number)).cloned(), model_before.get(&number).copied().map(person));
            }
        }
    }

    #[test]
    fn a_change_among_many_people_copies_little() {
        let many: People = (0..100_000).map(|number| (id(number), person(0))).collect();
        fn leaves(node: &Node, found: &mut Vec<*const (UserId, Person)>) {
            match node {
                Node::Leaf(people) => found.push(people.as_ptr()),
                Node::Branch(children) => children.iter().for_each(|child| leaves(child, found)),
            }
        }
        let changed = many.with(&id(7), None);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        leaves(&many.0, &mut before);
        leaves(&changed.0, &mut after);
        let others = before.iter().zip(&after).filter(|(one, other)| one != other).count();
        assert!(before.len() == after.len() && others == 1, "{others} of {}", before.len());
        assert!(changed.get(&id(7)).is_none() && changed.get(&id(8)).is_some() && many.get(&id(7)).is_some());
    }
}
