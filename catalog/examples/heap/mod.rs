//! Counts the heap: what is asked of the allocator, and what that takes in mimalloc, which the server runs with and which
//! hands out sizes in classes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::ops::Sub;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The size class: steps of 8 bytes up to 64, then four classes for each doubling.
fn class(size: usize) -> usize {
    let step = if size <= 64 { 8 } else { (size - 1).next_power_of_two() / 8 };
    let step = if size > 64 && (size - 1).is_power_of_two() { step * 2 } else { step };
    size.next_multiple_of(step)
}

fn count(size: usize) {
    ASKED.fetch_add(size, Ordering::Relaxed);
    TAKEN.fetch_add(class(size), Ordering::Relaxed);
}

fn discount(size: usize) {
    ASKED.fetch_sub(size, Ordering::Relaxed);
    TAKEN.fetch_sub(class(size), Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        discount(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        discount(layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of heap.
#[derive(Clone, Copy)]
pub(crate) struct Heap {
    asked: usize,
    taken: usize,
}

impl Heap {
    /// What is held now.
    pub(crate) fn now() -> Self {
        Self { asked: ASKED.load(Ordering::Relaxed), taken: TAKEN.load(Ordering::Relaxed) }
    }

    /// The share of each of so many, in bytes.
    pub(crate) fn each(self, count: u32) -> String {
        let each = |bytes: usize| bytes as f64 / f64::from(count);
        format!("{:.0} bytes ({:.0} in mimalloc's classes)", each(self.asked), each(self.taken))
    }
}

impl Sub for Heap {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { asked: self.asked - before.asked, taken: self.taken - before.taken }
    }
}

impl fmt::Display for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        write!(f, "{:.1} MiB ({:.1} in mimalloc's classes)", megabytes(self.asked), megabytes(self.taken))
    }
}
