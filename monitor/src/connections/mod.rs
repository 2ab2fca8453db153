//! The connections of ports: what is counted of them, and who counts.

pub mod counts;

pub use counts::{BOUNDS, Counter, Counts, LENGTHS, Lengths, MAX_PLACES, Place, Verdict};
