//! `[upstreams.NAME]`: MCP servers behind the gateway.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use http::{HeaderName, HeaderValue};

use super::{Checks, MOST, upstream_auth, upstream_tls};
use crate::config::mistake::{Checked, Fault};
use crate::config::raw::{self, At, NameOfUpstream, Transport, defaults};
use crate::config::reference::{Reference, header_is_credential, variable_is_credential};
use crate::config::{Protocol, Upstream, UpstreamTransport, value};
use crate::connection::extra;
use crate::connection::header::{self, NotAName};
use crate::ids::UpstreamName;
use crate::secret::Plaintext;

pub(super) fn resolve(checks: &mut Checks<'_>, raw: &BTreeMap<NameOfUpstream, raw::Upstream>) -> Vec<Upstream> {
    at_most_one_bare(checks, raw);
    raw.iter().filter_map(|(name, upstream)| one(checks, name, upstream)).collect()
}

fn at_most_one_bare(checks: &mut Checks<'_>, raw: &BTreeMap<NameOfUpstream, raw::Upstream>) {
    let bare = |(name, upstream): (&NameOfUpstream, &raw::Upstream)| {
        let at = upstream.prefix.get().filter(|at| !at.value())?;
        Some((at.place(), name.as_str().to_owned()))
    };
    let mut bare: Vec<(Range<usize>, String)> = raw.iter().filter_map(bare).collect();
    bare.sort_by_key(|(place, _)| place.start);
    let Some(((_, first), others)) = bare.split_first() else { return };
    for (place, _) in others {
        let fault = Fault::new(format!("upstream {first} has prefix = false already"));
        checks.mistake(place.clone(), fault.hint("the tools of two bare upstreams could have the same name"));
    }
}

fn one(checks: &mut Checks<'_>, name: &NameOfUpstream, raw: &raw::Upstream) -> Option<Upstream> {
    let checked = UpstreamName::parse(name.as_str()).map_err(|error| Fault::new(error.to_string()));
    let checked = checked.map_err(|fault| checks.mistake(name.place(), fault)).ok();
    let transport = transport(checks, name, raw);
    let tls = upstream_tls::resolve(checks, raw);
    let call_timeout = checks.duration("call_timeout", &raw.call_timeout, defaults::CALL_TIMEOUT);
    let sync_interval = checks.duration("sync_interval", &raw.sync_interval, defaults::SYNC_INTERVAL);
    Some(Upstream {
        name: checked?,
        transport: transport?,
        prefix: raw.prefix.value().copied().unwrap_or(true),
        call_timeout,
        sync_interval,
        trust: raw.trust.value().cloned().unwrap_or_default(),
        labels: raw.labels.iter().map(|label| label.value().clone()).collect(),
        auth: upstream_auth::resolve(checks, name, raw),
        extra_headers: extra_headers(checks, raw),
        allow_on_all_keys: raw.allow_on_all_keys.value().copied().unwrap_or(false),
        tls,
    })
}

fn transport(checks: &mut Checks<'_>, name: &NameOfUpstream, raw: &raw::Upstream) -> Option<UpstreamTransport> {
    let transport = match (raw.transport.value(), raw.url.get(), raw.command.get()) {
        (Some(transport), _, _) => *transport,
        (None, Some(_), None) => Transport::StreamableHttp,
        (None, None, Some(_)) => Transport::Stdio,
        (None, Some(_), Some(_)) => {
            let fault = Fault::new(format!("upstream {} has both url and command", name.as_str()));
            checks.mistake(name.place(), fault);
            return None;
        }
        (None, None, None) => {
            missing(checks, name, "a url or a command");
            return None;
        }
    };
    not_of_this_transport(checks, transport, raw);
    match transport {
        Transport::StreamableHttp => streamable_http(checks, name, raw),
        Transport::Stdio => stdio(checks, name, raw),
    }
}

fn missing(checks: &mut Checks<'_>, name: &NameOfUpstream, what: &str) {
    let fault = Fault::new(format!("upstream {} needs {what}", name.as_str()));
    checks.missing(&format!("upstreams.{}", name.as_str()), name.place(), fault);
}

