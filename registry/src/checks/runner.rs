//! The runner: one task that knows the checks at home here, has each run when it is due, and writes what changed.

use super::inbox::{Changed, Inbox};
use super::metrics::CheckMetrics;
use super::probes::Probe;
use super::reports::{Deadlines, Relay};
use super::target::TargetRules;
use super::verdict::{Outcome, Streak};
use super::{CheckKey, schedule, write};
use crate::live::{LiveReplica, Observer};
use crate::members::Members;
use crate::store::{CommitError, Store};
use crate::writes::{WriteError, Writer};
use fingerpost_catalog::{
    Check, CheckPort, CheckType, CheckedInstance, Effects, Health, InstanceKey, Key, Position, Replica,
};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Instances that are looked at in one hold of the replica's lock.
const SCAN: u32 = 4096;

/// What bounds the runner.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most probes under way at once; checks that are due beyond that wait for their turn, each at most once.
    pub probes: usize,
    /// Most writes under way at once.
    pub writes: usize,
    /// Parts that are to be cleared away and wait for it; more are found again later.
    pub strays: usize,
    /// How often parts are looked for that nobody told of.
    pub sweep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { probes: 1024, writes: 64, strays: 10_000, sweep: Duration::from_secs(60) }
    }
}

/// What the runner's task shares with the feed and the API.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) live: Arc<LiveReplica>,
    pub(super) relay: Arc<dyn Relay>,
    pub(super) deadlines: Deadlines,
    pub(super) metrics: CheckMetrics,
    rules: TargetRules,
    probe: Arc<dyn Probe>,
    limits: Limits,
    inbox: Inbox,
}

/// Runs the checks that are at home in this process. Cheap to clone.
#[derive(Clone)]
pub struct Runner(Arc<Shared>);

impl Runner {
    /// A runner of the checks that `live` knows of, which writes to `store`.
    pub fn new(
        store: Arc<dyn Store>,
        live: Arc<LiveReplica>,
        probe: Arc<dyn Probe>,
        relay: Arc<dyn Relay>,
        rules: TargetRules,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Shared {
            store,
            live,
            relay,
            deadlines: Deadlines::default(),
            metrics: CheckMetrics::default(),
            rules,
            probe,
            limits,
            inbox: Inbox::default(),
        }))
    }

    /// Adds its metrics to a registry.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.0.metrics.register(registry);
    }

    /// What it may aim at.
    pub fn rules(&self) -> &TargetRules {
        &self.0.rules
    }

    /// Checks at home here, and how many of them are being run now.
    pub fn counts(&self) -> (u64, u64) {
        let count = |gauge: &prometheus_client::metrics::gauge::Gauge| u64::try_from(gauge.get()).unwrap_or_default();
        (count(&self.0.metrics.home), count(&self.0.metrics.running))
    }

    /// Another replica says that a TTL check was reported as it stands. Returns whether that was noted; it is not where
    /// the check is not at home here, or stands otherwise, and then the other replica notes it in the store.
    pub fn heartbeat(&self, instance: &InstanceKey, check: &str, health: Health) -> bool {
        self.0.heartbeat(&CheckKey { instance: instance.clone(), check: check.into() }, health)
    }

    /// Takes a report to a TTL check. Returns when it is shown here, or known to the replica that keeps the deadline.
    pub async fn report(
        &self,
        writer: &Writer,
        instance: InstanceKey,
        check: &str,
        outcome: Outcome,
    ) -> Result<(), WriteError> {
        self.0.report(writer, instance, check.into(), outcome).await
    }

    /// Runs checks until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let loaded = tokio::select! {
            () = self.0.live.wait_loaded() => true,
            () = shutdown.cancelled() => false,
        };
        if loaded {
            Task::new(self.0).run(shutdown).await;
        }
    }
}

impl Observer for Runner {
    fn load(&self, _: &Replica) {
        self.0.inbox.note_everything();
    }

    fn ready(&self, _: Position) {}

    fn apply(&self, effects: &Effects, reset: bool) {
        if reset {
            self.0.inbox.note_everything();
        }
        self.0.inbox.note(&effects.changes);
    }
}

/// What a job's timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Purpose {
    /// It is to be run; a TTL check, to be looked whether it is overdue.
    Run,
    /// Its verdict is to be written once more.
    Write,
}

