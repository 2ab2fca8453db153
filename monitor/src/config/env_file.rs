//! Environment files: `NAME=value` lines as systemd's `EnvironmentFile=` has them.
//!
//! Blank lines and lines that begin with `#` or `;` are skipped, and `export ` may stand before a name. A value may be
//! quoted. In single quotes everything is taken as it is, in double quotes a backslash guards `"`, `\`, `` ` `` and
//! `$`, without quotes it guards any character. Quoted values may go on over several lines, and a backslash at the end
//! of a line joins the next one. Nothing is expanded.

use std::collections::BTreeMap;
use std::path::Path;

use super::load::{Unreadable, text_of};

/// What an environment file sets; of two lines for one name the later counts.
pub type Variables = BTreeMap<String, String>;

/// Something wrong on a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct InvalidLine {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub why: &'static str,
}

/// Why an environment file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read, or not trusted.
    #[error(transparent)]
    File(#[from] Unreadable),
    /// Its lines are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Lines(Vec<InvalidLine>),
}

/// Reads an environment file under the rules of [`open_trusted`](super::open_trusted).
pub fn load(path: &Path, euid: u32) -> Result<Variables, Unusable> {
    parse(&text_of(path, euid)?).map_err(Unusable::Lines)
}

/// Reads the text of an environment file, or finds everything that is wrong with it.
pub fn parse(text: &str) -> Result<Variables, Vec<InvalidLine>> {
    let mut reader = Reader { rest: text, line: 1 };
    let mut variables = Variables::new();
    let mut errors = Vec::new();
    while !reader.rest.is_empty() {
        let line = reader.line;
        match reader.assignment() {
            Ok(Some((name, value))) => drop(variables.insert(name, value)),
            Ok(None) => {}
            Err(why) => errors.push(InvalidLine { line, why }),
        }
    }
    if errors.is_empty() { Ok(variables) } else { Err(errors) }
}

/// What is left of the text.
struct Reader<'t> {
    rest: &'t str,
    line: usize,
}

impl Reader<'_> {
    /// Reads one assignment, or one line without any. After an error it stands at the next line.
    fn assignment(&mut self) -> Result<Option<(String, String)>, &'static str> {
        let line = self.rest.split('\n').next().unwrap_or_default();
        let start = line.trim_start();
        if start.is_empty() || start.starts_with(['#', ';']) {
            self.skip(line.len());
            self.next();
            return Ok(None);
        }
        let Some((name, _)) = line.split_once('=') else {
            self.skip(line.len());
            self.next();
            return Err("wanted NAME=value");
        };
        self.skip(name.len() + 1);
        let name = name.trim();
        let name = name.strip_prefix("export ").map_or(name, str::trim_start);
        let value = self.value();
        if name.is_empty()
            || name.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'\\$".contains(c))
        {
            return Err(
                "the name before = is empty or has a space, quote, backslash, $ or control character in it",
            );
        }
        let value = value?;
        if value.contains('\0') {
            Err("the value has a NUL in it")
        } else {
            Ok(Some((name.to_owned(), value)))
        }
    }

    /// Reads a value and the newline after it.
    fn value(&mut self) -> Result<String, &'static str> {
        let mut value = String::new();
        // Quotes open only where no plain text has begun, as in systemd: it's and a"b" are plain.
        let mut plain = false;
        // The length up to the last character that is no trailing space.
        let mut end = 0;
        while let Some(c) = self.next() {
            match c {
                '\n' => break,
                '\'' if !plain => self.single(&mut value)?,
                '"' if !plain => self.double(&mut value)?,
                '\\' => {
                    plain = true;
                    value.extend(self.next().filter(|c| *c != '\n'));
                }
                c if c.is_whitespace() => {
                    if plain {
                        value.push(c);
                    }
                    continue;
                }
                c => {
                    plain = true;
                    value.push(c);
                }
            }
            end = value.len();
        }
        value.truncate(end);
        Ok(value)
    }

    fn single(&mut self, value: &mut String) -> Result<(), &'static str> {
        loop {
            match self.next().ok_or("the single quote is not closed")? {
                '\'' => return Ok(()),
                c => value.push(c),
            }
        }
    }

    fn double(&mut self, value: &mut String) -> Result<(), &'static str> {
        const OPEN: &str = "the double quote is not closed";
        loop {
            match self.next().ok_or(OPEN)? {
                '"' => return Ok(()),
                '\\' => match self.next().ok_or(OPEN)? {
                    '\n' => {}
                    c if "\"\\`$".contains(c) => value.push(c),
                    c => value.extend(['\\', c]),
                },
                c => value.push(c),
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.skip(c.len_utf8());
        self.line += usize::from(c == '\n');
        Some(c)
    }

    /// Goes on by some bytes of the present line.
    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }
}

#[cfg(test)]
mod tests {
    use super::{InvalidLine, parse};

    #[test]
    fn lines_mean_what_they_mean_to_systemd() {
        for (text, values) in [
            ("", &[][..]),
            ("# A=1\n ; B=2\n\n \t\n", &[]),
            ("A=1", &[("A", "1")]),
            ("A=1\nB=2\r\nA=3\n", &[("A", "3"), ("B", "2")]),
            ("export A=1\n  export\u{20} B = 2 \n", &[("A", "1"), ("B", "2")]),
            ("A=\nB= a  b \n", &[("A", ""), ("B", "a  b")]),
            ("A=a=b # c\n", &[("A", "a=b # c")]),
            ("A=it's\nB=a\"b\"\n", &[("A", "it's"), ("B", "a\"b\"")]),
            (r"A=a\ b\\\n", &[("A", r"a b\n")]),
            ("A=a\\\nb\nB=c\\ \n", &[("A", "ab"), ("B", "c ")]),
            (r#"A='a "\n$B '"#, &[("A", r#"a "\n$B "#)]),
            (r#"A="a '\"\\\$\`\n ""#, &[("A", r#"a '"\$`\n "#)]),
            ("A=\"a\nb\\\nc\"\nB='d\ne'\n", &[("A", "a\nbc"), ("B", "d\ne")]),
            ("A='a' \"b\"\n", &[("A", "ab")]),
            ("A='a'b\n", &[("A", "ab")]),
        ] {
            let parsed = parse(text).unwrap();
            let parsed: Vec<(&str, &str)> = parsed.iter().map(|(name, value)| (&**name, &**value)).collect();
            assert_eq!(parsed, values, "{text:?}");
        }
    }

    #[test]
    fn every_bad_line_is_named() {
        let name =
            "the name before = is empty or has a space, quote, backslash, $ or control character in it";
        for (text, errors) in [
            ("A\nB=1\nC\n", &[(1, "wanted NAME=value"), (3, "wanted NAME=value")][..]),
            ("=1\nA B=1\nexport A B=1\n'A'=1\n", &[(1, name), (2, name), (3, name), (4, name)]),
            ("\nA=\0\n", &[(2, "the value has a NUL in it")]),
            ("A='\nB=1\n", &[(1, "the single quote is not closed")]),
            ("A='\n'\nB=\"x\\\"", &[(3, "the double quote is not closed")]),
        ] {
            let errors = errors.iter().map(|&(line, why)| InvalidLine { line, why }).collect();
            assert_eq!(parse(text), Err(errors), "{text:?}");
        }
    }
}
