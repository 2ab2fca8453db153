//! The text of a page: families in the order of their names, every label value escaped. In the format of Prometheus,
//! version 0.0.4, or in that of OpenMetrics 1.0, which has the same samples and other headings.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::histogram::Reading;
use super::names::{Family, Kind, Writer};

/// How a page is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's own, 0.0.4.
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What it is called in a response.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What stands behind the last family.
    pub(super) fn end(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::OpenMetrics => "# EOF\n",
        }
    }
}

/// A page that is being written.
#[derive(Debug)]
pub(super) struct Page {
    families: BTreeMap<&'static str, Block>,
    /// How many members a family may have, where the configuration names them.
    most: usize,
}

#[derive(Debug)]
struct Block {
    family: &'static Family,
    samples: String,
    members: Members,
}

/// Whom the samples of a family are about: the values of its first label, by their hashes. Samples of one member mostly
/// follow each other, so few of them are looked up.
#[derive(Debug, Default)]
struct Members {
    last: String,
    last_fits: bool,
    seen: HashSet<u64>,
    left_out: u64,
}

impl Members {
    /// Whether there is room for a sample of this member.
    fn admit(&mut self, member: &str, most: usize) -> bool {
        if self.seen.is_empty() || self.last != member {
            member.clone_into(&mut self.last);
            let mut hasher = DefaultHasher::new();
            member.hash(&mut hasher);
            let hash = hasher.finish();
            self.last_fits = self.seen.contains(&hash) || (self.seen.len() < most && self.seen.insert(hash));
        }
        self.left_out += u64::from(!self.last_fits);
        self.last_fits
    }
}

impl Default for Page {
    /// An empty one without a limit.
    fn default() -> Self {
        Self::within(usize::MAX)
    }
}

impl Page {
    /// An empty one. Families that are about what the configuration names get at most `most` members each.
    pub(super) fn within(most: usize) -> Self {
        Self { families: BTreeMap::new(), most }
    }

    /// Samples of a family, behind those that it has. A family without samples is not written.
    pub(super) fn family(&mut self, family: &'static Family) -> Samples<'_> {
        debug_assert_eq!(family.writer, Writer::Scrape, "{} is the recorder's", family.name);
        let new = || Block { family, samples: String::new(), members: Members::default() };
        let Block { samples, members, .. } = self.families.entry(family.name).or_insert_with(new);
        Samples { family, out: samples, members, most: self.most }
    }

    /// A family with one sample and no labels.
    pub(super) fn single(&mut self, family: &'static Family, value: f64) {
        self.family(family).add(&[], value);
    }

    /// The families that had no room for everything, and how many sets of labels were left out of each.
    pub(super) fn left_out(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let blocks = self.families.iter().map(|(name, block)| (*name, block.members.left_out));
        blocks.filter(|(_, left_out)| *left_out > 0)
    }

    /// All families.
    #[cfg(test)]
    pub(super) fn into_text(self, format: Format) -> String {
        let mut text = String::new();
        self.append_to(&mut text, format);
        text
    }

    /// Adds all families to a text.
    pub(super) fn append_to(self, text: &mut String, format: Format) {
        let blocks = || self.families.values().filter(|block| !block.samples.is_empty());
        text.reserve(blocks().map(|block| block.samples.len() + 256).sum());
        for Block { family, samples, .. } in blocks() {
            heading(text, family, format);
            text.push_str(samples);
        }
    }
}

/// Adds what stands above the samples of a family.
pub(super) fn heading(text: &mut String, family: &Family, format: Format) {
    let name = match (format, family.kind) {
        // There the suffix belongs to the sample only.
        (Format::OpenMetrics, Kind::Counter) => family.name.strip_suffix("_total").unwrap_or(family.name),
        _ => family.name,
    };
    let unit = family.unit.word().filter(|_| format == Format::OpenMetrics);
    for (what, value) in [("HELP", Some(family.help)), ("TYPE", Some(family.kind.as_str())), ("UNIT", unit)] {
        let Some(value) = value else { continue };
        text.push_str("# ");
        text.push_str(what);
        text.push(' ');
        text.push_str(name);
        text.push(' ');
        escape(text, value, format == Format::OpenMetrics);
        text.push('\n');
    }
}

/// Where the samples of one family go.
#[derive(Debug)]
pub(super) struct Samples<'a> {
    family: &'static Family,
    out: &'a mut String,
    members: &'a mut Members,
    most: usize,
}

