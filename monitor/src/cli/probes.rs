//! `defib load-probes`

use super::Exit;
use super::args::Options;
use super::output::{Printer, complain, escape, write_error};
use super::session;
use crate::source::probe_report;

/// Loads the eBPF programs, says what came of it, and unloads them.
pub fn run(options: &Options) -> Exit {
    let lines = match probe_report() {
        Ok(lines) => lines,
        Err(error) => {
            complain(&error);
            if let Some(log) = error.verifier_log() {
                write_error(log);
            }
            return Exit::Failed;
        }
    };
    let mut printer = Printer::new(options);
    let text: String = lines.iter().map(|line| format!("{}\n", escape(line))).collect();
    let shown = if printer.json { printer.print_json(&lines) } else { printer.print(&text) };
    session::finish(shown.map(|()| Exit::Done))
}
