//! The tokens file: who may come in, known by the hash of a token or by a name in a client certificate, and as what.
//!
//! ```toml
//! [[token]]
//! name = "ci"
//! sha256 = "…"                      # from `fingerpost token new`; while a token is replaced: ["…", "…"]
//! role = "registrar"                # or "reader", "admin"
//! sources = ["api/ci", "api/ci-*"]  # whom a registrar may act as
//! namespaces = ["prod"]             # where it may write; without this, everywhere
//!
//! [[certificate]]
//! name = "node-1"
//! subject = "DNS:node-1.example"    # or "URI:…", "CN=…"
//! role = "reader"
//! ```

use super::reload::{self, FileError};
use super::subject::Subject;
use super::token::TokenHash;
use super::{Caller, Role, Token};
use fingerpost_catalog::{Source, validate_dns_label};
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Longest name of a caller.
const MAX_NAME: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<TokenEntry>,
    #[serde(default)]
    certificate: Vec<CertificateEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    name: String,
    sha256: Hashes,
    role: RoleName,
    sources: Option<Vec<String>>,
    namespaces: Option<Vec<String>>,
}

/// Of one token, or of several that stand for the same caller: so a token is replaced while its sessions go on.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a SHA-256, or a list of some")]
enum Hashes {
    One(String),
    Several(Vec<String>),
}

impl Hashes {
    fn all(&self) -> &[String] {
        match self {
            Self::One(hash) => std::slice::from_ref(hash),
            Self::Several(hashes) => hashes,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateEntry {
    name: String,
    subject: String,
    role: RoleName,
    sources: Option<Vec<String>>,
    namespaces: Option<Vec<String>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum RoleName {
    Reader,
    Registrar,
    Admin,
}

/// What is wrong with a tokens file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GrantsError {
    /// It is not TOML, or not of this form.
    #[error("{0}")]
    Form(String),
    /// An entry can't be taken.
    #[error("the entry `{name}`: {detail}")]
    Entry {
        /// Its name.
        name: String,
        /// What is wrong with it.
        detail: String,
    },
    /// It has no entries, as while an editor writes it anew.
    #[error("it has no entries, so nobody could come in; make one with `fingerpost token new`")]
    Empty,
}

/// Somebody who may come in.
#[derive(Debug)]
pub struct Grant {
    /// Whom requests are made by.
    pub caller: Caller,
    /// Ends what runs in its name once the file has it no more, or otherwise.
    pub revoked: CancellationToken,
}

impl Grant {
    fn new(caller: Caller) -> Arc<Self> {
        Arc::new(Self { caller, revoked: CancellationToken::new() })
    }
}

/// All who may come in.
#[derive(Debug, Default)]
pub struct Grants {
    tokens: HashMap<TokenHash, Arc<Grant>>,
    certificates: HashMap<Subject, Arc<Grant>>,
}

/// The names in a certificate stand for nobody, or not for one alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotOne {
    /// None is known.
    Nobody,
    /// Two entries differ in what they allow.
    Ambiguous,
}

impl FromStr for Grants {
    type Err = GrantsError;

    fn from_str(text: &str) -> Result<Self, GrantsError> {
        Self::parse(text).map_err(GrantsError::without_tokens)
    }
}

impl GrantsError {
    /// Messages quote what they are about. Where somebody wrote a token by mistake, they must not.
    fn without_tokens(self) -> Self {
        let cut = |text: String| {
            let mut parts = text.split("fp_");
            let mut out = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                out.push_str("fp_…");
                out.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')));
            }
            out
        };
        match self {
            Self::Form(detail) => Self::Form(cut(detail)),
            Self::Entry { name, detail } => Self::Entry { name: cut(name), detail: cut(detail) },
            Self::Empty => Self::Empty,
        }
    }
}

impl Grants {
    fn parse(text: &str) -> Result<Self, GrantsError> {
        // toml's own message would quote the whole line.
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text.get(..span.start).unwrap_or(text).matches('\n').count());
            GrantsError::Form(format!("line {line}: {}", error.message()))
        })?;
        let mut grants = Self::default();
        let mut names = HashSet::new();
        let mut caller = |name: &str, role, sources, namespaces| {
            let wrong = |detail: String| GrantsError::Entry { name: name.chars().take(MAX_NAME).collect(), detail };
            check_name(name).map_err(wrong)?;
            if !names.insert(name.to_owned()) {
                let way_out = "; a second token of its goes into that entry: `sha256 = [\"…\", \"…\"]`";
                return Err(wrong(format!("another entry has this name{way_out}")));
            }
            let role = checked_role(role, sources, namespaces).map_err(wrong)?;
            Ok(Caller { name: name.into(), role })
        };
        for entry in file.token {
            let caller = caller(&entry.name, entry.role, entry.sources, entry.namespaces)?;
            let wrong = |detail: String| GrantsError::Entry { name: entry.name.clone(), detail };
            if entry.sha256.all().is_empty() {
                return Err(wrong("sha256 is empty, so nobody has its token".to_owned()));
            }
            for hash in entry.sha256.all() {
                let hash: TokenHash = hash.parse().map_err(|error| wrong(format!("sha256 is {error}")))?;
                // Each is taken back for itself.
                if let Some(other) = grants.tokens.insert(hash, Grant::new(caller.clone())) {
                    return Err(wrong(format!("it has the same token as `{}`", other.caller.name)));
                }
            }
        }
        for entry in file.certificate {
            let granted = Grant::new(caller(&entry.name, entry.role, entry.sources, entry.namespaces)?);
            let wrong = |detail: String| GrantsError::Entry { name: entry.name.clone(), detail };
            let subject: Subject = entry.subject.parse().map_err(|error| wrong(format!("subject {error}")))?;
            if let Some(other) = grants.certificates.insert(subject, granted) {
                return Err(wrong(format!("it has the same subject as `{}`", other.caller.name)));
            }
        }
        if grants.tokens.is_empty() && grants.certificates.is_empty() {
            return Err(GrantsError::Empty);
        }
        Ok(grants)
    }
}

