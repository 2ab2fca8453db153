//! Histograms with fixed bounds, of atomic counters: observing takes some nanoseconds, waits for nobody and keeps
//! nothing, however seldom somebody scrapes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An upper bound: in nanoseconds, and in seconds as it is written: always with a point, as OpenMetrics wants it, so that
/// a bucket has one name in every format.
type Bound = (u64, &'static str);

/// Bounds for latencies: from half a millisecond, in which a restart should be done, to seconds.
pub(super) const LATENCY: [Bound; 13] = [
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1.0"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5.0"),
];

/// Bounds for what programs take their time for: to start, to end.
pub(super) const WORK: [Bound; 12] = [
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1.0"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5.0"),
    (10_000_000_000, "10.0"),
    (30_000_000_000, "30.0"),
    (60_000_000_000, "60.0"),
    (300_000_000_000, "300.0"),
    (900_000_000_000, "900.0"),
    (3_600_000_000_000, "3600.0"),
];

/// Counts spans by their length.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: &'static [Bound],
    /// One more than there are bounds. Relaxed: each is a number of its own.
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    /// For each bound, how many spans were no longer.
    pub(super) buckets: Vec<(&'static str, u64)>,
    /// All of them; made of the same reads as the buckets, so that they never disagree.
    pub(super) count: u64,
    /// In seconds.
    pub(super) sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [Bound]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_ns: AtomicU64::new(0) }
    }

    /// Counts a span.
    pub(super) fn observe(&self, span: Duration) {
        let ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|(bound, _)| *bound < ns);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Reading {
        let mut count = 0;
        let mut cumulated = self.counts.iter().map(|one| {
            count += one.load(Ordering::Relaxed);
            count
        });
        let buckets = self.bounds.iter().map(|(_, label)| *label).zip(&mut cumulated).collect();
        cumulated.for_each(drop);
        Reading { buckets, count, sum: self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_are_the_bounds_in_order() {
        for bounds in [&LATENCY[..], &WORK] {
            assert!(bounds.is_sorted_by(|a, b| a.0 < b.0));
            for (ns, label) in bounds {
                assert_eq!(label.parse::<f64>().unwrap() * 1e9, *ns as f64, "{label}");
            }
        }
    }

    #[test]
    fn a_span_of_a_bound_belongs_below_it() {
        let histogram = Histogram::new(&WORK);
        for ns in [0, 100_000_000, 100_000_001, 3_600_000_000_001] {
            histogram.observe(Duration::from_nanos(ns));
        }
        let reading = histogram.read();
        let counts: Vec<u64> = reading.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!(reading.count, 4);
        assert!((reading.sum - 3600.200000002).abs() < 1e-9);
    }
}
