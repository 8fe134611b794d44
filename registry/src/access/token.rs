//! Bearer tokens: 32 random bytes in base64url behind `fp_`, so that scanners of source code know them.
//!
//! Only tokens of this form are taken. They can't be guessed, so a plain SHA-256 of one gives nothing away, needs no
//! salt, and is quick enough to be made for every request.

use std::fmt;
use std::str::FromStr;

/// What every token begins with.
const PREFIX: &str = "fp_";
/// Random bytes in a token.
const BYTES: usize = 32;
/// Characters after the prefix.
const CHARACTERS: usize = 43;
/// RFC 4648 §5.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A token. It is shown where somebody asks for it by name ([`Token::reveal`]), and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

/// The text is not a token. Says nothing of the text, which may be one with a slip.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a token: they are `{PREFIX}` and {CHARACTERS} of `A-Z a-z 0-9 - _`, as `fingerpost token new` makes them")]
pub struct NotAToken;

/// The system gave no random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

impl Token {
    /// A new one.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = [0; BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        let mut text = String::with_capacity(PREFIX.len() + CHARACTERS);
        text.push_str(PREFIX);
        for chunk in bytes.chunks(3) {
            let group =
                chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for digit in 0..=chunk.len() {
                let value = (group >> (18 - 6 * digit)) & 63;
                text.push(ALPHABET.get(value as usize).map_or('A', |c| char::from(*c)));
            }
        }
        Ok(Self(text.into()))
    }

    /// The token itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.as_bytes())
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        well_formed(text.as_bytes()).then(|| Self(text.into())).ok_or(NotAToken)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Whether bytes have the form of a token.
fn well_formed(bytes: &[u8]) -> bool {
    bytes.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| {
        rest.len() == CHARACTERS && rest.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
    })
}

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    fn of(token: &[u8]) -> Self {
        let mut hash = [0; 32];
        // SHA-256 has 32 bytes.
        hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token).as_ref());
        Self(hash)
    }

    /// The hash of what a request presents, if it has the form of a token.
    pub(super) fn of_presented(token: &[u8]) -> Option<Self> {
        well_formed(token).then(|| Self::of(token))
    }

    /// Compares without telling by the time it takes where they differ.
    pub(super) fn is(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// The text is not a SHA-256 in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a SHA-256: 64 hexadecimal digits, as `fingerpost token hash` prints them")]
pub struct NotAHash;

impl FromStr for TokenHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let bytes = super::token::from_hex(text).ok_or(NotAHash)?;
        bytes.try_into().map(Self).map_err(|_| NotAHash)
    }
}

/// Bytes from hexadecimal digits.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let value = |digit: &u8| char::from(*digit).to_digit(16);
    let pairs = digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2))?;
    pairs.map(|pair| Some((value(pair.first()?)? * 16 + value(pair.last()?)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_tokens_are_tokens_and_differ() {
        let (one, two) = (Token::generate().unwrap(), Token::generate().unwrap());
        assert_eq!(one.reveal().len(), 46);
        assert_eq!(one.reveal().parse::<Token>().unwrap(), one);
        assert_ne!(one, two);
        assert_eq!(one.hash().to_string().parse::<TokenHash>().unwrap(), one.hash());
    }

    #[test]
    fn hashes_are_sha_256() {
        // printf fp_AAA… | sha256sum
        let token: Token = format!("fp_{}", "A".repeat(43)).parse().unwrap();
        assert_eq!(token.hash().to_string(), "9739e1e29b2d89c51ec9c5768130ea3bcfdb341f912b7694da5eb86ad9991255");
    }

    #[test]
    fn nothing_else_is_a_token() {
        let long = "A".repeat(44);
        for bad in ["", "fp_", "password", "fp_short", &format!("fp_{long}"), &format!("fp_{}!", "A".repeat(42))] {
            assert_eq!(bad.parse::<Token>(), Err(NotAToken));
        }
        for bad in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"é".repeat(32)] {
            assert!(bad.parse::<TokenHash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_are_not_shown() {
        let token = Token::generate().unwrap();
        let shown = format!("{token:?} {:?} {NotAToken}", token.hash());
        assert!(!shown.contains(token.reveal()) && !shown.contains(&token.hash().to_string()), "{shown}");
    }
}
