//! Who acts over MCP, once identity is established.

use std::sync::Arc;

use super::ToolScope;
use super::tokens::TokenList;
use crate::env::Timestamp;
use crate::identity::key::AllowList;
use crate::ids::{ClientId, GrantId, Principal, TokenId, UpstreamName};

/// A caller whose credential was checked. Only `identity` and `authorization` make one from a request.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Principal,
    /// The id of the OAuth client that acts; none where a virtual key is used directly.
    pub client: Option<Arc<str>>,
    /// What the principal may use at all, before any policy is asked.
    pub allow: Arc<AllowList>,
    /// What is left of that to a client, as policies have narrowed its grant.
    pub tools: ToolScope,
    /// For policies to read. Where a client acts in the name of a key, what both have.
    pub scopes: TokenList,
    /// For policies to read.
    pub groups: TokenList,
    /// What policies had the client's token say, as a JSON object; none if that is nothing.
    pub claims: Option<Arc<str>>,
    /// What let it in, if that was a token.
    pub pass: Option<Arc<Pass>>,
}

/// What an access token gave to a caller, for whatever goes on after it was checked: a stream, a session, a request that is
/// handed on to another replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    pub token: TokenId,
    /// The grant that the token follows from.
    pub grant: GrantId,
    pub client: ClientId,
    /// Those of the token.
    pub scopes: TokenList,
    pub tools: ToolScope,
    pub claims: Option<Arc<str>>,
    pub issued: Timestamp,
    pub expires: Timestamp,
    /// Which life of the store it is from.
    pub epoch: u64,
}

impl Caller {
    /// A principal that acts for itself, without scopes and groups.
    pub fn new(principal: Principal, allow: Arc<AllowList>) -> Self {
        Self {
            principal,
            client: None,
            allow,
            tools: ToolScope::default(),
            scopes: TokenList::default(),
            groups: TokenList::default(),
            claims: None,
            pass: None,
        }
    }

    /// The id of the client that acts, or the empty string where there is none.
    pub fn client_id(&self) -> &str {
        self.client.as_deref().unwrap_or_default()
    }

    /// Whether it may use this tool, before any policy is asked.
    pub fn may_use(&self, upstream: &UpstreamName, tool: &str) -> bool {
        self.allow.permits(upstream, tool) && self.tools.permits(upstream, tool)
    }

    /// Whether it may use anything of this upstream.
    pub fn reaches(&self, upstream: &UpstreamName) -> bool {
        self.allow.reaches(upstream) && self.tools.reaches(upstream)
    }

    /// Whether it may connect an account of its own at this upstream: whoever may use anything of it may, but a client whose
    /// grant was narrowed only if it is left with that.
    pub fn may_connect(&self, upstream: &UpstreamName, tool: &str) -> bool {
        self.allow.reaches(upstream) && self.tools.permits(upstream, tool)
    }

    /// Whether all of this upstream is its own to use, so that its prompts and resources are as well. A client whose grant
    /// was narrowed to some tools has these tools and nothing else.
    pub fn may_use_items(&self, upstream: &UpstreamName) -> bool {
        self.allow.permits_items(upstream) && self.has_every_tool(upstream)
    }

    /// Whether its client's grant was not narrowed where this upstream is concerned. What fits the pattern for all of an
    /// upstream's tools ends in `*` itself, and fits each of them.
    pub fn has_every_tool(&self, upstream: &UpstreamName) -> bool {
        self.tools.permits(upstream, "*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::Glob;
    use crate::identity::key::AllowEntry;

    #[test]
    fn a_client_may_use_what_both_its_principal_and_its_grant_have() {
        let upstream = |name| UpstreamName::parse(name).unwrap();
        let globs = |texts: &[&str]| texts.iter().map(|text| Glob::parse(text).unwrap()).collect::<Vec<_>>();
        let allow = AllowList(vec![
            AllowEntry { upstream: Glob::parse("notes").unwrap(), tools: vec![Glob::any()] },
            AllowEntry { upstream: Glob::parse("tracker").unwrap(), tools: globs(&["list"]) },
        ]);
        let narrowed = |lists: &[&[&str]]| Caller {
            tools: ToolScope(lists.iter().map(|texts| globs(texts)).collect()),
            ..Caller::new(Principal::Gateway, Arc::new(allow.clone()))
        };
        let whole = narrowed(&[]);
        assert!(whole.may_use(&upstream("notes"), "add") && whole.may_use_items(&upstream("notes")));
        assert!(whole.may_use(&upstream("tracker"), "list") && !whole.may_use(&upstream("tracker"), "close"));
        assert!(!whole.may_use_items(&upstream("tracker")));

        let some = narrowed(&[&["notes/l*", "tracker/*"]]);
        assert!(some.may_use(&upstream("notes"), "list") && !some.may_use(&upstream("notes"), "add"));
        assert!(some.may_use(&upstream("tracker"), "list"));
        assert!(!some.may_use(&upstream("tracker"), "close"), "it is not widened");
        assert!(!some.may_use_items(&upstream("notes")), "some tools and nothing else");

        assert!(some.reaches(&upstream("notes")) && !some.may_connect(&upstream("notes"), "connect"));
        assert!(some.may_connect(&upstream("tracker"), "connect"), "whatever tools the principal has");
        assert!(!some.reaches(&upstream("mail")), "the principal has nothing of it");
        let elsewhere = narrowed(&[&["*"], &["notes/list"]]);
        assert!(!elsewhere.reaches(&upstream("tracker")) && !elsewhere.may_connect(&upstream("tracker"), "connect"));

        let all = narrowed(&[&["*"], &["n*/*"]]);
        assert!(all.may_use_items(&upstream("notes")) && all.may_use(&upstream("notes"), "add"));
        assert!(!narrowed(&[&["*"], &["*/l*"]]).may_use_items(&upstream("notes")));
        assert!(!narrowed(&[&[]]).may_use(&upstream("notes"), "list"), "an empty list has nothing");
    }
}
