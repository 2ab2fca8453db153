//! `defib reload`

use super::Exit;
use super::args::Options;
use super::output::{escape, write_error};
use super::session;
use crate::client::Error;

/// Has the configuration read again, and says what that changes.
pub fn run(options: &Options, dry_run: bool) -> Exit {
    session::run(options, async |client, printer| {
        let reloaded = match client.reload(dry_run).await {
            Ok(reloaded) => reloaded,
            // As `defib check` tells them, so that editors find the lines.
            Err(Error::Failed(why)) => {
                why.lines().for_each(write_error);
                return Ok(Exit::Failed);
            }
            Err(error) => return Err(error.into()),
        };
        for warning in &reloaded.warnings {
            write_error(&format!("warning: {warning}"));
        }
        if printer.json {
            printer.print_json(&reloaded)?;
            return Ok(Exit::Done);
        }
        for change in &reloaded.changes {
            printer.print(&format!("{}\n", escape(&change.to_string())))?;
        }
        let closing = match (reloaded.changes.is_empty(), reloaded.applied) {
            (true, _) => "nothing has changed\n",
            (false, true) => "reloaded\n",
            (false, false) => "nothing was done yet: `defib reload` does it\n",
        };
        printer.print(closing)?;
        Ok(Exit::Done)
    })
}
