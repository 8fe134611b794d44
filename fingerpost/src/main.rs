//! The one binary of Fingerpost: `serve`, and the commands by which people use a registry.
//!
//! It only wires: flags become configuration or calls, the parts do the work.

mod cli;
mod commands;
mod config;
mod dns;
mod local;
mod names;
mod ops;
mod output;
mod serve;
mod whole;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use cli::{Cli, Command};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// The registry's work is many small objects, made on one thread and dropped on another: what the system's allocator is
/// slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    refuse_client_flags(&matches);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // One TLS stack for all parts, also for those that let rustls choose. Only a second call could fail.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<commands::ExitWith>() {
            Some(exit) => ExitCode::from(exit.0),
            None => {
                report(&error);
                match error.is::<commands::Inconclusive>() || error.is::<commands::NotVisible>() {
                    true => ExitCode::from(2),
                    false => ExitCode::FAILURE,
                }
            }
        },
    }
}

/// `serve` calls nobody. Who gives it the flags of a client most likely means those of the server, and must not find out
/// later that they did nothing. The same from the environment are for the other commands.
fn refuse_client_flags(matches: &ArgMatches) {
    let Some(("serve", serve)) = matches.subcommand() else { return };
    let flags = [
        ("token_file", "--token-file", "--tokens"),
        ("ca", "--ca", "--tls-client-ca (or --peer-ca)"),
        ("cert", "--cert", "--tls-cert"),
        ("key", "--key", "--tls-key"),
    ];
    for (id, flag, meant) in flags {
        if serve.value_source(id) == Some(ValueSource::CommandLine) {
            let message = format!("{flag} is for the commands that call a registry; of `serve`, it is {meant}");
            Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let mut runtime = match &cli.command {
        Command::Serve(_) | Command::Dns(_) | Command::Listener(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    match cli.command {
        Command::Serve(args) => runtime.block_on(serve::run(*args)),
        Command::Dns(args) => runtime.block_on(dns::run(&cli.global, *args)),
        Command::Listener(args) => runtime.block_on(commands::listener::run(&cli.global, *args)),
        command => runtime.block_on(commands::run(&cli.global, command)),
    }
}

/// Whoever read our output has seen enough (`fingerpost get … | head`); that is no fault.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

fn report(error: &anyhow::Error) {
    let mut stderr = std::io::stderr();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let word = if colour { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    // Where not even stderr takes anything, the exit code must do.
    let _ = writeln!(stderr, "{word} {error:#}");
    if let Some(fingerpost_client::Error::Unreachable { .. }) = error.downcast_ref() {
        let _ = writeln!(stderr, "hint: name another registry with --server or FINGERPOST_SERVER");
    }
}
