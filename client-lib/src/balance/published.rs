//! The table that is picked from, as each thread last saw it.
//!
//! Reading through an `ArcSwap` costs two atomic exchanges, a quarter of a pick by turns. So each thread keeps the tables
//! that it picked from last, and looks at a number that only grows to see whether its own is still the present one. The
//! price is memory: a thread that picks no more keeps its last tables, four at most, until it ends. Tables with a ring
//! are large, and finding a key there takes longer anyway: they are not kept.

use super::table::Table;
use arc_swap::ArcSwap;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// How many tables a thread keeps; a power of two.
const KEPT: usize = 4;
/// So many picks from another balancer take the place of one that is kept. Were it fewer, balancers that are used in
/// turns would push each other out at each pick.
const PATIENCE: u32 = 16;

/// A table that a thread has seen.
struct Seen {
    balancer: u64,
    generation: u64,
    table: Arc<Table>,
    /// How often another balancer wanted the place.
    wanted: u32,
}

thread_local! {
    static SEEN: RefCell<[Option<Seen>; KEPT]> = const { RefCell::new([const { None }; KEPT]) };
}

/// The present table of one balancer.
#[derive(Debug)]
pub(super) struct Published {
    /// Never that of another balancer.
    balancer: u64,
    /// Whether threads keep it.
    kept: bool,
    generation: AtomicU64,
    table: ArcSwap<Table>,
}

impl Published {
    pub(super) fn new(table: Table) -> Self {
        static BALANCERS: AtomicU64 = AtomicU64::new(0);
        Self {
            balancer: BALANCERS.fetch_add(1, Relaxed),
            kept: !table.is_large(),
            generation: AtomicU64::new(0),
            table: ArcSwap::from_pointee(table),
        }
    }

    /// Sets the table. Whoever knows that this is done reads none but this one or a later one.
    pub(super) fn publish(&self, table: Table) {
        self.table.store(Arc::new(table));
        self.generation.fetch_add(1, Release);
    }

    /// The table, to be looked at for longer.
    pub(super) fn load(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Looks at the table.
    #[inline]
    pub(super) fn read<R>(&self, look: impl Fn(&Table) -> R) -> R {
        if !self.kept {
            return look(&self.table.load());
        }
        // Before the table is read: one that is newer than its generation is only read once more.
        let generation = self.generation.load(Acquire);
        let seen = SEEN.try_with(|seen| {
            let mut seen = seen.try_borrow_mut().ok()?;
            let seen = &mut seen[self.balancer as usize % KEPT];
            if !seen.as_ref().is_some_and(|seen| seen.balancer == self.balancer && seen.generation == generation) {
                self.refresh(seen, generation)?;
            }
            seen.as_ref().map(|seen| look(&seen.table))
        });
        // The thread is about to end, or others are at the place.
        seen.ok().flatten().unwrap_or_else(|| look(&self.table.load()))
    }

    /// Has the thread keep the present table. None where it keeps another balancer's.
    #[cold]
    fn refresh(&self, seen: &mut Option<Seen>, generation: u64) -> Option<()> {
        if let Some(other) = seen.as_mut().filter(|seen| seen.balancer != self.balancer) {
            other.wanted += 1;
            if other.wanted < PATIENCE {
                return None;
            }
        }
        *seen = Some(Seen { balancer: self.balancer, generation, table: self.load(), wanted: 0 });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::Policy;
    use super::*;

    fn table(panic: bool) -> Table {
        Table::new(Policy::Random, Vec::new(), panic)
    }

    #[test]
    fn what_was_published_is_read_by_every_thread() {
        let published = Published::new(table(false));
        for panic in [true, false, true] {
            published.publish(table(panic));
            assert_eq!(published.read(|table| table.panic), panic);
            std::thread::scope(|scope| {
                scope.spawn(|| (0..3).for_each(|_| assert_eq!(published.read(|table| table.panic), panic)));
            });
        }
    }

    #[test]
    fn balancers_that_share_a_place_read_their_own() {
        let all: Vec<Published> = (0..20).map(|n| Published::new(table(n % 3 == 0))).collect();
        for _ in 0..50 {
            for (n, published) in all.iter().enumerate() {
                assert_eq!(published.read(|table| table.panic), n % 3 == 0);
            }
        }
    }

    #[test]
    fn a_read_within_a_read_works() {
        let (outer, inner) = (Published::new(table(true)), Published::new(table(false)));
        assert!(outer.read(|table| table.panic && !inner.read(|table| table.panic)));
    }

    #[test]
    fn a_thread_keeps_a_few_tables_only() {
        let all: Vec<Published> = (0..20).map(|_| Published::new(table(false))).collect();
        for _ in 0..50 {
            all.iter().for_each(|published| published.read(|_| ()));
        }
        let kept = SEEN.with_borrow(|seen| seen.iter().flatten().count());
        assert!(kept <= KEPT);
        let shared = all.iter().filter(|published| Arc::strong_count(&published.load()) > 2).count();
        assert!(shared <= KEPT, "{shared} tables are kept");
    }
}
