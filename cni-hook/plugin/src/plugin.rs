//! The operations.

use crate::addresses;
use crate::agent::{self, AskError};
use crate::config::{NetworkConfig, said_version};
use crate::environment::{Command, Environment};
use crate::error::{CniError, Code};
use crate::intent::{Attached, AttachmentKey, Gone, Intent, PodArgs, Reply, Valid};
use crate::result::pass_on;
use crate::settings::{OnError, Settings};
use crate::{spool, time, version};
use serde_json::value::RawValue;
use std::ffi::OsString;
use std::io;
use std::time::Instant;

/// The largest configuration, in octets. Runtimes send a few kilobytes.
pub const MAX_CONFIG: u64 = 1 << 20;

/// What a run of the plugin leaves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// The result, or the error; may be empty.
    pub stdout: String,
    /// For the runtime's log.
    pub stderr: Option<String>,
    /// Whether the exit status says so.
    pub failed: bool,
}

/// Does what the environment says; `input` gives standard input.
pub fn run(variable: impl Fn(&str) -> Option<OsString>, input: impl FnOnce() -> io::Result<Vec<u8>>) -> Outcome {
    let started = Instant::now();
    let environment = match Environment::read(variable) {
        Ok(Some(environment)) => environment,
        Ok(None) => {
            let about = format!(
                "fingerpost-cni {}: a chained CNI plugin that makes pods known by name\nCNI protocol versions supported: {}",
                env!("CARGO_PKG_VERSION"),
                version::Version::ALL.map(version::Version::as_str).join(", ")
            );
            return Outcome { stderr: Some(about), ..Outcome::default() };
        }
        Err(error) => return failure(&error, version::Version::V110.as_str()),
    };
    if environment.command == Command::Version {
        // Its input is not read: there may be none, and nobody who closes it.
        return Outcome { stdout: version::reply(), ..Outcome::default() };
    }
    let input = match input() {
        Ok(input) if input.len() as u64 <= MAX_CONFIG => input,
        Ok(_) => {
            let error =
                CniError::new(Code::Decode, format!("the network configuration is larger than {MAX_CONFIG} octets"));
            return failure(&error, version::Version::V110.as_str());
        }
        Err(error) => {
            let error = CniError::new(Code::Io, "standard input can't be read").details(error.to_string());
            return failure(&error, version::Version::V110.as_str());
        }
    };
    match operate(&environment, &input, started) {
        Ok(outcome) => outcome,
        Err(error) => failure(&error, &said_version(&input)),
    }
}

fn failure(error: &CniError, version: &str) -> Outcome {
    Outcome { stdout: error.document(version), stderr: None, failed: true }
}

fn operate(environment: &Environment, input: &[u8], started: Instant) -> Result<Outcome, CniError> {
    let config = NetworkConfig::parse(input, environment)?;
    let settings = match environment.command {
        // A setting that went wrong must not keep containers from being removed.
        Command::Del | Command::Gc => Settings::parse_lenient(input),
        _ => Settings::parse(input)?,
    };
    let call = Call { environment, config: &config, settings: &settings, started };
    match environment.command {
        Command::Add => call.add(),
        Command::Del => Ok(call.del()),
        Command::Check => call.check(),
        Command::Status => call.status(),
        Command::Gc => Ok(call.gc()),
        Command::Version => Ok(Outcome::default()),
    }
}

struct Call<'a> {
    environment: &'a Environment,
    config: &'a NetworkConfig<'a>,
    settings: &'a Settings,
    started: Instant,
}

/// What the agent made of an intent.
enum Told {
    Taken,
    Refused(String),
    Away(AskError),
}

