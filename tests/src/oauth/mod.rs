//! Who signs in at a gateway: a browser without a screen and without scripts, and an OAuth client beside it.
//!
//! Both speak HTTP by hand, so that a test sees every header, every redirect and every cookie; neither knows more of the
//! gateway than its documents and pages say.

pub mod browser;
pub mod client;
pub mod connection;
pub mod html;
pub mod jar;

pub use browser::{Browser, Page};
pub use client::{Client, Discovered, Tokens};
pub use connection::Connection;
pub use html::Form;

/// What a URL says behind its question mark, in order.
pub fn query(url: &str) -> Vec<(String, String)> {
    let text = url.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

/// The value of a parameter of a URL, if it is there exactly once.
pub fn parameter(url: &str, name: &str) -> Option<String> {
    let mut values = query(url).into_iter().filter(|(found, _)| found == name).map(|(_, value)| value);
    let first = values.next();
    if values.next().is_some() { None } else { first }
}

/// Names and values as a form or a query has them.
pub fn encoded<N: AsRef<str>, V: AsRef<str>>(fields: &[(N, V)]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        text.append_pair(name.as_ref(), value.as_ref());
    }
    text.finish()
}
