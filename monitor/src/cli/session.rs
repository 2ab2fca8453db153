//! What every verb that talks to the daemon shares: a runtime, a client, Ctrl-C, and what to say when it fails.

use std::io;

use tokio::runtime::Builder;
use tokio::signal::ctrl_c;

use super::Exit;
use super::args::Options;
use super::output::{Printer, complain};
use crate::client::{self, Client};
use crate::config::ConfigErrors;

/// Why a verb could not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The daemon could not be asked, or has refused.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The configuration that names the daemon cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Standard output could not be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Something could not be shown as JSON.
    #[error("cannot be shown as JSON")]
    Json(#[from] serde_json::Error),
    /// The runtime could not be made.
    #[error("cannot wait for the daemon")]
    Runtime(#[source] io::Error),
}

impl Failure {
    /// Says what went wrong. A reader who has closed the pipe has seen enough: that is no failure.
    fn report(&self) -> Exit {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Client(error) => {
                complain(self);
                Exit::from(error)
            }
            Self::Config(_) => {
                complain(self);
                Exit::Usage
            }
            Self::Output(_) | Self::Json(_) | Self::Runtime(_) => {
                complain(self);
                Exit::Failed
            }
        }
    }
}

/// Runs a verb that talks to the daemon, until it is done or interrupted.
pub(super) fn run(
    options: &Options,
    verb: impl AsyncFnOnce(Client, &mut Printer) -> Result<Exit, Failure>,
) -> Exit {
    finish(attempt(options, verb))
}

/// Says what went wrong, if something did.
pub(super) fn finish(outcome: Result<Exit, Failure>) -> Exit {
    outcome.unwrap_or_else(|failure| failure.report())
}

fn attempt(
    options: &Options,
    verb: impl AsyncFnOnce(Client, &mut Printer) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let mut printer = Printer::new(options);
    let work = async {
        let client = Client::find(&options.socket_folders()?).await?;
        verb(client, &mut printer).await
    };
    runtime.block_on(async {
        tokio::select! {
            outcome = work => outcome,
            interrupted = ctrl_c() => interrupted.map(|()| Exit::Interrupted).map_err(Failure::Runtime),
        }
    })
}
