//! What `serve` says once it is ready: where it listens, and, to a person, what to try first.

use crate::config::ServeConfig;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;

/// Prints one line an address (scripts that chose port 0 read them) and, on a terminal, commands that work as they stand.
pub(super) fn print(
    config: &ServeConfig,
    https: bool,
    http: &[SocketAddr],
    ops: &[SocketAddr],
    dns: &[SocketAddr],
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let scheme = if https { "https" } else { "http" };
    for address in http {
        writeln!(out, "http {scheme}://{address}")?;
    }
    for address in ops {
        writeln!(out, "ops  http://{address}")?;
    }
    for address in dns {
        writeln!(out, "dns  {address}")?;
    }
    let open = !https && config.tokens.is_none();
    if let (true, true, Some(http), Some(dns)) = (out.is_terminal(), open, http.first(), dns.first()) {
        let zone = &config.answers.names.zone;
        writeln!(
            out,
            "data {}

Fingerpost is ready. Try, in another terminal:

  curl -X PUT http://{http}/v1/namespaces/demo/services/web/instances/web-1 -d '{{\"addresses\":[\"10.0.0.1\"]}}'
  dig +short @{} -p {} web.demo.svc.{zone}

The API's description is at http://{http}/docs",
            config.answers.data_dir.display(),
            dns.ip(),
            dns.port(),
        )?;
    }
    out.flush()
}
