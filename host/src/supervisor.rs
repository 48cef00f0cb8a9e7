//! Whoever started the process and wants to know how it does: systemd's notifications (sd_notify(3)).
//!
//! A [`Supervisor`] is told when the gateway serves, reloads and stops, and, where a watchdog waits for it, again and again
//! that it lives. Telling never waits and never fails anything: what cannot be told is noted in the log. Deliberately not
//! here: sockets that are handed over at the start (`cli`).

use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Longest status that is told, in bytes.
const LONGEST_STATUS: usize = 256;

/// Who is told how the process does, if anybody is.
#[derive(Clone, Default)]
pub struct Supervisor(Option<Arc<Told>>);

struct Told {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How often a watchdog wants to hear of us.
    watchdog: Option<Duration>,
    /// What was told when requests were served first.
    serving: OnceLock<String>,
}

/// Why the socket that the environment names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("NOTIFY_SOCKET is neither an absolute path nor an abstract name")]
    Address,
    #[error("NOTIFY_SOCKET cannot be used")]
    Socket(#[from] io::Error),
}

impl Supervisor {
    /// Nobody.
    pub const fn none() -> Self {
        Self(None)
    }

    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say it to the process with this number.
    ///
    /// # Errors
    /// [`Unreachable`]
    pub fn of_environment(variable: &dyn Fn(&str) -> Option<String>, process: u32) -> Result<Self, Unreachable> {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(Self::none()) };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None if name.starts_with('/') => SocketAddr::from_pathname(&name)?,
            None => return Err(Unreachable::Address),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let watchdog = watchdog(variable, process);
        Ok(Self(Some(Arc::new(Told { socket, address, watchdog, serving: OnceLock::new() }))))
    }

    /// Requests are served.
    pub fn ready(&self, status: &str) {
        let Some(told) = &self.0 else { return };
        let status = told.serving.get_or_init(|| line(status));
        self.tell(|| format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is read again, until what this returns is dropped. Before requests are served that is a part of the
    /// start, and nobody is told.
    pub fn reloading(&self) -> Reloading {
        if self.0.as_ref().is_none_or(|told| told.serving.get().is_none()) {
            return Reloading(Self::none());
        }
        self.tell(|| {
            format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading the configuration again", monotonic_micros())
        });
        Reloading(self.clone())
    }

    /// No more requests are taken from now on.
    pub fn stopping(&self) {
        self.tell(|| "STOPPING=1\nSTATUS=waiting for requests in flight".to_owned());
    }

    /// Says twice within each interval of the watchdog that this runtime still runs tasks, until the token is cancelled. To be
    /// run as a task: one that is not run says nothing.
    pub async fn keep_alive(self, stopping: CancellationToken) {
        let Some(every) = self.0.as_ref().and_then(|told| told.watchdog) else { return };
        let mut ticks = interval(every / 2);
        // Those that were missed are not made up for: a task that was late has not lived meanwhile.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
            self.tell(|| "WATCHDOG=1".to_owned());
        }
    }

    fn tell(&self, message: impl FnOnce() -> String) {
        let Some(told) = &self.0 else { return };
        if let Err(error) = told.socket.send_to_addr(message().as_bytes(), &told.address) {
            tracing::warn!(%error, "the supervisor of this process cannot be told how it does");
        }
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Supervisor" } else { "Supervisor(nobody)" })
    }
}

/// A reload that goes on. When it is dropped, a supervisor that was told of it hears that the gateway is ready as before.
#[must_use = "the reload is over when this is dropped"]
#[derive(Debug)]
pub struct Reloading(Supervisor);

impl Drop for Reloading {
    fn drop(&mut self) {
        self.0.ready("serving");
    }
}

