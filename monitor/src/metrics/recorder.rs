//! What the daemon counts of itself, under labels that are fixed in the code: the recorder of the crate `metrics`, and
//! the text that `metrics-exporter-prometheus` makes of it.
//!
//! Counters only. Of a histogram this recorder keeps each sample until somebody scrapes, a label that has gone it cannot
//! forget, and label values with a backslash it confuses; all such families are written by defib itself. There is no
//! idle timeout: a counter that nobody touches must not vanish, or it would begin again at 0.

use metrics::{Counter, Key, KeyName, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::names::{ALL, EVENT_RESYNCS, Family, HTTP_REQUESTS, LOG_MESSAGES, Writer};
use super::text::{Format, heading};
use defib_core::model::SourceName;

/// The levels of log messages, by their words.
pub(super) const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The counters.
pub(super) struct Recorder {
    recorder: PrometheusRecorder,
    page: PrometheusHandle,
    /// One for each of [`LEVELS`]. Kept, because a handle costs a tenth of a look-up.
    levels: [Counter; LEVELS.len()],
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for family in ALL.iter().filter(|family| family.writer == Writer::Recorder) {
            recorder.describe_counter(KeyName::from_const_str(family.name), None, family.help.into());
        }
        let levels = LEVELS.map(|level| counter(&recorder, &LOG_MESSAGES, &[level]));
        // Known values begin at 0: whoever scrapes sees the first increase.
        counter(&recorder, &HTTP_REQUESTS, &["/metrics", "GET", "200"]).absolute(0);
        levels.iter().for_each(|level| level.absolute(0));
        Self { page: recorder.handle(), recorder, levels }
    }

    /// A request was answered. `handler` is a route, never a path that a client chose.
    pub(super) fn answered(&self, handler: &str, method: &'static str, code: u16) {
        counter(&self.recorder, &HTTP_REQUESTS, &[handler, method, &code.to_string()]).increment(1);
    }

    /// A message was logged; `level` is its place in [`LEVELS`].
    pub(super) fn logged(&self, level: usize) {
        if let Some(level) = self.levels.get(level) {
            level.increment(1);
        }
    }

    /// Everything was looked at again because the source has lost events.
    pub(super) fn resynced(&self, source: SourceName, times: u64) {
        counter(&self.recorder, &EVENT_RESYNCS, &[source.as_str()]).increment(times);
    }

    /// The families, in an order of their own.
    pub(super) fn text(&self, format: Format) -> String {
        let rendered = self.page.render();
        match format {
            Format::Text => rendered,
            Format::OpenMetrics => openmetrics(&rendered),
        }
    }
}

/// The same samples under other headings, and without the empty lines that OpenMetrics does not know.
fn openmetrics(rendered: &str) -> String {
    let mut text = String::with_capacity(rendered.len());
    for line in rendered.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()) {
            Some(name) => {
                let family = ALL.iter().find(|family| family.name == name);
                family.into_iter().for_each(|family| heading(&mut text, family, Format::OpenMetrics));
            }
            None if line.starts_with('#') => {}
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

fn counter(recorder: &PrometheusRecorder, family: &Family, values: &[&str]) -> Counter {
    debug_assert_eq!((family.writer, family.labels.len()), (Writer::Recorder, values.len()));
    let labels = family.labels.iter().zip(values).map(|(name, value)| Label::new(*name, (*value).to_owned()));
    let key = Key::from_parts(family.name, labels.collect::<Vec<_>>());
    recorder.register_counter(&key, &Metadata::new(module_path!(), Level::INFO, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_are_those_of_the_table() {
        let recorder = Recorder::new();
        recorder.answered("/v1/status/{name}", "GET", 404);
        recorder.answered("/v1/status/{name}", "GET", 404);
        recorder.logged(0);
        recorder.resynced(SourceName::Ebpf, 0);
        let text = recorder.text(Format::Text);
        for line in [
            "# TYPE defib_http_requests_total counter\n",
            "# HELP defib_log_messages_total Log messages written.\n",
            "defib_http_requests_total{handler=\"/v1/status/{name}\",method=\"GET\",code=\"404\"} 2\n",
            "defib_http_requests_total{handler=\"/metrics\",method=\"GET\",code=\"200\"} 0\n",
            "defib_log_messages_total{level=\"error\"} 1\n",
            "defib_log_messages_total{level=\"trace\"} 0\n",
            "defib_event_resyncs_total{source=\"ebpf\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("summary") && !text.contains("quantile"), "{text}");

        let open = recorder.text(Format::OpenMetrics);
        assert!(open.contains("# TYPE defib_http_requests counter\ndefib_http_requests_total{"), "{open}");
        let samples =
            |text: &str| text.lines().filter(|it| it.contains('{')).map(str::to_owned).collect::<Vec<_>>();
        let (mut one, mut other) = (samples(&text), samples(&open));
        // The crate writes in another order each time.
        one.sort();
        other.sort();
        assert_eq!(one, other);
        assert!(!open.contains("\n\n") && open.matches("# HELP ").count() == 3, "{open}");
    }
}
