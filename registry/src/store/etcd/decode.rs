//! What keys and values in etcd say, for whoever loads them, follows them or goes back.

use crate::members::Member;
use crate::store::hashed::KeyHasher;
use etcd_client::ResponseHeader;
use fingerpost_catalog::{DecodeError, Key, Record};

/// A record's key and value, and the value's hash.
pub(super) type Readable = (Key, Record, u128);

/// The record under a key's text.
pub(super) fn record(text: &str, value: &[u8], hasher: &KeyHasher) -> Result<Readable, DecodeError> {
    let key: Key = text.parse()?;
    let record = Record::decode(&key, value)?;
    Ok((key, record, hasher.hash(value)))
}

/// The replica that tells of itself under its own id; none where that can't be read.
pub(super) fn member(id: &str, value: &[u8]) -> Option<Member> {
    serde_json::from_slice(value).ok().filter(|member: &Member| &*member.id == id)
}

/// The revision at which etcd answered.
pub(super) fn revision(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision().unsigned_abs())
}
