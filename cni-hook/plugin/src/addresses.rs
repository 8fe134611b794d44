//! Which addresses of a result are those of the interface that the plugin was called for.
//!
//! The rule is the one that the reference plugins have (`portmap`): an address belongs to another interface only where it
//! points at one, and that has another name or lies on the host. Older plugins point nowhere, or at -1.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::net::IpAddr;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    ip4: Option<Single>,
    ip6: Option<Single>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Interface {
    name: String,
    sandbox: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ip {
    address: String,
    interface: Option<i64>,
}

#[derive(Deserialize)]
struct Single {
    ip: String,
}

/// The addresses of `interface`, in the order of the result, each once. Of a result that has none, or in which they can't be
/// read, there are none; loopback, link-local, multicast and unspecified addresses lead nobody to the pod.
pub fn of(result: &RawValue, interface: &str) -> Vec<IpAddr> {
    let document: Document = serde_json::from_str(result.get()).unwrap_or_default();
    let is_elsewhere = |ip: &Ip| {
        let at = ip.interface.and_then(|index| usize::try_from(index).ok());
        at.and_then(|at| document.interfaces.get(at)).is_some_and(|of| of.name != interface || of.sandbox.is_empty())
    };
    let ips = document.ips.iter().filter(|ip| !is_elsewhere(ip)).map(|ip| ip.address.as_str());
    let singles = [&document.ip4, &document.ip6].into_iter().flatten().map(|single| single.ip.as_str());
    let mut addresses = Vec::new();
    for text in ips.chain(singles) {
        // With the prefix of its network, in most cases.
        let Ok(address) = text.split('/').next().unwrap_or_default().parse::<IpAddr>() else { continue };
        let address = address.to_canonical();
        if leads_there(address) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn leads_there(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::of;
    use serde_json::value::RawValue;

    fn addresses(result: &str) -> Vec<String> {
        let raw: Box<RawValue> = serde_json::from_str(result).unwrap();
        of(&raw, "eth0").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_of_another_interface_is_not_taken() {
        let result = r#"{"cniVersion":"1.0.0",
            "interfaces":[{"name":"cni0"},{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/a"},{"name":"net1","sandbox":"/run/netns/a"}],
            "ips":[{"address":"10.1.0.5/16","interface":2},{"address":"fd00::5/64","interface":2},
                {"address":"10.2.0.9/24","interface":3},{"address":"10.3.0.1/24","interface":0}]}"#;
        assert_eq!(addresses(result), ["10.1.0.5", "fd00::5"]);
    }

    #[test]
    fn indexes_of_older_plugins_lead_nowhere_and_are_forgiven() {
        for index in ["", r#","interface":-1"#, r#","interface":7"#, r#","interface":null"#] {
            let result = format!(r#"{{"ips":[{{"version":"4","address":"10.1.0.5/16"{index}}}],"interfaces":[]}}"#);
            assert_eq!(addresses(&result), ["10.1.0.5"], "{index}");
        }
        assert_eq!(
            addresses(r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.1/8"},"ip6":{"ip":"fd00::1/64"}}"#),
            ["10.0.0.1", "fd00::1"]
        );
    }

    #[test]
    fn what_is_no_address_of_use_is_left_out() {
        let result = r#"{"ips":[{"address":"127.0.0.1/8"},{"address":"fe80::1/64"},{"address":"169.254.1.1/32"},{"address":"x"},
            {"address":"::ffff:10.0.0.1"},{"address":"10.0.0.1/8"},{"address":"0.0.0.0"}]}"#;
        assert_eq!(addresses(result), ["10.0.0.1"]);
        for odd in ["{}", "[]", "null", "7", r#"{"ips":{}}"#, r#"{"ips":[7]}"#] {
            assert!(addresses(odd).is_empty(), "{odd}");
        }
    }
}
