//! A cursor over a TOML document that knows lines and keys, and notes what is wrong instead of stopping at it.
//!
//! A reader is a function from a [`Node`] to an `Option`: `None` says that an error was noted. A [`Table`] remembers
//! the keys that were asked for, so that in the end it can report the others as unknown, with the nearest of its own.

use std::cell::RefCell;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::{Finding, Place, quoted};

/// A document under way: where the lines of its files begin, and what was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Document<'d> {
    /// One behind the other.
    files: Vec<Lines<'d>>,
    findings: RefCell<Vec<Finding>>,
}

/// The lines of a file.
#[derive(Debug)]
struct Lines<'d> {
    file: &'d str,
    /// Where the file begins.
    base: usize,
    /// Where each line but the first begins.
    begins: Vec<usize>,
}

impl<'d> Document<'d> {
    pub(super) fn new(texts: impl IntoIterator<Item = (&'d str, &'d str)>) -> Self {
        let mut doc = Self::default();
        let mut base = 0;
        for (file, text) in texts {
            let begins =
                text.bytes().zip(base..).filter(|(b, _)| *b == b'\n').map(|(_, at)| at + 1).collect();
            doc.files.push(Lines { file, base, begins });
            // One more, so that the end of a file is not the beginning of the next.
            base += text.len() + 1;
        }
        doc
    }

    /// Where the files begin, in their order.
    pub(super) fn bases(&self) -> impl Iterator<Item = usize> {
        self.files.iter().map(|lines| lines.base)
    }

    /// The place of a byte.
    pub(super) fn place(&self, at: usize) -> Place {
        let file = self.files.partition_point(|lines| lines.base <= at).saturating_sub(1);
        match self.files.get(file) {
            Some(lines) => {
                let line = 1 + lines.begins.partition_point(|begin| *begin <= at);
                Place::Line(lines.file.to_owned(), line)
            }
            None => Place::Override,
        }
    }

    /// Notes an error.
    pub(super) fn note(&self, place: Place, key: &str, message: impl Into<String>) {
        self.findings.borrow_mut().push(Finding { place, key: key.to_owned(), message: message.into() });
    }

    /// Everything that was noted.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings.into_inner()
    }

    /// The whole document as a table.
    pub(super) fn root<'a>(&'a self, entries: &'a DeTable<'a>) -> Table<'a> {
        Table { doc: self, path: String::new(), at: 0, entries, known: Vec::new(), faulty: false }
    }
}

/// A value with its place and the path of its key.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    doc: &'a Document<'a>,
    path: String,
    at: usize,
    pub(super) value: &'a DeValue<'a>,
}

impl<'a> Node<'a> {
    /// Notes that something else is wanted.
    pub(super) fn refuse<T>(&self, wanted: &str) -> Option<T> {
        self.complain(format!("found {}, wanted {wanted}", shown(self.value)))
    }

    /// Notes an error in words of its own.
    pub(super) fn complain<T>(&self, message: impl Into<String>) -> Option<T> {
        self.doc.note(self.place(), &self.path, message);
        None
    }

    /// Where it is.
    pub(super) fn place(&self) -> Place {
        self.doc.place(self.at)
    }

    /// The items of an array; `wanted` names the whole of it.
    pub(super) fn items(&self, wanted: &str) -> Option<Vec<Self>> {
        let Some(items) = self.value.as_array() else { return self.refuse(wanted) };
        let item = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| Self {
            doc: self.doc,
            path: format!("{}[{index}]", self.path),
            at: value.span().start,
            value: value.get_ref(),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The table that it is; `wanted` names it.
    pub(super) fn table(self, wanted: &str) -> Option<Table<'a>> {
        let Some(entries) = self.value.as_table() else { return self.refuse(wanted) };
        Some(Table { doc: self.doc, path: self.path, at: self.at, entries, known: Vec::new(), faulty: false })
    }
}

/// A table of which each key is asked for by name, or which is a map with free keys.
#[derive(Debug)]
pub(super) struct Table<'a> {
    doc: &'a Document<'a>,
    path: String,
    at: usize,
    entries: &'a DeTable<'a>,
    known: Vec<&'static str>,
    faulty: bool,
}

