//! Grants as operators look for them: by client, principal, kind of principal and state, with the names of both.

use std::collections::{BTreeSet, HashMap};

use super::super::clients::CLIENTS;
use super::super::engine::Table;
use super::super::revocations::{Coverage, PrincipalKind};
use super::super::table::{Cursor, Page};
use super::super::users::USERS;
use super::super::{ReadTx, Store, StoreError, clients, users};
use super::record::{GrantRecord, prefix};
use super::{GRANTS, Listed, Of, listed_in};
use crate::ids::{ClientId, Principal, UserId};
use crate::oauth::grant::Gone;

/// Which grants are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub of: Of,
    /// Besides `of`, only this client's.
    pub client: Option<ClientId>,
    pub kind: Option<PrincipalKind>,
    pub state: Option<State>,
}

/// How a grant stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It counts.
    Active,
    /// It, or whatever it rests on, was revoked, or the store was restored since.
    Revoked,
    Expired,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Active, Self::Revoked, Self::Expired];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl Listed {
    pub const fn state(&self) -> State {
        match self.end {
            None => State::Active,
            Some(Gone::Expired) => State::Expired,
            Some(Gone::Revoked | Gone::Restored | Gone::Client | Gone::Unknown) => State::Revoked,
        }
    }
}

/// What clients and users of some grants are called. Who is not there has no name, or is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub clients: HashMap<ClientId, String>,
    pub users: HashMap<UserId, String>,
}

impl Wanted {
    /// Whether a record may be one that is looked for.
    fn keeps(&self, record: &GrantRecord) -> bool {
        let kind = |wanted: PrincipalKind| {
            Principal::parse(&record.principal).as_ref().and_then(PrincipalKind::of) == Some(wanted)
        };
        self.kind.is_none_or(kind) && self.client.as_ref().is_none_or(|client| record.client == client.as_str())
    }
}

