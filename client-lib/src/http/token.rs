//! The token that a client shows.

use crate::{Error, Result};
use reqwest::header::HeaderValue;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most bytes of a token's file.
const MAX_FILE: u64 = 4096;

/// A bearer token, or the file that holds one. It can't be printed.
///
/// ```
/// use fingerpost_client::Token;
///
/// let fixed = Token::new("fp_4711")?;
/// let rotated = Token::from_file("/var/run/secrets/fingerpost/token");
/// assert!(Token::new("no token").is_err());
/// assert!(!format!("{fixed:?}").contains("4711"));
/// # let _ = rotated;
/// # Ok::<(), fingerpost_client::Error>(())
/// ```
#[derive(Clone)]
pub struct Token(Kind);

#[derive(Clone)]
enum Kind {
    Fixed(HeaderValue),
    File(Arc<PathBuf>),
}

impl Token {
    /// A token as it stands.
    pub fn new(token: &str) -> Result<Self> {
        let wrong = || Error::Credentials { what: "the token".to_owned(), detail: "it is no token".to_owned() };
        header(token).map(|header| Self(Kind::Fixed(header))).ok_or_else(wrong)
    }

    /// A token in a file, which is read again when it changes.
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self(Kind::File(Arc::new(path.into())))
    }

    /// The file that it is in.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Fixed(_) => None,
            Kind::File(path) => Some(path),
        }
    }

    /// The value of the Authorization header, as it is now.
    pub(super) fn read(&self) -> Result<HeaderValue> {
        let path = match &self.0 {
            Kind::Fixed(header) => return Ok(header.clone()),
            Kind::File(path) => path,
        };
        let wrong = |detail: String| Error::Credentials { what: format!("the token file {}", path.display()), detail };
        let text = super::transport::read_file(path, MAX_FILE).map_err(|error| wrong(error.to_string()))?;
        let token = std::str::from_utf8(&text).ok().and_then(header);
        token.ok_or_else(|| wrong("it holds no token: one line, as `fingerpost token new` prints it".to_owned()))
    }
}

fn header(token: &str) -> Option<HeaderValue> {
    let token = token.trim_ascii();
    if token.is_empty() || !token.bytes().all(|c| c.is_ascii_graphic()) {
        return None;
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    // Whatever prints headers leaves it out.
    header.set_sensitive(true);
    Some(header)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Fixed(_) => f.write_str("Token(..)"),
            Kind::File(path) => write!(f, "Token({})", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let token = Token::new(" fp_secret\n").unwrap();
        assert_eq!(token.read().unwrap().to_str().unwrap(), "Bearer fp_secret");
        assert!(!format!("{token:?} {:?}", token.read().unwrap()).contains("secret"));
        for bad in ["", " \n", "fp_a fp_b", "fp_\u{e9}secret"] {
            assert!(!Token::new(bad).unwrap_err().to_string().contains("secret"), "{bad}");
        }
        let missing = Token::from_file("/no/such/token");
        assert!(missing.read().unwrap_err().to_string().contains("/no/such/token"));
    }
}
