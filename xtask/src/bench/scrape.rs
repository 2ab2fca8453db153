//! What a scrape of the metrics of a thousand services takes, and what it does to restarts.
//!
//! Scrapes go over TCP, as Prometheus's do, one after the other: the time runs from before the connection to the last
//! byte. Then one service is crashed again and again, as in the bench of restarts, in blocks: in every second one the page
//! is scraped every tenth of a second, a hundred times as often as usual. Both kinds of blocks meet the same daemon in the
//! same minutes, so that the machine's moods meet both.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::clock;
use super::patient::{Patient, WARM_UP};
use super::programs::Programs;
use super::stats::Summary;
use super::subject::Subject;

const SERVICES: usize = 1000;

/// Scrapes that are timed.
const SCRAPES: usize = 300;

/// Between two scrapes while restarts are timed.
const EVERY: Duration = Duration::from_millis(100);

/// Crashes of a block.
const BLOCK: usize = 50;

/// How long the start of all services may have its after-effects.
const SETTLE: Duration = Duration::from_secs(3);

/// The outcome.
#[derive(Debug)]
pub(super) struct Scraping {
    pub(super) services: usize,
    pub(super) bytes: usize,
    pub(super) series: usize,
    pub(super) scrape: Summary,
    /// Restarts while nobody scrapes.
    pub(super) quiet: Summary,
    /// Restarts while somebody does.
    pub(super) scraped: Summary,
    /// Scrapes meanwhile.
    pub(super) meanwhile: usize,
}

pub(super) fn measure(programs: &Programs, crashes: usize) -> Result<Scraping> {
    println!("\nscrape: {SERVICES} services, {SCRAPES} scrapes, {crashes} crashes with and without scrapes");
    let mut subject = Subject::scraped(programs, SERVICES)?;
    let address = subject.metrics()?;
    let starts = subject.first_starts()?;
    ensure!(starts.len() == SERVICES, "{} services have started", starts.len());
    clock::sleep(SETTLE);
    let mut times = Vec::with_capacity(SCRAPES);
    let mut page = String::new();
    for round in 0..WARM_UP + SCRAPES {
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

    let mut patient = Patient::living(subject, starts[0]);
    for _ in 0..WARM_UP {
        patient.crash(clock::now)?;
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
    Ok(Scraping {
        services: SERVICES,
        bytes: page.len(),
        series,
        scrape: summary(times)?,
        quiet: summary(quiet)?,
        scraped: summary(scraped)?,
        meanwhile,
    })
}

/// A block of crashes; adds after how many nanoseconds each replacement ran.
fn crash(patient: &mut Patient, latencies: &mut Vec<u64>) -> Result<()> {
    for _ in 0..BLOCK {
        let (killed, next) = patient.crash(clock::now)?;
        latencies.push(next.stamp.checked_sub(killed).context("a start before the crash")?);
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

/// One scrape: the body.
fn scrape(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("cannot connect to the metrics")?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.to_owned())
}
