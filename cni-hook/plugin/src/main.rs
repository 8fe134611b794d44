//! `fingerpost-cni`: reads what the runtime says, does it, and answers as CNI wants it.

use fingerpost_cni::plugin;
use std::io::{Read, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = plugin::run(
        |name| std::env::var_os(name),
        || {
            let mut input = Vec::new();
            // One octet more than is allowed, so as to notice that there is more.
            std::io::stdin().lock().take(plugin::MAX_CONFIG + 1).read_to_end(&mut input)?;
            Ok(input)
        },
    );
    if let Some(note) = outcome.stderr {
        // Free text for the runtime's log; nobody is helped by a failure to write it.
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    let mut out = std::io::stdout().lock();
    let written = out.write_all(outcome.stdout.as_bytes()).and_then(|()| out.flush());
    if outcome.failed || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
