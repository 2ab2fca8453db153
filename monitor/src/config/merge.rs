//! Several files as one document.
//!
//! The files are laid one behind the other: what stands in a later one has its place moved by the length of those
//! before it, so that a single number names file and line. Services and the keys of `[daemon]` and `[listen]` may be
//! spread over the files; nothing may be given twice, and `[defaults]` not be divided, because one could not see any
//! more what holds.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::document::Document;

type Entry<'t> = (Spanned<DeString<'t>>, Spanned<DeValue<'t>>);

/// The tables of which files may each give a part.
const SHARED: [&str; 3] = ["service", "daemon", "listen"];

/// Adds the table of a file, which begins at `base`, to those of the files before it.
pub(super) fn add<'t>(doc: &Document<'_>, whole: &mut DeTable<'t>, part: DeTable<'t>, base: usize) {
    for (key, value) in shifted(part, base) {
        let shared = SHARED.contains(&key.get_ref().as_ref());
        match (shared, whole.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value) {
            (true, Some(DeValue::Table(there)), value) if value.get_ref().is_table() => {
                if let DeValue::Table(more) = value.into_inner() {
                    let table = key.get_ref().clone();
                    more.into_iter().for_each(|entry| insert(doc, there, entry, Some(&table)));
                }
            }
            (_, _, value) => insert(doc, whole, (key, value), None),
        }
    }
}

/// Inserts an entry, unless there is one of its name.
fn insert<'t>(doc: &Document<'_>, into: &mut DeTable<'t>, (key, value): Entry<'t>, table: Option<&str>) {
    match into.get_key_value(key.get_ref().as_ref()) {
        Some((first, _)) => {
            let first = doc.place(first.span().start);
            let message = format!("given already at {first}; remove one of the two");
            doc.note(doc.place(key.span().start), &super::document::path(table, key.get_ref()), message);
        }
        None => drop(into.insert(key, value)),
    }
}

/// The same table, as it is `by` bytes further on.
fn shifted(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    if by == 0 {
        return table;
    }
    table.into_iter().map(|(key, value)| (moved(key, by, |key| key), moved_value(value, by))).collect()
}

fn moved_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    moved(value, by, |value| match value {
        DeValue::Table(table) => DeValue::Table(shifted(table, by)),
        DeValue::Array(items) => {
            DeValue::Array(items.into_iter().map(|item| moved_value(item, by)).collect())
        }
        plain => plain,
    })
}

fn moved<T>(spanned: Spanned<T>, by: usize, inner: impl FnOnce(T) -> T) -> Spanned<T> {
    let span = spanned.span();
    Spanned::new(span.start + by..span.end + by, inner(spanned.into_inner()))
}
