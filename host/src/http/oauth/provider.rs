//! `/sign-in/{provider}` and its callback: the way to an OpenID provider, and the way back.
//!
//! Whatever goes wrong is a page that says what to do, in our words: nothing that a provider or an address says is shown
//! again. Only a sign-in that succeeded sends the browser on, to a path of ours.
//!
//! The public and the admin listener have the same way, each from an [`Entrance`] of its own: with its own address to come back
//! to, its own cookies, and sessions that open its own pages alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::get;
use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::authorize::too_often;
use super::cookies::{Cookies, Kind};
use super::counts::Counts;
use super::pages::{Problem, Site, not_an_operator, not_found, retry_after, see_other, unavailable, with_cookie};
use super::sign_in::Next;
use super::{Access, OAuth, Route};
use crate::authorization::AuthorizationServer;
use crate::authorization::mint::{self, mint};
use crate::authorization::people::{is_admitted, lives};
use crate::authorization::providers::{
    Answer, Begin, Begun, Browser, Fault, Finish, Here, LIFE, Refused, Unavailable, Wanted, waits_for,
};
use crate::config::auth::Provider;
use crate::http::serve::Peer;
use crate::identity::browser::Surface;
use crate::secret::Plaintext;

pub(super) const ROUTES: &[Route] = &[
    Route { methods: "GET", path: "/sign-in/{provider}", access: Access::Browser, handler: || get(begin) },
    Route { methods: "GET", path: "/sign-in/{provider}/callback", access: Access::Browser, handler: || get(finish) },
];

/// Longest query that is read, in bytes.
const MAX_QUERY: usize = 16 * 1024;
/// When somebody may try again whose provider has failed.
const RETRY_SECONDS: u64 = 10;

/// The listener at which somebody signs in through a provider.
#[derive(Clone, Copy)]
pub struct Entrance<'a> {
    pub server: &'a AuthorizationServer,
    pub site: &'a Site,
    pub cookies: &'a Cookies,
    /// Which pages it lets people in to.
    pub surface: Surface,
    /// Where those go on who do not say.
    pub home: &'static str,
    pub counts: Option<&'a Counts>,
}

async fn begin(State(oauth): State<Arc<OAuth>>, Path(name): Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    oauth.entrance().begin(&name, &parts).await
}

async fn finish(State(oauth): State<Arc<OAuth>>, Path(name): Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    oauth.entrance().finish(&name, &parts).await
}

impl OAuth {
    /// Where people sign in.
    fn entrance(&self) -> Entrance<'_> {
        let Self { server, site, cookies, counts, .. } = self;
        Entrance { server, site, cookies, surface: Surface::Public, home: "/account", counts: Some(counts) }
    }
}

