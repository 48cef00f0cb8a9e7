//! `[auth]` and `[outbound]`: who may call, and what the authorization server goes by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{allow_list, tokens};
use super::{Checks, Declared, MOST, pattern};
use crate::config::auth::{
    Auth, AuthAllow, AuthMode, ClientSettings, ConfiguredClient, Grants, Operators, Provider, ScopeWords, SignIn,
    TokenSettings, TrustedIssuer,
};
use crate::config::mistake::{Checked, Fault};
use crate::config::raw::{self, At, NameOfKey, Setting, defaults};
use crate::config::reference::Reference;
use crate::config::value;
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList};
use crate::ids::{ClientId, KeyName};
use crate::oauth::MAX_ACCESS_TOKEN_LIFE;
use crate::oauth::client::{Authentication, ClientOrigin, GrantType, KeySource, KnownClient, Lives, Metadata};
use crate::oauth::grant::{Grace, MAX_KEPT_AFTER_END, OnReuse};
use crate::oauth::redirect::RedirectUri;
use crate::oauth::registration::public_keys;
use crate::oauth::request::MAX_CONSENT_LIFE;
use crate::oauth::signing::Algorithm;
use crate::outbound::{Trusted, TrustedEntry};
use crate::secret::Plaintext;

/// The only scope where the file names none, and what it means.
const DEFAULT_SCOPE: (&str, &str) = ("mcp", "See and use the tools, prompts and resources that you may use");
/// Longest life of a code.
const MAX_CODE_LIFE: Duration = Duration::from_secs(10 * 60);
/// Longest age of a sign-in of an operator that still counts as new: none lives longer.
const MAX_STEP_UP_AFTER: Duration = Duration::from_secs(12 * 60 * 60);
/// The name of a provider at whose address the admin listener has something else: `/sign-in/again`.
const NOT_A_PROVIDER: &str = "again";
/// Largest file of a client's keys, in bytes.
const MAX_KEYS_FILE: u64 = Metadata::MAX_KEYS as u64;

pub(super) fn resolve(checks: &mut Checks<'_>, raw: &raw::Auth, declared: &Declared<'_>) -> Auth {
    let mcp = match raw.mcp.value() {
        Some(raw::AuthMode::Keys) => AuthMode::Keys,
        Some(raw::AuthMode::Oauth) => AuthMode::Oauth,
        Some(raw::AuthMode::Both) | None => AuthMode::Both,
    };
    let required = is(&raw.required, true);
    if let Some(at) = raw.required.get()
        && mcp == AuthMode::Oauth
        && !required
    {
        let fault = Fault::new("auth.required = false goes with auth.mcp = \"keys\" or \"both\" only");
        checks.mistake(at.place(), fault);
    }
    let clients = clients(checks, &raw.clients);
    Auth {
        mcp,
        required,
        anonymous_on_network: is(&raw.anonymous_on_network, false),
        guests: is(&raw.guests, false),
        scopes: scopes(checks, &raw.scopes),
        allow: AuthAllow {
            users: allow(checks, "auth.allow.users", raw.allow.users.value().map(Vec::as_slice), declared),
            groups: groups(checks, &raw.allow, declared),
            guests: allow(checks, "auth.allow.guests", raw.allow.guests.value().map(Vec::as_slice), declared),
        },
        tokens: token_settings(checks, &raw.tokens),
        clients,
        sign_in: SignIn {
            passwords: is(&raw.sign_in.passwords, true),
            session_idle: checks.duration("session_idle", &raw.sign_in.session_idle, defaults::BROWSER_IDLE),
            session_life: checks.duration("session_life", &raw.sign_in.session_life, defaults::BROWSER_LIFE),
        },
        operators: operators(checks, &raw.operators),
        providers: raw.providers.iter().filter_map(|(name, raw)| provider(checks, name, raw)).collect(),
        grants: grants(checks, &raw.grants),
    }
}

fn operators(checks: &mut Checks<'_>, raw: &raw::Operators) -> Operators {
    let step_up_after = checks.duration("step_up_after", &raw.step_up_after, defaults::STEP_UP_AFTER);
    at_most(checks, "step_up_after", &raw.step_up_after, step_up_after, MAX_STEP_UP_AFTER);
    Operators { step_up_after }
}

/// What may be private: `[outbound]`.
pub(super) fn outbound(checks: &mut Checks<'_>, raw: &raw::Outbound) -> Trusted {
    let entries: Vec<TrustedEntry> = checks.each("an entry of outbound.allow", &raw.allow, |text| {
        Trusted::parse(text).map_err(|error| Fault::new(format!("is {error}")))
    });
    entries.into_iter().fold(Trusted::none(), Trusted::with)
}

