//! One outcome as a table, for a terminal and for Markdown, as JSON, and as bars.

use serde_json::Value;

use super::stats::Spread;
use super::svg::Panel;

/// What one bench has to say.
#[derive(Debug)]
pub(super) struct Section {
    /// The word by which it is asked for, and its key in the document.
    pub(super) key: &'static str,
    /// One line: what was measured.
    pub(super) title: String,
    /// What must be known to read it.
    pub(super) notes: Vec<String>,
    pub(super) tables: Vec<Table>,
    pub(super) panels: Vec<Panel>,
    pub(super) json: Value,
}

#[derive(Debug)]
pub(super) struct Table {
    /// Empty where the section has only one.
    pub(super) caption: String,
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    /// The cells, or the reason why there are none.
    pub(super) cells: Result<Vec<String>, String>,
}

impl Row {
    pub(super) fn new(name: impl Into<String>, cells: Vec<String>) -> Self {
        Self { name: name.into(), cells: Ok(cells) }
    }

    /// Of the reason the first line, without the name that the row has already.
    pub(super) fn absent(name: impl Into<String>, reason: &str) -> Self {
        let name = name.into();
        let line = reason.lines().next().unwrap_or_default();
        let line = line.strip_prefix(&format!("{name}: ")).unwrap_or(line);
        let line = line.strip_suffix("; it wrote:").unwrap_or(line).to_owned();
        Self { name, cells: Err(line) }
    }
}

impl Section {
    /// For a terminal.
    pub(super) fn plain(&self) -> String {
        let mut text = format!("{}: {}", self.key, self.title);
        for note in &self.notes {
            text += &format!("\n  {note}");
        }
        for table in &self.tables {
            if !table.caption.is_empty() {
                text += &format!("\n  {}", table.caption);
            }
            text += &table.plain();
        }
        text
    }

    /// For a page.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n{}.", self.key, self.title);
        for note in &self.notes {
            text += &format!(" {note}.");
        }
        text.push('\n');
        for table in &self.tables {
            text.push('\n');
            if !table.caption.is_empty() {
                text += &format!("{}:\n\n", table.caption);
            }
            text += &table.markdown();
        }
        text
    }
}

impl Table {
    fn plain(&self) -> String {
        let name = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let cells = || self.rows.iter().filter_map(|row| row.cells.as_ref().ok());
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let longest = cells().map(|row| row[column].chars().count()).max().unwrap_or(0);
                longest.max(self.columns[column].chars().count()) + 2
            })
            .collect();
        let mut text = format!("\n  {:name$}", "");
        for (column, width) in self.columns.iter().zip(&widths) {
            text += &format!("{column:>width$}");
        }
        for row in &self.rows {
            text += &format!("\n  {:name$}", row.name);
            match &row.cells {
                Ok(cells) => {
                    cells.iter().zip(&widths).for_each(|(cell, width)| text += &format!("{cell:>width$}"))
                }
                Err(reason) => text += &format!("  -  {reason}"),
            }
        }
        text
    }

    fn markdown(&self) -> String {
        let mut text =
            format!("| | {} |\n|{}\n", self.columns.join(" | "), " --- |".repeat(self.columns.len() + 1));
        for row in &self.rows {
            let cells = match &row.cells {
                Ok(cells) => cells.join(" | "),
                Err(reason) => {
                    format!("- ({}){}", reason.replace('|', "\\|"), " |".repeat(self.columns.len() - 1))
                }
            };
            text += &format!("| {} | {cells} |\n", row.name);
        }
        text
    }
}

/// A figure with the lowest and the highest of the runs, where there were several.
pub(super) fn show(spread: Spread, decimals: usize) -> String {
    let Spread { median, min, max } = spread;
    if min == max {
        return format!("{median:.decimals$}");
    }
    format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
}

pub(super) fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// As in "the median of five runs".
pub(super) fn runs(count: usize) -> String {
    if count == 1 { "one run".to_owned() } else { format!("the median of {count} runs (lowest–highest)") }
}

/// KiB as a table has them.
pub(super) fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Section {
        Section {
            key: "restart",
            title: "from the crash on".to_owned(),
            notes: vec!["two runs".to_owned()],
            tables: vec![Table {
                caption: String::new(),
                columns: vec!["p50 µs", "ratio"],
                rows: vec![
                    Row::new("defib", vec!["60 (50–70)".to_owned(), "1.10".to_owned()]),
                    Row::absent("monit", "monit: no apt-get | no monit; it wrote:\nmore"),
                ],
            }],
            panels: Vec::new(),
            json: Value::Null,
        }
    }

    #[test]
    fn a_terminal_gets_columns() {
        let text = section().plain();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "restart: from the crash on",
                "  two runs",
                "             p50 µs  ratio",
                "  defib  60 (50–70)   1.10",
                "  monit  -  no apt-get | no monit",
            ]
        );
    }

    #[test]
    fn a_page_gets_a_table_in_which_every_row_is_whole() {
        let text = section().markdown();
        assert_eq!(
            text,
            "### restart\n\nfrom the crash on. two runs.\n\n| | p50 µs | ratio |\n| --- | --- | --- |\n\
             | defib | 60 (50–70) | 1.10 |\n| monit | - (no apt-get \\| no monit) | |\n"
        );
    }

    #[test]
    fn a_spread_of_one_run_is_a_figure() {
        assert_eq!(show(Spread { median: 2.0, min: 2.0, max: 2.0 }, 1), "2.0");
        assert_eq!(show(Spread { median: 2.0, min: 1.0, max: 3.5 }, 1), "2.0 (1.0–3.5)");
    }
}
