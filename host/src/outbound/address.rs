//! Addresses and host names: which of them an untrusted URL may lead to. Pure; nothing is resolved here.
//!
//! The tables hold the IANA special-purpose address registries (RFC 6890 and its successors) as of 2026, with multicast,
//! former special ranges and one address of a cloud's host. Two decisions make them simple:
//!
//! - *Whole blocks are refused*, even where the registry calls a part of them globally reachable (192.0.0.9, the
//!   AS 112 and AMT anycast blocks, ORCHIDv2): none of them is a place for a web server.
//! - *Addresses that carry an IPv4 address inside are refused as a whole*, whatever is inside: v4-mapped and
//!   v4-compatible, v4-translated, NAT64 with both prefixes, 6to4, Teredo, ISATAP. They are ways around a check of the
//!   address inside (CVE-2026-44430), and services have plain addresses. A network whose resolver makes NAT64 addresses
//!   (DNS64) has to trust `64:ff9b::/96`.
//!
//! For IPv6 only 2000::/3, all of the global unicast space that is handed out, is open at all, less the blocks within it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a refused address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// 0.0.0.0/8 and ::, which lead to this host on many systems (RFC 1122 § 3.2.1.3).
    Unspecified,
    Loopback,
    /// RFC 1918.
    Private,
    /// Shared between a provider and its subscribers (RFC 6598).
    CarrierNat,
    LinkLocal,
    /// fc00::/7 (RFC 4193).
    UniqueLocal,
    /// fec0::/10 (RFC 3879).
    SiteLocal,
    Multicast,
    /// 240.0.0.0/4 with the broadcast address, and IPv6 that is not global unicast.
    Reserved,
    /// For protocols, not for services: 192.0.0.0/24, 2001::/23, AS 112, AMT, segment routing.
    Protocol,
    Documentation,
    /// RFC 2544.
    Benchmarking,
    /// 100::/64 (RFC 6666) and the dummy prefix next to it (RFC 9780).
    Discard,
    /// Seen by virtual machines of one cloud as their host's services, though the address looks public.
    CloudHost,
    /// ::ffff:0:0/96 (RFC 4291 § 2.5.5.2).
    MappedV4,
    /// ::/96 (RFC 4291 § 2.5.5.1).
    CompatibleV4,
    /// ::ffff:0:0:0/96 (RFC 2765).
    TranslatedV4,
    /// 64:ff9b::/96 (RFC 6052) and 64:ff9b:1::/48 (RFC 8215).
    Nat64,
    /// 2002::/16 (RFC 3056) and its relays, 192.88.99.0/24 (RFC 7526).
    SixToFour,
    /// 2001::/32 (RFC 4380).
    Teredo,
    /// An interface identifier with an IPv4 address (RFC 5214 § 6.1).
    Isatap,
}

impl fmt::Display for Special {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::CarrierNat => "a carrier's shared address",
            Self::LinkLocal => "a link-local address",
            Self::UniqueLocal => "a unique local address",
            Self::SiteLocal => "a site-local address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
            Self::Protocol => "an address for protocols",
            Self::Documentation => "an address for documentation",
            Self::Benchmarking => "an address for benchmarks",
            Self::Discard => "a discard-only address",
            Self::CloudHost => "an address of a cloud's host",
            Self::MappedV4 => "a v4-mapped address",
            Self::CompatibleV4 => "a v4-compatible address",
            Self::TranslatedV4 => "a v4-translated address",
            Self::Nat64 => "a NAT64 address",
            Self::SixToFour => "a 6to4 address",
            Self::Teredo => "a Teredo address",
            Self::Isatap => "an ISATAP address",
        })
    }
}

const SPECIAL_V4: &[(Network, Special)] = &[
    (v4([0, 0, 0, 0], 8), Special::Unspecified),
    (v4([10, 0, 0, 0], 8), Special::Private),
    (v4([100, 64, 0, 0], 10), Special::CarrierNat),
    (v4([127, 0, 0, 0], 8), Special::Loopback),
    (v4([168, 63, 129, 16], 32), Special::CloudHost),
    (v4([169, 254, 0, 0], 16), Special::LinkLocal),
    (v4([172, 16, 0, 0], 12), Special::Private),
    (v4([192, 0, 0, 0], 24), Special::Protocol),
    (v4([192, 0, 2, 0], 24), Special::Documentation),
    (v4([192, 31, 196, 0], 24), Special::Protocol),
    (v4([192, 52, 193, 0], 24), Special::Protocol),
    (v4([192, 88, 99, 0], 24), Special::SixToFour),
    (v4([192, 168, 0, 0], 16), Special::Private),
    (v4([192, 175, 48, 0], 24), Special::Protocol),
    (v4([198, 18, 0, 0], 15), Special::Benchmarking),
    (v4([198, 51, 100, 0], 24), Special::Documentation),
    (v4([203, 0, 113, 0], 24), Special::Documentation),
    (v4([224, 0, 0, 0], 4), Special::Multicast),
    (v4([240, 0, 0, 0], 4), Special::Reserved),
];