fn watchdog(variable: &dyn Fn(&str) -> Option<String>, process: u32) -> Option<Duration> {
    let is_ours = variable("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(process));
    let micros: u64 = variable("WATCHDOG_USEC").filter(|_| is_ours)?.parse().ok()?;
    // Half of it must be a time that passes.
    (micros >= 2_000).then(|| Duration::from_micros(micros))
}

/// A status is one line.
fn line(status: &str) -> String {
    let end = status.floor_char_boundary(LONGEST_STATUS);
    status[..end].chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// What systemd compares with the moment at which it asked for a reload. Nothing else reads this clock.
fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000).saturating_add(nanos / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;

    /// A socket of ours, and a supervisor that reads it.
    fn heard(variables: &'static [(&'static str, &'static str)]) -> (UnixDatagram, Supervisor, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let name = path.to_str().unwrap().to_owned();
        let variable = move |asked: &str| match asked {
            "NOTIFY_SOCKET" => Some(name.clone()),
            _ => variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned()),
        };
        let supervisor = Supervisor::of_environment(&variable, 7).unwrap();
        (socket, supervisor, dir)
    }

    fn next(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn each_step_of_a_life_is_told() {
        let (socket, supervisor, _dir) = heard(&[]);
        supervisor.ready("serving https://x.example\nSTOPPING=1");
        assert_eq!(next(&socket), "READY=1\nSTATUS=serving https://x.example STOPPING=1", "a status is one line");
        let before = monotonic_micros();
        let reloading = supervisor.reloading();
        let told = next(&socket);
        let micros = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.lines().next()).unwrap();
        assert!((before..=monotonic_micros()).contains(&micros.parse().unwrap()), "{told}");
        drop(reloading);
        assert_eq!(next(&socket), "READY=1\nSTATUS=serving https://x.example STOPPING=1", "as before");
        supervisor.stopping();
        assert!(next(&socket).starts_with("STOPPING=1\n"));
    }

    #[test]
    fn a_reload_during_the_start_does_not_end_it() {
        let (socket, supervisor, _dir) = heard(&[]);
        let reloading = supervisor.reloading();
        supervisor.ready("serving");
        drop(reloading);
        supervisor.stopping();
        assert_eq!(next(&socket), "READY=1\nSTATUS=serving");
        assert!(next(&socket).starts_with("STOPPING=1\n"), "nothing between");
    }

    #[test]
    fn an_abstract_socket_is_reached() {
        let name = format!("portcullis-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let variable = |asked: &str| (asked == "NOTIFY_SOCKET").then(|| format!("@{name}"));
        Supervisor::of_environment(&variable, 7).unwrap().stopping();
        assert!(next(&socket).starts_with("STOPPING=1"));
    }

    #[test]
    fn nobody_is_told_where_nobody_asked_and_a_wrong_name_is_told() {
        for name in [None, Some("")] {
            let supervisor = Supervisor::of_environment(&|_| name.map(ToOwned::to_owned), 7).unwrap();
            assert_eq!(format!("{supervisor:?}"), "Supervisor(nobody)");
            supervisor.ready("x");
        }
        for name in ["run/notify", "vsock:2:1234"] {
            assert!(Supervisor::of_environment(&|_| Some(name.to_owned()), 7).is_err(), "{name}");
        }
        // Nobody listens: noted, and nothing else.
        let (socket, supervisor, dir) = heard(&[]);
        drop((socket, dir));
        supervisor.ready("x");
    }

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let of = |variables: &'static [(&'static str, &'static str)]| {
            let variable = move |asked: &str| {
                variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned())
            };
            watchdog(&variable, 7)
        };
        assert_eq!(of(&[("WATCHDOG_USEC", "30000000")]), Some(Duration::from_secs(30)));
        assert_eq!(of(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "7")]), Some(Duration::from_secs(30)));
        assert_eq!(of(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "8")]), None);
        for wrong in ["", "0", "1", "-1", "soon"] {
            let variable = |asked: &str| (asked == "WATCHDOG_USEC").then(|| wrong.to_owned());
            assert_eq!(watchdog(&variable, 7), None, "{wrong}");
        }
        assert_eq!(of(&[]), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_watchdog_hears_of_a_runtime_that_lives_until_the_end() {
        let (socket, supervisor, _dir) = heard(&[("WATCHDOG_USEC", "20000")]);
        let tasks = Tasks::new();
        tasks.spawn(supervisor.keep_alive(tasks.stopping().clone()));
        let heard = tokio::task::spawn_blocking(move || [next(&socket), next(&socket), next(&socket)]).await.unwrap();
        assert_eq!(heard, ["WATCHDOG=1"; 3]);
        assert!(tasks.stop(Duration::from_secs(20)).await);
    }
}
