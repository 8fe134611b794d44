//! Names from files in the form of `/etc/hosts` (hosts(5)).

use crate::encode::{Rcode, Section};
use crate::forward::clock::Moment;
use crate::forward::entry::{Entry, LocalRecord};
use crate::forward::key::Key;
use crate::forward::local::nothing;
use crate::message::kind;
use crate::name::{self, Name};
use hashbrown::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long these answers hold, in seconds: the file may change.
const TTL: u32 = 30;

/// A file of hosts can't be read.
#[derive(Debug, thiserror::Error)]
#[error("can't read the hosts of `{}`", path.display())]
pub struct HostsError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The names of all files.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    addresses: HashMap<Name, Listed, ahash::RandomState>,
    /// The first name of each address, which is the canonical one, by the name under which it is looked up.
    names: HashMap<Name, (Name, Line), ahash::RandomState>,
}

/// The addresses of a name, and where the first of them stands.
#[derive(Debug)]
struct Listed {
    addresses: Vec<IpAddr>,
    first: Line,
}

/// A line of a file; the first has the number 1.
#[derive(Clone, Debug)]
struct Line {
    file: Arc<Path>,
    number: usize,
}

impl Hosts {
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Self, HostsError> {
        let mut hosts = Self::default();
        for path in paths {
            let read = |path: &Path| std::fs::read(path);
            let text = read(path).map_err(|source| HostsError { path: path.clone(), source })?;
            hosts.add(path, &String::from_utf8_lossy(&text));
        }
        Ok(hosts)
    }

    /// Lines that can't be read are passed over, as the C library does.
    fn add(&mut self, file: &Path, text: &str) {
        let file: Arc<Path> = file.into();
        for (before, line) in text.lines().enumerate() {
            let here = || Line { file: Arc::clone(&file), number: before + 1 };
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            // An interface behind the address can't be answered in DNS.
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for (place, name) in words.filter_map(Name::from_text).enumerate() {
                if place == 0 {
                    let reverse = Name::from_wire(&name::reverse(address));
                    self.names.entry(reverse).or_insert_with(|| (name.clone(), here()));
                }
                let listed =
                    self.addresses.entry(name).or_insert_with(|| Listed { addresses: Vec::new(), first: here() });
                if !listed.addresses.contains(&address) {
                    listed.addresses.push(address);
                }
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Where a name is listed first, and as what, in words; none where it is not.
    pub(crate) fn describe(&self, wire: &[u8]) -> Option<String> {
        let listed = self.addresses.get(wire).map(|listed| {
            (listed.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "), &listed.first)
        });
        let named = || self.names.get(wire).map(|(name, line)| (name.to_string(), line));
        let (what, Line { file, number }) = listed.or_else(named)?;
        Some(format!("the file of hosts `{}` lists it in line {number}, as {what}", file.display()))
    }

    /// The answer to a question about a listed name or address. All of it is in the file: to other types there is no data,
    /// and nobody else is asked, who may say that the name does not exist at all.
    pub(crate) fn answer(&self, key: &Key, now: Moment) -> Option<Entry> {
        let record = |rtype, data| LocalRecord { section: Section::Answer, owner_at: 0, rtype, ttl: TTL, data };
        let (addresses, name) = (self.addresses.get(key.name()), self.names.get(key.name()));
        if addresses.is_none() && name.is_none() {
            return None;
        }
        let (any, qtype) = (key.qtype() == kind::ANY, key.qtype());
        let mut records: Vec<_> = addresses
            .into_iter()
            .flat_map(|listed| &listed.addresses)
            .map(|address| match address {
                IpAddr::V4(v4) => record(kind::A, v4.octets().to_vec()),
                IpAddr::V6(v6) => record(kind::AAAA, v6.octets().to_vec()),
            })
            .collect();
        records.extend(name.map(|(name, _)| record(kind::PTR, name.wire().to_vec())));
        records.retain(|record| any || record.rtype == qtype);
        if records.is_empty() {
            return Some(nothing(key, key.name(), Rcode::NoError, TTL, now));
        }
        Some(Entry::local(key, Rcode::NoError, &records, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut hosts = Hosts::default();
        hosts.add(
            Path::new("/etc/hosts"),
            "10.0.0.5 db.example DB # the database\nfd00::5\tdb.example\nx y\n10.0.0.6 db.example\n10.0.0.5 other\n",
        );
        let answer = |text: &str, qtype| {
            let name = Name::from_text(text).unwrap();
            Some(hosts.answer(&Key::new(name.wire(), qtype, false, false), 0)?.records())
        };
        assert_eq!(answer("db.example", kind::A), Some(2));
        assert_eq!(answer("db.example", kind::AAAA), Some(1));
        assert_eq!(answer("db", kind::AAAA), Some(0));
        for qtype in [kind::TXT, kind::PTR, kind::SRV, kind::NS] {
            assert_eq!(answer("db.example", qtype), Some(0));
        }
        assert_eq!(answer("db.example", kind::ANY), Some(3));
        assert_eq!(answer("5.0.0.10.in-addr.arpa", kind::A), Some(0));
        assert_eq!(answer("x.db.example", kind::TXT), None);
        assert_eq!(answer("5.0.0.10.in-addr.arpa", kind::PTR), Some(1));
        assert_eq!(answer("7.0.0.10.in-addr.arpa", kind::PTR), None);
        assert_eq!(answer("y", kind::A), None);
        let told = |text: &str| hosts.describe(Name::from_text(text).unwrap().wire());
        let line = |rest: &str| Some(format!("the file of hosts `/etc/hosts` lists it in line {rest}"));
        assert_eq!(told("db.example"), line("1, as 10.0.0.5, fd00::5, 10.0.0.6"));
        assert_eq!(told("other"), line("5, as 10.0.0.5"));
        assert_eq!(told("5.0.0.10.in-addr.arpa"), line("1, as db.example."));
        assert_eq!(told("y"), None);
    }
}
