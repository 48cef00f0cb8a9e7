//! `[upstreams.NAME.auth]`: what an upstream is shown as a credential, and whose that is.

use std::net::IpAddr;
use std::ops::Range;

use super::upstreams::header_name;
use super::{Checks, keys};
use crate::config::mistake::{Checked, Fault};
use crate::config::raw::{self, At, NameOfUpstream, Transport, UpstreamAuthKind};
use crate::config::{ClientCredentials, OAuthClient, UpstreamAuth, value};
use crate::connection::header::MAX_NAMES;
use crate::identity::TokenList;

/// What OAuth sends its tokens in (RFC 6750 §2.1).
const AUTHORIZATION: &str = "authorization";

/// `/connect/link` is where links are opened, and no upstream's page.
const LINKS: &str = "link";

pub(super) fn resolve(checks: &mut Checks<'_>, name: &NameOfUpstream, upstream: &raw::Upstream) -> UpstreamAuth {
    let raw = &upstream.auth;
    let kind = raw.kind.value().copied().unwrap_or(UpstreamAuthKind::None);
    not_of_this_kind(checks, kind, raw);
    if !matches!(kind, UpstreamAuthKind::None) && is_stdio(upstream) {
        let fault = Fault::new(format!("auth.kind {:?} does not go with a program yet", word(kind)));
        checks.mistake(kind_place(raw), fault.hint("give the program its credential in environment"));
    }
    let has_page = !matches!(kind, UpstreamAuthKind::None | UpstreamAuthKind::StaticHeaders);
    if has_page && name.as_str() == LINKS {
        let fault = Fault::new(format!("an upstream that people connect cannot be called {LINKS}"));
        checks.mistake(name.place(), fault.hint("its page would stand where links are opened"));
    }
    match kind {
        UpstreamAuthKind::None => UpstreamAuth::None,
        UpstreamAuthKind::StaticHeaders => {
            if upstream.headers.is_empty() {
                let fault = Fault::new("auth.kind \"static-headers\" needs headers");
                checks.missing(&path(name, ""), kind_place(raw), fault.hint("write headers = { NAME = \"env:NAME\" }"));
            }
            UpstreamAuth::None
        }
        UpstreamAuthKind::SharedOAuth => UpstreamAuth::SharedOAuth(Box::new(client(checks, name, upstream))),
        UpstreamAuthKind::PerUserOAuth => UpstreamAuth::PerUserOAuth(Box::new(client(checks, name, upstream))),
        UpstreamAuthKind::PerUserHeaders => UpstreamAuth::PerUserHeaders(names(checks, name, upstream)),
    }
}

/// The path of a table of this upstream.
fn path(name: &NameOfUpstream, below: &str) -> String {
    format!("upstreams.{}{below}", name.as_str())
}

fn word(kind: UpstreamAuthKind) -> &'static str {
    match kind {
        UpstreamAuthKind::None => "none",
        UpstreamAuthKind::StaticHeaders => "static-headers",
        UpstreamAuthKind::SharedOAuth => "shared-oauth",
        UpstreamAuthKind::PerUserOAuth => "per-user-oauth",
        UpstreamAuthKind::PerUserHeaders => "per-user-headers",
    }
}

fn is_stdio(upstream: &raw::Upstream) -> bool {
    match upstream.transport.value() {
        Some(transport) => matches!(transport, Transport::Stdio),
        None => upstream.url.get().is_none() && upstream.command.get().is_some(),
    }
}

fn kind_place(raw: &raw::UpstreamAuth) -> Range<usize> {
    raw.kind.get().map_or(0..0, At::place)
}

