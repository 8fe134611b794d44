//! Files that may change while the server runs: read again when they do, and kept out where they are bad.
//!
//! Their content is compared, not their times: secrets that Kubernetes or an ACME client swaps in by links have odd ones,
//! and the files are small.

use super::grants::GrantsFile;
use super::tls::Tls;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(2);
/// Largest file.
const MAX_FILE: u64 = 1 << 20;

/// A file of certificates, keys or tokens can't be taken. Never quotes what is in it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("can't read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than any such file should be.
    #[error("{0} has more than 1 MiB")]
    TooLarge(PathBuf),
    /// What it says can't be taken.
    #[error("{path}: {detail}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

/// The whole content of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_FILE {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    Ok(content)
}

/// Says so where everybody on the machine can read a file that is for the server alone.
pub(super) fn warn_if_open_to_all(path: &Path) {
    if let Ok(metadata) = std::fs::metadata(path)
        && metadata.permissions().mode() & 0o004 != 0
    {
        warn!(file = %path.display(), "everybody on this machine can read this file; take that right away (chmod o-rwx)");
    }
}

/// By which contents are told apart without keeping them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for content in contents {
            context.update(&(content.len() as u64).to_be_bytes());
            context.update(content);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Self(out)
    }

    /// Notes other contents; whether they are others.
    pub(super) fn replace<'a>(&mut self, contents: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let new = Self::of(contents);
        std::mem::replace(self, new) != new
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    what: &'static str,
    result: &'static str,
}

/// Reads certificates and tokens again when they change.
pub struct Reload {
    tls: Option<Arc<Tls>>,
    grants: Option<Arc<GrantsFile>>,
    /// What is wrong, so that it is told once and not at every look.
    told: Mutex<HashMap<&'static str, String>>,
    reloads: Family<ReloadLabels, Counter>,
}

impl Reload {
    /// Looks after these files.
    pub fn new(tls: Option<Arc<Tls>>, grants: Option<Arc<GrantsFile>>, registry: &mut Registry) -> Self {
        let reloads = Family::default();
        let help = "Changed certificates and tokens files, taken (ok) or not (refused)";
        registry.register("fingerpost_access_reloads", help, reloads.clone());
        Self { tls, grants, told: Mutex::default(), reloads }
    }

    /// Whether there is anything to look after.
    pub fn is_needed(&self) -> bool {
        self.tls.is_some() || self.grants.is_some()
    }

    /// Looks at the files now and then, and at once on a signal, until `shutdown`.
    pub async fn run(self, mut signal: Option<Signal>, shutdown: CancellationToken) {
        let this = Arc::new(self);
        loop {
            let signalled = async {
                match &mut signal {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(EVERY), if this.is_needed() => {}
                _ = signalled => info!("reading certificates and tokens again, as asked by a signal"),
            }
            let looking = Arc::clone(&this);
            if tokio::task::spawn_blocking(move || looking.look()).await.is_err() {
                error!("reading certificates and tokens again failed");
            }
        }
    }

    fn look(&self) {
        if let Some(tls) = &self.tls {
            self.note("certificate", tls.refresh());
        }
        if let Some(grants) = &self.grants {
            self.note("tokens", grants.refresh());
        }
    }

    fn note(&self, what: &'static str, refreshed: Result<bool, FileError>) {
        let result = match refreshed {
            Ok(false) => {
                self.told.lock().remove(what);
                return;
            }
            Ok(true) => {
                self.told.lock().remove(what);
                info!(what, "read again after a change");
                "ok"
            }
            Err(error) => {
                let error = chain(&error);
                if self.told.lock().insert(what, error.clone()).as_ref() == Some(&error) {
                    return;
                }
                error!(what, error, "changed, but can't be taken; what was read before stays in force");
                "refused"
            }
        };
        self.reloads.get_or_create(&ReloadLabels { what, result }).inc();
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
