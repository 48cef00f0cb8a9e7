//! Who gets which authority: rules over grants, refreshes, client registrations and the release of credentials.
//!
//! Each hook has a list of rules of its own; the first that matches decides. Rules narrow what is requested and never
//! widen it: what is not on a rule's list of scopes is taken out, lifetimes are cut to the rule's.

use std::time::Duration;

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::{
    Approval, Client, Context, Credential, Denial, Glob, Grant, Manifest, Policy, Problem, Reason, Refresh, SelfTests,
    client, credential, export, grant, refresh,
};

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");

/// Most rules of one hook.
const MAX_RULES: usize = 500;
const SECONDS_OF_A_DAY: u64 = 24 * 60 * 60;
/// How long an operator may take to answer: nobody waits for it, the client comes again.
const ANSWER_TIME: Duration = Duration::from_secs(SECONDS_OF_A_DAY);

/// What the operator writes.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields, default)]
pub struct Config {
    grants: Vec<GrantRule>,
    /// What happens to a grant that no rule matches.
    grants_otherwise: Otherwise,
    refreshes: RefreshRules,
    registrations: Vec<RegistrationRule>,
    registrations_otherwise: Otherwise,
    credentials: Vec<CredentialRule>,
    credentials_otherwise: Otherwise,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grants: Vec::new(),
            grants_otherwise: Otherwise::Consent,
            refreshes: RefreshRules::default(),
            registrations: Vec::new(),
            registrations_otherwise: Otherwise::Allow,
            credentials: Vec::new(),
            credentials_otherwise: Otherwise::Allow,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Otherwise {
    Allow,
    /// Only for grants: the person is asked.
    Consent,
    Deny,
    Abstain,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Action {
    #[default]
    Allow,
    /// Only for grants: the person is asked.
    Consent,
    /// An operator has to agree.
    Approve,
    Deny,
}

/// Which clients, callers and upstreams a grant is about, and what they get.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct GrantRule {
    #[serde(default)]
    name: Option<String>,
    /// Patterns over client ids; no list: all.
    #[serde(default)]
    clients: Option<Vec<Glob>>,
    #[serde(default)]
    verified: Option<bool>,
    #[serde(default)]
    first_party: Option<bool>,
    /// The caller is in one of these.
    #[serde(default)]
    groups: Option<Vec<String>>,
    /// All upstreams that are asked for match one of these.
    #[serde(default)]
    upstreams: Option<Vec<Glob>>,
    #[serde(default)]
    action: Action,
    /// Patterns over the scopes that are granted; no list: all that are requested.
    #[serde(default)]
    scopes: Option<Vec<Glob>>,
    /// Patterns over `upstream/tool`.
    #[serde(default)]
    tools: Option<Vec<String>>,
    /// Seconds.
    #[serde(default)]
    access_ttl: Option<u32>,
    /// Seconds.
    #[serde(default)]
    refresh_ttl: Option<u32>,
    #[serde(default)]
    sender_constrained: bool,
    /// What the person reads before they agree, or who is refused reads.
    #[serde(default)]
    message: Option<String>,
}

/// When a refresh token has to be replaced by signing in again.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields, default)]
struct RefreshRules {
    /// Days since the grant was made.
    max_age_days: Option<u32>,
    /// Days since the token was last used.
    max_idle_days: Option<u32>,
    max_uses: Option<u32>,
}

/// Which registrations, and what becomes of them.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct RegistrationRule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    sources: Option<Vec<Source>>,
    /// Every redirect URI matches one of these.
    #[serde(default)]
    redirect_uris: Option<Vec<Glob>>,
    /// Every scope that is asked for matches one of these.
    #[serde(default)]
    scopes: Option<Vec<Glob>>,
    #[serde(default)]
    action: Action,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "kebab-case")]
enum Source {
    Dynamic,
    MetadataDocument,
    PreRegistered,
    Admin,
}

