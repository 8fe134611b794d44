//! From results to verdicts: a check changes its mind only after enough results in a row.

use crate::validate::MAX_NOTE;
use fingerpost_catalog::{Check, Health};

/// What one run of a check, or one report, came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The health that it speaks for.
    pub health: Health,
    /// Why.
    pub note: String,
}

impl Outcome {
    /// An outcome whose note may come from anywhere: it is cut, and what could confuse a terminal is taken out.
    pub fn new(health: Health, note: impl AsRef<str>) -> Self {
        Self { health, note: clean(note.as_ref()) }
    }

    /// A check that failed.
    pub fn critical(note: impl AsRef<str>) -> Self {
        Self::new(Health::Critical, note)
    }
}

fn clean(note: &str) -> String {
    // Directions and joiners that print as nothing can make a text look like another.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut out = String::new();
    for c in note.trim().chars().take(MAX_NOTE) {
        out.push(if hidden(c) { ' ' } else { c });
    }
    out.truncate(out.trim_end().len());
    out
}

/// Consecutive results that contradict the verdict, all to the same side of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Streak {
    /// The verdict that they contradict; none where there is none yet.
    against: Option<Health>,
    count: u32,
    /// The one that is nearest to the verdict: every result of the streak speaks for at least that much of a change.
    nearest: Option<Outcome>,
}

impl Streak {
    /// Adds a result; `verdict` is what stands now.
    pub(super) fn add(&mut self, verdict: Option<Health>, outcome: Outcome) {
        // A verdict that says nothing is none.
        let verdict = verdict.filter(|health| *health != Health::Unknown);
        let Some(standing) = verdict else {
            *self = Self { against: None, count: 1, nearest: Some(outcome) };
            return;
        };
        if outcome.health == standing {
            *self = Self { against: verdict, ..Self::default() };
            return;
        }
        let worse = outcome.health > standing;
        let nearest =
            self.nearest.take().filter(|nearest| self.against == verdict && (nearest.health > standing) == worse);
        self.count = if nearest.is_some() { self.count.saturating_add(1) } else { 1 };
        self.against = verdict;
        self.nearest = Some(match nearest {
            Some(nearest) if (nearest.health < outcome.health) == worse && nearest.health != outcome.health => nearest,
            // The same again, or nearer: what was seen last explains it best.
            _ => outcome,
        });
    }

    /// A result that counts at once.
    pub(super) fn force(&mut self, verdict: Option<Health>, outcome: Outcome) {
        let verdict = verdict.filter(|health| *health != Health::Unknown);
        let contradicts = verdict != Some(outcome.health);
        *self = Self { against: verdict, count: u32::MAX, nearest: contradicts.then_some(outcome) };
    }

    /// What the verdict has to become, while `verdict` stands.
    pub(super) fn due(&self, verdict: Option<Health>, check: &Check) -> Option<&Outcome> {
        let verdict = verdict.filter(|health| *health != Health::Unknown);
        let nearest = self.nearest.as_ref().filter(|_| self.against == verdict)?;
        let needed = match verdict {
            None => 1,
            Some(standing) if nearest.health > standing => check.failures(),
            Some(_) => check.successes(),
        };
        (self.count >= needed).then_some(nearest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Health::{Critical, Passing, Unknown, Warning};

    /// The verdicts after each of the results.
    fn verdicts(successes: u32, failures: u32, start: Option<Health>, results: &[Health]) -> Vec<Option<Health>> {
        let check = Check { successes: Some(successes), failures: Some(failures), ..Check::default() };
        let (mut streak, mut verdict) = (Streak::default(), start);
        let judge = |result: &Health| {
            streak.add(verdict, Outcome::new(*result, ""));
            if let Some(outcome) = streak.due(verdict, &check) {
                verdict = Some(outcome.health);
            }
            verdict
        };
        results.iter().map(judge).collect()
    }

    #[test]
    fn the_first_result_is_the_verdict() {
        assert_eq!(verdicts(5, 5, None, &[Critical, Passing]), [Some(Critical); 2]);
        assert_eq!(verdicts(5, 5, Some(Unknown), &[Passing]), [Some(Passing)]);
    }

    #[test]
    fn it_takes_enough_in_a_row() {
        let some = |all: &[Health]| all.iter().copied().map(Some).collect::<Vec<_>>();
        let flapping = [Critical, Passing, Critical, Passing, Critical];
        assert_eq!(verdicts(2, 2, Some(Passing), &flapping), some(&[Passing; 5]));
        assert_eq!(
            verdicts(2, 3, Some(Passing), &[Critical, Critical, Critical, Passing, Passing]),
            some(&[Passing, Passing, Critical, Critical, Passing])
        );
    }

    #[test]
    fn a_mixed_streak_speaks_for_the_lesser_change() {
        let some = |all: &[Health]| all.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(
            verdicts(1, 2, Some(Passing), &[Critical, Warning, Critical, Critical]),
            some(&[Passing, Warning, Warning, Critical])
        );
        assert_eq!(
            verdicts(2, 1, Some(Critical), &[Warning, Passing, Passing, Passing]),
            some(&[Critical, Warning, Warning, Passing])
        );
    }

    #[test]
    fn notes_are_short_and_harmless() {
        let outcome = Outcome::critical(format!("a\x1b[31m\nb\u{202e}{}", "é".repeat(2000)));
        assert_eq!(outcome.note.chars().count(), MAX_NOTE, "as many as may be reported");
        assert_eq!(Outcome::critical("é".repeat(MAX_NOTE)).note, "é".repeat(MAX_NOTE));
        assert!(outcome.note.starts_with("a [31m b é"), "{}", outcome.note);
        assert_eq!(Outcome::critical("  \n").note, "");
    }
}
