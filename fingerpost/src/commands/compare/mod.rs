//! `compare`: asks two name servers for all names of a cluster, ours and the one that it is to replace.
//!
//! The names come from the registry and, so that what it lacks does not go unasked, from the cluster's API server.
//!
//! Clusters change while they are compared, and each server learns of it in its own time. So what differs is asked again,
//! and counts only if it stays.

mod names;
mod report;

use super::names::{dns_address, parse_dns};
use super::resolve::{dns_status, lookup};
use super::{Context, ExitWith, Inconclusive};
use crate::cli::CompareArgs;
use anyhow::{Context as _, anyhow, bail};
use fingerpost_dns::compare::{Outcome, Question, compare};
use fingerpost_dns::query::{self, QueryError};
use fingerpost_listener::{Cluster, ConnectError, Survey};
use futures_util::{StreamExt, stream};
use names::Names;
use report::{From, Report};
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

/// Compares; the end says whether the servers differ (1), or that it can't be said (2).
pub(super) async fn run(context: &Context, args: CompareArgs) -> anyhow::Result<()> {
    let report = compared(context, args).await.map_err(|error| error.context(Inconclusive("can't compare")))?;
    context.output.value(&report, || report.human(context.output.colour))?;
    match report.exit_code() {
        0 => Ok(()),
        code => Err(ExitWith(code).into()),
    }
}

/// What the API server has; none where there is no way to one, and nobody named one.
async fn survey(context: &Context, args: &CompareArgs) -> anyhow::Result<Option<Survey>> {
    if args.registry_only {
        return Ok(None);
    }
    let cluster = Cluster { kubeconfig: args.kubeconfig.clone(), context: args.context.clone() };
    let config = match cluster.config().await {
        Err(ConnectError::NoCluster(_)) => return Ok(None),
        config => config?,
    };
    let survey = Survey::read(config).await.context(
        "can't read the cluster's names from its API server (--registry-only asks for those that the registry knows)",
    )?;
    if let Some(trouble) = &survey.without_pods {
        context.output.note(&format!("names of pods are those of endpoints only: {trouble}"));
    }
    for object in &survey.unreadable {
        context.output.note(&format!("{object} can't be read, and is not asked for"));
    }
    Ok(Some(survey))
}

async fn compared(context: &Context, args: CompareArgs) -> anyhow::Result<Report> {
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

    let zones = match args.zone.is_empty() {
        true => std::iter::once(&status.zone).chain(&status.aliases).cloned().collect(),
        false => args.zone.clone(),
    };
    let mut names = Names::read(context, &status).await?;
    let from = match survey(context, &args).await? {
        None => From { registry: names.own_services(), kubernetes: None },
        Some(survey) => {
            let services = survey.services.len();
            names.add_cluster(survey);
            From { registry: names.own_services(), kubernetes: Some(services) }
        }
    };
    if from.registry + from.kubernetes.unwrap_or_default() == 0 {
        let own = names.own();
        bail!(
            "nothing is known of the cluster: the registry has no service of {own}. Does a listener with this cluster's name \
             (--cluster-name) write to it? With --kubeconfig, names come from the cluster itself, too"
        );
    }
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

    let mut report = Report::new(servers.ours, servers.theirs, from, known);
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
    Ok(report)
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