impl Entrance<'_> {
    /// Sends a person to a provider.
    pub async fn begin(self, name: &str, request: &Parts) -> Response {
        if let Err(wait) = self.server.doors.providers.count(address(request)) {
            return too_often(self.site, wait);
        }
        let settings = self.server.settings();
        let Some(provider) = settings.providers.iter().find(|provider| provider.name.as_str() == name) else {
            return not_found(self.site);
        };
        let Some(mut query) = parameters(request.uri.query()) else { return unreadable(self.site) };
        let next = query.remove("next").and_then(|next| match self.surface {
            Surface::Public => Next::parse(&next),
            Surface::Admin => Next::of_console(&next),
        });
        let next = next.as_ref().map_or(self.home, Next::as_str).to_owned();
        // `again` is what the sign-in page calls the same.
        let fresh = ["fresh", "again"].into_iter().any(|name| query.remove(name).is_some_and(|fresh| fresh == "1"));
        // As at the sign-in page: no link elsewhere makes somebody else of whoever is signed in (row A14).
        match self.is_somebody(&request.headers).await {
            Ok(true) if !fresh => return see_other(&self.site.address(&next)),
            Ok(_) => {}
            Err(page) => return page,
        }
        match self.server.providers.begin(self.here(), provider, Wanted { next: next.clone(), fresh }).await {
            Ok(Begin::Begun(Begun { location, cookie })) => {
                with_cookie(see_other(&location), self.cookies.set(Kind::Provider, &cookie, LIFE))
            }
            Ok(Begin::NotOurs) => unreadable(self.site),
            Err(fault) => self.failed(provider, &fault, Some(&next)),
        }
    }

    /// Takes a provider's answer.
    pub async fn finish(self, name: &str, request: &Parts) -> Response {
        // The answer is good for another try.
        if let Err(wait) = self.server.doors.providers.count(address(request)) {
            return too_often(self.site, wait);
        }
        let settings = self.server.settings();
        let Some(provider) = settings.providers.iter().find(|provider| provider.name.as_str() == name) else {
            return not_found(self.site);
        };
        let Some(mut query) = parameters(request.uri.query()) else { return unreadable(self.site) };
        let headers = &request.headers;
        let answer = Answer {
            state: query.remove("state"),
            code: query.remove("code").map(Plaintext::new),
            issuer: query.remove("iss"),
            error: query.remove("error"),
        };
        let cookie = mint(&self.server.env, mint::COOKIE);
        let (idle, life) = lives(&settings.sign_in, self.surface);
        let browser = Browser {
            pending: self.cookies.read(headers, Kind::Provider),
            session: self.cookies.read(headers, Kind::Session).map(|cookie| cookie.digest()),
            agent: headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default().to_owned(),
            cookie: cookie.digest(),
            idle,
            life,
        };
        let next = browser.pending.as_ref().and_then(|pending| waits_for(self.here(), provider, pending));
        let clear = |response| with_cookie(response, self.cookies.clear(Kind::Provider));
        let finished = self.server.providers.finish(self.here(), provider, answer, browser).await;
        if let Some(counts) = self.counts {
            counts.sign_ins.count(["provider", outcome(&finished)]);
        }
        match finished {
            Ok(Finish::SignedIn(signed_in)) => {
                let response = see_other(&self.site.address(&signed_in.next));
                clear(with_cookie(response, self.cookies.set(Kind::Session, &cookie, life)))
            }
            // Somebody else's answer does not end what this browser waits for.
            Ok(Finish::Refused(refused @ (Refused::NoSignIn | Refused::State))) => {
                refusal(self.site, provider, &refused, next.as_deref())
            }
            Ok(Finish::Refused(refused)) => clear(refusal(self.site, provider, &refused, next.as_deref())),
            Err(fault) => self.failed(provider, &fault, next.as_deref()),
        }
    }

    fn here(&self) -> Here<'_> {
        Here::of(self.server, self.site.url(), self.surface)
    }

    /// Whether somebody is signed in to whom this listener's pages are open.
    async fn is_somebody(&self, headers: &HeaderMap) -> Result<bool, Response> {
        let cookie = self.cookies.read(headers, Kind::Session);
        let found = self.server.signed_in_at(self.surface, cookie.as_ref()).await.map_err(|fault| {
            tracing::error!(error = %fault, "a fault failed a page");
            unavailable(self.site)
        })?;
        Ok(found.is_some_and(|(_, user)| is_admitted(&user, self.surface)))
    }

    /// Nothing was decided.
    fn failed(&self, provider: &Provider, fault: &Fault, next: Option<&str>) -> Response {
        match fault {
            Fault::Store(error) => {
                tracing::error!(%error, "the store failed a page");
                unavailable(self.site)
            }
            Fault::Provider(error) => {
                if let Unavailable::Configured(_) | Unavailable::Contradictory(_) = **error {
                    tracing::error!(provider = %provider.name, %error, "an identity provider cannot be used");
                } else {
                    tracing::warn!(provider = %provider.name, %error, "an identity provider failed a sign-in");
                }
                provider_failed(self.site, provider, next)
            }
        }
    }
}

/// What came of an answer, for those who count.
const fn outcome(finished: &Result<Finish, Fault>) -> &'static str {
    match finished {
        Ok(Finish::SignedIn(_)) => "done",
        Ok(Finish::Refused(_)) => "refused",
        Err(_) => "fault",
    }
}

/// The address that a request comes from, if it has one.
fn address(request: &Parts) -> Option<IpAddr> {
    request.extensions.get::<Peer>().and_then(|peer| peer.ip())
}

/// The parameters of a query, if none comes twice (RFC 6749 §3.1) and it is not too long.
pub(super) fn parameters(query: Option<&str>) -> Option<BTreeMap<String, String>> {
    let query = query.unwrap_or_default();
    let mut all = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if all.insert(name.into_owned(), value.into_owned()).is_some() {
            return None;
        }
    }
    (query.len() <= MAX_QUERY).then_some(all)
}

fn unreadable(site: &Site) -> Response {
    let problem = Problem {
        site,
        title: "This address is not complete",
        what: "It does not say where to sign in, or where to go on afterwards, in a way that is understood here.",
        advice: "Go back to where you came from and begin again.",
        link: Some(("/sign-in", "Sign in")),
    };
    problem.answer(StatusCode::BAD_REQUEST)
}

