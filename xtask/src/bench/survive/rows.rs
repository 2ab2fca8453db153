//! The figures as a table.

use serde_json::{Map, Value, json};

use super::{Deaths, Orphans, Renewal};
use crate::bench::section::{Row, Section, Table, micros, show};
use crate::bench::stats::Spread;

/// One line of the table.
#[derive(Debug)]
pub(super) struct Outcome {
    key: &'static str,
    name: &'static str,
    /// What is measured, what it should be, and what else is to be said; or why there is nothing.
    cells: Result<[String; 3], String>,
    json: Value,
}

fn millis(nanoseconds: &[u64]) -> String {
    Outcome::of_spread(nanoseconds).map_or_else(|| "-".to_owned(), |spread| format!("{} ms", show(spread, 0)))
}

pub(super) fn daemon(deaths: Deaths) -> Outcome {
    let rest = format!(
        "{} of {} killed services live again before; {} ends missed",
        deaths.meanwhile, deaths.killed, deaths.missed
    );
    Outcome {
        key: "daemon_killed",
        name: "the daemon is killed: until the next one supervises",
        cells: Ok([millis(&deaths.took), "150 ms, 0 missed".to_owned(), rest]),
        json: deaths.json(),
    }
}

pub(super) fn both(orphans: Orphans) -> Outcome {
    let Orphans { took, services, copies } = orphans;
    let json = json!({ "nanoseconds": took, "services": services, "second_copies": copies });
    let cells = if copies == 0 {
        Ok([millis(&took), "500 ms, no copy".to_owned(), "0 second copies".to_owned()])
    } else {
        Err(format!("{copies} of {services} services were started anew"))
    };
    Outcome {
        key: "both_killed",
        name: "keeper and daemon are killed, and started: until all are theirs",
        cells,
        json,
    }
}

pub(super) fn renewed(renewal: Result<Renewal, String>) -> Outcome {
    let (cells, json) = match renewal {
        Ok(Renewal { renewals, restarts, crashes, told, bytes }) => (
            Ok([
                format!("p99 {:.1} ms", micros(restarts.p99) / 1000.0),
                "p99 20 ms, 0 missed".to_owned(),
                format!(
                    "{renewals} times in {crashes} crashes, {} ends missed; {bytes} bytes, all there",
                    crashes - told.min(crashes)
                ),
            ]),
            json!({ "renewals": renewals, "restarts": restarts.json(), "crashes": crashes, "told": told, "bytes": bytes }),
        ),
        Err(reason) => (Err(reason.clone()), json!({ "reason": reason })),
    };
    Outcome { key: "renewed", name: "`defib daemon restart`: restarts across it", cells, json }
}

pub(super) fn unread(bytes: u64) -> Outcome {
    let cells = [format!("{} KiB", bytes / 1024), "1024 KiB as root, else 64".to_owned(), String::new()];
    Outcome {
        key: "unread",
        name: "written while nobody reads",
        cells: Ok(cells),
        json: json!({ "bytes": bytes }),
    }
}

pub(super) fn disk(runs: Result<[[Spread; 2]; 2], String>) -> Outcome {
    let (cells, json) = match runs {
        Ok([[p50, p99], [hanging_p50, hanging_p99]]) => (
            Ok([
                format!(
                    "p50 {:.2}, p99 {:.2}",
                    hanging_p50.median / p50.median,
                    hanging_p99.median / p99.median
                ),
                "1.1".to_owned(),
                format!("without: p50 {} µs, p99 {} µs", show(p50, 0), show(p99, 0)),
            ]),
            json!({
                "p50_us": p50.json(), "p99_us": p99.json(),
                "hanging_p50_us": hanging_p50.json(), "hanging_p99_us": hanging_p99.json(),
            }),
        ),
        Err(reason) => (Err(reason.clone()), json!({ "reason": reason })),
    };
    Outcome {
        key: "disk",
        name: "restarts while the disk of the state hangs, against those before",
        cells,
        json,
    }
}

/// The table.
pub(super) fn section(outcomes: Vec<Outcome>, services: usize) -> Section {
    let json: Map<String, Value> = outcomes.iter().map(|it| (it.key.to_owned(), it.json.clone())).collect();
    let row = |it: Outcome| match it.cells {
        Ok(cells) => Row::new(it.name, cells.into()),
        Err(reason) => Row::absent(it.name, &reason),
    };
    Section {
        key: "survive",
        title: format!("what the death of daemon and keeper costs, with {services} services"),
        notes: Vec::new(),
        tables: vec![Table {
            caption: String::new(),
            columns: vec!["measured", "at most", "besides"],
            rows: outcomes.into_iter().map(row).collect(),
        }],
        panels: Vec::new(),
        json: Value::Object(json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_copy_is_no_adoption() {
        let adopted = both(Orphans { took: vec![7_000_000, 9_000_000], services: 3, copies: 0 });
        assert_eq!(adopted.cells.as_ref().unwrap()[0], "8 (7–9) ms");
        let started = both(Orphans { took: vec![7_000_000], services: 3, copies: 2 });
        let section = section(vec![adopted, started], 3);
        assert_eq!(section.tables[0].rows[1].cells, Err("2 of 3 services were started anew".to_owned()));
        assert_eq!(section.json["both_killed"]["second_copies"], 2);
    }
}
