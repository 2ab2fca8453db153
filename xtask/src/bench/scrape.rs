//! What a scrape of the metrics of a thousand services takes, and what it does to restarts.
//!
//! Scrapes go over TCP, as Prometheus's do, one after the other: the time runs from before the connection to the last
//! byte. Then one service is crashed again and again, as in the bench of restarts, in blocks: in every second one the
//! page is scraped every tenth of a second, a hundred times as often as usual. Both kinds of blocks meet the same
//! daemon in the same minutes, so that the machine's moods meet both.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::http::scrape;
use super::peers::defib;
use super::section::{Row, Section, Table};
use super::stats::Summary;
use super::victims::{Patient, WARM_UP};
use super::{Bench, clock};

const SERVICES: usize = 1000;

/// Scrapes that are timed, and in a quick look.
const SCRAPES: [usize; 2] = [300, 30];

/// Between two scrapes while restarts are timed.
const EVERY: Duration = Duration::from_millis(100);

/// Crashes of a block.
const BLOCK: usize = 50;

/// How long the start of all services may have its after-effects.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let (crashes, scrapes) =
        (bench.options.crashes * bench.options.runs, SCRAPES[usize::from(bench.options.quick)]);
    let options = defib::Options { metrics: "127.0.0.1:0", ..defib::Options::PLAIN };
    let victims = vec![(bench.programs.victim.as_path(), Vec::new()); SERVICES];
    let mut subject = defib::launch(bench, "defib", &victims, options)?;
    let address = subject.metrics()?;
    let mut patient = Patient::new(subject)?;
    clock::sleep(SETTLE);
    let mut times = Vec::with_capacity(scrapes);
    let mut page = String::new();
    for round in 0..WARM_UP + scrapes {
        let begun = clock::now();
        page = scrape(address)?;
        if round >= WARM_UP {
            times.push(clock::now() - begun);
        }
    }
    let series = page.lines().filter(|line| line.contains(' ') && !line.starts_with('#')).count();
    let up =
        page.lines().filter(|line| line.starts_with("defib_process_up{") && line.ends_with(" 1")).count();
    ensure!(up == SERVICES, "{up} services are up on the page");

    for _ in 0..WARM_UP {
        patient.crash()?;
    }
    let (mut quiet, mut scraped, mut meanwhile) = (Vec::new(), Vec::new(), 0);
    while scraped.len() < crashes {
        crash(&mut patient, &mut quiet)?;
        let stop = AtomicBool::new(false);
        meanwhile += std::thread::scope(|scope| {
            let scraper = scope.spawn(|| scrape_on(address, &stop));
            let crashed = crash(&mut patient, &mut scraped);
            stop.store(true, Ordering::Relaxed);
            let count = scraper.join().unwrap_or_else(|_panic| Ok(0));
            crashed.and(count)
        })?;
    }
    let summary = |samples| Summary::of(samples).context("nothing was measured");
    let crowd =
        format!("{SERVICES} services, {series} series, {:.1} MB; {scrapes} scrapes", page.len() as f64 / 1e6);
    let (times, quiet, scraped) = (summary(times)?, summary(quiet)?, summary(scraped)?);
    let row = |name: String, summary: &Summary| {
        Row::new(
            name,
            [summary.p50, summary.p99, summary.max].map(|ns| format!("{:.2}", ns as f64 / 1e6)).into(),
        )
    };
    Ok(Section {
        key: "scrape",
        title: "what a scrape of the metrics takes, and restarts meanwhile".to_owned(),
        notes: vec![crowd],
        tables: vec![Table {
            caption: String::new(),
            columns: vec!["p50 ms", "p99 ms", "max ms"],
            rows: vec![
                row("scrape".to_owned(), &times),
                row("restart, no scrape".to_owned(), &quiet),
                row(format!("restart, {meanwhile} scrapes"), &scraped),
            ],
        }],
        panels: Vec::new(),
        json: json!({
            "services": SERVICES, "bytes": page.len(), "series": series, "scrape": times.json(),
            "restart_quiet": quiet.json(), "restart_scraped": scraped.json(), "scrapes_meanwhile": meanwhile,
        }),
    })
}

/// A block of crashes; adds after how many nanoseconds each replacement ran.
fn crash(patient: &mut Patient, latencies: &mut Vec<u64>) -> Result<()> {
    for _ in 0..BLOCK {
        latencies.push(patient.crash()?.latency()?);
    }
    Ok(())
}

/// Scrapes again and again; returns how often.
fn scrape_on(address: SocketAddr, stop: &AtomicBool) -> Result<usize> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        scrape(address)?;
        count += 1;
        clock::sleep(EVERY);
    }
    Ok(count)
}
