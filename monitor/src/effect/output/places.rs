//! What the files of a service are called.
//!
//! `single`: `NAME.log`, or with streams apart `NAME.stdout.log` and `NAME.stderr.log`; `log.path` instead of `NAME.log`,
//! with the stream before its extension. `per-start`: `NAME/START-INCARNATION/` with `output.log`, or `stdout.log` and
//! `stderr.log`; `log.path` instead of `NAME`. Rotated files have `.1`, `.2` … behind, the youngest first.

use std::fs;
use std::path::{Path, PathBuf};

use defib_core::model::{LogLayout, LogSpec, ServiceName};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Kind;

/// A life, as its folder names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) incarnation: u64,
    pub(super) started: Timestamp,
}

/// The folder of all lives, or the file of the joined stream.
pub(super) fn base(log_dir: &Path, service: &ServiceName, spec: &LogSpec) -> PathBuf {
    match (&spec.path, spec.layout) {
        (Some(path), _) => path.clone(),
        (None, LogLayout::Single) => log_dir.join(format!("{service}.log")),
        (None, LogLayout::PerStart) => log_dir.join(service.as_str()),
    }
}

/// The file of a stream; with a folder for each life, of that one.
pub(super) fn file(base: &Path, layout: LogLayout, kind: Kind, life: Option<Life>) -> PathBuf {
    match layout {
        LogLayout::Single => match kind {
            Kind::Joined => base.to_owned(),
            Kind::Stdout | Kind::Stderr => {
                let extension = base.extension().unwrap_or("log".as_ref()).to_string_lossy();
                base.with_extension(format!("{}.{extension}", kind.as_str()))
            }
        },
        LogLayout::PerStart => {
            let folder = life.map_or_else(|| "0".to_owned(), folder_name);
            base.join(folder).join(format!("{}.log", stem(kind)))
        }
    }
}

/// Sorts as the lives were. Milliseconds: two lives cannot start within one.
fn folder_name(life: Life) -> String {
    let started = life.started.to_zoned(TimeZone::UTC);
    format!("{}-{}", started.strftime("%Y%m%dT%H%M%S.%3fZ"), life.incarnation)
}

fn stem(kind: Kind) -> &'static str {
    match kind {
        Kind::Joined => "output",
        Kind::Stdout | Kind::Stderr => kind.as_str(),
    }
}

/// The current files of a stream that may exist, the youngest first: one, or one of each life.
pub(super) fn currents(base: &Path, layout: LogLayout, kind: Kind) -> Vec<PathBuf> {
    match layout {
        LogLayout::Single => vec![file(base, layout, kind, None)],
        LogLayout::PerStart => {
            folders(base).into_iter().map(|folder| folder.join(format!("{}.log", stem(kind)))).collect()
        }
    }
}

/// The folders of the lives, the youngest first. What else is there is none of ours.
pub(super) fn folders(base: &Path) -> Vec<PathBuf> {
    let ours = |name: &str| {
        name.as_bytes().first().is_some_and(u8::is_ascii_digit)
            && name.rsplit_once('-').is_none_or(|(_, life)| life.parse::<u64>().is_ok())
    };
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut folders: Vec<_> = folders
        .map(|entry| entry.path())
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(ours))
        .collect();
    folders.sort();
    folders.reverse();
    folders
}

/// A rotated file; number 0 is the current one.
pub(super) fn rotated(current: &Path, number: u32) -> PathBuf {
    if number == 0 { current.to_owned() } else { with_suffix(current, &format!(".{number}")) }
}

/// Where the times of a file are.
pub(super) fn times(file: &Path) -> PathBuf {
    with_suffix(file, ".times")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_and_layout_has_a_place() {
        let (dir, service) = (Path::new("/l"), "api".parse().unwrap());
        let mut spec = LogSpec::default();
        let place = |spec: &LogSpec, kind| {
            let life = Life { incarnation: 7, started: "2026-01-02T03:04:05.678Z".parse().unwrap() };
            file(&base(dir, &service, spec), spec.layout, kind, Some(life)).display().to_string()
        };
        assert_eq!(place(&spec, Kind::Joined), "/l/api.log");
        assert_eq!(place(&spec, Kind::Stderr), "/l/api.stderr.log");
        spec.path = Some("/x/y.txt".into());
        assert_eq!(place(&spec, Kind::Stdout), "/x/y.stdout.txt");
        spec.layout = LogLayout::PerStart;
        assert_eq!(place(&spec, Kind::Joined), "/x/y.txt/20260102T030405.678Z-7/output.log");
        spec.path = None;
        assert_eq!(place(&spec, Kind::Stderr), "/l/api/20260102T030405.678Z-7/stderr.log");
    }
}
