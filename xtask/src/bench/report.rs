//! The outcomes as tables for people and as JSON for programs.

use serde_json::{Value, json};

use super::handling::Handlings;
use super::idle::Idle;
use super::logs::Logs;
use super::restart::Restarts;
use super::scrape::Scraping;
use super::stats::{Spread, Summary};
use super::strangers::{PROCESSES, Pass, Strangers};

/// The figures of one subject over all runs.
struct Figures {
    name: &'static str,
    p50_us: Spread,
    p99_us: Spread,
    /// To the first subject of the same run.
    p50_ratio: Spread,
    p99_ratio: Spread,
}

/// `None` of no runs.
fn figures(restarts: &Restarts) -> Option<Vec<Figures>> {
    let figure = |(index, name): (usize, &&'static str)| {
        let over_runs = |of: &dyn Fn(&[Summary]) -> f64| Spread::of(restarts.runs.iter().map(|run| of(run)));
        Some(Figures {
            name,
            p50_us: over_runs(&|run| micros(run[index].p50))?,
            p99_us: over_runs(&|run| micros(run[index].p99))?,
            p50_ratio: over_runs(&|run| run[index].p50 as f64 / run[0].p50 as f64)?,
            p99_ratio: over_runs(&|run| run[index].p99 as f64 / run[0].p99 as f64)?,
        })
    };
    restarts.subjects.iter().enumerate().map(figure).collect()
}

/// One line for each subject.
pub(super) fn restart_table(restarts: &Restarts) -> String {
    let runs = restarts.runs.len();
    let crashes = restarts.runs.first().and_then(|run| run.first()).map_or(0, |summary| summary.count);
    let mut table = format!(
        "restart: from SIGKILL to the first instruction of the replacement\n\
         {crashes} crashes of each in a run, median of {runs} runs (lowest–highest), defib's source: {}\n\
         {:<8}{:>26}{:>26}{:>20}{:>20}",
        restarts.source, "", "p50 µs", "p99 µs", "p50 / loop", "p99 / loop"
    );
    for Figures { name, p50_us, p99_us, p50_ratio, p99_ratio } in figures(restarts).unwrap_or_default() {
        let [p50_us, p99_us] = [p50_us, p99_us].map(|spread| show(spread, 0));
        let [p50_ratio, p99_ratio] = [p50_ratio, p99_ratio].map(|spread| show(spread, 2));
        table += &format!("\n{name:<8}{p50_us:>26}{p99_us:>26}{p50_ratio:>20}{p99_ratio:>20}");
    }
    table
}

pub(super) fn restart_json(restarts: &Restarts) -> Value {
    let subject = |(index, figures): (usize, Figures)| {
        let runs: Vec<Value> = restarts.runs.iter().map(|run| summary_json(&run[index])).collect();
        json!({
            "name": figures.name,
            "p50_us": spread_json(figures.p50_us),
            "p99_us": spread_json(figures.p99_us),
            "p50_ratio": spread_json(figures.p50_ratio),
            "p99_ratio": spread_json(figures.p99_ratio),
            "runs": runs,
        })
    };
    let figures = figures(restarts).unwrap_or_default();
    let subjects: Vec<Value> = figures.into_iter().enumerate().map(subject).collect();
    json!({ "source": restarts.source, "subjects": subjects })
}

/// One line for each process.
pub(super) fn idle_table(idle: &Idle) -> String {
    let mut table = format!(
        "idle: {} quiet services for {} s, defib's source: {}\n{:<8}{:>10}{:>20}{:>12}",
        idle.services,
        idle.window.as_secs(),
        idle.source,
        "",
        "threads",
        "context switches",
        "PSS MiB"
    );
    for process in &idle.processes {
        let pss = process.pss_kib as f64 / 1024.0;
        table += &format!("\n{:<8}{:>10}{:>20}{pss:>12.1}", process.name, process.threads, process.switches);
    }
    table
}

pub(super) fn idle_json(idle: &Idle) -> Value {
    let processes: Vec<Value> = idle
        .processes
        .iter()
        .map(|process| {
            json!({
                "name": process.name,
                "threads": process.threads,
                "context_switches": process.switches,
                "pss_kib": process.pss_kib,
            })
        })
        .collect();
    json!({
        "services": idle.services,
        "seconds": idle.window.as_secs(),
        "source": idle.source,
        "processes": processes,
    })
}

