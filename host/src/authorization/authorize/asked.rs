//! What a client asks for: every check after it is known whom an answer goes to, in order. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::check::Check;
use super::parameters::Parameters;
use crate::config::Auth;
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::UpstreamName;
use crate::oauth::ResourceList;
use crate::oauth::client::{GrantType, KnownClient};
use crate::oauth::request::MAX_TEXT_BYTES;
use crate::secret::Digest;

/// Characters of a SHA-256 digest in base64url.
const DIGEST_CHARS: usize = 43;
/// What clients of OpenID Connect ask for when they want to refresh. Refreshing is a matter of the client here.
const OFFLINE: &str = "offline_access";
/// The scope of a client that says nothing, where it exists.
const DEFAULT_SCOPE: &str = "mcp";

/// An authorization request that may be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub challenge: Digest,
    /// Thumbprint of the key that the client will prove to have.
    pub proof: Option<Digest>,
    pub resources: ResourceList,
    pub scopes: TokenList,
    pub prompt: Prompt,
    pub max_age: Option<Duration>,
}

/// How the client wants the person to be asked (OpenID Connect Core §3.1.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Not at all.
    pub none: bool,
    /// To show again who they are.
    pub login: bool,
    /// Whatever is remembered.
    pub consent: bool,
    /// As whom to go on.
    pub select_account: bool,
}

/// What requests are held against.
pub struct Against<'a> {
    pub settings: &'a Auth,
    pub issuer: &'a str,
    /// The upstreams that there are.
    pub upstreams: &'a BTreeSet<UpstreamName>,
    /// Whether it came as a pushed request.
    pub was_pushed: bool,
}

impl Asked {
    /// What a client asks for.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn read(client: &KnownClient, parameters: &Parameters, against: &Against<'_>) -> Result<Self, Check> {
        parameters.each_once()?;
        let is = |holds: bool, check| if holds { Ok(()) } else { Err(check) };
        is(against.was_pushed || !client.requires_pushed, Check::PushRequired)?;
        is(parameters.once("request")?.is_none(), Check::RequestObject)?;
        is(parameters.once("request_uri")?.is_none(), Check::RequestUri)?;
        let response_type = parameters.once("response_type")?.filter(|wanted| !wanted.is_empty());
        is(response_type.is_some(), Check::NoResponseType)?;
        is(response_type == Some("code"), Check::ResponseType)?;
        is(parameters.once("response_mode")?.is_none_or(|mode| mode == "query"), Check::ResponseMode)?;
        is(client.allows(GrantType::AuthorizationCode), Check::GrantType)?;
        is(parameters.once("state")?.is_none_or(|state| state.len() <= MAX_TEXT_BYTES), Check::State)?;
        is(parameters.once("code_challenge_method")? == Some("S256"), Check::Challenge)?;
        Ok(Self {
            challenge: parameters.once("code_challenge")?.and_then(digest).ok_or(Check::Challenge)?,
            resources: resources(parameters, against)?,
            scopes: scopes(client, parameters.once("scope")?, against.settings)?,
            prompt: prompt(parameters.once("prompt")?)?,
            max_age: parameters.once("max_age")?.map(max_age).transpose()?,
            proof: parameters.once("dpop_jkt")?.map(|text| digest(text).ok_or(Check::ProofKey)).transpose()?,
        })
    }

    /// Since when a person has to have shown who they are, if they have to have lately.
    pub fn signed_in_since(&self, now: Timestamp) -> Option<Timestamp> {
        if self.prompt.login { Some(now) } else { self.max_age.map(|age| now.before(age)) }
    }
}

fn digest(text: &str) -> Option<Digest> {
    let bytes = URL_SAFE_NO_PAD.decode(Some(text).filter(|text| text.len() == DIGEST_CHARS)?).ok()?;
    bytes.try_into().ok().map(Digest::from_bytes)
}

/// The endpoint of all upstreams, or those of some; without any, the first (row A6).
fn resources(parameters: &Parameters, against: &Against<'_>) -> Result<ResourceList, Check> {
    let common = common_resource(against.issuer);
    let mut wanted: Vec<String> = Vec::new();
    for resource in parameters.resources() {
        let of_upstream = resource.strip_prefix(&common).and_then(|rest| rest.strip_prefix('/'));
        let is_ours = match of_upstream {
            Some(name) => UpstreamName::parse(name).is_ok_and(|name| against.upstreams.contains(&name)),
            None => resource == common,
        };
        if !is_ours {
            return Err(Check::Resource);
        }
        if !wanted.iter().any(|known| known == resource) {
            wanted.push(resource.to_owned());
        }
    }
    if wanted.is_empty() {
        wanted.push(common);
    }
    ResourceList::parse(wanted).ok_or(Check::Resource)
}

