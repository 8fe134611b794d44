//! A disk in memory that fails like a disk: it loses and tears what was not synced when it crashes, runs out of room, and
//! returns errors.
//!
//! Writes are visible at once, like in an operating system's page cache, and durable after a sync. At a crash each
//! 512-byte sector written since the last sync is there or is not. After a sync that failed, what it should have made
//! durable stays visible and never becomes durable, unless it is written again: that is what Linux does.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use fingerpost_registry::store::embedded::Medium;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redb::StorageBackend;
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::Arc;

const SECTOR: usize = 512;
const BLOCK: u64 = 4096;
/// Blocks that are kept for repairs.
const RESERVE: usize = 64;

enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
}

/// What the disk does wrong next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// After so many steps it is gone, as in a power cut.
    Crash(u64),
    /// After so many steps, so many fail.
    Errors(u64, u64),
}

struct State {
    rng: StdRng,
    visible: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Step>,
    fault: Option<Fault>,
    dead: bool,
    /// Blocks that take room, and how many may.
    used: HashSet<u64>,
    room: Option<usize>,
    reserved: usize,
    errors: u64,
}

/// The disk. Clones are the same one.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            visible: Vec::new(),
            durable: Vec::new(),
            unsynced: Vec::new(),
            fault: None,
            dead: false,
            used: HashSet::new(),
            room: None,
            reserved: 0,
            errors: 0,
        })))
    }

    pub fn medium(&self) -> Box<dyn Medium> {
        Box::new(self.clone())
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.0.lock().fault = fault;
    }

    /// Leaves room for so many more blocks; none: as many as you like.
    pub fn set_room(&self, more: Option<usize>) {
        let mut state = self.0.lock();
        state.room = more.map(|more| state.used.len() + state.reserved + more);
    }

    /// How many errors were returned.
    pub fn errors(&self) -> u64 {
        self.0.lock().errors
    }

    /// What is left after a power cut, on a disk that works again.
    pub fn crash(&self) {
        let mut state = self.0.lock();
        let state = &mut *state;
        let steps = std::mem::take(&mut state.unsynced);
        // Some crashes lose everything, some nothing, most something.
        let share = match state.rng.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => state.rng.random_range(0.0..1.0),
        };
        for step in steps {
            tear(&mut state.rng, &mut state.durable, &step, share);
        }
        state.visible = state.durable.clone();
        state.dead = false;
        state.fault = None;
    }
}

impl Medium for Disk {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        if self.0.lock().dead {
            return Err(io::Error::other("the disk is gone"));
        }
        Ok(Box::new(self.clone()))
    }

    fn keep_reserve(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.room.is_some_and(|room| state.used.len() + RESERVE > room) {
            return Err(ErrorKind::StorageFull.into());
        }
        state.reserved = RESERVE;
        Ok(())
    }

    fn free_reserve(&self) {
        self.0.lock().reserved = 0;
    }
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Length(length) => bytes.resize(*length as usize, 0),
        Step::Write(offset, data) => {
            let end = *offset as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(data);
        }
    }
}

fn tear(rng: &mut StdRng, bytes: &mut Vec<u8>, step: &Step, share: f64) {
    match step {
        Step::Length(_) => {
            if rng.random_bool(share) {
                apply(bytes, step);
            }
        }
        Step::Write(offset, data) => {
            for (place, sector) in data.chunks(SECTOR).enumerate() {
                if rng.random_bool(share) {
                    apply(bytes, &Step::Write(offset + (place * SECTOR) as u64, sector.to_vec()));
                }
            }
        }
    }
}

impl State {
    /// Counts a step that changes something; true if it fails.
    fn fails(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(io::Error::other("the disk is gone"));
        }
        match &mut self.fault {
            Some(Fault::Crash(0)) => {
                self.dead = true;
                Ok(true)
            }
            Some(Fault::Crash(left)) => {
                *left -= 1;
                Ok(false)
            }
            Some(Fault::Errors(0, 0)) => {
                self.fault = None;
                Ok(false)
            }
            Some(Fault::Errors(0, left)) => {
                *left -= 1;
                self.errors += 1;
                Ok(true)
            }
            Some(Fault::Errors(left, _)) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn error(&mut self) -> io::Error {
        if self.rng.random_bool(0.5) { ErrorKind::StorageFull.into() } else { io::Error::from_raw_os_error(5) }
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        if self.fails()? {
            // Part of it may have happened.
            let share = self.rng.random_range(0.0..=1.0);
            if let Step::Write(offset, data) = &step {
                let keep = (data.len() as f64 * share) as usize / SECTOR * SECTOR;
                let part = Step::Write(*offset, data[..keep].to_vec());
                apply(&mut self.visible, &part);
                self.unsynced.push(part);
            }
            return Err(self.error());
        }
        if let (Step::Write(offset, data), Some(room)) = (&step, self.room) {
            let blocks = offset / BLOCK..=(offset + data.len() as u64 - 1) / BLOCK;
            let fresh: Vec<u64> = blocks.filter(|block| !self.used.contains(block)).collect();
            if self.used.len() + self.reserved + fresh.len() > room && !fresh.is_empty() {
                self.errors += 1;
                return Err(ErrorKind::StorageFull.into());
            }
        }
        if let Step::Write(offset, data) = &step
            && !data.is_empty()
        {
            self.used.extend(offset / BLOCK..=(offset + data.len() as u64 - 1) / BLOCK);
        }
        apply(&mut self.visible, &step);
        self.unsynced.push(step);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().visible.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        if state.dead {
            return Err(io::Error::other("the disk is gone"));
        }
        let end = offset as usize + out.len();
        let found = state.visible.get(offset as usize..end).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().step(Step::Length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let failed = state.fails()?;
        if failed && state.dead {
            return Err(state.error());
        }
        let share = if failed { state.rng.random_range(0.0..1.0) } else { 1.0 };
        for step in std::mem::take(&mut state.unsynced) {
            if failed {
                tear(&mut state.rng, &mut state.durable, &step, share);
            } else {
                apply(&mut state.durable, &step);
            }
        }
        if failed { Err(state.error()) } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.lock().step(Step::Write(offset, data.to_vec()))
    }
}
