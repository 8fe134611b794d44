//! TLS on the server's side: certificate and key, the client CA, and handshakes that are bounded in time and number.
//!
//! TLS 1.2 and 1.3 by rustls over aws-lc-rs. A client need not show a certificate even where there is a client CA: other
//! replicas and callers with tokens have none, and whoever has neither is refused by the layer above, in words. One that
//! is shown must be signed by that CA.

use super::reload::{self, FileError};
use super::subject::{self, Subject};
use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// A handshake must be over by then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way at once; more wait, within the same time.
const HANDSHAKES: usize = 512;
/// Of which one client address has at most these.
pub(crate) const HANDSHAKES_OF_ADDRESS: usize = HANDSHAKES / 4;

/// The first byte of every TLS connection (RFC 8446 §5.1: a record that holds a handshake).
const HANDSHAKE_RECORD: u8 = 0x16;
/// What a client is told that does not speak TLS.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 40\r\n\
    Connection: close\r\n\r\nThis port speaks TLS only: use https://\n";

/// Where certificates and keys are, as PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The server's certificate, followed by those between it and its CA.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CA of clients' certificates.
    pub client_ca: Option<PathBuf>,
}

/// TLS as the files have it.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: RwLock<InForce>,
    /// What was read last, be it good or bad.
    seen: Mutex<reload::Fingerprint>,
    handshakes: Semaphore,
    failures: Family<Failure, Counter>,
}

/// What new connections are made under.
#[derive(Clone, Debug)]
struct InForce {
    config: Arc<ServerConfig>,
    client_ca: reload::Fingerprint,
    /// Ends when there is another client CA: what the one before vouched for, it may not.
    superseded: CancellationToken,
}

/// A connection that has come to TLS.
pub(crate) struct Shaken {
    pub(crate) stream: TlsStream<TcpStream>,
    /// Whom the client's certificate is for, where it showed one.
    pub(crate) shown: Option<Shown>,
}

/// A client's certificate that the client CA signed.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The names in it.
    pub names: Arc<[Subject]>,
    /// Ends when that CA is not the client CA any more.
    pub superseded: CancellationToken,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    reason: &'static str,
}

/// Why a connection did not come to TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the TLS handshake took more than {} seconds", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("the client does not speak TLS")]
    NotTls,
    #[error("the TLS handshake failed: {0}")]
    Failed(#[from] io::Error),
}

impl HandshakeError {
    /// For the metric.
    fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::NotTls => "not_tls",
            // rustls' own verdicts come as invalid data: a certificate that is not taken, say.
            Self::Failed(error) if error.kind() == io::ErrorKind::InvalidData => "refused",
            Self::Failed(_) => "broken",
        }
    }
}

/// What the files hold.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, FileError> {
        Ok(Self {
            certificate: reload::read(&files.certificate)?,
            key: reload::read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(reload::read).transpose()?,
        })
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca).map(Vec::as_slice)
    }

    fn client_ca(&self) -> reload::Fingerprint {
        reload::Fingerprint::of(self.client_ca.as_deref())
    }

    fn config(&self, files: &TlsFiles) -> Result<ServerConfig, FileError> {
        let chain = certificates(&files.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| wrong(&files.key, "there is no private key in it, as PEM"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| wrong(&files.certificate, error))?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path, pem)? {
                    roots.add(certificate).map_err(|error| wrong(path, error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| wrong(path, error))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong(&files.key, format!("this is not the key of the certificate in {}", files.certificate.display()))
            }
            error => wrong(&files.certificate, error),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn wrong(path: &Path, detail: impl ToString) -> FileError {
    FileError::Content { path: path.to_owned(), detail: detail.to_string() }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(wrong(path, "there is no certificate in it, as PEM")),
        Err(error) => Err(wrong(path, error)),
    }
}

impl Tls {
    /// Reads the files.
    pub fn open(files: TlsFiles) -> Result<Self, FileError> {
        let contents = Contents::read(&files)?;
        let config = contents.config(&files)?;
        reload::warn_if_open_to_all(&files.key);
        Ok(Self {
            current: RwLock::new(InForce {
                config: Arc::new(config),
                client_ca: contents.client_ca(),
                superseded: CancellationToken::new(),
            }),
            seen: Mutex::new(reload::Fingerprint::of(contents.parts())),
            handshakes: Semaphore::new(HANDSHAKES),
            failures: Family::default(),
            files,
        })
    }

    /// Registers its metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "TLS handshakes that failed, by reason";
        registry.register("fingerpost_tls_handshakes_failed", help, self.failures.clone());
    }

    /// Reads the files again and takes them, if they have changed; whether they have. Bad ones change nothing, and
    /// neither does a certificate that has come before its key: the next look will have both.
    pub(super) fn refresh(&self) -> Result<bool, FileError> {
        let contents = Contents::read(&self.files)?;
        if !self.seen.lock().replace(contents.parts()) {
            return Ok(false);
        }
        let config = contents.config(&self.files)?;
        let mut current = self.current.write();
        current.config = Arc::new(config);
        if current.client_ca != contents.client_ca() {
            current.client_ca = contents.client_ca();
            std::mem::take(&mut current.superseded).cancel();
        }
        Ok(true)
    }

    /// Makes TLS of a connection. `siblings`: the handshakes of the same client address.
    pub(crate) async fn accept(&self, stream: TcpStream, siblings: &Semaphore) -> Result<Shaken, HandshakeError> {
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.handshake(stream, siblings)).await;
        shaken.unwrap_or(Err(HandshakeError::Timeout)).inspect_err(|error| {
            self.failures.get_or_create(&Failure { reason: error.reason() }).inc();
        })
    }

    async fn handshake(&self, mut stream: TcpStream, siblings: &Semaphore) -> Result<Shaken, HandshakeError> {
        let mut first = [0];
        let length = stream.peek(&mut first).await?;
        if length > 0 && first != [HANDSHAKE_RECORD] {
            stream.write_all(SPEAK_TLS).await?;
            stream.shutdown().await?;
            // What was sent and not read would make the kernel break the connection off before this is read there.
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            return Err(HandshakeError::NotTls);
        }
        // The semaphores are never closed.
        let _place = (siblings.acquire().await, self.handshakes.acquire().await);
        let InForce { config, superseded, .. } = self.current.read().clone();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let shown = certificate.map(|certificate| Shown { names: subject::names(certificate).into(), superseded });
        Ok(Shaken { stream, shown })
    }
}
