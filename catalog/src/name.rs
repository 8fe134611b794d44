//! The shapes of names, and what to say when one does not fit.

/// A name or text that does not fit its rule. The message says which rule, and how the text breaks it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// Longer than the rule allows.
    #[error("has {length} characters, and at most {limit} are allowed")]
    TooLong {
        /// What was given, in bytes.
        length: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// A character outside the rule's set.
    #[error("has {found:?} at character {at}; {allowed}")]
    Character {
        /// The offending character.
        found: char,
        /// Its place, counted from 1.
        at: usize,
        /// What the rule allows, in words.
        allowed: &'static str,
    },
    /// Begins or ends with a character that may only stand inside.
    #[error("must begin and end with {0}")]
    Edge(&'static str),
}

/// What a name must begin and end with, in words and as a test.
type Edge = (&'static str, fn(char) -> bool);

fn check(
    text: &str,
    limit: usize,
    allowed: &'static str,
    fits: impl Fn(char) -> bool,
    edge: Option<Edge>,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some((at, found)) = text.chars().enumerate().find(|&(_, c)| !fits(c)) {
        return Err(NameError::Character { found, at: at + 1, allowed });
    }
    if text.len() > limit {
        return Err(NameError::TooLong { length: text.len(), limit });
    }
    if let Some((words, edge)) = edge
        && !(text.starts_with(edge) && text.ends_with(edge))
    {
        return Err(NameError::Edge(words));
    }
    Ok(())
}

/// A DNS label as Kubernetes wants it (RFC 1123): 1 to 63 of `a-z 0-9 -`, beginning and ending with a letter or digit.
///
/// Namespaces, services, port names and hostnames are such labels.
pub fn validate_dns_label(text: &str) -> Result<(), NameError> {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    check(
        text,
        63,
        "a DNS label is made of a-z, 0-9 and '-'",
        |c| alphanumeric(c) || c == '-',
        Some(("a letter or a digit", |c| c.is_ascii_lowercase() || c.is_ascii_digit())),
    )
}

/// An absolute domain name, as the target of an ExternalName: labels of 1 to 63 of `a-z A-Z 0-9 - _`, 253 characters
/// in all; a dot at the end is allowed.
pub fn validate_domain_name(text: &str) -> Result<(), NameError> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    check(
        bare,
        253,
        "a domain name is made of labels of letters, digits, '-' and '_', with dots between them",
        |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'),
        None,
    )?;
    for label in bare.split('.') {
        check(
            label,
            63,
            "",
            |_| true,
            Some(("a letter, a digit or '_' in each of its labels", |c| c.is_ascii_alphanumeric() || c == '_')),
        )?;
    }
    Ok(())
}

/// An instance's id: 1 to 253 of `A-Z a-z 0-9 . _ : -`, but not `.` or `..`, which are steps in a URL's path (RFC 3986
/// §5.2.4) and could never be asked for.
pub fn validate_instance_id(text: &str) -> Result<(), NameError> {
    if matches!(text, "." | "..") {
        return Err(NameError::Edge("a letter, a digit, '_', ':' or '-' where it has nothing but dots"));
    }
    check(
        text,
        253,
        "an id is made of letters, digits, '.', '_', ':' and '-'",
        |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-'),
        None,
    )
}

/// Free text of a stated length without control characters (zones, nodes, notes).
pub fn validate_text(text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Ok(());
    }
    check(text, limit, "control characters are not allowed", |c| !c.is_control(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for good in ["a", "web", "web-1", "0", &"a".repeat(63)] {
            assert_eq!(validate_dns_label(good), Ok(()), "{good}");
        }
        assert_eq!(validate_dns_label(""), Err(NameError::Empty));
        assert_eq!(validate_dns_label(&"a".repeat(64)), Err(NameError::TooLong { length: 64, limit: 63 }));
        assert!(matches!(validate_dns_label("Web"), Err(NameError::Character { found: 'W', at: 1, .. })));
        assert!(matches!(validate_dns_label("a.b"), Err(NameError::Character { found: '.', at: 2, .. })));
        assert!(matches!(validate_dns_label("wéb"), Err(NameError::Character { found: 'é', at: 2, .. })));
        assert!(matches!(validate_dns_label("-a"), Err(NameError::Edge(_))));
    }

    #[test]
    fn domain_names() {
        for good in ["example.com", "example.com.", "_dmarc.Example.com", "a"] {
            assert_eq!(validate_domain_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a..b", "-a.com", "a b.com", &format!("{}.com", "a".repeat(64))] {
            assert!(validate_domain_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids() {
        for good in ["10.0.0.1:8080", "a_b", "fd00::1"] {
            assert_eq!(validate_instance_id(good), Ok(()), "{good}");
        }
        for bad in ["", "a/b", "a b", ".", "..", &"a".repeat(254)] {
            assert!(validate_instance_id(bad).is_err(), "{bad}");
        }
    }
}
