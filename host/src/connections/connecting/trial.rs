//! Values for headers, or for the environment of a program, tried at their upstream: as if it had them, it is asked what it
//! offers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::{Failed, Trial};
use crate::config::{self, UpstreamAuth, UpstreamTransport};
use crate::outbound::Outbound;
use crate::secret::Plaintext;
use crate::tasks::Tasks;
use crate::upstream::{Upstream, UpstreamError};

/// Programs that are tried at once, whoever they are tried for.
static PROGRAMS: Semaphore = Semaphore::const_new(4);
/// How long one of those places is waited for.
const PLACE: Duration = Duration::from_secs(15);

/// Tries values where they are meant for.
pub struct AtUpstream {
    pub outbound: Outbound,
    pub limits: config::Limits,
    /// Where programs get a home for as long as they are tried.
    pub data_dir: PathBuf,
    pub tasks: Tasks,
}

impl fmt::Debug for AtUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtUpstream").finish_non_exhaustive()
    }
}

impl AtUpstream {
    /// Ends with whoever waits for it.
    async fn try_here(&self, settings: config::Upstream) -> Result<(), UpstreamError> {
        let secured = settings.tls.as_ref().map(|tls| self.outbound.secured(tls));
        let outbound = secured.as_ref().unwrap_or(&self.outbound);
        Upstream::try_once(settings, outbound, &self.limits, &self.data_dir, &self.tasks).await
    }

    /// Goes to its end though whoever asked is gone, so that nothing is left of the program, and others wait that long.
    async fn try_program(&self, settings: config::Upstream) -> Result<Result<(), UpstreamError>, Failed> {
        let nothing = Failed { status: None };
        let place = tokio::time::timeout(PLACE, PROGRAMS.acquire()).await.ok().and_then(Result::ok);
        let place = place.ok_or(nothing)?;
        let (outbound, limits) = (self.outbound.clone(), self.limits.clone());
        let (data_dir, tasks) = (self.data_dir.clone(), self.tasks.clone());
        let trial = self.tasks.spawn(async move {
            let tried = Upstream::try_once(settings, &outbound, &limits, &data_dir, &tasks).await;
            drop(place);
            tried
        });
        trial.await.map_err(|_| nothing)
    }
}

impl Trial for AtUpstream {
    fn try_headers<'a>(
        &'a self,
        upstream: &'a config::Upstream,
        headers: &'a BTreeMap<String, Plaintext>,
    ) -> BoxFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            let mut settings = config::Upstream { auth: UpstreamAuth::None, ..upstream.clone() };
            let (UpstreamTransport::StreamableHttp { headers: all, .. }
            | UpstreamTransport::Stdio { environment: all, .. }) = &mut settings.transport;
            all.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
            let is_program = matches!(settings.transport, UpstreamTransport::Stdio { .. });
            let tried = if is_program { self.try_program(settings).await? } else { self.try_here(settings).await };
            tried.map_err(|error| match error {
                UpstreamError::Status { status } => Failed { status: Some(status) },
                _ => Failed { status: None },
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::env::Env;
    use crate::upstream::stand_in::{Says, about, serve};

    /// A program that says what it is to whoever gives it the right key.
    const PROGRAM: &str = r#"
[ "$API_KEY" = k ] || exit 1
while IFS= read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  printf '{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{},"ttlMs":0,"cacheScope":"private"}}\n' "$id"
done
"#;

    #[tokio::test]
    async fn variables_are_tried_with_a_program_of_which_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("[upstreams.keyed]\ncommand = ['sh', '-c', '''{PROGRAM}''']\n");
        let config = config::parse(&text, Path::new("/"), &|_: &str| None, Env::system().now()).unwrap();
        let trial = AtUpstream {
            outbound: Outbound::new(),
            limits: config.limits.clone(),
            data_dir: dir.path().to_owned(),
            tasks: Tasks::new(),
        };
        for (key, expected) in [("k", Ok(())), ("wrong", Err(Failed { status: None }))] {
            let values = [("API_KEY".to_owned(), Plaintext::new(key))].into();
            assert_eq!(trial.try_headers(&config.upstreams[0], &values).await, expected, "{key}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("trials")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn values_are_tried_as_the_upstream_would_get_them() {
        let tasks = Tasks::new();
        let says = |head: &str, _: &_| match head.lines().any(|line| line == "x-api-key: k") {
            true => Says::Result(about("keyed", &json!({}))),
            false => Says::Unauthorized,
        };
        let url = serve(&tasks, says).await;
        let text = format!("[upstreams.keyed]\nurl = '{url}'\n");
        let config = config::parse(&text, Path::new("/"), &|_: &str| None, Env::system().now()).unwrap();
        let trial = AtUpstream {
            outbound: Outbound::new(),
            limits: config.limits.clone(),
            data_dir: config.data_dir.clone(),
            tasks: Tasks::new(),
        };
        let tried = async |upstream: &config::Upstream, key: &str| {
            let values = [("x-api-key".to_owned(), Plaintext::new(key))].into();
            trial.try_headers(upstream, &values).await
        };
        let keyed = &config.upstreams[0];
        assert_eq!(tried(keyed, "k").await, Ok(()));
        assert_eq!(tried(keyed, "wrong").await, Err(Failed { status: Some(401) }));
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let text = format!("[upstreams.keyed]\nurl = 'http://{nobody}/mcp'\n");
        let config = config::parse(&text, Path::new("/"), &|_: &str| None, Env::system().now()).unwrap();
        assert_eq!(tried(&config.upstreams[0], "k").await, Err(Failed { status: None }));
    }
}
