//! TLS for probes: the system's roots of trust and those that the operator adds, or for a check that says so, none.

use super::root_cause;
use fingerpost_catalog::CheckTls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Checks can't trust what a file says.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the CA of checked servers' certificates, `{}`, can't be used: {detail}", path.display())]
pub struct CheckCaError {
    path: PathBuf,
    detail: String,
}

/// How probes identify their peers.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    extra: Vec<CertificateDer<'static>>,
    /// Read on first use: most registries never check over TLS. A failure is not kept, as it may pass.
    verified: OnceLock<ClientConfig>,
}

impl Tls {
    /// With the system's roots of trust and those in a PEM file.
    pub fn open(ca: &Path) -> Result<Self, CheckCaError> {
        let wrong = |detail: String| CheckCaError { path: ca.to_owned(), detail };
        let pem = std::fs::read(ca).map_err(|error| wrong(error.to_string()))?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let all = all.map_err(|error| wrong(error.to_string()))?;
        if all.is_empty() {
            return Err(wrong("it holds no certificate as PEM".to_owned()));
        }
        // Said now, and not in the note of each check.
        for certificate in &all {
            RootCertStore::empty().add(certificate.clone()).map_err(|error| wrong(error.to_string()))?;
        }
        Ok(Self::new(all))
    }

    /// With the system's roots of trust and further ones.
    pub fn new(extra: Vec<CertificateDer<'static>>) -> Self {
        Self { provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()), extra, verified: OnceLock::new() }
    }

    fn make(&self, verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }

    fn config(&self, skip_verify: bool) -> Result<ClientConfig, String> {
        if skip_verify {
            return self.make(Arc::new(AnyCertificate(Arc::clone(&self.provider))));
        }
        if let Some(verified) = self.verified.get() {
            return Ok(verified.clone());
        }
        let (extra, provider) = (self.extra.clone(), Arc::clone(&self.provider));
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider)
            .map_err(|error| format!("the system's certificates can't be read: {error}"))?;
        let config = self.make(Arc::new(verifier))?;
        Ok(self.verified.get_or_init(|| config).clone())
    }

    /// Speaks TLS over a connection. The peer must be the check's `serverName`, else `host`, else the address.
    pub(super) async fn connect(
        &self,
        options: Option<&CheckTls>,
        host: Option<&str>,
        target: SocketAddr,
        stream: TcpStream,
        protocol: &[u8],
    ) -> Result<TlsStream<TcpStream>, String> {
        let mut config = self.config(options.is_some_and(|options| options.skip_verify))?;
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = options.and_then(|options| options.server_name.as_deref()).or(host);
        let name = match name {
            None => ServerName::IpAddress(target.ip().into()),
            Some(name) => {
                ServerName::try_from(name.to_owned()).map_err(|_| format!("`{name}` can't be a server's name"))?
            }
        };
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        connected.map_err(|error| format!("TLS: {}", root_cause(&error)))
    }
}

/// Takes any certificate, but has the peer prove that it is its own.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
