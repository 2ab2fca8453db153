//! What a scrape of the metrics takes, and what it does to restarts.
//!
//! Three crowds are scraped: as many services as make ten thousand series, a thousand services, three thousand watched
//! ports. Scrapes go over TCP, as Prometheus's do, one after the other: the time runs from before the connection to the
//! last byte; the server's own time is what it tells of itself. Beside the first crowd stand exporters that look at the
//! same processes, where Debian has them (`exporters`). Then one of the thousand services is crashed again and again, as in
//! the bench of restarts, in blocks: in every second one the page is scraped every tenth of a second, a hundred times as
//! often as usual. Both kinds of blocks meet the same daemon in the same minutes, so that the machine's moods meet both.

mod exporters;
mod timed;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use self::timed::Timed;
use super::http::scrape;
use super::peers::defib;
use super::section::{Row, Section, Table};
use super::stats::Summary;
use super::victims::{Patient, WARM_UP};
use super::{Bench, clock, tree};

/// So many services have ten thousand series, and hardly more.
const TEN_THOUSAND: usize = 230;

const SERVICES: usize = 1000;

/// Scattered, so that the kernel cannot choose sockets by ranges of ports.
const PORTS: usize = 3000;

/// Scrapes of a crowd that are timed, and in a quick look.
const SCRAPES: [usize; 2] = [300, 30];

/// Between the begins of two scrapes while restarts are timed.
const EVERY: Duration = Duration::from_millis(100);

/// Crashes of a block.
const BLOCK: usize = 50;

/// How long the start of all services may have its after-effects.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let scrapes = SCRAPES[usize::from(bench.options.quick)];
    let mut rows: Vec<(String, Result<Timed, String>)> = Vec::new();
    let (patient, address) = crowd(bench, TEN_THOUSAND)?;
    rows.push((format!("{TEN_THOUSAND} services"), Ok(timed(&patient, address, scrapes)?)));
    for (name, found) in exporters::measure(bench, scrapes) {
        rows.push((name, found.map_err(|error| format!("{error:#}"))));
    }
    drop(patient);
    let watched = watched(bench)?;
    rows.push((format!("{PORTS} watched ports"), Ok(timed(&watched.0, watched.1, scrapes)?)));
    drop(watched);
    let (mut patient, address) = crowd(bench, SERVICES)?;
    rows.push((format!("{SERVICES} services"), Ok(timed(&patient, address, scrapes)?)));
    let crashes = bench.options.crashes * bench.options.runs;
    let (quiet, scraped, meanwhile) = restarts(&mut patient, address, crashes)?;
    Ok(told(&rows, scrapes, [("no scrape".to_owned(), quiet), (format!("{meanwhile} scrapes"), scraped)]))
}

/// A defib with so many services, all of which have come up.
fn crowd(bench: &Bench, services: usize) -> Result<(Patient, SocketAddr)> {
    let options = defib::Options { metrics: "127.0.0.1:0", ..defib::Options::PLAIN };
    let victims = vec![(bench.programs.victim.as_path(), Vec::new()); services];
    let mut subject = defib::launch(bench, "defib", &victims, options)?;
    let address = subject.metrics()?;
    let patient = Patient::new(subject)?;
    clock::sleep(SETTLE);
    let page = scrape(address)?;
    let up = page.lines().filter(|line| line.starts_with("defib_process_up{") && line.ends_with(" 1"));
    let up = up.count();
    ensure!(up == services, "{up} of {services} services are up on the page");
    Ok((patient, address))
}

/// One that watches ports, of which none is in use.
fn watched(bench: &Bench) -> Result<(Patient, SocketAddr)> {
    let ports: Vec<String> = (0..PORTS).map(|number| (20_000 + 2 * number).to_string()).collect();
    let head = format!("[ports]\nwatch = [{}]\n", ports.join(", "));
    let options = defib::Options { metrics: "127.0.0.1:0", head: &head, ..defib::Options::PLAIN };
    let mut subject = defib::launch(bench, "defib", &[(&bench.programs.victim, Vec::new())], options)?;
    let address = subject.metrics()?;
    let patient = Patient::new(subject)?;
    clock::sleep(SETTLE);
    Ok((patient, address))
}

fn timed(patient: &Patient, address: SocketAddr, scrapes: usize) -> Result<Timed> {
    let daemon = tree::daemon_of(patient.subject.pid())?;
    Timed::of(address, daemon, scrapes)
}

