//! Views built by hand, and questions to an index.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use fingerpost_catalog::{
    AllCritical, Conditions, Effects, Epoch, Health, HealthParts, Instance, InstanceKey, InstanceView, Labels,
    NamespaceView, Port, Position, Protocol, ServiceType, ServiceView, Source, ViewChange,
};
use fingerpost_dns::{Answerer, Config, Counters, Index, Transport, Verdict};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

pub fn at(number: u64) -> Position {
    Position::new(Epoch(7), number)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn port(name: &str, port: u16) -> Port {
    Port { name: name.to_owned(), port, protocol: Protocol::Tcp, app_protocol: None }
}

pub fn namespace(name: &str) -> NamespaceView {
    NamespaceView { name: name.into(), labels: Labels::default(), sources: vec![Source::api()], revision: 1 }
}

pub fn service(namespace: &str, name: &str, service_type: ServiceType) -> ServiceView {
    ServiceView {
        namespace: namespace.into(),
        name: name.into(),
        service_type,
        cluster_ips: Vec::new(),
        external_name: None,
        labels: Labels::default(),
        ports: Vec::new(),
        ttl: None,
        publish_not_ready: false,
        answer_unknown: false,
        all_critical: AllCritical::None,
        checks: Vec::new(),
        sources: vec![Source::api()],
        revision: 1,
    }
}

pub fn headless(namespace: &str, name: &str, ports: &[Port]) -> ServiceView {
    ServiceView { ports: ports.to_vec(), ..service(namespace, name, ServiceType::Headless) }
}

pub fn cluster_ip(namespace: &str, name: &str, ips: &[&str], ports: &[Port]) -> ServiceView {
    ServiceView {
        cluster_ips: ips.iter().map(|text| ip(text)).collect(),
        ports: ports.to_vec(),
        ..service(namespace, name, ServiceType::ClusterIP)
    }
}

pub fn external(namespace: &str, name: &str, target: &str) -> ServiceView {
    ServiceView { external_name: Some(target.to_owned()), ..service(namespace, name, ServiceType::ExternalName) }
}

pub fn instance(namespace: &str, service: &str, id: &str, addresses: &[&str]) -> InstanceView {
    InstanceView {
        key: InstanceKey {
            namespace: namespace.into(),
            service: Some(service.into()),
            source: Source::api(),
            id: id.into(),
        },
        instance: Instance {
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            conditions: Conditions::default(),
            ..Instance::default()
        },
        reported: Health::Passing,
        parts: HealthParts::default(),
        effective: Health::Passing,
        answerable: true,
        panic_answerable: true,
        shadowed: Vec::new(),
        revision: 1,
    }
}

pub fn critical(view: InstanceView) -> InstanceView {
    InstanceView { effective: Health::Critical, answerable: false, ..view }
}

pub fn instance_change(before: Option<&InstanceView>, after: Option<&InstanceView>) -> ViewChange {
    ViewChange::Instance { before: before.cloned().map(Arc::new), after: after.cloned().map(Arc::new) }
}

pub fn service_change(before: Option<&ServiceView>, after: Option<&ServiceView>) -> ViewChange {
    ViewChange::Service { before: before.cloned().map(Arc::new), after: after.cloned().map(Arc::new) }
}

pub fn namespace_change(before: Option<&NamespaceView>, after: Option<&NamespaceView>) -> ViewChange {
    ViewChange::Namespace { before: before.cloned().map(Arc::new), after: after.cloned().map(Arc::new) }
}

/// An index, and the means to ask it.
pub struct Dns {
    pub index: Arc<Index>,
    answerer: Answerer,
    number: u64,
}

/// An answer, decoded by hickory.
pub struct Reply {
    pub message: Message,
    pub size: usize,
}

impl Dns {
    pub fn unsynced() -> Self {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Self {
        let index = Arc::new(Index::new(config).unwrap());
        let answerer = Answerer::new(index.clone(), Arc::new(Counters::default()));
        Self { index, answerer, number: 1 }
    }

    pub fn new() -> Self {
        let dns = Self::unsynced();
        dns.index.set_synced(at(1));
        dns
    }

    pub fn apply(&mut self, changes: Vec<ViewChange>) {
        self.number += 1;
        self.index.apply(&Effects { position: at(self.number), changes, sessions: Vec::new() });
    }

    pub fn load(&self, services: &[ServiceView], instances: &[InstanceView]) {
        for view in services {
            self.index.load_namespace(&namespace(&view.namespace));
            self.index.load_service(view);
        }
        for view in instances {
            self.index.load_instance(Arc::new(view.clone()));
        }
    }

    pub fn raw(&mut self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        (self.answerer.answer(packet, transport, &mut out) == Verdict::Send).then_some(out)
    }

    pub fn send(&mut self, message: &Message, transport: Transport) -> Reply {
        let out = self.raw(&message.to_vec().unwrap(), transport).expect("an answer");
        let reply = Message::from_vec(&out).unwrap_or_else(|error| panic!("{error}: {out:02x?}"));
        assert_eq!(reply.metadata.id, message.metadata.id);
        assert!(!reply.metadata.recursion_available && !reply.metadata.authentic_data);
        Reply { message: reply, size: out.len() }
    }

    /// Asks over TCP, where nothing is cut.
    pub fn ask(&mut self, name: &str, qtype: RecordType) -> Reply {
        self.send(&question(name, qtype), Transport::Tcp)
    }

    /// Response code and data.
    pub fn data(&mut self, name: &str, qtype: RecordType) -> (ResponseCode, BTreeSet<String>) {
        let reply = self.ask(name, qtype);
        (reply.rcode(), reply.data())
    }
}

impl Reply {
    pub fn rcode(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    pub fn data(&self) -> BTreeSet<String> {
        self.message.answers.iter().map(|record| record.data.to_string().replace("\\-", "-")).collect()
    }

    /// Whether it is a negative answer as RFC 2308 wants it: no data, and the SOA of the zone.
    pub fn is_negative(&self, rcode: ResponseCode) -> bool {
        self.rcode() == rcode
            && self.message.answers.is_empty()
            && self.message.metadata.authoritative
            && matches!(self.message.authorities.as_slice(), [soa] if soa.record_type() == RecordType::SOA)
    }
}

pub fn question(name: &str, qtype: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    // Hickory reads no label that begins with a dash (`::1` makes one), but takes it as it is.
    let raw = || Name::from_labels(name.trim_end_matches('.').split('.').map(str::as_bytes));
    let mut wanted = Name::from_ascii(name).or_else(|_| raw()).unwrap();
    wanted.set_fqdn(true);
    message.add_query(Query::query(wanted, qtype));
    message
}

pub fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|&item| item.to_owned()).collect()
}
