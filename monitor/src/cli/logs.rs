//! `defib logs`

use std::io::{self, IsTerminal};

use defib_core::model::ServiceName;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::Exit;
use super::args::{Logs, Options};
use super::output::{Printer, complain_of, escape, size, table};
use super::session::{self, Failure};
use super::targets::{self, Targets};
use crate::api::types::{LogLine, Vacuum};
use crate::client::{Client, Error, LogNews, LogQuery, LogStream};
use crate::duration;

/// How many lines are shown unless something else is said; and before what is followed.
const USUAL: (usize, usize) = (1000, 10);

/// Shows what services have written, or looks after the files.
pub fn run(options: &Options, wanted: &Logs) -> Exit {
    session::run(options, async |client, printer| {
        let choice = targets::Choice::from(&wanted.chosen);
        let known: Vec<targets::Known> = client.status().await?.services.iter().map(Into::into).collect();
        let Targets { names, missing } = targets::find(choice, &known);
        let mut exit = Exit::Done;
        for (_, text) in &missing {
            complain_of(text);
            exit = Exit::NotFound;
        }
        if names.is_empty() {
            return Ok(exit);
        }
        let done = if wanted.disk_usage {
            usage(&client, printer, &names).await?
        } else if wanted.vacuum_time.is_some() || wanted.vacuum_size.is_some() {
            vacuum(&client, printer, wanted, if choice.is_all() { Vec::new() } else { names }).await?
        } else if wanted.count {
            count(&client, printer, wanted, &names).await?
        } else {
            show(&client, printer, wanted, &names).await?
        };
        Ok(exit.max(done))
    })
}

fn query(wanted: &Logs) -> LogQuery {
    let selected = wanted.since.is_some() || wanted.until.is_some() || wanted.grep.is_some() || wanted.count;
    let usual = if wanted.follow { Some(USUAL.1) } else { (!selected).then_some(USUAL.0) };
    LogQuery {
        lines: wanted.lines.or(usual),
        since: wanted.since.clone(),
        until: wanted.until.clone(),
        grep: wanted.grep.clone(),
        stream: wanted.stream,
        follow: wanted.follow,
    }
}

async fn count(
    client: &Client,
    printer: &mut Printer,
    wanted: &Logs,
    names: &[ServiceName],
) -> Result<Exit, Failure> {
    for name in names {
        let counted = client.count_log(name, &query(wanted)).await?;
        if printer.json {
            printer.print_json(&Count { service: name, count: counted.count })?;
        } else if names.len() > 1 {
            printer.print(&format!("{name}: {}\n", counted.count))?;
        } else {
            printer.print(&format!("{}\n", counted.count))?;
        }
    }
    Ok(Exit::Done)
}

/// The count of one of several services.
#[derive(Serialize)]
struct Count<'a> {
    service: &'a ServiceName,
    count: u64,
}

/// A line of one of several services.
#[derive(Serialize)]
struct Told<'a> {
    service: &'a ServiceName,
    #[serde(flatten)]
    line: &'a LogLine,
}

/// One service's part.
struct Row {
    name: ServiceName,
    stream: LogStream,
    head: Option<LogLine>,
}

async fn show(
    client: &Client,
    printer: &mut Printer,
    wanted: &Logs,
    names: &[ServiceName],
) -> Result<Exit, Failure> {
    let width = if names.len() > 1 { names.iter().map(|name| name.as_str().len()).max() } else { None };
    let mut pen =
        Pen { width, timestamps: wanted.timestamps, terminal: io::stdout().is_terminal(), open: false };
    let mut streams = Vec::new();
    let mut exit = Exit::Done;
    for name in names {
        match client.log(name, &query(wanted)).await {
            Ok(stream) => streams.push(Row { name: name.clone(), stream, head: None }),
            Err(error @ Error::Failed(_)) => {
                complain_of(&format!("{name}: {error}"));
                exit = exit.max(Exit::Failed);
            }
            Err(error) => return Err(error.into()),
        }
    }
    // What there is, by time; then what comes, as it comes.
    let (mut rows, mut live) = (Vec::new(), Vec::new());
    for mut row in streams {
        if advance(&mut row).await? { rows.push(row) } else { live.push(row) }
    }
    while let Some(index) = earliest(&rows) {
        let row = &mut rows[index];
        if let Some(line) = row.head.take() {
            pen.write(printer, &row.name, &line)?;
        }
        if !advance(row).await? {
            live.push(rows.swap_remove(index));
        }
    }
    if !wanted.follow {
        return Ok(exit);
    }
    let mut coming: FuturesUnordered<_> = live.into_iter().map(next).collect();
    while let Some((row, news)) = coming.next().await {
        match news? {
            Some(LogNews::Line(line)) => pen.write(printer, &row.name, &line)?,
            Some(LogNews::Missed(bytes)) => {
                complain_of(&format!(
                    "{}: {bytes} bytes came too fast to be shown; they are in the file",
                    row.name
                ));
            }
            Some(LogNews::Live) => {}
            None => continue,
        }
        coming.push(next(row));
    }
    complain_of("the daemon has left");
    Ok(Exit::Unreachable)
}

