//! Benchmarks: `cargo xtask bench [WHAT…]`.
//!
//! - [`restart`]: how long after a crash the replacement runs, against a bare C loop in the same minute.
//! - [`idle`]: what supervising a hundred quiet services costs. Each context switch is one too many.
//! - [`footprint`]: memory, and the time to start, with 1, 100 and 1000 services.
//! - [`strangers`]: what hearing of processes costs those that are none of defib's, by source.
//! - [`handling`]: how long after a kill the daemon has handled it, by source.
//! - [`scrape`]: what a scrape of the metrics takes, and what it does to restarts.
//! - [`logs`]: how much output of services comes into files without a loss.
//!
//! Every figure is taken from a release build of the program as it is shipped, configured by an ordinary file. A
//! figure is worth what its surroundings were: the report names them, and a restart is compared only with the loop
//! that was crashed in turn with it, never with a figure of another day. How far the ratio of the control (the same
//! loop once more) is from 1 says how small a difference this machine can show at all.

mod clock;
mod footprint;
mod handling;
mod host;
mod idle;
mod logs;
mod options;
mod patient;
mod programs;
mod report;
mod restart;
mod scrape;
mod starts;
mod stats;
mod strangers;
mod subject;

use std::fs;

use anyhow::{Context, Result};
use serde_json::json;

use host::Host;
use options::{Options, Parsed, What};
use programs::Programs;

/// Runs the benchmarks that `args` ask for, prints their tables and writes the figures as JSON.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = match Options::parse(args)? {
        Parsed::Run(options) => options,
        Parsed::Help => {
            print!("{}", options::USAGE);
            return Ok(());
        }
    };
    let programs = Programs::build(options.defib.as_deref())?;
    let host = Host::look()?;
    println!("{host}");
    let mut document = json!({ "host": host.json() });
    if options.what.includes(What::Restart) {
        let restarts = restart::measure(&programs, options.runs, options.crashes)?;
        println!("\n{}", report::restart_table(&restarts));
        document["restart"] = report::restart_json(&restarts);
    }
    if options.what.includes(What::Idle) {
        let idle = idle::measure(&programs, options.window)?;
        println!("\n{}", report::idle_table(&idle));
        document["idle"] = report::idle_json(&idle);
    }
    if options.what.includes(What::Footprint) {
        let footprints = footprint::measure(&programs)?;
        println!("\n{}", footprint::table(&footprints));
        document["footprint"] = footprint::json(&footprints);
    }
    if options.what.includes(What::Strangers) {
        let strangers = strangers::measure(&programs, options.runs)?;
        println!("\n{}", report::strangers_table(&strangers));
        document["strangers"] = report::strangers_json(&strangers);
    }
    if options.what.includes(What::Handling) {
        let handlings = handling::measure(&programs, options.runs, options.crashes)?;
        println!("\n{}", report::handling_table(&handlings));
        document["handling"] = report::handling_json(&handlings);
    }
    if options.what.includes(What::Scrape) {
        let scraping = scrape::measure(&programs, options.crashes)?;
        println!("\n{}", report::scrape_table(&scraping));
        document["scrape"] = report::scrape_json(&scraping);
    }
    if options.what.includes(What::Logs) {
        let logs = logs::measure(&programs)?;
        println!("\n{}", report::logs_table(&logs));
        document["logs"] = report::logs_json(&logs);
    }
    let file = options.json.unwrap_or_else(|| programs.folder().join(options.what.file_name()));
    fs::write(&file, format!("{document:#}\n"))
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("\nwritten to {}", file.display());
    Ok(())
}
