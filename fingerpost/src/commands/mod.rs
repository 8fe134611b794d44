//! The commands by which people use a registry. Each is a thin layer: arguments in, calls of the client library, and
//! what came of them printed.

mod apply;
mod compare;
mod describe;
mod explain;
mod follow;
mod get;
mod health;
pub(crate) mod listener;
mod names;
mod register;
mod resolve;
mod rows;
mod session;
mod source;
mod status;
pub(crate) mod target;
mod token;
mod transfer;
mod wait;

pub(crate) use wait::NotVisible;

use crate::cli::{Cli, Command, GlobalArgs, SessionCommand};
use crate::output::Output;
use clap::CommandFactory;
use fingerpost_client::{HttpOptions, HttpRegistry, Token};
use std::time::Duration;

/// A command that ran another one ends with its exit code.
#[derive(Debug)]
pub(crate) struct ExitWith(pub(crate) u8);

impl std::fmt::Display for ExitWith {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the command ended with status {}", self.0)
    }
}

impl std::error::Error for ExitWith {}

/// A command that was to find something out can't: it ends with 2, since 1 is an answer. Says what it can't.
#[derive(Debug)]
pub(crate) struct Inconclusive(pub(crate) &'static str);

impl std::fmt::Display for Inconclusive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Inconclusive {}

/// What every command has at hand.
struct Context {
    registry: HttpRegistry,
    output: Output,
    /// How long a call may take.
    timeout: Duration,
}

/// What messages call the file that a command reads from or writes to.
fn file_name(path: &std::path::Path) -> String {
    match path.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// Runs any command but `serve`.
pub(crate) async fn run(global: &GlobalArgs, command: Command) -> anyhow::Result<()> {
    let output = Output::new(global.output, global.color);
    // What needs no registry must not fail for what leads to one.
    match command {
        Command::Token(command) => return token::run(&output, command),
        Command::Completions { shell } => return completions(&output, shell),
        _ => {}
    }
    let mut options = http_options(global);
    // Somebody waits at the terminal: better a clear word soon than patience.
    options.attempts = 2;
    let context = Context {
        registry: HttpRegistry::with_options(&global.server, options).map_err(with_way_out)?,
        output,
        timeout: Duration::from_secs(global.timeout),
    };
    match command {
        Command::Serve(_)
        | Command::Dns(_)
        | Command::Listener(_)
        | Command::Token(_)
        | Command::Completions { .. } => {
            anyhow::bail!("not a command for a registry that runs already")
        }
        Command::Register(args) => register::register(&context, *args).await,
        Command::Deregister(args) => register::deregister(&context, args).await,
        Command::Drain(args) => health::drain(&context, args).await,
        Command::Check(args) => health::check(&context, args).await,
        Command::Session(SessionCommand::List(args)) => session::list(&context, args).await,
        Command::Session(SessionCommand::End { id, wait }) => session::end(&context, &id, wait).await,
        Command::Get(args) => get::get(&context, args).await,
        Command::Describe(args) => describe::describe(&context, args).await,
        Command::Resolve(args) => resolve::resolve(&context, args).await,
        Command::Explain(args) => explain::explain(&context, args).await,
        Command::Compare(args) => compare::run(&context, args).await,
        Command::Apply(args) => apply::apply(&context, args).await,
        Command::Export(args) => transfer::export(&context, args).await,
        Command::Import(args) => transfer::import(&context, args).await,
        Command::Source(command) => source::source(&context, command).await,
        Command::Status => status::status(&context).await,
        Command::Migrate => status::migrate(&context).await,
        Command::Version => status::version(&context).await,
    }
}

/// How the registry is reached, by the flags that all commands have.
pub(crate) fn http_options(global: &GlobalArgs) -> HttpOptions {
    let mut options = HttpOptions::default();
    options.timeout = Duration::from_secs(global.timeout);
    options.user_agent = concat!("fingerpost/", env!("CARGO_PKG_VERSION")).to_owned();
    options.token = global.token_file.clone().map(Token::from_file);
    options.ca = global.ca.clone();
    options.cert = global.cert.clone();
    options.key = global.key.clone();
    options.allow_insecure = global.insecure.unwrap_or(false);
    options
}

/// The library can't name a flag.
pub(crate) fn with_way_out(error: fingerpost_client::Error) -> anyhow::Error {
    match &error {
        fingerpost_client::Error::ClearText { .. } => anyhow::anyhow!("{error}, or accept it with --insecure"),
        _ => error.into(),
    }
}

fn completions(output: &Output, shell: clap_complete::Shell) -> anyhow::Result<()> {
    // Into memory first: clap_complete panics where a pipe is closed early.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fingerpost", &mut script);
    Ok(output.text(&String::from_utf8_lossy(&script))?)
}