/// The first match counts: narrow blocks stand before the wide ones around them.
const SPECIAL_V6: &[(Network, Special)] = &[
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Special::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Special::Loopback),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), Special::CompatibleV4),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), Special::MappedV4),
    (v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), Special::TranslatedV4),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), Special::Nat64),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), Special::Nat64),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), Special::Discard),
    (v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), Special::Discard),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Special::Teredo),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), Special::Benchmarking),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Special::Protocol),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Special::Documentation),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Special::SixToFour),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), Special::Protocol),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Special::Documentation),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), Special::Protocol),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Special::UniqueLocal),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Special::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Special::SiteLocal),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Special::Multicast),
];

const GLOBAL_UNICAST: Network = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What an address is for, or `None` for an ordinary public one.
pub fn special(address: IpAddr) -> Option<Special> {
    let table = match address {
        IpAddr::V4(_) => SPECIAL_V4,
        IpAddr::V6(_) => SPECIAL_V6,
    };
    if let Some((_, kind)) = table.iter().find(|(network, _)| network.contains(address)) {
        return Some(*kind);
    }
    match address {
        IpAddr::V6(address) if is_isatap(address) => Some(Special::Isatap),
        IpAddr::V6(_) if !GLOBAL_UNICAST.contains(address) => Some(Special::Reserved),
        _ => None,
    }
}

/// Interface identifiers `00-00-5e-fe` and `02-00-5e-fe` with an IPv4 address, whatever their group bit says.
fn is_isatap(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    segments[4] & 0xfcff == 0 && segments[5] == 0x5efe
}

/// A block of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

const fn v4(base: [u8; 4], prefix: u8) -> Network {
    Network { base: IpAddr::V4(Ipv4Addr::new(base[0], base[1], base[2], base[3])), prefix }
}

const fn v6(s: [u16; 8], prefix: u8) -> Network {
    Network { base: IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7])), prefix }
}

impl Network {
    /// The block that a base address and a prefix length in bits name; `None` if the length does not fit the family or
    /// the base has bits beyond it.
    pub fn new(base: IpAddr, prefix: u8) -> Option<Self> {
        let network = Self { base, prefix };
        let width = if base.is_ipv4() { 32 } else { 128 };
        let is_base = || bits(base).checked_shl((128 - width) + u32::from(prefix)).unwrap_or(0) == 0;
        (u32::from(prefix) <= width && is_base()).then_some(network)
    }

