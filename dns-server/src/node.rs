//! What stands at a name: any records, in the smallest form that holds them.

use crate::name::Name;
use crate::record::{Data, NamedPort, Pointer, Role, Srv};
use crate::set::Set;
use std::net::IpAddr;

/// What an address is called. A service whose own address it is speaks before all endpoints.
#[derive(Debug, Default)]
pub(crate) struct Pointers {
    pub(crate) services: Set<Pointer>,
    pub(crate) endpoints: Set<Pointer>,
}

impl Pointers {
    fn of(&mut self, role: Role) -> &mut Set<Pointer> {
        if role == Role::Service { &mut self.services } else { &mut self.endpoints }
    }
}

/// What makes a name special.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Special {
    #[default]
    No,
    /// The top of a zone: has SOA and NS.
    Apex,
    /// `dns-version.<zone>`.
    Version,
}

/// All that is known of a name. Most names have one record, or only names below them: those take little.
#[derive(Debug)]
pub(crate) enum Node {
    /// No record.
    Bare {
        /// Names directly below that exist.
        below: u32,
    },
    /// One address with one contributor.
    A { ttl: u32, address: [u8; 4] },
    /// The same, of version 6.
    Aaaa(Box<Aaaa>),
    /// One of each version.
    Both(Box<Both>),
    /// One pointer, with one contributor.
    Pointer(Pointer),
    /// Anything.
    Rich(Box<Records>),
}

/// The address of one endpoint.
#[derive(Debug)]
pub(crate) struct Aaaa {
    ttl: u32,
    address: [u8; 16],
}

/// The addresses of one endpoint.
#[derive(Debug)]
pub(crate) struct Both {
    ttl: u32,
    a: [u8; 4],
    aaaa: [u8; 16],
}

/// Records of any number and kind.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Names directly below that exist.
    below: u32,
    pins: u32,
    ttl: u32,
    special: Special,
    a: Set<[u8; 4]>,
    aaaa: Option<Box<Set<[u8; 16]>>>,
    srv: Set<Srv>,
    cname: Option<Box<Set<Name>>>,
    ports: Option<Box<Set<NamedPort>>>,
    pub(crate) ptr: Option<Box<Pointers>>,
}

fn insert<R: Eq + std::hash::Hash + Clone>(set: &mut Option<Box<Set<R>>>, record: &R) -> bool {
    set.get_or_insert_default().insert(record)
}

fn remove<R: Eq + std::hash::Hash + Clone>(set: &mut Option<Box<Set<R>>>, record: &R) -> bool {
    let Some(inner) = set else { return false };
    let gone = inner.remove(record);
    if inner.is_empty() {
        *set = None;
    }
    gone
}

impl Default for Node {
    fn default() -> Self {
        Node::Bare { below: 0 }
    }
}

impl Node {
    pub(crate) fn exists(&self) -> bool {
        match self {
            Node::Bare { below } => *below > 0,
            Node::Rich(records) => records.below > 0 || records.pins > 0 || records.has_any(),
            _ => true,
        }
    }

    /// Whether there is something to answer, beside the name's existence.
    pub(crate) fn has_records(&self) -> bool {
        match self {
            Node::Bare { .. } => false,
            Node::Rich(records) => records.has_any(),
            _ => true,
        }
    }

    pub(crate) fn ttl(&self) -> u32 {
        match self {
            Node::Bare { .. } => 0,
            Node::A { ttl, .. } => *ttl,
            Node::Aaaa(one) => one.ttl,
            Node::Pointer(pointer) => pointer.ttl,
            Node::Both(both) => both.ttl,
            Node::Rich(records) => records.ttl,
        }
    }

    pub(crate) fn a(&self) -> &[[u8; 4]] {
        match self {
            Node::A { address, .. } => std::slice::from_ref(address),
            Node::Both(both) => std::slice::from_ref(&both.a),
            Node::Rich(records) => records.a.items(),
            _ => &[],
        }
    }

