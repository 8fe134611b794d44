//! `status` and `version`.

use super::Context;
use crate::output::{Cell, Fields, Style};
use anyhow::Context as _;
use fingerpost_client::{FollowingStatus, StatusDocument};
use serde::Serialize;

/// Raises the schema of the stored records.
pub(super) async fn migrate(context: &Context) -> anyhow::Result<()> {
    let migrated = context.registry.migrate().await.context("can't migrate the records")?;
    context.output.value(&migrated, || match migrated.from == migrated.to {
        true => format!("the records have schema {} already\n", migrated.to),
        false => format!("the records have schema {} now; before, it was {}\n", migrated.to, migrated.from),
    })
}

pub(super) async fn status(context: &Context) -> anyhow::Result<()> {
    let status = context.registry.status().await.context("can't ask for the status")?;
    context.output.value(&status, || human(&status, context.output.colour))
}

fn human(status: &StatusDocument, colour: bool) -> String {
    match &status.following {
        None => of_registry(status, colour),
        Some(following) => of_follower(status, following, colour),
    }
}

/// What a DNS server apart from the registry says.
fn of_follower(status: &StatusDocument, following: &FollowingStatus, colour: bool) -> String {
    let mut fields = Fields::default();
    fields.add("Version", Cell::new(&status.version));
    fields.add("Running for", Cell::new(duration(status.uptime_seconds)));
    fields.add("Follows", Cell::new(format!("{} as {}", following.registry.join(", "), following.id)));
    if !following.synced {
        fields.add("Synced", Cell::styled("not since it started; what it knows is from its disk", Style::Warn));
    }
    for trouble in following.trouble.iter().chain(&following.unreported) {
        fields.add("Trouble", Cell::styled(trouble.as_str(), Style::Bad));
    }
    add_dns(&mut fields, status);
    fields.render(colour)
}

fn of_registry(status: &StatusDocument, colour: bool) -> String {
    let mut fields = Fields::default();
    fields.add("Version", Cell::new(&status.version));
    fields.add("Running for", Cell::new(duration(status.uptime_seconds)));
    fields.add("Revision", Cell::option(status.revision));
    fields.add("REST", Cell::list(&status.http_listen));
    let access = status.access.as_ref();
    let open = access.is_none_or(|access| access.authentication == "none");
    let encrypted = access.is_some_and(|access| access.tls);
    match (status.insecure, open, encrypted) {
        (true, true, _) => {
            fields.add("Access", Cell::styled("anyone who reaches it may change everything (--insecure)", Style::Warn));
        }
        (true, false, false) => {
            fields.add("Access", Cell::styled("tokens can be read on the way: no TLS (--insecure)", Style::Warn));
        }
        (_, true, false) => {}
        (_, _, tls) => {
            let ways = match access {
                Some(access) if !open => access.authentication.replace(',', " or "),
                _ => "no authentication".to_owned(),
            };
            fields.add("Access", Cell::new(format!("{}{ways}", if tls { "TLS, " } else { "" })));
        }
    }
    let store = &status.store;
    let size = store.disk_bytes.map(|size| format!(", {} on disk", bytes(size))).unwrap_or_default();
    fields.add("Store", Cell::new(format!("{}, {}{size}", store.backend, counted(store.records, "record"))));
    if let Some(seconds) = store.out_of_touch_seconds {
        fields.add("Age", Cell::styled(format!("no word from the store for {seconds:.0} s"), Style::Warn));
    }
    if store.foreign > 0 {
        let text = format!("{} can't be read: {}", counted(store.foreign, "key"), store.foreign_keys.join(", "));
        fields.add("Foreign", Cell::styled(text, Style::Warn));
    }
    if store.backend == "etcd" {
        let replicas = status.replicas.iter().map(|replica| replica.url.as_deref().unwrap_or(&replica.id));
        fields.add("Replicas", Cell::list(replicas));
        let silent: Vec<&str> =
            status.replicas.iter().filter(|replica| replica.url.is_none()).map(|replica| replica.id.as_str()).collect();
        if !silent.is_empty() {
            let text = format!("others can't reach {}: no --advertise-url", silent.join(", "));
            fields.add("Unreachable", Cell::styled(text, Style::Warn));
        }
    }
    for follower in &status.followers {
        let silent = follower.silent_seconds.unwrap_or_default();
        let (style, state) = match (follower.departed, follower.lag) {
            (true, _) => (Style::Bad, format!("silent for {silent:.0} s; nobody waits for it")),
            (false, Some(0)) => (Style::Good, "shows all".to_owned()),
            (false, Some(lag)) => (Style::Warn, format!("{} behind", counted(lag, "position"))),
            (false, None) => (Style::Warn, follower.detail.clone()),
        };
        fields.add("Follower", Cell::styled(format!("{} {}: {state}", follower.kind, follower.id), style));
    }
    if let Some(error) = &store.write_error {
        fields.add("Writes", Cell::styled(format!("fail: {error}"), Style::Bad));
    }
    let catalog = &status.catalog;
    let counts = [(catalog.namespaces, "namespace"), (catalog.services, "service"), (catalog.instances, "instance")];
    fields.add("Catalog", Cell::new(counts.map(|(count, what)| counted(count, what)).join(", ")));
    let health = catalog.health;
    let style = match (health.critical, health.warning + health.unknown) {
        (0, 0) => Style::Good,
        (0, _) => Style::Warn,
        _ => Style::Bad,
    };
    let text = format!(
        "{} passing, {} warning, {} unknown, {} critical",
        health.passing, health.warning, health.unknown, health.critical
    );
    fields.add("Health", Cell::styled(text, style));
    for orphan in &status.orphans {
        let last = orphan.last_seen.as_deref().unwrap_or("never");
        let left = counted(orphan.instances, "instance");
        let text = format!("{} was last heard {last} and left {left} (`source remove` removes them)", orphan.source);
        fields.add("Orphaned", Cell::styled(text, Style::Warn));
    }
    let sessions = status.sessions;
    if sessions.total > 0 {
        let text = format!(
            "{}: {} alive, {} suspect, {} expired",
            counted(sessions.total, "session"),
            sessions.alive,
            sessions.suspect,
            sessions.expired
        );
        fields.add("Sessions", Cell::styled(text, if sessions.suspect > 0 { Style::Warn } else { Style::Good }));
    }
    if sessions.protection.active {
        let text = format!(
            "holds {}: so many stopped renewing at once that the fault is more likely the network's",
            counted(sessions.protection.held, "session")
        );
        fields.add("Protection", Cell::styled(text, Style::Warn));
    }
    add_dns(&mut fields, status);
    if let Some(cluster) = &status.kubernetes {
        let kinds = cluster.kinds.iter().map(|kind| match kind.synced {
            true => format!("{} {}", kind.objects, kind.resource),
            false => format!("no {} yet", kind.resource),
        });
        let leads = if cluster.leader { "" } else { ", another listener writes" };
        let style = if cluster.phase == "starting" { Style::Warn } else { Style::Good };
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        fields.add("Kubernetes", Cell::styled(format!("{}{leads}: {kinds}", cluster.phase), style));
        if let Some(age) = cluster.stale_seconds {
            let text = format!("no word from the API server for {age:.0} s; what it said until then is answered");
            fields.add("Stale", Cell::styled(text, Style::Warn));
        }
        let following = cluster.kinds.iter().filter_map(|kind| kind.trouble.as_ref());
        let troubles = following.chain(&cluster.write_trouble).chain(&cluster.lease_trouble);
        troubles.for_each(|trouble| fields.add("Trouble", Cell::styled(trouble.as_str(), Style::Bad)));
        if cluster.held > 0 {
            let text = format!("{} wait for a second list to confirm them", counted(cluster.held, "removal"));
            fields.add("Held", Cell::styled(text, Style::Warn));
        }
        for refused in &cluster.refused_names {
            fields.add("Left out", Cell::styled(refused.as_str(), Style::Warn));
        }
    }
    if status.checks.home > 0 {
        let (home, running) = (counted(status.checks.home, "check"), status.checks.running);
        fields.add("Checks", Cell::new(format!("{home} at home here, {running} being run")));
    }
    let watch = status.watch;
    fields.add(
        "Watches",
        Cell::new(format!("{} on {}", counted(watch.subscriptions, "subscription"), counted(watch.streams, "stream"))),
    );
    fields.render(colour)
}