/// A timer. It counts while its job still waits for that very moment.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Timer {
    at: Instant,
    number: u64,
    purpose: Purpose,
    key: CheckKey,
}

#[derive(Debug)]
enum State {
    Waiting,
    /// Due, but too many are under way.
    Queued,
    Running(AbortHandle),
}

/// A check that is at home here.
#[derive(Debug)]
struct Job {
    /// Tells it apart from others of the same key, before and after.
    number: u64,
    check: Arc<Check>,
    target: Result<SocketAddr, String>,
    state: State,
    /// When it is due, or was.
    due: Instant,
    streak: Streak,
    /// A verdict is being written.
    writing: bool,
    /// When to try writing again, and how often it failed.
    again: Option<Instant>,
    failed: u32,
    /// The revision of a TTL check's verdict that its deadline has taken notice of.
    seen: u64,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let State::Running(probe) = &self.state {
            probe.abort();
        }
    }
}

/// A probe that has come to its end.
struct Ran {
    key: CheckKey,
    number: u64,
    outcome: Outcome,
}

/// A write that has come to its end.
struct Wrote {
    /// Of which job; none where a part was cleared away.
    job: Option<(CheckKey, u64, Health)>,
    result: Result<(), CommitError>,
}

struct Task {
    shared: Arc<Shared>,
    members: watch::Receiver<Arc<Members>>,
    /// The replicas as the jobs know them.
    view: Arc<Members>,
    /// Where intervals are counted from.
    origin: Instant,
    jobs: HashMap<InstanceKey, HashMap<Arc<str>, Job>>,
    count: usize,
    numbers: u64,
    timers: BinaryHeap<Reverse<Timer>>,
    queue: VecDeque<(CheckKey, u64)>,
    probes: JoinSet<Ran>,
    writes: JoinSet<Wrote>,
    strays: BTreeSet<Key>,
    sweep: Instant,
}

impl Task {
    fn new(shared: Arc<Shared>) -> Self {
        let members = shared.store.members();
        let view = Arc::clone(&members.borrow());
        Self {
            origin: Instant::now(),
            sweep: Instant::now() + shared.limits.sweep,
            shared,
            view,
            members,
            jobs: HashMap::new(),
            count: 0,
            numbers: 0,
            timers: BinaryHeap::new(),
            queue: VecDeque::new(),
            probes: JoinSet::new(),
            writes: JoinSet::new(),
            strays: BTreeSet::new(),
        }
    }

