//! Sessions: registrations that are kept while this runs, or while a command does; listing them, and ending them.

use super::wait::write;
use super::{Context, ExitWith};
use crate::cli::{SessionListArgs, SessionStateArg, WaitArgs};
use crate::output::{Cell, Format, Style, Table};
use anyhow::{Context as _, anyhow};
use fingerpost_catalog::SessionState;
use fingerpost_catalog::document::{InstanceDocument, ProtectionDocument, SessionDocument};
use fingerpost_client::{HttpRegistry, Keeper, KeeperOptions, Registry, SessionRequest};
use serde::Serialize;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Sessions a page.
const PAGE: u32 = 1000;

/// The signals that end this program.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            // The terminal is gone: an end as any other.
            _ = self.hangup.recv() => SignalKind::terminate(),
        }
    }
}

/// Registers an instance on a session of its own, and keeps it until a signal comes, or until the command ends.
pub(super) async fn keep(
    context: &Context,
    options: KeeperOptions,
    instance: InstanceDocument,
    command: Vec<OsString>,
) -> anyhow::Result<()> {
    // From here on, a signal is no end without a word.
    let mut signals = Signals::new()?;
    let name = options.session.name.clone();
    // First of all, so that one that can't be run registers nothing. Dropped with an error below, it is killed.
    let mut child = match command.split_first() {
        Some((program, arguments)) => Some(
            Command::new(program)
                .args(arguments)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("can't run `{}`", program.to_string_lossy()))?,
        ),
        None => None,
    };
    let started = tokio::select! {
        started = Keeper::start(Arc::new(context.registry.clone()), options) => started,
        // Should the session have begun already, it expires.
        received = signals.next() => return give_up(child.as_mut(), &mut signals, received).await,
    };
    let keeper = started.with_context(|| format!("can't begin a session for {name}"))?;
    let outcome = keep_session(context, &keeper, &mut signals, &name, instance, child).await;
    // Whatever happened, nobody should have to wait for the session to expire.
    let ended = keeper.end().await;
    match (outcome, ended) {
        (Err(error), _) => Err(error),
        (Ok(()), Ok(())) => Ok(()),
        (Ok(()), Err(error)) => Err(error).with_context(|| format!("can't end the session of {name}")),
    }
}

async fn keep_session(
    context: &Context,
    keeper: &Keeper,
    signals: &mut Signals,
    name: &str,
    instance: InstanceDocument,
    mut child: Option<Child>,
) -> anyhow::Result<()> {
    let registered = tokio::select! {
        registered = keeper.put(instance) => registered.with_context(|| format!("can't register {name}"))?,
        received = signals.next() => return give_up(child.as_mut(), signals, received).await,
    };
    let mut watch = keeper.watch();
    let session = watch.borrow_and_update().session.clone();
    let trouble = async {
        let mut generation = 1;
        while watch.changed().await.is_ok() {
            let keeping = watch.borrow_and_update().clone();
            if std::mem::replace(&mut generation, keeping.generation) != keeping.generation {
                context
                    .output
                    .note(&format!("the registry had forgotten {name}: registered again on {}", keeping.session));
            }
            if let Some(trouble) = keeping.trouble {
                context.output.note(&format!("can't renew {name} now, trying again: {trouble}"));
            }
        }
        std::future::pending::<()>().await;
    };
    let Some(mut child) = child else {
        context.output.value(&registered, || {
            format!("registered {name} on session {session}; it is kept until this is interrupted\n")
        })?;
        tokio::select! {
            _ = signals.next() => {}
            () = trouble => {}
        }
        context.output.note(&format!("deregistering {name}"));
        return Ok(());
    };
    // Standard output is the command's.
    context.output.note(&format!("registered {name} on session {session}"));
    let status = tokio::select! {
        status = run(&mut child, signals) => status?,
        () = trouble => return Err(anyhow!("unreachable: troubles never end")),
    };
    ended(status)
}

/// A signal has come before the registration stood: a command that runs already is ended as it would be later.
async fn give_up(child: Option<&mut Child>, signals: &mut Signals, received: SignalKind) -> anyhow::Result<()> {
    let Some(child) = child else { return Ok(()) };
    pass_on(child, received);
    ended(run(child, signals).await?)
}

