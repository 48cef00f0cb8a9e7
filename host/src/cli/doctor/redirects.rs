//! Redirect addresses: what has to be registered at identity providers, and at upstreams' authorization servers where the
//! client there was made by hand.

use futures_util::StreamExt as _;
use futures_util::stream;
use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::check::Check;
use super::providers::document;
use super::{LIMIT, Subject};
use crate::cli::admin::table;
use crate::config::auth::Provider;
use crate::config::{Listen, PublicUrl, UpstreamAuth, UpstreamTransport, connection_context};
use crate::ids::{DeploymentId, UpstreamName};
use crate::outbound::Fetcher;

const AREA: &str = "redirects";
/// Upstreams that are asked at once who their authorization server is.
const AT_ONCE: usize = 8;
/// Upstreams that are looked at.
const MAX_UPSTREAMS: usize = 200;

/// The address of a listener that is told its port at the start.
const AT_THE_START: &str = "the admin listener has its port from the start on";

/// An address that something comes back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    /// Such as `provider corp`.
    whose: String,
    /// Where it is registered.
    issuer: Option<String>,
    /// The address, or why it cannot be told.
    uri: Result<String, &'static str>,
    /// Whether somebody has to register it by hand.
    by_hand: bool,
}

/// An upstream with an authorization server that browsers are sent to.
struct Site {
    name: UpstreamName,
    issuer: Option<String>,
    url: Option<String>,
    by_hand: bool,
}

pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    find(subject).await.iter().map(check).collect()
}

fn check(redirect: &Redirect) -> Check {
    let Redirect { whose, issuer, uri, by_hand } = redirect;
    match uri {
        Ok(uri) => {
            let at = issuer.as_deref().map(|issuer| format!(" at {issuer}")).unwrap_or_default();
            let how = if *by_hand { "to be registered" } else { "registered by the gateway itself" };
            Check::ok(AREA, format!("{whose}: {uri}{at}, {how}"))
        }
        Err(why) if *by_hand => {
            let mend = match *why {
                AT_THE_START => "set listen.admin_url, or a port in listen.admin",
                _ => "set auth.issuer of the upstream, and ask while the gateway runs",
            };
            Check::warning(AREA, format!("{whose}: its redirect address cannot be told: {why}"), mend)
        }
        Err(why) => Check::ok(AREA, format!("{whose}: registered by the gateway itself ({why})")),
    }
}

/// All of them, for scripts.
pub(super) fn view(redirects: &[Redirect]) -> Value {
    let view = |Redirect { whose, issuer, uri, by_hand }: &Redirect| {
        json!({
            "for": whose, "issuer": issuer, "redirect_uri": uri.as_ref().ok(), "unknown": uri.as_ref().err(),
            "by_hand": by_hand,
        })
    };
    json!({ "redirect_uris": redirects.iter().map(view).collect::<Vec<_>>() })
}

/// All of them, for people.
pub(super) fn in_words(redirects: &[Redirect]) -> String {
    if redirects.is_empty() {
        return "there is nothing to register".to_owned();
    }
    let row = |Redirect { whose, issuer, uri, by_hand }: &Redirect| {
        vec![
            whose.clone(),
            issuer.clone().unwrap_or_else(|| "-".to_owned()),
            if *by_hand { "by hand" } else { "by itself" }.to_owned(),
            uri.clone().unwrap_or_else(|why| format!("unknown: {why}")),
        ]
    };
    table(&["FOR", "AT", "REGISTERED", "REDIRECT URI"], redirects.iter().map(row))
}

pub(super) async fn find(subject: &Subject) -> Vec<Redirect> {
    let config = &subject.config;
    let public = config.public_url.as_str();
    let mut found: Vec<Redirect> =
        config.auth.providers.iter().flat_map(|provider| of_provider(public, &config.listen, provider)).collect();
    let deployment = subject.living.as_ref().and_then(|status| status["store"]["deployment"].as_str());
    let deployment = deployment.and_then(DeploymentId::parse);
    let fetcher = Fetcher::new(config.outbound.clone());
    let sites = sites(subject).await;
    let told = stream::iter(sites).map(async |site| of_site(public, deployment.as_ref(), &fetcher, site).await);
    found.extend(told.buffered(AT_ONCE).collect::<Vec<_>>().await);
    found
}

