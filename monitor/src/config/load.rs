//! Finds and reads the configuration files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use defib_core::model::Launch;

use super::MAX_FILE;
use super::error::{ConfigErrors, Finding, Place};
use super::members;
use super::overrides::Overrides;
use super::settings::{self, Parsed, Settings};
use super::trust::{Untrusted, open_trusted, writable_program};

/// A configuration as it was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub settings: Settings,
    /// The files with their texts, to be held for a later [`parse`](super::parse()).
    pub texts: Vec<(String, String)>,
    /// Whether there was a file; without one there are no services.
    pub found: bool,
    /// What is allowed but unwise.
    pub warnings: Vec<Finding>,
}

/// Reads the file at `path`, which is that of [`Overrides::config`] unless a test has another one, and what is in the
/// folder `conf.d` beside it.
///
/// A file that nobody asked for may be missing: defib then runs with its defaults and no service.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Loaded, ConfigErrors> {
    let mut texts = Vec::new();
    let file = path.to_string_lossy().into_owned();
    match text_of(path, overrides.euid) {
        Ok(text) => texts.push((file, text)),
        Err(Unreadable::Untrusted(why))
            if why.is_missing() && (path.to_owned(), false) == overrides.config() => {}
        Err(why) => return Err(why.at(&file)),
    }
    texts.extend(members::read(path, overrides.euid)?);
    let parsed = settings::read(&texts, overrides)?;
    let warnings = warnings(&parsed, overrides);
    if overrides.flags.strict {
        ConfigErrors::none(warnings.clone())?;
    }
    let found = !texts.is_empty();
    Ok(Loaded { settings: parsed.settings, texts, found, warnings })
}

/// Why a text file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It cannot be opened, or root must not act on it.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// Reading has failed.
    #[error("cannot read it: {0}")]
    Read(std::io::Error),
    /// It has more than [`MAX_FILE`] bytes.
    #[error("larger than the {MAX_FILE} bytes that are allowed")]
    TooLarge,
    /// It is not UTF-8.
    #[error("line {line} is not UTF-8: found the byte 0x{byte:02x}")]
    NotUtf8 {
        /// Where not.
        line: usize,
        /// The first byte that is out of place.
        byte: u8,
    },
}

impl Unreadable {
    pub(super) fn at(self, file: &str) -> ConfigErrors {
        match &self {
            Self::NotUtf8 { line, .. } => ConfigErrors::one(Place::Line(file.to_owned(), *line), self),
            Self::Untrusted(why) if why.is_missing() => {
                ConfigErrors::of_file(file, "no such file; create it, or name another one with --config")
            }
            Self::Untrusted(_) | Self::Read(_) | Self::TooLarge => ConfigErrors::of_file(file, self),
        }
    }
}

/// The text of a file that root may trust.
///
/// # Errors
/// If it is no such file, or longer than [`MAX_FILE`], or not UTF-8.
pub fn text_of(path: &Path, euid: u32) -> Result<String, Unreadable> {
    // A relative path is given on a command line, so it is meant from where that was typed.
    let file = open_trusted(&std::path::absolute(path).map_err(Unreadable::Read)?, euid)?;
    decode(read(file)?)
}

fn read(file: File) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::new();
    // The length is measured and not asked for: the file may be growing.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(Unreadable::Read)?;
    if bytes.len() as u64 > MAX_FILE { Err(Unreadable::TooLarge) } else { Ok(bytes) }
}

fn decode(bytes: Vec<u8>) -> Result<String, Unreadable> {
    String::from_utf8(bytes).map_err(|error| {
        let (good, bad) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = 1 + good.iter().filter(|b| **b == b'\n').count();
        Unreadable::NotUtf8 { line, byte: bad.first().copied().unwrap_or_default() }
    })
}

/// The programs that any user of the system may change.
fn warnings(parsed: &Parsed, overrides: &Overrides) -> Vec<Finding> {
    let mut seen = BTreeMap::new();
    let mut warnings = Vec::new();
    for (service, place) in parsed.settings.services.iter().zip(&parsed.commands) {
        let Some(program) = program(&service.launch, overrides) else { continue };
        let writable = seen.entry(program).or_insert_with_key(|program| writable_program(program));
        if let Some(why) = writable {
            let key = format!("service.{}.command", service.name);
            warnings.push(Finding { place: place.clone(), key, message: why.to_string() });
        }
    }
    warnings
}

/// The file that a command names, looked up as execvp(3) would.
fn program(launch: &Launch, overrides: &Overrides) -> Option<PathBuf> {
    let name = Path::new(launch.command.first()?);
    if name.as_os_str().as_bytes().contains(&b'/') {
        return Some(launch.cwd.join(name));
    }
    let path = launch.env.get("PATH").map(OsStr::new).or_else(|| overrides.variable("PATH"))?;
    std::env::split_paths(path).map(|folder| launch.cwd.join(folder).join(name)).find(|file| file.is_file())
}
