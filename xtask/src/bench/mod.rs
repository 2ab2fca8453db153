//! Benchmarks: `cargo xtask bench [WHAT…]`.
//!
//! - [`restart`]: how long after a crash the replacement runs: defib and its peers, against bare C loops in the same
//!   minute.
//! - [`path`]: where the time of a restart goes, step by step, by the kernel's tracepoints.
//! - [`loaded`]: the same for defib alone, under load of several kinds.
//! - [`connections`]: what clients of a server notice when it is crashed.
//! - [`counting`]: what it costs to count connections, and whether the counts are right.
//! - [`crash_loop`]: what is left of very many crashes.
//! - [`idle`]: what supervising a hundred quiet services costs. Each context switch is one too many.
//! - [`footprint`]: memory, and the time to start, with 1, 100 and 1000 services.
//! - [`strangers`]: what hearing of processes costs those that are none of defib's, by source.
//! - [`handling`]: how long after a kill the daemon has handled it, by source.
//! - [`scrape`]: what a scrape of the metrics takes, and what it does to restarts.
//! - [`logs`]: how much output of services comes into files without a loss.
//! - [`survive`]: what the death of daemon and keeper costs.
//!
//! Every figure is taken from a release build of the program as it is shipped, configured by an ordinary file. A
//! figure is worth what its surroundings were: the report names them, and a restart is compared only with the loop
//! that was crashed in turn with it, never with a figure of another day. How far the ratio of the control (the same
//! loop once more) is from 1 says how small a difference this machine can show at all.

mod arena;
mod cage;
mod clock;
mod connections;
mod counting;
mod crash_loop;
mod footprint;
mod hammer;
mod handling;
mod host;
mod http;
mod idle;
mod loaded;
mod logs;
mod options;
mod outcome;
mod path;
mod peers;
mod programs;
mod restart;
mod scrape;
mod section;
mod stage;
mod starts;
mod stats;
mod strangers;
mod subject;
mod survive;
mod svg;
mod tracer;
mod tree;
mod victims;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use arena::Arena;
use host::Host;
use options::{Options, Parsed, What};
use peers::Prepared;
use programs::Programs;
use section::Section;

/// What every bench has at hand.
#[derive(Debug)]
struct Bench {
    options: Options,
    programs: Programs,
    peers: Vec<Prepared>,
    arena: Arena,
}

/// Runs the benchmarks that `args` ask for, prints their tables and writes the figures.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = match Options::parse(args)? {
        Parsed::Run(options) => options,
        Parsed::Help => {
            print!("{}", options::USAGE);
            return Ok(());
        }
    };
    let programs = Programs::build(options.defib.as_deref())?;
    let compares = |what| matches!(what, What::Restart | What::Idle | What::Footprint);
    let peers = if options.chosen().any(compares) {
        peers::prepare(&programs, options.peers.as_deref())
    } else {
        Vec::new()
    };
    let bench = Bench { arena: Arena::open()?, options, programs, peers };
    let host = Host::look()?;
    println!("{host}");
    let mut document = json!({ "host": host.json(), "quick": bench.options.quick });
    let mut sections = Vec::new();
    for what in bench.options.chosen() {
        println!("\n{} …", what.word());
        let begun = clock::now();
        let section = measure(what, &bench).with_context(|| format!("the bench `{}`", what.word()))?;
        println!("\n{}", section.plain());
        println!("({:.0} s)", Duration::from_nanos(clock::now() - begun).as_secs_f64());
        document[section.key] = section.json.clone();
        sections.push(section);
    }
    let json = bench.options.json.clone();
    let json = json.unwrap_or_else(|| bench.programs.folder().join(bench.options.file_name()));
    println!();
    write(&json, &format!("{document:#}\n"))?;
    if let Some(file) = &bench.options.markdown {
        let pages: Vec<String> = sections.iter().map(Section::markdown).collect();
        write(file, &format!("{host}.\n\n{}", pages.join("\n")))?;
    }
    if let Some(file) = &bench.options.svg {
        let panels: Vec<_> = sections.into_iter().flat_map(|section| section.panels).collect();
        write(file, &svg::draw(&panels))?;
    }
    Ok(())
}

fn measure(what: What, bench: &Bench) -> Result<Section> {
    match what {
        What::Restart => Ok(restart::measure(bench)?.section()),
        What::Path => path::measure(bench),
        What::Loaded => loaded::measure(bench),
        What::Connections => connections::measure(bench),
        What::Counting => counting::measure(bench),
        What::CrashLoop => crash_loop::measure(bench),
        What::Idle => idle::measure(bench),
        What::Footprint => footprint::measure(bench),
        What::Strangers => strangers::measure(bench),
        What::Handling => handling::measure(bench),
        What::Scrape => scrape::measure(bench),
        What::Logs => logs::measure(bench),
        What::Survive => survive::measure(bench),
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written to {}", file.display());
    Ok(())
}