/// Which credentials may be released for which client, caller and purpose.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct CredentialRule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    upstreams: Option<Vec<Glob>>,
    /// Patterns over client ids; a virtual key used directly has the empty one.
    #[serde(default)]
    clients: Option<Vec<Glob>>,
    #[serde(default)]
    groups: Option<Vec<String>>,
    /// Such as `per-user-oauth`.
    #[serde(default)]
    kinds: Option<Vec<String>>,
    /// `call`, `sync` or `connect`.
    #[serde(default)]
    purposes: Option<Vec<String>>,
    /// Patterns over the upstream's own names of tools.
    #[serde(default)]
    tools: Option<Vec<Glob>>,
    #[serde(default)]
    action: Action,
    /// Patterns over the scopes that are released; no list: all that are requested.
    #[serde(default)]
    scopes: Option<Vec<Glob>>,
    /// Seconds since the credential was obtained.
    #[serde(default)]
    max_age: Option<u32>,
    #[serde(default)]
    message: Option<String>,
}

/// The policy.
pub struct ConsentRules {
    config: Config,
}

fn any(patterns: &[Glob], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

/// Whether a condition that may be left out holds for `name`.
fn fits(patterns: Option<&Vec<Glob>>, name: &str) -> bool {
    patterns.is_none_or(|patterns| any(patterns, name))
}

fn fits_all<'a>(patterns: Option<&Vec<Glob>>, mut names: impl Iterator<Item = &'a str>) -> bool {
    patterns.is_none_or(|patterns| names.all(|name| any(patterns, name)))
}

fn in_a_group(groups: Option<&Vec<String>>, ctx: &Context) -> bool {
    groups.is_none_or(|groups| groups.iter().any(|group| ctx.caller.is_in(group)))
}

fn is_one_of(words: Option<&Vec<String>>, word: &str) -> bool {
    words.is_none_or(|words| words.iter().any(|known| known == word))
}

/// The rule as the decision log names it.
fn named(name: Option<&str>, list: &str, at: usize) -> String {
    name.map_or_else(|| format!("{list}/{at}"), ToOwned::to_owned)
}

fn denial(code: &str, message: Option<&str>, default: &str, rule: String) -> Denial {
    Denial::new(code, message.unwrap_or(default)).rule(rule)
}

fn approval(code: &str, title: String, message: Option<&str>, rule: String) -> Approval {
    let reason = Reason::new(code, message.unwrap_or("An operator has to agree first.")).rule(rule);
    Approval::new(reason, title.clone(), message.map_or(title, ToOwned::to_owned)).by_operator().ttl(ANSWER_TIME)
}

impl GrantRule {
    fn matches(&self, ctx: &Context, request: &grant::Request) -> bool {
        let is = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        fits(self.clients.as_ref(), &request.client.id)
            && is(self.verified, request.client.verified)
            && is(self.first_party, request.client.first_party)
            && in_a_group(self.groups.as_ref(), ctx)
            && fits_all(self.upstreams.as_ref(), request.upstreams.iter().map(|upstream| upstream.id.as_str()))
    }

    fn terms(&self, request: &grant::Request, rule: &str) -> grant::Terms {
        let mut terms = grant::Terms::requested(request).note("rule", rule);
        if let Some(scopes) = &self.scopes {
            terms = terms.only_scopes(|scope| any(scopes, scope));
        }
        if let Some(tools) = &self.tools {
            terms = terms.tools(tools);
        }
        if let Some(seconds) = self.access_ttl {
            terms = terms.access_ttl(Duration::from_secs(seconds.min(request.access_ttl_s).into()));
        }
        if let (Some(seconds), Some(requested)) = (self.refresh_ttl, request.refresh_ttl_s) {
            terms = terms.refresh_ttl(Duration::from_secs(seconds.min(requested).into()));
        }
        if self.sender_constrained { terms.sender_constrained() } else { terms }
    }
}

/// What the person is asked.
fn consent(request: &grant::Request, terms: grant::Terms, message: Option<&str>) -> grant::Consent {
    let name = if request.client.name.is_empty() { &request.client.id } else { &request.client.name };
    let mut consent = grant::Consent::new(terms, format!("{name} asks for access"));
    if !request.client.verified {
        consent = consent.warning(format!("Nobody vouches for {name}."));
    }
    match message {
        Some(message) => consent.warning(message),
        None => consent,
    }
}

