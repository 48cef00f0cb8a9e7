//! The parameters of an authorization request: bounded, and each once (RFC 6749 §3.1).
//!
//! What is sent twice is only refused where it is read: as long as it is not known whom an error may be sent to, that is a
//! matter of the client's id and of the redirect URI alone.

use super::check::Check;

/// Longest parameters, in bytes, as they came.
pub const MAX_BYTES: usize = 16 * 1024;
/// Most parameters. Each has a name and takes room.
const MAX_COUNT: usize = 64;
/// The only one that may come several times (RFC 8707 §2).
const SEVERAL: &str = "resource";

/// What a client says, as it was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// The parameters of a query, of a form's body or of what was pushed, or `None` if there are too many.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(text.as_bytes()).into_owned().take(MAX_COUNT + 1).collect();
        (pairs.len() <= MAX_COUNT).then_some(Self(pairs))
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        // One without a value counts as if it were not there (RFC 6749 §3.1).
        self.0.iter().filter(move |(found, value)| found == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The value of one that comes at most once.
    ///
    /// # Errors
    /// It comes more than once.
    pub fn once<'a>(&'a self, name: &'static str) -> Result<Option<&'a str>, Check> {
        if self.0.iter().filter(|(found, _)| found == name).count() > 1 {
            return Err(Check::Repeated(name.to_owned()));
        }
        Ok(self.all(name).next())
    }

    /// Every value of the one that may come several times.
    pub fn resources(&self) -> impl Iterator<Item = &str> {
        self.all(SEVERAL)
    }

    /// Whether each comes once.
    ///
    /// # Errors
    /// The first that does not, known or not.
    pub fn each_once(&self) -> Result<(), Check> {
        for (position, (name, _)) in self.0.iter().enumerate() {
            if name != SEVERAL && self.0[..position].iter().any(|(before, _)| before == name) {
                return Err(Check::Repeated(name.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_bounded_and_come_once() {
        let parameters = Parameters::parse("a=1&b=&c=x+y%26&resource=r&resource=s&%c3%a4=1").unwrap();
        assert_eq!(parameters.once("a"), Ok(Some("1")));
        assert_eq!((parameters.once("b"), parameters.once("d")), (Ok(None), Ok(None)));
        assert_eq!(parameters.once("c"), Ok(Some("x y&")));
        assert_eq!(parameters.resources().collect::<Vec<_>>(), ["r", "s"]);
        assert_eq!(parameters.each_once(), Ok(()));
        for twice in ["a=1&a=1", "a=1&b=2&a=", "a=&a=1", "a=1&%61=2"] {
            let parameters = Parameters::parse(twice).unwrap();
            assert_eq!(parameters.each_once(), Err(Check::Repeated("a".to_owned())), "{twice}");
            assert_eq!(parameters.once("a"), Err(Check::Repeated("a".to_owned())), "{twice}");
        }
        assert_eq!(Parameters::parse(&"x".repeat(MAX_BYTES + 1)), None);
        assert_eq!(Parameters::parse(&"a=1&".repeat(MAX_COUNT + 1)), None);
        assert!(Parameters::parse("").is_some());
    }
}
