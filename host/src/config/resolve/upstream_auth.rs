//! `[upstreams.NAME.auth]`: what an upstream is shown as a credential, and whose that is.

use std::net::IpAddr;
use std::ops::Range;

use super::upstreams::header_name;
use super::{Checks, keys};
use crate::config::mistake::{Checked, Fault};
use crate::config::raw::{self, At, NameOfUpstream, Transport, UpstreamAuthKind, defaults};
use crate::config::{ClientCredentials, OAuthClient, SubjectOf, TokenExchange, UpstreamAuth, VouchedClaim, value};
use crate::connection::header::MAX_NAMES;
use crate::connection::variable;
use crate::identity::TokenList;

/// What OAuth sends its tokens in (RFC 6750 §2.1).
const AUTHORIZATION: &str = "authorization";

/// Most processes of one program, however many people use it.
const MOST_PROGRAMS: i64 = 1_024;

/// `/connect/link` is where links are opened, and no upstream's page.
const LINKS: &str = "link";

pub(super) fn resolve(checks: &mut Checks<'_>, name: &NameOfUpstream, upstream: &raw::Upstream) -> UpstreamAuth {
    let raw = &upstream.auth;
    let kind = raw.kind.value().copied().unwrap_or(UpstreamAuthKind::None);
    not_of_this_kind(checks, kind, raw);
    not_of_this_transport(checks, kind, upstream);
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
        UpstreamAuthKind::PerUserEnvironment => {
            let names = variables(checks, name, upstream);
            let max_programs =
                checks.count("auth.max_programs", &raw.max_programs, defaults::MAX_PROGRAMS, 1..=MOST_PROGRAMS);
            UpstreamAuth::PerUserEnvironment { names, max_programs }
        }
        UpstreamAuthKind::TokenExchange => {
            UpstreamAuth::TokenExchange(Box::new(token_exchange(checks, name, upstream)))
        }
    }
}

/// Whoever vouches for people signs that, and publishes by what others verify it.
pub(super) fn vouched_by_a_server(checks: &mut Checks<'_>, file: &raw::File) {
    if !matches!(file.auth.mcp.value(), Some(raw::AuthMode::Keys)) {
        return;
    }
    for upstream in file.upstreams.values() {
        if let Some(at) = upstream.auth.kind.get().filter(|at| matches!(at.value(), UpstreamAuthKind::TokenExchange)) {
            let fault = Fault::new("auth.kind \"token-exchange\" does not go with auth.mcp = \"keys\"");
            checks.mistake(
                at.place(),
                fault.hint("there are no people then, and nothing that signs what is said of them"),
            );
        }
    }
}

