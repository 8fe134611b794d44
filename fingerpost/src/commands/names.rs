//! Which DNS name a user means: people write `web.prod` where DNS wants `web.prod.svc.cluster.local.`.

use fingerpost_client::DnsStatus;
use std::net::IpAddr;

/// A question for DNS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Question {
    /// The name, absolute, with a dot at its end.
    pub(super) name: String,
    /// The record types to ask for when the user names none, most wanted first.
    pub(super) types: &'static [&'static str],
}

/// Whether the name says all by itself, so that no zone is needed to complete it.
pub(super) fn is_absolute(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    text.ends_with('.')
        || text.parse::<IpAddr>().is_ok()
        || lower.ends_with(".in-addr.arpa")
        || lower.ends_with(".ip6.arpa")
}

/// Refuses what is no name at all before it is completed to something that the user did not write.
pub(super) fn checked(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the name is empty: write for example `web.prod`".to_owned());
    }
    match text.split_once('/') {
        Some((namespace, service)) => {
            Err(format!("`{text}` is no DNS name: DNS has the namespace last, as in `{service}.{namespace}`"))
        }
        None => Ok(()),
    }
}

/// What to ask for a name as users write it: an address means its reverse name; a name with a dot at its end, of the
/// zone or of a reverse zone is taken as it is; any other is a name within the zone's services.
pub(super) fn complete(text: &str, namespace: &str, zone: &str) -> Question {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Question { name: reverse(address), types: &["PTR"] };
    }
    let lower = text.to_ascii_lowercase();
    let types: &[&str] = match lower.as_str() {
        name if name.starts_with('_') => &["SRV"],
        name if name.contains(".in-addr.arpa") || name.contains(".ip6.arpa") => &["PTR"],
        _ => &["A", "AAAA"],
    };
    let within = |zone: &str| lower.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let name = if text.ends_with('.') {
        text.to_owned()
    } else if is_absolute(text) || within(zone) {
        format!("{text}.")
    } else {
        // Labels of a port and a protocol stand before the service.
        let service = lower.split('.').skip_while(|label| label.starts_with('_')).collect::<Vec<_>>();
        match service.as_slice() {
            [_] => format!("{text}.{namespace}.svc.{zone}."),
            [.., "svc" | "pod"] => format!("{text}.{zone}."),
            _ => format!("{text}.svc.{zone}."),
        }
    };
    Question { name, types }
}

/// The name below which DNS keeps what an address belongs to.
pub(super) fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            let mut name: String = nibbles.map(|nibble| format!("{nibble:x}.")).collect();
            name.push_str("ip6.arpa.");
            name
        }
    }
}

/// Where the registry's DNS server can be asked, as `(host, port)`; `registry` is the host by which the registry itself
/// is reached, which stands in where the DNS server listens on every address.
pub(super) fn dns_address(status: &DnsStatus, registry: &str) -> Option<(String, u16)> {
    let listen: std::net::SocketAddr = status.listen.first()?.parse().ok()?;
    let host = if listen.ip().is_unspecified() { registry.to_owned() } else { listen.ip().to_string() };
    Some((host, listen.port()))
}

/// `IP[:PORT]`, as `--dns` takes it; the port is 53 where none is given.
pub(super) fn parse_dns(text: &str) -> Option<(String, u16)> {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Some((address.ip().to_string(), address.port()));
    }
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some((address.to_string(), 53));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !host.contains(':') => Some((host.to_owned(), port.parse().ok()?)),
        None if !text.is_empty() => Some((text.to_owned(), 53)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (text, name) in [
            ("web", "web.default.svc.cluster.local."),
            ("web.prod", "web.prod.svc.cluster.local."),
            ("Web.prod.svc", "Web.prod.svc.cluster.local."),
            ("web-1.web.prod", "web-1.web.prod.svc.cluster.local."),
            ("_http._tcp.web", "_http._tcp.web.default.svc.cluster.local."),
            ("_http._tcp.web.prod", "_http._tcp.web.prod.svc.cluster.local."),
            ("10-0-0-1.prod.pod", "10-0-0-1.prod.pod.cluster.local."),
            ("web.prod.svc.cluster.local", "web.prod.svc.cluster.local."),
            ("Cluster.Local", "Cluster.Local."),
            ("mycluster.local", "mycluster.local.svc.cluster.local."),
            ("example.com.", "example.com."),
            ("10.0.0.1", "1.0.0.10.in-addr.arpa."),
            ("1.0.0.10.in-addr.arpa", "1.0.0.10.in-addr.arpa."),
        ] {
            assert_eq!(complete(text, "default", "cluster.local").name, name, "{text}");
        }
        let v6 = complete("fd00::1", "default", "cluster.local").name;
        assert_eq!(v6, format!("1.{}0.0.d.f.ip6.arpa.", "0.".repeat(27)));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert!(checked("prod/web").unwrap_err().contains("`web.prod`"));
        assert!(checked("").is_err());
        assert_eq!(checked("web"), Ok(()));
    }

    #[test]
    fn types_follow_the_name() {
        let types = |text: &str| complete(text, "default", "cluster.local").types;
        assert_eq!(types("web"), ["A", "AAAA"]);
        assert_eq!(types("_http._tcp.web"), ["SRV"]);
        assert_eq!(types("::1"), ["PTR"]);
        assert_eq!(types("1.0.0.10.in-addr.arpa."), ["PTR"]);
    }

    #[test]
    fn name_servers() {
        assert_eq!(parse_dns("127.0.0.1"), Some(("127.0.0.1".into(), 53)));
        assert_eq!(parse_dns("127.0.0.1:5300"), Some(("127.0.0.1".into(), 5300)));
        assert_eq!(parse_dns("[::1]:5300"), Some(("::1".into(), 5300)));
        assert_eq!(parse_dns("::1"), Some(("::1".into(), 53)));
        assert_eq!(parse_dns("dns.example:54"), Some(("dns.example".into(), 54)));
        assert_eq!(parse_dns(""), None);
        assert_eq!(parse_dns("x:y"), None);
        let status = |listen: &str| DnsStatus { listen: vec![listen.to_owned()], ..DnsStatus::default() };
        assert_eq!(dns_address(&status("0.0.0.0:53"), "10.0.0.9"), Some(("10.0.0.9".into(), 53)));
        assert_eq!(dns_address(&status("[::1]:5300"), "x"), Some(("::1".into(), 5300)));
        assert_eq!(dns_address(&DnsStatus::default(), "x"), None);
    }
}
