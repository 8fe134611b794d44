//! The API server: started over an etcd of its own, with users whose rights the test chooses.

use super::api::Api;
use super::objects;
use crate::etcd::EtcdCluster;
use crate::ports::free_address;
use crate::programs::{self, Running};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// From where Services get addresses.
const SERVICE_RANGES: &str = "10.96.0.0/12,fd00:10:96::/112";

/// Those whom the API server knows, each by a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum User {
    /// May do everything.
    Admin,
    /// May do what [`Cluster::may_read`] said, at first read what DNS is about.
    Fingerpost,
    /// The same, for CoreDNS.
    CoreDns,
    /// May at first do nothing that needs a right.
    Stranger,
}

impl User {
    const ALL: [Self; 4] = [Self::Admin, Self::Fingerpost, Self::CoreDns, Self::Stranger];

    /// The name that the API server knows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Fingerpost => "fingerpost",
            Self::CoreDns => "coredns",
            Self::Stranger => "stranger",
        }
    }

    fn token(self) -> String {
        format!("token-of-{}", self.name())
    }
}

/// What a name server reads, as `resource.group`.
pub const READ_FOR_DNS: [&str; 4] = ["namespaces", "services", "pods", "endpointslices.discovery.k8s.io"];

/// A running API server and its etcd.
pub struct Cluster {
    /// Where it keeps its objects.
    pub etcd: EtcdCluster,
    process: Option<Running>,
    address: SocketAddr,
    folder: TempDir,
    ca: String,
    /// Its API, for the one who may do everything.
    pub api: Api,
}

impl Cluster {
    /// A cluster with nothing in it but what an API server makes itself, ready, whose users `fingerpost` and `coredns`
    /// may read what DNS is about.
    pub async fn start() -> Self {
        let etcd = EtcdCluster::one().await;
        let folder = tempfile::tempdir().expect("temporary folder");
        let ca = write_secrets(folder.path());
        let address = free_address();
        let api = Api::new(address, &ca, &User::Admin.token());
        let mut cluster = Self { etcd, process: None, address, folder, ca, api };
        // Somebody else may take the port between its choice and its use.
        for _ in 0..4 {
            cluster.run();
            if cluster.ready_within(Duration::from_secs(60)).await {
                for user in [User::Fingerpost, User::CoreDns] {
                    cluster.may_read(user, &READ_FOR_DNS).await;
                }
                return cluster;
            }
            cluster.process = None;
            cluster.address = free_address();
            cluster.api = Api::new(cluster.address, &cluster.ca, &User::Admin.token());
        }
        panic!("the API server does not start:\n{}", cluster.log());
    }

