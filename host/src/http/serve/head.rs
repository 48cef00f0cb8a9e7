//! A second look at the head of an HTTP/1 request, at the bytes that hyper parses.
//!
//! hyper is lenient where RFC 9112 allows it: it drops `Content-Length` beside `Transfer-Encoding`, merges equal
//! lengths, takes a bare line feed for a line end, and serves requests that were sent before the former one was
//! answered. Each of these is how two parsers in a row come to disagree about where a request ends, so all of them
//! are refused here (threat H3). This is deliberately no parser: whatever hyper refuses, it refuses before us.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;

/// Why a request's framing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misframed {
    #[error("the request was sent before the one ahead of it was answered")]
    Pipelined,
    #[error("a header line ends without a carriage return")]
    BareLineFeed,
    #[error("the request has more than one Content-Length")]
    TwoLengths,
    #[error("the request has both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    #[error("the only Transfer-Encoding served is \"chunked\", once")]
    Encoding,
}

impl IntoResponse for Misframed {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": "bad_framing", "message": self.to_string() }));
        let close = [(header::CONNECTION, HeaderValue::from_static("close"))];
        (StatusCode::BAD_REQUEST, close, body).into_response()
    }
}

/// Checks what hyper leaves visible of the framing.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Misframed> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Misframed::Encoding),
    }
}

/// Reads a head as it arrives, in any pieces, and stops at its end.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// The line being read: as much as is needed to recognise it.
    line: Start,
    line_len: usize,
    after_carriage_return: bool,
    /// The beginning of the request line, once it was read.
    request_line: Option<Start>,
    lengths: usize,
    has_encoding: bool,
    has_bare_line_feed: bool,
    is_complete: bool,
}

/// The first bytes of a line.
type Start = [u8; 24];

impl HeadScan {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.is_complete {
                return;
            }
            if *byte == b'\n' {
                self.end_line();
            } else {
                if let Some(place) = self.line.get_mut(self.line_len) {
                    *place = *byte;
                }
                self.line_len += 1;
                self.after_carriage_return = *byte == b'\r';
            }
        }
    }

    fn end_line(&mut self) {
        let is_empty = self.line_len == usize::from(self.after_carriage_return);
        let line = std::mem::take(&mut self.line);
        self.has_bare_line_feed |= !self.after_carriage_return;
        self.line_len = 0;
        self.after_carriage_return = false;
        match self.request_line {
            // Empty lines before a request are allowed (RFC 9112 §2.2).
            None if is_empty => {}
            None => self.request_line = Some(line),
            Some(_) if is_empty => self.is_complete = true,
            Some(_) => {
                self.lengths += usize::from(names(&line, b"content-length:"));
                self.has_encoding |= names(&line, b"transfer-encoding:");
            }
        }
    }

    /// Whether a request that was just parsed, with this method, had a head as it should be.
    ///
    /// A request whose head we did not see from its first to its last byte was in hyper's buffer before the former
    /// request was answered. A rest of such a head cannot pass for a whole one: no header line begins with a method
    /// and a space.
    pub(super) fn verdict(&self, method: &Method) -> Result<(), Misframed> {
        let begins_with_method = self.request_line.is_some_and(|line| {
            let method = method.as_str().as_bytes();
            let seen = method.len().min(line.len());
            line[..seen] == method[..seen] && line.get(method.len()).is_none_or(|byte| *byte == b' ')
        });
        if !self.is_complete || !begins_with_method {
            return Err(Misframed::Pipelined);
        }
        if self.has_bare_line_feed {
            return Err(Misframed::BareLineFeed);
        }
        if self.has_encoding && self.lengths > 0 {
            return Err(Misframed::LengthAndEncoding);
        }
        if self.lengths > 1 {
            return Err(Misframed::TwoLengths);
        }
        Ok(())
    }
}

fn names(line: &Start, name: &[u8]) -> bool {
    line[..name.len()].eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(bytes: &[u8]) -> Result<(), Misframed> {
        let mut scan = HeadScan::default();
        scan.feed(bytes);
        scan.verdict(&Method::POST)
    }

    #[test]
    fn a_head_is_judged_the_same_in_any_pieces() {
        let rows: &[(&str, Result<(), Misframed>)] = &[
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", Ok(())),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nTransfer-Encoding: chunked\n", Ok(())),
            ("POST / HTTP/1.1\r\nX-Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(())),
            ("POST / HTTP/1.1\r\nContent-Lengths: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(())),
            (
                "POST / HTTP/1.1\r\ncontent-length: 3\r\nTRANSFER-ENCODING: chunked\r\n\r\n",
                Err(Misframed::LengthAndEncoding),
            ),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\nContent-Length:3\r\n\r\n",
                Err(Misframed::LengthAndEncoding),
            ),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", Err(Misframed::TwoLengths)),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Err(Misframed::TwoLengths)),
            ("POST / HTTP/1.1\nHost: a\r\n\r\n", Err(Misframed::BareLineFeed)),
            ("POST / HTTP/1.1\r\nHost: a\n\r\n", Err(Misframed::BareLineFeed)),
            ("POST / HTTP/1.1\r\nHost: a\r\n\n", Err(Misframed::BareLineFeed)),
            ("\nPOST / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Misframed::BareLineFeed)),
            ("", Err(Misframed::Pipelined)),
            ("POST / HTTP/1.1\r\nHost: a\r\n", Err(Misframed::Pipelined)),
            ("ength: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Misframed::Pipelined)),
            ("{\"jsonrpc\":\"2.0\"}POST / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Misframed::Pipelined)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Misframed::Pipelined)),
            ("POSTS / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Misframed::Pipelined)),
        ];
        for (head, expected) in rows {
            assert_eq!(verdict(head.as_bytes()), *expected, "{head:?}");
            let mut scan = HeadScan::default();
            for byte in head.as_bytes() {
                scan.feed(&[*byte]);
            }
            assert_eq!(scan.verdict(&Method::POST), *expected, "{head:?} byte by byte");
        }
    }

    #[test]
    fn the_only_transfer_encoding_is_chunked_once() {
        let rows: &[(&[&str], bool)] = &[
            (&[], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["chunked, chunked"], false),
            (&["chunked", "chunked"], false),
            (&["identity"], false),
            (&["\u{b}chunked"], false),
            (&["chunked;a=b"], false),
        ];
        for (values, accepted) in rows {
            let mut headers = HeaderMap::new();
            for value in *values {
                let Ok(value) = HeaderValue::from_str(value) else { continue };
                headers.append(header::TRANSFER_ENCODING, value);
            }
            if headers.len() == values.len() {
                assert_eq!(check_encoding(&headers).is_ok(), *accepted, "{values:?}");
            }
        }
    }
}