impl Call<'_> {
    fn key(&self) -> AttachmentKey {
        AttachmentKey {
            network: self.config.name.clone(),
            container_id: self.environment.container_id.clone(),
            interface: self.environment.interface.clone(),
        }
    }

    fn tell(&self, intent: &Intent) -> Told {
        match agent::ask(&self.settings.socket, intent, self.started + self.settings.timeout) {
            Ok(Reply { refused: None }) => Told::Taken,
            Ok(Reply { refused: Some(why) }) => Told::Refused(why),
            Err(error) => Told::Away(error),
        }
    }

    fn is_exempt(&self) -> bool {
        self.settings.exempt_namespaces.contains(&self.environment.args.namespace)
    }

    fn previous(&self) -> Result<&RawValue, CniError> {
        self.config.prev_result.ok_or_else(|| {
            CniError::new(
                Code::InvalidConfig,
                "required prevResult missing: fingerpost-cni must be called as chained plugin",
            )
        })
    }

    fn attached(&self, at: u64, result: &RawValue) -> Box<Attached> {
        let args = self.environment.args.clone();
        let mut labels = self.config.labels();
        labels.extend(self.settings.labels.clone());
        Box::new(Attached {
            key: self.key(),
            at,
            netns: self.environment.netns.clone(),
            addresses: addresses::of(result, &self.environment.interface),
            pod: PodArgs { namespace: args.namespace, name: args.name, uid: args.uid, infra: args.infra },
            aliases: self.config.aliases(),
            labels,
            namespace: self.settings.namespace.clone(),
            services: self.settings.services.clone(),
            ports: self.settings.ports.clone(),
        })
    }

    /// SPEC §2, "ADD".
    fn add(&self) -> Result<Outcome, CniError> {
        let previous = self.previous()?;
        let result = pass_on(previous, self.config.version)?;
        if self.is_exempt() {
            return Ok(Outcome { stdout: result, ..Outcome::default() });
        }
        let at = now();
        let intent = Intent::Add(self.attached(at, previous));
        let trouble = match self.tell(&intent) {
            Told::Taken => None,
            Told::Refused(why) if self.settings.on_error == OnError::Closed => {
                return Err(CniError::new(Code::InvalidConfig, format!("the node agent refuses this pod: {why}")));
            }
            Told::Refused(why) => Some(format!("the node agent refuses this pod, which gets no name: {why}")),
            Told::Away(error) if self.settings.on_error == OnError::Closed => {
                return Err(CniError::new(Code::TryAgainLater, error.to_string())
                    .details("onError is closed: pods wait for the agent; start it, or set onError to open"));
            }
            Told::Away(error) => Some(self.lay_by(at, &intent, &error)),
        };
        Ok(Outcome { stdout: result, stderr: trouble, failed: false })
    }

    /// SPEC §2, "DEL". An error of ours would keep the plugins before us from being called, and the pod from ending.
    fn del(&self) -> Outcome {
        if self.is_exempt() {
            return Outcome::default();
        }
        let at = now();
        let intent = Intent::Del(Gone { key: self.key(), at });
        let trouble = match self.tell(&intent) {
            Told::Taken => None,
            Told::Refused(why) => Some(format!("the node agent refuses to forget this pod: {why}")),
            Told::Away(error) => Some(self.lay_by(at, &intent, &error)),
        };
        Outcome { stderr: trouble, ..Outcome::default() }
    }

    /// SPEC §2, "CHECK". Some runtimes call it right after ADD, and an error is the end of the pod.
    fn check(&self) -> Result<Outcome, CniError> {
        let previous = self.previous()?;
        if self.is_exempt() {
            return Ok(Outcome::default());
        }
        match (self.tell(&Intent::Check(self.attached(now(), previous))), self.settings.on_error) {
            (Told::Taken, _) => Ok(Outcome::default()),
            (Told::Refused(why), OnError::Closed) => {
                Err(CniError::new(Code::InvalidConfig, format!("the node agent refuses this pod: {why}")))
            }
            (Told::Away(error), OnError::Closed) => Err(CniError::new(Code::TryAgainLater, error.to_string())),
            (Told::Refused(why), OnError::Open) => Ok(Outcome { stderr: Some(why), ..Outcome::default() }),
            (Told::Away(error), OnError::Open) => Ok(Outcome { stderr: Some(error.to_string()), ..Outcome::default() }),
        }
    }

    /// SPEC §2, "STATUS". A failure makes the node not ready, so it is one only where pods could not start.
    fn status(&self) -> Result<Outcome, CniError> {
        match (self.tell(&Intent::Status), self.settings.on_error) {
            (Told::Taken, _) => Ok(Outcome::default()),
            (Told::Away(error), OnError::Closed) => Err(CniError::new(Code::NotAvailable, error.to_string())
                .details("onError is closed, so no pod can start until the agent is back")),
            (Told::Refused(why), OnError::Closed) => Err(CniError::new(Code::NotAvailable, why)),
            (Told::Away(error), OnError::Open) => Ok(Outcome { stderr: Some(error.to_string()), ..Outcome::default() }),
            (Told::Refused(why), OnError::Open) => Ok(Outcome { stderr: Some(why), ..Outcome::default() }),
        }
    }

    /// SPEC §2, "GC". Where the agent is away, it finds out by itself later what is gone.
    fn gc(&self) -> Outcome {
        let Some(attachments) = self.config.valid_attachments.clone() else {
            // Without a list, nothing is known to be gone.
            return Outcome {
                stderr: Some("GC without cni.dev/valid-attachments removes nothing".to_owned()),
                ..Outcome::default()
            };
        };
        let valid = Valid { network: self.config.name.clone(), at: now(), attachments };
        let trouble = match self.tell(&Intent::Gc(valid)) {
            Told::Taken => None,
            Told::Refused(why) => Some(why),
            Told::Away(error) => Some(error.to_string()),
        };
        Outcome { stderr: trouble, ..Outcome::default() }
    }

    /// Lays an intent by for an agent that is away. Says what to tell the runtime's log.
    fn lay_by(&self, at: u64, intent: &Intent, error: &AskError) -> String {
        let folder = self.settings.spool();
        match spool::put(&folder, at, intent) {
            Ok(()) => format!("{error}; laid by in {} until it is back", folder.display()),
            Err(failed) => format!(
                "{error}; it can't be laid by in {} either: {failed}; the agent will find out when it compares with the runtime",
                folder.display()
            ),
        }
    }
}

fn now() -> u64 {
    u64::try_from(time::since_boot().as_nanos()).unwrap_or(u64::MAX)
}
