//! `defib doctor`

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Builder;

use super::Exit;
use super::args::Options;
use super::output::Printer;
use super::rows::{self, Line, Mark};
use super::session::{self, Failure};
use crate::client::{self, Client};
use crate::doctor::{self, Report, Row, Running, Verdict};

/// How long a daemon may take to say which source it uses.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says what this kernel and these rights allow, row by row, with the remedies.
pub fn run(options: &Options) -> Exit {
    session::finish(attempt(options))
}

fn attempt(options: &Options) -> Result<Exit, Failure> {
    let mut printer = Printer::new(options);
    let (overrides, folders) = (options.clone().overrides(false), options.socket_folders()?);
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let report = runtime.block_on(async {
        let running = running(&folders).await;
        doctor::examine(&overrides, &running)
    });
    if printer.json {
        printer.print_json(&report)?;
    } else {
        printer.print(&text(&report, printer.color))?;
    }
    Ok(if report.works() { Exit::Done } else { Exit::Failed })
}

/// Asks the daemon that answers in one of these folders, if one does.
async fn running(folders: &[PathBuf]) -> Running {
    let asked = tokio::time::timeout(PATIENCE, async {
        let client = Client::find(folders).await?;
        let status = client.status().await?;
        Ok((client, status))
    });
    let (client, status) = match asked.await {
        Ok(Ok(answered)) => answered,
        Ok(Err(client::Error::Unreachable { tried })) => {
            let places: Vec<_> = tried.iter().map(|tried| tried.socket.display().to_string()).collect();
            return Running::Nowhere(places.join(" or "));
        }
        Ok(Err(error)) => return Running::Silent(error.to_string()),
        Err(_) => return Running::Silent(format!("no answer within {}s", PATIENCE.as_secs())),
    };
    let peer = UnixStream::connect(client.socket()).await.and_then(|stream| stream.peer_cred());
    let pid = peer.ok().and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok());
    Running::Here {
        socket: client.socket().display().to_string(),
        // A process of another pid namespace has the number 0 here.
        pid: pid.filter(|pid| *pid != 0),
        source: status.source,
        state_trouble: status.state_database.trouble,
    }
}

fn text(report: &Report, color: bool) -> String {
    let width = report.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    let mut group = None;
    for row in &report.rows {
        if group != Some(row.group) {
            let gap = if group.is_some() { "\n" } else { "" };
            text.push_str(&format!("{gap}{}\n", rows::head(row.group.as_str(), color)));
            group = Some(row.group);
        }
        lines(row, width, color, &mut text);
    }
    text
}

fn lines(row: &Row, width: usize, color: bool, text: &mut String) {
    let mark = match row.verdict {
        Verdict::Ok => Mark::Good,
        Verdict::Limited => Mark::Doubtful,
        Verdict::Missing => Mark::Bad,
    };
    let verdict = row.verdict.as_str();
    let line = Line { name: &row.name, mark, verdict, found: &row.found, remedy: &row.remedy };
    line.append(width, color, text);
}

#[cfg(test)]
mod tests {
    use defib_core::model::SourceName;

    use super::rows::WIDTH;
    use super::*;
    use crate::doctor::Group;

    fn row(group: Group, name: &str, verdict: Verdict, found: &str, remedy: &str) -> Row {
        let (name, found, remedy) = (name.to_owned(), found.to_owned(), remedy.to_owned());
        Row { group, name, verdict, found, remedy, fatal: false }
    }

    fn report() -> Report {
        let rows = vec![
            row(Group::Host, "kernel", Verdict::Ok, "Linux\n\x1b[2J", ""),
            row(Group::Host, "user", Verdict::Limited, "nobody", "be root"),
            row(Group::Limits, "open-files", Verdict::Missing, &"word ".repeat(20), ""),
        ];
        Report { rows, source: SourceName::Pidfd }
    }

    #[test]
    fn rows_stand_below_their_group_with_the_remedy_beneath() {
        let shown = text(&report(), false);
        let wanted = "host\n  kernel      ok       Linux\\n\\u{1b}[2J\n  user        limited  nobody\n                       → be root\n\nlimits\n  open-files  missing  word";
        assert!(shown.starts_with(wanted), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
        assert_eq!(shown.lines().last().map(|line| line.trim_start()), Some("word word word word word "));
    }

    #[test]
    fn colour_is_in_the_verdicts_and_heads_only() {
        let shown = text(&report(), true);
        assert!(shown.contains("  \x1b[33mlimited\x1b[0m  nobody\n"), "{shown:?}");
        assert!(shown.contains("\x1b[32mok     \x1b[0m"), "{shown:?}");
    }

    #[test]
    fn only_what_is_fatal_decides_the_exit_code() {
        let mut report = report();
        assert!(report.works(), "missing rows alone are no failure");
        report.rows[2].fatal = true;
        assert!(!report.works());
    }
}
