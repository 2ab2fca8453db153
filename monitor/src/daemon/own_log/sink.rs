//! Where the log goes. Used by the thread that writes it; only [`Sink::open`] by others.

use std::fs::{DirBuilder, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::form::{self, Dress};
use super::line::Line;
use super::queue::{Batch, Job};
use crate::config::{LogFormat, LogTarget, OwnLog};
use crate::effect::clock;
use crate::keeper;

/// Where the journal takes messages: systemd's "Native Journal Protocol".
const JOURNAL: &str = "/run/systemd/journal/socket";

/// A file for the log that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("daemon.log: {what} {}: {cause}; give another file in `to`, or \"stderr\"", path.display())]
pub(in crate::daemon) struct SinkError {
    what: &'static str,
    path: PathBuf,
    cause: io::Error,
}

/// An open log.
#[derive(Debug)]
pub(super) struct Sink {
    format: LogFormat,
    to: To,
    /// Lines that could not be written or had no room, and have not been told of.
    lost: u64,
}

#[derive(Debug)]
enum To {
    Stderr(Dress),
    Journal(UnixDatagram),
    File { path: PathBuf, file: File },
}

impl Sink {
    /// Standard error, whatever else the settings say.
    pub(super) fn stderr(settings: &OwnLog) -> Self {
        let prefix = keeper::stderr_is_journal();
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let colour = !prefix
            && io::stderr().is_terminal()
            && set("NO_COLOR").is_none()
            && set("TERM").is_none_or(|term| term != "dumb");
        Self { format: settings.format, to: To::Stderr(Dress { colour, prefix }), lost: 0 }
    }

    /// Opens what the settings name. Without a journal it is standard error, and the log says so.
    pub(super) fn open(settings: &OwnLog) -> Result<Self, SinkError> {
        let to = match &settings.to {
            LogTarget::Stderr => return Ok(Self::stderr(settings)),
            LogTarget::Journal => match journal() {
                Ok(socket) => To::Journal(socket),
                Err(error) => {
                    tracing::warn!(socket = JOURNAL, %error, "no journal: the log goes to standard error");
                    return Ok(Self::stderr(settings));
                }
            },
            LogTarget::File(path) => To::File { path: path.clone(), file: append(path)? },
        };
        Ok(Self { format: settings.format, to, lost: 0 })
    }

    /// Carries out what has come.
    pub(super) fn carry_out(&mut self, batch: Batch) {
        let (mut lines, mut text) = (0, String::new());
        for job in batch.jobs {
            match job {
                Job::Write(line) => {
                    lines += 1;
                    self.put(&line, &mut text);
                }
                other => {
                    self.flush(&mut text, &mut lines);
                    self.turn(other);
                }
            }
        }
        self.flush(&mut text, &mut lines);
        self.lost += batch.dropped;
        self.tell_lost();
    }

    fn turn(&mut self, job: Job) {
        let opened = match job {
            Job::Write(_) => return,
            Job::Become(sink) => Ok(*sink),
            Job::Change(settings) => Self::open(&settings),
            Job::Reopen => match &self.to {
                To::File { path, .. } => append(path).map(|file| Self {
                    format: self.format,
                    to: To::File { path: path.clone(), file },
                    lost: 0,
                }),
                To::Stderr(_) | To::Journal(_) => return,
            },
        };
        match opened {
            Ok(sink) => *self = Self { lost: self.lost, ..sink },
            Err(error) => tracing::error!("{error}; the log stays where it was"),
        }
    }

    /// Gives a line its form. The journal takes each by itself, the others take many at once.
    fn put(&mut self, line: &Line, text: &mut String) {
        match (&self.to, self.format) {
            (To::Journal(socket), _) => {
                let mut datagram = Vec::with_capacity(512);
                form::journal(line, &mut datagram);
                if socket.send_to(&datagram, JOURNAL).is_err() {
                    // It is being restarted, or the line is too long: better in the wrong place than nowhere.
                    let mut text = String::new();
                    form::text(line, Dress::default(), &mut text);
                    self.lost += u64::from(io::stderr().write_all(text.as_bytes()).is_err());
                }
            }
            (To::Stderr(dress), LogFormat::Text) => form::text(line, *dress, text),
            (To::Stderr(dress), LogFormat::Json) => form::json(line, dress.prefix, text),
            (To::File { .. }, LogFormat::Text) => form::text(line, Dress::default(), text),
            (To::File { .. }, LogFormat::Json) => form::json(line, false, text),
        }
    }

    /// Writes what has its form. Returns whether that could be done.
    fn flush(&mut self, text: &mut String, lines: &mut u64) -> bool {
        let written = match &mut self.to {
            To::Stderr(_) => io::stderr().write_all(text.as_bytes()),
            To::File { file, .. } => file.write_all(text.as_bytes()),
            To::Journal(_) => Ok(()),
        };
        if written.is_err() {
            // A reader that is gone, a disk that is full: the number is told when it takes lines again.
            self.lost += *lines;
        }
        text.clear();
        *lines = 0;
        written.is_ok()
    }

    /// Tells how many lines are missing, as soon as a line can be written.
    fn tell_lost(&mut self) {
        let count = std::mem::take(&mut self.lost);
        if count == 0 {
            return;
        }
        let line = Line {
            at: clock::now(),
            level: tracing::Level::WARN,
            module: module_path!(),
            place: None,
            message: "lines of this log are missing: they could not be written".to_owned(),
            fields: vec![("lost", super::line::Value::Unsigned(count))],
        };
        let mut text = String::new();
        self.put(&line, &mut text);
        // This line is none of those: what counts is the number in it.
        if !self.flush(&mut text, &mut 0) || self.lost > 0 {
            self.lost = count;
        }
    }
}

/// A socket that takes the journal's datagrams, if there is a journal.
fn journal() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // To find out whether anybody listens. Each datagram is addressed anew, so that a journal that is restarted is
    // found again.
    UnixDatagram::unbound()?.connect(JOURNAL)?;
    Ok(socket)
}