impl Grant for ConsentRules {
    fn authorize(&self, ctx: &Context, request: &grant::Request) -> grant::Decision {
        let found = self.config.grants.iter().enumerate().find(|(_, rule)| rule.matches(ctx, request));
        let Some((at, rule)) = found else {
            let terms = grant::Terms::requested(request);
            return match self.config.grants_otherwise {
                Otherwise::Allow => terms.into(),
                Otherwise::Consent if request.consent_on_file => terms.into(),
                Otherwise::Consent => consent(request, terms, None).into(),
                Otherwise::Deny => {
                    denial("consent-rules.grant", None, "No rule allows this grant.", "grants_otherwise".to_owned())
                        .into()
                }
                Otherwise::Abstain => grant::Decision::abstain(),
            };
        };
        let name = named(rule.name.as_deref(), "grants", at);
        let message = rule.message.as_deref();
        let terms = rule.terms(request, &name);
        if terms.scopes.is_empty() && !request.scopes.is_empty() {
            return denial("consent-rules.scopes", message, "None of the requested scopes may be granted.", name)
                .into();
        }
        match rule.action {
            Action::Allow => terms.into(),
            Action::Consent if request.consent_on_file => terms.into(),
            Action::Consent => consent(request, terms, message).into(),
            Action::Approve if ctx.is_satisfied("consent-rules.grant-approval") => terms.into(),
            Action::Approve => {
                let title = format!("Grant access to {}", request.client.id);
                approval("consent-rules.grant-approval", title, message, name).into()
            }
            Action::Deny => denial("consent-rules.grant", message, "This client gets no access here.", name).into(),
        }
    }
}

impl Refresh for ConsentRules {
    fn renew(&self, ctx: &Context, request: &refresh::Request) -> refresh::Decision {
        let rules = &self.config.refreshes;
        let now = ctx.now_ms / 1000;
        let older = |since: u64, days: Option<u32>| {
            days.is_some_and(|days| now.saturating_sub(since) > u64::from(days) * SECONDS_OF_A_DAY)
        };
        let over = [
            (request.reuse_detected, "consent-rules.reuse", "The refresh token was used twice."),
            (
                older(request.issued_at, rules.max_age_days),
                "consent-rules.too-old",
                "The grant is too old; sign in again.",
            ),
            (
                older(request.last_used, rules.max_idle_days),
                "consent-rules.idle",
                "The grant was not used for too long; sign in again.",
            ),
            (
                rules.max_uses.is_some_and(|max| request.uses >= max),
                "consent-rules.uses",
                "The grant was renewed too often; sign in again.",
            ),
        ];
        match over.into_iter().find(|(holds, ..)| *holds) {
            Some((_, code, message)) => refresh::Decision::deny(code, message),
            None => grant::Terms::granted(request).into(),
        }
    }
}

impl RegistrationRule {
    fn matches(&self, request: &client::Request) -> bool {
        let source = match request.source {
            client::Source::Dynamic => Source::Dynamic,
            client::Source::MetadataDocument => Source::MetadataDocument,
            client::Source::PreRegistered => Source::PreRegistered,
            client::Source::Admin => Source::Admin,
        };
        self.sources.as_ref().is_none_or(|sources| sources.contains(&source))
            && fits_all(self.redirect_uris.as_ref(), request.redirect_uris.iter().map(String::as_str))
            && fits_all(self.scopes.as_ref(), request.scopes.iter().map(String::as_str))
    }
}

impl Client for ConsentRules {
    fn register(&self, ctx: &Context, request: &client::Request) -> client::Decision {
        let found = self.config.registrations.iter().enumerate().find(|(_, rule)| rule.matches(request));
        let Some((at, rule)) = found else {
            return match self.config.registrations_otherwise {
                Otherwise::Allow => client::Decision::allow(),
                Otherwise::Abstain => client::Decision::abstain(),
                Otherwise::Deny | Otherwise::Consent => {
                    let rule = "registrations_otherwise".to_owned();
                    denial("consent-rules.client", None, "No rule allows this registration.", rule).into()
                }
            };
        };
        let name = named(rule.name.as_deref(), "registrations", at);
        let message = rule.message.as_deref();
        match rule.action {
            Action::Allow => client::Decision::allow(),
            Action::Approve if ctx.is_satisfied("consent-rules.client-approval") => client::Decision::allow(),
            Action::Approve => {
                approval("consent-rules.client-approval", "Register a client".to_owned(), message, name).into()
            }
            Action::Deny | Action::Consent => {
                denial("consent-rules.client", message, "This client may not register here.", name).into()
            }
        }
    }
}

