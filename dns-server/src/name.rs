//! Domain names as the index keeps them: in wire form (RFC 1035 §3.1), in lower case, shared.
//!
//! Lower case is what makes comparison case-insensitive (RFC 4343) at the price of one pass over a query's name. Length
//! octets are at most 63 and so never mistaken for upper-case letters: the whole form can be lowered at once.

use smallvec::SmallVec;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use triomphe::ThinArc;

/// The longest name in wire form, the root's octet included (RFC 1035 §2.3.4).
pub(crate) const MAX_NAME: usize = 255;
/// The longest label (RFC 1035 §2.3.4).
pub(crate) const MAX_LABEL: usize = 63;

/// A lower-case domain name in wire form. One word, for there are many pointers to names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(ThinArc<(), u8>);

/// As its wire form's, by which it can be looked up.
impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.wire().hash(state);
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.wire()
    }
}

impl Name {
    /// Reads a name as people write it; a dot at the end changes nothing, all names are absolute. None where it breaks
    /// the rules for lengths.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        let bare = text.strip_suffix('.').unwrap_or(text);
        if !bare.is_empty() {
            for label in bare.split('.') {
                push_label(&mut wire, label.as_bytes())?;
            }
        }
        wire.push(0);
        (wire.len() <= MAX_NAME).then(|| Self::from_wire(&wire))
    }

    /// A name from wire form that is already valid and in lower case.
    pub(crate) fn from_wire(wire: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice((), wire))
    }

    /// The name with one more label in front; none where it would be too long.
    pub(crate) fn child(&self, label: &[u8]) -> Option<Self> {
        let mut wire = Vec::with_capacity(label.len() + 1 + self.wire().len());
        push_label(&mut wire, label)?;
        wire.extend_from_slice(self.wire());
        (wire.len() <= MAX_NAME).then(|| Self::from_wire(&wire))
    }

    /// The name with a label in wire form in front; none where it would be too long.
    pub(crate) fn behind(&self, label: &Label) -> Option<Self> {
        self.has_room(label).then(|| Self::from_wire(&[label, self.wire()].concat()))
    }

    /// Whether a label in wire form fits in front.
    pub(crate) fn has_room(&self, label: &Label) -> bool {
        label.len() + self.wire().len() <= MAX_NAME
    }

    /// `child` with the labels in the order in which they are read.
    pub(crate) fn below(&self, labels: &[&[u8]]) -> Option<Self> {
        labels.iter().rev().try_fold(self.clone(), |name, label| name.child(label))
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.0.slice
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(self.wire(), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(self.wire(), f)
    }
}

/// `in-addr.arpa.` in wire form.
pub(crate) const V4_SUFFIX: &[u8] = b"\x07in-addr\x04arpa\x00";
/// `ip6.arpa.` in wire form.
pub(crate) const V6_SUFFIX: &[u8] = b"\x03ip6\x04arpa\x00";

/// The name under which an address is looked up backwards (RFC 1035 §3.5, RFC 3596 §2.5), in wire form.
pub(crate) fn reverse(address: IpAddr) -> SmallVec<[u8; 80]> {
    let mut wire = SmallVec::new();
    match address {
        IpAddr::V4(v4) => {
            for octet in v4.octets().into_iter().rev() {
                let digits = octet.to_string();
                wire.push(digits.len() as u8);
                wire.extend_from_slice(digits.as_bytes());
            }
            wire.extend_from_slice(V4_SUFFIX);
        }
        IpAddr::V6(v6) => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            for octet in v6.octets().into_iter().rev() {
                for nibble in [octet & 15, octet >> 4] {
                    wire.extend_from_slice(&[1, HEX[usize::from(nibble)]]);
                }
            }
            wire.extend_from_slice(V6_SUFFIX);
        }
    }
    wire
}

/// A label in wire form and in lower case; none where it breaks the rules for lengths.
pub(crate) fn label(text: &[u8]) -> Option<Label> {
    let valid = !text.is_empty() && text.len() <= MAX_LABEL;
    valid.then(|| std::iter::once(text.len() as u8).chain(text.iter().map(u8::to_ascii_lowercase)).collect())
}

fn push_label(wire: &mut Vec<u8>, label: &[u8]) -> Option<()> {
    if label.is_empty() || label.len() > MAX_LABEL {
        return None;
    }
    wire.push(label.len() as u8);
    wire.extend(label.iter().map(u8::to_ascii_lowercase));
    Some(())
}

/// The wire form of the name above; none for the root.
pub(crate) fn parent(wire: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*wire.first()?);
    if length == 0 {
        return None;
    }
    wire.get(1 + length..)
}

/// The first label; empty for the root.
pub(crate) fn first_label(wire: &[u8]) -> &[u8] {
    wire.split_first().and_then(|(&length, rest)| rest.get(..usize::from(length))).unwrap_or_default()
}

