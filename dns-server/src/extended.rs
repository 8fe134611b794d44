//! Why an answer is as it is: extended DNS errors (RFC 8914), for clients that speak EDNS.
//!
//! They explain and change nothing, so they have the room that the records leave: where the text does not fit it is left
//! out, and then the whole. Those of upstreams are handed on with the upstream's name in front (RFC 8914 §3), in bounded
//! number and length.

use std::borrow::Cow;

/// The option's number.
const OPTION: u16 = 15;
/// What an option takes beside its text: number, length and code.
const FIXED: usize = 6;
/// Longer texts are cut, in octets.
const MAX_TEXT: usize = 160;
/// Errors that are taken over from one answer of an upstream.
const MOST: usize = 3;

/// The codes that are given here (RFC 8914 §4).
pub(crate) mod code {
    pub(crate) const OTHER: u16 = 0;
    pub(crate) const STALE_ANSWER: u16 = 3;
    pub(crate) const NOT_READY: u16 = 14;
    pub(crate) const BLOCKED: u16 = 15;
    pub(crate) const PROHIBITED: u16 = 18;
    pub(crate) const STALE_NXDOMAIN: u16 = 19;
    pub(crate) const NOT_AUTHORITATIVE: u16 = 20;
    pub(crate) const NOT_SUPPORTED: u16 = 21;
    pub(crate) const NO_REACHABLE_AUTHORITY: u16 = 22;
    pub(crate) const NETWORK_ERROR: u16 = 23;
}

/// One reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Extended {
    code: u16,
    text: Cow<'static, str>,
}

pub(crate) const NOT_READY: Extended =
    Extended::new(code::NOT_READY, "the catalog is not known yet; what is missing may exist");
pub(crate) const NOT_AUTHORITATIVE: Extended =
    Extended::new(code::NOT_AUTHORITATIVE, "the name is in none of this server's zones, and it asks nobody else");
pub(crate) const NOT_DESIRED: Extended =
    Extended::new(code::NOT_AUTHORITATIVE, "the name is in none of this server's zones, and recursion is not desired");
pub(crate) const NO_RULE: Extended = Extended::new(
    code::NOT_AUTHORITATIVE,
    "the name is in none of this server's zones, and no upstream is set for it (--forward)",
);
pub(crate) const PROHIBITED: Extended =
    Extended::new(code::PROHIBITED, "this client may not ask for names of others (--recursion-allow)");
pub(crate) const REFUSED_BY_RULE: Extended =
    Extended::new(code::BLOCKED, "a rule refuses the name's zone (--forward-zone)");
pub(crate) const NOTHING_BY_RULE: Extended =
    Extended::new(code::BLOCKED, "by a rule there is nothing in the name's zone (--forward-zone)");
pub(crate) const NO_TRANSFERS: Extended = Extended::new(code::NOT_SUPPORTED, "zones are not transferred");
pub(crate) const NO_CLASS: Extended = Extended::new(code::NOT_SUPPORTED, "there is no class but IN");
pub(crate) const ALIAS_LOOP: Extended =
    Extended::new(code::OTHER, "aliases lead to aliases, too many in a row or in circles");
pub(crate) const TOO_MANY: Extended =
    Extended::new(code::OTHER, "too many questions are waiting for upstreams; ask again later");
pub(crate) const TOO_LONG: Extended =
    Extended::new(code::OTHER, "too many questions to upstreams are needed for this one");

impl Extended {
    const fn new(code: u16, text: &'static str) -> Self {
        Self { code, text: Cow::Borrowed(text) }
    }

    /// One whose text is made for the occasion.
    pub(crate) fn told(code: u16, mut text: String) -> Self {
        let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        Self { code, text: Cow::Owned(text) }
    }

    /// That an answer is past its TTL by so many seconds (RFC 8914 §4.4, §4.20).
    pub(crate) fn stale(exists: bool, seconds: u32) -> Self {
        let code = if exists { code::STALE_ANSWER } else { code::STALE_NXDOMAIN };
        Self::told(code, format!("no upstream has a newer answer; this one is {seconds} s past its TTL"))
    }

    /// What another server gave as its reason.
    pub(crate) fn of(self, server: &str) -> Self {
        let text = if self.text.is_empty() { server.to_owned() } else { format!("{server}: {}", self.text) };
        Self::told(self.code, text)
    }

    /// What it tells people.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The octets that it takes in memory beside itself.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }

    /// Writes the option into at most so much room, where it fits.
    fn write(&self, out: &mut Vec<u8>, room: usize) {
        let text = if FIXED + self.text.len() <= room { self.text.as_bytes() } else { &[] };
        if FIXED + text.len() > room {
            return;
        }
        out.extend_from_slice(&OPTION.to_be_bytes());
        out.extend_from_slice(&((2 + text.len()) as u16).to_be_bytes());
        out.extend_from_slice(&self.code.to_be_bytes());
        out.extend_from_slice(text);
    }
}

/// Writes them in order, as far as there is room; how many octets.
pub(crate) fn write<'a>(out: &mut Vec<u8>, reasons: impl IntoIterator<Item = &'a Extended>, room: usize) -> u16 {
    let begin = out.len();
    for reason in reasons {
        reason.write(out, room.saturating_sub(out.len() - begin));
    }
    (out.len() - begin) as u16
}

/// Those among the options of another server's OPT record. What can't be read ends them: they are a courtesy.
pub(crate) fn read(mut options: &[u8]) -> Vec<Extended> {
    let mut found = Vec::new();
    while let [number_high, number_low, length_high, length_low, rest @ ..] = options {
        let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
        let Some((data, next)) = rest.split_at_checked(length) else { break };
        options = next;
        if u16::from_be_bytes([*number_high, *number_low]) != OPTION || found.len() == MOST {
            continue;
        }
        let Some((code, text)) = data.split_first_chunk::<2>() else { continue };
        // Some end it with a NUL (RFC 8914 §2).
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        let text = String::from_utf8_lossy(text).replace(char::is_control, " ");
        found.push(Extended::told(u16::from_be_bytes(*code), text));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            reasons in proptest::collection::vec((any::<u16>(), "[a-zäß ]{0,100}"), 0..=MOST),
            room in 0usize..600,
        ) {
            let reasons: Vec<_> = reasons.into_iter().map(|(code, text)| Extended::told(code, text)).collect();
            let mut out = Vec::new();
            let length = write(&mut out, &reasons, room);
            prop_assert_eq!(usize::from(length), out.len());
            prop_assert!(out.len() <= room);
            let whole: usize = reasons.iter().map(|reason| FIXED + reason.text.len()).sum();
            if whole <= room {
                prop_assert_eq!(read(&out), reasons);
            }
        }

        #[test]
        fn anything_can_be_read(options in proptest::collection::vec(0u8..20, 0..100)) {
            prop_assert!(read(&options).len() <= MOST);
        }
    }

    #[test]
    fn texts_are_cut_between_letters() {
        let long = Extended::told(0, "ß".repeat(200)).of("10.0.0.1:53");
        assert!(long.text.len() <= MAX_TEXT && long.text.starts_with("10.0.0.1:53: ß"));
        // Room for the code alone.
        let mut out = Vec::new();
        assert_eq!(write(&mut out, [&long], FIXED + 10), 6);
        assert_eq!(out, [0, 15, 0, 2, 0, 0]);
        assert_eq!(write(&mut Vec::new(), [&long], FIXED - 1), 0);
        // A NUL at the end, and line breaks.
        assert_eq!(read(b"\x00\x0f\x00\x06\x00\x06a\nb\0"), [Extended::told(6, "a b".to_owned())]);
    }
}
