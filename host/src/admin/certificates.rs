//! What the listeners show over TLS, replaced by a reload or when the files change.
//!
//! Which listeners speak TLS is settled at the start; a listener that does always has a certificate to show.

use std::sync::Arc;

use crate::certificate::{EXPIRES_SOON, Shown};
use crate::config::{ListenerTls, ListenersTls};
use crate::env::{Env, Timestamp};

/// Of each listener that was started with TLS.
#[derive(Debug)]
pub struct Certificates {
    pub public: Option<Arc<Shown>>,
    pub admin: Option<Arc<Shown>>,
}

impl Certificates {
    /// What the files held when the configuration was read.
    pub(super) fn new(tls: &ListenersTls, env: &Env) -> Self {
        tell(tls, env);
        let shown = |tls: &Option<ListenerTls>| tls.as_ref().map(|tls| Arc::new(Shown::new(tls.pair.clone())));
        Self { public: shown(&tls.public), admin: shown(&tls.admin) }
    }

    /// Shows these from now on. A listener for which there is none goes on with what it shows.
    pub(super) fn replace(&self, tls: &ListenersTls, env: &Env) {
        tell(tls, env);
        for (shown, new) in [(&self.public, &tls.public), (&self.admin, &tls.admin)] {
            if let (Some(shown), Some(new)) = (shown, new) {
                shown.replace(new.pair.clone());
            }
        }
    }

    /// The names of the listeners that speak TLS, each with the last moment at which its certificate counts.
    pub fn expiries(&self) -> impl Iterator<Item = (&'static str, Option<Timestamp>)> {
        let all = [("public", &self.public), ("admin", &self.admin)];
        all.into_iter().filter_map(|(name, shown)| shown.as_ref().map(|shown| (name, shown.not_after())))
    }
}

/// Tells an operator what may become of these files.
fn tell(tls: &ListenersTls, env: &Env) {
    for (setting, tls) in tls.each() {
        let (certificate, key) = (tls.certificate.display(), tls.key.display());
        if tls.is_key_open {
            tracing::warn!(setting, %key, "every user of this machine can read this private key: chmod 600");
        }
        match tls.pair.not_after() {
            Some(at) if at <= env.now() => {
                tracing::warn!(setting, %certificate, not_after = %at, "this certificate has expired");
            }
            Some(at) if at <= env.now().after(EXPIRES_SOON) => {
                tracing::warn!(setting, %certificate, not_after = %at, "this certificate expires soon");
            }
            Some(_) | None => {}
        }
    }
}
