//! `defib daemon stop`, `defib daemon restart` and `defib daemon purge`

use std::time::Duration;

use serde_json::json;

use super::Exit;
use super::args::Options;
use super::output::{Printer, complain, complain_of, escape};
use super::session;
use crate::client::types::Identity;
use crate::daemon::purge;

/// How long the process may take to end once its API has.
const LEAVE: Duration = Duration::from_secs(10);

/// How long to wait for the next daemon: three that do not supervise may take a minute each until the old one is back.
const RETURN: Duration = Duration::from_secs(200);

/// How often to look whether it has: nothing tells a client that a socket is no longer served.
const LOOK: Duration = Duration::from_millis(20);

/// Asks the daemon to end everything, or nothing, and leave, and waits until it has.
pub fn stop(options: &Options, now: bool, leave: bool) -> Exit {
    session::run(options, async |client, printer| {
        // The stream of the events to come ends when the daemon has ended its services.
        let mut events = client.follow(Some(u64::MAX), None).await?;
        client.shutdown(now, leave).await?;
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
            printer.print(if leave {
                "defib has left; its services run on\n"
            } else {
                "defib has left\n"
            })?;
        }
        Ok(Exit::Done)
    })
}

/// Removes what a daemon that does not run any more has left, and says what that was.
pub fn purge(options: Options) -> Exit {
    let mut printer = Printer::new(&options);
    let purged = match purge::purge(&options.overrides(false)) {
        Ok(purged) => purged,
        Err(error) => {
            complain(&error);
            return Exit::Failed;
        }
    };
    let mut text: String =
        purged.removed.iter().map(|path| format!("removed {}\n", escape(&path.to_string_lossy()))).collect();
    for left in &purged.left {
        text.push_str(&format!("left {}: {}\n", escape(&left.path.to_string_lossy()), escape(&left.why)));
    }
    if text.is_empty() {
        text.push_str("there was nothing to remove\n");
    }
    let shown = if printer.json { printer.print_json(&purged) } else { printer.print(&text) };
    let code = if purged.left.is_empty() { Exit::Done } else { Exit::Failed };
    session::finish(shown.map(|()| code))
}

/// Has defib go on as the binary on the disk, and waits until a daemon supervises.
pub fn restart(options: &Options) -> Exit {
    session::run(options, async |client, printer| {
        let before = client.restart().await?;
        let next = async {
            loop {
                // One that dies before it has answered is followed by another; in between the keeper holds the socket.
                match client.identity().await {
                    Ok(identity) if identity.daemon != before.daemon => break identity,
                    Ok(_) | Err(_) => tokio::time::sleep(LOOK).await,
                }
            }
        };
        let Ok(after) = tokio::time::timeout(RETURN, next).await else {
            complain_of("no daemon has come back; the log of defib says why, and services run on");
            return Ok(Exit::Failed);
        };
        let result = if after.restart_failure.is_none() { "done" } else { "failed" };
        if printer.json {
            printer.print_json(&json!({ "result": result, "before": before, "after": after }))?;
        } else {
            printer.print(&told(&before, &after))?;
        }
        Ok(match after.restart_failure {
            None => Exit::Done,
            Some(why) => {
                complain_of(&why);
                Exit::Failed
            }
        })
    })
}

fn told(before: &Identity, after: &Identity) -> String {
    let keeper = if before.keeper == after.keeper {
        format!("keeper pid {} unchanged", after.keeper)
    } else {
        format!("keeper {} → {}", before.keeper, after.keeper)
    };
    format!(
        "defib {} → {}, {keeper}, daemon {} → {}\n",
        before.version, after.version, before.daemon, after.daemon
    )
}