/// People come back to the listener at which they sign in: to the public one, or as operators to the admin listener.
fn of_provider(public: &str, listen: &Listen, provider: &Provider) -> Vec<Redirect> {
    let Provider { name, issuer, .. } = provider;
    let at = |whose, base: Result<&str, &'static str>| Redirect {
        whose,
        issuer: Some(issuer.clone()),
        uri: base.map(|base| format!("{base}/sign-in/{name}/callback")),
        by_hand: true,
    };
    let mut found = vec![at(format!("provider {name}"), Ok(public))];
    if listen.admin.is_some() {
        let base = listen.admin_url.as_ref().map(PublicUrl::as_str).ok_or(AT_THE_START);
        found.push(at(format!("provider {name}, operators"), base));
    }
    found
}

async fn of_site(public: &str, deployment: Option<&DeploymentId>, fetcher: &Fetcher, site: Site) -> Redirect {
    let Site { name, issuer, url, by_hand } = site;
    let issuer = match (issuer, url) {
        (Some(issuer), _) => Some(issuer),
        (None, Some(url)) => timeout(LIMIT, named_by(fetcher, &url)).await.ok().flatten(),
        (None, None) => None,
    };
    let uri = match (&issuer, deployment) {
        (Some(issuer), Some(deployment)) => {
            Ok(format!("{public}/connect/callback/{}", connection_context(deployment, &name, issuer)))
        }
        (None, _) => Err("the upstream does not say who its authorization server is"),
        (_, None) => Err("the living gateway alone knows its deployment"),
    };
    Redirect { whose: format!("upstream {name}"), issuer, uri, by_hand }
}

/// The authorization server that a resource names first (RFC 9728 §3.1).
async fn named_by(fetcher: &Fetcher, url: &str) -> Option<String> {
    let description = document(fetcher, &well_known(url)?).await.ok()?;
    description["authorization_servers"].get(0)?.as_str().map(ToOwned::to_owned)
}

/// Where a resource describes itself: the path goes behind the well-known one (RFC 9728 §3.1).
fn well_known(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    let path = uri.path().trim_end_matches('/');
    Some(format!("{}/.well-known/oauth-protected-resource{path}", crate::outbound::origin(&uri)))
}

/// Those of the living gateway, or of the file where none runs.
async fn sites(subject: &Subject) -> Vec<Site> {
    let in_file = subject.config.upstreams.iter().filter_map(|upstream| {
        let client = match &upstream.auth {
            UpstreamAuth::SharedOAuth(client) | UpstreamAuth::PerUserOAuth(client) => client,
            UpstreamAuth::None
            | UpstreamAuth::TokenExchange(_)
            | UpstreamAuth::PerUserHeaders(_)
            | UpstreamAuth::PerUserEnvironment { .. } => return None,
        };
        let url = match &upstream.transport {
            UpstreamTransport::StreamableHttp { url, .. } => Some(url.to_string()),
            UpstreamTransport::Stdio { .. } => None,
        };
        let (issuer, by_hand) = (client.issuer.clone(), client.client.is_some());
        Some(Site { name: upstream.name.clone(), issuer, url, by_hand })
    });
    let mut sites: Vec<Site> = in_file.collect();
    sites.extend(declared(subject).await);
    sites.truncate(MAX_UPSTREAMS);
    sites
}

/// Those that operators declared.
async fn declared(subject: &Subject) -> Vec<Site> {
    if subject.living.is_none() {
        return Vec::new();
    }
    // A page has room for as many as are looked at.
    let page = format!("/api/v1/upstreams?limit={MAX_UPSTREAMS}");
    let Ok(answer) = subject.ask(Method::GET, &page).await else { return Vec::new() };
    let stored = answer["upstreams"].as_array().into_iter().flatten().filter(|one| one["managed_by"] == "store");
    let mut sites = Vec::new();
    for upstream in stored.take(MAX_UPSTREAMS) {
        let Some(name) = upstream["name"].as_str().and_then(|name| UpstreamName::parse(name).ok()) else { continue };
        let Ok(shown) = subject.ask(Method::GET, &format!("/api/v1/upstreams/{name}")).await else { continue };
        sites.extend(of_definition(name, &shown["definition"]));
    }
    sites
}