fn is(setting: &Setting<bool>, default: bool) -> bool {
    setting.value().copied().unwrap_or(default)
}

fn scopes(checks: &mut Checks<'_>, raw: &BTreeMap<String, At<String>>) -> Vec<ScopeWords> {
    if raw.is_empty() {
        let (name, words) = DEFAULT_SCOPE;
        return vec![ScopeWords { name: name.to_owned(), words: words.to_owned() }];
    }
    let list = TokenList::parse(raw.keys().cloned().collect());
    if let Err((position, error)) = list
        && let Some((name, words)) = raw.iter().nth(position)
    {
        checks.mistake(words.place(), Fault::new(format!("the scope {name:?} {error}")));
    }
    for (name, words) in raw {
        let text = words.value().trim();
        if text.is_empty() || text.len() > 200 || text.contains(char::is_control) {
            let fault = Fault::new(format!("the words for the scope {name:?} must be one line of 1 to 200 bytes"));
            checks.mistake(words.place(), fault);
        }
    }
    raw.iter().map(|(name, words)| ScopeWords { name: name.clone(), words: words.value().trim().to_owned() }).collect()
}

fn allow(
    checks: &mut Checks<'_>,
    path: &str,
    raw: Option<&[At<raw::Allow>]>,
    declared: &Declared<'_>,
) -> Arc<AllowList> {
    Arc::new(match raw {
        Some(raw) => allow_list(checks, path, raw, declared),
        None => {
            let any = || Glob::parse("*").expect("a star is a pattern");
            AllowList(vec![AllowEntry { upstream: any(), tools: vec![any()] }])
        }
    })
}

/// Lists of whole upstreams, by group.
fn groups(checks: &mut Checks<'_>, raw: &raw::AuthAllow, declared: &Declared<'_>) -> BTreeMap<String, AllowList> {
    let mut groups = BTreeMap::new();
    let needless = raw.users.get().is_none();
    for (group, upstreams) in &raw.groups {
        if let Err((_, error)) = TokenList::parse(vec![group.value().clone()]) {
            checks.mistake(group.place(), Fault::new(error.to_string()).of(format_args!("group {:?}", group.value())));
        }
        let name = format!("auth.allow.groups.{}", group.value());
        let whole = |upstream| AllowEntry { upstream, tools: vec![Glob::any()] };
        let entries = upstreams.iter().filter_map(|at| checks.upstream_pattern(&name, at, declared)).map(whole);
        groups.insert(group.value().clone(), AllowList(entries.collect()));
    }
    if needless && let Some(first) = raw.groups.keys().min_by_key(|group| group.place().start) {
        let fault = Fault::new("auth.allow.groups has no meaning without auth.allow.users");
        checks.mistake(first.place(), fault.hint("without users = […] every person may use everything"));
    }
    groups
}

fn token_settings(checks: &mut Checks<'_>, raw: &raw::Tokens) -> TokenSettings {
    let access_life = checks.duration("access_life", &raw.access_life, defaults::ACCESS_LIFE);
    at_most(checks, "access_life", &raw.access_life, access_life, MAX_ACCESS_TOKEN_LIFE);
    let code_life = checks.duration("code_life", &raw.code_life, defaults::CODE_LIFE);
    at_most(checks, "code_life", &raw.code_life, code_life, MAX_CODE_LIFE);
    let consent_life = checks.duration("consent_life", &raw.consent_life, defaults::CONSENT_LIFE);
    at_most(checks, "consent_life", &raw.consent_life, consent_life, MAX_CONSENT_LIFE);
    let grace = checks.duration_or_zero("refresh_grace", &raw.refresh_grace, defaults::REFRESH_GRACE);
    at_most(checks, "refresh_grace", &raw.refresh_grace, grace, Grace::MAX_WINDOW);
    let replays = checks.count("refresh_replays", &raw.refresh_replays, defaults::REFRESH_REPLAYS, 1..=10_000);
    let keep_ended = checks.retention("keep_ended", &raw.keep_ended, defaults::KEEP_ENDED);
    at_most(checks, "keep_ended", &raw.keep_ended, keep_ended, MAX_KEPT_AFTER_END);
    let key_rotation = checks.duration("key_rotation", &raw.key_rotation, defaults::KEY_ROTATION);
    let key_announce = checks.duration("key_announce", &raw.key_announce, defaults::KEY_ANNOUNCE);
    if key_announce >= key_rotation {
        let place = raw.key_announce.get().or(raw.key_rotation.get()).map_or(0..0, At::place);
        checks.mistake(place, Fault::new("key_announce must be shorter than key_rotation"));
    }
    TokenSettings {
        algorithm: match raw.algorithm.value() {
            Some(raw::SigningAlgorithm::Es256) => Algorithm::Es256,
            Some(raw::SigningAlgorithm::EdDsa) => Algorithm::EdDsa,
            Some(raw::SigningAlgorithm::Rs256) | None => Algorithm::Rs256,
        },
        access_life,
        code_life,
        consent_life,
        refresh_idle: checks.duration("refresh_idle", &raw.refresh_idle, defaults::REFRESH_IDLE),
        refresh_life: checks.duration("refresh_life", &raw.refresh_life, defaults::REFRESH_LIFE),
        grace: Grace::new(grace, replays),
        keep_ended,
        key_rotation,
        key_announce,
    }
}

