//! `explain`: why a name answers as it does, or does not.

use super::Context;
use super::names::{Question, checked, complete, is_absolute};
use super::resolve::dns_status;
use super::rows;
use crate::cli::ExplainArgs;
use crate::output::{Cell, Style, Table};
use anyhow::{Context as _, anyhow, bail};
use fingerpost_dns::explain::{Explanation, Search};

pub(super) async fn explain(context: &Context, args: ExplainArgs) -> anyhow::Result<()> {
    checked(&args.name).map_err(|error| anyhow!(error))?;
    let question = match args.from {
        // The search list is the server's to walk; an address means its reverse name all the same.
        Some(_) if args.name.parse::<std::net::IpAddr>().is_err() => {
            Question { name: args.name.clone(), ..complete(&args.name, &args.namespace, "") }
        }
        _ if is_absolute(&args.name) => complete(&args.name, &args.namespace, ""),
        _ => complete(&args.name, &args.namespace, &dns_status(context).await?.zone),
    };
    let default = question.types.first().copied().unwrap_or("A");
    let record_type = args.record_type.as_deref().unwrap_or(default).to_ascii_uppercase();
    let explanation: Explanation = context
        .registry
        .explain(&question.name, Some(&record_type), args.from)
        .await
        .with_context(|| format!("can't explain {}", question.name))?;
    // Without an answer at all, the question was at fault.
    if let ("", Some(step)) = (explanation.rcode.as_str(), explanation.steps.last()) {
        bail!("{}", step.text);
    }
    context.output.value(&explanation, || human(&explanation, context.output.colour))
}

fn human(explanation: &Explanation, colour: bool) -> String {
    let paint = |text: String, style| Cell::styled(text, style).paint(colour);
    let heading = format!("{} {}", explanation.name, explanation.qtype);
    let mut out = explanation.search.as_ref().map(|search| walk(search, colour)).unwrap_or_default();
    out.push_str(&format!("{}\n\n", paint(heading, Style::Bold)));
    for step in &explanation.steps {
        let mark = if step.ok { paint("✓".to_owned(), Style::Good) } else { paint("✗".to_owned(), Style::Bad) };
        out.push_str(&format!("{mark} {}\n", Cell::new(&step.text).paint(colour)));
    }
    if !explanation.instances.is_empty() {
        let mut table = Table::new(vec!["", "ID", "ADDRESSES", "SOURCE", "HEALTH", "WHY"]);
        for instance in &explanation.instances {
            table.push(vec![
                if instance.answered { Cell::styled("✓", Style::Good) } else { Cell::styled("✗", Style::Bad) },
                Cell::new(&instance.id),
                Cell::list(&instance.addresses),
                Cell::new(&instance.source),
                rows::health(instance.health),
                Cell::new(&instance.reason),
            ]);
        }
        out.push_str(&format!("\n{}", table.render(colour)));
        out.push_str(&more(explanation.instances_total, explanation.instances.len(), "instances"));
    }
    let style = match (explanation.rcode.as_str(), explanation.answer.is_empty()) {
        ("NOERROR", false) => Style::Good,
        ("NOERROR", true) => Style::Warn,
        _ => Style::Bad,
    };
    let nothing = if explanation.answer.is_empty() && explanation.rcode == "NOERROR" { ", no records" } else { "" };
    out.push_str(&format!("\nAnswer: {}{nothing}\n", paint(explanation.rcode.clone(), style)));
    for record in &explanation.answer {
        out.push_str(&format!("  {}\n", Cell::new(record).paint(colour)));
    }
    out.push_str(&more(explanation.answer_total, explanation.answer.len(), "records"));
    let age = match &explanation.position {
        Some(position) => {
            format!("As of {position}; last word from the registry {:.1} s ago.", explanation.age_seconds)
        }
        None => "The server has not heard of the registry yet.".to_owned(),
    };
    out.push_str(&format!("\n{}\n", paint(age, Style::Dim)));
    out
}

/// What the client's resolver tries, and what comes of it.
fn walk(search: &Search, colour: bool) -> String {
    let domains = search.domains.join(" ");
    let heading = format!("{}, searched in {domains} (ndots:{})", search.name, search.ndots);
    let mut out = format!("{}\n\n", Cell::styled(heading, Style::Bold).paint(colour));
    let mut table = Table::new(vec!["", "NAME", "ANSWER", "RECORDS"]);
    for (n, candidate) in search.candidates.iter().enumerate() {
        let wins = search.winner == Some(n);
        let rcode = match candidate.outside {
            true => format!("{} (no zone of this server)", candidate.rcode),
            false => candidate.rcode.clone(),
        };
        table.push(vec![
            if wins { Cell::styled("✓", Style::Good) } else { Cell::styled("✗", Style::Dim) },
            Cell::new(&candidate.name),
            Cell::new(rcode),
            Cell::new(candidate.records.to_string()),
        ]);
    }
    out.push_str(&table.render(colour));
    let queries = match search.queries {
        1 => "1 query".to_owned(),
        n => format!("{n} queries"),
    };
    out.push_str(&format!("\n{queries} for each record type; programs mostly ask for A and AAAA.\n"));
    if let Some(hint) = &search.hint {
        out.push_str(&format!("Hint: {}.\n", Cell::new(hint).paint(colour)));
    }
    out.push('\n');
    out
}

fn more(total: usize, shown: usize, what: &str) -> String {
    match total.saturating_sub(shown) {
        0 => String::new(),
        rest => format!("  … and {rest} more {what}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_can_be_read() {
        let json = r#"{"name":"web.prod.svc.cluster.local.","type":"A","rcode":"NOERROR",
            "steps":[{"ok":true,"text":"It lies in the zone."},{"ok":false,"text":"Odd."}],
            "instances":[{"id":"a","source":"api","labels":["a"],"addresses":["10.0.0.1"],"health":"critical",
                "answered":false,"reason":"its source reports it so"}],
            "instancesTotal":3,"answer":["web.prod.svc.cluster.local. 5 IN A 10.0.0.2"],"answerTotal":1,
            "position":"000000000000beef-7","ageSeconds":0.24}"#;
        let text = human(&serde_json::from_str(json).unwrap(), false);
        assert_eq!(
            text,
            "web.prod.svc.cluster.local. A\n\n\
             ✓ It lies in the zone.\n✗ Odd.\n\n\
             \u{20}   ID   ADDRESSES   SOURCE   HEALTH     WHY\n\
             ✗   a    10.0.0.1    api      critical   its source reports it so\n\
             \u{20} … and 2 more instances\n\n\
             Answer: NOERROR\n  web.prod.svc.cluster.local. 5 IN A 10.0.0.2\n\n\
             As of 000000000000beef-7; last word from the registry 0.2 s ago.\n"
        );
    }
}