/// After how many nanoseconds each replacement ran, without scrapes and with them; and how many scrapes there were.
fn restarts(patient: &mut Patient, address: SocketAddr, crashes: usize) -> Result<(Summary, Summary, usize)> {
    for _ in 0..WARM_UP {
        patient.crash()?;
    }
    let (mut quiet, mut scraped, mut meanwhile) = (Vec::new(), Vec::new(), 0);
    while scraped.len() < crashes {
        crash(patient, &mut quiet)?;
        let stop = AtomicBool::new(false);
        meanwhile += std::thread::scope(|scope| {
            let scraper = scope.spawn(|| scrape_on(address, &stop));
            let crashed = crash(patient, &mut scraped);
            stop.store(true, Ordering::Relaxed);
            let count = scraper.join().unwrap_or_else(|_panic| Ok(0));
            crashed.and(count)
        })?;
    }
    let summary = |samples| Summary::of(samples).context("nothing was measured");
    Ok((summary(quiet)?, summary(scraped)?, meanwhile))
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
    let (mut count, mut due) = (0, clock::now());
    while !stop.load(Ordering::Relaxed) {
        scrape(address)?;
        count += 1;
        due += EVERY.as_nanos() as u64;
        clock::sleep(Duration::from_nanos(due.saturating_sub(clock::now())));
    }
    Ok(count)
}

fn told(
    rows: &[(String, Result<Timed, String>)],
    scrapes: usize,
    restarts: [(String, Summary); 2],
) -> Section {
    let millis = |summary: &Summary| {
        [summary.p50, summary.p99, summary.max].map(|ns| format!("{:.2}", ns as f64 / 1e6)).to_vec()
    };
    let row = |(name, found): &(String, Result<Timed, String>)| match found {
        Ok(timed) => Row::new(name.clone(), timed.cells()),
        Err(reason) => Row::absent(name.clone(), reason),
    };
    let cut = rows
        .iter()
        .filter(|(_, found)| found.as_ref().is_ok_and(Timed::is_cut))
        .map(|(name, _)| name.as_str());
    let cut: Vec<&str> = cut.collect();
    let ratio = restarts[1].1.p99 as f64 / restarts[0].1.p99 as f64;
    let figures = rows.iter().map(|(name, found)| match found {
        Ok(timed) => timed.json(name),
        Err(reason) => json!({ "name": name, "reason": reason }),
    });
    let mut notes = vec![
        format!("{scrapes} scrapes of each; the server's own time and CPU time are means, in ms"),
        format!("p99 of restarts while scraped / without: {ratio:.2}"),
    ];
    if !cut.is_empty() {
        notes.push(format!("a collector did not come to its end in time: {}", cut.join(", ")));
    }
    Section {
        key: "scrape",
        title: "what a scrape of the metrics takes, and restarts meanwhile".to_owned(),
        notes,
        tables: vec![
            Table {
                caption: "scrapes".to_owned(),
                columns: vec!["series", "kB", "p50 ms", "p99 ms", "max ms", "server", "CPU"],
                rows: rows.iter().map(row).collect(),
            },
            Table {
                caption: format!("restarts of one of {SERVICES}"),
                columns: vec!["p50 ms", "p99 ms", "max ms"],
                rows: restarts
                    .iter()
                    .map(|(name, summary)| Row::new(name.clone(), millis(summary)))
                    .collect(),
            },
        ],
        panels: Vec::new(),
        json: json!({
            "scrapes": figures.collect::<Vec<_>>(), "services": SERVICES,
            "restart_quiet": restarts[0].1.json(), "restart_scraped": restarts[1].1.json(),
            "scraped_meanwhile": restarts[1].0, "p99_ratio": ratio,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_while_scraped_are_told_beside_those_without() {
        let summary = |p99| Summary { count: 9, p50: 1, p99, max: p99 };
        let rows = [("node_exporter".to_owned(), Err("no apt-get".to_owned()))];
        let section =
            told(&rows, 3, [("none".to_owned(), summary(100)), ("7 scrapes".to_owned(), summary(150))]);
        assert_eq!(section.json["p99_ratio"], 1.5);
        assert!(section.plain().contains("node_exporter  -  no apt-get"), "{}", section.plain());
    }
}
