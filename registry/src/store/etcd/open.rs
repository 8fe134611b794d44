//! From options to a store that follows etcd.

use super::endpoints::{Endpoints, Pause, REQUEST};
use super::failure::{Failure, Outcome};
use super::keys::Keys;
use super::meta::{self, Meta};
use super::mirror::Mirror;
use super::past::{Past, Reach};
use super::seen::Seen;
use super::{Core, EtcdOptions, EtcdStore, Staged, janitor, load, replica, sequencer, version, watcher};
use crate::store::hashed::KeyHasher;
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Why the store in etcd can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An option makes no sense.
    #[error("{0}")]
    Options(String),
    /// A file with a certificate or a key can't be read.
    #[error("can't read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answers. Trying again later may help.
    #[error("no answer from etcd at {endpoints}: {reason}")]
    Unreachable {
        /// Where it was looked for.
        endpoints: String,
        /// What came last.
        reason: String,
    },
    /// The two sides don't accept each other's certificates.
    #[error(
        "etcd at {endpoints} and this replica do not trust each other: {reason}; check --etcd-ca, --etcd-cert and --etcd-key"
    )]
    Certificates {
        /// Where.
        endpoints: String,
        /// What TLS says.
        reason: String,
    },
    /// etcd refuses the user.
    #[error(
        "etcd at {endpoints} refuses this replica: {reason}; it needs a user that may read and write everything under \
         `{prefix}/` (--etcd-user, --etcd-password-file)"
    )]
    Denied {
        /// Where.
        endpoints: String,
        /// What etcd says.
        reason: String,
        /// The prefix.
        prefix: String,
    },
    /// That etcd has faults that cost data.
    #[error(
        "etcd at {endpoint} is {found}, which may lose leases silently; use {wanted}, or accept it with --etcd-allow-old"
    )]
    TooOld {
        /// Which member.
        endpoint: String,
        /// Its version.
        found: String,
        /// What is good enough.
        wanted: String,
    },
    /// A newer version has migrated the records.
    #[error(
        "the records under `{prefix}` in etcd have schema {found}, and this version reads {supported} at most: run a \
         version of Fingerpost that knows it, or another --etcd-prefix"
    )]
    SchemaTooNew {
        /// The schema found.
        found: u32,
        /// The newest that this version reads.
        supported: u32,
        /// The prefix.
        prefix: String,
    },
    /// etcd answers, but not as it should.
    #[error("the store in etcd can't be read: {0}")]
    Broken(String),
}

impl OpenError {
    /// Whether trying again later may help.
    pub fn passes(&self) -> bool {
        matches!(self, OpenError::Unreachable { .. } | OpenError::Broken(_))
    }

