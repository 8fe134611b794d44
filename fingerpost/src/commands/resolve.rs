//! `resolve`: asks the DNS server itself, over the network like everybody else.

use super::Context;
use super::names::{checked, complete, dns_address, is_absolute, parse_dns};
use crate::cli::ResolveArgs;
use crate::output::{Cell, Style};
use anyhow::{Context as _, anyhow, bail};
use fingerpost_client::DnsStatus;
use fingerpost_dns::query::{Line, Reply, query};
use serde::Serialize;
use std::net::SocketAddr;

/// One question with its answer.
#[derive(Serialize)]
struct Answered<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    record_type: &'a str,
    #[serde(flatten)]
    reply: &'a Reply,
}

pub(super) async fn resolve(context: &Context, args: ResolveArgs) -> anyhow::Result<()> {
    checked(&args.name).map_err(|error| anyhow!(error))?;
    // With a server and a whole name given, nothing needs to be asked of the registry: it may be down.
    let status = if args.dns.is_some() && is_absolute(&args.name) { None } else { Some(dns_status(context).await?) };
    let zone = status.as_ref().map_or("", |status| status.zone.as_str());
    let question = complete(&args.name, &args.namespace, zone);
    let (host, port) = match (&args.dns, &status) {
        (Some(text), _) => {
            parse_dns(text).ok_or_else(|| anyhow!("`{text}` is no address of a name server: write IP or IP:PORT"))?
        }
        (None, Some(status)) => dns_address(status, context.registry.host())
            .context("the registry does not say where its DNS server listens: name it with --dns")?,
        (None, None) => bail!("name a DNS server with --dns"),
    };
    let server = lookup(&host, port).await?;

    let given = args.record_type.as_deref().map(str::to_ascii_uppercase);
    let types: Vec<&str> = given.as_deref().map_or_else(|| question.types.to_vec(), |given| vec![given]);
    let mut replies = Vec::new();
    for record_type in &types {
        let reply = query(server, &question.name, record_type, context.timeout).await;
        replies.push(reply?);
    }

    let name = question.name.as_str();
    let list: Vec<Answered<'_>> =
        types.iter().zip(&replies).map(|(record_type, reply)| Answered { name, record_type, reply }).collect();
    context.output.value(&list, || human(&list, server, context.output.colour))?;
    if replies.iter().all(|reply| reply.answers.is_empty()) {
        // What `explain` is to look at; alone, it takes the first of the usual types.
        let explain = given.as_deref().map_or_else(|| name.to_owned(), |given| format!("{name} {given}"));
        let types = types.join(" or ");
        match replies.first().map_or("", |reply| reply.rcode.as_str()) {
            "NOERROR" => bail!("{name} has no records of type {types}; why: fingerpost explain {explain}"),
            rcode => bail!("{server} answers {rcode} for {name}; why: fingerpost explain {explain}"),
        }
    }
    Ok(())
}

/// What the registry says of its DNS server.
pub(super) async fn dns_status(context: &Context) -> anyhow::Result<DnsStatus> {
    let status = context.registry.status().await.context("can't ask the registry for its zone and DNS server")?;
    status.dns.context("the registry runs no DNS server: name one with --dns, and a whole name with a dot at its end")
}

pub(super) async fn lookup(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host((host, port)).await;
    found.ok().and_then(|mut found| found.next()).with_context(|| format!("the DNS server `{host}` has no address"))
}

fn human(list: &[Answered<'_>], server: SocketAddr, colour: bool) -> String {
    let types: Vec<&str> = list.iter().map(|answered| answered.record_type).collect();
    let name = list.first().map_or("", |answered| answered.name);
    let asked = format!("; {name} {} of {server}", types.join(" and "));
    let mut out = format!("{}\n", Cell::styled(asked, Style::Dim).paint(colour));
    for (n, answered) in list.iter().enumerate() {
        // An alias answers every type with the same record.
        let before: Vec<&Line> = list[..n].iter().flat_map(|answered| &answered.reply.answers).collect();
        let new = answered.reply.answers.iter().filter(|line| !before.contains(line));
        lines(&mut out, new, None, colour);
        if answered.reply.truncated {
            out.push_str("; the answer is cut: there are more records than fit\n");
        }
    }
    for answered in list {
        lines(&mut out, &answered.reply.additionals, Some(Style::Dim), colour);
    }
    if list.iter().all(|answered| answered.reply.answers.is_empty()) {
        for answered in list.iter().take(1) {
            lines(&mut out, &answered.reply.authorities, Some(Style::Dim), colour);
        }
    }
    let footer: Vec<String> = list.iter().map(|answered| footer(answered.record_type, answered.reply)).collect();
    out.push_str(&format!("{}\n", Cell::styled(format!("; {}", footer.join("; ")), Style::Dim).paint(colour)));
    out
}

fn lines<'a>(out: &mut String, lines: impl IntoIterator<Item = &'a Line>, style: Option<Style>, colour: bool) {
    for line in lines {
        let cell = match style {
            Some(style) => Cell::styled(line.to_string(), style),
            None => Cell::new(line.to_string()),
        };
        out.push_str(&cell.paint(colour));
        out.push('\n');
    }
}

fn footer(record_type: &str, reply: &Reply) -> String {
    let transport = if reply.tcp { "TCP" } else { "UDP" };
    format!("{record_type}: {}, {} bytes in {:.1} ms over {transport}", reply.rcode, reply.size, reply.milliseconds)
}
