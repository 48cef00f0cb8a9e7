//! A server with people, for tests: on a store in memory, with a clock that is set by hand.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::admin::testing::{Replica, Skewed, shared};
use crate::audit::{Actor, OperatorProof};
use crate::authorization::clients::Clients;
use crate::authorization::testing::signing;
use crate::authorization::{AuthorizationServer, Parts};
use crate::config::Auth;
use crate::identity::TokenList;
use crate::identity::user::{DisplayName, Login, Role, User};
use crate::ids::UserId;
use crate::outbound::Fetcher;
use crate::pipeline::{Services, Snapshot};
use crate::secret::{DeploymentSecret, Plaintext};
use crate::store::users::{self, Change, Creation, Edit, NewUser};

pub(crate) const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);

pub(crate) struct House {
    pub(crate) server: Arc<AuthorizationServer>,
    pub(crate) clock: Skewed,
    _replica: Replica,
}

impl House {
    /// At this address, with these settings besides those that hold where a file says nothing.
    pub(crate) async fn new(public_url: &str, change: impl FnOnce(&mut Auth)) -> Self {
        let (store, clock) = shared().await;
        let replica = Replica::new(store.clone(), &clock, Duration::ZERO, &[]).await;
        let mut auth = Auth::unset();
        change(&mut auth);
        let published = replica.control.snapshot.load();
        let snapshot = Snapshot { auth: Arc::new(auth), ..published.as_ref().clone() };
        let tokens = &snapshot.auth.tokens;
        let signing = signing((&store, &replica.control.vault, &clock.env()), public_url, tokens).await;
        let server = AuthorizationServer::new(Parts {
            signing,
            clients: Clients::default(),
            env: clock.env(),
            store,
            vault: replica.control.vault.clone(),
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            services: Arc::new(Services::for_tests().await),
            issuer: public_url.to_owned(),
            fetcher: Fetcher::new(replica.control.config.load().outbound.clone()),
            secret: DeploymentSecret::new(&[7; 32]),
        });
        Self { server: Arc::new(server), clock, _replica: replica }
    }

    /// Somebody who may sign in with this password.
    pub(crate) async fn person(&self, login: &str, password: &str) -> User {
        self.add(login, Some(password), false).await
    }

    pub(crate) async fn add(&self, login: &str, password: Option<&str>, invited: bool) -> User {
        let password = match password {
            Some(password) => Some(self.server.passwords.hash(Plaintext::new(password)).await.unwrap()),
            None => None,
        };
        let new = NewUser {
            id: UserId::generate(&self.server.env),
            login: Login::parse(login),
            name: DisplayName::of(&format!("{login} <b>")),
            email: None,
            role: Role::User,
            groups: TokenList::default(),
            invited,
            password,
        };
        match users::create(&self.server.store, new, OPERATOR).await.unwrap() {
            Creation::Created(user) => *user,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn edit(&self, user: &User, edit: Edit) -> User {
        match users::change(&self.server.store, &user.id, None, vec![edit], OPERATOR).await.unwrap() {
            Change::Changed(user) => *user,
            other => panic!("{other:?}"),
        }
    }
}
