//! How far an HTTP/1.1 message goes (RFC 9112 § 6), for a proxy that copies bytes and must know where they end.

/// What of a message's body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunks(Chunks),
    UntilClose,
}

/// Where in a chunked body the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    Size {
        value: u64,
        /// Behind the digits.
        extension: bool,
    },
    Data(u64),
    /// The line end behind the data, of so many bytes.
    DataEnd(u8),
    /// In a line of the trailer that has so many bytes so far.
    Trailer(u8),
    Done,
}

/// Where the head at the start of these bytes ends, if it is whole.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Value of a header field, in lower case.
pub(super) fn header(head: &[u8], name: &str) -> Option<String> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned())
}

impl Framing {
    pub(super) fn of_request(head: &[u8]) -> Self {
        Self::declared(head).unwrap_or(Self::Length(0))
    }

    /// Of the response to a request that was no HEAD.
    pub(super) fn of_response(head: &[u8]) -> Self {
        match head.get(9..12) {
            Some(b"204" | b"304") => Self::Length(0),
            _ => Self::declared(head).unwrap_or(Self::UntilClose),
        }
    }

    fn declared(head: &[u8]) -> Option<Self> {
        if header(head, "transfer-encoding").is_some_and(|encoding| encoding.ends_with("chunked")) {
            return Some(Self::Chunks(Chunks::Size { value: 0, extension: false }));
        }
        header(head, "content-length").and_then(|length| length.parse().ok()).map(Self::Length)
    }

    pub(super) fn is_done(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunks(Chunks::Done))
    }

    /// Goes on; how many of these bytes belong to the message.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::UntilClose => bytes.len(),
            Self::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                taken
            }
            Self::Chunks(chunks) => {
                let mut taken = 0;
                while *chunks != Chunks::Done && taken < bytes.len() {
                    taken += chunks.step(&bytes[taken..]);
                }
                taken
            }
        }
    }
}

impl Chunks {
    /// Takes at least one of these bytes; how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let byte = bytes[0];
        *self = match *self {
            Self::Data(left) => {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - taken as u64;
                *self = if left == 0 { Self::DataEnd(2) } else { Self::Data(left) };
                return taken;
            }
            Self::Size { value: 0, .. } if byte == b'\n' => Self::Trailer(0),
            Self::Size { value, .. } if byte == b'\n' => Self::Data(value),
            Self::Size { value, extension } => match char::from(byte).to_digit(16) {
                Some(digit) if !extension => {
                    Self::Size { value: value.saturating_mul(16).saturating_add(u64::from(digit)), extension }
                }
                _ => Self::Size { value, extension: true },
            },
            Self::DataEnd(1) => Self::Size { value: 0, extension: false },
            Self::DataEnd(left) => Self::DataEnd(left - 1),
            // An empty line, its carriage return not counted, ends it.
            Self::Trailer(0) if byte == b'\n' => Self::Done,
            Self::Trailer(_) if byte == b'\n' => Self::Trailer(0),
            Self::Trailer(length) if byte == b'\r' => Self::Trailer(length),
            Self::Trailer(length) => Self::Trailer(length.saturating_add(1)),
            Self::Done => Self::Done,
        };
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(mut framing: Framing, body: &[u8], piece: usize) -> (usize, bool) {
        let mut taken = 0;
        for piece in body.chunks(piece) {
            let took = framing.take(piece);
            taken += took;
            if took < piece.len() {
                break;
            }
        }
        (taken, framing.is_done())
    }

    #[test]
    fn a_body_ends_where_it_says() {
        let chunked = Framing::of_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let length = Framing::of_request(b"POST / HTTP/1.1\r\nContent-LENGTH:  5 \r\n\r\n");
        for piece in [1, 2, 3, 1_000] {
            assert_eq!(takes(length, b"helloPOST", piece), (5, true), "{piece}");
            assert_eq!(takes(length, b"hell", piece), (4, false), "{piece}");
            for body in [
                &b"5\r\nhello\r\n0\r\n\r\n"[..],
                b"5;a=b\r\nhello\r\n0;c\r\nx-trailer: 1\r\ny: 2\r\n\r\n",
                b"0B\r\nhello\r\n0\r\n\r\r\n0\r\n\r\n",
                b"0\r\n\r\n",
            ] {
                let followed = [body, b"HTTP"].concat();
                assert_eq!(takes(chunked, &followed, piece), (body.len(), true), "{piece} {}", body.escape_ascii());
                assert_eq!(takes(chunked, &body[..body.len() - 1], piece), (body.len() - 1, false));
            }
        }
    }

    #[test]
    fn what_says_nothing_has_no_body_or_one_until_the_end() {
        assert!(Framing::of_request(b"GET / HTTP/1.1\r\n\r\n").is_done());
        assert!(Framing::of_response(b"HTTP/1.1 204 No Content\r\n\r\n").is_done());
        assert_eq!(Framing::of_response(b"HTTP/1.1 200 OK\r\n\r\n"), Framing::UntilClose);
        assert_eq!(head_end(b"GET / HTTP/1.1\r\n\r\nrest"), Some(18));
        assert_eq!(head_end(b"GET / HTTP/1.1\r\n"), None);
    }
}
