//! `defib check`

use std::sync::Arc;

use defib_core::model::{ServiceName, ServiceSpec};
use nix::unistd::geteuid;
use serde::Serialize;

use super::Exit;
use super::args::Options;
use super::choice::Chosen;
use super::output::{Printer, complain_of, escape, write_error};
use super::rows;
use super::session::{self, Failure};
use super::targets::{self, Known, Targets};
use crate::config::{self, Finding, Loaded};
use crate::preflight::{self, Row, Verdict as Found};
use crate::web::WebFile;

/// What came of the configuration, in JSON.
#[derive(Debug, Serialize)]
struct Verdict {
    ok: bool,
    file: String,
    services: usize,
    errors: Vec<String>,
    warnings: Vec<String>,
    /// The services that were asked for; left out where none was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Check>,
}

/// What was found of a service, in JSON.
#[derive(Debug, Serialize)]
struct Check {
    service: ServiceName,
    ok: bool,
    rows: Vec<Row>,
}

/// Checks the configuration and all that decides over it; and whether the services that are chosen could be started.
pub fn run(options: Options, chosen: &Chosen, strict: bool) -> Exit {
    let mut printer = Printer::new(&options);
    let overrides = options.overrides(strict);
    let (path, _) = overrides.config();
    let file = path.display().to_string();
    let lines = |findings: std::slice::Iter<'_, Finding>| findings.map(Finding::to_string).collect();
    let mut exit = Exit::Done;
    let verdict = match config::load(&path, &overrides) {
        Ok(loaded) => {
            let web = loaded.settings.listen.web_config.as_deref();
            let web = web.and_then(|path| WebFile::open(path, overrides.euid).err());
            let (checks, missing) = checks(&loaded, chosen, strict);
            exit = if missing { Exit::NotFound } else { Exit::Done };
            Verdict {
                ok: web.is_none() && checks.iter().all(|check| check.ok),
                file,
                services: loaded.settings.services.len(),
                errors: web.iter().map(|error| format!("listen.web_config: {error}")).collect(),
                warnings: lines(loaded.warnings.iter()),
                checks,
            }
        }
        Err(errors) => Verdict {
            ok: false,
            file,
            services: 0,
            errors: lines(errors.iter()),
            warnings: Vec::new(),
            checks: Vec::new(),
        },
    };
    let shown = show(&mut printer, &verdict, is_none(chosen));
    session::finish(shown.map(|shown| shown.max(exit)))
}

/// Whether no service is chosen: elsewhere that means all of them.
fn is_none(Chosen { names, group, all }: &Chosen) -> bool {
    names.is_empty() && group.is_empty() && !all
}

/// The services that are meant, one by one; and whether a word means none.
fn checks(loaded: &Loaded, chosen: &Chosen, strict: bool) -> (Vec<Check>, bool) {
    let services = &loaded.settings.services;
    let known: Vec<Known> = services
        .iter()
        .map(|spec| Known { name: spec.name.clone(), group: spec.service_group.clone() })
        .collect();
    let Targets { names, missing } =
        if is_none(chosen) { Targets::default() } else { targets::find(chosen.into(), &known) };
    for (_, text) in &missing {
        complain_of(text);
    }
    let worst = if strict { Found::Ok } else { Found::Warning };
    let check = |spec: &Arc<ServiceSpec>| {
        let rows = preflight::examine(spec, &loaded.settings.daemon, geteuid().as_raw());
        let ok = rows.iter().all(|row| row.verdict <= worst);
        Check { service: spec.name.clone(), ok, rows }
    };
    (services.iter().filter(|spec| names.contains(&spec.name)).map(check).collect(), !missing.is_empty())
}

fn show(printer: &mut Printer, verdict: &Verdict, whole: bool) -> Result<Exit, Failure> {
    for warning in &verdict.warnings {
        write_error(&format!("warning: {warning}"));
    }
    for error in &verdict.errors {
        write_error(error);
    }
    if printer.json {
        printer.print_json(verdict)?;
    } else if !whole {
        printer.print(&text(&verdict.checks, printer.color))?;
    } else if verdict.ok {
        let services = verdict.services;
        let plural = if services == 1 { "" } else { "s" };
        printer.print(&format!("{}: ok, {services} service{plural}\n", escape(&verdict.file)))?;
    }
    Ok(if verdict.ok { Exit::Done } else { Exit::Failed })
}

/// A block for each service: its name, and its rows below.
fn text(checks: &[Check], color: bool) -> String {
    let names = checks.iter().flat_map(|check| &check.rows).map(|row| row.name.chars().count());
    let width = names.max().unwrap_or(0);
    let mut text = String::new();
    for (index, check) in checks.iter().enumerate() {
        let gap = if index > 0 { "\n" } else { "" };
        text.push_str(&format!("{gap}{}\n", rows::head(check.service.as_str(), color)));
        for row in &check.rows {
            let mark = match row.verdict {
                Found::Ok => rows::Mark::Good,
                Found::Warning => rows::Mark::Doubtful,
                Found::Error => rows::Mark::Bad,
            };
            let line = rows::Line {
                name: &row.name,
                mark,
                verdict: row.verdict.as_str(),
                found: &row.found,
                remedy: &row.remedy,
            };
            line.append(width, color, &mut text);
        }
    }
    text
}