/// One line for each load.
pub(super) fn logs_table(logs: &Logs) -> String {
    let mut table = format!(
        "logs: from services into files, every line checked\n{:<10}{:>14}{:>14}{:>16}",
        "services", "MB/s each", "MB/s in all", "least in MB"
    );
    for load in &logs.loads {
        let wanted = if load.rate == 0 { "any".to_owned() } else { (load.rate / 1_000_000).to_string() };
        table += &format!(
            "\n{:<10}{wanted:>14}{:>14.0}{:>16}",
            load.services,
            load.speed(),
            load.least / 1_000_000
        );
    }
    table
}

pub(super) fn logs_json(logs: &Logs) -> Value {
    let load = |load: &super::logs::Load| {
        json!({
            "services": load.services,
            "rate": load.rate,
            "bytes": load.bytes,
            "nanoseconds": load.nanoseconds,
            "least_bytes": load.least,
        })
    };
    logs.loads.iter().map(load).collect()
}

/// One line for each condition.
pub(super) fn strangers_table(strangers: &Strangers) -> String {
    let rounds = strangers.rounds.len();
    let mut table = format!(
        "strangers: fork + exec + exit of processes that are none of defib's\n\
         {PROCESSES} in a pass, median of {rounds} rounds (lowest–highest)\n{:<16}{:>22}{:>22}{:>10}{:>8}",
        "", "µs a process", "to bare", "heard", "lost"
    );
    for (index, name) in strangers.conditions.iter().enumerate() {
        let Some([micros, ratio]) = strangers_figures(strangers, index) else { continue };
        let (heard, lost) = counts(strangers, index);
        table += &format!("\n{name:<16}{:>22}{:>22}{heard:>10}{lost:>8}", show(micros, 1), show(ratio, 3));
    }
    table
}

/// Microseconds of a process, and the ratio to the bare pass of the same round.
fn strangers_figures(strangers: &Strangers, index: usize) -> Option<[Spread; 2]> {
    let time = |pass: &Pass| pass.nanoseconds as f64;
    let micros = strangers.rounds.iter().map(|round| time(&round[index]) / PROCESSES as f64 / 1000.0);
    let ratio = strangers.rounds.iter().map(|round| time(&round[index]) / time(&round[0]));
    Some([Spread::of(micros)?, Spread::of(ratio)?])
}

/// Events that arrived and that were lost, over all rounds.
fn counts(strangers: &Strangers, index: usize) -> (u64, u64) {
    let sum = |of: fn(&Pass) -> u64| strangers.rounds.iter().map(|round| of(&round[index])).sum();
    (sum(|pass| pass.heard), sum(|pass| pass.lost))
}

pub(super) fn strangers_json(strangers: &Strangers) -> Value {
    let condition = |(index, name): (usize, &&'static str)| {
        let [micros, ratio] = strangers_figures(strangers, index)?;
        let (heard, lost) = counts(strangers, index);
        Some(json!({
            "name": name,
            "us": spread_json(micros),
            "ratio": spread_json(ratio),
            "heard": heard,
            "lost": lost,
        }))
    };
    let conditions: Vec<Value> = strangers.conditions.iter().enumerate().filter_map(condition).collect();
    json!({ "processes": PROCESSES, "rounds": strangers.rounds.len(), "conditions": conditions })
}

/// One line for each source.
pub(super) fn handling_table(handlings: &Handlings) -> String {
    let runs = handlings.runs.len();
    let kills = handlings.runs.first().and_then(|run| run.first()).map_or(0, |summary| summary.count);
    let mut table = format!(
        "handling: from SIGKILL to the daemon's order\n\
         {kills} kills for each source in a run, median of {runs} runs (lowest–highest)\n{:<16}{:>26}{:>26}{:>20}",
        "", "p50 µs", "p99 µs", "p50 / pidfd"
    );
    for (index, source) in handlings.sources.iter().enumerate() {
        let Some([p50, p99, ratio]) = handling_figures(handlings, index) else { continue };
        table += &format!("\n{source:<16}{:>26}{:>26}{:>20}", show(p50, 0), show(p99, 0), show(ratio, 2));
    }
    table
}