fn provider_failed(site: &Site, provider: &Provider, next: Option<&str>) -> Response {
    let again = again(next);
    let problem = Problem {
        site,
        title: "Signing in does not work right now",
        what: &format!("{} did not do its part. That says nothing about your account.", provider.label),
        advice: "Wait a minute and sign in again. If it goes on like this, tell whoever runs the gateway: the reason \
                 is in its log.",
        link: Some((&again, "Sign in again")),
    };
    retry_after(problem.answer(StatusCode::SERVICE_UNAVAILABLE), RETRY_SECONDS)
}

/// The page for a refusal. What is wrong with an answer is named by its check alone.
fn refusal(site: &Site, provider: &Provider, refused: &Refused, next: Option<&str>) -> Response {
    let (label, check) = (&provider.label, refused.check());
    let begin_again = "Begin the sign-in again, in this browser.";
    let (status, title, what, advice) = match refused {
        Refused::NoSignIn | Refused::State | Refused::Replayed => (
            StatusCode::BAD_REQUEST,
            "This sign-in is over",
            "It was begun in another browser or window, it was finished already, or it took longer than ten minutes."
                .to_owned(),
            begin_again,
        ),
        Refused::Denied => (
            StatusCode::FORBIDDEN,
            "You are not signed in",
            format!("{label} did not let you in here, or you stopped there."),
            "If you want to sign in, begin again. If you cannot, ask whoever looks after your account there.",
        ),
        Refused::Stranger => (
            StatusCode::FORBIDDEN,
            "There is no account for you",
            format!("{label} says who you are, but nobody has an account here for that."),
            "Ask whoever runs the gateway to invite you under the e-mail address that you have there, then sign in again.",
        ),
        Refused::NotAdmitted => return not_an_operator(site),
        Refused::OtherPerson => (
            StatusCode::FORBIDDEN,
            "This is somebody else",
            format!("{label} vouches for another person than the one who is signed in in this browser."),
            "Sign in there as the same person, or sign out here first.",
        ),
        Refused::Suspended => (
            StatusCode::FORBIDDEN,
            "Your account is closed",
            "It opens nothing at the moment.".to_owned(),
            "Ask whoever runs the gateway to open it again.",
        ),
        Refused::TooMany | Refused::Changing => (
            StatusCode::SERVICE_UNAVAILABLE,
            "There is no room",
            "No account could be made for you, or it is being changed right now.".to_owned(),
            "Try again in a minute. If it goes on like this, tell whoever runs the gateway.",
        ),
        Refused::Issuer
        | Refused::Answer
        | Refused::Code
        | Refused::NoToken
        | Refused::Token(_)
        | Refused::OtherSubject => (
            StatusCode::BAD_REQUEST,
            "This answer was not accepted",
            format!(
                "What came back from {label} did not pass the check \u{201c}{check}\u{201d}. Nobody was signed in."
            ),
            "Begin the sign-in again. If it happens again, tell whoever runs the gateway the name of the check.",
        ),
    };
    let again = again(next);
    let link = Some((again.as_str(), "Sign in again"));
    let response = Problem { site, title, what: &what, advice, link }.answer(status);
    if status == StatusCode::SERVICE_UNAVAILABLE { retry_after(response, RETRY_SECONDS) } else { response }
}