/// Opens a file to append to it, and makes its folder.
fn append(path: &Path) -> Result<File, SinkError> {
    let failed = |what| move |cause| SinkError { what, path: path.to_owned(), cause };
    if let Some(folder) = path.parent()
        && !folder.is_dir()
    {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|cause| SinkError { what: "create", path: folder.to_owned(), cause })?;
    }
    // Never waits: a pipe that nobody reads is an error instead.
    let options =
        File::options().append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK).open(path);
    let file = options.map_err(failed("open"))?;
    let kind = file.metadata().map_err(failed("stat"))?.file_type();
    if !kind.is_file() {
        return Err(failed("open")(io::Error::other("it is no regular file")));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::line::Value;
    use super::*;

    fn line(message: &str) -> Job {
        Job::Write(Line {
            at: clock::now(),
            level: tracing::Level::INFO,
            module: "test",
            place: None,
            message: message.to_owned(),
            fields: vec![("n", Value::Signed(1))],
        })
    }

    fn file(path: &Path, format: LogFormat) -> OwnLog {
        OwnLog { to: LogTarget::File(path.to_owned()), format, level: "info".to_owned() }
    }

    fn batch(jobs: impl IntoIterator<Item = Job>) -> Batch {
        Batch { jobs: jobs.into_iter().collect(), dropped: 0 }
    }

    #[test]
    fn a_change_comes_between_two_lines_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a/b/first", "second"].map(|name| folder.path().join(name));
        let mut sink = Sink::open(&file(&first, LogFormat::Text)).unwrap();
        sink.carry_out(batch([
            line("one"),
            // A folder is no file.
            Job::Change(file(folder.path(), LogFormat::Text)),
            line("two"),
            Job::Change(file(&second, LogFormat::Json)),
            line("three"),
        ]));
        let [one, two] = &fs_lines(&first)[..] else { panic!("{:?}", fs_lines(&first)) };
        assert!(one.ends_with("one n=1") && two.ends_with("two n=1"), "{one} {two}");
        let [three] = &fs_lines(&second)[..] else { panic!("{:?}", fs_lines(&second)) };
        assert!(three.contains("\"message\":\"three\",\"fields\":{\"n\":1}"), "{three}");
    }

    fn fs_lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_a_full_disk_has_swallowed_is_counted_and_told_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let full = File::options().append(true).open("/dev/full").unwrap();
        let to = To::File { path: path.clone(), file: full };
        let mut sink = Sink { format: LogFormat::Text, to, lost: 0 };
        sink.carry_out(batch([line("one"), line("two")]));
        sink.carry_out(Batch { dropped: 5, ..batch([line("three")]) });
        sink.carry_out(batch([Job::Reopen, line("four")]));
        sink.carry_out(batch([line("five")]));
        let lines = fs_lines(&path);
        let [four, told, five] = &lines[..] else { panic!("{lines:?}") };
        assert!(four.contains("four") && five.contains("five"));
        assert!(told.ends_with("lost=8"), "{told}");
    }
}
