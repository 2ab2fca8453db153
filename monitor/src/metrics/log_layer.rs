//! Counts log messages by their level.
//!
//! Whoever builds the log adds [`LogLayer`] with the filter of the log, so that what is not written is not counted.

use std::sync::Arc;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::Metrics;

/// A layer that counts.
#[derive(Clone, Debug)]
pub struct LogLayer(pub Arc<Metrics>);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => 0,
            Level::WARN => 1,
            Level::INFO => 2,
            Level::DEBUG => 3,
            Level::TRACE => 4,
        };
        self.0.recorder.logged(level);
    }
}

#[cfg(test)]
mod tests {
    use defib_core::model::Tick;
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::super::Format;
    use super::*;

    #[test]
    fn messages_are_counted_by_level_and_only_if_they_are_written() {
        let metrics = Arc::new(Metrics::new(Tick(1)));
        let log = tracing_subscriber::registry()
            .with(LogLayer(Arc::clone(&metrics)).with_filter(LevelFilter::INFO));
        tracing::subscriber::with_default(log, || {
            tracing::error!("one");
            tracing::info!("two");
            tracing::info!("three");
            tracing::debug!("not written");
        });
        let text = metrics.recorder.text(Format::Text);
        for (level, count) in [("error", 1), ("warn", 0), ("info", 2), ("debug", 0)] {
            let line = format!("defib_log_messages_total{{level=\"{level}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
