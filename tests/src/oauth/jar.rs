//! Cookies as a browser keeps them (RFC 6265, and the prefixes of its successor), for one host.

use std::collections::BTreeMap;

/// A cookie as it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    pub value: String,
    /// The names of its attributes in lower case, with their values.
    pub attributes: BTreeMap<String, String>,
}

impl Cookie {
    pub fn has(&self, attribute: &str) -> bool {
        self.attributes.contains_key(attribute)
    }

    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// The cookies of one browser. Clones are other browsers with the same cookies: stolen ones, or a copied profile.
#[derive(Clone, Debug, Default)]
pub struct Jar(BTreeMap<String, Cookie>);

impl Jar {
    /// Takes in a `Set-Cookie`. Loopback counts as trustworthy, as it does in browsers, so that `Secure` is no obstacle.
    ///
    /// # Panics
    /// If a prefix promises what the cookie does not have: a browser would drop it, and the test would look for it in vain.
    pub fn set(&mut self, header: &str) -> String {
        let mut parts = header.split(';').map(str::trim);
        let (name, value) =
            parts.next().and_then(|pair| pair.split_once('=')).expect("a cookie has a name and a value");
        let attribute = |part: &str| match part.split_once('=') {
            Some((name, value)) => (name.to_ascii_lowercase(), value.to_owned()),
            None => (part.to_ascii_lowercase(), String::new()),
        };
        let cookie = Cookie { value: value.to_owned(), attributes: parts.map(attribute).collect() };
        if name.starts_with("__Host-") {
            let holds = cookie.has("secure") && cookie.attribute("path") == "/" && !cookie.has("domain");
            assert!(holds, "no browser keeps this cookie: {header}");
        }
        let is_over = cookie.attribute("max-age").parse::<i64>().is_ok_and(|age| age <= 0);
        if is_over {
            self.0.remove(name);
        } else {
            self.0.insert(name.to_owned(), cookie);
        }
        name.to_owned()
    }

    /// The `Cookie` header, if there is any cookie.
    pub fn header(&self) -> Option<String> {
        let pairs: Vec<String> = self.0.iter().map(|(name, cookie)| format!("{name}={}", cookie.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The one cookie whose name has this in it.
    pub fn named(&self, part: &str) -> Option<(&str, &Cookie)> {
        let mut found = self.0.iter().filter(|(name, _)| name.contains(part));
        let first = found.next().map(|(name, cookie)| (name.as_str(), cookie));
        assert!(found.next().is_none(), "more than one cookie is called like {part}: {:?}", self.names());
        first
    }

    pub fn cookies(&self) -> impl Iterator<Item = (&str, &Cookie)> {
        self.0.iter().map(|(name, cookie)| (name.as_str(), cookie))
    }

    /// Puts a cookie where it was not set.
    pub fn plant(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), Cookie { value: value.to_owned(), attributes: BTreeMap::new() });
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
