//! The thread on which the surfaces live. It shares nothing with the supervisor thread but
//! bounded queues and a published view.

use std::io;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::connections;
use super::handle::Handle;
use super::journal::{Entry, Journal, JournalWriter};

/// Serves clients on a socket until told to stop. What it is made of is no business of the daemon's: the program hands
/// it in.
pub type Serve =
    fn(tokio::net::UnixListener, Handle, watch::Receiver<bool>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
/// How long answers that are under way may take when the daemon leaves.
const FAREWELL: Duration = Duration::from_secs(1);

/// The running thread.
#[derive(Debug)]
pub(super) struct Surfaces {
    thread: JoinHandle<()>,
}

impl Surfaces {
    /// Starts the thread.
    pub(super) fn start(
        serve: Serve,
        listener: UnixListener,
        handle: Handle,
        journal: Arc<Journal>,
        entries: mpsc::Receiver<Entry>,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        listener.set_nonblocking(true)?;
        let thread = std::thread::Builder::new().name("defib-surfaces".into()).spawn(move || {
            runtime.block_on(async {
                match tokio::net::UnixListener::from_std(listener) {
                    Ok(listener) => {
                        // Clients are told to go when the last event is in the journal, so that they miss none.
                        let kept = tokio::spawn(async move {
                            journal.run(entries).await;
                            stop.send_replace(true);
                        });
                        let followed = tokio::spawn(connections::follow(handle.clone()));
                        serve(listener, handle, stopped).await;
                        kept.abort();
                        followed.abort();
                    }
                    Err(error) => tracing::error!(%error, "the API cannot be served"),
                }
            });
            runtime.shutdown_timeout(FAREWELL);
        })?;
        Ok(Self { thread })
    }

    /// Ends the thread, and waits for it. Nothing is told any more: that is how it knows.
    pub(super) fn stop(self, last: JournalWriter) {
        drop(last);
        if self.thread.join().is_err() {
            tracing::error!("the surfaces' thread has panicked");
        }
    }
}
