//! A real etcd of one or more members on loopback, each of which can be killed, stopped and started again.
//!
//! `cargo xtask test` builds etcd and names it in `ETCD_BIN` and `ETCDCTL_BIN`; without that, the ones in the cache folder
//! are taken. The processes end with the cluster, and with the test process, however that ends.

use crate::ports::free_address;
use crate::programs::{self, Running};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The version that `cargo xtask` builds.
const PEER: &str = "etcd-3.6.8";

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many members.
    pub members: usize,
    /// Serves clients over TLS, and only those that show a certificate of its own authority.
    pub tls: bool,
    /// Asks for a name and password: `root` with [`PASSWORD`], or `fingerpost` with it, who may only touch `/fingerpost/`.
    pub auth: bool,
    /// Its database may be so large.
    pub quota_bytes: Option<u64>,
    /// Waits for the disk. Without, it forgets nothing as long as only processes die.
    pub fsync: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { members: 1, tls: false, auth: false, quota_bytes: None, fsync: false }
    }
}

/// The password of a cluster that asks for one.
pub const PASSWORD: &str = "correct-horse";

/// The certificates of a cluster, in files.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Who signed the members' and the client's certificates.
    pub ca: PathBuf,
    /// A client's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Another authority, of which the cluster knows nothing.
    pub other_ca: PathBuf,
    /// A client's certificate of that one.
    pub other_cert: PathBuf,
    /// Its key.
    pub other_key: PathBuf,
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    folder: PathBuf,
    running: Option<Running>,
}

/// A running etcd cluster.
pub struct EtcdCluster {
    setup: Setup,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    folder: TempDir,
}

impl EtcdCluster {
    /// One member, and as fast as can be.
    pub async fn one() -> Self {
        Self::start(Setup::default()).await
    }

    /// Three members.
    pub async fn three() -> Self {
        Self::start(Setup { members: 3, ..Setup::default() }).await
    }

    /// A cluster as asked for, healthy.
    pub async fn start(setup: Setup) -> Self {
        // Somebody else may take a port between its choice and its use.
        for _ in 0..4 {
            let mut cluster = Self::prepare(setup.clone());
            for n in 0..cluster.members.len() {
                cluster.run(n);
            }
            if cluster.healthy_within(Duration::from_secs(30), false).await {
                if cluster.setup.auth {
                    cluster.enable_auth().await;
                }
                return cluster;
            }
        }
        panic!("etcd does not start");
    }

    fn prepare(setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let certificates = setup.tls.then(|| certificates(folder.path()));
        let members = (0..setup.members)
            .map(|n| Member {
                client: free_address(),
                peer: free_address(),
                folder: folder.path().join(format!("member-{n}")),
                running: None,
            })
            .collect();
        Self { setup, members, certificates, folder }
    }