fn of_definition(name: UpstreamName, definition: &Value) -> Option<Site> {
    let auth = &definition["auth"];
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let sends_browsers = matches!(auth["kind"].as_str(), Some("shared-oauth" | "per-user-oauth"));
    sends_browsers.then(|| Site {
        name,
        issuer: text(&auth["issuer"]),
        url: text(&definition["url"]),
        by_hand: auth["client_id"].is_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Timestamp;
    use crate::outbound::Trusted;

    #[test]
    fn a_resource_describes_itself_behind_the_well_known_path() {
        for (url, expected) in [
            ("https://notes.example/mcp", "https://notes.example/.well-known/oauth-protected-resource/mcp"),
            ("https://notes.example/", "https://notes.example/.well-known/oauth-protected-resource"),
            ("http://[::1]:9/a/b?c", "http://[::1]:9/.well-known/oauth-protected-resource/a/b"),
        ] {
            assert_eq!(well_known(url).as_deref(), Some(expected), "{url}");
        }
    }

    #[test]
    fn a_provider_sends_people_back_to_the_listener_at_which_they_sign_in() {
        let provider = "[auth.providers.corp]\nissuer = 'https://id.example'\nclient_id = 'gate'";
        let told = |listen: &str| {
            let text = format!("public_url = 'https://mcp.example'\n[listen]\n{listen}\n{provider}");
            let config = crate::config::parse(&text, std::path::Path::new("/"), &|_| None, Timestamp::default());
            let config = config.unwrap();
            let found = of_provider(config.public_url.as_str(), &config.listen, &config.auth.providers[0]);
            found.into_iter().map(|redirect| redirect.uri).collect::<Vec<_>>()
        };
        let public = Ok("https://mcp.example/sign-in/corp/callback".to_owned());
        let of_operators = |base: &str| Ok(format!("{base}/sign-in/corp/callback"));
        for (listen, expected) in [
            ("", vec![public.clone(), of_operators("http://127.0.0.1:7401")]),
            ("admin_url = 'https://ops.example'", vec![public.clone(), of_operators("https://ops.example")]),
            ("admin = '127.0.0.1:0'", vec![public.clone(), Err(AT_THE_START)]),
            ("admin = 'off'", vec![public]),
        ] {
            assert_eq!(told(listen), expected, "{listen}");
        }
    }

    #[tokio::test]
    async fn an_upstreams_address_is_of_this_deployment_and_issuer() {
        let fetcher = Fetcher::new(Trusted::none());
        let deployment = DeploymentId::parse("00112233445566778899aabbccddeeff").unwrap();
        let site = |issuer: Option<&str>| Site {
            name: UpstreamName::parse("mail").unwrap(),
            issuer: issuer.map(ToOwned::to_owned),
            url: None,
            by_hand: true,
        };
        let told =
            async |deployment, issuer| of_site("https://mcp.example", deployment, &fetcher, site(issuer)).await.uri;
        let one = told(Some(&deployment), Some("https://id.example")).await.unwrap();
        assert!(one.starts_with("https://mcp.example/connect/callback/") && one.len() == 37 + 32, "{one}");
        assert_ne!(told(Some(&deployment), Some("https://id.example/")).await.unwrap(), one, "another issuer");
        assert!(told(Some(&deployment), None).await.is_err());
        assert!(told(None, Some("https://id.example")).await.is_err());
    }

    #[test]
    fn definitions_of_operators_say_the_same_as_the_file() {
        let name = || UpstreamName::parse("mail").unwrap();
        let site =
            of_definition(name(), &json!({ "url": "u", "auth": { "kind": "per-user-oauth", "client_id": "c" } }));
        assert!(site.is_some_and(|site| site.by_hand && site.url.as_deref() == Some("u") && site.issuer.is_none()));
        assert!(of_definition(name(), &json!({ "url": "u", "auth": { "kind": "none" } })).is_none());
        assert!(of_definition(name(), &json!({ "url": "u" })).is_none());
    }
}
