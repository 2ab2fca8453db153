//! What was said: an event of `tracing`, taken apart.

use std::fmt;

use defib_core::model::Tick;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::effect::clock;

/// The longest text in bytes. Fields can hold what others have chosen, a path for one, and a datagram to the journal
/// has a limit.
const LONGEST: usize = 8 * 1024;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) at: Tick,
    pub(super) level: Level,
    /// The module that speaks.
    pub(super) module: &'static str,
    /// Where it is in the source.
    pub(super) place: Option<(&'static str, u32)>,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
}

impl Line {
    /// Takes an event apart.
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut line = Self {
            at: clock::now(),
            level: *metadata.level(),
            module: metadata.target(),
            place: metadata.file().zip(metadata.line()),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        line
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn weight(&self) -> usize {
        let texts = self.fields.iter().map(|(_, value)| match value {
            Value::Text(text) => text.capacity(),
            Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) | Value::Bool(_) => 0,
        });
        size_of::<Self>()
            + self.message.capacity()
            + self.fields.capacity() * size_of::<(&str, Value)>()
            + texts.sum::<usize>()
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(shortened(format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(shortened(value.to_owned())));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Unsigned(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bool(value));
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_end_is_cut_between_two_characters() {
        let text = shortened("ü".repeat(LONGEST));
        assert_eq!(text.chars().count(), LONGEST / 2 + 1);
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