/// Whether a caller can have this name: it stands in logs and messages.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b'/' | b':' | b'@');
    if name.parse::<Token>().is_ok() {
        return Err("that is a token, not a name".to_owned());
    }
    match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(()),
        false => Err(format!("a name has 1 to {MAX_NAME} of `A-Z a-z 0-9 . _ - / : @`")),
    }
}

/// Whether a registrar can be given this: a source, or what sources begin with and `*`, behind the kind of source.
pub fn check_source_pattern(pattern: &str) -> Result<(), String> {
    let stem = pattern.strip_suffix('*');
    // Any letter makes a source of what stands before the star.
    let example = stem.map_or_else(|| pattern.to_owned(), |stem| format!("{stem}x"));
    match Source::from_str(&example) {
        Ok(_) if stem.is_none_or(|stem| stem.contains('/')) => Ok(()),
        _ => Err(format!(
            "`{}` is neither a source nor the beginning of some: write as in `api/ci`, `api/ci-*`, `cni/*`",
            pattern.chars().take(100).collect::<String>()
        )),
    }
}

fn checked_role(role: RoleName, sources: Option<Vec<String>>, namespaces: Option<Vec<String>>) -> Result<Role, String> {
    if role != RoleName::Registrar {
        // Who writes this means something by it, and would not get it.
        if sources.is_some() || namespaces.is_some() {
            return Err("only a registrar is limited to sources and namespaces".to_owned());
        }
        return Ok(if role == RoleName::Admin { Role::Admin } else { Role::Reader });
    }
    let sources = sources.unwrap_or_default();
    if sources.is_empty() {
        return Err("a registrar needs `sources`: whom it may act as, as in `sources = [\"api/ci\"]`".to_owned());
    }
    sources.iter().try_for_each(|pattern| check_source_pattern(pattern))?;
    if namespaces.as_ref().is_some_and(Vec::is_empty) {
        return Err("`namespaces` is empty; leave it out to allow all".to_owned());
    }
    let namespaces = namespaces.unwrap_or_default();
    for namespace in &namespaces {
        validate_dns_label(namespace).map_err(|error| format!("namespace `{namespace}`: {error}"))?;
    }
    let boxed = |names: Vec<String>| names.into_iter().map(String::into_boxed_str).collect();
    Ok(Role::Registrar { sources: boxed(sources), namespaces: boxed(namespaces) })
}