/// The resource of the endpoint for all upstreams.
fn common_resource(issuer: &str) -> String {
    format!("{issuer}{}", crate::oauth::metadata::ENDPOINT)
}

/// The upstreams that resources are about, of those that there are.
pub fn upstreams_of(issuer: &str, resources: &ResourceList, all: &BTreeSet<UpstreamName>) -> Vec<UpstreamName> {
    let common = common_resource(issuer);
    let is_meant = |name: &&UpstreamName| {
        resources.iter().any(|resource| *resource == common || *resource == format!("{common}/{name}"))
    };
    all.iter().filter(is_meant).cloned().collect()
}

fn scopes(client: &KnownClient, wanted: Option<&str>, settings: &Auth) -> Result<TokenList, Check> {
    let exists = |scope: &str| settings.scopes.iter().any(|known| known.name == scope);
    let registered = &client.metadata.scopes;
    let list = |scopes: Vec<String>| TokenList::parse(scopes).map_err(|_| Check::Scope);
    let words = wanted.unwrap_or_default().split(' ').filter(|word| !word.is_empty() && *word != OFFLINE);
    let mut asked: Vec<String> = Vec::new();
    for word in words {
        let may = exists(word) && (registered.is_empty() || registered.iter().any(|scope| scope == word));
        if !may || asked.len() >= TokenList::MAX_COUNT {
            return Err(Check::Scope);
        }
        if !asked.iter().any(|known| known == word) {
            asked.push(word.to_owned());
        }
    }
    if asked.is_empty() {
        asked = registered.iter().filter(|scope| exists(scope)).cloned().collect();
    }
    if asked.is_empty() && registered.iter().all(|scope| scope == OFFLINE) {
        let default = if exists(DEFAULT_SCOPE) {
            Some(DEFAULT_SCOPE)
        } else {
            settings.scopes.first().map(|known| known.name.as_str())
        };
        asked.extend(default.map(str::to_owned));
    }
    if asked.is_empty() { Err(Check::Scope) } else { list(asked) }
}

fn prompt(wanted: Option<&str>) -> Result<Prompt, Check> {
    let mut prompt = Prompt::default();
    for word in wanted.unwrap_or_default().split(' ').filter(|word| !word.is_empty()) {
        match word {
            "none" => prompt.none = true,
            "login" => prompt.login = true,
            "consent" => prompt.consent = true,
            "select_account" => prompt.select_account = true,
            _ => return Err(Check::Prompt),
        }
    }
    let Prompt { none, login, consent, select_account } = prompt;
    if none && (login || consent || select_account) { Err(Check::Prompt) } else { Ok(prompt) }
}

