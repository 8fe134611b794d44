//! What the runtime says by environment variables (SPEC §2, "Parameters").

use crate::error::{CniError, Code};
use std::ffi::OsString;

/// An operation (SPEC §2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// A container got an interface.
    Add,
    /// It loses it.
    Del,
    /// Is all as ADD left it?
    Check,
    /// Could ADD be served?
    Status,
    /// What is not in a list of valid attachments is to be removed.
    Gc,
    /// Which versions are spoken?
    Version,
}

/// The variables, as far as the operation has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`: the path of the network namespace; empty where it is gone.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: Args,
}

/// What of `CNI_ARGS` is of use here. Who else is meant by which key is not known, so unknown keys are ignored, with
/// `IgnoreUnknown` or without, as by plugins that read none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`; of podman, the container's name.
    pub name: String,
    /// `K8S_POD_UID`.
    pub uid: String,
    /// `K8S_POD_INFRA_CONTAINER_ID`: set by runtimes that serve the CRI.
    pub infra: String,
}

impl Args {
    /// Reads `KEY=VALUE;KEY=VALUE`.
    pub fn parse(text: &str) -> Self {
        let mut args = Self::default();
        for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            let field = match key {
                "K8S_POD_NAMESPACE" => &mut args.namespace,
                "K8S_POD_NAME" => &mut args.name,
                "K8S_POD_UID" => &mut args.uid,
                "K8S_POD_INFRA_CONTAINER_ID" => &mut args.infra,
                _ => continue,
            };
            value.clone_into(field);
        }
        args
    }
}

impl Environment {
    /// Reads the variables. None where `CNI_COMMAND` is not set: somebody has started the program by hand.
    ///
    /// # Errors
    ///
    /// A variable that the operation needs is missing or wrong; one that is set and empty is missing.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, CniError> {
        let wrong = |message: String| CniError::new(Code::InvalidEnvironment, message);
        let read = |name: &str| match variable(name).map(OsString::into_string) {
            None => Ok(String::new()),
            Some(Ok(text)) => Ok(text),
            Some(Err(_)) => Err(wrong(format!("{name} is not UTF-8"))),
        };
        let command = match read("CNI_COMMAND")?.as_str() {
            "" => return Ok(None),
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "STATUS" => Command::Status,
            "GC" => Command::Gc,
            "VERSION" => Command::Version,
            other => return Err(wrong(format!("unknown CNI_COMMAND: {}", other.escape_debug()))),
        };
        let mut environment = Self {
            command,
            container_id: String::new(),
            netns: String::new(),
            interface: String::new(),
            args: Args::default(),
        };
        if !matches!(command, Command::Add | Command::Del | Command::Check) {
            return Ok(Some(environment));
        }
        environment.container_id = read("CNI_CONTAINERID")?;
        environment.interface = read("CNI_IFNAME")?;
        // Arguments that can't be read must not keep a container from being removed.
        environment.args = Args::parse(&read("CNI_ARGS").unwrap_or_default());
        environment.netns = match command {
            Command::Del => read("CNI_NETNS").unwrap_or_default(),
            _ => read("CNI_NETNS")?,
        };
        let needed = [
            ("CNI_CONTAINERID", &environment.container_id),
            ("CNI_NETNS", &environment.netns),
            ("CNI_IFNAME", &environment.interface),
        ];
        let missing: Vec<&str> = needed
            .into_iter()
            .filter(|(name, value)| value.is_empty() && !(*name == "CNI_NETNS" && command == Command::Del))
            .map(|(name, _)| name)
            .collect();
        if !missing.is_empty() {
            return Err(wrong(format!("required env variables [{}] missing", missing.join(","))));
        }
        check_name("CNI_CONTAINERID", &environment.container_id)?;
        check_interface(&environment.interface)?;
        Ok(Some(environment))
    }
}

/// Whether a text is what the specification takes for a container's id or a network's name: a letter or digit, then
/// letters, digits, `_`, `.` and `-`.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

/// The longest id or name. The specification has no limit; file systems that keep results by it have.
pub const MAX_NAME: usize = 253;

fn check_name(variable: &str, value: &str) -> Result<(), CniError> {
    if is_name(value) && value.len() <= MAX_NAME {
        return Ok(());
    }
    let message = format!("{variable}: invalid characters in `{}`, or more than {MAX_NAME}", shortened(value));
    Err(CniError::new(Code::InvalidEnvironment, message))
}

/// The names that Linux gives to interfaces: 1 to 15 octets, without `/`, `:` and spaces, neither `.` nor `..`.
fn check_interface(name: &str) -> Result<(), CniError> {
    let wrong = if name.len() > 15 {
        "more than 15 characters"
    } else if matches!(name, "." | "..") {
        "it is . or .."
    } else if name.contains(['/', ':']) || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        "it contains / or : or a space"
    } else {
        return Ok(());
    };
    let message = format!("CNI_IFNAME: `{}` is no interface name: {wrong}", shortened(name));
    Err(CniError::new(Code::InvalidEnvironment, message))
}

/// So much of a text as an error should repeat.
pub(crate) fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}
