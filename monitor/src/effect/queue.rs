//! A bounded queue to a thread, which takes memory only for what waits in it.
//!
//! The queues of the daemon are as long as the worst moment asks for: thousands of services that start at once. The bounded
//! channel of std makes all of its places at the start, and tokio's cannot be waited for with a timeout by a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use std::time::Duration;

/// The end that fills the queue. Cheap to clone.
#[derive(Debug)]
pub(super) struct Sender<T> {
    items: mpsc::Sender<T>,
    fill: Arc<Fill>,
}

/// The end that empties it.
#[derive(Debug)]
pub(super) struct Receiver<T> {
    items: mpsc::Receiver<T>,
    fill: Arc<Fill>,
}

#[derive(Debug)]
struct Fill {
    /// How many items wait, or are just being put in or taken out.
    waiting: AtomicUsize,
    limit: usize,
}

/// A queue in which at most `limit` items wait.
#[expect(clippy::disallowed_methods, reason = "`Sender::try_send` is the bound")]
pub(super) fn bounded<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, items) = mpsc::channel();
    let fill = Arc::new(Fill { waiting: AtomicUsize::new(0), limit });
    (Sender { items: sender, fill: Arc::clone(&fill) }, Receiver { items, fill })
}

impl<T> Sender<T> {
    /// Puts an item in, and never waits.
    ///
    /// # Errors
    /// With the item, if there is no room or the other end is gone.
    pub(super) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        // The items themselves are handed over by the channel; this only counts.
        if self.fill.waiting.fetch_add(1, Ordering::Relaxed) >= self.fill.limit {
            self.fill.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(TrySendError::Full(item));
        }
        self.items.send(item).map_err(|SendError(item)| TrySendError::Disconnected(item))
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), fill: Arc::clone(&self.fill) }
    }
}

impl<T> Receiver<T> {
    /// Waits for an item.
    ///
    /// # Errors
    /// If none waits and the other ends are gone.
    pub(super) fn recv(&self) -> Result<T, RecvError> {
        self.items.recv().inspect(|_| self.taken())
    }

    /// Waits for an item, but not for ever.
    ///
    /// # Errors
    /// If none came, or the other ends are gone.
    pub(super) fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.items.recv_timeout(timeout).inspect(|_| self.taken())
    }

    /// Takes an item out if one is there.
    ///
    /// # Errors
    /// If none is there, or the other ends are gone too.
    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.items.try_recv().inspect(|_| self.taken())
    }

    fn taken(&self) {
        self.fill.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_comes_back() {
        let (sender, receiver) = bounded(2);
        let other = sender.clone();
        sender.try_send(1).unwrap();
        other.try_send(2).unwrap();
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(other.try_send(4), Err(TrySendError::Full(4)));
        assert_eq!(receiver.try_recv(), Ok(1));
        sender.try_send(5).unwrap();
        assert_eq!(sender.try_send(6), Err(TrySendError::Full(6)));
        assert_eq!(receiver.recv(), Ok(2));
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Ok(5));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    }

    #[test]
    fn each_end_sees_that_the_other_has_gone() {
        let (sender, receiver) = bounded(1);
        sender.try_send(1).unwrap();
        drop(sender);
        assert_eq!(receiver.recv(), Ok(1));
        assert_eq!(receiver.recv(), Err(RecvError));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        let (sender, receiver) = bounded(1);
        drop(receiver);
        assert_eq!(sender.try_send(1), Err(TrySendError::Disconnected(1)));
    }
}
