//! Passing on the result of the plugins before: unchanged but for its version (SPEC §2, "ADD": a plugin that changes
//! nothing outputs `prevResult`).
//!
//! Within one form of results nothing but `cniVersion` is touched, down to the spaces within values, so that what other
//! plugins and later versions of the specification add is kept. Where a runtime hands over a result of another form than
//! its configuration has, it is converted (SPEC §4, and the reference library's conversions).

use crate::error::{CniError, Code};
use crate::version::{Form, Version};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::fmt;

/// The members of an object in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a result, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// The result as it is to be printed under a configuration of `version`.
///
/// # Errors
///
/// It is no object, says a version that nobody knows, or can't be said in this version.
pub fn pass_on(result: &RawValue, version: Version) -> Result<String, CniError> {
    let wrong = |what: String| CniError::new(Code::Decode, "prevResult can't be read").details(what);
    let Members(members) = serde_json::from_str(result.get()).map_err(|error| wrong(error.to_string()))?;
    let said = members.iter().rev().find(|(key, _)| key == "cniVersion");
    let said: Option<String> = match said {
        None => None,
        Some((_, raw)) => serde_json::from_str(raw.get()).map_err(|error| wrong(format!("cniVersion: {error}")))?,
    };
    // One without a version has the configuration's (containernetworking/cni#895).
    let form = match said.as_deref() {
        None | Some("") => version.form(),
        Some("0.1.0" | "0.2.0") => Form::Single,
        Some(said) => Version::named(said)
            .ok_or_else(|| {
                wrong(format!("its version is {said:?}, and {:?} are known", Version::ALL.map(Version::as_str)))
            })?
            .form(),
    };
    if form != version.form() {
        return converted(result, form, version);
    }
    let mut text = String::with_capacity(result.get().len() + 32);
    text.push_str("{\"cniVersion\":\"");
    text.push_str(version.as_str());
    text.push('"');
    for (key, raw) in members.iter().filter(|(key, _)| key != "cniVersion") {
        text.push(',');
        text.push_str(&Value::from(key.as_str()).to_string());
        text.push(':');
        text.push_str(raw.get());
    }
    text.push('}');
    Ok(text)
}

fn converted(result: &RawValue, from: Form, to: Version) -> Result<String, CniError> {
    let wrong = |what: String| CniError::new(Code::Decode, "prevResult can't be read").details(what);
    let mut members: Map<String, Value> =
        serde_json::from_str(result.get()).map_err(|error| wrong(error.to_string()))?;
    if from == Form::Single {
        split_families(&mut members);
    }
    let is_v6 = |ip: &Value| ip["address"].as_str().is_some_and(|address| address.contains(':'));
    let ips = members.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten();
    for ip in ips {
        let v6 = is_v6(ip);
        let Some(ip) = ip.as_object_mut() else { continue };
        match to.form() {
            Form::Versioned => ip.insert("version".to_owned(), json!(if v6 { "6" } else { "4" })),
            Form::Plain | Form::Single => ip.remove("version"),
        };
    }
    if to.form() == Form::Versioned {
        // What came with 1.1.0.
        let interfaces = members.get_mut("interfaces").and_then(Value::as_array_mut).into_iter().flatten();
        for interface in interfaces.filter_map(Value::as_object_mut) {
            for newer in ["mtu", "socketPath", "pciID"] {
                interface.remove(newer);
            }
        }
    }
    members.insert("cniVersion".to_owned(), to.as_str().into());
    Ok(Value::Object(members).to_string())
}

/// `ip4` and `ip6` of 0.2.0 become `ips` and `routes`.
fn split_families(members: &mut Map<String, Value>) {
    let (mut ips, mut routes) = (Vec::new(), Vec::new());
    for family in ["ip4", "ip6"] {
        let Some(Value::Object(mut single)) = members.remove(family) else { continue };
        let mut ip = Map::new();
        if let Some(address) = single.remove("ip") {
            ip.insert("address".to_owned(), address);
        }
        if let Some(gateway) = single.remove("gateway") {
            ip.insert("gateway".to_owned(), gateway);
        }
        ips.push(Value::Object(ip));
        if let Some(Value::Array(own)) = single.remove("routes") {
            routes.extend(own);
        }
    }
    members.insert("ips".to_owned(), Value::Array(ips));
    if !routes.is_empty() {
        members.insert("routes".to_owned(), Value::Array(routes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(result: &str, version: Version) -> Result<String, CniError> {
        let raw: Box<RawValue> = serde_json::from_str(result).unwrap();
        pass_on(&raw, version)
    }

    #[test]
    fn nothing_but_the_version_is_touched() {
        let result = r#"{ "ips": [ {"address":"10.0.0.2/24", "x" : 1.50e3} ], "cniVersion":"1.1.0",
            "interfaces":[{"name":"eth0","mtu":1400,"pciID":"0000:00:1f.6"}], "vendorX": {"b":1,"a":12345678901234567890123} }"#;
        let text = passed(result, Version::V100).unwrap();
        assert!(
            text.starts_with(r#"{"cniVersion":"1.0.0","ips":[ {"address":"10.0.0.2/24", "x" : 1.50e3} ]"#),
            "{text}"
        );
        assert!(text.ends_with(r#""vendorX":{"b":1,"a":12345678901234567890123}}"#), "{text}");
        assert!(text.contains("pciID"), "as the reference library does between 1.1.0 and 1.0.0");
    }

    #[test]
    fn a_result_without_a_version_has_the_configurations() {
        for result in [r#"{"ips":[]}"#, r#"{"cniVersion":"","ips":[]}"#, r#"{"cniVersion":null,"ips":[]}"#] {
            assert_eq!(passed(result, Version::V040).unwrap(), r#"{"cniVersion":"0.4.0","ips":[]}"#);
        }
    }

    #[test]
    fn forms_are_converted() {
        let new = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":9000}],"ips":[{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}]}"#;
        let old: Value = serde_json::from_str(&passed(new, Version::V040).unwrap()).unwrap();
        assert_eq!(
            old,
            json!({"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],
                "ips":[{"address":"10.0.0.2/24","version":"4"},{"address":"fd00::2/64","version":"6"}]})
        );
        let back: Value = serde_json::from_str(&passed(&old.to_string(), Version::V110).unwrap()).unwrap();
        assert_eq!(back["ips"], json!([{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}]));
        let oldest = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0"}]},"dns":{}}"#;
        let plain: Value = serde_json::from_str(&passed(oldest, Version::V100).unwrap()).unwrap();
        assert_eq!(
            plain,
            json!({"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"}],
                "routes":[{"dst":"0.0.0.0/0"}],"dns":{}})
        );
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for odd in ["[]", "7", "\"x\"", r#"{"cniVersion":7}"#, r#"{"cniVersion":"3.0.0"}"#] {
            assert_eq!(passed(odd, Version::V110).unwrap_err().code, Code::Decode, "{odd}");
        }
    }
}
