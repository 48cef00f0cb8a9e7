//! An authorization server for tests of clients: on a store in memory, with a clock that is moved by hand.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::Clients;
use super::register::{Requester, Told, register};
use crate::admin::testing::{Replica, Skewed, shared};
use crate::authorization::testing::signing;
use crate::authorization::{AuthorizationServer, Parts};
use crate::config::Auth;
use crate::outbound::{Fetcher, Trusted};
use crate::pipeline::{Services, Snapshot};
use crate::policy::PolicySet;
use crate::secret::DeploymentSecret;

pub(crate) struct Scene {
    pub(crate) server: Arc<AuthorizationServer>,
    pub(crate) clock: Skewed,
    _replica: Replica,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(Fetcher::new(Trusted::none())).await
    }

    pub(crate) async fn with(fetcher: Fetcher) -> Self {
        let (store, clock) = shared().await;
        let replica = Replica::new(store.clone(), &clock, Duration::from_secs(10), &[]).await;
        let control = &replica.control;
        let issuer = "https://gateway.example".to_owned();
        let signing = signing((&store, &control.vault, &clock.env()), &issuer, &Auth::unset().tokens).await;
        let server = AuthorizationServer::new(Parts {
            signing,
            env: clock.env(),
            store: store.clone(),
            vault: control.vault.clone(),
            snapshot: Arc::new(ArcSwap::from(control.snapshot.load_full())),
            services: Arc::new(Services { env: clock.env(), store, ..Services::for_tests().await }),
            issuer,
            fetcher,
            secret: DeploymentSecret::new(&[7; 32]),
            clients: Clients::default(),
        });
        Self { server: Arc::new(server), clock, _replica: replica }
    }

    /// Publishes other settings.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Auth)) {
        let old = self.server.snapshot.load_full();
        let mut auth = Auth::clone(&old.auth);
        change(&mut auth);
        self.publish(Arc::new(auth), old.policies.clone());
    }

    /// Publishes other policies.
    pub(crate) fn decide(&self, policies: PolicySet) {
        let auth = self.server.settings();
        self.publish(auth, Arc::new(policies));
    }

    fn publish(&self, auth: Arc<Auth>, policies: Arc<PolicySet>) {
        let old = self.server.snapshot.load_full();
        let new = Snapshot { auth, policies, ..old.as_ref().clone() };
        self.server.snapshot.store(Arc::new(new));
    }

    /// Registers a public client with this redirect URI.
    pub(crate) async fn register(&self, redirect: &str) -> Told {
        let body = json!({ "redirect_uris": [redirect], "client_name": "Client" });
        self.try_register(&body).await.unwrap()
    }

    pub(crate) async fn try_register(&self, body: &Value) -> Result<Told, super::register::Refused> {
        register(&self.server, body.to_string().as_bytes(), Requester::default()).await.unwrap()
    }
}
