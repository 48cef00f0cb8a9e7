//! W3C Trace Context: which trace a request belongs to, and under which span.

use std::fmt::Write as _;
use std::sync::Arc;

/// Header and key in `_meta` of the trace and the span (W3C Trace Context §3.2; MCP, SEP-414).
pub const TRACEPARENT: &str = "traceparent";
/// The same of what vendors add (W3C Trace Context §3.3).
pub const TRACESTATE: &str = "tracestate";

/// Longest `tracestate` that is passed on, in bytes (§3.3.1.5 asks for at least this many).
pub const MAX_STATE_BYTES: usize = 512;
/// Most members of a `tracestate` (§3.3.1.1).
const MAX_STATE_MEMBERS: usize = 32;
/// The flags that there are (§3.2.2.5; level 2, §3.2.2.5.2). Others are not passed on.
const SAMPLED: u8 = 0x01;
const RANDOM: u8 = 0x02;
/// Length of a `traceparent` of version 00.
const PARENT_BYTES: usize = 55;
/// Longest `traceparent` of a later version that is looked at.
const MAX_PARENT_BYTES: usize = 256;

/// A span of a trace, as programs tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) is_sampled: bool,
    /// Whether whoever began the trace drew its id at random (W3C Trace Context, level 2, §3.2.2.5.2).
    pub(super) is_random: bool,
    /// What vendors say, checked and otherwise unread.
    pub(super) state: Option<Arc<str>>,
}

impl TraceContext {
    /// Reads what somebody says. Who gets it wrong has said nothing (§4.3); a wrong `tracestate` alone is left out.
    pub fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let bytes = parent.as_bytes();
        let is_later = bytes.len() > PARENT_BYTES && bytes.len() <= MAX_PARENT_BYTES && bytes[PARENT_BYTES] == b'-';
        if bytes.len() != PARENT_BYTES && !is_later {
            return None;
        }
        if [2, 35, 52].iter().any(|at| bytes[*at] != b'-') {
            return None;
        }
        let [version] = hex::<1>(&bytes[..2])?;
        if version == 0xff || (version == 0 && is_later) {
            return None;
        }
        let (trace, span) = (hex::<16>(&bytes[3..35])?, hex::<8>(&bytes[36..52])?);
        let [flags] = hex::<1>(&bytes[53..55])?;
        let is_somebody = trace != [0; 16] && span != [0; 8];
        let state = state.filter(|state| is_state(state)).map(Arc::from);
        let (is_sampled, is_random) = (flags & SAMPLED != 0, flags & RANDOM != 0);
        is_somebody.then_some(Self { trace, span, is_sampled, is_random, state })
    }

    /// The value of [`TRACEPARENT`].
    pub fn parent(&self) -> String {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(self.is_sampled, SAMPLED) | flag(self.is_random, RANDOM);
        format!("00-{}-{}-{flags:02x}", to_hex(&self.trace), to_hex(&self.span))
    }

    /// The value of [`TRACESTATE`], if there is one.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The id of the trace, in hex.
    pub fn trace_id(&self) -> String {
        to_hex(&self.trace)
    }
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes all");
    }
    text
}

/// Lower-case hex and nothing else (§3.2.2).
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (text.len() == 2 * N).then_some(bytes)
}

/// Whether a `tracestate` is one (§3.3.1), of a size that is passed on.
fn is_state(text: &str) -> bool {
    let is_key = |key: &str| {
        let is_of_it = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
        let begins = key.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        begins && key.len() <= 256 && key.bytes().all(is_of_it)
    };
    let is_value = |value: &str| {
        let is_of_it = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
        !value.is_empty() && value.len() <= 256 && value.bytes().all(is_of_it)
    };
    let is_member = |member: &str| member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value));
    // Before anything is made of it: it is of any size.
    if text.len() > MAX_STATE_BYTES {
        return false;
    }
    let members: Vec<&str> = text.split(',').map(|member| member.trim_matches([' ', '\t'])).collect();
    let is_one = |member: &&str| member.is_empty() || is_member(member);
    let has_one = members.iter().any(|member| !member.is_empty());
    members.len() <= MAX_STATE_MEMBERS && has_one && members.iter().all(is_one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_again() {
        let context = TraceContext::parse(PARENT, Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")).unwrap();
        assert_eq!(context.parent(), PARENT);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.state(), Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"));
        assert!(context.is_sampled);
        let quiet = PARENT.replace("-01", "-02");
        assert!(!TraceContext::parse(&quiet, None).unwrap().is_sampled, "another flag says nothing of it");
    }

    #[test]
    fn flags_that_nobody_knows_are_not_passed_on() {
        for (said, passed_on) in
            [("-00", "-00"), ("-01", "-01"), ("-02", "-02"), ("-03", "-03"), ("-fd", "-01"), ("-ff", "-03")]
        {
            let context = TraceContext::parse(&PARENT.replace("-01", said), None).unwrap();
            assert_eq!(context.parent(), PARENT.replace("-01", passed_on));
        }
    }

    #[test]
    fn a_later_version_may_say_more_at_the_end() {
        let later = format!("cc{}-what-it-likes", &PARENT[2..]);
        assert_eq!(TraceContext::parse(&later, None).unwrap().parent(), PARENT);
        for wrong in [format!("{PARENT}-more"), format!("cc{}more", &PARENT[2..]), format!("ff{}", &PARENT[2..])] {
            assert_eq!(TraceContext::parse(&wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_says_nothing() {
        for wrong in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &PARENT[..54],
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &PARENT.replace('-', "_"),
            &PARENT.replace("4bf9", "4bg9"),
            &format!(" {}", &PARENT[..54]),
        ] {
            assert_eq!(TraceContext::parse(wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn a_wrong_state_is_left_out_alone() {
        let kept = |state: &str| TraceContext::parse(PARENT, Some(state)).unwrap().state.is_some();
        for good in ["a=1", "tenant@vendor=x y", "a=1, b=2", "a=1,,b=2", "0a=!"] {
            assert!(kept(good), "{good}");
        }
        let (many, long) = (["a=1"; 33].join(","), format!("a={}", "x".repeat(600)));
        let empty = ",".repeat(100_000);
        for wrong in ["", "a", "A=1", "a=", "a=1=2", "a=\u{e9}", "a=1\r\nx: y", &many, &long, &empty] {
            assert!(!kept(wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(parent in "\\PC{0,80}", state in "\\PC{0,80}") {
            if let Some(context) = TraceContext::parse(&parent, Some(&state)) {
                prop_assert!(context.parent().is_ascii());
            }
        }

        #[test]
        fn every_context_comes_back(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), flags in any::<(bool, bool)>()) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let (is_sampled, is_random) = flags;
            let context = TraceContext { trace, span, is_sampled, is_random, state: None };
            prop_assert_eq!(TraceContext::parse(&context.parent(), None), Some(context));
        }
    }
}
