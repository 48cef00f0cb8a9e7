//! The cookies of the public and of the admin listener: what they are called, how they are set, how they are read.
//!
//! A name begins with `__Host-`, so that a browser keeps it only over TLS, for this host alone and for all of its paths
//! (RFC 6265bis §4.1.3.2). Where `public_url` is plain HTTP on loopback there is no such thing; and since browsers
//! share cookies among the ports of a host, names carry the port and the deployment there, so that two gateways on one
//! machine do not overwrite each other's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderValue};

use crate::ids::{DeploymentId, RequestId};
use crate::secret::Plaintext;

/// What a cookie is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A signed-in browser.
    Session,
    /// The browser in which an authorization request was begun: what the cookies of all of them begin with.
    Request,
    /// The browser in which somebody is about to sign in. It opens nothing.
    SignIn,
    /// The browser that was sent to an OpenID provider.
    Provider,
    /// The browser in which connections are made. It opens what that browser has opened or begun, and nothing else.
    Connect,
    /// The browser whose form waits until its person has shown once more who they are. It opens nothing by itself.
    Kept,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Session, Self::Request, Self::SignIn, Self::Provider, Self::Connect, Self::Kept];

    const fn word(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Request => "request",
            Self::SignIn => "sign-in",
            Self::Provider => "provider",
            Self::Connect => "connect",
            Self::Kept => "kept",
        }
    }
}

/// Longest value that is read, in bytes.
const MAX_VALUE: usize = 2048;
/// Requests that one browser may have open. One more takes the place of the oldest.
const MAX_REQUESTS: usize = 8;

/// The cookies of one deployment.
#[derive(Clone, Debug)]
pub struct Cookies {
    names: [String; Kind::ALL.len()],
    is_plain_loopback: bool,
}

impl Cookies {
    /// Those of a gateway at `public_url`, in its normal form.
    pub fn new(public_url: &str, deployment: DeploymentId) -> Self {
        Self::named("portcullis", public_url, deployment)
    }

    /// Those of the admin listener at `admin_url`, in its normal form: none is called like one of the public listener.
    pub fn for_operators(admin_url: &str, deployment: DeploymentId) -> Self {
        Self::named("portcullis-admin", admin_url, deployment)
    }

    fn named(prefix: &str, url: &str, deployment: DeploymentId) -> Self {
        let plain_port = plain_loopback_port(url);
        let name = |kind: Kind| match plain_port {
            None => format!("__Host-{prefix}-{}", kind.word()),
            Some(port) => format!("{prefix}-{}-{port}-{deployment}", kind.word()),
        };
        Self { names: Kind::ALL.map(name), is_plain_loopback: plain_port.is_some() }
    }

    /// What this one is called.
    pub fn name(&self, kind: Kind) -> &str {
        &self.names[kind as usize]
    }

    /// What a browser sent. Where a name comes twice somebody else may have set one of them, and neither is read.
    pub fn read(&self, headers: &HeaderMap, kind: Kind) -> Option<Plaintext> {
        read(headers, self.name(kind))
    }

    /// Has a browser keep a value, at most so long.
    pub fn set(&self, kind: Kind, value: &Plaintext, max_age: Duration) -> HeaderValue {
        self.header(self.name(kind), value.expose(), max_age)
    }

    /// Has a browser forget it.
    pub fn clear(&self, kind: Kind) -> HeaderValue {
        self.header(self.name(kind), "", Duration::ZERO)
    }

    /// The secret that a browser has for an authorization request: none that somebody knew before, and none that is of use
    /// once the request is over (`docs/threat-model.md` rows A9 and A14). Each is a cookie of its own, so that what one tab is
    /// answered takes nothing from another one.
    pub fn read_request(&self, headers: &HeaderMap, request: &RequestId) -> Option<Plaintext> {
        read(headers, &self.request_name(request))
    }