/// A page of grants, newest first. It looks at a bounded number of them: it may be short, or empty, and still have a next
/// one.
pub async fn search(
    store: &Store,
    wanted: Wanted,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<Listed>, StoreError> {
    store
        .read(move |tx| {
            let (after, keep) = (after.as_ref(), |record: &GrantRecord| wanted.keeps(record));
            let of = |table, owner: &str| (table, prefix(owner));
            let index = match &wanted.of {
                Of::All => None,
                Of::Principal(principal) => Some(of(Table::GrantsByPrincipal, &principal.to_string())),
                Of::Client(client) => Some(of(Table::GrantsByClient, client.as_str())),
            };
            let Page { items, next } = match &index {
                None => GRANTS.newest_first(tx, after, limit, keep)?,
                Some((table, owner)) => GRANTS.newest_first_within(tx, (*table, owner), after, limit, keep)?,
            };
            let (epoch, mut coverage) = (super::super::epoch(tx)?, Coverage::default());
            let listed = |record| listed_in(tx, record, epoch, &mut coverage);
            let mut items = items.into_iter().map(listed).collect::<Result<Vec<_>, _>>()?;
            items.retain(|listed| wanted.state.is_none_or(|state| listed.state() == state));
            Ok(Page { items, next })
        })
        .await
}

/// The names that belong to a page of grants: those of registered clients and of people.
pub async fn names(store: &Store, listed: &[Listed]) -> Result<Names, StoreError> {
    let clients: BTreeSet<ClientId> = listed.iter().map(|listed| listed.grant.client.clone()).collect();
    let users: BTreeSet<UserId> = listed
        .iter()
        .filter_map(|listed| match &listed.grant.principal {
            Principal::User(id) => Some(id.clone()),
            _ => None,
        })
        .collect();
    store.read(move |tx| names_in(tx, &clients, &users)).await
}

fn names_in(tx: &mut ReadTx<'_>, clients: &BTreeSet<ClientId>, users: &BTreeSet<UserId>) -> Result<Names, StoreError> {
    let mut names = Names::default();
    let registered = || clients.iter().filter(|client| !client.is_address());
    tx.prefetch(CLIENTS.records.table, registered().map(|client| client.as_str().as_bytes()));
    tx.prefetch(USERS.table, users.iter().map(|user| user.as_str().as_bytes()));
    for client in registered() {
        if let Some(name) = clients::get_in(tx, client)?.and_then(|known| known.metadata.name) {
            names.clients.insert(client.clone(), name);
        }
    }
    for user in users {
        if let Some(known) = users::get_in(tx, user)? {
            names.users.insert(user.clone(), known.name.to_string());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::super::oauth_testing::*;
    use super::super::{NewGrant, revoke};
    use super::*;
    use crate::audit::{Actor, Party, RevocationReason};
    use crate::ids::GuestId;
    use crate::store::clients as stored_clients;
    use crate::store::revocations::{Whose, revoke_all};

    const ALL: Wanted = Wanted { of: Of::All, client: None, kind: None, state: None };

    async fn found(store: &Store, wanted: Wanted) -> Vec<String> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = search(store, wanted.clone(), after, 2).await.unwrap();
            found.extend(page.items.iter().map(|listed| listed.grant.id.to_string()));
            let Some(next) = page.next else { return found };
            after = Some(next);
        }
    }

    fn ids(numbers: &[u64]) -> Vec<String> {
        numbers.iter().map(|number| grant_id(*number).to_string()).collect()
    }

    #[tokio::test]
    async fn grants_are_found_by_client_principal_kind_and_state() {
        for place in engines().await {
            let store = &place.store;
            let guest = Principal::Guest(GuestId::parse(&"a".repeat(24)).unwrap());
            let ci = |app| party("ci", app);
            for (number, of) in [
                ci("app"),
                party("other", "app"),
                ci("second"),
                Party { principal: guest.clone(), client: client("app") },
                ci("app"),
            ]
            .into_iter()
            .enumerate()
            {
                let number = number as u64 + 1;
                issue(store, number, &format!("t{number}"), of).await;
            }
            let by = |of: Of| Wanted { of, ..ALL };
            assert_eq!(found(store, ALL).await, ids(&[5, 4, 3, 2, 1]));
            assert_eq!(found(store, by(Of::Client(client("app")))).await, ids(&[5, 4, 2, 1]));
            assert_eq!(found(store, by(Of::Principal(key("ci")))).await, ids(&[5, 3, 1]));
            let both = Wanted { client: Some(client("app")), ..by(Of::Principal(key("ci"))) };
            assert_eq!(found(store, both).await, ids(&[5, 1]));
            let of_kind = |kind| Wanted { kind: Some(kind), ..ALL };
            assert_eq!(found(store, of_kind(PrincipalKind::Guest)).await, ids(&[4]));
            assert_eq!(found(store, of_kind(PrincipalKind::Key)).await, ids(&[5, 3, 2, 1]));
            assert_eq!(found(store, of_kind(PrincipalKind::User)).await, ids(&[]));

            revoke(store, &grant_id(5), RevocationReason::Operator, OPERATOR).await.unwrap();
            revoke_all(store, Whose::Principal(guest), RevocationReason::Operator, OPERATOR).await.unwrap();
            let in_state = |state| Wanted { state: Some(state), ..ALL };
            assert_eq!(found(store, in_state(State::Revoked)).await, ids(&[5, 4]));
            assert_eq!(found(store, in_state(State::Active)).await, ids(&[3, 2, 1]));
            let short = NewGrant { life: DAY, idle: DAY, ..new_grant(6, "t6") };
            issue_as(store, short, ci("app"), None).await;
            place.forward(DAY);
            assert_eq!(found(store, in_state(State::Expired)).await, ids(&[6]));
            assert_eq!(found(store, in_state(State::Active)).await, ids(&[3, 2, 1]));
        }
    }

    #[tokio::test]
    async fn names_are_those_of_registered_clients_and_of_people() {
        let place = Place::memory().await;
        let store = &place.store;
        stored_clients::register(store, registered("app"), 100, Actor::System).await.unwrap();
        let app = ClientId::parse("app").unwrap();
        issue(store, 1, "a", Party { principal: key("ci"), client: app.clone() }).await;
        issue(store, 2, "b", party("ci", "document")).await;
        let page = search(store, ALL, None, 10).await.unwrap();
        let names = names(store, &page.items).await.unwrap();
        assert_eq!(names.clients, HashMap::from([(app, "An app".to_owned())]));
        assert_eq!(names.users, HashMap::new());
    }

    #[test]
    fn states_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert_eq!(State::parse("gone"), None);
    }
}
