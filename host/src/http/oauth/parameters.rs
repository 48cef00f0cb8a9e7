//! The parameters of OAuth requests, in a query or a form (RFC 6749 §3.1, §3.2 and appendix B).
//!
//! Each name at most once, but for those that RFC 8707 §2 and RFC 8693 §2.1 let be repeated; one without a value is as if it
//! were not there. Values may be secrets, and do not print themselves.

use std::collections::BTreeMap;
use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::secret::Plaintext;

/// Largest query or form, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;
/// Longest name that an error repeats.
const MAX_TOLD: usize = 64;
/// May be there more than once.
const REPEATABLE: [&str; 2] = ["resource", "audience"];

/// Why there are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    #[error("the parameters have more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the parameters are not in UTF-8")]
    NotText,
    #[error("the parameter {0} is there more than once")]
    Twice(String),
}

/// Parameters, each of which is taken once.
#[derive(Default)]
pub struct Parameters(BTreeMap<String, Vec<Plaintext>>);

impl Parameters {
    /// Those of a query, without its `?`.
    ///
    /// # Errors
    /// They are too large, no text, or one is there more than once.
    pub fn from_query(query: &str) -> Result<Self, ParameterError> {
        Self::from_form(query.as_bytes())
    }

    /// Those of a form.
    ///
    /// # Errors
    /// As for [`Self::from_query`].
    pub fn from_form(form: &[u8]) -> Result<Self, ParameterError> {
        if form.len() > MAX_BYTES {
            return Err(ParameterError::TooLarge);
        }
        let mut parameters: BTreeMap<String, Vec<Plaintext>> = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(form) {
            // What is no UTF-8 was replaced by this.
            if name.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(ParameterError::NotText);
            }
            let values = parameters.entry(name.into_owned()).or_default();
            values.push(Plaintext::new(value.into_owned()));
        }
        let is_twice =
            |(name, values): &(&String, &Vec<Plaintext>)| values.len() > 1 && !REPEATABLE.contains(&name.as_str());
        if let Some((name, _)) = parameters.iter().find(is_twice) {
            // What a description may be made of (RFC 6749 §5.2).
            let is_plain = |character: char| character.is_ascii_graphic() && !matches!(character, '"' | '\\');
            let shown = |character: char| if is_plain(character) { character } else { '?' };
            return Err(ParameterError::Twice(name.chars().take(MAX_TOLD).map(shown).collect()));
        }
        for values in parameters.values_mut() {
            values.retain(|value| !value.expose().is_empty());
        }
        parameters.retain(|_, values| !values.is_empty());
        Ok(Self(parameters))
    }

    /// The value of this name, if it has one. It is gone then.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.take_secret(name).map(|value| value.expose().to_owned())
    }

    /// The same for one that is a secret.
    pub fn take_secret(&mut self, name: &str) -> Option<Plaintext> {
        self.0.remove(name)?.pop()
    }

    /// All values of this name.
    pub fn take_all(&mut self, name: &str) -> Vec<String> {
        let values = self.0.remove(name).unwrap_or_default();
        values.iter().map(|value| value.expose().to_owned()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Those that are left, as a form.
    pub fn to_form(&self) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (name, values) in &self.0 {
            for value in values {
                form.append_pair(name, value.expose());
            }
        }
        form.finish()
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Whether the body is declared as a form: one `Content-Type`, with any parameters, of which a `charset` must be UTF-8.
pub fn is_form(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Ok(value) = value.to_str() else { return false };
    let mut parts = value.split(';').map(str::trim);
    let is_fine = |parameter: &str| match parameter.split_once('=') {
        None => parameter.is_empty(),
        Some((name, value)) => {
            !name.eq_ignore_ascii_case("charset") || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
    };
    parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/x-www-form-urlencoded"))
        && parts.all(is_fine)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_parameter_is_taken_once_and_an_empty_one_is_none() {
        let mut parameters = Parameters::from_query("code=a%2Bb+c&state=&resource=x&resource=y&resource=").unwrap();
        assert_eq!(parameters.take("code").as_deref(), Some("a+b c"));
        assert_eq!(parameters.take("code"), None);
        assert!(!parameters.has("state"));
        assert_eq!(parameters.take_all("resource"), ["x", "y"]);
        assert_eq!(parameters.take_all("resource"), Vec::<String>::new());
    }

    #[test]
    fn a5_a_parameter_that_is_there_twice_is_named() {
        for (query, name) in [
            ("code=a&code=b", "code"),
            ("code=a&code=", "code"),
            ("client_id=a&x=1&client_id=a", "client_id"),
            ("a%0Ab=1&a%0Ab=2", "a?b"),
            // Not in an `error_description` (RFC 6749 §5.2).
            ("a%22%5Cb=1&a%22%5Cb=2", "a??b"),
        ] {
            assert_eq!(Parameters::from_query(query).unwrap_err(), ParameterError::Twice(name.to_owned()), "{query}");
        }
    }

    #[test]
    fn parameters_are_bounded_text() {
        assert_eq!(Parameters::from_form(b"a=%ff").unwrap_err(), ParameterError::NotText);
        assert_eq!(Parameters::from_form(b"\xff=a").unwrap_err(), ParameterError::NotText);
        let large = format!("a={}", "x".repeat(MAX_BYTES));
        assert_eq!(Parameters::from_query(&large).unwrap_err(), ParameterError::TooLarge);
        assert!(Parameters::from_query(&large[..MAX_BYTES]).is_ok());
        let many = (0..4_000).map(|number| format!("{number:04}")).collect::<Vec<_>>().join("&");
        assert_eq!(Parameters::from_query(&many[..MAX_BYTES]).map(|left| left.to_form()), Ok(String::new()));
    }

    #[test]
    fn what_is_left_is_written_as_it_was_read() {
        let mut parameters =
            Parameters::from_query("state=a+%26b&client_secret=hunter2&resource=x&resource=y").unwrap();
        assert_eq!(format!("{parameters:?}"), r#"{"client_secret", "resource", "state"}"#);
        parameters.take_secret("client_secret");
        let form = parameters.to_form();
        assert_eq!(form, "resource=x&resource=y&state=a+%26b");
        assert_eq!(Parameters::from_query(&form).unwrap().take("state").as_deref(), Some("a &b"));
    }

    #[test]
    fn a_form_is_declared_once_and_in_utf_8() {
        let declared = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_TYPE, HeaderValue::from_static(value));
            }
            is_form(&headers)
        };
        let form = "application/x-www-form-urlencoded";
        assert!(declared(&[form]) && declared(&["Application/X-WWW-Form-URLEncoded; charset=UTF-8"]));
        assert!(declared(&["application/x-www-form-urlencoded;charset=\"utf-8\";"]));
        for none in [
            &[][..],
            &[form, form],
            &["application/json"],
            &["application/x-www-form-urlencoded; charset=latin1"],
            &["multipart/form-data; boundary=x"],
        ] {
            assert!(!declared(none), "{none:?}");
        }
    }
}