    fn run(&mut self, n: usize) {
        let initial: Vec<String> =
            self.members.iter().enumerate().map(|(n, member)| format!("m{n}=http://{}", member.peer)).collect();
        let member = &self.members[n];
        let (client, peer) = (self.url(member.client), format!("http://{}", member.peer));
        let mut command = Command::new(programs::program("ETCD_BIN", PEER, "etcd"));
        command
            .args(["--name", &format!("m{n}"), "--data-dir"])
            .arg(&member.folder)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &initial.join(","), "--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000", "--log-level", "warn"]);
        if !self.setup.fsync {
            command.arg("--unsafe-no-fsync");
        }
        if let Some(bytes) = self.setup.quota_bytes {
            command.arg(format!("--quota-backend-bytes={bytes}"));
        }
        if self.certificates.is_some() {
            let file = |name: &str| self.folder.path().join(name);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(file("ca.pem"));
            command.arg("--cert-file").arg(file("server.pem")).arg("--key-file").arg(file("server-key.pem"));
        }
        let log = self.folder.path().join(format!("member-{n}.log"));
        self.members[n].running = Some(Running::start(&mut command, &log, self.folder.path()));
    }

    fn url(&self, address: SocketAddr) -> String {
        format!("{}://{address}", if self.certificates.is_some() { "https" } else { "http" })
    }

    /// The URLs that clients use, member by member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| self.url(member.client)).collect()
    }

    /// Where a member listens for clients.
    pub fn address(&self, n: usize) -> SocketAddr {
        self.members[n].client
    }

    /// The certificates of a cluster with TLS.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("a cluster with TLS")
    }

    /// A folder that lives as long as the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends a member at once, as a crash would.
    pub fn kill(&mut self, n: usize) {
        self.members[n].running = None;
    }

    fn running(&self, n: usize) -> &Running {
        self.members[n].running.as_ref().expect("a running member")
    }

    /// A running member's process.
    pub fn pid(&self, n: usize) -> u32 {
        self.running(n).pid()
    }

    /// Stops a member: its connections stay, and nothing answers.
    pub fn stop(&self, n: usize) {
        self.running(n).signal(Signal::STOP);
    }

    /// Lets a stopped member go on.
    pub fn cont(&self, n: usize) {
        self.running(n).signal(Signal::CONT);
    }

    /// Starts a member on its data again, killing it first if it runs. Does not wait until it is healthy.
    pub fn restart(&mut self, n: usize) {
        self.kill(n);
        self.run(n);
    }

    /// Copies a member's data to another folder; the member must not run.
    pub fn back_up(&self, n: usize, to: &Path) {
        assert!(self.members[n].running.is_none(), "the member runs");
        copy(&self.members[n].folder, to);
    }

    /// Puts data in the place of a member's; the member must not run.
    pub fn restore(&self, n: usize, from: &Path) {
        assert!(self.members[n].running.is_none(), "the member runs");
        std::fs::remove_dir_all(&self.members[n].folder).expect("remove");
        copy(from, &self.members[n].folder);
    }

    /// The member that leads, once there is one.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            for n in 0..self.members.len() {
                if self.members[n].running.is_none() {
                    continue;
                }
                let asked = async {
                    let mut client = self.client_of(n).await.ok()?;
                    let status = client.status().await.ok()?;
                    Some(status.leader() != 0 && status.leader() == status.header()?.member_id())
                };
                if let Ok(Some(true)) = tokio::time::timeout(Duration::from_secs(2), asked).await {
                    return n;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no leader");
    }

    /// Waits until every member that runs answers a read that the whole cluster agrees on.
    pub async fn healthy(&self) {
        assert!(
            self.healthy_within(Duration::from_secs(60), self.setup.auth).await,
            "the cluster does not get healthy"
        );
    }

    async fn healthy_within(&self, time: Duration, auth: bool) -> bool {
        let deadline = Instant::now() + time;
        for (n, member) in self.members.iter().enumerate() {
            if member.running.is_none() {
                continue;
            }
            loop {
                let read = async {
                    let mut client = self.connect(n, auth.then_some("root")).await?;
                    client.get("/fingerpost/health", None).await
                };
                if matches!(tokio::time::timeout(Duration::from_secs(2), read).await, Ok(Ok(_))) {
                    break;
                }
                if Instant::now() > deadline {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        true
    }

    /// A client of the first member, who may do everything.
    pub async fn client(&self) -> Client {
        self.client_of(0).await.expect("etcd answers")
    }

    /// A client of one member, who may do everything.
    pub async fn client_of(&self, n: usize) -> Result<Client, etcd_client::Error> {
        self.connect(n, self.setup.auth.then_some("root")).await
    }

    async fn connect(&self, n: usize, user: Option<&str>) -> Result<Client, etcd_client::Error> {
        let mut options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(2));
        if let Some(certificates) = &self.certificates {
            let read = |path: &Path| std::fs::read(path).expect("certificate");
            let identity = Identity::from_pem(read(&certificates.cert), read(&certificates.key));
            let ca = Certificate::from_pem(read(&certificates.ca));
            options = options.with_tls(TlsOptions::new().ca_certificate(ca).identity(identity));
        }
        if let Some(user) = user {
            options = options.with_user(user, PASSWORD);
        }
        Client::connect([self.url(self.members[n].client)], Some(options)).await
    }

    async fn enable_auth(&self) {
        use etcd_client::{Permission, PermissionType};
        let client = self.connect(0, None).await.expect("etcd answers");
        let mut auth = client.auth_client();
        auth.role_add("root").await.expect("role");
        auth.user_add("root", PASSWORD, None).await.expect("user");
        auth.user_grant_role("root", "root").await.expect("grant");
        auth.role_add("fingerpost").await.expect("role");
        let own = Permission::new(PermissionType::Readwrite, "/fingerpost/").with_prefix();
        auth.role_grant_permission("fingerpost", own).await.expect("permission");
        auth.user_add("fingerpost", PASSWORD, None).await.expect("user");
        auth.user_grant_role("fingerpost", "fingerpost").await.expect("grant");
        auth.auth_enable().await.expect("authentication");
    }

    /// Runs etcdctl against the whole cluster; returns what it printed.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(programs::program("ETCDCTL_BIN", PEER, "etcdctl"));
        command.arg("--endpoints").arg(self.endpoints().join(","));
        if let Some(certificates) = &self.certificates {
            command.arg("--cacert").arg(&certificates.ca);
            command.arg("--cert").arg(&certificates.cert).arg("--key").arg(&certificates.key);
        }
        if self.setup.auth {
            command.arg("--user").arg(format!("root:{PASSWORD}"));
        }
        crate::output_of(command.args(arguments))
    }

    /// What the members have logged.
    pub fn log(&self) -> String {
        let read = |n| std::fs::read_to_string(self.folder.path().join(format!("member-{n}.log"))).unwrap_or_default();
        (0..self.members.len()).map(read).collect()
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for n in 0..self.members.len() {
            self.kill(n);
        }
        if std::thread::panicking() {
            eprintln!("etcd logged:\n{}", self.log());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copy");
        }
    }
}

fn certificates(folder: &Path) -> Certificates {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("write");
        path
    };
    let authority = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "tests");
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("certificate")
    };
    let signed = |by: &CertifiedIssuer<'_, KeyPair>, name: &str, usage: &[ExtendedKeyUsagePurpose]| {
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("certificate");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = usage.to_vec();
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, by).expect("certificate");
        let cert = write(&format!("{name}.pem"), &certificate.pem());
        (cert, write(&format!("{name}-key.pem"), &key.serialize_pem()))
    };
    let client = [ExtendedKeyUsagePurpose::ClientAuth];
    let (own, other) = (authority(), authority());
    // etcd calls itself, too, with the certificate that it serves with.
    signed(&own, "server", &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]);
    let (cert, key) = signed(&own, "client", &client);
    let (other_cert, other_key) = signed(&other, "other", &client);
    let (ca, other_ca) = (write("ca.pem", &own.pem()), write("other-ca.pem", &other.pem()));
    Certificates { ca, cert, key, other_ca, other_cert, other_key }
}