fn not_of_this_transport(checks: &mut Checks<'_>, kind: UpstreamAuthKind, upstream: &raw::Upstream) {
    let is_of_programs = matches!(kind, UpstreamAuthKind::PerUserEnvironment);
    let is_of_both = matches!(kind, UpstreamAuthKind::None);
    let (what, hint) = match (is_stdio(upstream), is_of_programs) {
        (true, false) if !is_of_both => {
            ("a program", "a program gets what is its own by environment, or per-user-environment")
        }
        (false, true) => ("a url", "what each person gives goes there by per-user-headers"),
        _ => return,
    };
    let fault = Fault::new(format!("auth.kind {:?} does not go with {what}", word(kind)));
    checks.mistake(kind_place(&upstream.auth), fault.hint(hint));
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
        UpstreamAuthKind::PerUserEnvironment => "per-user-environment",
        UpstreamAuthKind::TokenExchange => "token-exchange",
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
    let environment = [
        ("auth.environment", raw.environment.get().map(At::place)),
        ("auth.max_programs", raw.max_programs.get().map(At::place)),
    ];
    let exchange = [
        ("auth.audience", raw.audience.get().map(At::place)),
        ("auth.resource", raw.resource.get().map(At::place)),
        ("auth.subject", raw.subject.get().map(At::place)),
        ("auth.claims", raw.claims.get().map(At::place)),
    ];
    let foreign: [&[_]; 4] = match kind {
        UpstreamAuthKind::None | UpstreamAuthKind::StaticHeaders => [&oauth, &headers, &environment, &exchange],
        UpstreamAuthKind::SharedOAuth | UpstreamAuthKind::PerUserOAuth => [&headers, &environment, &exchange, &[]],
        UpstreamAuthKind::PerUserHeaders => [&oauth, &environment, &exchange, &[]],
        UpstreamAuthKind::PerUserEnvironment => [&oauth, &headers, &exchange, &[]],
        UpstreamAuthKind::TokenExchange => [&headers, &environment, &[], &[]],
    };
    for (setting, place) in foreign.concat() {
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

/// How the gateway vouches for people. Whoever does that has to show who it is itself.
fn token_exchange(checks: &mut Checks<'_>, name: &NameOfUpstream, upstream: &raw::Upstream) -> TokenExchange {
    let raw = &upstream.auth;
    // No person sees where they are sent: an upstream that chose the server would choose who hears all that.
    let issuer = ("auth.issuer", raw.issuer.get().is_some(), "name the authorization server that takes your word");
    let by_hand = "register a client there by hand";
    let client_id = ("auth.client_id", raw.client_id.get().is_some(), by_hand);
    let client_secret = ("auth.client_secret", raw.client_secret.get().is_some(), by_hand);
    for (setting, is_there, hint) in [issuer, client_id, client_secret] {
        if !is_there {
            let fault = Fault::new(format!("auth.kind \"token-exchange\" needs {setting}"));
            checks.missing(&path(name, ".auth"), kind_place(raw), fault.hint(hint));
        }
    }
    let subject = match raw.subject.value() {
        None | Some(raw::SubjectOf::Id) => SubjectOf::Id,
        Some(raw::SubjectOf::Login) => SubjectOf::Login,
        Some(raw::SubjectOf::Email) => SubjectOf::Email,
        Some(raw::SubjectOf::Provider) => SubjectOf::Provider,
    };
    let claim = |at: &At<raw::VouchedClaim>| match at.value() {
        raw::VouchedClaim::Login => VouchedClaim::Login,
        raw::VouchedClaim::Name => VouchedClaim::Name,
        raw::VouchedClaim::Email => VouchedClaim::Email,
        raw::VouchedClaim::Groups => VouchedClaim::Groups,
    };
    TokenExchange {
        client: client(checks, name, upstream),
        audience: checks.setting("auth.audience", &raw.audience, |text| value::word(text)),
        resource: checks.setting("auth.resource", &raw.resource, |text| resource(text)),
        subject,
        claims: raw.claims.value().into_iter().flatten().map(claim).collect(),
    }
}

/// RFC 8707 §2: an absolute URI without a fragment.
fn resource(text: &str) -> Checked<String> {
    value::upstream_url(text).map(|_| text.to_owned())
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

/// The names of variables that people give values for, in the order of the file.
fn variables(checks: &mut Checks<'_>, name: &NameOfUpstream, upstream: &raw::Upstream) -> Vec<String> {
    let raw = &upstream.auth;
    let list = raw.environment.value().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        let place = raw.environment.get().map_or_else(|| kind_place(raw), At::place);
        let fault = Fault::new("auth.kind \"per-user-environment\" needs auth.environment");
        checks.missing(&path(name, ".auth"), place, fault.hint("name the variables, as in [\"API_KEY\"]"));
    }
    if let Some(at) = list.get(MAX_NAMES) {
        checks.mistake(at.place(), Fault::new(format!("auth.environment must not be more than {MAX_NAMES}")));
    }
    let mut names: Vec<String> = Vec::new();
    for at in list {
        let setting = format!("auth.environment {:?}", at.value());
        let checked = variable::name(at.value()).map_err(|error| Fault::new(error.to_string()));
        let Some(found) = checks.accept(&setting, at.place(), checked) else { continue };
        if names.contains(&found) {
            checks.mistake(at.place(), Fault::new(format!("{setting} is there twice")));
        } else if upstream.environment.keys().any(|fixed| *fixed.value() == found) {
            checks.mistake(at.place(), Fault::new(format!("{setting} is among the upstream's environment already")));
        } else {
            names.push(found);
        }
    }
    names
}
