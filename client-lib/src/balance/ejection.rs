//! Which endpoints are taken out of use because requests to them fail, and for how long.

use super::clock::nanos;
use super::options::Ejection;
use super::plan::Member;
use super::state::NEVER;
use std::cmp::Reverse;

/// What is remembered of an endpoint's ejections.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// When the present one ends.
    until: Option<u64>,
    /// How many there were, less those that are forgotten.
    times: u32,
    /// When the last one ended.
    returned: u64,
}

impl Record {
    pub(super) fn is_ejected(&self) -> bool {
        self.until.is_some()
    }

    fn begin(&mut self, rule: &Ejection, now: u64) {
        let base = nanos(rule.base).max(1);
        let forgotten = u32::try_from(now.saturating_sub(self.returned) / base).unwrap_or(u32::MAX);
        self.times = self.times.saturating_sub(forgotten).saturating_add(1);
        let time = base.saturating_mul(u64::from(self.times)).min(nanos(rule.max));
        self.until = Some(now.saturating_add(time));
    }

    fn end(&mut self, now: u64) {
        self.until = None;
        self.returned = now;
    }
}

/// Ends and begins ejections. Returns when the next one ends.
pub(super) fn judge(members: &mut [Member], rule: &Ejection, now: u64) -> u64 {
    for member in &mut *members {
        if member.ejections.until.is_some_and(|until| until <= now) {
            member.back(now);
        }
    }

    let most = ((rule.max_share.clamp(0.0, 1.0) * members.len() as f64) as usize).max(1);
    let mut ejected: Vec<(u64, usize)> =
        members.iter().enumerate().filter_map(|(at, member)| Some((member.ejections.until?, at))).collect();
    // There are fewer endpoints now than when they were ejected.
    ejected.sort_unstable();
    let too_many = ejected.len().saturating_sub(most);
    for (_, at) in ejected.drain(..too_many) {
        members[at].back(now);
    }

    let room = most - ejected.len();
    let threshold = rule.failures.max(1);
    let mut failing: Vec<(Reverse<u32>, usize)> = members
        .iter()
        .enumerate()
        .filter(|(_, member)| !member.ejections.is_ejected())
        .map(|(at, member)| (Reverse(member.entry.state.failures()), at))
        .filter(|(failures, _)| failures.0 >= threshold)
        .collect();
    failing.sort_unstable();
    for (failures, at) in failing.into_iter().take(room) {
        let member = &mut members[at];
        member.ejections.begin(rule, now);
        tracing::debug!(
            endpoint = %member.entry.endpoint.key(), failures = failures.0, times = member.ejections.times,
            "requests to the endpoint fail; it is not asked for a while"
        );
    }
    members.iter().filter_map(|member| member.ejections.until).min().unwrap_or(NEVER)
}

impl Member {
    fn back(&mut self, now: u64) {
        self.ejections.end(now);
        self.entry.state.forgive();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn each_ejection_is_longer_until_they_are_forgotten() {
        let rule = Ejection { max: Duration::from_secs(100), ..Default::default() };
        let (mut record, mut now) = (Record::default(), 0);
        for seconds in [30, 60, 90, 100, 100] {
            record.begin(&rule, now);
            assert_eq!(record.until, Some(now + seconds * SECOND));
            now += seconds * SECOND;
            record.end(now);
        }
        // Five times; four of them are forgotten after four times the base.
        now += 120 * SECOND;
        record.begin(&rule, now);
        assert_eq!((record.until, record.times), (Some(now + 60 * SECOND), 2));
        record.end(now);
        record.begin(&rule, now + 10_000 * SECOND);
        assert_eq!(record.times, 1);
    }

    #[test]
    fn extreme_rules_do_not_overflow() {
        let rule = Ejection { base: Duration::MAX, max: Duration::MAX, ..Default::default() };
        let mut record = Record::default();
        record.begin(&rule, 5);
        assert_eq!(record.until, Some(u64::MAX));
        let rule = Ejection { base: Duration::ZERO, max: Duration::ZERO, ..Default::default() };
        record.begin(&rule, 5);
        assert_eq!(record.until, Some(5));
    }
}