fn at_most(checks: &mut Checks<'_>, name: &str, setting: &Setting<raw::Time>, value: Duration, most: Duration) {
    if let Some(at) = setting.get()
        && value > most
    {
        let most = humantime::format_duration(most);
        checks.mistake(at.place(), Fault::new(format!("{name} must not be longer than {most}")));
    }
}

fn clients(checks: &mut Checks<'_>, raw: &raw::Clients) -> ClientSettings {
    let schemes = match raw.redirect_schemes.value() {
        Some(schemes) => checks.each("an entry of redirect_schemes", schemes, |text| scheme(text)),
        None => defaults::REDIRECT_SCHEMES.map(str::to_owned).to_vec(),
    };
    ClientSettings {
        registration: is(&raw.registration, true),
        metadata_documents: is(&raw.metadata_documents, true),
        document_hosts: checks.each("an entry of document_hosts", &raw.document_hosts, |text| pattern(text)),
        max_registered: checks.count("max_registered", &raw.max_registered, defaults::MAX_CLIENTS, 1..=MOST),
        lives: Lives {
            unused: checks.retention("unused", &raw.unused, defaults::CLIENT_UNUSED),
            inactive: checks.retention("inactive", &raw.inactive, defaults::CLIENT_INACTIVE),
        },
        registrations_per_minute: checks.count(
            "registrations_per_minute",
            &raw.registrations_per_minute,
            defaults::REGISTRATIONS,
            1..=MOST,
        ),
        known: raw.known.iter().filter_map(|(name, raw)| known(checks, name, raw, &schemes)).collect(),
        schemes,
    }
}

fn scheme(text: &str) -> Checked<String> {
    let probe = format!("{text}://probe");
    match RedirectUri::parse(&probe, &[text.to_owned()]) {
        Ok(_) if !matches!(text, "http" | "https") => Ok(text.to_owned()),
        Ok(_) => Err(Fault::new("is always there")),
        Err(error) => Err(Fault::new(format!("cannot be a scheme of redirect URIs: {error}"))),
    }
}

fn known(
    checks: &mut Checks<'_>,
    name: &NameOfKey,
    raw: &raw::KnownClient,
    schemes: &[String],
) -> Option<ConfiguredClient> {
    let id = KeyName::parse(name.as_str()).map_err(|error| Fault::new(error.to_string()));
    let id = id.map_err(|fault| checks.mistake(name.place(), fault)).ok();
    let grant_types = checks.each("an entry of grant_types", &raw.grant_types, |text| {
        GrantType::parse(text).ok_or_else(|| Fault::new("is no grant type that there is"))
    });
    let grant_types = match grant_types.is_empty() {
        true => vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        false => grant_types,
    };
    let redirect_uris = checks.each("an entry of redirect_uris", &raw.redirect_uris, |text| {
        RedirectUri::parse(text, schemes).map(|_| text.clone()).map_err(|error| Fault::new(error.to_string()))
    });
    if raw.redirect_uris.is_empty() && grant_types.contains(&GrantType::AuthorizationCode) {
        let fault = Fault::new(format!("client {} needs redirect_uris", name.as_str()));
        checks.missing(&format!("auth.clients.known.{}", name.as_str()), name.place(), fault);
    }
    let secret = checks.secret("secret", &raw.secret);
    let keys = checks.path("jwks", &raw.jwks).and_then(|path| {
        let place = raw.jwks.get().map_or(0..0, At::place);
        let read = crate::config::reference::read_text(&path, MAX_KEYS_FILE);
        let text = checks.accept("jwks", place.clone(), read)?;
        let parsed = serde_json::from_str(&text).map_err(|error| Fault::new(format!("is no JSON: {error}")));
        let keys = parsed.and_then(|keys| public_keys(&keys).map_err(|error| Fault::new(error.to_string())));
        checks.accept("jwks", place, keys)
    });
    let authentication = match (secret, keys) {
        (Some(secret), None) => Authentication::SecretBasic(secret.digest()),
        (None, Some(keys)) => Authentication::PrivateKey(KeySource::Inline(keys)),
        (None, None) => Authentication::Public,
        (Some(_), Some(_)) => {
            let fault = Fault::new(format!("client {} has both secret and jwks", name.as_str()));
            checks.mistake(name.place(), fault);
            Authentication::Public
        }
    };
    let key =
        checks.setting("key", &raw.key, |text| KeyName::parse(text).map_err(|error| Fault::new(error.to_string())));
    let scopes = tokens(checks, "scopes", &raw.scopes);
    let title = raw.name.value().map(|title| title.trim().to_owned()).filter(|title| !title.is_empty());
    let id = ClientId::parse(id?.as_str())?;
    let metadata = Metadata { name: title, redirect_uris, grant_types, scopes, ..Metadata::default() };
    let client = KnownClient {
        id,
        origin: ClientOrigin::Configured,
        metadata,
        authentication,
        on_reuse: match raw.on_reuse.value() {
            Some(raw::OnReuse::Reject) => OnReuse::Reject,
            Some(raw::OnReuse::RevokeFamily) | None => OnReuse::RevokeFamily,
        },
        requires_pushed: is(&raw.requires_pushed, false),
        requires_proof: is(&raw.requires_proof, false),
    };
    Some(ConfiguredClient { client, key })
}