fn max_age(text: &str) -> Result<Duration, Check> {
    let is_number = text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse::<u64>().ok().filter(|_| is_number);
    seconds.map(Duration::from_secs).ok_or(Check::MaxAge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization::consent::testing::client;

    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    const ISSUER: &str = "https://gate.example";

    fn read_as(client: &KnownClient, query: &str) -> Result<Asked, Check> {
        let upstreams: BTreeSet<UpstreamName> =
            ["notes", "tracker"].map(|name| UpstreamName::parse(name).unwrap()).into();
        let settings = Auth::unset();
        let against = Against { settings: &settings, issuer: ISSUER, upstreams: &upstreams, was_pushed: false };
        Asked::read(client, &Parameters::parse(query).unwrap(), &against)
    }

    /// With everything that is needed, and this.
    fn read(more: &str) -> Result<Asked, Check> {
        let query = format!("response_type=code&code_challenge={CHALLENGE}&code_challenge_method=S256&{more}");
        read_as(&client("app"), &query)
    }

    #[test]
    fn a4_a_challenge_is_a_digest_of_sha_256() {
        let short = &CHALLENGE[1..];
        for (query, expected) in [
            (format!("code_challenge={CHALLENGE}&code_challenge_method=S256"), None),
            (String::new(), Some(Check::Challenge)),
            (format!("code_challenge={CHALLENGE}"), Some(Check::Challenge)),
            (format!("code_challenge={CHALLENGE}&code_challenge_method=plain"), Some(Check::Challenge)),
            (format!("code_challenge={CHALLENGE}&code_challenge_method=s256"), Some(Check::Challenge)),
            (format!("code_challenge={CHALLENGE}&code_challenge_method="), Some(Check::Challenge)),
            ("code_challenge_method=S256".to_owned(), Some(Check::Challenge)),
            ("code_challenge=&code_challenge_method=S256".to_owned(), Some(Check::Challenge)),
            (format!("code_challenge={short}&code_challenge_method=S256"), Some(Check::Challenge)),
            (format!("code_challenge={CHALLENGE}A&code_challenge_method=S256"), Some(Check::Challenge)),
            (format!("code_challenge={short}%2B&code_challenge_method=S256"), Some(Check::Challenge)),
            (format!("code_challenge={short}%3D&code_challenge_method=S256"), Some(Check::Challenge)),
        ] {
            let read = read_as(&client("app"), &format!("response_type=code&{query}"));
            assert_eq!(read.err(), expected, "{query}");
        }
        assert_eq!(Check::Challenge.error(), "invalid_request");
    }

    #[test]
    fn a5_each_parameter_comes_once_and_odd_ones_are_refused() {
        let base =
            format!("response_type=code&code_challenge={CHALLENGE}&code_challenge_method=S256&state=s&scope=mcp");
        for name in ["response_type", "code_challenge", "code_challenge_method", "state", "scope", "unknown", "prompt"]
        {
            let query = format!("{base}&unknown=1&prompt=login&{name}=x");
            let refused = read_as(&client("app"), &query).unwrap_err();
            assert_eq!(refused, Check::Repeated(name.to_owned()));
            assert_eq!(refused.error(), "invalid_request");
        }
        for (more, error) in [
            ("request=eyJ", "request_not_supported"),
            ("request_uri=https%3A%2F%2Fapp.example%2Frequest", "request_uri_not_supported"),
            ("response_mode=fragment", "invalid_request"),
            ("response_mode=form_post", "invalid_request"),
        ] {
            assert_eq!(read(more).unwrap_err().error(), error, "{more}");
        }
        assert!(read("response_mode=query&unknown=1").is_ok());
        let nothing = format!("response_type=&code_challenge={CHALLENGE}&code_challenge_method=S256");
        assert_eq!(read_as(&client("app"), &nothing), Err(Check::NoResponseType));
        for response_type in ["token", "id_token", "code+token", "none", "CODE"] {
            let query = format!("response_type={response_type}&code_challenge={CHALLENGE}&code_challenge_method=S256");
            assert_eq!(read_as(&client("app"), &query), Err(Check::ResponseType), "{response_type}");
        }
        let no_codes = KnownClient {
            metadata: crate::oauth::client::Metadata { grant_types: Vec::new(), ..client("app").metadata },
            ..client("app")
        };
        let query = format!("response_type=code&code_challenge={CHALLENGE}&code_challenge_method=S256");
        assert_eq!(read_as(&no_codes, &query), Err(Check::GrantType));
        let pushes = KnownClient { requires_pushed: true, ..client("app") };
        assert_eq!(read_as(&pushes, &query), Err(Check::PushRequired));
    }

    #[test]
    fn a6_resources_are_ours_or_refused() {
        let wanted = |more: &str| read(more).map(|asked| asked.resources.to_vec());
        let encoded = |resource: &str| format!("resource={}", resource.replace(':', "%3A").replace('/', "%2F"));
        assert_eq!(wanted("").unwrap(), ["https://gate.example/mcp"]);
        for fine in ["https://gate.example/mcp", "https://gate.example/mcp/notes"] {
            assert_eq!(wanted(&encoded(fine)).unwrap(), [fine]);
        }
        let both = format!(
            "{0}&{1}&{0}",
            encoded("https://gate.example/mcp/tracker"),
            encoded("https://gate.example/mcp/notes")
        );
        assert_eq!(wanted(&both).unwrap(), ["https://gate.example/mcp/tracker", "https://gate.example/mcp/notes"]);
        for foreign in [
            "https://evil.example/mcp",
            "https://gate.example",
            "https://gate.example/",
            "https://gate.example/mcp/",
            "https://gate.example/mcp/nothing",
            "https://gate.example/mcp/notes/x",
            "https://gate.example/mcp/../mcp",
            "https://gate.example/mcpx",
            "https://gate.example/mcp#x",
            "https://gate.example/mcp?x",
            "https://gate.example.evil.example/mcp",
            "https://user@gate.example/mcp",
            "http://gate.example/mcp",
            "HTTPS://gate.example/mcp",
            "/mcp",
            "mcp",
        ] {
            assert_eq!(wanted(&encoded(foreign)), Err(Check::Resource), "{foreign}");
            let mixed = format!("{}&{}", encoded("https://gate.example/mcp"), encoded(foreign));
            assert_eq!(wanted(&mixed), Err(Check::Resource), "{foreign}");
        }
        assert_eq!(Check::Resource.error(), "invalid_target");
    }

    #[test]
    fn scopes_are_those_that_exist_and_that_the_client_may_ask_for() {
        let wanted = |more: &str| read(more).map(|asked| asked.scopes.to_vec());
        assert_eq!(wanted("").unwrap(), ["mcp"]);
        assert_eq!(wanted("scope=mcp").unwrap(), ["mcp"]);
        assert_eq!(wanted("scope=mcp+offline_access+mcp").unwrap(), ["mcp"]);
        assert_eq!(wanted("scope=offline_access").unwrap(), ["mcp"]);
        for unknown in ["scope=admin", "scope=mcp+admin", "scope=openid", "scope=MCP", "scope=mcp%09x"] {
            assert_eq!(wanted(unknown), Err(Check::Scope), "{unknown}");
        }
        let query = format!("response_type=code&code_challenge={CHALLENGE}&code_challenge_method=S256");
        let registered = |scopes: &[&str]| {
            let scopes = TokenList::parse(scopes.iter().map(|scope| (*scope).to_owned()).collect()).unwrap();
            KnownClient {
                metadata: crate::oauth::client::Metadata { scopes, ..client("app").metadata },
                ..client("app")
            }
        };
        assert_eq!(read_as(&registered(&["other"]), &format!("{query}&scope=mcp")).err(), Some(Check::Scope));
        assert_eq!(read_as(&registered(&["other"]), &query).err(), Some(Check::Scope));
        assert_eq!(read_as(&registered(&["mcp", "other"]), &query).unwrap().scopes.to_vec(), ["mcp"]);
    }

    #[test]
    fn a18_prompts_and_ages_are_read_or_refused() {
        let all = |none, login, consent, select_account| Prompt { none, login, consent, select_account };
        for (text, expected) in [
            ("none", Ok(all(true, false, false, false))),
            ("login", Ok(all(false, true, false, false))),
            ("consent+login", Ok(all(false, true, true, false))),
            ("select_account", Ok(all(false, false, false, true))),
            ("", Ok(Prompt::default())),
            ("none+login", Err(Check::Prompt)),
            ("none+consent", Err(Check::Prompt)),
            ("create", Err(Check::Prompt)),
            ("Login", Err(Check::Prompt)),
        ] {
            assert_eq!(read(&format!("prompt={text}")).map(|asked| asked.prompt), expected, "{text}");
        }
        for (text, expected) in
            [("0", Some(0)), ("3600", Some(3600)), ("-1", None), ("1.5", None), ("x", None), ("99999999999", None)]
        {
            let read = read(&format!("max_age={text}")).map(|asked| asked.max_age);
            assert_eq!(read.ok().flatten(), expected.map(Duration::from_secs), "{text}");
        }
        let now = Timestamp::from_millis(10_000_000);
        assert_eq!(read("prompt=login&max_age=9").unwrap().signed_in_since(now), Some(now));
        assert_eq!(read("max_age=60").unwrap().signed_in_since(now), Some(now.before(Duration::from_secs(60))));
        assert_eq!(read("").unwrap().signed_in_since(now), None);
    }

    #[test]
    fn a19_a_state_that_is_too_long_is_refused() {
        assert!(read(&format!("state={}", "x".repeat(2048))).is_ok());
        assert_eq!(read(&format!("state={}", "x".repeat(2049))).err(), Some(Check::State));
    }

    #[test]
    fn a_key_to_be_proven_is_a_thumbprint() {
        assert!(read(&format!("dpop_jkt={CHALLENGE}")).unwrap().proof.is_some());
        assert_eq!(read("dpop_jkt=x").err(), Some(Check::ProofKey));
    }

    #[test]
    fn what_a_resource_is_about_is_told() {
        let all: BTreeSet<UpstreamName> = ["notes", "tracker"].map(|name| UpstreamName::parse(name).unwrap()).into();
        let of = |resources: &[&str]| {
            let list = ResourceList::parse(resources.iter().map(|of| (*of).to_owned()).collect()).unwrap();
            upstreams_of(ISSUER, &list, &all).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&["https://gate.example/mcp"]), ["notes", "tracker"]);
        assert_eq!(of(&["https://gate.example/mcp/notes"]), ["notes"]);
        assert_eq!(of(&["https://gate.example/mcp/gone"]), [""; 0]);
    }
}
