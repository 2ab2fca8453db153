//! How a line looks: as text, as JSON, or as the journal of systemd takes it.

use std::fmt::Write;

use serde::{Serialize, Serializer};
use tracing::Level;

use super::line::{Line, Value};
use crate::effect::clock;

/// How text is dressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dress {
    /// For a terminal.
    pub(super) colour: bool,
    /// For a standard error that is the journal: a priority before the line, as in sd-daemon(3), and no time, which
    /// the journal knows better.
    pub(super) prefix: bool,
}

/// Adds a line of text.
pub(super) fn text(line: &Line, dress: Dress, out: &mut String) {
    let name = line.level.as_str();
    let written = if dress.prefix {
        write!(out, "<{}>", priority(line.level))
    } else {
        let time = clock::wall(line.at);
        match dress.colour {
            true => write!(out, "\x1b[2m{time:.6}\x1b[0m \x1b[{}m{name:>5}\x1b[0m ", colour(line.level)),
            false => write!(out, "{time:.6} {name:>5} "),
        }
    };
    // Writing to a string cannot fail.
    written.ok();
    said(line, out);
    out.push('\n');
}

/// What was said, without time and level. Below `info` the module is named: it is what a level can be set for.
fn said(line: &Line, out: &mut String) {
    if line.level > Level::INFO {
        out.push_str(line.module);
        out.push_str(": ");
    }
    escaped(&line.message, out);
    for (name, value) in &line.fields {
        let written = match value {
            Value::Signed(value) => write!(out, " {name}={value}"),
            Value::Unsigned(value) => write!(out, " {name}={value}"),
            Value::Float(value) => write!(out, " {name}={value}"),
            Value::Bool(value) => write!(out, " {name}={value}"),
            Value::Text(text) => {
                out.push(' ');
                out.push_str(name);
                out.push('=');
                word(text, out);
                Ok(())
            }
        };
        written.ok();
    }
}

/// A text as one word: in quotes where it would be taken for several.
fn word(text: &str, out: &mut String) {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '=' | '\\') && c.escape_debug().len() == 1;
    if !text.is_empty() && text.chars().all(|c| c == '\'' || plain(c)) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if c == '\'' { out.push(c) } else { out.extend(c.escape_debug()) }
    }
    out.push('"');
}

/// A message with everything escaped that would break the line, or that a terminal would act on.
fn escaped(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' | '\'' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
}

/// Adds an object on a line of its own.
pub(super) fn json(line: &Line, prefix: bool, out: &mut String) {
    if prefix {
        write!(out, "<{}>", priority(line.level)).ok();
    }
    let object = Object {
        time: clock::wall(line.at),
        level: level(line.level),
        module: line.module,
        message: &line.message,
        fields: Fields(&line.fields),
    };
    // Texts and numbers: there is nothing in it that JSON cannot say.
    for c in serde_json::to_string(&object).unwrap_or_default().chars() {
        // JSON leaves DEL and the control characters beyond ASCII as they are. Only inside a text can there be one.
        if c.is_control() {
            write!(out, "\\u{:04x}", u32::from(c)).ok();
        } else {
            out.push(c);
        }
    }
    out.push('\n');
}

#[derive(Serialize)]
struct Object<'a> {
    time: jiff::Timestamp,
    level: &'static str,
    module: &'a str,
    message: &'a str,
    fields: Fields<'a>,
}

struct Fields<'a>(&'a [(&'static str, Value)]);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(value) => serializer.serialize_str(value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Bool(value) => serializer.serialize_bool(*value),
        }
    }
}