impl Samples<'_> {
    /// Adds one; `labels` are the values of the family's labels in their order.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        if self.has_room(labels) {
            self.line("", labels, None, value);
        }
    }

    /// Adds one that is 1 or 0.
    pub(super) fn truth(&mut self, labels: &[&str], value: bool) {
        self.add(labels, if value { 1.0 } else { 0.0 });
    }

    /// Adds a count. Above 2^53 the last digits are lost, as Prometheus itself loses them.
    pub(super) fn count(&mut self, labels: &[&str], value: u64) {
        self.add(labels, value as f64);
    }

    /// Adds all lines of a histogram.
    pub(super) fn histogram(&mut self, labels: &[&str], reading: &Reading) {
        if !self.has_room(labels) {
            return;
        }
        for (bound, count) in &reading.buckets {
            self.line("_bucket", labels, Some(bound), *count as f64);
        }
        self.line("_bucket", labels, Some("+Inf"), reading.count as f64);
        self.line("_sum", labels, None, reading.sum);
        self.line("_count", labels, None, reading.count as f64);
    }

    fn has_room(&mut self, labels: &[&str]) -> bool {
        match labels.first() {
            Some(member) if self.family.is_open() => self.members.admit(member, self.most),
            _ => true,
        }
    }

    fn line(&mut self, suffix: &str, labels: &[&str], le: Option<&str>, value: f64) {
        debug_assert_eq!(labels.len(), self.family.labels.len(), "{}", self.family.name);
        self.out.push_str(self.family.name);
        self.out.push_str(suffix);
        let mut open = '{';
        let all = self.family.labels.iter().copied().zip(labels.iter().copied());
        for (name, value) in all.chain(le.map(|le| ("le", le))) {
            self.out.push(open);
            open = ',';
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(self.out, value, true);
            self.out.push('"');
        }
        if open == ',' {
            self.out.push('}');
        }
        self.out.push(' ');
        number(self.out, value);
        self.out.push('\n');
    }
}

/// Adds a text with what the format gives a meaning escaped. Quotes have one inside label values only.
fn escape(out: &mut String, text: &str, quotes: bool) {
    let special = |c: char| c == '\\' || c == '\n' || (quotes && c == '"');
    // Nearly none has any, and bytes are looked through faster than characters.
    if !text.bytes().any(|byte| special(char::from(byte))) {
        out.push_str(text);
        return;
    }
    let mut rest = text;
    while let Some(at) = rest.find(special) {
        let (plain, found) = rest.split_at(at);
        out.push_str(plain);
        out.push('\\');
        out.push(if found.starts_with('\n') { 'n' } else { char::from(found.as_bytes()[0]) });
        rest = &found[1..];
    }
    out.push_str(rest);
}

