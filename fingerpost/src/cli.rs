//! The command line: commands, their arguments and their help.

use crate::commands::target::{InstanceName, LabelArg, PortArg, ServiceName};
use crate::config::{DnsArgs, ListenerArgs, ServeArgs, Span};
use crate::output::{Colour, Format};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use fingerpost_catalog::{Health, Selector, Source};
use std::net::IpAddr;
use std::path::PathBuf;

/// Service discovery over DNS, REST and streams.
///
/// `fingerpost serve` runs a registry with its DNS server; the other commands talk to one.
#[derive(Parser, Debug)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What all commands that talk to a registry have in common.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// The registry; several replicas with commas between them
    #[arg(
        long,
        global = true,
        env = "FINGERPOST_SERVER",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8053",
        value_hint = ValueHint::Url
    )]
    pub(crate) server: Vec<String>,
    /// A file with the token to show to the registry
    #[arg(long, global = true, env = "FINGERPOST_TOKEN_FILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with the CA of the registry's certificate, PEM [default: the system's CAs]
    #[arg(long, global = true, env = "FINGERPOST_CA", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca: Option<PathBuf>,
    /// A file with the certificate to show to the registry, PEM
    #[arg(long, global = true, env = "FINGERPOST_CERT", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) cert: Option<PathBuf>,
    /// A file with the key of that certificate, PEM
    #[arg(long, global = true, env = "FINGERPOST_KEY", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,
    /// Send the token over plain HTTP to other machines, too, where everybody on the way can read it
    // `serve` has a flag of this name and form of its own, for its side of the same.
    #[arg(
        long,
        global = true,
        env = "FINGERPOST_INSECURE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub(crate) insecure: Option<bool>,
    /// How to print
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// When to colour; NO_COLOR is honoured, too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Colour,
    /// Seconds that a call may take
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub(crate) timeout: u64,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a registry with its DNS server
    Serve(Box<ServeArgs>),
    /// Run a DNS server that follows a registry elsewhere, and answers also while that is away
    Dns(Box<DnsArgs>),
    /// Follow a Kubernetes cluster, and write what it has into a registry elsewhere
    Listener(Box<ListenerArgs>),
    /// Register an instance of a service, or change one
    Register(Box<RegisterArgs>),
    /// Take an instance of a service out of the registry
    Deregister(DeregisterArgs),
    /// Take an instance out of answers, and keep it listed; it stays so when it is registered again
    Drain(DrainArgs),
    /// Report to a TTL check of an instance: before its time is up, again and again
    Check(CheckArgs),
    /// List sessions, and end them
    #[command(subcommand)]
    Session(SessionCommand),
    /// List services, instances or namespaces, and watch them change
    Get(GetArgs),
    /// Show all that is known of one object
    Describe(DescribeArgs),
    /// Ask the DNS server for a name
    Resolve(ResolveArgs),
    /// Walk through how the DNS server comes to its answer for a name
    Explain(ExplainArgs),
    /// Ask two DNS servers for all names of the cluster, and compare the answers
    Compare(CompareArgs),
    /// Create or change the objects that a file describes
    Apply(ApplyArgs),
    /// Write all records to a file
    Export(ExportArgs),
    /// Read the records of an export back
    Import(ImportArgs),
    /// Show who declares things, and remove what a source left that never comes back
    #[command(subcommand)]
    Source(SourceCommand),
    /// Make tokens for those who may call the registry
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show the state of the registry
    Status,
    /// Raise the schema of the stored records, once all replicas can read it
    Migrate,
    /// Show the version of this program and of the registry
    Version,
    /// Print a script that completes this command line in a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum SourceCommand {
    /// List the sources that hold anything, and when they were last heard
    List,
    /// Remove all that a source declares: its instances, services and namespaces
    Remove {
        /// Which source, as in `kubernetes/old`
        source: Source,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Args, Debug)]
