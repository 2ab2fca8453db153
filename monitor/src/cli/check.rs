//! `defib check`

use serde::Serialize;

use super::Exit;
use super::args::Options;
use super::output::{Printer, write_error};
use super::session::{self, Failure};
use crate::config::{self, Finding};

/// What came of it, in JSON.
#[derive(Debug, Serialize)]
struct Verdict {
    ok: bool,
    file: String,
    services: usize,
    errors: Vec<String>,
    warnings: Vec<String>,
}

/// Checks the configuration file and all that decides over it.
pub fn run(options: Options, strict: bool) -> Exit {
    let mut printer = Printer::new(&options);
    let overrides = options.overrides(strict);
    let (path, _) = overrides.config();
    let file = path.display().to_string();
    let lines = |findings: std::slice::Iter<'_, Finding>| findings.map(Finding::to_string).collect();
    let verdict = match config::load(&path, &overrides) {
        Ok(loaded) => Verdict {
            ok: true,
            file,
            services: loaded.settings.services.len(),
            errors: Vec::new(),
            warnings: lines(loaded.warnings.iter()),
        },
        Err(errors) => {
            Verdict { ok: false, file, services: 0, errors: lines(errors.iter()), warnings: Vec::new() }
        }
    };
    session::finish(show(&mut printer, &verdict))
}

fn show(printer: &mut Printer, verdict: &Verdict) -> Result<Exit, Failure> {
    for warning in &verdict.warnings {
        write_error(&format!("warning: {warning}"));
    }
    for error in &verdict.errors {
        write_error(error);
    }
    if printer.json {
        printer.print_json(verdict)?;
    } else if verdict.ok {
        let services = verdict.services;
        let plural = if services == 1 { "" } else { "s" };
        printer
            .print(&format!("{}: ok, {services} service{plural}\n", super::output::escape(&verdict.file)))?;
    }
    Ok(if verdict.ok { Exit::Done } else { Exit::Failed })
}
