//! What of the catalog a request is about: the endpoint it came to, narrowed by what its headers ask for.
//!
//! Headers can only narrow: whatever they name, the caller's allow-list and the policies decide as before.

use std::sync::Arc;

use http::HeaderMap;

use crate::glob::Glob;
use crate::ids::UpstreamName;

/// Header that narrows to these upstreams, separated by commas.
const INCLUDE_UPSTREAMS: &str = "x-portcullis-include-upstreams";
/// Header that narrows to tools whose exposed names fit one of these patterns, separated by commas.
const INCLUDE_TOOLS: &str = "x-portcullis-include-tools";

/// Patterns in one header.
const MAX_PATTERNS: usize = 256;

/// What a request is about. The default is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    endpoint: Option<UpstreamName>,
    upstreams: Option<Arc<[Glob]>>,
    tools: Option<Arc<[Glob]>>,
}

/// Why a scope cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    #[error("there is no such endpoint")]
    NoSuchEndpoint,
    #[error("header `{header}` must be a list of at most {MAX_PATTERNS} names")]
    BadHeader { header: &'static str },
}

impl Scope {
    /// From the upstream that the path names, if it names one, and the request's headers.
    pub fn read(endpoint: Option<&str>, headers: &HeaderMap) -> Result<Self, ScopeError> {
        let endpoint = endpoint.map(UpstreamName::parse).transpose().map_err(|_| ScopeError::NoSuchEndpoint)?;
        Ok(Self {
            endpoint,
            upstreams: patterns(headers, INCLUDE_UPSTREAMS)?,
            tools: patterns(headers, INCLUDE_TOOLS)?,
        })
    }

    /// The one upstream whose endpoint it is, if it is not the common one.
    pub fn endpoint(&self) -> Option<&UpstreamName> {
        self.endpoint.as_ref()
    }

    /// Whether anything of this upstream is in it.
    pub fn has(&self, upstream: &UpstreamName) -> bool {
        self.endpoint.as_ref().is_none_or(|endpoint| endpoint == upstream)
            && self.upstreams.as_ref().is_none_or(|patterns| fits(patterns, upstream.as_str()))
    }

    /// Whether a tool of this upstream, seen under this name, is in it.
    pub fn has_tool(&self, upstream: &UpstreamName, exposed: &str) -> bool {
        self.has(upstream) && self.tools.as_ref().is_none_or(|patterns| fits(patterns, exposed))
    }
}

fn fits(patterns: &[Glob], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

/// Whether a pattern with this character can fit a name that callers see.
fn may_be_named(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'*')
}

fn patterns(headers: &HeaderMap, header: &'static str) -> Result<Option<Arc<[Glob]>>, ScopeError> {
    if !headers.contains_key(header) {
        return Ok(None);
    }
    let bad = || ScopeError::BadHeader { header };
    let mut patterns = Vec::new();
    for value in headers.get_all(header) {
        let value = value.to_str().map_err(|_| bad())?;
        for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            patterns.push(Glob::parse(name).filter(|_| name.bytes().all(may_be_named)).ok_or_else(bad)?);
        }
    }
    if patterns.len() > MAX_PATTERNS { Err(bad()) } else { Ok(Some(patterns.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(endpoint: Option<&str>, headers: &[(&'static str, &'static str)]) -> Result<Scope, ScopeError> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Scope::read(endpoint, &headers)
    }

    fn name(name: &str) -> UpstreamName {
        UpstreamName::parse(name).unwrap()
    }

    #[test]
    fn headers_narrow_and_nothing_widens() {
        let all = scope(None, &[]).unwrap();
        assert!(all.has(&name("notes")) && all.has_tool(&name("notes"), "notes__add"));
        let one = scope(Some("notes"), &[(INCLUDE_UPSTREAMS, "tracker, notes")]).unwrap();
        assert!(one.has(&name("notes")) && !one.has(&name("tracker")));
        let tools = scope(None, &[(INCLUDE_UPSTREAMS, "no*"), (INCLUDE_TOOLS, "notes__a*,tracker__list")]).unwrap();
        assert!(tools.has_tool(&name("notes"), "notes__add") && !tools.has_tool(&name("notes"), "notes__list"));
        assert!(!tools.has_tool(&name("tracker"), "tracker__list"));
        let nothing = scope(None, &[(INCLUDE_UPSTREAMS, "")]).unwrap();
        assert!(!nothing.has(&name("notes")), "an empty list names nothing");
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        assert!(matches!(scope(Some("No Such"), &[]), Err(ScopeError::NoSuchEndpoint)));
        for bad in ["ä", "a b", "a/b", "notes__add,\"x\""] {
            assert!(matches!(scope(None, &[(INCLUDE_TOOLS, bad)]), Err(ScopeError::BadHeader { .. })), "{bad}");
        }
    }
}