/// Whether `wire` is `apex` or a name below it; both in lower case.
pub(crate) fn is_within(wire: &[u8], apex: &[u8]) -> bool {
    let Some(start) = wire.len().checked_sub(apex.len()) else {
        return false;
    };
    if &wire[start..] != apex {
        return false;
    }
    // The bytes agree; they are the apex only where a label begins there, too.
    let mut at = 0;
    while at < start {
        at += 1 + usize::from(wire[at]);
    }
    at == start
}

/// Wire form as text, as [`Name`] prints it, in whatever spelling it has.
pub(crate) fn text(wire: &[u8]) -> String {
    struct Text<'a>(&'a [u8]);
    impl fmt::Display for Text<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_text(self.0, f)
        }
    }
    Text(wire).to_string()
}

/// Prints wire form as text (RFC 1035 §5.1): dots and backslashes inside labels, and bytes that are not printable,
/// are escaped.
fn write_text(wire: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut rest = wire;
    if rest == [0] {
        return f.write_str(".");
    }
    while let Some((&length, tail)) = rest.split_first() {
        let Some((label, next)) = tail.split_at_checked(usize::from(length)) else {
            break;
        };
        if length == 0 {
            break;
        }
        for &byte in label {
            match byte {
                b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\{byte:03}")?,
            }
        }
        f.write_str(".")?;
        rest = next;
    }
    Ok(())
}

/// The address that a complete reverse name stands for. Only the one name that [`reverse`] gives does: none with zeros
/// in front.
pub(crate) fn reverse_address(wire: &[u8]) -> Option<IpAddr> {
    if let Some(mut labels) = wire.strip_suffix(V4_SUFFIX) {
        let mut octets = [0; 4];
        for octet in octets.iter_mut().rev() {
            let (&length, rest) = labels.split_first()?;
            let (digits, rest) = rest.split_at_checked(usize::from(length))?;
            if digits.first() == Some(&b'0') && digits.len() > 1 || !digits.iter().all(u8::is_ascii_digit) {
                return None;
            }
            *octet = std::str::from_utf8(digits).ok()?.parse().ok()?;
            labels = rest;
        }
        return labels.is_empty().then(|| Ipv4Addr::from(octets).into());
    }
    let labels = wire.strip_suffix(V6_SUFFIX)?;
    if labels.len() != 64 {
        return None;
    }
    let mut octets = [0; 16];
    for (octet, labels) in octets.iter_mut().rev().zip(labels.chunks_exact(4)) {
        let [1, low, 1, high] = *labels else { return None };
        *octet = nibble(low)? | nibble(high)? << 4;
    }
    Some(Ipv6Addr::from(octets).into())
}

/// The value of a hexadecimal digit in lower case.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A label in wire form, its length in front. The dashed form of any address fits in place.
pub(crate) type Label = SmallVec<[u8; 48]>;

/// The label of an instance that has no better one: its address with dashes.
///
/// As CoreDNS forms it: dots and colons become dashes, and a dash at the end (an address like `fd00::`) is followed by
/// `0`. A dash in front (`::1`) stays: it is no host name then (RFC 1123 §2.1), but the DNS itself allows it (RFC 2181 §11).
pub fn dashed(address: IpAddr) -> String {
    dashed_label(address).iter().skip(1).copied().map(char::from).collect()
}

/// [`dashed`] in wire form.
pub(crate) fn dashed_label(address: IpAddr) -> Label {
    struct Dashes<'a>(&'a mut Label);
    impl Write for Dashes<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend(text.bytes().map(|c| if matches!(c, b'.' | b':') { b'-' } else { c }));
            Ok(())
        }
    }
    let mut label = Label::new();
    label.push(0);
    // Writing into memory does not fail.
    let _ = match address {
        IpAddr::V4(v4) => {
            for (n, octet) in v4.octets().into_iter().enumerate() {
                if n > 0 {
                    label.push(b'-');
                }
                push_decimal(&mut label, octet);
            }
            Ok(())
        }
        IpAddr::V6(v6) => write!(Dashes(&mut label), "{v6}"),
    };
    if label.last() == Some(&b'-') {
        label.push(b'0');
    }
    label[0] = (label.len() - 1) as u8;
    label
}

fn push_decimal(label: &mut Label, number: u8) {
    for (unit, from) in [(100, 100), (10, 10), (1, 0)] {
        if number >= from {
            label.push(b'0' + number / unit % 10);
        }
    }
}

/// The address whose [`dashed`] form a lower-case label is; none where it is none's, or where the form does not say
/// which (`::ffff:1.2.3.4` looks like `::ffff:1:2:3:4`).
pub(crate) fn dashed_address(label: &[u8]) -> Option<IpAddr> {
    // What most labels fail at is looked at first.
    if label.len() > 39 || !label.iter().all(|&c| matches!(c, b'0'..=b'9' | b'a'..=b'f' | b'-')) {
        return None;
    }
    if let Some(v4) = dashed_v4(label) {
        return Some(v4.into());
    }
    let mut colons = [0; 39];
    let colons = colons.get_mut(..label.len())?;
    for (to, &from) in colons.iter_mut().zip(label) {
        *to = if from == b'-' { b':' } else { from };
    }
    let address = std::str::from_utf8(colons).ok()?.parse().ok().map(IpAddr::V6)?;
    // Addresses can be written in several ways; one of them is its name.
    (dashed_label(address).get(1..) == Some(label)).then_some(address)
}

