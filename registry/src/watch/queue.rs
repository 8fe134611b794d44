//! The queue between hub and stream: bounded, and without memory while it is empty, because there are thousands of them.

use bytes::Bytes;
use fingerpost_catalog::Position;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// Positions that may wait for a slow reader before its subscriptions have to catch up from the history.
const POSITIONS: usize = 64;
/// Bytes that may wait; the last delivery may go beyond.
const BYTES: usize = 1 << 20;

/// Everything that one position means to one subscription, ready to be sent.
pub(crate) struct Delivery {
    /// The subscription's number in its stream.
    pub(crate) subscription: u32,
    /// The position.
    pub(crate) position: Position,
    /// The events, whole.
    pub(crate) chunk: Bytes,
}

/// A subscription that did not get a delivery, and is no longer in the hub.
#[derive(Clone, Copy)]
pub(crate) struct Behind {
    /// The subscription's number in its stream.
    pub(crate) subscription: u32,
    /// Up to where it has been handed everything.
    pub(crate) complete: Position,
}

/// One stream's deliveries. The hub holds clones, the stream reads.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Delivery>,
    /// How many positions wait: a commit that concerns many of the stream's subscriptions counts once.
    positions: usize,
    bytes: usize,
    behind: Vec<Behind>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), arrived: Notify::new() }))
    }

    /// Hands over a delivery. Where there is no room for it, the subscription is noted as behind, complete up to
    /// `complete`, and must be taken out of the hub; false then.
    pub(crate) fn push(&self, delivery: Delivery, complete: Position) -> bool {
        let mut state = self.0.state.lock();
        let new = state.waiting.back().is_none_or(|last| last.position != delivery.position);
        let full = state.bytes >= BYTES || (new && state.positions >= POSITIONS);
        if full {
            state.behind.push(Behind { subscription: delivery.subscription, complete });
        } else {
            state.positions += usize::from(new);
            state.bytes += delivery.chunk.len();
            state.waiting.push_back(delivery);
        }
        drop(state);
        self.0.arrived.notify_one();
        !full
    }

    /// Notes that a subscription was taken out of the hub.
    pub(crate) fn fall_behind(&self, behind: Behind) {
        self.0.state.lock().behind.push(behind);
        self.0.arrived.notify_one();
    }

    /// Waits until something arrived since the last time; it may have been taken already. Cancel-safe.
    pub(crate) async fn arrived(&self) {
        self.0.arrived.notified().await;
    }

    pub(crate) fn pop(&self) -> Option<Delivery> {
        let mut state = self.0.state.lock();
        let first = state.waiting.pop_front()?;
        state.bytes -= first.chunk.len();
        if state.waiting.front().is_none_or(|next| next.position != first.position) {
            state.positions -= 1;
        }
        if state.waiting.is_empty() {
            // A burst's memory is given back.
            state.waiting = VecDeque::new();
        }
        Some(first)
    }

    /// The subscriptions that fell behind, once they have been sent all that they were handed before.
    pub(crate) fn take_behind(&self) -> Vec<Behind> {
        let mut state = self.0.state.lock();
        if state.waiting.is_empty() { std::mem::take(&mut state.behind) } else { Vec::new() }
    }

    /// Whether nothing waits and nobody fell behind.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.0.state.lock();
        state.waiting.is_empty() && state.behind.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::Epoch;

    fn delivery(number: u64, subscription: u32) -> Delivery {
        Delivery { subscription, position: Position::new(Epoch(1), number), chunk: Bytes::from_static(b"x") }
    }

    #[test]
    fn a_position_of_many_subscriptions_counts_once() {
        let queue = Queue::new();
        let complete = Position::new(Epoch(1), 0);
        for number in 1..=POSITIONS as u64 {
            assert!((0..1000).all(|subscription| queue.push(delivery(number, subscription), complete)));
        }
        assert!(!queue.push(delivery(1_000_000, 7), Position::new(Epoch(1), 99)));
        assert!(queue.take_behind().is_empty(), "what it was handed before comes first");
        while queue.pop().is_some() {}
        assert!(!queue.is_settled());
        let behind = queue.take_behind();
        assert_eq!(behind.iter().map(|b| (b.subscription, b.complete.number)).collect::<Vec<_>>(), [(7, 99)]);
        assert!(queue.is_settled() && queue.push(delivery(1_000_001, 7), complete));
    }
}