/// p50 and p99 in microseconds, and the ratio of p50 to the first source of the same run.
fn handling_figures(handlings: &Handlings, index: usize) -> Option<[Spread; 3]> {
    let over_runs = |of: &dyn Fn(&[Summary]) -> f64| Spread::of(handlings.runs.iter().map(|run| of(run)));
    Some([
        over_runs(&|run| micros(run[index].p50))?,
        over_runs(&|run| micros(run[index].p99))?,
        over_runs(&|run| run[index].p50 as f64 / run[0].p50 as f64)?,
    ])
}

/// What a scrape takes, and restarts with and without.
pub(super) fn scrape_table(scraping: &Scraping) -> String {
    let Scraping { services, bytes, series, scrape, quiet, scraped, meanwhile } = scraping;
    let mut table = format!(
        "scrape: {services} services, {series} series, {:.1} MB; {} scrapes\n{:<24}{:>12}{:>12}{:>12}",
        *bytes as f64 / 1e6,
        scrape.count,
        "",
        "p50 ms",
        "p99 ms",
        "max ms"
    );
    let scraped_name = format!("restart, {meanwhile} scrapes");
    for (name, summary) in
        [("scrape", scrape), ("restart, no scrape", quiet), (scraped_name.as_str(), scraped)]
    {
        let [p50, p99, max] = [summary.p50, summary.p99, summary.max].map(|ns| ns as f64 / 1e6);
        table += &format!("\n{name:<24}{p50:>12.2}{p99:>12.2}{max:>12.2}");
    }
    table
}

pub(super) fn scrape_json(scraping: &Scraping) -> Value {
    json!({
        "services": scraping.services,
        "bytes": scraping.bytes,
        "series": scraping.series,
        "scrape": summary_json(&scraping.scrape),
        "restart_quiet": summary_json(&scraping.quiet),
        "restart_scraped": summary_json(&scraping.scraped),
        "scrapes_meanwhile": scraping.meanwhile,
    })
}

pub(super) fn handling_json(handlings: &Handlings) -> Value {
    let source = |(index, name): (usize, &&'static str)| {
        let [p50, p99, ratio] = handling_figures(handlings, index)?;
        let runs: Vec<Value> = handlings.runs.iter().map(|run| summary_json(&run[index])).collect();
        Some(json!({
            "name": name,
            "p50_us": spread_json(p50),
            "p99_us": spread_json(p99),
            "p50_ratio": spread_json(ratio),
            "runs": runs,
        }))
    };
    let sources: Vec<Value> = handlings.sources.iter().enumerate().filter_map(source).collect();
    json!({ "sources": sources })
}

fn show(spread: Spread, decimals: usize) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
}

fn spread_json(spread: Spread) -> Value {
    json!({ "median": spread.median, "min": spread.min, "max": spread.max })
}

fn summary_json(summary: &Summary) -> Value {
    json!({
        "crashes": summary.count,
        "p50_us": micros(summary.p50),
        "p99_us": micros(summary.p99),
        "max_us": micros(summary.max),
    })
}

fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(p50s: [u64; 2]) -> Vec<Summary> {
        p50s.map(|p50| Summary { count: 10, p50, p99: 2 * p50, max: 3 * p50 }).into()
    }

    fn outcome(runs: Vec<Vec<Summary>>) -> Restarts {
        Restarts { subjects: vec!["loop", "defib"], runs, source: "ebpf".to_owned() }
    }

    #[test]
    fn a_ratio_is_taken_within_its_run() {
        let runs = vec![run([100_000, 50_000]), run([400_000, 400_000]), run([100_000, 200_000])];
        let json = restart_json(&outcome(runs));
        let defib = &json["subjects"][1];
        assert_eq!(defib["p50_us"], json!({ "median": 200.0, "min": 50.0, "max": 400.0 }));
        assert_eq!(defib["p99_ratio"], json!({ "median": 1.0, "min": 0.5, "max": 2.0 }));
        let first = json!({ "crashes": 10, "p50_us": 50.0, "p99_us": 100.0, "max_us": 150.0 });
        assert_eq!(defib["runs"][0], first);
    }

    #[test]
    fn the_table_has_a_line_for_each_subject() {
        let runs = vec![run([100_000, 50_000]), run([100_000, 70_000])];
        let table = restart_table(&outcome(runs));
        let last: Vec<&str> = table.lines().last().unwrap().split_whitespace().take(5).collect();
        assert_eq!(last, ["defib", "60", "(50–70)", "120", "(100–140)"]);
    }
}