pub(crate) struct RegisterArgs {
    /// The service; without NAMESPACE/, in the namespace `default`
    #[arg(value_name = "[NAMESPACE/]SERVICE")]
    pub(crate) service: ServiceName,
    /// An address of the instance; repeat it for v4 and v6 of one endpoint
    #[arg(short, long = "address", value_name = "IP", required = true)]
    pub(crate) addresses: Vec<IpAddr>,
    /// A port, as in `8080`, `http:8080` or `dns:53/udp`; may repeat
    #[arg(short, long = "port", value_name = "[NAME:]PORT[/PROTOCOL]")]
    pub(crate) ports: Vec<PortArg>,
    /// Its id among this source's instances of the service [default: first address and port, as in `10.0.0.1:8080`]
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// A label; may repeat
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<LabelArg>,
    /// What to report of its health: passing, warning, unknown or critical [default: the last report stays]
    #[arg(long, value_name = "HEALTH")]
    pub(crate) health: Option<Health>,
    /// Its share of the load, beside its siblings' [default: an equal share]
    #[arg(long, value_name = "0..65535")]
    pub(crate) weight: Option<u16>,
    /// The zone it runs in
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// The node it runs on
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Its label in DNS, below the service's name
    #[arg(long, value_name = "LABEL")]
    pub(crate) hostname: Option<String>,
    /// In whose name: `api` or `api/OWNER`
    #[arg(long, env = "FINGERPOST_SOURCE", value_name = "SOURCE", default_value = "api")]
    pub(crate) source: Source,
    /// Stay, and keep the instance for as long as this runs: where it stops renewing for this time, as in `15s`, the
    /// instance is critical [default with COMMAND: 15s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) ttl: Option<u32>,
    /// How long the instance stays listed after that, as in `60s` [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) grace: Option<u32>,
    /// What to call the session [default: NAMESPACE/SERVICE/ID]
    #[arg(long, value_name = "NAME")]
    pub(crate) session_name: Option<String>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    /// Run this command, and keep the instance for as long as it runs
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// Whether a command waits until what it wrote is visible.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct WaitArgs {
    /// Wait until all replicas of the registry and all DNS servers that follow it show what was written, as in
    /// `--wait=10s`; where they don't within that time, say who is late and end with status 2 [default without a time: 5s]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "5s", value_name = "TIME")]
    pub(crate) wait: Option<Span>,
}

/// A time in seconds, as in `15`, `15s`, `5m` or `2h`.
fn seconds(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write it as in `15s`, `5m` or `2h`".to_owned()),
    };
    let number = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    number.ok_or_else(|| "write it as in `15s`, `5m` or `2h`".to_owned())
}

#[derive(Subcommand, Debug)]
pub(crate) enum SessionCommand {
    /// List sessions
    List(SessionListArgs),
    /// End a session: its instances leave at once
    End {
        /// Its id
        id: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Args, Debug)]
pub(crate) struct SessionListArgs {
    /// Only those with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Only those that this source made
    #[arg(long, value_name = "SOURCE")]
    pub(crate) source: Option<Source>,
    /// Only those in this state: alive, suspect or expired
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<SessionStateArg>,
}

/// The states of sessions, as users name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum SessionStateArg {
    /// Renewed in time
    Alive,
    /// Overdue, but held
    Suspect,
    /// Overdue, and in its grace
    Expired,
}

