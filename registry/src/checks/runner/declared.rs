//! What there is to check: bringing the jobs in line with what is declared, and with who is alive.

use super::job::{Job, Purpose, State, Timer};
use super::{SCAN, Task};
use crate::checks::inbox::Changed;
use crate::checks::schedule::Hurry;
use crate::checks::target::aim;
use crate::checks::verdict::Streak;
use crate::checks::{CheckKey, write};
use crate::members::Members;
use fingerpost_catalog::{Check, CheckType, CheckedInstance, Health, InstanceKey, Key};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl Task {
    pub(super) async fn look_at(&mut self, changed: Changed) {
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

    pub(super) async fn look_at_instances(&mut self, instances: HashSet<InstanceKey>) {
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
    pub(super) async fn look_at_everything(&mut self) {
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

    pub(super) fn drop_everything(&mut self) {
        for key in self.jobs.keys().cloned().collect::<Vec<_>>() {
            self.keep_only(&key, |_| false);
        }
        self.timers.clear();
        self.places.retain(|_| false);
        self.strays.clear();
    }

    /// Ends the instance's jobs but for those that `keep` names.
    pub(super) fn keep_only(&mut self, key: &InstanceKey, keep: impl Fn(&str) -> bool) {
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

    pub(super) fn gone(&mut self, key: &InstanceKey, members: &Members) {
        self.keep_only(key, |_| false);
        let parts = self.shared.live.read().parts_of(key);
        for part in parts {
            self.stray(part, members);
        }
    }

    pub(super) fn update(&mut self, checked: CheckedInstance, members: &Members) {
        let CheckedInstance { key, addresses, ports, checks, stray } = checked;
        for check in stray {
            self.stray(Key::Check { instance: key.clone(), check }, members);
        }
        let at_home = |check: &Check| members.is_home(&format!("{key}/{}", check.name));
        let checks: Vec<Check> = checks.into_iter().filter(at_home).collect();
        self.keep_only(&key, |name| checks.iter().any(|check| *check.name == *name));
        for check in checks {
            let target = aim(&check, &addresses, &ports, &self.shared.rules);
            let key = CheckKey { instance: key.clone(), check: check.name.as_str().into() };
            self.update_check(key, check, target);
        }
    }

    pub(super) fn update_check(&mut self, key: CheckKey, check: Check, target: Result<SocketAddr, String>) {
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
        let due = if check.check_type == CheckType::Ttl {
            // Whoever takes over grants a whole TTL: it can't know when the last report came.
            self.shared.deadlines.extend(&key, now + ttl);
            now + ttl
        } else {
            self.shared.deadlines.forget(&key);
            // What is known of another place, or by another declaration, says little.
            let known = write::health_of(&standing).is_some_and(|health| health != Health::Unknown);
            let hurry = if known && former.is_none() { Hurry::TakenOver } else { Hurry::New };
            self.schedule.first(now, interval, &key.to_string(), hurry)
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
}