/// The command's end is this program's.
fn ended(status: ExitStatus) -> anyhow::Result<()> {
    match exit_code(status) {
        0 => Ok(()),
        code => Err(ExitWith(code).into()),
    }
}

/// Runs a command to its end, passing signals on to it.
async fn run(child: &mut Child, signals: &mut Signals) -> anyhow::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            received = signals.next() => pass_on(child, received),
        }
    }
}

fn pass_on(child: &Child, received: SignalKind) {
    let signal = match received == SignalKind::terminate() {
        true => rustix::process::Signal::TERM,
        // A terminal interrupts the whole group, the command included.
        false if std::io::stdin().is_terminal() => return,
        false => rustix::process::Signal::INT,
    };
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended just now, which whoever waits for it finds out.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The exit code as shells have it: 128 and the signal's number for who was killed.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(1)
}

pub(super) async fn list(context: &Context, args: SessionListArgs) -> anyhow::Result<()> {
    let state = args.state.map(|state| match state {
        SessionStateArg::Alive => SessionState::Alive,
        SessionStateArg::Suspect => SessionState::Suspect,
        SessionStateArg::Expired => SessionState::Expired,
    });
    let mut request =
        SessionRequest { name: args.name, source: args.source, state, limit: Some(PAGE), continue_token: None };
    #[derive(Serialize)]
    struct Items {
        protection: ProtectionDocument,
        items: Vec<SessionDocument>,
    }
    let mut all = Items { protection: ProtectionDocument::default(), items: Vec::new() };
    loop {
        let page = context.registry.list_sessions(request.clone()).await.context("can't list sessions")?;
        all.protection = page.protection;
        all.items.extend(page.items);
        match page.continue_token {
            Some(token) => request.continue_token = Some(token),
            None => break,
        }
    }
    if all.protection.active {
        let held = super::status::counted(all.protection.held, "overdue session");
        context.output.note(&format!("protection is active: {held} held, as so many stopped renewing at once"));
    }
    if all.items.is_empty() && matches!(context.output.format, Format::Table | Format::Wide) {
        context.output.note("no sessions");
        return Ok(());
    }
    context.output.value(&all, || table(&all.items, context.output.wide()).render(context.output.colour))
}

fn table(sessions: &[SessionDocument], wide: bool) -> Table {
    let mut headers = vec!["ID", "NAME", "STATE", "TTL", "GRACE", "INSTANCES", "SOURCE"];
    headers.extend(["SINCE", "OWNER", "HOME", "REVISION"].into_iter().filter(|_| wide));
    let mut table = Table::new(headers);
    for session in sessions {
        let (state, style) = match session.state {
            SessionState::Alive => ("alive", Style::Good),
            SessionState::Suspect => ("suspect", Style::Warn),
            SessionState::Expired => ("expired", Style::Bad),
        };
        let name = if session.name.is_empty() { "-" } else { &session.name };
        let mut row = vec![
            Cell::new(&session.id),
            Cell::new(name),
            Cell::styled(state, style),
            Cell::new(format!("{}s", session.ttl_seconds)),
            Cell::new(format!("{}s", session.grace_seconds)),
            Cell::new(session.instances.to_string()),
            Cell::new(session.source.as_str()),
        ];
        if wide {
            row.extend([
                Cell::option(session.since.as_ref()),
                Cell::option(session.owner.as_ref()),
                Cell::option(session.home.as_ref()),
                Cell::option(Some(session.revision)),
            ]);
        }
        table.push(row);
    }
    table
}

pub(super) async fn end(context: &Context, id: &str, wait: WaitArgs) -> anyhow::Result<()> {
    let end = async |registry: HttpRegistry| registry.end_session(id).await;
    let (ended, seen) = write(context, wait, end).await.with_context(|| format!("can't end session {id}"))?;
    context.output.value(&ended, || {
        let instances = super::status::counted(ended.instances, "instance");
        format!("ended session {id} and {instances} at {}\n", ended.revision)
    })?;
    seen.tell(&context.output)
}