    /// The block of one address.
    pub fn of(address: IpAddr) -> Self {
        Self { base: address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether an address lies within. No IPv4 block contains an IPv6 address, v4-mapped ones included.
    pub fn contains(&self, address: IpAddr) -> bool {
        let width = if self.base.is_ipv4() { 32 } else { 128 };
        let beyond = width - u32::from(self.prefix);
        let differing = bits(self.base) ^ bits(address);
        self.base.is_ipv4() == address.is_ipv4() && differing.checked_shr(beyond).unwrap_or(0) == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::of(self.base) {
            return self.base.fmt(formatter);
        }
        write!(formatter, "{}/{}", self.base, self.prefix)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Longest name, in bytes (RFC 1035 § 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    Address(IpAddr),
    /// A name in lower case, without a dot at its end, that no resolver can read as an address.
    Name(Box<str>),
}

impl Host {
    /// Reads a host as a URL writes it, an IPv6 address in brackets. `None` for everything that is neither a plain name
    /// nor a plainly written address.
    ///
    /// IPv4 addresses are four decimal numbers without leading zeros. Other spellings that C libraries and browsers
    /// accept (`127.1`, `0x7f.0.0.1`, `2130706433`) all end in a label that is a number, and no top-level domain is
    /// one, so that such names are refused (WHATWG URL § 3.5, the "ends in a number" check).
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(inside) = text.strip_prefix('[') {
            return inside.strip_suffix(']')?.parse().ok().map(|address| Self::Address(IpAddr::V6(address)));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Address(IpAddr::V4(address)));
        }
        let is_label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-')
        };
        let last = text.rsplit('.').next().unwrap_or(text);
        let is_name = text.len() <= MAX_NAME && text.split('.').all(is_label) && !is_number(last);
        is_name.then(|| Self::Name(text.to_ascii_lowercase().into()))
    }
}

/// Whether a label reads as a number somewhere: decimal or octal digits, or hexadecimal ones after `0x`.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => address.fmt(formatter),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn special_addresses_are_known_with_both_ends_of_their_blocks() {
        let cases: &[(&str, &[Special])] = &[
            ("0.0.0.0 0.255.255.255 ::", &[Special::Unspecified]),
            ("127.0.0.0 127.0.0.1 127.255.255.255 ::1", &[Special::Loopback]),
            ("10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255", &[Special::Private]),
            ("100.64.0.0 100.100.100.200 100.127.255.255", &[Special::CarrierNat]),
            ("169.254.0.0 169.254.169.254 169.254.255.255 fe80:: fe80::1 febf:ffff::1", &[Special::LinkLocal]),
            ("168.63.129.16", &[Special::CloudHost]),
            ("192.0.0.0 192.0.0.8 192.0.0.9 192.0.0.170 192.0.0.192 192.0.0.255", &[Special::Protocol]),
            ("192.31.196.1 192.52.193.1 192.175.48.1 2620:4f:8000::1 5f00::1", &[Special::Protocol]),
            ("192.0.2.0 192.0.2.255 198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255", &[Special::Documentation]),
            ("2001:db8:: 2001:db8:ffff::1 3fff:: 3fff:fff:ffff::1", &[Special::Documentation]),
            ("192.88.99.0 192.88.99.1 192.88.99.255", &[Special::SixToFour]),
            ("2002:: 2002:7f00:1:: 2002:808:808::1 2002:ffff:ffff::1", &[Special::SixToFour]),
            ("198.18.0.0 198.19.255.255 2001:2:: 2001:2:0:ffff::1", &[Special::Benchmarking]),
            ("224.0.0.0 239.255.255.250 239.255.255.255 ff00:: ff02::1 ffff:ffff::", &[Special::Multicast]),
            ("240.0.0.0 255.255.255.254 255.255.255.255", &[Special::Reserved]),
            ("::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:0 ::ffff:ffff:ffff", &[Special::MappedV4]),
            ("::2 ::127.0.0.1 ::8.8.8.8 ::ffff:ffff", &[Special::CompatibleV4]),
            ("::ffff:0:127.0.0.1 ::ffff:0:808:808 ::ffff:0:0:0", &[Special::TranslatedV4]),
            ("64:ff9b:: 64:ff9b::7f00:1 64:ff9b::8.8.8.8 64:ff9b::ffff:ffff", &[Special::Nat64]),
            ("64:ff9b:1:: 64:ff9b:1::a00:1 64:ff9b:1:ffff:ffff:ffff:ffff:ffff", &[Special::Nat64]),
            ("2001:: 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:0:ffff::", &[Special::Teredo]),
            ("2001:1::1 2001:3::1 2001:4:112::1 2001:10::1 2001:1f:ffff::", &[Special::Protocol]),
            ("2001:20::1 2001:2f:ffff:: 2001:30::1 2001:1ff:ffff::1", &[Special::Protocol]),
            ("2600::5efe:7f00:1 2600::200:5efe:a00:1 2600:1:2:3:0:5efe:8.8.8.8", &[Special::Isatap]),
            ("2600::100:5efe:1.1.1.1 2600::300:5efe:1.1.1.1", &[Special::Isatap]),
            ("100:: 100::ffff:ffff:ffff:ffff 100:0:0:1::1", &[Special::Discard]),
            ("fc00:: fd00:ec2::254 fdff:ffff::1", &[Special::UniqueLocal]),
            ("fec0:: fec0::1 feff:ffff::1", &[Special::SiteLocal]),
            ("100:0:0:2:: 200::1 1fff:ffff:: 4000:: 6000::1 e000::1 f000:: fbff:ffff:: fe00::1", &[Special::Reserved]),
            ("64:ff9b:0:1:: 64:ff9b:2:: ::1:0:0:0 ::fffe:7f00:1 0:0:0:1::", &[Special::Reserved]),
        ];
        for (addresses, kinds) in cases {
            for text in addresses.split(' ') {
                assert_eq!(special(address(text)).as_slice(), *kinds, "{text}");
            }
        }
    }

    #[test]
    fn ordinary_addresses_next_to_the_blocks_are_open() {
        let open = "1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.215.14 100.63.255.255 100.128.0.0 \
                    126.255.255.255 128.0.0.0 168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 \
                    172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.31.195.255 192.31.197.0 192.52.192.0 192.52.194.0 \
                    192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 192.175.47.255 192.175.49.0 198.17.255.255 \
                    198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255 \
                    2000:: 2001:200:: 2001:4860:4860::8888 2001:db7:ffff:: 2001:db9:: 2003:: 2606:4700::1111 \
                    2620:4f:7fff:: 2620:4f:8001:: 2a00:1450::1 3ffe:ffff:: 3fff:1000:: 3fff:ffff:: \
                    2600::5eff:7f00:1 2600::400:5efe:1:1 2600::1:5efe:1:1";
        for text in open.split_whitespace() {
            assert_eq!(special(address(text)), None, "{text}");
        }
    }

    #[test]
    fn no_table_entry_is_shadowed_or_has_bits_beyond_its_prefix() {
        for table in [SPECIAL_V4, SPECIAL_V6] {
            for (at, (network, kind)) in table.iter().enumerate() {
                assert_eq!(Network::new(network.base, network.prefix), Some(*network), "{network}");
                let wider = table[..at]
                    .iter()
                    .find(|(other, _)| other.contains(network.base) && other.prefix <= network.prefix);
                assert_eq!(wider, None, "{network} ({kind}) never matches");
            }
        }
    }

    #[test]
    fn networks_have_exact_bases_and_fitting_prefixes() {
        for (base, prefix) in
            [("10.0.0.0", 8), ("0.0.0.0", 0), ("::", 0), ("10.1.2.3", 32), ("fd00::", 8), ("::1", 128)]
        {
            assert!(Network::new(address(base), prefix).is_some(), "{base}/{prefix}");
        }
        for (base, prefix) in
            [("10.0.0.1", 8), ("1.0.0.0", 0), ("10.0.0.0", 33), ("10.0.0.0", 255), ("::1", 127), ("::", 129)]
        {
            assert_eq!(Network::new(address(base), prefix), None, "{base}/{prefix}");
        }
        let everything = Network::new(address("0.0.0.0"), 0).unwrap();
        assert!(everything.contains(address("255.255.255.255")));
        assert!(!everything.contains(address("::ffff:1.2.3.4")), "families do not mix");
        assert!(Network::new(address("::"), 0).unwrap().contains(address("ffff::1")));
    }

    #[test]
    fn plain_hosts_are_read() {
        for (text, expected) in [
            ("example.com", "example.com"),
            ("EXAMPLE.Com", "example.com"),
            ("a", "a"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_x.example", "_x.example"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("0x7f.0.0.1.nip.io", "0x7f.0.0.1.nip.io"),
            ("127.0.0.1a", "127.0.0.1a"),
            ("0xfg", "0xfg"),
        ] {
            assert_eq!(Host::parse(text), Some(Host::Name(expected.into())), "{text}");
        }
        for text in ["127.0.0.1", "8.8.8.8", "255.255.255.255", "[::1]", "[2606:4700::1111]", "[::ffff:127.0.0.1]"] {
            assert_eq!(Host::parse(text).map(|host| host.to_string()), Some(text.to_owned()));
        }
    }

    #[test]
    fn what_is_neither_a_plain_name_nor_a_plain_address_is_refused() {
        let long_label = "a".repeat(64);
        let long_name = "a.".repeat(127) + "a";
        for text in [
            // Nothing, and pieces of nothing.
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.",
            "127.0.0.1.",
            "example.com.",
            &long_label,
            &long_name,
            // IPv4 in other spellings.
            "0",
            "1",
            "127.1",
            "127.0.1",
            "127.0.0.01",
            "127.0.0.1.1",
            "0177.0.0.1",
            "0177.1",
            "017700000001",
            "2130706433",
            "4294967295",
            "4294967296",
            "99999999999999999999",
            "0x7f000001",
            "0X7F000001",
            "0x7f.1",
            "0x7f.0x0.0x0.0x1",
            "127.0.0.0x1",
            "0x",
            "0X",
            "127.0x",
            "a.0x",
            "a.1",
            "example.08",
            "256.256.256.256",
            "1.2.3",
            "1.2.3.4.5",
            "00000000000000000177.0.0.1",
            "127.0.0.00000001",
            // IPv6 that is not in brackets, broken, or with a zone.
            "::1",
            "[::1",
            "::1]",
            "[]",
            "[::1%25lo]",
            "[::1%lo]",
            "[fe80::1%eth0]",
            "[127.0.0.1]",
            "[example.com]",
            "[::1]a",
            "[[::1]]",
            "[::g]",
            "[v1.a]",
            "[::1 ]",
            // Bytes that no name has.
            "a b",
            " a",
            "a\t",
            "a\0",
            "a%00",
            "%31%32%37.0.0.1",
            "127%2e0%2e0%2e1",
            "a/b",
            "a\\b",
            "a@b",
            "a:b",
            "a#b",
            "a?b",
            "*",
            "*.example.com",
            "-a.example",
            "exämple.com",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
            "\u{ff11}27.0.0.1",
            "localhost\u{ad}",
            "!",
            "(a)",
            "a,b",
            "$(id)",
            "'",
            "\"",
            "<a>",
            "a&b",
            "a=b",
            "a;b",
            "a+b",
            "a~b",
            "{a}",
        ] {
            assert_eq!(Host::parse(text), None, "{text:?}");
        }
    }
}