impl Grants {
    /// Whose token this is.
    pub fn by_token(&self, presented: TokenHash) -> Option<Arc<Grant>> {
        let (hash, grant) = self.tokens.get_key_value(&presented)?;
        hash.is(&presented).then(|| Arc::clone(grant))
    }

    /// Whose certificate this is.
    pub fn by_certificate(&self, names: &[Subject]) -> Result<Arc<Grant>, NotOne> {
        let mut known = names.iter().filter_map(|name| self.certificates.get(name));
        let first = known.next().ok_or(NotOne::Nobody)?;
        match known.all(|other| other.caller.role == first.caller.role) {
            true => Ok(Arc::clone(first)),
            false => Err(NotOne::Ambiguous),
        }
    }

    /// In which ways one can come in.
    pub fn ways(&self) -> &'static str {
        match (self.tokens.is_empty(), self.certificates.is_empty()) {
            (false, true) => "token",
            (true, false) => "certificate",
            (false, false) => "token,certificate",
            (true, true) => "none",
        }
    }

    /// Keeps what was granted before and still is; returns what is not any more.
    fn succeed(&mut self, before: &Self) -> Vec<Arc<Grant>> {
        fn keep<K: std::hash::Hash + Eq>(
            now: &mut HashMap<K, Arc<Grant>>,
            before: &HashMap<K, Arc<Grant>>,
            gone: &mut Vec<Arc<Grant>>,
        ) {
            for (key, old) in before {
                match now.get_mut(key) {
                    Some(new) if new.caller == old.caller => *new = Arc::clone(old),
                    _ => gone.push(Arc::clone(old)),
                }
            }
        }
        let mut gone = Vec::new();
        keep(&mut self.tokens, &before.tokens, &mut gone);
        keep(&mut self.certificates, &before.certificates, &mut gone);
        gone
    }
}

/// The tokens file as it was read last.
#[derive(Debug)]
pub struct GrantsFile {
    path: PathBuf,
    current: RwLock<Arc<Grants>>,
    /// What was read last, be it good or bad.
    seen: Mutex<reload::Fingerprint>,
}