impl<'a> Table<'a> {
    /// The value of a key, read by `read`; `None` if it is not given or was refused.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Node<'a>) -> Option<T>,
    ) -> Option<T> {
        self.known.push(key);
        let (key, value) = self.entries.get_key_value(key)?;
        let read = read(self.node(key, value));
        self.faulty |= read.is_none();
        read
    }

    /// Reads a key into its field, which stays as it is if the key is not given or was refused.
    pub(super) fn set<T>(
        &mut self,
        field: &mut T,
        key: &'static str,
        read: impl FnOnce(Node<'a>) -> Option<T>,
    ) {
        if let Some(value) = self.get(key, read) {
            *field = value;
        }
    }

    /// Every key with its value, in the order of the alphabet: for tables with free keys.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        self.entries.iter().map(|(key, value)| (key.get_ref().as_ref(), self.node(key, value)))
    }

    /// Whether a value was refused. What is compared with it then would be wrong by no fault of its own.
    pub(super) fn faulty(&self) -> bool {
        self.faulty
    }

    /// Whether a key is given.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Notes an error of a key: at its place, or at that of the table if it is missing.
    pub(super) fn complain(&self, key: &str, message: impl Into<String>) {
        let at = self.entries.get_key_value(key).map_or(self.at, |(key, _)| key.span().start);
        self.doc.note(self.doc.place(at), &self.path_of(key), message);
    }

    /// Reports the keys nobody asked for: with the reason that `known_why` has for them, or as unknown.
    pub(super) fn finish(self, known_why: impl Fn(&str) -> Option<&'static str>) {
        let asked = |name: &str| self.known.contains(&name);
        for name in self.entries.keys().map(|key| key.get_ref().as_ref()).filter(|name| !asked(name)) {
            match known_why(name) {
                Some(why) => self.complain(name, why),
                None => self.complain(name, format!("unknown key; {}", self.advice(name))),
            }
        }
    }

    /// The nearest key that is known here, or all of them if none is near.
    fn advice(&self, name: &str) -> String {
        // A slip of the finger changes a letter or two; and the distance to a huge key is not worth its time.
        let near = |known: &str| match strsim::osa_distance(name, known) {
            distance if distance <= 1 + known.len() / 4 => Some(distance),
            _ => None,
        };
        let candidates = self.known.iter().filter(|_| name.len() <= 64);
        let nearest = candidates.filter_map(|known| Some((near(known)?, known))).min();
        match nearest {
            Some((_, known)) => format!("did you mean {known}?"),
            None => format!("known here: {}", self.known.join(", ")),
        }
    }

    fn node(&self, key: &Spanned<DeString<'a>>, value: &'a Spanned<DeValue<'a>>) -> Node<'a> {
        // A table written with dotted keys has no place of its own; its key always has one.
        let at = if value.get_ref().is_table() { key.span().start } else { value.span().start };
        Node { doc: self.doc, path: self.path_of(key.get_ref()), at, value: value.get_ref() }
    }

    fn path_of(&self, key: &str) -> String {
        path(Some(&*self.path).filter(|path| !path.is_empty()), key)
    }
}

/// The path of a key in a table.
pub(super) fn path(table: Option<&str>, key: &str) -> String {
    let key = if bare(key) { key.to_owned() } else { quoted(key) };
    table.map_or(key.clone(), |table| format!("{table}.{key}"))
}

/// Whether TOML lets the key stand without quotes (and it is not of a length that messages would choke on).
fn bare(key: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=64).contains(&key.len()) && key.bytes().all(plain)
}

/// A value with its type, for messages.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(number) => format!("the integer {}", cut(&number.to_string())),
        DeValue::Float(number) => format!("the float {}", cut(number.as_str())),
        DeValue::Boolean(value) => format!("the boolean {value}"),
        DeValue::Datetime(time) => format!("the date-time {time}"),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Numbers are ASCII, and can be as long as the file.
fn cut(number: &str) -> &str {
    number.get(..40).unwrap_or(number)
}
