//! A pod in compact form. In a cluster nearly every instance has one, and nearly always the name is the instance's id
//! and the UID a UUID, of which 16 bytes are enough.

use crate::object::Pod;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PackedPod {
    /// None where it is the instance's id.
    name: Option<Box<str>>,
    uid: Uid,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Uid {
    Uuid([u8; 16]),
    Text(Box<str>),
}

impl PackedPod {
    pub(super) fn pack(pod: &Pod, id: &str) -> Self {
        let uid = parse_uuid(&pod.uid).map_or_else(|| Uid::Text(pod.uid.as_str().into()), Uid::Uuid);
        Self { name: (pod.name != id).then(|| pod.name.as_str().into()), uid }
    }

    pub(super) fn unpack(&self, id: &str) -> Pod {
        let uid = match &self.uid {
            Uid::Uuid(octets) => print_uuid(octets),
            Uid::Text(text) => text.to_string(),
        };
        Pod { name: self.name.as_deref().unwrap_or(id).to_owned(), uid }
    }
}

const DASHES: [usize; 4] = [8, 13, 18, 23];

/// Reads a UUID in the one form that prints back the same: 36 characters, lower case.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 || DASHES.iter().any(|&at| bytes[at] != b'-') {
        return None;
    }
    let mut octets = [0; 16];
    let digits = bytes.iter().enumerate().filter(|(at, _)| !DASHES.contains(at)).map(|(_, &digit)| digit);
    for (n, digit) in digits.enumerate() {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        octets[n / 2] |= if n % 2 == 0 { value << 4 } else { value };
    }
    Some(octets)
}

fn print_uuid(octets: &[u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(36);
    for octet in octets {
        if DASHES.contains(&text.len()) {
            text.push('-');
        }
        text.push(char::from(DIGITS[usize::from(octet >> 4)]));
        text.push(char::from(DIGITS[usize::from(octet & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_survive_packing() {
        for uid in [
            "",
            "0b9f1c52-00ff-4a7e-8d11-0123456789ab",
            "0B9F1C52-00ff-4a7e-8d11-0123456789ab",
            "0b9f1c52-00ff-4a7e-8d11-0123456789ag",
            "0b9f1c5200ff-4a7e-8d11-0123456789abcd",
            "static-pod-of-node-1",
        ] {
            for name in ["web-1", "other"] {
                let pod = Pod { name: name.to_owned(), uid: uid.to_owned() };
                assert_eq!(PackedPod::pack(&pod, "web-1").unpack("web-1"), pod);
            }
        }
        let uid = "0b9f1c52-00ff-4a7e-8d11-0123456789ab";
        assert!(matches!(PackedPod::pack(&Pod { name: String::new(), uid: uid.into() }, "").uid, Uid::Uuid(_)));
    }
}
