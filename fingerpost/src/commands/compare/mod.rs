//! `compare`: asks two name servers for all names of a cluster, ours and the one that it is to replace.
//!
//! Clusters change while they are compared, and each server learns of it in its own time. So what differs is asked again,
//! and counts only if it stays.

mod names;
mod report;

use super::names::{dns_address, parse_dns};
use super::resolve::{dns_status, lookup};
use super::{Context, ExitWith};
use crate::cli::CompareArgs;
use anyhow::{Context as _, anyhow};
use fingerpost_dns::compare::{Outcome, Question, compare};
use fingerpost_dns::query::{self, QueryError};
use futures_util::{StreamExt, stream};
use names::Names;
use report::Report;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Questions under way at a time.
const PARALLEL: usize = 32;
/// How long one answer may take; a lost packet is sent again after half of it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a question is asked of a server that does not answer.
const ATTEMPTS: usize = 3;
/// How long to wait until what differs is asked again, and how often that is done.
const SETTLE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// How often to tell how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// Whom to ask.
#[derive(Clone, Copy)]
struct Servers {
    ours: SocketAddr,
    theirs: SocketAddr,
}

/// What came of a question.
enum Asked {
    Compared(Outcome),
    Unanswered(QueryError),
}

impl Asked {
    fn may_settle(&self) -> bool {
        matches!(self, Asked::Compared(Outcome::Different(_)) | Asked::Unanswered(_))
    }
}

pub(super) async fn run(context: &Context, args: CompareArgs) -> anyhow::Result<()> {
    let status = dns_status(context).await?;
    let server = |text: &str| {
        parse_dns(text).ok_or_else(|| anyhow!("`{text}` is no address of a name server: write IP or IP:PORT"))
    };
    let (host, port) = match &args.dns {
        Some(text) => server(text)?,
        None => dns_address(&status, context.registry.host())
            .context("the registry does not say where its DNS server listens: name it with --dns")?,
    };
    let ours = lookup(&host, port).await?;
    let (host, port) = server(&args.against)?;
    let servers = Servers { ours, theirs: lookup(&host, port).await? };

    let zones = if args.zone.is_empty() { vec![status.zone.clone()] } else { args.zone.clone() };
    let names = Names::read(context, &status).await?;
    let mut questions = names.questions(&zones);
    let known = questions.len();
    if let Some(limit) = args.limit.filter(|&limit| limit < known) {
        // From the whole of it, not from the beginning.
        let kept = (0..limit).map(|n| n * known / limit);
        questions = kept.filter_map(|at| questions.get(at).cloned()).collect();
    }
    context.output.note(&format!(
        "asking {} and {} for {} of {known} names and types",
        ours,
        servers.theirs,
        questions.len()
    ));

    let mut report = Report::new(servers.ours, servers.theirs, known);
    let mut rest = ask_all(context, servers, questions).await;
    for pause in SETTLE {
        let (open, settled): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(_, asked)| asked.may_settle());
        settled.into_iter().for_each(|(question, asked)| report.add(question, asked));
        rest = if open.is_empty() {
            Vec::new()
        } else {
            context.output.note(&format!("{} differ; asking again", open.len()));
            tokio::time::sleep(pause).await;
            ask_all(context, servers, open.into_iter().map(|(question, _)| question).collect()).await
        };
    }
    rest.into_iter().for_each(|(question, asked)| report.add(question, asked));
    report.finish();
    context.output.value(&report, || report.human(context.output.colour))?;
    if report.agree() { Ok(()) } else { Err(ExitWith(1).into()) }
}

async fn ask_all(context: &Context, servers: Servers, questions: Vec<Question>) -> Vec<(Question, Asked)> {
    let total = questions.len();
    let mut answers = stream::iter(questions)
        .map(|question| async move {
            let asked = ask_both(servers, &question).await;
            (question, asked)
        })
        .buffer_unordered(PARALLEL);
    let mut all = Vec::with_capacity(total);
    let mut told = Instant::now();
    while let Some(answer) = answers.next().await {
        all.push(answer);
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            context.output.note(&format!("{} of {total} asked", all.len()));
        }
    }
    all
}

async fn ask_both(servers: Servers, question: &Question) -> Asked {
    // Side by side, so that both are seen at about one time.
    let (ours, theirs) = tokio::join!(ask(servers.ours, question), ask(servers.theirs, question));
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => Asked::Compared(compare(question, &ours, &theirs)),
        (Err(error), _) | (_, Err(error)) => Asked::Unanswered(error),
    }
}

async fn ask(server: SocketAddr, question: &Question) -> Result<query::Reply, QueryError> {
    let mut attempt = 1;
    loop {
        match query::query(server, &question.name, question.qtype, PATIENCE).await {
            Err(QueryError::Timeout { .. } | QueryError::Network { .. }) if attempt < ATTEMPTS => attempt += 1,
            done => return done,
        }
    }
}
