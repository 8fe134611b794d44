//! The replicas that run over one store, and which of them is at home for what.
//!
//! Work that must be done once in the whole registry (keeping a session's deadline, running a check) belongs to one
//! replica at a time: its *home*, chosen by rendezvous hashing over the live ones. When a replica comes or goes, only
//! what it gains or had moves. The embedded store has exactly one replica, which is at home for everything.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// A replica that is alive, as its record in the store says.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Unique to the process: another one after each start.
    pub id: Arc<str>,
    /// Where the other replicas reach its API; none where it can't be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The version that it runs.
    #[serde(default)]
    pub version: String,
    /// The newest schema of stored records that it can read.
    #[serde(default)]
    pub schema: u32,
}

/// Which view of the replicas something was decided by. The store can tell whether it still holds: whether this replica
/// has kept its place since, and nobody has joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fence {
    /// When this replica took its place, by the store's count; 0 where it has none.
    pub(crate) place: u64,
    /// When the latest replica joined that is known of.
    pub(crate) joins: u64,
}

/// Who is alive, as this replica sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    /// This replica's id.
    pub own: Arc<str>,
    /// All live replicas in the order of their ids; with this one unless it has lost its place in the store.
    pub live: Vec<Member>,
    /// Whether this replica is in touch with the store, so that `live` can be believed. While it is not, it is at home
    /// for nothing: somebody else may be by now.
    pub in_touch: bool,
    /// What replicas prove themselves to each other with; whoever can read the store knows it. Empty where there is
    /// only ever one replica. Never to be shown or logged.
    pub secret: Secret,
    /// What a commit that is for a home alone to make must say of this view; see
    /// [`Commit::fence`](crate::store::Commit::fence).
    pub fence: Fence,
}

/// Bytes that are not to be seen.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub Arc<[u8]>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Members {
    /// The members of a store that only one process can have open.
    pub fn alone() -> Self {
        let own: Arc<str> = "local".into();
        let member = Member {
            id: own.clone(),
            url: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: crate::store::SCHEMA,
        };
        Self { own, live: vec![member], in_touch: true, secret: Secret::default(), fence: Fence::default() }
    }

    /// Whether only this process ever writes to the store. That no other replica is known to live does not mean that: one that
    /// lost its place writes on, but for what is a home's alone to write.
    pub fn are_alone(&self) -> bool {
        self.secret.0.is_empty()
    }

    /// The replica that is at home for what `name` names; none while nobody is known to live.
    pub fn home_of(&self, name: &str) -> Option<&Member> {
        self.live.iter().max_by_key(|member| (score(&member.id, name), &member.id))
    }

    /// Whether this replica is at home for it, and may act so.
    pub fn is_home(&self, name: &str) -> bool {
        self.in_touch && self.home_of(name).is_some_and(|member| member.id == self.own)
    }
}

/// All replicas must come to the same score, in all versions: the hash is one with fixed keys.
fn score(member: &str, name: &str) -> u64 {
    let mut hasher = std::hash::BuildHasherDefault::<Fnv>::default().build_hasher();
    hasher.write(member.as_bytes());
    hasher.write(&[0xff]);
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// FNV-1a with the finalizer of SplitMix64, without which scores of similar names would be similar.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// How what goes to a URL can be read on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// By nobody: it is encrypted, or stays on this machine.
    Closed,
    /// By whoever is on the way.
    Open,
}

/// The text is not where a replica can be reached. The text itself may hold a password, and is not repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("is no URL of a replica: write `https://HOST:PORT`, without a user or a query")]
pub struct NotAUrl;

/// Checks where a replica says that it can be reached.
pub fn check_url(text: &str) -> Result<Way, NotAUrl> {
    let url: axum::http::Uri = text.parse().map_err(|_| NotAUrl)?;
    let authority = url.authority().ok_or(NotAUrl)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || authority.as_str().contains('@') || url.query().is_some() {
        return Err(NotAUrl);
    }
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    match url.scheme_str() {
        Some("https") => Ok(Way::Closed),
        Some("http") if loopback => Ok(Way::Closed),
        Some("http") => Ok(Way::Open),
        _ => Err(NotAUrl),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: usize) -> Members {
        let live = (0..count)
            .map(|n| Member { id: format!("replica-{n}").into(), url: None, version: String::new(), schema: 1 })
            .collect();
        Members { own: "replica-0".into(), live, in_touch: true, secret: Secret::default(), fence: Fence::default() }
    }

    #[test]
    fn homes_are_even_and_only_what_must_moves() {
        let (three, four) = (members(3), members(4));
        let mut counts = [0; 3];
        let mut moved = 0;
        for n in 0..3000 {
            let name = format!("session-{n}");
            let home = three.home_of(&name).unwrap().id.clone();
            counts[three.live.iter().position(|member| member.id == home).unwrap()] += 1;
            let later = &four.home_of(&name).unwrap().id;
            if *later != home {
                assert_eq!(&**later, "replica-3", "only the newcomer gains");
                moved += 1;
            }
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert!((650..850).contains(&moved), "{moved}");
    }

    #[test]
    fn who_is_out_of_touch_is_at_home_for_nothing() {
        let mut one = members(1);
        assert!(one.is_home("a"));
        one.in_touch = false;
        assert!(!one.is_home("a"));
        assert_eq!(&*one.home_of("a").unwrap().id, "replica-0");
    }

    #[test]
    fn scores_are_the_same_in_all_versions() {
        assert_eq!(score("replica-0", "session-0"), 11_742_412_629_101_446_615);
    }
}
