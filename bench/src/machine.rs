//! What the figures depend on: the machine's cores, and how long its disk takes to sync.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// The median time that `fdatasync` takes after a small append in `folder`.
pub(crate) fn sync_time(folder: &Path) -> anyhow::Result<Duration> {
    let path = folder.join("sync-probe");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        file.write_all(&[0u8; 4096])?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    drop(file);
    std::fs::remove_file(&path)?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// A line that says what this was run on.
pub(crate) fn describe(folder: &Path) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?;
    println!(
        "machine: {cores} cores; fdatasync of 4 KiB takes {:.0} µs (median)",
        sync_time(folder)?.as_secs_f64() * 1e6
    );
    Ok(())
}
