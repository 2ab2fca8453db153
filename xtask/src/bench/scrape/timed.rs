//! A number of scrapes of one page.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bench::clock;
use crate::bench::http::scrape;
use crate::bench::stats::Summary;

/// Scrapes that do not count: the first ones fill caches.
const WARM_UP: usize = 5;

/// Histograms of exporters in which the time of a scrape is; node_exporter and process-exporter have none.
const OWN_TIME: &str = "defib_http_request_duration_seconds";

/// The step of CPU times in /proc: `USER_HZ` is 100 on every architecture that is measured on.
const TICK_MS: f64 = 10.0;

/// What was found.
#[derive(Debug)]
pub(super) struct Timed {
    series: usize,
    bytes: usize,
    times: Summary,
    /// What the server has taken by its own clock, in milliseconds; `None`: it does not tell.
    server: Option<f64>,
    /// CPU time of the server, in milliseconds.
    cpu: f64,
    /// Whether a collector of defib's has failed in the last one: mostly because the machine had no time for it.
    cut: bool,
}

impl Timed {
    /// Scrapes what the process `server` serves.
    pub(super) fn of(address: SocketAddr, server: u32, scrapes: usize) -> Result<Self> {
        let mut page = String::new();
        for _ in 0..WARM_UP {
            page = scrape(address)?;
        }
        let (before, used) = (own_time(&page), cpu_ms(server)?);
        let mut times = Vec::with_capacity(scrapes);
        for _ in 0..scrapes {
            let begun = clock::now();
            page = scrape(address)?;
            times.push(clock::now() - begun);
        }
        let own = before.zip(own_time(&page)).map(|(before, now)| (now.0 - before.0, now.1 - before.1));
        Ok(Self {
            series: page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count(),
            bytes: page.len(),
            times: Summary::of(times).context("nothing was scraped")?,
            server: own.filter(|(_, count)| *count > 0.0).map(|(sum, count)| 1000.0 * sum / count),
            cpu: (cpu_ms(server)? - used) / scrapes as f64,
            cut: page
                .lines()
                .any(|line| line.starts_with("defib_collector_success{") && line.ends_with(" 0")),
        })
    }

    /// Whether something is missing on the page.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(super) fn cells(&self) -> Vec<String> {
        let millis =
            [self.times.p50, self.times.p99, self.times.max].map(|ns| format!("{:.2}", ns as f64 / 1e6));
        let mut cells = vec![self.series.to_string(), (self.bytes / 1000).to_string()];
        cells.extend(millis);
        cells.push(self.server.map_or("-".to_owned(), |server| format!("{server:.2}")));
        cells.push(format!("{:.1}", self.cpu));
        cells
    }

    pub(super) fn json(&self, name: &str) -> Value {
        json!({
            "name": name, "series": self.series, "bytes": self.bytes, "scrape": self.times.json(),
            "server_ms": self.server, "cpu_ms": self.cpu, "cut": self.cut,
        })
    }
}

/// Sum and count of what the page says of earlier scrapes of itself.
fn own_time(page: &str) -> Option<(f64, f64)> {
    let value = |what: &str| {
        let series = format!("{OWN_TIME}_{what}{{handler=\"/metrics\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series))?.parse::<f64>().ok()
    };
    Some((value("sum")?, value("count")?))
}

/// CPU time of a process so far.
fn cpu_ms(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("a stat without a name")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<u64>);
    let mut ticks = || fields.next().context("a stat that is too short")?.context("no number");
    Ok((ticks()? + ticks()?) as f64 * TICK_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_time_is_that_of_the_page() {
        let page = "defib_http_request_duration_seconds_sum{handler=\"/alive\"} 7\n\
                    defib_http_request_duration_seconds_sum{handler=\"/metrics\"} 0.25\n\
                    defib_http_request_duration_seconds_count{handler=\"/metrics\"} 5\n";
        assert_eq!(own_time(page), Some((0.25, 5.0)));
        assert_eq!(own_time("node_cpu_seconds_total 7\n"), None);
    }

    #[test]
    fn this_process_has_used_some_time() {
        assert!(cpu_ms(std::process::id()).unwrap() >= 0.0);
    }
}
