//! A browser without a screen and without scripts. It follows redirects by hand, sends what Chromium sends with a
//! navigation, keeps cookies, and remembers every answer that it was given.

use std::net::{Ipv4Addr, SocketAddr};

use http::StatusCode;
use http::header::{LOCATION, SET_COOKIE};

use super::connection::Connection;
use super::html::{self, Element, Form};
use super::jar::Jar;
use super::{encoded, parameter};
use crate::caller::Reply;

/// Most redirects in a row.
const MAX_REDIRECTS: usize = 10;

/// A person at the gateway's pages.
#[derive(Clone)]
pub struct Browser {
    address: SocketAddr,
    /// Where its connections come from: each browser is a machine of its own, since the gateway counts by address.
    own: Ipv4Addr,
    /// What the gateway is called: scheme, host and port.
    pub origin: String,
    pub jar: Jar,
    /// Every answer: method and path of its request, and itself without its body.
    pub seen: Vec<Seen>,
    /// Sent with each request besides what a browser sends.
    pub headers: Vec<(String, String)>,
    /// Whether the page that is shown lets forms tell where they come from.
    tells_origin: bool,
}

/// An answer that a browser was given.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub status: StatusCode,
    pub headers: http::HeaderMap,
}

/// Where a navigation ended.
#[derive(Debug)]
pub struct Page {
    /// The address of the page; where the last redirect left the gateway, the address that it led to.
    pub url: String,
    pub reply: Reply,
    pub elements: Vec<Element>,
}

impl Page {
    pub fn status(&self) -> u16 {
        self.reply.status.as_u16()
    }

    /// What it says.
    pub fn text(&self) -> String {
        html::text(&self.elements)
    }

    pub fn forms(&self) -> Vec<Form> {
        html::forms(&self.elements)
    }

    /// Its form whose action has this path at its end, if it has one.
    pub fn find(&self, action: &str) -> Option<Form> {
        let path = |form: &Form| form.action.split('?').next().unwrap_or_default().to_owned();
        self.forms().into_iter().find(|form| path(form).ends_with(action))
    }

    /// The same form, which must be there.
    ///
    /// # Panics
    /// If it is not.
    pub fn form(&self, action: &str) -> Form {
        self.find(action).unwrap_or_else(|| panic!("no form {action} on {self}"))
    }

    /// Addresses of its links.
    pub fn links(&self) -> Vec<&str> {
        self.elements.iter().filter(|element| element.name == "a").filter_map(|link| link.attribute("href")).collect()
    }

    /// What a client would be told by a redirect: a parameter of the address that the gateway sent the browser to.
    pub fn told(&self, name: &str) -> Option<String> {
        parameter(&self.url, name)
    }
}

impl std::fmt::Display for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}; forms {:?}", self.url, self.status(), self.text(), self.forms())
    }
}

impl Browser {
    /// A browser in front of the gateway at this address, which is its public URL too.
    pub fn new(address: SocketAddr) -> Self {
        let origin = format!("http://{address}");
        let [_, second, third, fourth] = portcullis::Env::system().random::<4>();
        let own = Ipv4Addr::new(127, second.max(1), third, fourth.clamp(1, 254));
        Self { address, own, origin, jar: Jar::default(), seen: Vec::new(), headers: Vec::new(), tells_origin: false }
    }

    /// Another browser with the same cookies: a copied profile.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { seen: Vec::new(), ..self.clone() }
    }

    /// Goes to an address of the gateway, and on to where redirects lead while they stay there.
    pub async fn get(&mut self, url: &str) -> Page {
        let reply = self.step("GET", url, "", &[("sec-fetch-site", "none")]).await;
        self.follow(url.to_owned(), reply).await
    }

    /// Sends a form as a browser does.
    pub async fn submit(&mut self, form: &Form) -> Page {
        let (url, reply) = self.submit_once(form).await;
        self.follow(url, reply).await
    }

    /// Sends a form, and follows no redirect.
    pub async fn submit_once(&mut self, form: &Form) -> (String, Reply) {
        let body = encoded(&form.fields);
        if form.method == "POST" {
            // Under `no-referrer` browsers hide the origin even from ourselves (Fetch, "append a request Origin header").
            let origin = if self.tells_origin { self.origin.clone() } else { "null".to_owned() };
            let headers = [("origin", origin.as_str()), ("sec-fetch-site", "same-origin")];
            (form.action.clone(), self.post(&form.action, &body, &headers).await)
        } else {
            let url = format!("{}?{body}", form.action);
            let reply = self.step("GET", &url, "", &[("sec-fetch-site", "same-origin")]).await;
            (url, reply)
        }
    }

    /// Posts a form body with exactly these headers besides the cookies.
    pub async fn post(&mut self, url: &str, body: &str, headers: &[(&str, &str)]) -> Reply {
        let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
        all.extend_from_slice(headers);
        self.step("POST", url, body, &all).await
    }

    /// One request and its answer, without following anything.
    pub async fn step(&mut self, method: &str, url: &str, body: &str, headers: &[(&str, &str)]) -> Reply {
        let path = self.path_of(url).unwrap_or_else(|| panic!("{url} is not the gateway's"));
        let cookies = self.jar.header();
        let mut all = vec![
            ("accept", "text/html,application/xhtml+xml"),
            ("user-agent", "portcullis-tests"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        all.extend(cookies.as_deref().map(|cookies| ("cookie", cookies)));
        all.extend(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        all.extend_from_slice(headers);
        let connection = Connection::try_open_from(self.own, self.address).await;
        let mut connection = connection.expect("the gateway accepts connections");
        let reply = connection.send(method, &path, &all, body.to_owned()).await;
        for cookie in reply.headers.get_all(SET_COOKIE) {
            self.jar.set(cookie.to_str().expect("cookies are text"));
        }
        let headers = reply.headers.clone();
        self.seen.push(Seen { method: method.to_owned(), path, status: reply.status, headers });
        reply
    }

    /// Goes where an answer sends the browser, while that is the gateway.
    pub async fn follow(&mut self, mut url: String, mut reply: Reply) -> Page {
        for _ in 0..MAX_REDIRECTS {
            let Some(location) = reply.headers.get(LOCATION) else { break };
            location.to_str().expect("addresses are text").clone_into(&mut url);
            if self.path_of(&url).is_none() {
                break;
            }
            reply = self.step("GET", &url, "", &[("sec-fetch-site", "same-origin")]).await;
        }
        let is_page = reply.header("content-type").starts_with("text/html");
        let elements = if is_page { html::elements(reply.text()) } else { Vec::new() };
        let policy = |element: &&Element| element.attribute("name").is_some_and(|name| name == "referrer");
        let own = elements.iter().find(policy).and_then(|element| element.attribute("content"));
        self.tells_origin = own.unwrap_or(reply.header("referrer-policy")) != "no-referrer";
        Page { url, reply, elements }
    }

    /// Path and query of an address of the gateway; nothing of another's.
    fn path_of(&self, url: &str) -> Option<String> {
        if url.starts_with('/') && !url.starts_with("//") {
            return Some(url.to_owned());
        }
        let path = url.strip_prefix(&self.origin)?;
        (path.is_empty() || path.starts_with(['/', '?'])).then(|| if path.is_empty() { "/" } else { path }.to_owned())
    }
}
