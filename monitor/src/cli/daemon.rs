//! `defib daemon stop`

use std::time::Duration;

use serde_json::json;

use super::Exit;
use super::args::Options;
use super::output::complain_of;
use super::session;

/// How long the process may take to end once its API has.
const LEAVE: Duration = Duration::from_secs(10);

/// How often to look whether it has: nothing tells a client that a socket is no longer served.
const LOOK: Duration = Duration::from_millis(20);

/// Asks the daemon to end everything and leave, and waits until it has.
pub fn stop(options: &Options, now: bool) -> Exit {
    session::run(options, async |client, printer| {
        // The stream of the events to come ends when the daemon has ended its services.
        let mut events = client.follow(Some(u64::MAX), None).await?;
        client.shutdown(now).await?;
        while let Ok(Some(_)) = events.next().await {}
        let gone = async {
            while client.answers().await {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(LEAVE, gone).await.is_err() {
            complain_of("the daemon has been asked to leave, and still answers; its log says why");
            return Ok(Exit::Failed);
        }
        if printer.json {
            printer.print_json(&json!({ "result": "done" }))?;
        } else {
            printer.print("defib has left\n")?;
        }
        Ok(Exit::Done)
    })
}
