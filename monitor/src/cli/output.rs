//! How things are written: tables, JSON, spans of time, sizes, and nothing that could steer a terminal.
#![expect(clippy::print_stderr, reason = "the command line is the one place that talks to people")]

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::args::Options;
use super::color;
use super::session::Failure;

/// Says on standard error what went wrong, with all its causes.
pub(super) fn complain(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    complain_of(&text);
}

/// The same, of something that is not an error value.
pub(super) fn complain_of(text: &str) {
    let (red, plain) = if color::of_errors() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    eprintln!("{red}defib:{plain} {}", escape(text));
}

/// Writes a line on standard error as it is.
pub(super) fn write_error(line: &str) {
    eprintln!("{line}");
}

/// Standard output.
#[derive(Debug)]
pub(super) struct Printer {
    /// Whether JSON is wanted.
    pub(super) json: bool,
    /// Whether colour is wanted.
    pub(super) color: bool,
}

impl Printer {
    pub(super) fn new(options: &Options) -> Self {
        let color = color::wanted(options.color, io::stdout().is_terminal());
        Self { json: options.json, color }
    }

    /// Writes text at once; whoever reads along a pipe is not kept waiting.
    pub(super) fn print(&mut self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)
    }

    /// The same, of bytes that are no text.
    pub(super) fn print_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::Output)
    }

    /// Writes a value as one line of JSON.
    pub(super) fn print_json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        self.print(&json_line(&serde_json::to_string(value)?))
    }
}

/// JSON as a line. It may go to a terminal, and JSON leaves DEL and the control characters beyond ASCII as they are.
fn json_line(json: &str) -> String {
    let mut line = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        // Only inside strings can there be one.
        if c.is_control() { line.push_str(&format!("\\u{:04x}", u32::from(c))) } else { line.push(c) }
    }
    line.push('\n');
    line
}

/// The text with everything escaped that a terminal would act on or could not show. Quotes stay as they are.
pub(super) fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// Rows under a head, in columns two blanks apart; the last column is as long as it is. An empty cell is shown as `-`,
/// so that scripts can count the words.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> Vec<String> {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|name| (*name).to_owned()).collect()];
    lines.extend(rows);
    for line in &mut lines {
        line.iter_mut().filter(|cell| cell.is_empty()).for_each(|cell| cell.push('-'));
    }
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().filter_map(|line| Some(line.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let text = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(text).collect()
}

/// A span of time in its two largest units: `3d4h`, `12m3s`, `42s`, `3.0s`, `100ms`.
pub(super) fn span(seconds: f64) -> String {
    let millis = (seconds.max(0.0) * 1000.0).round();
    // Saturates far beyond any life.
    let (whole, millis) = ((millis / 1000.0) as u64, millis as u64);
    let two = |large: u64, unit, small: u64, subunit| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{subunit}") }
    };
    match whole {
        0 => format!("{millis}ms"),
        1..10 => format!("{:.1}s", millis as f64 / 1000.0),
        10..60 => format!("{whole}s"),
        60..3600 => two(whole / 60, "m", whole % 60, "s"),
        3600..86_400 => two(whole / 3600, "h", whole % 3600 / 60, "m"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// A size in powers of 1024: `512B`, `3.4M`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let power = (1..UNITS.len()).rev().find(|power| bytes >> (10 * power) > 0).unwrap_or(0);
    let value = bytes as f64 / (1_u64 << (10 * power)) as f64;
    let digits = usize::from(power > 0 && value < 10.0);
    format!("{value:.digits$}{}", UNITS[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_act_on() {
        assert_eq!(escape("plain \"text\" — it's ü"), "plain \"text\" — it's ü");
        assert_eq!(escape("\x1b[31m\r\n\t\u{7f}\u{9b}\0"), "\\u{1b}[31m\\r\\n\\t\\u{7f}\\u{9b}\\0");
        assert_eq!(escape("\u{202e}gpj.exe\u{2066}\u{2028}"), "\\u{202e}gpj.exe\\u{2066}\\u{2028}");
        assert_eq!(escape("a\\nb"), "a\\\\nb", "an escape cannot be faked");
    }

    #[test]
    fn json_for_a_terminal_is_still_the_same_json() {
        let value = "ü \u{7f}\u{9b}\x1b\n";
        let line = json_line(&serde_json::to_string(value).unwrap());
        assert_eq!(line, "\"ü \\u007f\\u009b\\u001b\\n\"\n");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), value);
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (0.0, "0ms"),
            (-1.0, "0ms"),
            (0.1, "100ms"),
            (0.9996, "1.0s"),
            (3.0, "3.0s"),
            (42.7, "42s"),
            (60.0, "1m"),
            (723.0, "12m3s"),
            (3600.0, "1h"),
            (7_500.0, "2h5m"),
            (273_600.0, "3d4h"),
            (f64::MAX, "213503982334601d7h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0K"),
            (3_565_158, "3.4M"),
            (536_870_912, "512M"),
            (5 << 40, "5.0T"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".to_owned(), "run".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "STATE"], rows), ["NAME    STATE", "a       run", "longer  -"]);
    }
}
