//! Us, as a client of somebody else's authorization server, and how we show who we are (RFC 6749 §2.3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::{Serializer, byte_serialize};

use crate::secret::Plaintext;

/// Longest client id and client secret, in bytes.
pub const MAX_ID: usize = 1024;
pub const MAX_SECRET: usize = 4096;

words! {
    /// How a client authenticates at the token endpoint (RFC 7591 §2).
    Method {
        None = "none",
        Basic = "client_secret_basic",
        Post = "client_secret_post",
    }
}

/// A client with what it is shown with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub id: String,
    pub authentication: Authentication,
}

/// How a client shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// A public client, which only says it.
    None,
    Basic(Plaintext),
    Post(Plaintext),
}

/// The methods that an endpoint takes, as far as we have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Methods(Vec<Method>);

/// A form for an endpoint, with all that is secret in it.
#[derive(Clone, Debug)]
pub struct Form {
    /// The value of `Authorization`.
    pub authorization: Option<Plaintext>,
    pub body: Plaintext,
}

impl Methods {
    /// Those of a list in metadata. Without one it is `client_secret_basic` (RFC 8414 §2), and whoever has no secret has no
    /// choice.
    pub fn of(listed: Option<&[String]>) -> Self {
        match listed {
            Some(listed) => Self(listed.iter().filter_map(|method| Method::parse(method)).collect()),
            None => Self(vec![Method::Basic, Method::None]),
        }
    }

    /// What a client that registers asks for: a secret, if there may be one.
    pub fn best(&self) -> Option<Method> {
        [Method::Basic, Method::Post, Method::None].into_iter().find(|method| self.0.contains(method))
    }

    /// What a client does that was given these credentials. One without a secret says its id, whatever is listed: the server
    /// knows it for what it is.
    pub fn for_credentials(&self, secret: Option<Plaintext>) -> Option<Authentication> {
        let Some(secret) = secret else { return Some(Authentication::None) };
        match [Method::Basic, Method::Post].into_iter().find(|method| self.0.contains(method))? {
            Method::Post => Some(Authentication::Post(secret)),
            _ => Some(Authentication::Basic(secret)),
        }
    }
}

impl Authentication {
    /// With this method; `None` if it needs a secret and there is none.
    pub fn with(method: Method, secret: Option<Plaintext>) -> Option<Self> {
        match method {
            Method::None => Some(Self::None),
            Method::Basic => secret.map(Self::Basic),
            Method::Post => secret.map(Self::Post),
        }
    }

    pub const fn method(&self) -> Method {
        match self {
            Self::None => Method::None,
            Self::Basic(_) => Method::Basic,
            Self::Post(_) => Method::Post,
        }
    }
}

impl Client {
    /// A form of these fields from this client.
    pub fn form(&self, fields: &[(&str, &str)]) -> Form {
        let mut body = Serializer::new(String::new());
        body.extend_pairs(fields);
        let authorization = match &self.authentication {
            Authentication::None => {
                body.append_pair("client_id", &self.id);
                None
            }
            Authentication::Post(secret) => {
                body.append_pair("client_id", &self.id).append_pair("client_secret", secret.expose());
                None
            }
            Authentication::Basic(secret) => Some(basic(&self.id, secret)),
        };
        Form { authorization, body: Plaintext::new(body.finish()) }
    }
}

/// RFC 6749 §2.3.1: both are encoded like fields of a form first.
fn basic(id: &str, secret: &Plaintext) -> Plaintext {
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let both = Plaintext::new(format!("{}:{}", encoded(id), encoded(secret.expose())));
    Plaintext::new(format!("Basic {}", STANDARD.encode(both.expose())))
}

/// Whether this may be a client id or a secret (RFC 6749 appendix A.1 and A.2): printable ASCII.
pub fn is_credential(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(authentication: Authentication) -> Client {
        Client { id: "a:b c".to_owned(), authentication }
    }

    #[test]
    fn a_client_is_shown_as_the_server_wants_it() {
        let secret = || Plaintext::new("s%:ä");
        let form = client(Authentication::None).form(&[("grant_type", "x y")]);
        assert_eq!((form.body.expose(), form.authorization), ("grant_type=x+y&client_id=a%3Ab+c", None));
        let form = client(Authentication::Post(secret())).form(&[]);
        assert_eq!((form.body.expose(), form.authorization), ("client_id=a%3Ab+c&client_secret=s%25%3A%C3%A4", None));
        let form = client(Authentication::Basic(secret())).form(&[("a", "b")]);
        let expected = format!("Basic {}", STANDARD.encode("a%3Ab+c:s%25%3A%C3%A4"));
        assert_eq!((form.body.expose(), form.authorization), ("a=b", Some(Plaintext::new(expected))));
    }

    #[test]
    fn the_method_is_one_that_the_server_takes() {
        let secret = || Some(Plaintext::new("s"));
        let listed =
            |words: &[&str]| Methods::of(Some(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()));
        for (methods, best, with_secret) in [
            (Methods::of(None), Some(Method::Basic), Some(Method::Basic)),
            (listed(&["none"]), Some(Method::None), None),
            (listed(&["client_secret_post", "none"]), Some(Method::Post), Some(Method::Post)),
            (listed(&["client_secret_post", "client_secret_basic"]), Some(Method::Basic), Some(Method::Basic)),
            (listed(&["private_key_jwt"]), None, None),
            (listed(&[]), None, None),
        ] {
            assert_eq!(methods.best(), best, "{methods:?}");
            let shown = methods.for_credentials(secret()).map(|authentication| authentication.method());
            assert_eq!(shown, with_secret, "{methods:?}");
            assert_eq!(methods.for_credentials(None), Some(Authentication::None));
        }
        assert_eq!(Authentication::with(Method::Post, None), None);
        assert_eq!(Authentication::with(Method::None, secret()), Some(Authentication::None));
        assert!(!format!("{:?}", client(Authentication::Post(Plaintext::new("hunter2")))).contains("hunter2"));
    }
}