fn number(out: &mut String, value: f64) {
    /// 2^53: below, every whole number is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else if (0.0..EXACT).contains(&value) && value.fract() == 0.0 && value.is_sign_positive() {
        // Most are 0 or 1. The shortest digits of a fraction cost several times as much to find.
        write!(out, "{}", value as u64).ok();
    } else {
        // Writing to a string cannot fail.
        write!(out, "{value}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::{Histogram, LATENCY};
    use super::super::names::{BUILD_INFO, EVENT_LATENCY, OWN_CPU, OWN_THREADS, PROCESS_UP};
    use super::*;
    use std::time::Duration;

    #[test]
    fn families_are_in_order_whatever_the_order_of_writing() {
        let mut page = Page::default();
        page.single(&OWN_THREADS, 3.0);
        page.single(&OWN_CPU, 1.25);
        page.family(&PROCESS_UP);
        page.family(&BUILD_INFO).add(&["1", "2", "3"], 1.0);
        assert_eq!(
            page.into_text(Format::Text),
            "# HELP defib_build_info Facts about this build; always 1.\n\
             # TYPE defib_build_info gauge\n\
             defib_build_info{version=\"1\",revision=\"2\",rustc=\"3\"} 1\n\
             # HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.\n\
             # TYPE process_cpu_seconds_total counter\n\
             process_cpu_seconds_total 1.25\n\
             # HELP process_threads Number of OS threads in the process.\n\
             # TYPE process_threads gauge\n\
             process_threads 3\n"
        );
    }

    /// Two values that differ must differ in the text, and none may end its line or its quotes.
    #[test]
    fn hostile_label_values_stay_inside_their_quotes_and_apart() {
        let values =
            ["a", "a\"", "a\\", "a\\\"", "a\n", "a\\n", "\"} 1\ndefib_up 1", "ü\u{7}", "", "{}", "a\\\\n"];
        let mut lines = std::collections::BTreeSet::new();
        for value in values {
            let mut page = Page::default();
            page.family(&PROCESS_UP).add(&[value], 1.0);
            let text = page.into_text(Format::Text);
            let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
            let [line] = samples[..] else { panic!("{value:?} makes {samples:?}") };
            let inner =
                line.strip_prefix("defib_process_up{process=\"").unwrap().strip_suffix("\"} 1").unwrap();
            assert_eq!(unescape(inner).as_deref(), Some(value));
            assert!(lines.insert(line.to_owned()), "{value:?}");
        }
    }

    /// As a reader of the format takes it; `None` where a quote would end the value.
    fn unescape(text: &str) -> Option<String> {
        let (mut out, mut chars) = (String::new(), text.chars());
        while let Some(c) = chars.next() {
            match c {
                '\\' => out.push(match chars.next()? {
                    'n' => '\n',
                    other => other,
                }),
                '"' | '\n' => return None,
                other => out.push(other),
            }
        }
        Some(out)
    }

    #[test]
    fn help_may_hold_quotes_but_no_line_ends() {
        let mut out = String::new();
        escape(&mut out, "a \"b\" \\ \n c", false);
        assert_eq!(out, "a \"b\" \\\\ \\n c");
    }

    #[test]
    fn a_histogram_is_cumulative_and_its_count_is_its_last_bucket() {
        let histogram = Histogram::new(&LATENCY);
        for ms in [0, 1, 30, 9000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.family(&EVENT_LATENCY).histogram(&["ebpf"], &histogram.read());
        let text = page.into_text(Format::Text);
        for line in [
            "_bucket{source=\"ebpf\",le=\"0.0005\"} 1\n",
            "_bucket{source=\"ebpf\",le=\"0.001\"} 2\n",
            "_bucket{source=\"ebpf\",le=\"0.05\"} 3\n",
            "_bucket{source=\"ebpf\",le=\"5.0\"} 3\n",
            "_bucket{source=\"ebpf\",le=\"+Inf\"} 4\n",
            "_sum{source=\"ebpf\"} 9.031\n",
            "_count{source=\"ebpf\"} 4\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn numbers_are_such_that_prometheus_reads_them() {
        let written = |value| {
            let mut out = String::new();
            number(&mut out, value);
            out
        };
        let texts = [0.0, 1e9, 1.5e-9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(written);
        assert_eq!(texts, ["0", "1000000000", "0.0000000015", "NaN", "+Inf", "-Inf"]);
        for value in
            [0.0, -0.0, 1.0, -1.0, 0.5, 1e15, 1e16, 9_007_199_254_740_991.0, 9_007_199_254_740_992.0, 1e300]
        {
            assert_eq!(written(value), format!("{value}"), "however it is written");
        }
    }
}
