//! The names in a client certificate, by which the tokens file knows it.

use std::fmt;
use std::str::FromStr;

/// One name of a certificate, written as OpenSSL does: `DNS:node-1.example`, `URI:spiffe://example/node-1` (both from the
/// subject's alternative names) or `CN=node-1`. The kinds are told apart, so that nobody gets the one by asking a
/// certificate authority for the other.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Subject(Box<str>);

/// The text is not a name of a certificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a certificate's name: write `DNS:…`, `URI:…` or `CN=…`")]
pub struct NotASubject(String);

impl FromStr for Subject {
    type Err = NotASubject;

    fn from_str(text: &str) -> Result<Self, NotASubject> {
        let known = ["DNS:", "URI:", "CN="].iter().any(|kind| text.len() > kind.len() && text.starts_with(kind));
        match text.strip_prefix("DNS:") {
            _ if !known || text.len() > 1024 => Err(NotASubject(text.chars().take(100).collect())),
            Some(name) => Ok(Self(format!("DNS:{}", name.to_ascii_lowercase()).into())),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All names in a certificate that was verified before.
pub(super) fn names(certificate: &rustls::pki_types::CertificateDer<'_>) -> Vec<Subject> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let uris = certificate.valid_uri_names().map(|name| format!("URI:{name}"));
    let hosts = certificate.valid_dns_names().map(|name| format!("DNS:{name}"));
    let common = common_name(certificate.subject()).map(|name| format!("CN={name}"));
    uris.chain(hosts).chain(common).filter_map(|name| name.parse().ok()).collect()
}

/// The common name in a subject (RFC 5280 §4.1.2.4: sets of pairs of type and value), where it has just one.
fn common_name(subject: &[u8]) -> Option<&str> {
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    let mut found = None;
    let mut sets = subject;
    while !sets.is_empty() {
        let (mut pairs, rest) = value(sets, &[tag::SET])?;
        sets = rest;
        while !pairs.is_empty() {
            let (pair, rest) = value(pairs, &[tag::SEQUENCE])?;
            pairs = rest;
            let (kind, text) = value(pair, &[tag::OBJECT_IDENTIFIER])?;
            if kind != COMMON_NAME {
                continue;
            }
            let (text, _) = value(text, &[tag::UTF8_STRING, tag::PRINTABLE_STRING])?;
            let text = std::str::from_utf8(text).ok()?;
            if found.replace(text).is_some() {
                return None;
            }
        }
    }
    found
}

mod tag {
    pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(super) const UTF8_STRING: u8 = 0x0c;
    pub(super) const PRINTABLE_STRING: u8 = 0x13;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
}

/// A value of one of these kinds at the beginning of DER, and what follows it.
fn value<'a>(der: &'a [u8], tags: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        // Names have less than 64 KiB.
        long @ 0x81..=0x82 => {
            let (length, rest) = rest.split_at_checked(long - 0x80)?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    tags.contains(tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    #[test]
    fn kinds_are_told_apart() {
        for good in ["DNS:a.example", "URI:spiffe://a/b", "CN=node 1"] {
            assert_eq!(good.parse::<Subject>().unwrap().to_string(), good);
        }
        assert_eq!("DNS:A.Example".parse::<Subject>().unwrap().to_string(), "DNS:a.example");
        for bad in ["", "node-1", "DNS:", "CN=", "cn=x", "IP:1.2.3.4"] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_a_certificate() {
        let mut params = CertificateParams::new(vec!["node-1.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://example/node-1".try_into().unwrap()));
        params.distinguished_name.push(DnType::OrganizationName, "Example & Sons ".repeat(12));
        params.distinguished_name.push(DnType::CommonName, "node-1");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let names: Vec<String> = names(certificate.der()).iter().map(Subject::to_string).collect();
        assert_eq!(names, ["URI:spiffe://example/node-1", "DNS:node-1.example", "CN=node-1"]);
    }

    #[test]
    fn broken_der_has_no_name() {
        for broken in [&[0x31][..], &[0x31, 5, 0], &[0x31, 0x84, 1, 1, 1, 1], &[0x30, 0], &[0x31, 2, 0x30, 9]] {
            assert_eq!(common_name(broken), None);
        }
    }
}
