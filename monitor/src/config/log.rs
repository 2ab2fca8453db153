//! Reads `[service.X.log]` over the values that it starts from.

use std::time::Duration;

use defib_core::model::{LogLayout, LogSpec, LogStreams};

use super::document::Node;
use super::values;

pub(super) const LAYOUTS: [(&str, LogLayout); 2] =
    [("single", LogLayout::Single), ("per-start", LogLayout::PerStart)];
pub(super) const STREAMS: [(&str, LogStreams); 2] =
    [("joined", LogStreams::Joined), ("apart", LogStreams::Apart)];

/// Sets what `node` gives and leaves the rest.
pub(super) fn log(node: Node<'_>, log: &mut LogSpec) -> Option<()> {
    let mut table = node.table("a table such as { max_size = \"10M\", max_files = 5 }")?;
    table.set(&mut log.capture, "capture", values::boolean);
    table.set(&mut log.layout, "layout", |node| values::word(node, &LAYOUTS));
    table.set(&mut log.streams, "streams", |node| values::word(node, &STREAMS));
    table.set(&mut log.path, "path", |node| values::path(node).map(Some));
    table.set(&mut log.max_size, "max_size", |node| values::size(node, 0..=i64::MAX as u64));
    table.set(&mut log.max_files, "max_files", |node| {
        values::whole(node, 0..=10_000, "a whole number from 0 to 10000")
    });
    table.set(&mut log.max_age, "max_age", max_age);
    table.set(&mut log.max_total, "max_total", |node| {
        values::or_none(node, |node| values::size(node, 1..=i64::MAX as u64))
    });
    table.set(&mut log.lines, "lines", |node| {
        values::whole(node, 0..=LogSpec::MAX_LINES, "a whole number from 0 to 100000")
    });
    table.set(&mut log.memory, "memory", |node| values::size(node, 0..=LogSpec::MAX_MEMORY));
    table.finish(|_| None);
    Some(())
}

fn max_age(node: Node<'_>) -> Option<Option<Duration>> {
    values::or_none(node, |node| values::span_or(node, "a duration above zero, such as \"7d\", or \"none\""))
}