/// Where a sign-in begins, for the same purpose.
fn again(next: Option<&str>) -> String {
    let Some(next) = next else { return "/sign-in".to_owned() };
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    format!("/sign-in?{query}")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::super::pages::testing::assert_protected;
    use super::*;
    use crate::authorization::people::testing::House;
    use crate::authorization::providers::TokenFault;
    use crate::http::serve::Peer;
    use crate::identity::TokenList;
    use crate::ids::KeyName;

    fn provider() -> Provider {
        Provider {
            name: KeyName::parse("corp").unwrap(),
            issuer: "https://id.example".to_owned(),
            client_id: "portcullis".to_owned(),
            client_secret: None,
            label: "<b>Corp</b>".to_owned(),
            scopes: TokenList::default(),
            admits_everyone: false,
            groups_claim: None,
        }
    }

    async fn text(response: Response) -> String {
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn each_refusal_is_a_page_that_says_what_to_do() {
        let site = Site::new("https://gateway.example/gate");
        for (refused, status) in [
            (Refused::NoSignIn, 400),
            (Refused::State, 400),
            (Refused::Replayed, 400),
            (Refused::Issuer, 400),
            (Refused::Denied, 403),
            (Refused::Answer, 400),
            (Refused::Code, 400),
            (Refused::NoToken, 400),
            (Refused::Token(TokenFault::Nonce), 400),
            (Refused::OtherSubject, 400),
            (Refused::Stranger, 403),
            (Refused::Suspended, 403),
            (Refused::OtherPerson, 403),
            (Refused::Changing, 503),
            (Refused::TooMany, 503),
        ] {
            let response = refusal(&site, &provider(), &refused, Some("/oauth2/consent/1?a=b&c"));
            assert_eq!(response.status(), status, "{refused:?}");
            assert!(response.headers().get("location").is_none());
            assert_eq!(response.headers().contains_key("retry-after"), status == 503);
            assert_protected(&response);
            let html = text(response).await;
            assert!(!html.contains("<b>Corp"), "{html}");
            assert!(html.contains("/gate/sign-in?next=%2Foauth2%2Fconsent%2F1%3Fa%3Db%26c"), "{html}");
        }
        let response = refusal(&site, &provider(), &Refused::Token(TokenFault::Nonce), None);
        assert!(text(response).await.contains("nonce"));
        let response = provider_failed(&site, &provider(), None);
        assert_eq!((response.status().as_u16(), response.headers().contains_key("retry-after")), (503, true));
        assert_protected(&response);
    }

    #[tokio::test]
    async fn t20_nobody_has_a_provider_asked_as_often_as_they_like() {
        let house = House::new("https://gateway.example", |auth| auth.providers = vec![provider()]).await;
        let router = super::super::router(Arc::new(OAuth::new(house.server.clone())));
        // Neither of them gets as far as the provider.
        for (place, path) in [(1, "/sign-in/corp?next=/a&next=/b"), (2, "/sign-in/corp/callback?state=x&code=y")] {
            let send = async |from: [u8; 4]| {
                let peer = Peer::Tcp((from, 1).into());
                let request = http::Request::get(path).extension(peer).body(Body::empty()).unwrap();
                router.clone().oneshot(request).await.unwrap()
            };
            let mut answered = 0;
            let refused = loop {
                let response = send([192, 0, 2, place]).await;
                if response.status() != StatusCode::BAD_REQUEST {
                    break response;
                }
                answered += 1;
                assert!(answered < 120, "nobody comes so often: {path}");
            };
            assert!(answered >= 60 && refused.headers().contains_key("retry-after"), "{path}: {answered}");
            assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_protected(&refused);
            assert_eq!(send([198, 51, 100, place]).await.status(), StatusCode::BAD_REQUEST, "{path}");
        }
    }

    #[tokio::test]
    async fn one_goes_on_from_a_provider_to_where_the_sign_in_page_sends_one_as_well() {
        let lost = Provider { issuer: "https://nowhere.example".to_owned(), ..provider() };
        let house = House::new("https://gateway.example", |auth| auth.providers = vec![lost]).await;
        let router = super::super::router(Arc::new(OAuth::new(house.server.clone())));
        let long = format!("/{}", "x".repeat(512));
        for (next, expected) in
            [("/device", "%2Fdevice"), ("/../other/x", "%2Faccount"), ("//a", "%2Faccount"), (&long, "%2Faccount")]
        {
            let request = http::Request::get(format!("/sign-in/corp?next={next}")).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "the provider cannot be reached");
            let html = text(response).await;
            assert!(html.contains(&format!("/sign-in?next={expected}\"")), "{next}: {html}");
        }
    }

    #[tokio::test]
    async fn a14_a_link_makes_nobody_else_of_whoever_is_signed_in() {
        let lost = Provider { issuer: "https://nowhere.example".to_owned(), ..provider() };
        let house = House::new("https://gateway.example", |auth| auth.providers = vec![lost]).await;
        let ada = house.person("ada", "correct horse battery").await;
        let surface = crate::identity::browser::Surface::Public;
        let here = crate::authorization::people::Browser { replaces: None, agent: String::new(), surface };
        let method = crate::identity::browser::Method::Password;
        let begun = house.server.begin_session(&ada, method, here).await.unwrap().unwrap();
        let router = super::super::router(Arc::new(OAuth::new(house.server.clone())));
        let send = async |path: &str| {
            let cookie = format!("__Host-portcullis-session={}", begun.cookie.expose());
            let request = http::Request::get(path).header("cookie", cookie).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap()
        };
        let stays = send("/sign-in/corp?next=/device").await;
        assert_eq!(stays.status(), StatusCode::SEE_OTHER);
        assert_eq!(stays.headers()["location"], "https://gateway.example/device");
        // Whoever is to show again who they are is sent there, and the provider cannot be reached.
        assert_eq!(send("/sign-in/corp?next=/device&again=1").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_parameter_comes_once() {
        assert_eq!(parameters(None).unwrap().len(), 0);
        assert_eq!(parameters(Some("state=a%26b&code=c+d")).unwrap()["state"], "a&b");
        assert_eq!(parameters(Some("state=a&state=a")), None);
        assert_eq!(parameters(Some(&"x".repeat(MAX_QUERY + 1))), None);
    }
}
