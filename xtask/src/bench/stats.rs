//! Percentiles within a run, and the spread over the runs.

use serde_json::{Value, json};

/// What one run says of one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) count: usize,
    /// In nanoseconds, as the others.
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

impl Summary {
    /// `None` of no samples.
    pub(super) fn of(mut samples: Vec<u64>) -> Option<Self> {
        samples.sort_unstable();
        let max = *samples.last()?;
        Some(Self { count: samples.len(), p50: rank(&samples, 50), p99: rank(&samples, 99), max })
    }

    pub(super) fn json(&self) -> Value {
        let micros = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        json!({
            "crashes": self.count,
            "p50_us": micros(self.p50),
            "p99_us": micros(self.p99),
            "max_us": micros(self.max),
        })
    }
}

/// The smallest of the sorted samples that is not below `percent` of them ("nearest rank": always a real sample).
fn rank(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

/// A figure over all runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` of no runs.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        // The two are one and the same where the number of runs is odd.
        let middle = [(figures.len() - 1) / 2, figures.len() / 2];
        let median = middle.map(|index| figures[index]).iter().sum::<f64>() / 2.0;
        Some(Self { median, min, max })
    }

    pub(super) fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// The median of many figures, with how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Median {
    pub(super) count: usize,
    pub(super) median: f64,
    /// Between them is half of the figures.
    pub(super) quartiles: [f64; 2],
    /// Between them is the median of all figures that there could be, in 19 cases of 20: by ranks alone, so it holds of
    /// whatever distribution. Of few figures it is all there is.
    pub(super) interval: [f64; 2],
}

impl Median {
    /// `None` of no figures.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_unstable_by(f64::total_cmp);
        let count = figures.len();
        let Spread { median, .. } = Spread::of(figures.iter().copied())?;
        let half = count as f64 / 2.0;
        // The normal approximation of how many of so many figures lie below their median.
        let below = (half - 1.96 * half.sqrt() / 2.0_f64.sqrt()).floor().max(1.0) as usize - 1;
        let pair = |at: usize| [figures[at], figures[count - 1 - at]];
        Some(Self { count, median, quartiles: pair((count - 1) / 4), interval: pair(below) })
    }

    pub(super) fn json(self) -> Value {
        let Self { count, median, quartiles, interval } = self;
        json!({ "count": count, "median": median, "quartiles": quartiles, "interval": interval })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let summary = Summary::of((1..=200).rev().collect()).unwrap();
        assert_eq!(summary, Summary { count: 200, p50: 100, p99: 198, max: 200 });
    }

    #[test]
    fn one_sample_is_every_percentile() {
        assert_eq!(Summary::of(vec![7]), Some(Summary { count: 1, p50: 7, p99: 7, max: 7 }));
        assert_eq!(Summary::of(Vec::new()), None);
    }

    #[test]
    fn one_outlier_in_a_hundred_stays_out_of_p99() {
        let mut samples = vec![1; 99];
        samples.push(1000);
        assert_eq!(Summary::of(samples).unwrap().p99, 1);
    }

    #[test]
    fn the_median_lies_between_two_middle_runs() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_median_of_many_lies_in_its_interval() {
        let of = |count: u32| Median::of((1..=count).rev().map(f64::from)).unwrap();
        let Median { count, median, quartiles, interval } = of(60);
        // The table of the sign test says 22 and 39, too.
        assert_eq!((count, median, quartiles, interval), (60, 30.5, [15.0, 46.0], [22.0, 39.0]));
        assert_eq!((of(3).interval, of(1).interval, of(1).quartiles), ([1.0, 3.0], [1.0; 2], [1.0; 2]));
        assert_eq!(Median::of([]), None);
    }
}