/// The DNS server of the process.
fn add_dns(fields: &mut Fields, status: &StatusDocument) {
    match &status.dns {
        None => fields.add("DNS", Cell::new("not in this process")),
        Some(dns) => {
            let names = counted(dns.names, "name");
            fields.add("DNS", Cell::new(format!("{names} in {} on {}", dns.zone, dns.listen.join(", "))));
            let answers = match (dns.position, dns.age_seconds) {
                (None, _) => Cell::styled("SERVFAIL until the first sync", Style::Warn),
                // Where nothing is written there is no word, and nothing to miss.
                (Some(position), Some(age))
                    if age > 10.0 && (dns.position != status.revision || status.following.is_some()) =>
                {
                    Cell::styled(format!("as of {position}, without word for {age:.0} s"), Style::Warn)
                }
                (Some(position), _) => Cell::new(format!("as of {position}")),
            };
            fields.add("Answers", answers);
        }
    }
}

/// A number with its noun.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

/// This program's version, and the registry's where there is one: what is asked for must not fail for its absence.
pub(super) async fn version(context: &Context) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Versions {
        client: &'static str,
        server: Option<String>,
    }
    let server = context.registry.version().await.ok().map(|server| server.version);
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), server };
    context.output.value(&versions, || {
        let mut fields = Fields::default();
        fields.add("Client", Cell::new(versions.client));
        fields.add("Server", Cell::new(versions.server.as_deref().unwrap_or("not reached")));
        fields.render(context.output.colour)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_can_be_read() {
        let json = r#"{"version":"0.1.0","revision":"000000000000beef-7","uptimeSeconds":90061,
            "store":{"backend":"embedded","records":3,"diskBytes":1572864,"writeError":"disk full"},
            "catalog":{"namespaces":1,"services":2,"instances":1,"health":{"passing":1}},
            "dns":{"listen":["127.0.0.1:5300"],"zone":"cluster.local","position":"000000000000beef-7","ageSeconds":0.1,
                "names":9},"httpListen":["127.0.0.1:8053"]}"#;
        let text = human(&serde_json::from_str(json).unwrap(), false);
        for part in [
            "1 d 1 h",
            "1.5 MiB",
            "fail: disk full",
            "1 namespace, 2 services, 1 instance",
            "9 names in cluster.local on 127.0.0.1:5300",
            "Answers:      as of 000000000000beef-7\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn answers_are_late_only_where_there_is_something_newer() {
        let with = |position: &str| {
            let json = format!(
                r#"{{"revision":"000000000000beef-7","dns":{{"position":"000000000000beef-{position}","ageSeconds":60.0}}}}"#
            );
            human(&serde_json::from_str(&json).unwrap(), false)
        };
        assert!(with("7").contains("as of 000000000000beef-7\n"), "{}", with("7"));
        assert!(with("6").contains("as of 000000000000beef-6, without word for 60 s"), "{}", with("6"));
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024)], ["0 B", "1023 B", "1.0 KiB"]);
        assert_eq!([duration(5), duration(65), duration(7260)], ["5 s", "1 min 5 s", "2 h 1 min"]);
    }
}
