//! Sockets that systemd opened for us (sd_listen_fds(3)): each takes the place of what a listener would bind itself.
//!
//! They are taken once, before anything else runs: the variables that count them are removed from the environment, and the
//! sockets are closed in children, which get an environment of their own anyway.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;

use crate::config::process_environment;

/// Most sockets that are taken. There are not more listeners.
const MOST: usize = 4;

/// What was handed over.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub(super) public: Option<TcpListener>,
    pub(super) admin: Option<TcpListener>,
    pub(super) admin_socket: Option<UnixListener>,
    pub(super) replica: Option<TcpListener>,
}

/// Takes the sockets that the environment tells of.
pub(super) fn inherited() -> anyhow::Result<Inherited> {
    let is_ours = process_environment("LISTEN_PID").is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    if !is_ours {
        return Ok(Inherited::default());
    }
    let count = process_environment("LISTEN_FDS").and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    if count > MOST {
        bail!("LISTEN_FDS tells of {count} sockets, and there are {MOST} listeners");
    }
    let names = process_environment("LISTEN_FDNAMES").filter(|_| count > 0);
    let mut sockets = ListenFd::from_env();
    let names = places(names.as_deref(), sockets.len())?;
    let mut inherited = Inherited::default();
    for (index, place) in names.into_iter().enumerate() {
        inherited.take(place, &mut sockets, index).with_context(|| format!("the socket for {}", place.name()))?;
    }
    Ok(inherited)
}

impl Inherited {
    fn take(&mut self, place: Place, sockets: &mut ListenFd, index: usize) -> anyhow::Result<()> {
        let tcp = match place {
            Place::Public => &mut self.public,
            Place::Admin => &mut self.admin,
            Place::Replica => &mut self.replica,
            Place::AdminSocket => {
                let socket = sockets.take_unix_listener(index)?.context("it is not there")?;
                if socket.local_addr()?.is_unnamed() {
                    bail!("it is not bound");
                }
                socket.set_nonblocking(true)?;
                self.admin_socket = Some(socket);
                return Ok(());
            }
        };
        let socket = sockets.take_tcp_listener(index)?.context("it is not there")?;
        socket.set_nonblocking(true)?;
        *tcp = Some(socket);
        Ok(())
    }
}

/// A listener that a socket can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Public,
    Admin,
    AdminSocket,
    Replica,
}

impl Place {
    const ALL: [Self; MOST] = [Self::Public, Self::Admin, Self::AdminSocket, Self::Replica];

    /// What `FileDescriptorName=` has to say.
    const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admin => "admin",
            Self::AdminSocket => "admin-socket",
            Self::Replica => "replica",
        }
    }
}

/// What so many sockets are for, by `LISTEN_FDNAMES`. A single one without a name of ours is the public one: systemd names
/// a socket after its unit where nobody else did.
fn places(names: Option<&str>, count: usize) -> anyhow::Result<Vec<Place>> {
    let names: Vec<&str> =
        names.filter(|names| !names.is_empty()).map(|names| names.split(':').collect()).unwrap_or_default();
    if names.len() > count || (count > 1 && names.len() < count) {
        bail!("LISTEN_FDNAMES names {} sockets, and LISTEN_FDS tells of {count}", names.len());
    }
    let mut places: Vec<Place> = Vec::new();
    for at in 0..count {
        let name = names.get(at).copied().unwrap_or_default();
        let place = match Place::ALL.into_iter().find(|place| place.name() == name) {
            Some(place) => place,
            None if count == 1 && (name.is_empty() || name == "unknown" || name.ends_with(".socket")) => Place::Public,
            None => bail!(
                "there is a socket called {name:?}: FileDescriptorName= must be public, admin, admin-socket or replica"
            ),
        };
        if places.contains(&place) {
            bail!("there is more than one socket called {name:?}");
        }
        places.push(place);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_sockets_are_for() {
        use Place::{Admin, AdminSocket, Public, Replica};
        let all = "replica:admin-socket:public:admin";
        for (names, count, expected) in [
            (None, 0, vec![]),
            (None, 1, vec![Public]),
            (Some(""), 1, vec![Public]),
            (Some("unknown"), 1, vec![Public]),
            (Some("portcullis.socket"), 1, vec![Public]),
            (Some("admin"), 1, vec![Admin]),
            (Some(all), 4, vec![Replica, AdminSocket, Public, Admin]),
        ] {
            assert_eq!(places(names, count).unwrap(), expected, "{names:?}");
        }
        for (names, count) in [
            (None, 2),
            (Some("public"), 2),
            (Some("public:admin"), 1),
            (Some("public:public"), 2),
            (Some("public:other"), 2),
            (Some("portcullis.socket:portcullis.socket"), 2),
            (Some("metrics"), 1),
            (Some("public"), 0),
        ] {
            assert!(places(names, count).is_err(), "{names:?} of {count}");
        }
    }
}