    fn from(failure: Failure, endpoints: &Endpoints, options: &EtcdOptions) -> Self {
        let (reason, endpoints) = (failure.text, endpoints.names());
        match failure.outcome {
            Outcome::NotSent | Outcome::Unknown => OpenError::Unreachable { endpoints, reason },
            Outcome::Certificate => OpenError::Certificates { endpoints, reason },
            Outcome::Denied => OpenError::Denied { endpoints, reason, prefix: options.prefix.clone() },
            Outcome::NoSpace | Outcome::Compacted | Outcome::Refused => OpenError::Broken(reason),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    std::fs::read(path).map_err(|source| OpenError::File { path: path.to_owned(), source })
}

fn connect_options(options: &EtcdOptions) -> Result<ConnectOptions, OpenError> {
    let wrong = |text: &str| Err(OpenError::Options(text.to_owned()));
    if options.endpoints.is_empty() {
        return wrong("no etcd endpoints: name at least one, like `http://127.0.0.1:2379`, with --etcd-endpoints");
    }
    let tls = options.ca.is_some() || options.cert.is_some() || options.key.is_some();
    for endpoint in &options.endpoints {
        if !(endpoint.starts_with("http://") || endpoint.starts_with("https://")) {
            return Err(OpenError::Options(format!(
                "`{endpoint}` is no etcd endpoint: write a URL like `https://etcd-1:2379`"
            )));
        }
        if tls && endpoint.starts_with("http://") {
            return Err(OpenError::Options(format!(
                "there are certificates for etcd, but `{endpoint}` is not served over TLS: write `https://`"
            )));
        }
    }
    let mut connect = ConnectOptions::new();
    if options.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        let mut config = TlsOptions::new();
        if let Some(ca) = &options.ca {
            config = config.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        match (&options.cert, &options.key) {
            (Some(cert), Some(key)) => config = config.identity(Identity::from_pem(read(cert)?, read(key)?)),
            (None, None) => {}
            _ => return wrong("--etcd-cert and --etcd-key belong together: give both or none"),
        }
        connect = connect.with_tls(config);
    }
    match (&options.user, &options.password) {
        (Some(user), Some(password)) => connect = connect.with_user(user.clone(), password.0.clone()),
        (None, None) => {}
        (Some(_), None) => return wrong("there is an etcd user but no password: give it with --etcd-password-file"),
        (None, Some(_)) => return wrong("there is an etcd password but no user: name it with --etcd-user"),
    }
    Ok(connect)
}

/// Opens the store; tries for as long as the options say where etcd does not answer.
pub(super) async fn open(options: EtcdOptions) -> Result<Arc<EtcdStore>, OpenError> {
    let keys = Keys::new(&options.prefix).map_err(OpenError::Options)?;
    let endpoints = Endpoints::new(options.endpoints.clone(), connect_options(&options)?);
    let seen = match &options.data_dir {
        Some(dir) => Some(
            Seen::in_folder(dir, &options.prefix).map_err(|source| OpenError::File { path: dir.clone(), source })?,
        ),
        None => None,
    };
    let until = Instant::now() + options.open_timeout;
    let mut pause = Pause::new();
    loop {
        match attempt(&options, &keys, &endpoints, seen.as_ref(), until).await {
            Err(error) if error.passes() && Instant::now() < until => pause.wait().await,
            Err(error) => return Err(error),
            Ok((mirror, staged, revision)) => {
                let store = start(options, endpoints, mirror, staged, seen);
                // What was there when it was opened is shown when it is open: a restart does not go back in time.
                let patience = Duration::from_secs(10).max(until.saturating_duration_since(Instant::now()));
                if store.core.mirror.wait_for(revision, patience).await {
                    return Ok(store);
                }
                let endpoints = store.core.endpoints.names();
                store.shut().await;
                return Err(OpenError::Unreachable { endpoints, reason: "its changes can't be followed".to_owned() });
            }
        }
    }
}

async fn attempt(
    options: &EtcdOptions,
    keys: &Keys,
    endpoints: &Endpoints,
    seen: Option<&Seen>,
    until: Instant,
) -> Result<(Mirror, Staged, u64), OpenError> {
    let failed = |failure| OpenError::from(failure, endpoints, options);
    let soon = until.min(Instant::now() + 2 * REQUEST);
    let meta = identity(options, keys, endpoints, seen, soon).await?;
    let hasher = KeyHasher::new();
    let mut staged = Vec::new();
    let patient = until.max(Instant::now() + Duration::from_secs(60));
    let mut loaded = load::everything(endpoints, keys, &hasher, meta.revision, patient, |page| staged.push(page))
        .await
        .map_err(failed)?;
    let reach = Reach {
        epoch_since: meta.epoch_at.unsigned_abs(),
        revisions: options.resume_revisions,
        changes: options.resume_changes,
    };
    let past = Past::go_back(endpoints, keys, &hasher, reach, &mut loaded, &mut staged).await;
    let history = (options.history_changes, options.history_bytes);
    let id: Arc<str> = format!("{:016x}", rand::random::<u64>()).into();
    let mirror = Mirror::new(keys.clone(), hasher, id, loaded, &meta, history);
    let position = mirror.head();
    if let Some(past) = past {
        past.replay(&mirror);
    }
    Ok((mirror, (position, staged), meta.revision))
}

/// Whose store this is, after making sure that this version may use it.
async fn identity(
    options: &EtcdOptions,
    keys: &Keys,
    endpoints: &Endpoints,
    seen: Option<&Seen>,
    until: Instant,
) -> Result<Meta, OpenError> {
    let failed = |failure| OpenError::from(failure, endpoints, options);
    // The version first: an old etcd is not written to.
    let first = meta::read(endpoints, keys, until).await.map_err(failed)?;
    let too_new = |meta: &Meta| meta.schema.filter(|schema| *schema > options.schema);
    if let Some(found) = too_new(&first) {
        let prefix = options.prefix.clone();
        return Err(OpenError::SchemaTooNew { found, supported: options.schema, prefix });
    }
    if !options.allow_old_etcd {
        versions(endpoints).await?;
    }
    loop {
        let meta = meta::complete(endpoints, keys, options.schema, until).await.map_err(failed)?;
        if let Some(found) = too_new(&meta) {
            let prefix = options.prefix.clone();
            return Err(OpenError::SchemaTooNew { found, supported: options.schema, prefix });
        }
        if meta.schema.is_none() {
            return Err(OpenError::Broken(format!("`{}` is no number", keys.schema())));
        }
        let Some((epoch, cluster)) = meta.epoch else { continue };
        let less = seen.and_then(Seen::read).is_some_and(|seen| seen.epoch == epoch && seen.number > meta.revision);
        if cluster == meta.cluster && !less {
            return Ok(meta);
        }
        let why = if less { "it has less than was seen of it" } else { "it was copied from another cluster" };
        tracing::warn!(why, revision = meta.revision, "a new history of the store in etcd begins");
        meta::renew(endpoints, keys, &meta, until).await.map_err(failed)?;
    }
}

/// Refuses an etcd that is known to lose leases. Members that don't answer now are not asked again.
async fn versions(endpoints: &Endpoints) -> Result<(), OpenError> {
    let asked = (0..endpoints.urls().len()).map(|endpoint| async move {
        let mut client = endpoints.connect(endpoint).await?;
        match tokio::time::timeout(REQUEST, client.status()).await {
            Ok(status) => Ok(status?.version().to_owned()),
            Err(_) => Err(Failure::timeout(REQUEST)),
        }
    });
    for (answer, url) in futures_util::future::join_all(asked).await.into_iter().zip(endpoints.urls()) {
        match answer {
            Ok(found) if !version::is_good(&found) => {
                return Err(OpenError::TooOld { endpoint: url.clone(), found, wanted: version::wanted() });
            }
            Ok(_) => {}
            // Where users are asked for, etcd tells its version to those with the role root alone.
            Err(failure) => tracing::info!(endpoint = url, %failure, "can't ask etcd for its version"),
        }
    }
    Ok(())
}

fn start(
    options: EtcdOptions,
    endpoints: Endpoints,
    mirror: Mirror,
    staged: Staged,
    seen: Option<Seen>,
) -> Arc<EtcdStore> {
    let core = Arc::new(Core::new(&options, endpoints, mirror));
    core.vital("the watch", watcher::run(Arc::clone(&core)));
    core.vital("the keeper of the lease", replica::run(Arc::clone(&core)));
    core.vital("the judge of being in touch", replica::judge(Arc::clone(&core)));
    core.vital("the janitor", janitor::run(Arc::clone(&core), seen));
    let sequencer = core.vital("the sequencer", sequencer::run(Arc::clone(&core), options.in_flight));
    EtcdStore::new(core, staged, sequencer)
}