#[derive(Args, Debug)]
pub(crate) struct DeregisterArgs {
    /// The service; without NAMESPACE/, in the namespace `default`
    #[arg(value_name = "[NAMESPACE/]SERVICE")]
    pub(crate) service: ServiceName,
    /// The instance's id; may be left out where the source has just one
    pub(crate) id: Option<String>,
    /// Remove all that the source says of the service: its instances and its declaration
    #[arg(long, conflicts_with = "id")]
    pub(crate) all: bool,
    /// In whose name: `api` or `api/OWNER`
    #[arg(long, env = "FINGERPOST_SOURCE", value_name = "SOURCE", default_value = "api")]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// The instance (`-` for no service); without NAMESPACE/, in the namespace `default`
    #[arg(value_name = "[NAMESPACE/]SERVICE/ID")]
    pub(crate) instance: InstanceName,
    /// Why; readers see it beside the instance's health
    #[arg(long, value_name = "TEXT", conflicts_with = "undo")]
    pub(crate) note: Option<String>,
    /// Have it answered again, as far as the rest of its health allows
    #[arg(long)]
    pub(crate) undo: bool,
    /// Whose instance [default: the only source's that has one of this id]
    #[arg(long, env = "FINGERPOST_SOURCE", value_name = "SOURCE")]
    pub(crate) source: Option<Source>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The instance (`-` for no service); without NAMESPACE/, in the namespace `default`
    #[arg(value_name = "[NAMESPACE/]SERVICE/ID")]
    pub(crate) instance: InstanceName,
    /// The check's name; it must be of type `ttl`
    #[arg(value_name = "CHECK")]
    pub(crate) check: String,
    /// What to report: passing, warning or critical
    #[arg(long, value_name = "HEALTH", default_value = "passing")]
    pub(crate) health: Health,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Whose instance [default: the only source's that has one of this id]
    #[arg(long, env = "FINGERPOST_SOURCE", value_name = "SOURCE")]
    pub(crate) source: Option<Source>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// The kinds of object, as users name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum KindArg {
    /// Services, merged over their sources
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Instances of services, and of none
    #[value(alias = "instance", alias = "inst")]
    Instances,
    /// Namespaces
    #[value(alias = "namespace", alias = "ns")]
    Namespaces,
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// Which kind of object
    pub(crate) kind: KindArg,
    /// One of them: `[NAMESPACE/]SERVICE` for a service or the instances of a service, or a namespace's name
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Only what is in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Only what has labels like these, as in `app=web,tier in (a,b),!test`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<Selector>,
    /// Only instances in one of these states, as in `passing,warning`
    #[arg(long, value_name = "HEALTH", value_delimiter = ',')]
    pub(crate) health: Vec<Health>,
    /// Only what this source declares
    #[arg(long, value_name = "SOURCE")]
    pub(crate) source: Option<Source>,
    /// Go on printing changes until interrupted
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DescribeArgs {
    /// Which kind of object
    pub(crate) kind: KindArg,
    /// `[NAMESPACE/]SERVICE`, `[NAMESPACE/]SERVICE/ID` (`-` for no service), or a namespace's name
    pub(crate) name: String,
    /// The namespace, where NAME does not say it [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Whose instance, where several sources have one of this id
    #[arg(long, value_name = "SOURCE")]
    pub(crate) source: Option<Source>,
}

#[derive(Args, Debug)]
pub(crate) struct ResolveArgs {
    /// The name, as in `web`, `web.prod`, `_http._tcp.web.prod`, an address, or absolute with a dot at the end
    pub(crate) name: String,
    /// The record type [default: A and AAAA; SRV for `_…` names; PTR for addresses]
    #[arg(value_name = "TYPE")]
    pub(crate) record_type: Option<String>,
    /// The DNS server [default: the registry's]
    #[arg(long, value_name = "IP[:PORT]")]
    pub(crate) dns: Option<String>,
    /// The namespace of names of one label
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// The name, as for `resolve`; with --from as the pod has it, with a dot at its end if it is whole
    pub(crate) name: String,
    /// The record type [default: A; SRV for `_…` names; PTR for addresses]
    #[arg(value_name = "TYPE")]
    pub(crate) record_type: Option<String>,
    /// The namespace of names of one label
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// The address of a pod: walk through the names that its resolver makes of NAME
    #[arg(long, value_name = "POD_IP", conflicts_with = "namespace")]
    pub(crate) from: Option<IpAddr>,
}

#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// The DNS server to compare with
    #[arg(long, value_name = "IP[:PORT]")]
    pub(crate) against: String,
    /// Our DNS server [default: the registry's]
    #[arg(long, value_name = "IP[:PORT]")]
    pub(crate) dns: Option<String>,
    /// The zone whose names to ask for; may repeat [default: the registry's, all of them]
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) zone: Vec<String>,
    /// Take names from this cluster's API server, too [default: the one whose pod this is]
    #[arg(long, env = "FINGERPOST_KUBECONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig [default: its current one]
    #[arg(long, env = "FINGERPOST_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Take names from the registry alone
    #[arg(long)]
    pub(crate) registry_only: bool,
    /// Ask for at most this many names and types, taken from the whole of them
    #[arg(long, value_name = "NUMBER")]
    pub(crate) limit: Option<usize>,
}

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// YAML or JSON documents, each with its `kind`; `-` for standard input
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The namespace of documents that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// In whose name: `api` or `api/OWNER`
    #[arg(long, env = "FINGERPOST_SOURCE", value_name = "SOURCE", default_value = "api")]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Where to; standard output where left out
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The export; `-` for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Remove what the registry holds and the export does not
    #[arg(long)]
    pub(crate) replace: bool,
}