    pub(crate) fn aaaa(&self) -> &[[u8; 16]] {
        match self {
            Node::Aaaa(one) => std::slice::from_ref(&one.address),
            Node::Both(both) => std::slice::from_ref(&both.aaaa),
            Node::Rich(records) => records.aaaa.as_ref().map(|set| set.items()).unwrap_or_default(),
            _ => &[],
        }
    }

    pub(crate) fn srv(&self) -> &[Srv] {
        match self {
            Node::Rich(records) => records.srv.items(),
            _ => &[],
        }
    }

    pub(crate) fn cname(&self) -> Option<&Name> {
        match self {
            Node::Rich(records) => records.cname.as_ref().and_then(|set| set.items().last()),
            _ => None,
        }
    }

    pub(crate) fn special(&self) -> Special {
        match self {
            Node::Rich(records) => records.special,
            _ => Special::No,
        }
    }

    /// For the node of an address: the TTL of its dashed form below a service, where that is an endpoint's name.
    pub(crate) fn dashed_below(&self, service: &[u8]) -> Option<u32> {
        let is = |pointer: &Pointer| pointer.is_dashed_below(service);
        match self {
            Node::Pointer(pointer) => is(pointer).then_some(pointer.ttl),
            Node::Rich(records) => {
                let found = records.ptr.as_ref()?.endpoints.find_by(service, is)?;
                Some(found.ttl)
            }
            _ => None,
        }
    }

    /// For the node of a service: its ports that have names without entries.
    pub(crate) fn ports(&self) -> &[NamedPort] {
        match self {
            Node::Rich(records) => records.ports.as_ref().map(|set| set.items()).unwrap_or_default(),
            _ => &[],
        }
    }

    /// For the node of a service: the record of such a port. It leads to the service itself.
    pub(crate) fn srv_of(&self, service: &[u8], name: &[u8], protocol: &[u8]) -> Option<&Srv> {
        let mut ports = self.ports().iter().filter(|port| port.is(name, protocol));
        ports.find_map(|port| self.srv().iter().find(|srv| srv.port == port.port && srv.target.is(service)))
    }

    /// How many names without entries exist by this record, which is there, alone.
    pub(crate) fn names_of(&self, data: &Data) -> u64 {
        match data {
            Data::Ptr(Role::Dashed, _) => 1,
            Data::Port(port) => {
                let others = self.ports().iter().any(|other| other != port && other.protocol == port.protocol);
                1 + u64::from(!others)
            }
            _ => 0,
        }
    }

    /// Its addresses and one more.
    pub(crate) fn with(&self, ttl: u32, address: IpAddr) -> Self {
        let mut node = Node::default();
        let (a, aaaa) = (self.a().iter().copied().map(Data::A), self.aaaa().iter().copied().map(Data::Aaaa));
        for data in a.chain(aaaa).chain([Data::from(address)]) {
            node.add(&data, ttl);
        }
        node
    }

    /// Makes it special.
    pub(crate) fn mark(&mut self, special: Special) {
        self.change(|records| records.special = special);
    }

    /// Its records in the form that holds any.
    fn into_records(self) -> Box<Records> {
        let (ttl, data) = match self {
            Node::Rich(records) => return records,
            Node::Bare { below } => return Box::new(Records { below, ..Records::default() }),
            Node::A { ttl, address } => (ttl, [Some(Data::A(address)), None]),
            Node::Aaaa(one) => (one.ttl, [Some(Data::Aaaa(one.address)), None]),
            Node::Both(both) => (both.ttl, [Some(Data::A(both.a)), Some(Data::Aaaa(both.aaaa))]),
            Node::Pointer(Pointer { name, ttl, role }) => (ttl, [Some(Data::Ptr(role, name)), None]),
        };
        let mut records = Box::<Records>::default();
        for data in data.iter().flatten() {
            records.add(data, ttl);
        }
        records
    }

