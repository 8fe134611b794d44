//! The signals that end the server.

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Once this exists, such a signal is no end without a word, and none is missed, whenever it is asked for. So there is
/// one of these, made before anything is begun.
pub(crate) struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    pub(crate) fn register() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one, be it that it came before.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
