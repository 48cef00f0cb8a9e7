//! Wires what keeps and makes connections to upstreams.

use std::sync::Arc;

use crate::admin::Control;
use crate::config::Config;
use crate::connection::{End, Place};
use crate::connections::connecting::{self, AtUpstream, Connecting};
use crate::connections::issuer::Issuer;
use crate::connections::keeper::{self, Keeper, MayUse};
use crate::connections::provider::{self, Provider, Voucher};
use crate::env::Env;
use crate::http::api::Kept;
use crate::http::oauth::connect;
use crate::ids::{ReplicaId, UpstreamName};
use crate::outbound::{Fetcher, Outbound};
use crate::pipeline::Snapshot;
use crate::pipeline::access;
use crate::secret::DeploymentSecret;
use crate::tasks::Tasks;

/// What lends credentials, and what they come from.
pub(super) struct Connections {
    pub(super) keeper: Arc<Keeper>,
    provider: Arc<Provider>,
    may_use: MayUse,
    control: Arc<Control>,
    env: Env,
    tasks: Tasks,
}

impl Connections {
    /// Upstreams borrow from the keeper from now on. Somebody has to tell it of changes, from before the first is lent, and
    /// whoever stops `tasks` has to wait for what is said to authorization servers.
    pub(super) fn new(
        (config, voucher): (&Config, Voucher),
        env: &Env,
        control: &Arc<Control>,
        replica: &ReplicaId,
        tasks: &Tasks,
    ) -> Self {
        let snapshot = control.snapshot.clone();
        let settings =
            move |name: &UpstreamName| snapshot.load().upstreams.get(name).map(|upstream| upstream.settings().clone());
        let provider = Arc::new(Provider::new(provider::Parts {
            env: env.clone(),
            store: control.store.clone(),
            vault: control.vault.clone(),
            fetcher: Fetcher::new(config.outbound.clone()),
            public_url: config.public_url.as_str().trim_end_matches('/').to_owned(),
            upstreams: Arc::new(settings),
            voucher,
        }));
        let clock = env.clone();
        let may_use: MayUse =
            Arc::new(move |snapshot: &Snapshot, place: &Place| access::may_use(snapshot, place, clock.now()));
        let keeper = Keeper::new(keeper::Parts {
            env: env.clone(),
            store: control.store.clone(),
            vault: control.vault.clone(),
            snapshot: control.snapshot.clone(),
            may_use: may_use.clone(),
            issuer: provider.clone(),
            replica: replica.clone(),
            tasks: tasks.clone(),
        });
        control.lender.is(keeper.clone());
        Self { keeper, provider, may_use, control: control.clone(), env: env.clone(), tasks: tasks.clone() }
    }

    /// What operators look at.
    pub(super) fn for_operators(&self) -> Kept {
        Kept { keeper: self.keeper.clone(), may_use: self.may_use.clone() }
    }

    /// The pages on which they are made.
    pub(super) fn pages(&self, config: &Config, secret: DeploymentSecret) -> connect::Connections {
        let snapshot = self.control.snapshot.clone();
        let issuer: Arc<dyn Issuer> = self.provider.clone();
        let trial = AtUpstream {
            outbound: Outbound::new(),
            limits: config.limits.clone(),
            data_dir: config.data_dir.clone(),
            tasks: self.tasks.subgroup(),
        };
        let connecting = Connecting::new(connecting::Parts {
            env: self.env.clone(),
            store: self.control.store.clone(),
            vault: self.control.vault.clone(),
            secret,
            snapshot: self.control.snapshot.clone(),
            may_use: self.may_use.clone(),
            revision: Arc::new(move || snapshot.load().revision),
            issuer,
            trial: Arc::new(trial),
            public_url: config.public_url.as_str().trim_end_matches('/').to_owned(),
            tasks: self.tasks.clone(),
        });
        let (keeper, provider) = (self.keeper.clone(), self.provider.clone());
        connect::Connections {
            connecting,
            disconnect: Arc::new(move |place, actor| {
                let keeper = keeper.clone();
                Box::pin(async move { keeper.disconnect(&place, End::Disconnected, actor).await })
            }),
            document: Arc::new(move |context| provider.client_document(context)),
        }
    }
}