    /// Changes its records, and keeps them in the smallest form that holds them.
    fn change<T>(&mut self, change: impl FnOnce(&mut Records) -> T) -> T {
        let mut records = std::mem::take(self).into_records();
        let changed = change(&mut records);
        *self = records.simple().unwrap_or(Node::Rich(records));
        changed
    }

    /// Changes how many names directly below exist.
    pub(crate) fn change_below(&mut self, change: impl FnOnce(u32) -> u32) {
        match self {
            Node::Bare { below } => *below = change(*below),
            _ => self.change(|records| records.below = change(records.below)),
        }
    }

    /// Adds; true where a record appeared.
    pub(crate) fn add(&mut self, data: &Data, ttl: u32) -> bool {
        let simple = match (&*self, data) {
            (Node::Bare { below: 0 }, Data::A(address)) => Node::A { ttl, address: *address },
            (Node::Bare { below: 0 }, Data::Aaaa(address)) => Node::Aaaa(Box::new(Aaaa { ttl, address: *address })),
            (Node::Bare { below: 0 }, Data::Ptr(role, name)) => {
                Node::Pointer(Pointer { name: name.clone(), ttl, role: *role })
            }
            (&Node::A { address: a, .. }, &Data::Aaaa(aaaa)) => Node::Both(Box::new(Both { ttl, a, aaaa })),
            (Node::Aaaa(one), &Data::A(a)) => Node::Both(Box::new(Both { ttl, a, aaaa: one.address })),
            _ => return self.change(|records| records.add(data, ttl)),
        };
        *self = simple;
        true
    }

    /// Takes away; true where a record disappeared.
    pub(crate) fn take(&mut self, data: &Data, ttl: u32) -> bool {
        let simple = match (&*self, data) {
            (Node::A { address, .. }, Data::A(gone)) if address == gone => Node::default(),
            (Node::Aaaa(one), Data::Aaaa(gone)) if one.address == *gone => Node::default(),
            (Node::Both(both), Data::A(gone)) if both.a == *gone => {
                Node::Aaaa(Box::new(Aaaa { ttl: both.ttl, address: both.aaaa }))
            }
            (Node::Both(both), Data::Aaaa(gone)) if both.aaaa == *gone => Node::A { ttl: both.ttl, address: both.a },
            (Node::Pointer(held), Data::Ptr(role, name))
                if held.name == *name && held.role == *role && held.ttl == ttl =>
            {
                Node::default()
            }
            _ => return self.change(|records| records.take(data, ttl)),
        };
        *self = simple;
        true
    }
}

impl Records {
    fn has_any(&self) -> bool {
        self.special != Special::No
            || !self.a.is_empty()
            || self.aaaa.is_some()
            || !self.srv.is_empty()
            || self.cname.is_some()
            || self.ports.is_some()
            || self.ptr.is_some()
    }

    /// The same in a smaller form, where there is one.
    fn simple(&self) -> Option<Node> {
        let others = !self.srv.is_empty() || self.cname.is_some() || self.ports.is_some();
        if self.pins > 0 || self.special != Special::No || others {
            return None;
        }
        let ttl = self.ttl;
        match (self.a.items(), &self.aaaa, &self.ptr) {
            ([], None, None) => Some(Node::Bare { below: self.below }),
            _ if self.below > 0 => None,
            (_, None, None) => self.a.single().map(|&address| Node::A { ttl, address }),
            ([], Some(set), None) => set.single().map(|&address| Node::Aaaa(Box::new(Aaaa { ttl, address }))),
            (_, Some(set), None) => {
                let (&a, &aaaa) = (self.a.single()?, set.single()?);
                Some(Node::Both(Box::new(Both { ttl, a, aaaa })))
            }
            ([], None, Some(pointers)) => {
                let Pointers { services, endpoints } = &**pointers;
                let pointer = match services.is_empty() {
                    true => endpoints.single(),
                    false => services.single().filter(|_| endpoints.is_empty()),
                };
                pointer.cloned().map(Node::Pointer)
            }
            _ => None,
        }
    }