impl CredentialRule {
    fn matches(&self, ctx: &Context, request: &credential::Request) -> bool {
        let tool = request.tool.as_deref();
        fits(self.upstreams.as_ref(), &request.upstream.id)
            && fits(self.clients.as_ref(), &ctx.caller.client_id)
            && in_a_group(self.groups.as_ref(), ctx)
            && is_one_of(self.kinds.as_ref(), &request.kind)
            && is_one_of(self.purposes.as_ref(), &request.purpose)
            && self.tools.as_ref().is_none_or(|patterns| tool.is_some_and(|tool| any(patterns, tool)))
    }
}

impl Credential for ConsentRules {
    fn release(&self, ctx: &Context, request: &credential::Request) -> credential::Decision {
        let found = self.config.credentials.iter().enumerate().find(|(_, rule)| rule.matches(ctx, request));
        let Some((at, rule)) = found else {
            return match self.config.credentials_otherwise {
                Otherwise::Allow => credential::Terms::requested(request).into(),
                Otherwise::Abstain => credential::Decision::abstain(),
                Otherwise::Deny | Otherwise::Consent => {
                    let rule = "credentials_otherwise".to_owned();
                    denial("consent-rules.credential", None, "No rule releases this credential.", rule).into()
                }
            };
        };
        let name = named(rule.name.as_deref(), "credentials", at);
        let message = rule.message.as_deref();
        let mut terms = credential::Terms::requested(request);
        if let Some(scopes) = &rule.scopes {
            terms = terms.only_scopes(|scope| any(scopes, scope));
        }
        if let Some(seconds) = rule.max_age {
            terms = terms.max_age(Duration::from_secs(seconds.into()));
        }
        match rule.action {
            Action::Allow => terms.into(),
            Action::Approve if ctx.is_satisfied("consent-rules.credential-approval") => terms.into(),
            Action::Approve => {
                let title = format!("Use a credential for {}", request.upstream.id);
                approval("consent-rules.credential-approval", title, message, name).into()
            }
            Action::Deny | Action::Consent => {
                denial("consent-rules.credential", message, "This credential is not released here.", name).into()
            }
        }
    }
}

impl Policy for ConsentRules {
    type Config = Config;

    fn manifest() -> Manifest {
        Manifest::new(
            "consent-rules",
            env!("CARGO_PKG_VERSION"),
            "Decides about grants, refreshes, clients and credentials by rules",
        )
        .license("Apache-2.0")
        .config(SCHEMA, SAMPLE)
        .time_dependent()
    }

    fn configure(config: Config) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        for (list, count) in [
            ("grants", config.grants.len()),
            ("registrations", config.registrations.len()),
            ("credentials", config.credentials.len()),
        ] {
            if count > MAX_RULES {
                problems.push(Problem::at(format!("/{list}"), format!("there are more than {MAX_RULES} rules")));
            }
        }
        let asks_for_consent = config
            .registrations
            .iter()
            .enumerate()
            .map(|(at, rule)| ("registrations", at, rule.action))
            .chain(config.credentials.iter().enumerate().map(|(at, rule)| ("credentials", at, rule.action)))
            .filter(|(.., action)| *action == Action::Consent);
        for (list, at, _) in asks_for_consent {
            problems.push(Problem::at(format!("/{list}/{at}/action"), "only grants are consented to"));
        }
        for (name, otherwise) in [
            ("registrations_otherwise", config.registrations_otherwise),
            ("credentials_otherwise", config.credentials_otherwise),
        ] {
            if otherwise == Otherwise::Consent {
                problems.push(Problem::at(format!("/{name}"), "only grants are consented to"));
            }
        }
        let is_empty = |list: Option<&Vec<Glob>>| list.is_some_and(Vec::is_empty);
        for (at, rule) in config.grants.iter().enumerate() {
            if is_empty(rule.clients.as_ref()) {
                problems.push(Problem::at(format!("/grants/{at}/clients"), "an empty list matches nothing"));
            }
            if rule.access_ttl == Some(0) {
                problems.push(Problem::at(format!("/grants/{at}/access_ttl"), "a token lives at least a second"));
            }
        }
        if problems.is_empty() { Ok(Self { config }) } else { Err(problems) }
    }
}

impl SelfTests for ConsentRules {
    const CASES: &'static str = include_str!("../cases.json");
}

export!(ConsentRules with grant, refresh, client, credential, self_tests);

#[cfg(test)]
mod tests {
    #[test]
    fn the_cases_come_out_as_written() {
        portcullis_guest_sdk::testing::cases::<super::ConsentRules>(include_str!("../cases.json"));
    }
}
