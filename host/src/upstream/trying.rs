//! An upstream tried once, with settings that are not in force: whether it can be reached, speaks MCP and lists what it
//! offers with these headers, or variables. Nothing of it is kept, and nothing is lent to it: settings that nobody has agreed
//! to yet may lead anywhere.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::stdio::{NOT_STARTED, homes};
use super::sync::Seen;
use super::{Upstream, UpstreamError};
use crate::config::{self, UpstreamAuth, UpstreamTransport};
use crate::connection::lending::Later;
use crate::mcp::revision::About;
use crate::outbound::Outbound;
use crate::tasks::Tasks;

/// Longest trial.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long its end is waited for: longer than a program gets to end by itself, whose home is removed after it.
const GOODBYE: Duration = Duration::from_secs(5);
/// Directory in the gateway's data directory in which programs that are tried have their homes.
const TRIALS: &str = "trials";
/// Status of an upstream that wants to be shown a credential.
const UNAUTHORIZED: u16 = 401;

/// How far a trial came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Being connected to, or started.
    Reach,
    /// Saying what it is.
    Speak,
    /// Listing what it offers.
    List,
}

impl Stage {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reach => "reach",
            Self::Speak => "speak",
            Self::List => "list",
        }
    }
}

/// What came of a trial.
#[derive(Clone, Debug)]
pub enum Tried {
    Works {
        tools: usize,
        about: Arc<About>,
    },
    /// It answers those alone who show a credential of the kind that its settings say people have.
    WantsCredential,
    Failed {
        stage: Stage,
        reason: String,
    },
}

impl Upstream {
    /// Reads all lists of the upstream that these settings lead to. A program is started for that, and ended.
    ///
    /// # Errors
    /// An [`UpstreamError`]: what it said, or that it is none that can be tried.
    pub async fn try_once(
        settings: config::Upstream,
        outbound: &Outbound,
        limits: &config::Limits,
        data_dir: &Path,
        tasks: &Tasks,
    ) -> Result<(), UpstreamError> {
        let (_, seen) = see_once(settings, outbound, limits, data_dir, tasks).await;
        match seen? {
            Seen { trouble: None, .. } => Ok(()),
            Seen { trouble: Some(_), .. } => {
                Err(UpstreamError::Protocol { what: "some of what it offers cannot be read" })
            }
        }
    }

    /// Tries what these settings lead to as nobody in particular: how far that comes.
    pub async fn try_out(
        settings: config::Upstream,
        outbound: &Outbound,
        limits: &config::Limits,
        data_dir: &Path,
        tasks: &Tasks,
    ) -> Tried {
        let wants = settings.auth != UpstreamAuth::None;
        let is_program = matches!(settings.transport, UpstreamTransport::Stdio { .. });
        let settings = config::Upstream { auth: UpstreamAuth::None, ..settings };
        let (about, seen) = see_once(settings, outbound, limits, data_dir, tasks).await;
        match (seen, about) {
            (Ok(Seen { offer, trouble: None, .. }), Some(about)) => Tried::Works { tools: offer.tools.len(), about },
            (Ok(Seen { trouble, .. }), _) => {
                let reason = trouble.unwrap_or_else(|| "it was gone before it was seen".to_owned());
                Tried::Failed { stage: Stage::List, reason }
            }
            (Err(UpstreamError::Status { status: UNAUTHORIZED }), _) if wants => Tried::WantsCredential,
            (Err(error), Some(_)) => Tried::Failed { stage: Stage::List, reason: told(&error, is_program) },
            (Err(error), None) => Tried::Failed { stage: stage(&error, is_program), reason: told(&error, is_program) },
        }
    }
}

/// Why a program that came to be and ended is there no more: it was reached.
fn ended(error: &UpstreamError, is_program: bool) -> Option<&str> {
    let UpstreamError::Unreachable { reason } = error else { return None };
    (is_program && !reason.starts_with(NOT_STARTED)).then_some(reason.as_str())
}

/// What went wrong, in a sentence.
fn told(error: &UpstreamError, is_program: bool) -> String {
    ended(error, is_program).map_or_else(|| error.to_string(), ToOwned::to_owned)
}