async fn next(mut row: Row) -> (Row, Result<Option<LogNews>, Error>) {
    let news = row.stream.next().await;
    (row, news)
}

/// Reads the next line of what there is; whether there was one.
async fn advance(row: &mut Row) -> Result<bool, Failure> {
    loop {
        match row.stream.next().await? {
            Some(LogNews::Line(line)) => row.head = Some(line),
            Some(LogNews::Missed(_)) => continue,
            Some(LogNews::Live) | None => {}
        }
        return Ok(row.head.is_some());
    }
}

fn earliest(rows: &[Row]) -> Option<usize> {
    let heads = rows.iter().enumerate().filter_map(|(index, row)| Some((row.head.as_ref()?.at, index)));
    heads.min().map(|(_, index)| index)
}

/// How lines are written.
struct Pen {
    /// Of the names of several services.
    width: Option<usize>,
    timestamps: bool,
    terminal: bool,
    /// Whether the last line goes on.
    open: bool,
}

impl Pen {
    fn write(&mut self, printer: &mut Printer, name: &ServiceName, line: &LogLine) -> Result<(), Failure> {
        if printer.json {
            return printer.print_json(&Told { service: name, line });
        }
        let mut bytes = Vec::new();
        // A piece of one service's line is not the beginning of another's.
        if !self.open || self.width.is_some() {
            if self.timestamps {
                bytes.extend_from_slice(stamp(line.at, &TimeZone::system()).as_bytes());
                bytes.push(b' ');
            }
            if let Some(width) = self.width {
                bytes.extend_from_slice(format!("{name:width$} | ", name = name.as_str()).as_bytes());
            }
        }
        if self.terminal {
            bytes.extend_from_slice(visible(&line.line).as_bytes());
        } else {
            bytes.extend_from_slice(&line.bytes());
        }
        self.open = line.partial && self.width.is_none();
        if !self.open || self.terminal && line.line.len() < 64 * 1024 {
            bytes.push(b'\n');
            self.open = false;
        }
        printer.print_bytes(&bytes)
    }
}

/// A line for a terminal: tabs stay, everything else that a terminal would act on is escaped.
fn visible(line: &str) -> String {
    line.split('\t').map(escape).collect::<Vec<_>>().join("\t")
}

fn stamp(at: Option<Timestamp>, zone: &TimeZone) -> String {
    at.map_or_else(
        || format!("{:29}", "-"),
        |at| at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
    )
}

async fn usage(client: &Client, printer: &mut Printer, names: &[ServiceName]) -> Result<Exit, Failure> {
    let mut usages = client.log_usage().await?;
    usages.retain(|usage| names.contains(&usage.service));
    if printer.json {
        printer.print_json(&usages)?;
        return Ok(Exit::Done);
    }
    let total =
        usages.iter().fold((0, 0), |(files, bytes), usage| (files + usage.files, bytes + usage.bytes));
    let row = |name: &str, (files, bytes): (u64, u64), path: &str| {
        vec![name.to_owned(), size(bytes), files.to_string(), escape(path)]
    };
    let mut rows: Vec<_> = usages
        .iter()
        .map(|usage| row(usage.service.as_str(), (usage.files, usage.bytes), &usage.path))
        .collect();
    rows.push(row("total", total, ""));
    for line in table(&["NAME", "SIZE", "FILES", "PATH"], rows) {
        printer.print(&format!("{line}\n"))?;
    }
    Ok(Exit::Done)
}

async fn vacuum(
    client: &Client,
    printer: &mut Printer,
    wanted: &Logs,
    services: Vec<ServiceName>,
) -> Result<Exit, Failure> {
    let older = wanted.vacuum_time.map(duration::show);
    let gone = client.vacuum_logs(&Vacuum { services, older, size: wanted.vacuum_size }).await?;
    if printer.json {
        printer.print_json(&gone)?;
    } else {
        printer.print(&format!("{} files removed, {}\n", gone.files, size(gone.bytes)))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_steered() {
        assert_eq!(visible("a\tb\x1b[2J\0\u{9b}"), "a\tb\\u{1b}[2J\\0\\u{9b}");
    }

    #[test]
    fn times_have_their_zone() {
        let at = "2026-05-01T12:00:00.1234Z".parse().unwrap();
        assert_eq!(stamp(Some(at), &TimeZone::UTC), "2026-05-01T12:00:00.123+00:00");
        assert_eq!(stamp(None, &TimeZone::UTC).len(), 29);
    }
}