/// A datagram in the journal's native protocol: a field a line, or its length and its bytes if it has lines of its own.
/// MESSAGE is what a reader sees, so it holds the fields too; each of them is there by itself besides, in capitals.
pub(super) fn journal(line: &Line, out: &mut Vec<u8>) {
    let mut message = String::new();
    said(line, &mut message);
    field("PRIORITY", &priority(line.level).to_string(), out);
    field("SYSLOG_IDENTIFIER", "defib", out);
    field("TARGET", line.module, out);
    if let Some((file, number)) = line.place {
        field("CODE_FILE", file, out);
        field("CODE_LINE", &number.to_string(), out);
    }
    field("MESSAGE", &message, out);
    for (name, value) in &line.fields {
        let name = name.to_ascii_uppercase();
        match value {
            Value::Text(value) => field(&name, value, out),
            Value::Signed(value) => field(&name, &value.to_string(), out),
            Value::Unsigned(value) => field(&name, &value.to_string(), out),
            Value::Float(value) => field(&name, &value.to_string(), out),
            Value::Bool(value) => field(&name, &value.to_string(), out),
        }
    }
}

fn field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// syslog(3)'s number.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        _ => "trace",
    }
}

/// The terminal's number: red, yellow, green, blue, magenta.
fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        _ => 35,
    }
}

#[cfg(test)]
mod tests {
    use defib_core::model::Tick;

    use super::*;

    fn line() -> Line {
        Line {
            at: Tick(0),
            level: Level::WARN,
            module: "defib::daemon::run",
            place: Some(("run.rs", 7)),
            message: "forged\n2026 line \x1b[31m it's \"so\"".to_owned(),
            fields: vec![
                ("service", Value::Text("api".to_owned())),
                ("path", Value::Text("/a b\r\u{202e}".to_owned())),
                ("said", Value::Text("two\nlines".to_owned())),
                ("code", Value::Signed(-1)),
                ("core", Value::Bool(false)),
            ],
        }
    }

    fn shown(line: &Line, dress: Dress) -> String {
        let mut out = String::new();
        text(line, dress, &mut out);
        out
    }

    const SAID: &str = "forged\\n2026 line \\u{1b}[31m it's \"so\" service=api path=\"/a b\\r\\u{202e}\" \
                        said=\"two\\nlines\" code=-1 core=false";

    #[test]
    fn no_text_breaks_a_line_or_steers_a_terminal() {
        let bare = shown(&line(), Dress::default());
        let (time, rest) = bare.split_once("  WARN ").unwrap();
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!(rest, format!("{SAID}\n"));
        let coloured = shown(&line(), Dress { colour: true, prefix: false });
        assert!(coloured.ends_with(&format!("\x1b[33m WARN\x1b[0m {SAID}\n")), "{coloured}");
    }

    #[test]
    fn under_systemd_the_priority_comes_first_and_no_time() {
        let dress = Dress { colour: false, prefix: true };
        assert_eq!(shown(&line(), dress), format!("<4>{SAID}\n"));
        let quiet = Line { level: Level::TRACE, message: "x".to_owned(), fields: vec![], ..line() };
        assert_eq!(shown(&quiet, dress), "<7>defib::daemon::run: x\n");
    }

    #[test]
    fn json_is_one_object_a_line_with_values_of_their_kinds() {
        let mut out = String::new();
        json(&line(), false, &mut out);
        assert!(out.ends_with('\n') && out.chars().filter(|c| c.is_control()).count() == 1, "{out:?}");
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(object["level"], "warn");
        assert_eq!(object["module"], "defib::daemon::run");
        assert_eq!(object["message"], line().message);
        let fields = &object["fields"];
        assert_eq!(fields["code"], -1);
        assert_eq!(fields["core"], false);
        assert_eq!(fields["path"], "/a b\r\u{202e}");
        assert!(object["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        let keys: Vec<_> = ["time", "level", "module", "message", "fields"].map(|key| out.find(key)).into();
        assert!(keys.is_sorted(), "{out}");
    }

    #[test]
    fn the_journal_gets_fields_and_those_with_lines_by_their_length() {
        let mut out = Vec::new();
        journal(&line(), &mut out);
        let text = String::from_utf8_lossy(&out);
        for part in
            ["PRIORITY=4\n", "SYSLOG_IDENTIFIER=defib\n", "SERVICE=api\n", "CODE=-1\n", "CODE_LINE=7\n"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains(&format!("MESSAGE={SAID}\n")));
        let long = [&b"SAID\n"[..], &9_u64.to_le_bytes(), b"two\nlines\n"].concat();
        assert!(out.windows(long.len()).any(|part| part == long));
    }
}
