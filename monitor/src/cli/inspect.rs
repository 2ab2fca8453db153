//! `defib inspect`: what a service consists of at this moment.

use std::fmt::Write;

use clap::Args;
use clap_complete::ArgValueCompleter;
use defib_core::model::ServiceName;

use super::Exit;
use super::args::Options;
use super::names;
use super::output::{escape, size, span, table};
use super::session;
use crate::api::types::{Inspection, Listed, Memory, Process, Socket};

/// How many items of a kind are shown where nobody says how many.
const USUAL: u16 = 20;

/// The words of `defib inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Words {
    /// The service
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(names::complete))]
    name: ServiceName,
    /// How many processes, threads, files, sockets, mappings and variables are shown at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = USUAL)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    most: u16,
}

const EXAMPLES: &str = "\
All but PROCESSES is of the main process. It is read when asked, and costs nothing otherwise. Of the environment \
only the names are shown. It takes root or the user that defib runs as.

  defib inspect api                                what holds it up: threads, where they wait, sockets, memory
  defib inspect api --most 4096 --json             all of it, for a script";

/// Shows a service with all its parts.
pub fn run(options: &Options, Words { name, most }: &Words) -> Exit {
    session::run(options, async |client, printer| {
        let found = client.inspect(name, *most).await?;
        if printer.json {
            printer.print_json(&found)?;
        } else {
            printer.print(&text(&found, printer.color))?;
        }
        Ok(Exit::Done)
    })
}

fn text(found: &Inspection, color: bool) -> String {
    let mut page = Page { text: String::new(), color };
    let pid = found.pid.map_or_else(|| "it has no main process".to_owned(), |pid| format!("pid {pid}"));
    page.line(&format!("{}: {pid}", found.service));
    if let Some(start) = found.boot {
        let word = if start { "starts" } else { "does not start" };
        page.line(&format!("It {word} with defib, as set with --boot."));
    }
    if let Some(cgroup) = &found.cgroup {
        page.line(&format!("cgroup {}", escape(cgroup)));
    }
    for note in &found.notes {
        page.line(&format!("not known: {}", escape(note)));
    }
    page.part(
        "PROCESSES",
        &found.processes,
        &["PID", "USER", "STATE", "THREADS", "CPU", "MEMORY", "COMMAND"],
        process,
    );
    page.part("THREADS", &found.threads, &["TID", "STATE", "CPU", "WAITS IN", "NAME"], |thread| {
        let wchan = thread.wchan.as_deref().map(escape).unwrap_or_default();
        vec![
            thread.tid.to_string(),
            escape(&thread.state),
            span(thread.cpu_seconds),
            wchan,
            escape(&thread.name),
        ]
    });
    page.part("SOCKETS", &found.sockets, &["FD", "PROTOCOL", "STATE", "LOCAL", "REMOTE"], socket);
    page.part("FILES", &found.files, &["FD", "TARGET"], |file| {
        vec![file.fd.to_string(), file.target.as_deref().map(escape).unwrap_or_default()]
    });
    if let Some(memory) = &found.memory {
        page.memory(memory);
    }
    if !found.limits.is_empty() {
        let limits = Listed { items: found.limits.clone(), more: 0 };
        page.part("LIMITS", &limits, &["SOFT", "HARD", "UNIT", "NAME"], |limit| {
            let unit = limit.unit.as_deref().map(escape).unwrap_or_default();
            vec![escape(&limit.soft), escape(&limit.hard), unit, escape(&limit.name)]
        });
    }
    page.part("ENVIRONMENT (names only)", &found.environment, &["NAME"], |name| vec![escape(name)]);
    page.text
}

/// What is being written.
struct Page {
    text: String,
    color: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        // A String takes all that is written to it.
        writeln!(self.text, "{line}").ok();
    }

    fn head(&mut self, head: &str) {
        let (bold, plain) = if self.color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.line(&format!("\n{bold}{head}{plain}"));
    }

    /// A list under its head; nothing where nothing is in it.
    fn part<T>(&mut self, head: &str, list: &Listed<T>, columns: &[&str], row: impl Fn(&T) -> Vec<String>) {
        if list.items.is_empty() {
            return;
        }
        self.head(head);
        for line in table(columns, list.items.iter().map(row).collect()) {
            self.line(&format!("  {line}"));
        }
        if list.more > 0 {
            self.line(&format!("  and {} more", list.more));
        }
    }

    fn memory(&mut self, memory: &Memory) {
        let Memory { rss_bytes, pss_bytes, swap_bytes, mappings } = memory;
        let sums = [("resident", rss_bytes), ("its share", pss_bytes), ("swapped", swap_bytes)];
        let sums = sums.map(|(name, bytes)| format!("{name} {}", size(*bytes))).join(", ");
        self.part(&format!("MEMORY ({sums})"), mappings, &["RSS", "PSS", "SWAP", "SIZE", "MAPPING"], |it| {
            let sizes = [it.rss_bytes, it.pss_bytes, it.swap_bytes, it.size_bytes].map(size);
            sizes.into_iter().chain([escape(&it.name)]).collect()
        });
    }
}

fn process(process: &Process) -> Vec<String> {
    let indent = "  ".repeat(process.depth.min(32) as usize);
    let command = match process.command.as_slice() {
        // As ps(1) shows a zombie and a process that has wiped its arguments.
        [] => format!("[{}]", escape(&process.name)),
        words => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    };
    vec![
        process.pid.to_string(),
        escape(&process.user),
        escape(&process.state),
        process.threads.to_string(),
        span(process.cpu_seconds),
        size(process.memory_bytes),
        format!("{indent}{command}"),
    ]
}

/// An argument in quotes where it is not plain to see where it ends.
fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && !word.contains(char::is_whitespace);
    if plain { escape(word) } else { format!("'{}'", escape(word)) }
}

fn socket(socket: &Socket) -> Vec<String> {
    let end = |end: &Option<String>| end.as_deref().map(escape).unwrap_or_default();
    vec![
        socket.fd.to_string(),
        escape(&socket.protocol),
        escape(&socket.state),
        end(&socket.local),
        end(&socket.remote),
    ]
}