impl GrantsFile {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let text = reload::read(path)?;
        let grants = parse(path, &text)?;
        reload::warn_if_open_to_all(path);
        Ok(Self {
            path: path.to_owned(),
            current: RwLock::new(Arc::new(grants)),
            seen: Mutex::new(reload::Fingerprint::of([text.as_slice()])),
        })
    }

    /// Who may come in.
    pub fn current(&self) -> Arc<Grants> {
        Arc::clone(&self.current.read())
    }

    /// Reads the file again and takes it, if it has changed; whether it has. A bad one changes nothing.
    pub(super) fn refresh(&self) -> Result<bool, FileError> {
        let text = reload::read(&self.path)?;
        if !self.seen.lock().replace([text.as_slice()]) {
            return Ok(false);
        }
        let mut grants = parse(&self.path, &text)?;
        reload::warn_if_open_to_all(&self.path);
        let gone = {
            let mut current = self.current.write();
            let gone = grants.succeed(&current);
            *current = Arc::new(grants);
            gone
        };
        gone.iter().for_each(|grant| grant.revoked.cancel());
        Ok(true)
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Grants, FileError> {
    let wrong = |detail: String| FileError::Content { path: path.to_owned(), detail };
    let text = std::str::from_utf8(text).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    text.parse().map_err(|error: GrantsError| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash() -> String {
        Token::generate().unwrap().hash().to_string()
    }

    fn refused(text: &str) -> String {
        text.parse::<Grants>().unwrap_err().to_string()
    }

    #[test]
    fn finds_who_it_is() {
        let token = Token::generate().unwrap();
        let grants: Grants = format!(
            "[[token]]\nname='ci'\nsha256='{}'\nrole='registrar'\nsources=['api/ci','api/ci-*']\nnamespaces=['prod']\n\
             [[certificate]]\nname='node'\nsubject='DNS:node.example'\nrole='admin'\n",
            token.hash()
        )
        .parse()
        .unwrap();
        let grant = grants.by_token(token.hash()).unwrap();
        assert_eq!(&*grant.caller.name, "ci");
        assert!(grant.caller.may_act_as(&"api/ci-1".parse().unwrap()) && !grant.caller.may_write_in("test"));
        assert!(grants.by_token(Token::generate().unwrap().hash()).is_none());
        let names = |names: &[&str]| -> Vec<Subject> { names.iter().map(|name| name.parse().unwrap()).collect() };
        let node = grants.by_certificate(&names(&["CN=x", "DNS:node.example"])).unwrap();
        assert_eq!(node.caller.role, Role::Admin);
        assert_eq!(grants.by_certificate(&names(&["CN=node.example"])).unwrap_err(), NotOne::Nobody);
        assert_eq!(grants.by_certificate(&[]).unwrap_err(), NotOne::Nobody);
        assert_eq!(grants.ways(), "token,certificate");
    }

    #[test]
    fn a_certificate_of_two_minds_is_nobodys() {
        let grants: Grants = "[[certificate]]\nname='a'\nsubject='DNS:a'\nrole='reader'\n\
             [[certificate]]\nname='b'\nsubject='CN=b'\nrole='admin'\n"
            .parse()
            .unwrap();
        let both = ["DNS:a".parse().unwrap(), "CN=b".parse().unwrap()];
        assert_eq!(grants.by_certificate(&both).unwrap_err(), NotOne::Ambiguous);
        assert!(grants.by_certificate(&both[..1]).is_ok());
    }

    #[test]
    fn faults_are_named() {
        let entry = |more: &str| format!("[[token]]\nname='ci'\nsha256='{}'\n{more}", hash());
        for (text, part) in [
            (String::new(), "no entries"),
            ("[[token]]\nname='x'\nsha256='ab'\nrole='admin'".to_owned(), "sha256"),
            (entry("role='root'"), "line 4"),
            (entry("rolle='admin'"), "rolle"),
            (entry("role='registrar'"), "sources"),
            (entry("role='registrar'\nsources=['*']"), "`*`"),
            (entry("role='registrar'\nsources=['api*']"), "`api*`"),
            (entry("role='registrar'\nsources=['api/*/x']"), "api/*/x"),
            (entry("role='registrar'\nsources=['api/a']\nnamespaces=['A']"), "`A`"),
            (entry("role='registrar'\nsources=['api/a']\nnamespaces=[]"), "leave it out"),
            (entry("role='admin'\nnamespaces=['a']"), "only a registrar"),
            (entry("role='admin'\n") + &entry("role='admin'"), "sha256 = ["),
            ("[[token]]\nname='x'\nsha256=[]\nrole='admin'".to_owned(), "empty"),
            ("[[token]]\nname='x'\nsha256=1\nrole='admin'".to_owned(), "line 3: expected a SHA-256"),
            (format!("[[token]]\nname='x'\nsha256=['{0}','{0}']\nrole='admin'", hash()), "same token as `x`"),
            ("[[certificate]]\nname='x'\nsubject='node'\nrole='admin'".to_owned(), "DNS:"),
            ("[[token]]\nname='a b'\nsha256=''\nrole='admin'".to_owned(), "a name has"),
            ("[[tokens]]\nname='x'".to_owned(), "tokens"),
        ] {
            let refusal = refused(&text);
            assert!(refusal.contains(part), "{text}\n{refusal}");
        }
    }

    #[test]
    fn a_token_in_the_wrong_place_is_not_repeated() {
        let token = Token::generate().unwrap();
        for text in [
            format!("[[token]]\nname='x'\nsha256='{}'\nrole='admin'", token.reveal()),
            format!("[[token]]\nname='x'\nsha256={}\nrole='admin'", token.reveal()),
            format!("[[token]]\nname='x'\nsha256=['{}','{}']\nrole='admin'", hash(), token.reveal()),
            format!("[[token]]\nname='x'\ntoken='{}'\nrole='admin'", token.reveal()),
            format!("[[token]]\nname='x'\nsha256='{}'\nrole='{}'", hash(), token.reveal()),
            format!("[[token]]\nname='{}'\nsha256='{}'\nrole='admin'", token.reveal(), hash()),
            format!("[[token]]\nname='x'\nsha256='{}'\nrole='admin'\n{}='x'", hash(), token.reveal()),
            format!("[[certificate]]\nname='x'\nsubject='{}'\nrole='admin'", token.reveal()),
        ] {
            let refusal = refused(&text);
            assert!(!refusal.contains(token.reveal()) && !refusal.contains(&token.reveal()[3..]), "{refusal}");
        }
    }

    #[test]
    fn what_is_taken_back_ends() {
        let (one, two) = (Token::generate().unwrap(), Token::generate().unwrap());
        let entry = |name: &str, token: &Token, role: &str| {
            format!("[[token]]\nname='{name}'\nsha256='{}'\nrole='{role}'\n", token.hash())
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        std::fs::write(&path, entry("one", &one, "reader") + &entry("two", &two, "reader")).unwrap();
        let file = GrantsFile::open(&path).unwrap();
        let grants = [&one, &two].map(|token| file.current().by_token(token.hash()).unwrap());
        assert!(!file.refresh().unwrap());
        std::fs::write(&path, "broken").unwrap();
        assert!(file.refresh().is_err());
        assert!(!file.refresh().unwrap(), "told once");
        assert!(file.current().by_token(two.hash()).is_some(), "the old one stays");
        std::fs::write(&path, entry("one", &one, "reader")).unwrap();
        assert!(file.refresh().unwrap());
        assert_eq!(grants.each_ref().map(|grant| grant.revoked.is_cancelled()), [false, true]);
        assert!(file.current().by_token(two.hash()).is_none());
        std::fs::write(&path, entry("one", &one, "admin")).unwrap();
        assert!(file.refresh().unwrap());
        assert!(grants[0].revoked.is_cancelled(), "another role is another grant");
    }

    #[test]
    fn a_token_is_replaced_without_a_gap() {
        let (one, two) = (Token::generate().unwrap(), Token::generate().unwrap());
        let entry = |hashes: &[&Token]| {
            let hashes: Vec<String> = hashes.iter().map(|token| format!("'{}'", token.hash())).collect();
            format!("[[token]]\nname='ci'\nsha256=[{}]\nrole='reader'\n", hashes.join(","))
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        std::fs::write(&path, entry(&[&one, &two])).unwrap();
        let file = GrantsFile::open(&path).unwrap();
        let [first, second] = [&one, &two].map(|token| file.current().by_token(token.hash()).unwrap());
        assert_eq!(first.caller, second.caller);
        std::fs::write(&path, entry(&[&two])).unwrap();
        assert!(file.refresh().unwrap());
        assert!(first.revoked.is_cancelled() && !second.revoked.is_cancelled());
        assert!(file.current().by_token(one.hash()).is_none() && file.current().by_token(two.hash()).is_some());
    }
}
