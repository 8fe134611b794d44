//! Unbound, a resolver that validates, over zones of its own: nobody outside of this machine is asked.

use crate::ports::free_address;
use crate::programs::{self, Running};
use fingerpost_dns::query;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The zone that is signed.
pub const SIGNED: &str = "signed.example";
/// The strings of the TXT records at `big.signed.example`, which fit into no datagram together.
pub const BIG: usize = 30;

/// A running Unbound.
pub struct Unbound {
    process: Running,
    /// Where it answers.
    pub dns: SocketAddr,
    folder: TempDir,
}

impl Unbound {
    /// One that knows [`SIGNED`], and these records of the root zone in the form of zone files.
    pub async fn start(records: &str) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let key = sign(folder.path());
        write_root(folder.path(), records);
        for _ in 0..4 {
            let dns = free_address();
            write_config(folder.path(), &key, dns);
            let mut process = launch(folder.path());
            if ready(&mut process, dns).await {
                return Self { process, dns, folder };
            }
            eprintln!("Unbound ended, perhaps for a port that somebody took; once more:\n{}", log(folder.path()));
        }
        panic!("Unbound does not start");
    }

    /// Ends it at once.
    pub fn kill(self) -> Stopped {
        let Self { process, dns, folder } = self;
        drop(process);
        Stopped { dns, folder }
    }
}

/// Unbound after its end.
pub struct Stopped {
    dns: SocketAddr,
    folder: TempDir,
}

impl Stopped {
    /// Starts it again, at the same address, with these records of the root zone.
    pub async fn again(self, records: &str) -> Unbound {
        let Self { dns, folder } = self;
        write_root(folder.path(), records);
        let mut process = launch(folder.path());
        assert!(ready(&mut process, dns).await, "Unbound does not start again:\n{}", log(folder.path()));
        Unbound { process, dns, folder }
    }
}

fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

fn launch(folder: &Path) -> Running {
    let mut command = Command::new(programs::debian("unbound"));
    command.arg("-d").arg("-c").arg(folder.join("unbound.conf"));
    Running::start(&mut command, &folder.join("log"), folder)
}

/// Whether it answers; false where it has ended.
async fn ready(process: &mut Running, dns: SocketAddr) -> bool {
    while !process.ended() {
        if query::query(dns, ".", "SOA", Duration::from_secs(1)).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

fn write_root(folder: &Path, records: &str) {
    let zone = format!("$TTL 60\n. IN SOA ns. admin. 1 3600 600 86400 5\n. IN NS ns.\nns. IN A 127.0.0.1\n{records}\n");
    std::fs::write(folder.join("root.zone"), zone).expect("root zone");
}

/// Makes the signed zone, with one record changed behind its signature's back; the name of its key.
fn sign(folder: &Path) -> String {
    let mut zone = format!(
        "$ORIGIN {SIGNED}.\n$TTL 60\n\
         @ IN SOA ns admin 1 3600 600 86400 5\n@ IN NS ns\nns IN A 192.0.2.53\n\
         www IN A 192.0.2.80\nwww IN A 192.0.2.82\nwww IN AAAA 2001:db8::80\nalias IN CNAME www\n\
         mx IN MX 10 mail\nmail IN A 192.0.2.25\n*.wild IN A 192.0.2.81\nbogus IN A 192.0.2.66\n"
    );
    for number in 0..BIG {
        writeln!(zone, "big IN TXT \"{number:03}{}\"", "x".repeat(100)).expect("text");
    }
    std::fs::write(folder.join("zone"), zone).expect("zone");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(programs::debian(program)).args(arguments).current_dir(folder).output();
        let output = output.expect("the program starts");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let key = run("ldns-keygen", &["-a", "ECDSAP256SHA256", "-k", SIGNED]);
    run("ldns-signzone", &["-n", "-f", "zone.signed", "zone", &key]);
    let signed = std::fs::read_to_string(folder.join("zone.signed")).expect("signed zone");
    assert!(signed.contains("192.0.2.66"));
    std::fs::write(folder.join("zone.signed"), signed.replace("192.0.2.66", "192.0.2.67")).expect("signed zone");
    key
}

fn write_config(folder: &Path, key: &str, dns: SocketAddr) {
    let own = folder.display();
    let mut config = format!(
        "server:\n  interface: {}@{}\n  directory: \"{own}\"\n  trust-anchor-file: \"{own}/{key}.key\"\n\
         \x20 do-daemonize: no\n  use-syslog: no\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  num-threads: 1\n\
         \x20 module-config: \"validator iterator\"\n  ede: yes\n  max-udp-size: 1232\n\
         remote-control:\n  control-enable: no\n",
        dns.ip(),
        dns.port()
    );
    for (zone, file) in [(".", "root.zone"), (SIGNED, "zone.signed")] {
        // Not to be answered from as an authority, but to be asked instead of others.
        write!(
            config,
            "auth-zone:\n  name: \"{zone}\"\n  zonefile: \"{own}/{file}\"\n  for-downstream: no\n  for-upstream: yes\n\
             \x20 fallback-enabled: no\n"
        )
        .expect("text");
    }
    std::fs::write(folder.join("unbound.conf"), config).expect("configuration");
}
