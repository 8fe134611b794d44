//! An instance's details: its id, and those of its fields that it shares with no other, packed. In a cluster nearly every
//! instance has a pod, and nearly always the pod's name is the instance's id and its UID a UUID, of which 16 bytes are
//! enough.

use super::packing::{Packed, Packer, Unpacker};
use crate::Health;
use crate::object::{Attachment, Instance, Pod, Report};

/// The id, then which fields follow, then those in the order of these flags.
#[derive(Debug, Default)]
pub(super) struct Details(Box<[u8]>);

/// The health that was reported, and the note.
const REPORT: u8 = 1;
const WEIGHT: u8 = 2;
/// There is a pod, named as the instance and without a UID unless one of the next three says otherwise.
const POD: u8 = 4;
const POD_NAME: u8 = 8;
const POD_UUID: u8 = 16;
const POD_UID: u8 = 32;
const HOSTNAME: u8 = 64;
const ATTACHMENT: u8 = 128;

impl Details {
    /// The instance's details as they are kept; what is not theirs is left out.
    pub(super) fn pack(id: &str, instance: &Instance) -> Packed {
        let Instance { report, weight, pod, hostname, attachment, .. } = instance;
        let uuid = pod.as_ref().and_then(|pod| parse_uuid(&pod.uid));
        let other_name = pod.as_ref().map(|pod| &*pod.name).filter(|name| *name != id);
        let other_uid = pod.as_ref().map(|pod| &*pod.uid).filter(|uid| uuid.is_none() && !uid.is_empty());
        let flag = |flag: u8, set: bool| if set { flag } else { 0 };
        let mut packer = Packer::default();
        packer.text(id);
        packer.byte(
            flag(REPORT, report.is_some())
                | flag(WEIGHT, weight.is_some())
                | flag(POD, pod.is_some())
                | flag(POD_NAME, other_name.is_some())
                | flag(POD_UUID, uuid.is_some())
                | flag(POD_UID, other_uid.is_some())
                | flag(HOSTNAME, hostname.is_some())
                | flag(ATTACHMENT, attachment.is_some()),
        );
        if let Some(report) = report {
            packer.byte(report.health as u8);
            packer.text(&report.note);
        }
        if let Some(weight) = weight {
            packer.octets(&weight.to_be_bytes());
        }
        if let Some(name) = other_name {
            packer.text(name);
        }
        if let Some(uuid) = uuid {
            packer.octets(&uuid);
        }
        if let Some(uid) = other_uid {
            packer.text(uid);
        }
        if let Some(hostname) = hostname {
            packer.text(hostname);
        }
        if let Some(Attachment { network, container_id, interface }) = attachment {
            [network, container_id, interface].into_iter().for_each(|text| packer.text(text));
        }
        packer.finish()
    }

    pub(super) fn new(packed: &[u8]) -> Self {
        Self(packed.into())
    }

    /// Takes over what was packed.
    pub(super) fn set(&mut self, packed: &[u8]) {
        if *self.0 != *packed {
            self.0 = packed.into();
        }
    }

    pub(super) fn id(&self) -> &str {
        Unpacker::new(&self.0).text()
    }

    /// The id's bytes, which compare as the id does.
    pub(super) fn id_bytes(&self) -> &[u8] {
        Unpacker::new(&self.0).bytes()
    }

    /// The health and the note that the instance's source reported last.
    pub(super) fn report(&self) -> Option<(Health, &str)> {
        let mut unpacker = Unpacker::new(&self.0);
        unpacker.bytes();
        (unpacker.byte() & REPORT != 0).then(|| (health(unpacker.byte()), unpacker.text()))
    }

    /// Fills in what was packed.
    pub(super) fn unpack(&self, instance: &mut Instance) {
        let mut unpacker = Unpacker::new(&self.0);
        let id = unpacker.text();
        let flags = unpacker.byte();
        let has = |flag: u8| flags & flag != 0;
        instance.report = has(REPORT).then(|| Report {
            health: health(unpacker.byte()),
            note: unpacker.text().to_owned(),
            ..Report::default()
        });
        instance.weight = has(WEIGHT).then(|| u16::from_be_bytes(unpacker.octets()));
        instance.pod = has(POD).then(|| Pod {
            name: if has(POD_NAME) { unpacker.text() } else { id }.to_owned(),
            uid: match (has(POD_UUID), has(POD_UID)) {
                (true, _) => print_uuid(&unpacker.octets()),
                (_, true) => unpacker.text().to_owned(),
                _ => String::new(),
            },
        });
        instance.hostname = has(HOSTNAME).then(|| unpacker.text().to_owned());
        instance.attachment = has(ATTACHMENT).then(|| Attachment {
            network: unpacker.text().to_owned(),
            container_id: unpacker.text().to_owned(),
            interface: unpacker.text().to_owned(),
        });
    }
}

fn health(byte: u8) -> Health {
    Health::ALL[usize::from(byte) % Health::ALL.len()]
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

    fn packed(id: &str, instance: &Instance) -> Details {
        Details::new(&Details::pack(id, instance))
    }

    #[test]
    fn details_survive_packing() {
        let uids = [
            "",
            "0b9f1c52-00ff-4a7e-8d11-0123456789ab",
            "0B9F1C52-00ff-4a7e-8d11-0123456789ab",
            "0b9f1c52-00ff-4a7e-8d11-0123456789ag",
            "0b9f1c5200ff-4a7e-8d11-0123456789abcd",
            "static-pod-of-node-1",
        ];
        let pods = uids.iter().flat_map(|uid| {
            let pod = |name: &str| Pod { name: name.to_owned(), uid: (*uid).to_owned() };
            [None, Some(pod("web-1")), Some(pod("other"))]
        });
        for (n, pod) in pods.enumerate() {
            let some = |bit: usize| n & bit != 0;
            let instance = Instance {
                pod,
                weight: some(1).then_some(n as u16 * 1000),
                report: some(2).then(|| Report {
                    health: Health::Critical,
                    note: "why".to_owned(),
                    ..Report::default()
                }),
                hostname: some(4).then(|| "h".repeat(200)),
                attachment: some(8).then(|| Attachment { network: "net".to_owned(), ..Attachment::default() }),
                ..Instance::default()
            };
            let details = packed("web-1", &instance);
            let mut unpacked = Instance::default();
            details.unpack(&mut unpacked);
            assert_eq!((details.id(), &unpacked), ("web-1", &instance));
            assert_eq!(details.report(), instance.report.as_ref().map(|report| (report.health, &*report.note)));
        }
    }

    #[test]
    fn the_usual_pod_takes_little() {
        let uid = "0b9f1c52-00ff-4a7e-8d11-0123456789ab";
        let pod = Some(Pod { name: "web-1".to_owned(), uid: uid.to_owned() });
        assert_eq!(packed("web-1", &Instance { pod, ..Instance::default() }).0.len(), 1 + 5 + 1 + 16);
    }
}