/// Where it stands with an upstream that did not say what it is.
fn stage(error: &UpstreamError, is_program: bool) -> Stage {
    if ended(error, is_program).is_some() {
        return Stage::Speak;
    }
    match error {
        UpstreamError::Unreachable { .. } => Stage::Reach,
        UpstreamError::Died
        | UpstreamError::TimedOut { .. }
        | UpstreamError::Status { .. }
        | UpstreamError::TooLarge { .. }
        | UpstreamError::Protocol { .. }
        | UpstreamError::Unsupported { .. }
        | UpstreamError::NoResource
        | UpstreamError::Busy
        | UpstreamError::Cancelled
        | UpstreamError::Rejected { .. }
        | UpstreamError::Withheld(_) => Stage::Speak,
    }
}

/// Removes what trials have left behind that a gateway did not live to see the end of.
pub async fn forget_trials(data_dir: &Path) {
    // Where there is none, nothing is left.
    _ = tokio::fs::remove_dir_all(data_dir.join(TRIALS)).await;
}

/// Reads what an upstream offers once, and ends it. What it says of itself, as far as it came to that. A program has a home
/// that goes with it.
async fn see_once(
    settings: config::Upstream,
    outbound: &Outbound,
    limits: &config::Limits,
    data_dir: &Path,
    tasks: &Tasks,
) -> (Option<Arc<About>>, Result<Seen, UpstreamError>) {
    let home = homes::fresh(&data_dir.join(TRIALS));
    let is_program = matches!(settings.transport, UpstreamTransport::Stdio { .. });
    let seen = see_in(settings, outbound, limits, &home, tasks).await;
    if is_program && let Err(error) = tokio::fs::remove_dir_all(&home).await {
        tracing::debug!(%error, "the home of a program that was tried was not removed");
    }
    seen
}

async fn see_in(
    settings: config::Upstream,
    outbound: &Outbound,
    limits: &config::Limits,
    home: &Path,
    tasks: &Tasks,
) -> (Option<Arc<About>>, Result<Seen, UpstreamError>) {
    let lender = Arc::new(Later::default());
    let upstream = Upstream::start(settings, (outbound, lender), limits, home, tasks);
    // Whoever gives up waiting for this ends it, too.
    let _ends = upstream.tasks.stopping().clone().drop_guard();
    let seen = tokio::time::timeout(PATIENCE, upstream.see()).await;
    let about = upstream.known_about();
    upstream.stop(GOODBYE).await;
    (about, seen.unwrap_or(Err(UpstreamError::TimedOut { after: PATIENCE })))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::env::Env;

    async fn tried(text: &str) -> Tried {
        let dir = tempfile::tempdir().unwrap();
        let config = config::parse(text, dir.path(), &|_: &str| None, Env::system().now()).unwrap();
        let (tasks, settings) = (Tasks::new(), config.upstreams[0].clone());
        let tried = Upstream::try_out(settings, &Outbound::new(), &config.limits, dir.path(), &tasks).await;
        assert!(tasks.stop(Duration::from_secs(5)).await, "nothing is left of it");
        tried
    }

    fn failed_at(tried: &Tried) -> Option<Stage> {
        match tried {
            Tried::Failed { stage, .. } => Some(*stage),
            Tried::Works { .. } | Tried::WantsCredential => None,
        }
    }

    #[tokio::test]
    async fn a_trial_says_how_far_it_came() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let none = tried(&format!("[upstreams.a]\nurl = 'http://{nobody}/mcp'\n")).await;
        assert_eq!(failed_at(&none), Some(Stage::Reach), "{none:?}");
        let none = tried("[upstreams.a]\ncommand = ['/there/is/no/such/program']\n").await;
        assert_eq!(failed_at(&none), Some(Stage::Reach), "{none:?}");
        let other = tried("[upstreams.a]\ncommand = ['true']\n").await;
        let Tried::Failed { stage: Stage::Speak, reason } = &other else { panic!("{other:?}") };
        assert!(!reason.contains("cannot be reached"), "it was: {reason}");
    }
}
