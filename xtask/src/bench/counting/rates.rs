//! What the slices come to.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::alone::Pairs;
use super::series::{Series, Slice};
use crate::bench::section::{Row, Table};
use crate::bench::stats::Median;

/// A comparison: its name, its key, and which turn is divided by which.
type Pair = (&'static str, &'static str, usize, usize);

/// Of the series of probes: of turn 0 there is no defib, of 1 another port is watched, of 2 it is counted.
const BY_PROBES: [Pair; 3] = [
    ("counted by probes, to no defib", "counted_to_none", 2, 0),
    ("counted by probes, to another port watched", "counted_to_others", 2, 1),
    ("another port watched, to no defib", "others_to_none", 1, 0),
];

/// What is told of a slice.
const FIGURES: [fn(&Slice) -> f64; 2] = [|slice| slice.rate, |slice| slice.cpu];

/// All that was measured of it.
#[derive(Debug)]
pub(super) struct Rates {
    /// One thread, at ports of one defib.
    pub(super) pairs: Pairs,
    /// One thread: no defib, and another port watched.
    pub(super) one: Series,
    /// The server with its port counted by probes, or not.
    pub(super) by_probes: Series,
    /// The server with its port counted by the ends of sockets, or not.
    pub(super) by_ends: Series,
}

impl Rates {
    /// The tables, and the figures.
    pub(super) fn tables(&self) -> Result<(Vec<Table>, Value)> {
        let request = median(self.by_probes.each(0, FIGURES[1]))?;
        let (one, of_one) = self.of_one(request.median)?;
        let (server, of_server) = self.of_server()?;
        Ok((vec![one, server], json!({ "one": of_one, "server": of_server })))
    }

    fn of_one(&self, request: f64) -> Result<(Table, Value)> {
        let [_, cpu] = FIGURES;
        let plain = median(self.one.each(0, cpu))?;
        let attached = median(self.one.differences(1, 0, cpu))?;
        let Pairs { more, control } = self.pairs;
        let added = |name: &str, more: Median| {
            let [median, least, most] = [more.median, more.interval[0], more.interval[1]].map(|it| it * 1e6);
            let share = format!("{:.1} %", 100.0 * more.median / request);
            Row::new(name, vec![format!("{median:+.2} µs [{least:.2}–{most:.2}]"), share])
        };
        let rows = vec![
            Row::new("no defib", vec![format!("{:.1} µs", plain.median * 1e6), String::new()]),
            added("another port watched, to no defib", attached),
            added("counted by probes, to another port watched", more),
            Row::new("control: two ports that are not counted", vec![cell(control), String::new()]),
        ];
        let caption = "one thread that connects to itself: its CPU time for a connection, and what is added";
        let columns = vec!["CPU time", "of a request of nginx"];
        let figures = json!({
            "none": plain.json(), "others_to_none": attached.json(), "counted_to_others": more.json(),
            "control": control.json(),
        });
        Ok((Table { caption: caption.to_owned(), columns, rows }, figures))
    }

    fn of_server(&self) -> Result<(Table, Value)> {
        let Self { by_probes, by_ends, .. } = self;
        let plain = both(|figure| median(by_probes.each(0, figure)))?;
        let mut rows = vec![plainly(plain)];
        let mut figures = json!({ "none": told(plain) });
        let mut compare = |name: &str, key: &str, ratios: [Median; 2]| {
            rows.push(Row::new(name, ratios.map(cell).to_vec()));
            figures[key] = told(ratios);
        };
        for (name, key, of, to) in BY_PROBES {
            compare(name, key, both(|figure| median(by_probes.ratios(of, to, figure)))?);
        }
        compare("control: the same once more", "control", both(|figure| median(by_probes.control(figure)))?);
        let ends = both(|figure| median(by_ends.ratios(1, 0, figure)))?;
        compare("counted by the ends of sockets, without eBPF, to no defib", "ends_to_none", ends);
        let caption = "nginx and wrk: medians of pairwise ratios [19 of 20: the median is in here] (half of the ratios)";
        let columns = vec!["requests", "CPU time a request"];
        Ok((Table { caption: caption.to_owned(), columns, rows }, figures))
    }
}

fn median(figures: impl Iterator<Item = f64>) -> Result<Median> {
    Median::of(figures).context("nothing was measured")
}

fn plainly([rate, cpu]: [Median; 2]) -> Row {
    let cells = vec![format!("{:.0} a second", rate.median), format!("{:.1} µs", cpu.median * 1e6)];
    Row::new("no defib", cells)
}

fn told([rate, cpu]: [Median; 2]) -> Value {
    json!({ "requests": rate.json(), "cpu": cpu.json() })
}

fn both(of: impl Fn(fn(&Slice) -> f64) -> Result<Median>) -> Result<[Median; 2]> {
    let [rate, cpu] = FIGURES.map(of);
    Ok([rate?, cpu?])
}

fn cell(ratio: Median) -> String {
    let Median { median, quartiles: [low, high], interval: [least, most], .. } = ratio;
    format!("{median:.3} [{least:.3}–{most:.3}] ({low:.3}–{high:.3})")
}