    fn run(&mut self) {
        let file = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(programs::program("KUBE_APISERVER_BIN", super::PEER, "kube-apiserver"));
        command
            .args(["--etcd-servers", &self.etcd.endpoints().join(",")])
            .args(["--bind-address", "127.0.0.1", "--secure-port", &self.address.port().to_string()])
            // Its own Service's endpoint must not be on loopback; nobody connects to it.
            .args(["--advertise-address", "192.0.2.1"])
            .arg("--cert-dir")
            .arg(self.folder.path())
            .arg("--tls-cert-file")
            .arg(file("server.pem"))
            .arg("--tls-private-key-file")
            .arg(file("server-key.pem"))
            .args(["--service-cluster-ip-range", SERVICE_RANGES])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .arg("--service-account-key-file")
            .arg(file("accounts.pub"))
            .arg("--service-account-signing-key-file")
            .arg(file("accounts.pem"))
            .arg("--token-auth-file")
            .arg(file("tokens.csv"))
            .args(["--authorization-mode", "RBAC"])
            // Nobody makes service accounts here, and pods must be possible without.
            .args(["--disable-admission-plugins", "ServiceAccount"])
            // Tests write as fast as they can.
            .args(["--enable-priority-and-fairness=false", "--max-requests-inflight", "3000"])
            .args(["--max-mutating-requests-inflight", "1500"])
            // Tests compact when they want to.
            .args(["--etcd-compaction-interval", "0"]);
        let log = file("kube-apiserver.log");
        self.process = Some(Running::start(&mut command, &log, self.folder.path()));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A folder that lives as long as the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    fn running(&self) -> &Running {
        self.process.as_ref().expect("a running API server")
    }

    /// Its API, for somebody who may do less.
    pub fn api_of(&self, user: User) -> Api {
        Api::new(self.address, &self.ca, &user.token())
    }

    /// A file with which a user reaches the API server at `address`: its own, or a proxy's.
    pub fn kubeconfig(&self, user: User, address: SocketAddr) -> PathBuf {
        let path = self.folder.path().join(format!("kubeconfig-{}-{}", user.name(), address.port()));
        let name = "tests";
        // JSON is YAML, too.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{"name": name, "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority": self.folder.path().join("ca.pem"),
            }}],
            "users": [{"name": name, "user": {"token": user.token()}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        });
        std::fs::write(&path, config.to_string()).expect("kubeconfig");
        path
    }

    /// Lets a user read these resources (`resource` or `resource.group`), and nothing else.
    pub async fn may_read(&self, user: User, resources: &[&str]) {
        let rules = resources.iter().map(|resource| {
            let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
            json!({"apiGroups": [group], "resources": [resource], "verbs": ["get", "list", "watch"]})
        });
        self.may(user, rules.collect()).await;
    }

    /// Gives a user these rules, and no others.
    pub async fn may(&self, user: User, rules: Vec<Value>) {
        let (role, binding) = objects::cluster_role(user.name(), rules);
        self.api.put(&role).await;
        self.api.put(&binding).await;
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it where it is: connections stay, and nothing answers.
    pub fn stop(&self) {
        self.running().signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.running().signal(Signal::CONT);
    }

    /// Starts it at its address on its objects again, killing it first if it runs, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.kill();
        self.run();
        self.ready().await;
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) {
        assert!(self.ready_within(Duration::from_secs(120)).await, "the API server does not get ready");
    }

    async fn ready_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if self.process.as_mut().is_none_or(Running::ended) {
                return false;
            }
            // Its own namespace comes soon after it says that it is ready, and is where much goes.
            if self.api.is_ready().await && self.api.get("/api/v1/namespaces/default").await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Forgets all history of its etcd up to now: who watched from before must list again, once the API server, which
    /// remembers some of it, has been restarted.
    pub async fn compact(&self) {
        let client = self.etcd.client().await;
        let mut kv = client.kv_client();
        let revision = kv.get("compact", None).await.expect("etcd answers").header().expect("header").revision();
        let options = etcd_client::CompactionOptions::new().with_physical();
        kv.compact(revision, Some(options)).await.expect("compaction");
    }

    /// What it has logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("kube-apiserver.log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let faults: Vec<&str> = log.lines().filter(|line| line.starts_with(['E', 'F'])).collect();
            eprintln!("the API server's last faults:\n{}", faults[faults.len().saturating_sub(10)..].join("\n"));
        }
    }
}

/// Writes what the API server proves itself and knows others by; its authority's certificate.
fn write_secrets(folder: &Path) -> String {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("write");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "tests");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("certificate");
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("key");
    write("server.pem", &params.signed_by(&key, &authority).expect("certificate").pem());
    write("server-key.pem", &key.serialize_pem());
    write("ca.pem", &authority.pem());
    let accounts = KeyPair::generate().expect("key");
    write("accounts.pem", &accounts.serialize_pem());
    write("accounts.pub", &accounts.public_key_pem());
    let tokens = User::ALL.map(|user| {
        let groups = if user == User::Admin { ",\"system:masters\"" } else { "" };
        format!("{},{},{}{groups}\n", user.token(), user.name(), user.name())
    });
    write("tokens.csv", &tokens.concat());
    authority.pem()
}
