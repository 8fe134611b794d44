//! TLS to upstreams: they prove who they are, by the system's roots of trust or those that the operator adds.

use crate::forward::upstream::AskError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The authorities that the operator names can't be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the CA of upstreams' certificates, `{}`, can't be used: {detail}", path.display())]
pub struct TlsError {
    path: PathBuf,
    detail: String,
}

/// How upstreams are known.
pub(crate) struct Tls {
    extra: Vec<CertificateDer<'static>>,
    /// Made on first use, since most servers ask no upstream over TLS. A failure is not kept, as it may pass.
    config: OnceLock<Arc<ClientConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("extra", &self.extra.len()).finish_non_exhaustive()
    }
}

impl Tls {
    /// With the system's roots of trust and those in a PEM file.
    pub(crate) fn open(ca: Option<&Path>) -> Result<Self, TlsError> {
        let Some(path) = ca else {
            return Ok(Self { extra: Vec::new(), config: OnceLock::new() });
        };
        let wrong = |detail: String| TlsError { path: path.to_owned(), detail };
        let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let extra: Vec<_> =
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))?;
        if extra.is_empty() {
            return Err(wrong("it holds no certificate as PEM".to_owned()));
        }
        for certificate in &extra {
            RootCertStore::empty().add(certificate.clone()).map_err(|error| wrong(error.to_string()))?;
        }
        Ok(Self { extra, config: OnceLock::new() })
    }

    fn config(&self) -> Result<Arc<ClientConfig>, AskError> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let wrong = |error: rustls::Error| AskError::Tls(error.to_string());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls_platform_verifier::Verifier::new_with_extra_roots(self.extra.clone(), Arc::clone(&provider))
                .map_err(wrong)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }

    /// Speaks TLS over a connection. The server must be `name`, or else have its address in its certificate.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        name: Option<&str>,
        server: SocketAddr,
        protocol: &[u8],
    ) -> Result<TlsStream<TcpStream>, AskError> {
        let mut config = ClientConfig::clone(&*self.config()?);
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = match name {
            None => ServerName::IpAddress(server.ip().into()),
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| AskError::Tls(format!("`{name}` can't be a server's name")))?,
        };
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        connected.map_err(|error| AskError::Tls(error.to_string()))
    }
}