    /// Has a browser keep the secret for a request, and forget the oldest ones of which it has too many.
    pub fn set_request(
        &self,
        headers: &HeaderMap,
        request: &RequestId,
        secret: &Plaintext,
        max_age: Duration,
    ) -> Vec<HeaderValue> {
        let prefix = format!("{}-", self.name(Kind::Request));
        let open = pairs(headers).filter_map(|(name, _)| RequestId::parse(name.strip_prefix(&prefix)?));
        // Ids sort by their time.
        let open: BTreeSet<RequestId> = open.filter(|open| open != request).collect();
        let too_many = (open.len() + 1).saturating_sub(MAX_REQUESTS);
        let forgotten = open.iter().take(too_many).map(|oldest| self.clear_request(oldest));
        forgotten.chain([self.header(&self.request_name(request), secret.expose(), max_age)]).collect()
    }

    /// Has a browser forget the secret for a request.
    pub fn clear_request(&self, request: &RequestId) -> HeaderValue {
        self.header(&self.request_name(request), "", Duration::ZERO)
    }

    fn request_name(&self, request: &RequestId) -> String {
        format!("{}-{request}", self.name(Kind::Request))
    }

    fn header(&self, name: &str, value: &str, max_age: Duration) -> HeaderValue {
        debug_assert!(value.bytes().all(is_plain), "our values need no quotes");
        let secure = if self.is_plain_loopback { "" } else { "; Secure" };
        let seconds = max_age.as_secs();
        // `Lax`, since a client sends the browser to us from elsewhere, and the person is to be signed in then.
        let line = format!("{name}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax{secure}");
        let mut line = HeaderValue::try_from(line).expect("names and values are printable ASCII");
        line.set_sensitive(true);
        line
    }
}

/// All cookies that a browser sent.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

fn read(headers: &HeaderMap, name: &str) -> Option<Plaintext> {
    let mut values = pairs(headers).filter(|(found, _)| *found == name).map(|(_, value)| value);
    let value = values.next().filter(|_| values.next().is_none())?;
    let is_ours = (1..=MAX_VALUE).contains(&value.len()) && value.bytes().all(is_plain);
    is_ours.then(|| Plaintext::new(value))
}

/// What a value is made of without quotes (RFC 6265 §4.1.1, `cookie-octet`).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