    async fn run(mut self, shutdown: CancellationToken) {
        let mut members_known = true;
        self.members.mark_changed();
        loop {
            let changed = self.shared.inbox.take();
            self.look_at(changed).await;
            self.fire();
            self.start();
            self.clear_away();
            self.publish();
            let next = self.timers.peek().map(|Reverse(timer)| timer.at);
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = shared.inbox.noted() => {}
                changed = self.members.changed(), if members_known => {
                    members_known = changed.is_ok();
                    let view = Arc::clone(&self.members.borrow_and_update());
                    let former = std::mem::replace(&mut self.view, view);
                    // Who lost its place and has another knows nothing of the reports that came in between.
                    if !self.view.in_touch || former.fence.place != self.view.fence.place {
                        self.drop_everything();
                    }
                    if self.view.in_touch {
                        self.look_at_everything().await;
                    }
                }
                Some(ran) = self.probes.join_next(), if !self.probes.is_empty() => self.ran(ran),
                Some(wrote) = self.writes.join_next(), if !self.writes.is_empty() => self.wrote(wrote),
                () = tokio::time::sleep_until(next.unwrap_or(self.sweep)), if next.is_some() => {}
                () = tokio::time::sleep_until(self.sweep) => self.look_for_strays().await,
            }
        }
        self.probes.shutdown().await;
        self.writes.shutdown().await;
    }

    fn publish(&mut self) {
        // Timers of jobs that are gone wait for their time, which may be a day away.
        if self.timers.len() > 4 * self.count + 1024 {
            let jobs = &self.jobs;
            self.timers.retain(|Reverse(timer)| {
                let job = jobs.get(&timer.key.instance).and_then(|jobs| jobs.get(&timer.key.check));
                job.is_some_and(|job| job.number == timer.number)
            });
        }
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.shared.metrics.home.set(number(self.count));
        self.shared.metrics.running.set(number(self.probes.len()));
    }

    // What there is to check.

    async fn look_at(&mut self, changed: Changed) {
        if changed.everything {
            return self.look_at_everything().await;
        }
        let mut instances = changed.instances;
        if !changed.services.is_empty() {
            let replica = self.shared.live.read();
            for (namespace, service) in &changed.services {
                instances.extend(replica.instance_keys_of_service(namespace, service));
            }
        }
        self.look_at_instances(instances).await;
    }

    async fn look_at_instances(&mut self, instances: HashSet<InstanceKey>) {
        let mut instances = instances.into_iter();
        loop {
            let some: Vec<InstanceKey> = instances.by_ref().take(SCAN as usize).collect();
            if some.is_empty() {
                return;
            }
            let checked: Vec<Option<CheckedInstance>> = {
                let replica = self.shared.live.read();
                some.iter().map(|key| replica.checked_instance(key)).collect()
            };
            let members = Arc::clone(&self.members.borrow());
            for (key, checked) in some.into_iter().zip(checked) {
                match checked {
                    Some(checked) => self.update(checked, &members),
                    None => self.gone(&key, &members),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Brings the jobs in line with all that is declared and with who is alive.
    async fn look_at_everything(&mut self) {
        let mut met: HashSet<InstanceKey> = HashSet::new();
        let mut from = Some(0);
        while let Some(at) = from {
            let (found, next) = self.shared.live.read().checked_instances(at, SCAN);
            let members = Arc::clone(&self.members.borrow());
            for checked in found {
                met.insert(checked.key.clone());
                self.update(checked, &members);
            }
            from = next;
            tokio::task::yield_now().await;
        }
        let rest = self.jobs.keys().filter(|key| !met.contains(*key)).cloned().collect();
        self.look_at_instances(rest).await;
        self.look_for_orphans();
    }

    fn drop_everything(&mut self) {
        for key in self.jobs.keys().cloned().collect::<Vec<_>>() {
            self.keep_only(&key, |_| false);
        }
        self.timers.clear();
        self.queue.clear();
        self.strays.clear();
    }

    /// Ends the instance's jobs but for those that `keep` names.
    fn keep_only(&mut self, key: &InstanceKey, keep: impl Fn(&str) -> bool) {
        let Some(jobs) = self.jobs.get_mut(key) else { return };
        let before = jobs.len();
        let deadlines = &self.shared.deadlines;
        jobs.retain(|name, job| {
            let kept = keep(name);
            if !kept && job.check.check_type == CheckType::Ttl {
                deadlines.forget(&CheckKey { instance: key.clone(), check: name.clone() });
            }
            kept
        });
        self.count -= before - jobs.len();
        if jobs.is_empty() {
            self.jobs.remove(key);
        }
    }

    fn gone(&mut self, key: &InstanceKey, members: &Members) {
        self.keep_only(key, |_| false);
        let parts = self.shared.live.read().parts_of(key);
        for part in parts {
            self.stray(part, members);
        }
    }

    fn update(&mut self, checked: CheckedInstance, members: &Members) {
        let CheckedInstance { key, addresses, ports, checks, stray } = checked;
        for check in stray {
            self.stray(Key::Check { instance: key.clone(), check }, members);
        }
        let at_home = |check: &Check| members.is_home(&format!("{key}/{}", check.name));
        let checks: Vec<Check> = checks.into_iter().filter(at_home).collect();
        self.keep_only(&key, |name| checks.iter().any(|check| *check.name == *name));
        for check in checks {
            let target = target(&check, &addresses, &ports, &self.shared.rules);
            let key = CheckKey { instance: key.clone(), check: check.name.as_str().into() };
            self.update_check(key, check, target);
        }
    }

    fn update_check(&mut self, key: CheckKey, check: Check, target: Result<SocketAddr, String>) {
        let standing = write::standing(&self.shared.live, &key);
        let revision = standing.as_ref().map_or(0, |(_, revision)| *revision);
        let now = Instant::now();
        let ttl = Duration::from_secs(check.ttl().into());
        if let Some(job) = self.jobs.get_mut(&key.instance).and_then(|jobs| jobs.get_mut(&key.check))
            && *job.check == check
            && job.target == target
        {
            // A verdict of a TTL check that was written since is a report that came to another replica.
            if check.check_type == CheckType::Ttl && job.seen != revision {
                job.seen = revision;
                self.shared.deadlines.extend(&key, now + ttl);
            }
            return;
        }
        self.numbers += 1;
        let interval = Duration::from_secs(check.interval().into());
        let former = self.jobs.get(&key.instance).and_then(|jobs| jobs.get(&key.check));
        let moved = former.is_some_and(|job| job.target != target);
        let due = if check.check_type == CheckType::Ttl {
            // Whoever takes over grants a whole TTL: it can't know when the last report came.
            self.shared.deadlines.extend(&key, now + ttl);
            now + ttl
        } else {
            self.shared.deadlines.forget(&key);
            // Where nothing is known, or what is known is of another place, it should be soon.
            match write::health_of(&standing).filter(|health| *health != Health::Unknown) {
                Some(_) if !moved => schedule::next(self.origin, now, interval, &key.to_string()),
                _ => schedule::soon(now, interval, &key.to_string()),
            }
        };
        let job = Job {
            number: self.numbers,
            check: Arc::new(check),
            target,
            state: State::Waiting,
            due,
            streak: Streak::default(),
            writing: false,
            again: None,
            failed: 0,
            seen: revision,
        };
        self.timers.push(Reverse(Timer { at: due, number: job.number, purpose: Purpose::Run, key: key.clone() }));
        let jobs = self.jobs.entry(key.instance).or_default();
        self.count += usize::from(jobs.insert(key.check, job).is_none());
    }

    fn job(&mut self, key: &CheckKey, number: u64) -> Option<&mut Job> {
        self.jobs.get_mut(&key.instance)?.get_mut(&key.check).filter(|job| job.number == number)
    }

    // Running.

    /// Does what timers say is due.
    fn fire(&mut self) {
        let now = Instant::now();
        while self.timers.peek().is_some_and(|Reverse(timer)| timer.at <= now) {
            let Some(Reverse(Timer { at, number, purpose, key })) = self.timers.pop() else { return };
            let Some(job) = self.job(&key, number) else { continue };
            match purpose {
                Purpose::Write if job.again == Some(at) => {
                    job.again = None;
                    self.judge(&key, number);
                }
                Purpose::Run if job.due == at && matches!(job.state, State::Waiting) => {
                    if job.check.check_type == CheckType::Ttl {
                        self.overdue(key, number, now);
                    } else {
                        job.state = State::Queued;
                        self.queue.push_back((key, number));
                    }
                }
                // Another timer has taken its place.
                Purpose::Write | Purpose::Run => {}
            }
        }
    }

    /// The deadline of a TTL check has come, unless a report has put it off.
    fn overdue(&mut self, key: CheckKey, number: u64, now: Instant) {
        let before = self.shared.deadlines.still_before(&key, now);
        let standing = write::health_of(&write::standing(&self.shared.live, &key));
        let Some(job) = self.job(&key, number) else { return };
        let ttl = job.check.ttl();
        job.due = before.unwrap_or_else(|| {
            job.streak.force(standing, Outcome::critical(format!("no report for {ttl} s")));
            now + Duration::from_secs(ttl.into())
        });
        let at = job.due;
        self.timers.push(Reverse(Timer { at, number, purpose: Purpose::Run, key: key.clone() }));
        if before.is_none() {
            self.judge(&key, number);
        }
    }

    /// Starts what is queued, as far as there is room.
    fn start(&mut self) {
        while self.probes.len() < self.shared.limits.probes
            && let Some((key, number)) = self.queue.pop_front()
        {
            let shared = Arc::clone(&self.shared);
            let Some(job) = self.jobs.get_mut(&key.instance).and_then(|jobs| jobs.get_mut(&key.check)) else {
                continue;
            };
            if job.number != number || !matches!(job.state, State::Queued) {
                continue;
            }
            let interval = Duration::from_secs(job.check.interval().into());
            if Instant::now() > job.due + (interval / 10).max(Duration::from_secs(1)) {
                shared.metrics.late.inc();
            }
            let (check, target) = (Arc::clone(&job.check), job.target.clone());
            let probe = self.probes.spawn(async move {
                let begun = Instant::now();
                let outcome = match target {
                    Err(refusal) => Outcome::critical(refusal),
                    Ok(target) => {
                        let timeout = Duration::from_secs(check.timeout().into());
                        let running = shared.probe.run(Arc::clone(&check), target);
                        tokio::time::timeout(timeout, running)
                            .await
                            .unwrap_or_else(|_| Outcome::critical(format!("no answer within {} s", check.timeout())))
                    }
                };
                shared.metrics.ran(check.check_type, outcome.health, begun.elapsed());
                Ran { key, number, outcome }
            });
            job.state = State::Running(probe);
        }
    }

    fn ran(&mut self, ran: Result<Ran, JoinError>) {
        let Some(Ran { key, number, outcome }) = ended(ran) else { return };
        let (origin, now) = (self.origin, Instant::now());
        let standing = write::health_of(&write::standing(&self.shared.live, &key));
        let Some(job) = self.job(&key, number) else { return };
        job.state = State::Waiting;
        let interval = Duration::from_secs(job.check.interval().into());
        job.due = schedule::after(origin, job.due, now, interval, &key.to_string());
        job.streak.add(standing, outcome);
        let at = job.due;
        self.timers.push(Reverse(Timer { at, number, purpose: Purpose::Run, key: key.clone() }));
        self.judge(&key, number);
    }

    // Writing.

    /// Writes the verdict, where the results demand another one than stands.
    fn judge(&mut self, key: &CheckKey, number: u64) {
        if !self.members.borrow().is_home(&key.to_string()) {
            return;
        }
        let standing = write::standing(&self.shared.live, key);
        let (writes, most) = (self.writes.len(), self.shared.limits.writes);
        let Some(job) = self.job(key, number) else { return };
        if job.writing || job.again.is_some() {
            return;
        }
        let Some(outcome) = job.streak.due(write::health_of(&standing), &job.check).cloned() else { return };
        if writes >= most {
            // Once more in a moment: nothing is lost, as it is judged anew then.
            return self.write_again(key, number, Duration::from_millis(100));
        }
        job.writing = true;
        let (store, live) = (Arc::clone(&self.shared.store), Arc::clone(&self.shared.live));
        let (key, to, fence) = (key.clone(), outcome.health, self.view.fence);
        self.writes.spawn(async move {
            let result = write::turn(store, live, key.clone(), standing, outcome, fence).await;
            Wrote { job: Some((key, number, to)), result }
        });
    }

    fn write_again(&mut self, key: &CheckKey, number: u64, pause: Duration) {
        let at = Instant::now() + pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let Some(job) = self.job(key, number) else { return };
        job.again = Some(at);
        self.timers.push(Reverse(Timer { at, number, purpose: Purpose::Write, key: key.clone() }));
    }

    fn wrote(&mut self, wrote: Result<Wrote, JoinError>) {
        let Some(Wrote { job: Some((key, number, to)), result }) = ended(wrote) else { return };
        if result.is_ok() {
            debug!(check = %key, %to, "verdict");
            self.shared.metrics.turned(to);
        }
        let failed = {
            let Some(job) = self.job(&key, number) else { return };
            job.writing = false;
            match &result {
                Ok(()) => job.failed = 0,
                // Another verdict was written, or the instance is gone: the next result is judged by what stands then.
                Err(CommitError::Condition { .. } | CommitError::Fenced) => {}
                Err(_) => job.failed += 1,
            }
            job.failed
        };
        match result {
            Ok(()) => self.reported_meanwhile(&key, number, to),
            Err(CommitError::Condition { .. }) => {}
            // Where the check is still at home here, it is judged anew.
            Err(CommitError::Fenced) => self.write_again(&key, number, Duration::from_millis(250)),
            Err(error) => {
                self.shared.metrics.write_failures.inc();
                if failed == 1 {
                    warn!(check = %key, %error, "a check's verdict can't be written; trying again");
                }
                let pause = Duration::from_millis(250).saturating_mul(1 << failed.min(7));
                self.write_again(&key, number, pause);
            }
        }
    }

    /// A report that came while its check was being written off as overdue was told that nothing had to be written.
    fn reported_meanwhile(&mut self, key: &CheckKey, number: u64, to: Health) {
        let reported = self.shared.deadlines.reported_since(key);
        let standing = write::health_of(&write::standing(&self.shared.live, key));
        let Some(job) = self.job(key, number) else { return };
        if job.check.check_type == CheckType::Ttl
            && let Some(health) = reported.filter(|health| *health != to)
        {
            job.streak.force(standing, Outcome::new(health, "reported just in time"));
            self.judge(key, number);
        }
    }

    // Clearing away.

    /// Notes a part that is of no use any more, if it is for this replica to remove.
    fn stray(&mut self, part: Key, members: &Members) {
        let name = match &part {
            Key::Check { instance, check } => format!("{instance}/{check}"),
            Key::Drain(instance) => instance.to_string(),
            _ => return,
        };
        if members.is_home(&name) && self.strays.len() < self.shared.limits.strays {
            self.strays.insert(part);
        }
    }

    fn look_for_orphans(&mut self) {
        let orphans = self.shared.live.read().orphaned_parts(self.shared.limits.strays);
        let members = Arc::clone(&self.members.borrow());
        for part in orphans {
            self.stray(part, &members);
        }
    }

    /// What nobody told of: parts that came without a change of any view, and those that could not be removed before.
    async fn look_for_strays(&mut self) {
        self.sweep = Instant::now() + self.shared.limits.sweep.mul_f64(0.9 + rand::random::<f64>() / 5.0);
        if !self.members.borrow().in_touch {
            return;
        }
        let mut from = Some(0);
        while let Some(at) = from {
            let (found, next) = self.shared.live.read().checked_instances(at, SCAN);
            let members = Arc::clone(&self.members.borrow());
            for CheckedInstance { key, stray, .. } in found {
                for check in stray {
                    self.stray(Key::Check { instance: key.clone(), check }, &members);
                }
            }
            from = next;
            tokio::task::yield_now().await;
        }
        self.look_for_orphans();
    }

    /// Removes what was noted, leaving most of the room for verdicts.
    fn clear_away(&mut self) {
        while self.writes.len() < self.shared.limits.writes / 4 + 1
            && let Some(part) = self.strays.pop_first()
        {
            if !self.members.borrow().in_touch || !is_stray(&self.shared.live, &part) {
                continue;
            }
            let (store, live) = (Arc::clone(&self.shared.store), Arc::clone(&self.shared.live));
            self.writes.spawn(async move { Wrote { job: None, result: write::clear(store, live, part).await } });
        }
    }
}

/// Whether the part still is of no use.
fn is_stray(live: &LiveReplica, part: &Key) -> bool {
    let Some(instance) = part.instance() else { return false };
    match (live.read().checked_instance(instance), part) {
        (None, _) => true,
        (Some(checked), Key::Check { check, .. }) => checked.stray.contains(check),
        (Some(_), _) => false,
    }
}

/// What a task came to; none where it was given up. A panic goes on.
fn ended<T>(joined: Result<T, JoinError>) -> Option<T> {
    match joined {
        Ok(value) => Some(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

/// Where a check is aimed: at the instance's first address.
fn target(
    check: &Check,
    addresses: &[std::net::IpAddr],
    ports: &[fingerpost_catalog::Port],
    rules: &TargetRules,
) -> Result<SocketAddr, String> {
    let address = *addresses.first().ok_or("the instance has no address")?;
    if check.check_type.is_probe()
        && let Some(refusal) = rules.refuse(address)
    {
        return Err(refusal);
    }
    let port = match &check.port {
        Some(CheckPort::Number(port)) => *port,
        Some(CheckPort::Name(name)) => {
            let named = ports.iter().find(|port| port.name == *name);
            named.map(|port| port.port).ok_or_else(|| format!("the instance has no port `{name}`"))?
        }
        None => match (ports.first(), check.check_type) {
            (Some(port), _) => port.port,
            (None, CheckType::Dns) => 53,
            (None, CheckType::Ttl) => 0,
            (None, _) => return Err("the instance has no port; name one in the check".to_owned()),
        },
    };
    Ok(SocketAddr::new(address, port))
}