fn provider(checks: &mut Checks<'_>, name: &NameOfKey, raw: &raw::Provider) -> Option<Provider> {
    let checked = KeyName::parse(name.as_str()).map_err(|error| Fault::new(error.to_string()));
    let checked = checked.map_err(|fault| checks.mistake(name.place(), fault)).ok();
    if name.as_str() == NOT_A_PROVIDER {
        let fault = Fault::new(format!("no provider can be called {NOT_A_PROVIDER}"));
        checks.mistake(name.place(), fault.hint("its name stands in addresses, and this one is taken: choose another"));
    }
    if raw.issuer.get().is_none() || raw.client_id.get().is_none() {
        let fault = Fault::new(format!("provider {} needs issuer and client_id", name.as_str()));
        checks.missing(&format!("auth.providers.{}", name.as_str()), name.place(), fault);
    }
    let issuer = checks.setting("issuer", &raw.issuer, |text| value::issuer(text));
    let client_id = checks.setting("client_id", &raw.client_id, |text| value::word(text));
    let client_secret = checks.secret("client_secret", &raw.client_secret);
    let scopes = tokens(checks, "scopes", &raw.scopes);
    let label = checks.setting("label", &raw.label, |text| value::word(text));
    let groups_claim = checks.setting("groups_claim", &raw.groups_claim, |text| value::word(text));
    Some(Provider {
        label: label.unwrap_or_else(|| name.as_str().to_owned()),
        name: checked?,
        issuer: issuer?,
        client_id: client_id?,
        client_secret,
        scopes,
        admits_everyone: matches!(raw.admit.value(), Some(raw::Admit::Everyone)),
        groups_claim,
    })
}

fn grants(checks: &mut Checks<'_>, raw: &raw::Grants) -> Grants {
    let mut identity_assertions = Vec::new();
    for at in &raw.identity_assertions {
        let trusted = at.value();
        if trusted.issuer.get().is_none() {
            checks.mistake(at.place(), Fault::new("an entry of identity_assertions needs issuer"));
        }
        let jwks_uri = checks.setting("jwks_uri", &trusted.jwks_uri, |text| value::issuer(text));
        if let Some(issuer) = checks.setting("issuer", &trusted.issuer, |text| value::issuer(text)) {
            identity_assertions.push(TrustedIssuer { issuer, jwks_uri });
        }
    }
    Grants {
        client_credentials: is(&raw.client_credentials, false),
        device: is(&raw.device, false),
        token_exchange: is(&raw.token_exchange, false),
        identity_assertions,
    }
}

impl Checks<'_> {
    /// What a reference leads to.
    pub(super) fn secret(&mut self, name: &str, setting: &Setting<String>) -> Option<Plaintext> {
        let at = setting.get()?;
        let hint = "keep the secret out of this file and refer to it: \"env:NAME\" or \"file:PATH\"";
        let reference = Reference::parse(at.value()).ok_or_else(|| Fault::new("must be a reference").hint(hint));
        let fetched = reference.and_then(|reference| self.secrets.fetch(reference));
        self.accept(name, at.place(), fetched)
    }
}