/// The port, if this is plain HTTP on loopback: cookies that need TLS are kept by no browser there.
fn plain_loopback_port(public_url: &str) -> Option<u16> {
    let authority = public_url.strip_prefix("http://")?;
    let authority: http::uri::Authority = authority.split('/').next()?.parse().ok()?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    is_loopback.then(|| authority.port_u16().unwrap_or(80))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPLOYMENT: &str = "00112233445566778899aabbccddeeff";

    fn cookies(public_url: &str) -> Cookies {
        Cookies::new(public_url, DeploymentId::parse(DEPLOYMENT).unwrap())
    }

    fn sent(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn names_are_bound_to_the_host_or_tell_gateways_on_one_machine_apart() {
        for (public_url, name) in [
            ("https://mcp.example.com", "__Host-portcullis-session"),
            ("https://mcp.example.com/gate", "__Host-portcullis-session"),
            ("https://localhost:7400", "__Host-portcullis-session"),
            // A browser does not keep it then, and nobody is signed in over a wire that everybody can read.
            ("http://mcp.internal:7400", "__Host-portcullis-session"),
            ("http://127.0.0.1.example.com", "__Host-portcullis-session"),
            ("http://127.0.0.1:7400", "portcullis-session-7400-00112233445566778899aabbccddeeff"),
            ("http://127.0.0.1:7400/gate", "portcullis-session-7400-00112233445566778899aabbccddeeff"),
            ("http://localhost", "portcullis-session-80-00112233445566778899aabbccddeeff"),
            ("http://[::1]:8080", "portcullis-session-8080-00112233445566778899aabbccddeeff"),
        ] {
            assert_eq!(cookies(public_url).name(Kind::Session), name, "{public_url}");
        }
        let cookies = cookies("https://mcp.example.com");
        let mut names = Kind::ALL.map(|kind| cookies.name(kind)).to_vec();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn the_admin_listener_has_names_of_its_own() {
        let deployment = DeploymentId::parse(DEPLOYMENT).unwrap();
        for (url, name) in [
            ("https://admin.example.com", "__Host-portcullis-admin-session"),
            ("http://127.0.0.1:7401", "portcullis-admin-session-7401-00112233445566778899aabbccddeeff"),
        ] {
            let (own, public) = (Cookies::for_operators(url, deployment), Cookies::new(url, deployment));
            assert_eq!(own.name(Kind::Session), name);
            assert!(Kind::ALL.iter().all(|kind| Kind::ALL.iter().all(|other| own.name(*kind) != public.name(*other))));
        }
    }

    #[test]
    fn a_cookie_is_kept_from_scripts_and_from_other_hosts() {
        let value = Plaintext::new("pcb_abc-DEF_1");
        let set = cookies("https://mcp.example.com/gate").set(Kind::Request, &value, Duration::from_secs(900));
        let expected = "__Host-portcullis-request=pcb_abc-DEF_1; Max-Age=900; Path=/; HttpOnly; SameSite=Lax; Secure";
        assert_eq!(set, expected);
        assert!(set.is_sensitive());
        let cookies = cookies("http://localhost:7400");
        let name = format!("portcullis-sign-in-7400-{DEPLOYMENT}");
        assert_eq!(cookies.clear(Kind::SignIn), format!("{name}=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax").as_str());
    }

    #[test]
    fn each_request_has_its_own_secret_and_the_oldest_go() {
        let cookies = cookies("https://mcp.example.com");
        let id = |number: u32| RequestId::parse(&format!("{number:024x}")).unwrap();
        let life = Duration::from_secs(900);
        let mut kept: Vec<String> = vec!["__Host-portcullis-request-x=1".to_owned(), "other=1".to_owned()];
        for number in 0..10 {
            let headers = sent(&kept.iter().map(String::as_str).collect::<Vec<_>>());
            let secret = Plaintext::new(format!("s{number}"));
            for line in cookies.set_request(&headers, &id(number), &secret, life) {
                let line = line.to_str().unwrap().to_owned();
                let (pair, _) = line.split_once("; ").unwrap();
                let (name, _) = pair.split_once('=').unwrap();
                kept.retain(|kept| !kept.starts_with(&format!("{name}=")));
                if !line.contains("Max-Age=0;") {
                    kept.push(pair.to_owned());
                }
            }
        }
        let headers = sent(&kept.iter().map(String::as_str).collect::<Vec<_>>());
        let secret = |number| cookies.read_request(&headers, &id(number)).map(|secret| secret.expose().to_owned());
        assert_eq!((secret(9), secret(2)), (Some("s9".to_owned()), Some("s2".to_owned())));
        assert_eq!((secret(1), secret(0), secret(10)), (None, None, None));
        assert_eq!(kept.len(), 2 + MAX_REQUESTS, "{kept:?}");
        let name = "__Host-portcullis-request-000000000000000000000009";
        let line = format!("{name}=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(cookies.clear_request(&id(9)), line.as_str());
    }

    #[test]
    fn what_was_set_is_read_and_nothing_else() {
        let cookies = cookies("https://mcp.example.com");
        let read = |lines: &[&str]| cookies.read(&sent(lines), Kind::Session).map(|value| value.expose().to_owned());
        let name = "__Host-portcullis-session";
        assert_eq!(read(&[&format!("a=b; {name}=x1; c")]).as_deref(), Some("x1"));
        assert_eq!(read(&["a=b", &format!("{name}=x1")]).as_deref(), Some("x1"));
        for bad in [
            vec![],
            vec!["portcullis-session=x1".to_owned()],
            vec![format!("{name}=x1; {name}=x1")],
            vec![format!("{name}=x1"), format!("{name}=x2")],
            vec![format!("{name}=")],
            vec![format!("{name}=\"x1\"")],
            vec![format!("{name}={}", "x".repeat(MAX_VALUE + 1))],
        ] {
            let lines: Vec<&str> = bad.iter().map(String::as_str).collect();
            assert_eq!(read(&lines), None, "{bad:?}");
        }
    }
}
