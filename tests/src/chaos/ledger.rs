//! What the services have written of themselves. [`martyr`](../../../bin/martyr.rs) says in which form.

use std::fs;
use std::path::Path;

/// A life as it has written it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// Its number among the lives of this service, from 0.
    pub(super) number: u64,
    pub(super) incarnation: u64,
    pub(super) pid: u32,
    /// In clock ticks, as `/proc/PID/stat` has it.
    pub(super) start: u64,
    /// When it wrote that it had begun.
    pub(super) at: u64,
    /// How it said that it would end, and when.
    pub(super) end: Option<(End, u64)>,
    /// The lines that it has begun to write, and has written.
    pub(super) lines: (u64, u64),
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Exit(i32),
    Signal(i32),
}

/// The whole ledger of a service.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) lives: Vec<Life>,
    /// Lines that nobody should have to write: lives that found another one.
    pub(super) seconds: Vec<String>,
}

impl Ledger {
    /// Reads it.
    pub(super) fn read(folder: &Path, name: &str) -> Self {
        let text = fs::read_to_string(folder.join(format!("{name}.ledger"))).unwrap_or_default();
        let progress = fs::read(folder.join(format!("{name}.progress"))).unwrap_or_default();
        let number = |at: usize| {
            progress.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
        };
        let mut ledger = Self::of(&text);
        for life in &mut ledger.lives {
            let at = life.number as usize * 16;
            life.lines = (number(at), number(at + 8));
        }
        ledger
    }

    fn of(text: &str) -> Self {
        let mut ledger = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok());
            match (words[0], number(1), number(2), number(3), number(4), number(5)) {
                ("start", Some(life), Some(incarnation), Some(pid), Some(start), Some(at)) => {
                    let pid = u32::try_from(pid).unwrap_or_default();
                    ledger.lives.push(Life {
                        number: life,
                        incarnation,
                        pid,
                        start,
                        at,
                        end: None,
                        lines: (0, 0),
                    });
                }
                ("end", Some(life), None, Some(how), Some(at), None) => {
                    let how = i32::try_from(how).unwrap_or_default();
                    let end = if words[2] == "exit" { End::Exit(how) } else { End::Signal(how) };
                    if let Some(life) = ledger.lives.iter_mut().rfind(|it| it.number == life) {
                        life.end = Some((end, at));
                    }
                }
                _ => ledger.seconds.push(line.to_owned()),
            }
        }
        ledger
    }
}

/// The latest life of a service.
pub(super) fn latest(folder: &Path, name: &str) -> Option<Life> {
    Ledger::read(folder, name).lives.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_and_their_ends_are_read() {
        let ledger =
            Ledger::of("start 0 1 77 500 9\nend 0 signal 11 12\nsecond 2 78 13\nstart 1 3 79 600 14\n");
        assert_eq!(ledger.seconds, ["second 2 78 13"]);
        assert_eq!(ledger.lives.len(), 2);
        assert_eq!(ledger.lives[0].end, Some((End::Signal(11), 12)));
        assert_eq!((ledger.lives[1].pid, ledger.lives[1].end), (79, None));
    }
}