/// What is done with tokens. Nothing of it needs a registry.
#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    /// Make a token: it is printed once, and its entry for the tokens file beside it on standard error
    ///
    /// To replace a token without a gap, make another one for the same name (without --append), and add its hash to the
    /// entry that is there: `sha256 = ["OLD", "NEW"]`. Once its holder uses the new one, take the old hash out. The name
    /// is the same, so what it began (its sessions, say) stays its own.
    New(NewTokenArgs),
    /// Print the hash of a token that is read from standard input
    Hash,
}

#[derive(Args, Debug)]
pub(crate) struct NewTokenArgs {
    /// Whose it is: what logs and messages call its holder
    pub(crate) name: String,
    /// What its holder may do
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: RoleArg,
    /// A source that a registrar may act as, as in `api/ci`, or the beginning of some, as in `cni/*`; may repeat
    #[arg(long = "source", value_name = "SOURCE", required_if_eq("role", "registrar"))]
    pub(crate) sources: Vec<String>,
    /// A namespace that a registrar may write in; may repeat [default: all]
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    pub(crate) namespaces: Vec<String>,
    /// Add the entry to this tokens file; it is made where there is none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) append: Option<PathBuf>,
}

/// What the holder of a token may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum RoleArg {
    /// Read everything
    Reader,
    /// Read everything, and write as certain sources
    Registrar,
    /// Everything
    Admin,
}

impl DescribeArgs {
    /// The instance that the arguments name.
    pub(crate) fn instance(&self) -> Result<InstanceName, String> {
        InstanceName::parse(&self.name, self.namespace.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_are_understood() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for good in [
            "fingerpost register prod/web --address 10.0.0.1 --address fd00::1 --port http:8080 -l a=b --health warning",
            "fingerpost register web --address 10.0.0.1 --ttl 15s --grace 2m",
            "fingerpost register web --address 10.0.0.1 -- sleep 5 --x",
            "fingerpost register web --address 10.0.0.1 --wait",
            "fingerpost apply --wait=500ms -f -",
            "fingerpost dns --registry http://a:1,http://b:2 --dns-listen 127.0.0.1:0 --data-dir d --zone a.example",
            "fingerpost session list --state suspect",
            "fingerpost session end 0123",
            "fingerpost deregister web 10.0.0.1:8080 --source api/team",
            "fingerpost get services -l app=web,!test -o json",
            "fingerpost --server http://a:1,http://b:2 get svc prod/web",
            "fingerpost get ns -w",
            "fingerpost drain prod/web/web-1 --note upgrade",
            "fingerpost drain web/web-1 --undo --source api/team",
            "fingerpost check prod/web/web-1 alive --health warning --note slow",
            "fingerpost get instances --health passing,warning --watch",
            "fingerpost describe instance prod/-/web-1",
            "fingerpost resolve _http._tcp.web.prod SRV --dns 127.0.0.1:5300",
            "fingerpost serve --http-listen 127.0.0.1:0 --http-listen [::1]:0 --insecure",
            "fingerpost --insecure serve",
            "fingerpost get services --insecure",
            "fingerpost --insecure=false get services",
            "fingerpost apply -f -",
            "fingerpost completions bash",
            "fingerpost serve --kubernetes --kubeconfig a --context b --kubernetes-lease kube-system/fingerpost",
            "fingerpost listener --registry https://a:8053 --token-file t --kubernetes-namespace-selector a=b",
        ] {
            assert!(parse(good).is_ok(), "{good}: {}", parse(good).unwrap_err());
        }
        for bad in [
            "fingerpost register web",
            "fingerpost register Web --address 10.0.0.1",
            "fingerpost register web --address 10.0.0",
            "fingerpost register web --address 10.0.0.1 --port 0",
            "fingerpost register web --address 10.0.0.1 --source consul",
            "fingerpost register web --address 10.0.0.1 --ttl 15x",
            "fingerpost register web --address 10.0.0.1 --wait=soon",
            "fingerpost get services --wait",
            "fingerpost session",
            "fingerpost get pods",
            "fingerpost drain web",
            "fingerpost drain web/web-1 --undo --note x",
            "fingerpost check web/web-1",
            "fingerpost get services -l =",
            "fingerpost get services -o xml",
            "fingerpost serve --kubernetes-lease fingerpost",
            "fingerpost deregister web a --all",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