/// Settings that would do nothing are mistakes: whoever wrote them thought otherwise.
fn not_of_this_transport(checks: &mut Checks<'_>, transport: Transport, raw: &raw::Upstream) {
    let first = |map: &BTreeMap<At<String>, At<String>>| map.keys().map(At::place).min_by_key(|place| place.start);
    let http = [
        ("url", raw.url.get().map(At::place)),
        ("protocol", raw.protocol.get().map(At::place)),
        ("headers", first(&raw.headers)),
        ("allowed_extra_headers", raw.allowed_extra_headers.get().map(At::place)),
        ("tls", raw.tls.get().map(At::place)),
    ];
    let stdio = [
        ("command", raw.command.get().map(At::place)),
        ("environment", first(&raw.environment)),
        ("working_dir", raw.working_dir.get().map(At::place)),
        ("start_timeout", raw.start_timeout.get().map(At::place)),
        ("memory_limit", raw.memory_limit.get().map(At::place)),
        ("process_limit", raw.process_limit.get().map(At::place)),
    ];
    let (foreign, transport) = match transport {
        Transport::StreamableHttp => (stdio.as_slice(), "streamable-http"),
        Transport::Stdio => (http.as_slice(), "stdio"),
    };
    for (setting, place) in foreign {
        if let Some(place) = place {
            let fault = Fault::new(format!("{setting} has no meaning with the transport {transport}"));
            checks.mistake(place.clone(), fault);
        }
    }
}

fn streamable_http(checks: &mut Checks<'_>, name: &NameOfUpstream, raw: &raw::Upstream) -> Option<UpstreamTransport> {
    if raw.url.get().is_none() {
        missing(checks, name, "a url");
    }
    let url = checks.setting("url", &raw.url, |text| value::upstream_url(text));
    let headers = headers(checks, &raw.headers);
    let protocol = match raw.protocol.value() {
        None | Some(raw::Protocol::Auto) => Protocol::Auto,
        Some(raw::Protocol::Modern) => Protocol::Modern,
        Some(raw::Protocol::Legacy) => Protocol::Legacy,
        Some(raw::Protocol::Sse) => Protocol::Sse,
    };
    Some(UpstreamTransport::StreamableHttp { url: url?, protocol, headers })
}

pub(super) fn headers(checks: &mut Checks<'_>, raw: &BTreeMap<At<String>, At<String>>) -> BTreeMap<String, Plaintext> {
    let mut headers = BTreeMap::new();
    for (name, text) in raw {
        let setting = format!("header {:?}", name.value());
        let checked_name = checks.accept(&setting, name.place(), header_name(name.value()));
        let checked_value = header_value(checks, name.value(), text.value());
        let checked_value = checks.accept(&setting, text.place(), checked_value);
        let (Some(checked_name), Some(checked_value)) = (checked_name, checked_value) else { continue };
        if headers.insert(checked_name, checked_value).is_some() {
            checks.mistake(name.place(), Fault::new(format!("{setting} is there twice, in different spellings")));
        }
    }
    headers
}

/// Names of headers of callers that are passed on. One that the gateway sends itself, in whichever spelling, could take its
/// place at a server that knows no difference.
fn extra_headers(checks: &mut Checks<'_>, raw: &raw::Upstream) -> Vec<HeaderName> {
    let list = raw.allowed_extra_headers.value().map_or(&[][..], Vec::as_slice);
    if let Some(at) = list.get(extra::MAX_NAMES) {
        checks.mistake(
            at.place(),
            Fault::new(format!("allowed_extra_headers must not be more than {}", extra::MAX_NAMES)),
        );
    }
    let own = raw.headers.keys().chain(raw.auth.headers.value().into_iter().flatten());
    let own: Vec<String> = own.filter_map(|at| header_name(at.value()).ok()).collect();
    let mut names: Vec<HeaderName> = Vec::new();
    for at in list {
        let setting = format!("allowed_extra_headers {:?}", at.value());
        let checked = extra::name(at.value()).map_err(|error| match error {
            NotAName::Forbidden => Fault::new("is never passed on"),
            NotAName::NotAToken | NotAName::TooLong => Fault::new(error.to_string()),
        });
        let Some(found) = checks.accept(&setting, at.place(), checked) else { continue };
        let is_twin = |name: &str| extra::are_twins(name, found.as_str());
        if names.iter().any(|name| is_twin(name.as_str())) {
            checks.mistake(at.place(), Fault::new(format!("{setting} is there twice, perhaps in different spellings")));
        } else if own.iter().any(|name| is_twin(name)) {
            let fault = Fault::new(format!("{setting} is sent by the gateway already"));
            checks.mistake(at.place(), fault.hint("callers could say something else there"));
        } else {
            names.push(found);
        }
    }
    names
}