/// Settings that would do nothing are mistakes: whoever wrote them thought otherwise.
fn not_of_this_kind(checks: &mut Checks<'_>, kind: UpstreamAuthKind, raw: &raw::UpstreamAuth) {
    let oauth = [
        ("auth.issuer", raw.issuer.get().map(At::place)),
        ("auth.client_id", raw.client_id.get().map(At::place)),
        ("auth.client_secret", raw.client_secret.get().map(At::place)),
        ("auth.scopes", raw.scopes.get().map(At::place)),
    ];
    let headers = [("auth.headers", raw.headers.get().map(At::place))];
    let foreign: Vec<_> = match kind {
        UpstreamAuthKind::None | UpstreamAuthKind::StaticHeaders => oauth.into_iter().chain(headers).collect(),
        UpstreamAuthKind::SharedOAuth | UpstreamAuthKind::PerUserOAuth => headers.into(),
        UpstreamAuthKind::PerUserHeaders => oauth.into(),
    };
    for (setting, place) in foreign {
        if let Some(place) = place {
            checks.mistake(place, Fault::new(format!("{setting} has no meaning with auth.kind {:?}", word(kind))));
        }
    }
}

fn client(checks: &mut Checks<'_>, name: &NameOfUpstream, upstream: &raw::Upstream) -> OAuthClient {
    let raw = &upstream.auth;
    if let Some(at) = static_header(upstream, AUTHORIZATION) {
        let fault = Fault::new("the header \"authorization\" is sent by auth already");
        checks.mistake(at, fault.hint("leave one of the two out"));
    }
    let issuer = checks.setting("auth.issuer", &raw.issuer, |text| issuer(text));
    let id = checks.setting("auth.client_id", &raw.client_id, |text| value::word(text));
    let secret = checks.secret("auth.client_secret", &raw.client_secret);
    if let Some(at) = raw.client_secret.get()
        && raw.client_id.get().is_none()
    {
        let fault = Fault::new("auth.client_secret needs auth.client_id");
        checks.missing(&path(name, ".auth"), at.place(), fault);
    }
    let scopes: Option<TokenList> = raw.scopes.value().map(|list| keys::tokens(checks, "auth.scopes", list));
    OAuthClient { issuer, client: id.map(|id| ClientCredentials { id, secret }), scopes }
}

/// An issuer that tokens are entrusted to: without TLS, only on this machine.
fn issuer(text: &str) -> Checked<String> {
    let issuer = value::issuer(text)?;
    let uri: http::Uri = issuer.parse().map_err(|_| Fault::new("is not a URL"))?;
    let is_here = |host: &str| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    };
    if uri.scheme_str() == Some("https") || uri.host().is_some_and(is_here) {
        Ok(issuer)
    } else {
        Err(Fault::new("must be an https URL").hint("http is for an issuer on a loopback address only"))
    }
}

/// Where the transport sends this header itself.
fn static_header(upstream: &raw::Upstream, name: &str) -> Option<Range<usize>> {
    let is_it = |at: &&At<String>| header_name(at.value()).is_ok_and(|own| own == name);
    upstream.headers.keys().find(is_it).map(At::place)
}

/// The names that people give values for, in the order of the file.
fn names(checks: &mut Checks<'_>, name: &NameOfUpstream, upstream: &raw::Upstream) -> Vec<String> {
    let raw = &upstream.auth;
    let list = raw.headers.value().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        let place = raw.headers.get().map_or_else(|| kind_place(raw), At::place);
        let fault = Fault::new("auth.kind \"per-user-headers\" needs auth.headers");
        checks.missing(&path(name, ".auth"), place, fault.hint("name the headers, as in [\"x-api-key\"]"));
    }
    if let Some(at) = list.get(MAX_NAMES) {
        checks.mistake(at.place(), Fault::new(format!("auth.headers must not be more than {MAX_NAMES}")));
    }
    let mut names: Vec<String> = Vec::new();
    for at in list {
        let setting = format!("auth.headers {:?}", at.value());
        let Some(found) = checks.accept(&setting, at.place(), header_name(at.value())) else { continue };
        if names.contains(&found) {
            checks.mistake(at.place(), Fault::new(format!("{setting} is there twice, perhaps in different spellings")));
        } else if static_header(upstream, &found).is_some() {
            checks.mistake(at.place(), Fault::new(format!("{setting} is among the upstream's headers already")));
        } else {
            names.push(found);
        }
    }
    names
}
