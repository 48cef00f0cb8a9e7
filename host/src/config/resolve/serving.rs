//! How the listeners serve: TLS, the address of the admin listener, and whose word about callers' addresses counts.

use std::net::IpAddr;

use super::Checks;
use crate::config::listener_tls::{File, ListenerTls, ListenersTls};
use crate::config::mistake::{Checked, Fault};
use crate::config::raw::{self, At, Setting};
use crate::config::{Listen, PublicUrl};
use crate::outbound::Network;

/// Most entries of `edge.trusted_proxies`. Each is compared with the address of every connection.
const MOST_PROXIES: usize = 64;

/// What the listeners show.
pub(super) fn tls(checks: &mut Checks<'_>, raw: &raw::Listen) -> ListenersTls {
    ListenersTls {
        public: pair(checks, "public_tls", &raw.public_tls),
        admin: pair(checks, "admin_tls", &raw.admin_tls),
    }
}

fn pair(checks: &mut Checks<'_>, name: &str, setting: &Setting<raw::ListenerTls>) -> Option<ListenerTls> {
    let table = setting.get()?;
    let raw = table.value();
    if raw.certificate.get().is_none() || raw.key.get().is_none() {
        let fault = Fault::new(format!("listen.{name} needs certificate and key"));
        checks.missing(&format!("listen.{name}"), table.place(), fault);
    }
    let setting = |file| match file {
        File::Certificate => (&raw.certificate, "certificate"),
        File::Key => (&raw.key, "key"),
    };
    let mut path = |file| {
        let (setting, key) = setting(file);
        checks.path(&format!("listen.{name}.{key}"), setting)
    };
    let (certificate, key) = (path(File::Certificate), path(File::Key));
    let read = ListenerTls::read(certificate?, key?);
    read.map_err(|(file, fault)| {
        let (setting, key) = setting(file);
        let place = setting.get().map_or_else(|| table.place(), At::place);
        checks.mistake(place, fault.of(format_args!("listen.{name}.{key}")));
    })
    .ok()
}

/// The admin listener, where others than this machine reach it: only over TLS, and only where people can sign in.
pub(super) fn exposed_admin(checks: &mut Checks<'_>, file: &raw::File, listen: &Listen) {
    let Some(admin) = listen.admin.filter(|admin| !admin.ip().to_canonical().is_loopback()) else { return };
    let place = file.listen.admin.get().map_or(0..0, At::place);
    if file.listen.admin_tls.get().is_none() {
        let message = "listen.admin must be a loopback address, since there is no listen.admin_tls";
        let hint = "reach it through the admin socket or an SSH tunnel, set it to \"off\", or give it a certificate with \
                    listen.admin_tls";
        return checks.missing("listen", place, Fault::new(message).hint(hint));
    }
    let has_passwords = file.auth.sign_in.passwords.value().copied().unwrap_or(true);
    if !has_passwords && file.auth.providers.is_empty() {
        let message = format!("listen.admin is {admin}, and nobody could sign in there");
        let hint = "set auth.sign_in.passwords = true, or name an OpenID provider in [auth.providers]";
        checks.missing("auth", place.clone(), Fault::new(message).hint(hint));
    }
    if admin.ip().is_unspecified() && file.listen.admin_url.get().is_none() {
        let fault = Fault::new(format!("listen.admin_url is missing, and {admin} cannot stand in for it"));
        checks.missing("listen", place, fault.hint("set it to the URL that operators use"));
    }
}

/// Where operators reach the admin listener. `None` where there is none, or where its address is known at the start only.
pub(super) fn admin_url(checks: &mut Checks<'_>, raw: &raw::Listen, listen: &Listen) -> Option<PublicUrl> {
    let tls = raw.admin_tls.get();
    if listen.admin.is_none() {
        for (name, place) in [("admin_tls", tls.map(At::place)), ("admin_url", raw.admin_url.get().map(At::place))] {
            if let Some(place) = place {
                checks
                    .mistake(place, Fault::new(format!("listen.{name} has no meaning where listen.admin is \"off\"")));
            }
        }
        return None;
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    if raw.admin_url.get().is_none() {
        return listen.admin.and_then(|address| super::url_of(scheme, address));
    }
    let url = checks.setting("listen.admin_url", &raw.admin_url, |text| PublicUrl::parse(text))?;
    must_be_https(checks, "listen.admin_url", "listen.admin_tls", (&raw.admin_url, &url), tls.is_some());
    Some(url)
}

/// A URL whose listener speaks TLS begins so.
pub(super) fn must_be_https(
    checks: &mut Checks<'_>,
    name: &str,
    because: &str,
    (setting, url): (&Setting<String>, &PublicUrl),
    speaks_tls: bool,
) {
    if speaks_tls && !url.as_str().starts_with("https://") {
        let place = setting.get().map_or(0..0, At::place);
        checks.mistake(place, Fault::new(format!("{name} must begin with https://, since {because} is set")));
    }
}

/// The proxies whose word about where a request came from counts.
pub(super) fn proxies(checks: &mut Checks<'_>, raw: &raw::Edge) -> Vec<Network> {
    if let Some(over) = raw.trusted_proxies.get(MOST_PROXIES) {
        checks.mistake(over.place(), Fault::new(format!("there are more than {MOST_PROXIES} trusted_proxies")));
    }
    checks.each("an entry of trusted_proxies", &raw.trusted_proxies, |text| network(text))
}

/// An address, or a block of them.
fn network(text: &str) -> Checked<Network> {
    let hint = "write an address or a block of addresses, such as \"10.0.0.0/8\", \"192.0.2.7\" or \"::1\"";
    let wrong = || Fault::new("is neither an address nor a block of addresses").hint(hint);
    let (base, prefix) = match text.split_once('/') {
        Some((base, prefix)) => (base, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = base.parse().map_err(|_| wrong())?;
    if address.to_canonical() != address {
        return Err(Fault::new("is an IPv4 address within IPv6").hint("write it as an IPv4 address"));
    }
    let Some(prefix) = prefix else { return Ok(Network::of(address)) };
    let is_number = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix: u8 = Some(prefix).filter(|_| is_number).and_then(|prefix| prefix.parse().ok()).ok_or_else(wrong)?;
    let beyond = || Fault::new("has a prefix that does not fit, or bits beyond it").hint(hint);
    Network::new(address, prefix).ok_or_else(beyond)
}