/// The name in lower case.
pub(in crate::config) fn header_name(name: &str) -> Checked<String> {
    header::name(name).map_err(|error| Fault::new(error.to_string()))
}

fn header_value(checks: &Checks<'_>, name: &str, text: &str) -> Checked<Plaintext> {
    let value = match Reference::parse_credential(text) {
        Some((None, reference)) => checks.secrets.fetch(reference)?,
        Some((Some(scheme), reference)) => {
            let secret = checks.secrets.fetch(reference)?;
            Plaintext::new(format!("{scheme} {}", secret.expose()))
        }
        None if header_is_credential(name) => return Err(must_be_reference("\"env:NAME\", \"Bearer env:NAME\"")),
        None => Plaintext::new(text),
    };
    let fits = HeaderValue::from_str(value.expose()).is_ok();
    if fits { Ok(value) } else { Err(Fault::new("has a value with characters that a header cannot carry")) }
}

fn must_be_reference(examples: &str) -> Fault {
    let hint = format!("keep the secret out of this file and refer to it: {examples} or \"file:PATH\"");
    Fault::new("looks like a credential and must be a reference").hint(hint)
}

fn stdio(checks: &mut Checks<'_>, name: &NameOfUpstream, raw: &raw::Upstream) -> Option<UpstreamTransport> {
    if raw.command.get().is_none() {
        missing(checks, name, "a command");
    }
    let command = checks.setting("command", &raw.command, |command| command_line(command));
    let environment = environment(checks, &raw.environment);
    let working_dir = working_dir(checks, raw);
    let start_timeout = checks.duration("start_timeout", &raw.start_timeout, defaults::START_TIMEOUT);
    let memory_limit = raw.memory_limit.get().map(|_| checks.size("memory_limit", &raw.memory_limit, "1B") as u64);
    let process_limit = raw.process_limit.get().map(|_| checks.count("process_limit", &raw.process_limit, 1, 1..=MOST));
    Some(UpstreamTransport::Stdio {
        command: command?,
        environment,
        working_dir,
        start_timeout,
        memory_limit,
        process_limit,
    })
}

fn command_line(words: &[At<String>]) -> Checked<Vec<String>> {
    let words: Vec<String> = words.iter().map(|word| word.value().clone()).collect();
    if words.first().is_none_or(String::is_empty) {
        return Err(Fault::new("must name a program").hint("write it like [\"program\", \"argument\"]"));
    }
    if words.iter().any(|word| word.contains('\0')) { Err(zero_byte()) } else { Ok(words) }
}

fn zero_byte() -> Fault {
    Fault::new("must not have zero bytes")
}

fn environment(checks: &mut Checks<'_>, raw: &BTreeMap<At<String>, At<String>>) -> BTreeMap<String, Plaintext> {
    let mut environment = BTreeMap::new();
    for (name, text) in raw {
        let setting = format!("environment variable {:?}", name.value());
        if name.value().is_empty() || name.value().contains(['=', '\0']) {
            checks.mistake(name.place(), Fault::new(format!("{setting} has a name that none can have")));
            continue;
        }
        let checked = variable_value(checks, name.value(), text.value());
        if let Some(checked) = checks.accept(&setting, text.place(), checked) {
            environment.insert(name.value().clone(), checked);
        }
    }
    environment
}

fn variable_value(checks: &Checks<'_>, name: &str, text: &str) -> Checked<Plaintext> {
    let value = match Reference::parse(text) {
        Some(reference) => checks.secrets.fetch(reference)?,
        None if variable_is_credential(name) => return Err(must_be_reference("\"env:NAME\"")),
        None => Plaintext::new(text),
    };
    if value.expose().contains('\0') { Err(zero_byte()) } else { Ok(value) }
}

fn working_dir(checks: &mut Checks<'_>, raw: &raw::Upstream) -> Option<PathBuf> {
    let path = checks.path("working_dir", &raw.working_dir)?;
    if !path.is_dir() {
        let place = raw.working_dir.get().map_or(0..0, At::place);
        checks.mistake(place, Fault::new(format!("working_dir {} is not a directory", path.display())));
    }
    Some(path)
}
