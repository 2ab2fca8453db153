//! Reports for people: a verdict a row, and beneath it the remedy.

use super::output::escape;

/// Lines are broken here, where they can be.
pub(super) const WIDTH: usize = 100;

/// How a verdict is coloured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Good,
    Doubtful,
    Bad,
}

/// A row to be shown.
#[derive(Debug)]
pub(super) struct Line<'r> {
    pub(super) name: &'r str,
    pub(super) mark: Mark,
    /// At most seven characters.
    pub(super) verdict: &'r str,
    pub(super) found: &'r str,
    pub(super) remedy: &'r str,
}

/// The name of what rows are about.
pub(super) fn head(name: &str, color: bool) -> String {
    let (bold, plain) = if color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    format!("{bold}{name}{plain}")
}

impl Line<'_> {
    /// Appends the row; `width` is that of the longest name.
    pub(super) fn append(&self, width: usize, color: bool, text: &mut String) {
        let (begin, end) = match (color, self.mark) {
            (false, _) => ("", ""),
            (true, Mark::Good) => ("\x1b[32m", "\x1b[0m"),
            (true, Mark::Doubtful) => ("\x1b[33m", "\x1b[0m"),
            (true, Mark::Bad) => ("\x1b[31m", "\x1b[0m"),
        };
        let indent = 2 + width + 2 + 7 + 2;
        let name = escape(self.name);
        text.push_str(&format!("  {name:width$}  {begin}{:7}{end}  ", self.verdict));
        push(&escape(self.found), indent, text);
        if !self.remedy.is_empty() {
            text.push_str(&" ".repeat(indent));
            push(&format!("→ {}", escape(self.remedy)), indent + 2, text);
        }
    }
}

/// Appends a text to a line that has come to the column `indent`, broken between words into lines that begin there.
fn push(words: &str, indent: usize, text: &mut String) {
    let mut column = indent;
    for (index, word) in words.split(' ').enumerate() {
        let length = word.chars().count();
        if index > 0 && column + 1 + length > WIDTH {
            text.push_str(&format!("\n{}", " ".repeat(indent)));
            column = indent;
        } else if index > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}
