//! `[upstreams.NAME.tls]`: how an upstream proves who it is, and we to it.

use super::Checks;
use crate::config::mistake::Fault;
use crate::config::raw::{self, At, Setting};
use crate::config::reference::read_text;
use crate::outbound::{Tls, TlsError, TlsSettings};

/// Largest file of certificates, in bytes.
const LARGEST_PEM: u64 = 512 * 1024;

pub(super) fn resolve(checks: &mut Checks<'_>, upstream: &raw::Upstream) -> Option<Tls> {
    let table = upstream.tls.get()?;
    let raw = table.value();
    if let Some(url) = upstream.url.get()
        && !url.value().starts_with("https://")
    {
        checks.mistake(table.place(), Fault::new("tls has no meaning where the url is not https"));
    }
    let before = checks.found.len();
    let settings = TlsSettings {
        authorities: pem(checks, "tls.ca_file", &raw.ca_file),
        certificate: pem(checks, "tls.client_certificate", &raw.client_certificate),
        key: checks.secret("tls.client_key", &raw.client_key),
        takes_any: takes_any(checks, raw),
    };
    // What is wrong already says nothing of the rest.
    if checks.found.len() > before {
        return None;
    }
    let wrong = |error: &TlsError| match error {
        TlsError::Authorities => &raw.ca_file,
        TlsError::Certificate | TlsError::NoKey => &raw.client_certificate,
        TlsError::Key | TlsError::NoCertificate | TlsError::Pair => &raw.client_key,
    };
    let made = Tls::new(settings);
    made.map_err(|error| {
        let place = wrong(&error).get().map_or_else(|| table.place(), At::place);
        checks.mistake(place, Fault::new(format!("tls: {error}")));
    })
    .ok()
}

fn takes_any(checks: &mut Checks<'_>, raw: &raw::UpstreamTls) -> bool {
    let is = |setting: &Setting<bool>| setting.value().copied().unwrap_or(false);
    let (insecure, confirmed) = (is(&raw.insecure), is(&raw.insecure_confirmed));
    if let Some(at) = raw.insecure.get()
        && insecure
        && !confirmed
    {
        let fault = Fault::new("tls.insecure = true lets whoever stands in between read and change everything");
        checks.mistake(
            at.place(),
            fault.hint("name the server's authority in ca_file, or set insecure_confirmed = true if that is meant"),
        );
    }
    if let Some(at) = raw.insecure_confirmed.get()
        && confirmed
        && !insecure
    {
        checks.mistake(at.place(), Fault::new("tls.insecure_confirmed has no meaning without tls.insecure = true"));
    }
    if let Some(at) = raw.ca_file.get()
        && insecure
    {
        checks.mistake(at.place(), Fault::new("tls.ca_file has no meaning with tls.insecure = true"));
    }
    insecure
}

/// The text of a file.
fn pem(checks: &mut Checks<'_>, name: &str, setting: &Setting<String>) -> Option<String> {
    let path = checks.path(name, setting)?;
    let place = setting.get().map_or(0..0, At::place);
    checks.accept(name, place, read_text(&path, LARGEST_PEM))
}