    /// Adds; true where a record appeared.
    fn add(&mut self, data: &Data, ttl: u32) -> bool {
        // One name belongs to one service, so the last word on its TTL is the right one. Names of addresses may belong
        // to several: they keep a TTL with each record.
        self.ttl = ttl;
        match data {
            Data::Pin => {
                self.pins += 1;
                false
            }
            Data::A(address) => self.a.insert(address),
            Data::Aaaa(address) => insert(&mut self.aaaa, address),
            Data::Srv(srv) => self.srv.insert(srv),
            Data::Cname(target) => insert(&mut self.cname, target),
            Data::Port(port) => insert(&mut self.ports, port),
            Data::Ptr(role, name) => {
                let pointer = Pointer { name: name.clone(), ttl, role: *role };
                self.ptr.get_or_insert_default().of(*role).insert(&pointer)
            }
        }
    }

    /// Takes away; true where a record disappeared.
    fn take(&mut self, data: &Data, ttl: u32) -> bool {
        let gone = match data {
            Data::Pin => {
                self.pins = self.pins.saturating_sub(1);
                false
            }
            Data::A(address) => self.a.remove(address),
            Data::Aaaa(address) => remove(&mut self.aaaa, address),
            Data::Srv(srv) => self.srv.remove(srv),
            Data::Cname(target) => remove(&mut self.cname, target),
            Data::Port(port) => remove(&mut self.ports, port),
            Data::Ptr(role, name) => {
                let pointer = Pointer { name: name.clone(), ttl, role: *role };
                self.ptr.as_mut().is_some_and(|ptr| ptr.of(*role).remove(&pointer))
            }
        };
        if self.ptr.as_ref().is_some_and(|ptr| ptr.services.is_empty() && ptr.endpoints.is_empty()) {
            self.ptr = None;
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Target;
    use fingerpost_catalog::Protocol;
    use proptest::prelude::*;

    #[test]
    fn stays_small() {
        assert_eq!(size_of::<Node>(), 16);
        assert!(size_of::<Records>() <= 88);
    }

    fn data() -> impl Strategy<Value = Data> {
        let name = |text: &str| Name::from_text(text).unwrap();
        proptest::sample::select(vec![
            Data::Pin,
            Data::A([10, 0, 0, 1]),
            Data::A([10, 0, 0, 2]),
            Data::Aaaa([1; 16]),
            Data::Aaaa([2; 16]),
            Data::Srv(Srv { weight: None, port: 80, target: Target::Whole(name("a.b")) }),
            Data::Cname(name("a.b")),
            Data::Port(NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }),
            Data::Ptr(Role::Service, name("b")),
            Data::Ptr(Role::Endpoint, name("a.b")),
            Data::Ptr(Role::Dashed, name("b")),
            Data::Ptr(Role::Dashed, name("c")),
        ])
    }

    proptest! {
        /// Whatever there was meanwhile, what is left decides about the form: nothing large stays behind.
        #[test]
        fn the_smallest_form_comes_back(
            first in data(),
            others in proptest::collection::vec(data(), 0..8),
            below: bool,
        ) {
            let mut node = Node::default();
            prop_assert_eq!(node.add(&first, 5), first != Data::Pin);
            let small = std::mem::discriminant(&node);
            for other in &others {
                node.add(other, 5);
            }
            node.change_below(|n| n + u32::from(below));
            node.change_below(|n| n - u32::from(below));
            for other in &others {
                node.take(other, 5);
            }
            prop_assert_eq!(std::mem::discriminant(&node), small);
            prop_assert_eq!(node.has_records(), first != Data::Pin);
            prop_assert!(node.exists());
            node.take(&first, 5);
            prop_assert!(!node.exists());
            prop_assert_eq!(std::mem::discriminant(&node), std::mem::discriminant(&Node::default()));
        }
    }
}