fn dashed_v4(label: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = label.split(|&c| c == b'-');
    for octet in &mut octets {
        let digits = parts.next()?;
        if digits.is_empty() || digits.len() > 3 || (digits.len() > 1 && digits[0] == b'0') {
            return None;
        }
        let number =
            digits.iter().try_fold(0_u16, |number, c| c.is_ascii_digit().then(|| number * 10 + u16::from(c - b'0')));
        *octet = u8::try_from(number?).ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_wire() {
        let name = Name::from_text("Web.Prod").unwrap();
        assert_eq!(name.wire(), b"\x03web\x04prod\x00");
        assert_eq!(name.to_string(), "web.prod.");
        assert_eq!(Name::from_text(".").unwrap().to_string(), ".");
        assert_eq!(name.below(&[b"a", b"b"]).unwrap().to_string(), "a.b.web.prod.");
        assert!(Name::from_text("a..b").is_none());
        assert!(Name::from_text(&"a".repeat(64)).is_none());
        assert!(Name::from_text(&vec!["a".repeat(63); 4].join(".")).is_none());
        assert_eq!(Name::from_wire(b"\x04a.\\\x01\x00").to_string(), "a\\.\\\\\\001.");
    }

    #[test]
    fn within_needs_a_label_boundary() {
        let apex = Name::from_text("local").unwrap();
        assert!(is_within(apex.wire(), apex.wire()));
        assert!(is_within(Name::from_text("a.local").unwrap().wire(), apex.wire()));
        // "\x05local\x00" stands here inside a label.
        let inside = Name::from_wire(b"\x07a\x05local\x00");
        assert!(!is_within(inside.wire(), apex.wire()));
    }

    #[test]
    fn reverse_names() {
        for (address, text) in [
            ("10.0.0.1", "1.0.0.10.in-addr.arpa."),
            ("fd00::1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa."),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let wire = reverse(address);
            assert_eq!(Name::from_wire(&wire).to_string(), text);
            assert_eq!(reverse_address(&wire), Some(address));
        }
        let v6 = |end: &str| format!("{}{end}.ip6.arpa", "0.".repeat(31));
        assert_eq!(reverse_address(Name::from_text(&v6("0")).unwrap().wire()), Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        for text in [
            "0.10.in-addr.arpa",
            "1.2.3.4.5.in-addr.arpa",
            "01.0.0.10.in-addr.arpa",
            "+1.0.0.10.in-addr.arpa",
            "256.0.0.10.in-addr.arpa",
            "1.0.0.10.ip6.arpa",
            "in-addr.arpa",
            &v6("g"),
            &v6("00"),
            &v6("0.0"),
        ] {
            assert_eq!(reverse_address(Name::from_text(text).unwrap().wire()), None, "{text}");
        }
    }

    #[test]
    fn dashed_addresses() {
        for (address, label) in
            [("10.0.0.1", "10-0-0-1"), ("fd00::1", "fd00--1"), ("fd00::", "fd00--0"), ("::1", "--1")]
        {
            let address = address.parse().unwrap();
            assert_eq!(dashed(address), label);
            assert_eq!(dashed_address(label.as_bytes()), Some(address));
        }
        assert_eq!(dashed("::ffff:1.2.3.4".parse().unwrap()), "--ffff-1-2-3-4");
        assert_eq!(dashed_address(b"--ffff-1-2-3-4"), Some("::ffff:1:2:3:4".parse().unwrap()));
        for label in [
            "10-0-0-01",
            "10-0-0",
            "10-0-0-1-2",
            "10-0-0-256",
            "1000-0-0-1",
            "10-0-0-",
            "fd00--",
            "0fd--1",
            "fd00--0-1",
            "abc",
            "-",
        ] {
            assert_eq!(dashed_address(label.as_bytes()), None, "{label}");
        }
    }

    proptest::proptest! {
        #[test]
        fn dashed_forms_say_their_address(bits: u128, v4: bool, zeros in 0..128u32) {
            let bits = bits.checked_shr(zeros).unwrap_or_default();
            let address = if v4 { Ipv4Addr::from(bits as u32).into() } else { IpAddr::from(Ipv6Addr::from(bits)) };
            let ambiguous = address.to_string().contains(':') && address.to_string().contains('.');
            let expected = (!ambiguous).then_some(address);
            let found = dashed_address(dashed(address).as_bytes());
            proptest::prop_assert_eq!(found.filter(|found| *found == address), expected);
        }
    }
}
