//! Which services start with defib, where operators have decided otherwise than the file: `boot.json` in the state
//! directory, which `defib enable --boot` and `defib disable --boot` write.
//!
//! It is read where the configuration is, and applied to it. What cannot be understood is set aside and told: it is
//! never a reason not to start.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use defib_core::model::ServiceName;

use crate::config::Settings;

/// The name of the file.
const FILE: &str = "boot.json";

/// What it is called when it could not be understood.
const ASIDE: &str = "boot.json.damaged";

/// What it is called until it is whole.
const HALF: &str = "boot.json.new";

/// The largest file: room for all services that one daemon may have, and as many that it once had.
const MAX_FILE: u64 = 1 << 20;

/// Everybody may read it: it says no more than `status`.
const MODE: u32 = 0o644;

/// By service, whether it starts with defib.
type Choices = BTreeMap<ServiceName, bool>;

/// Why a choice could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// The file could not be written.
    #[error("{what} {}: {cause}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        cause: io::Error,
    },
    /// It would be too large.
    #[error("{} would be larger than {MAX_FILE} bytes; remove it, and set again what is to hold", .0.display())]
    TooLarge(PathBuf),
    /// Nobody knows.
    #[error("{0}")]
    Failed(String),
}

/// Lets what operators have set decide over the file's `autostart`. To be called wherever settings have been read: at
/// the start and at each reload. It reads a file, so not on the supervisor thread while services run.
pub(super) fn apply(settings: &mut Settings) {
    let choices = read(&settings.daemon.state_dir);
    for spec in &mut settings.services {
        if let Some(start) = choices.get(&spec.name) {
            Arc::make_mut(spec).autostart = *start;
        }
    }
}

/// The file of one daemon.
#[derive(Debug)]
pub struct BootFile {
    state_dir: PathBuf,
    /// Held over reading and writing the file, so that of two choices at once none is lost. Only threads that may wait
    /// for the disk take it.
    turn: Mutex<()>,
}

impl BootFile {
    /// That of the daemon with this state directory.
    pub fn of(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), turn: Mutex::new(()) }
    }

    /// What has been set for a service.
    pub fn choice(&self, service: &ServiceName) -> Option<bool> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        read(&self.state_dir).get(service).copied()
    }

    /// Sets it, and returns when that is on the disk.
    ///
    /// # Errors
    /// If it could not be written. What was set before holds then.
    pub fn set(&self, service: ServiceName, start: bool) -> Result<(), NotKept> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut choices = read(&self.state_dir);
        if choices.insert(service, start) == Some(start) {
            return Ok(());
        }
        self.write(&choices)
    }

    /// Atomically: whoever reads finds the old file or the new one, also after a power cut.
    fn write(&self, choices: &Choices) -> Result<(), NotKept> {
        let (path, half) = (self.state_dir.join(FILE), self.state_dir.join(HALF));
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |cause| NotKept::File { what, path, cause }
        };
        let mut text = serde_json::to_vec_pretty(choices).map_err(|why| NotKept::Failed(why.to_string()))?;
        text.push(b'\n');
        if text.len() as u64 > MAX_FILE {
            return Err(NotKept::TooLarge(path));
        }
        let mut file = File::create(&half).map_err(failed("create", &half))?;
        let written = file.write_all(&text).and_then(|()| file.set_permissions(Permissions::from_mode(MODE)));
        written.and_then(|()| file.sync_all()).map_err(failed("write", &half))?;
        fs::rename(&half, &path).map_err(failed("rename to", &path))?;
        let folder = File::open(&self.state_dir).and_then(|folder| folder.sync_all());
        folder.map_err(failed("sync", &self.state_dir))
    }
}

/// Reads the file; nothing has been set if there is none. One that is damaged is set aside.
fn read(state_dir: &Path) -> Choices {
    let path = state_dir.join(FILE);
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text));
    let why = match read {
        Ok(length) if length as u64 > MAX_FILE => format!("larger than {MAX_FILE} bytes"),
        Ok(_) => match serde_json::from_slice(&text) {
            Ok(choices) => return choices,
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Choices::new(),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "not read: services start as the configuration says");
            return Choices::new();
        }
    };
    let aside = state_dir.join(ASIDE);
    let moved = fs::rename(&path, &aside);
    tracing::warn!(
        file = %path.display(), why, aside = %aside.display(), set_aside = moved.is_ok(),
        "damaged: services start as the configuration says; set again what `enable --boot` and `disable --boot` had set"
    );
    Choices::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    #[test]
    fn a_choice_is_kept_beside_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = BootFile::of(folder.path());
        assert_eq!(file.choice(&name("a")), None);
        file.set(name("a"), false).unwrap();
        file.set(name("b"), true).unwrap();
        file.set(name("a"), true).unwrap();
        let again = BootFile::of(folder.path());
        assert_eq!([again.choice(&name("a")), again.choice(&name("b"))], [Some(true); 2]);
        let written = fs::metadata(folder.path().join(FILE)).unwrap();
        assert_eq!(written.permissions().mode() & 0o777, MODE);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_damaged_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        for bad in ["", "{", "[1]", "{\"a\": 1}", "{\"a/b\": true}", "\u{0}"] {
            fs::write(&path, bad).unwrap();
            assert_eq!(read(folder.path()), Choices::new(), "{bad:?}");
            assert!(!path.exists());
            assert_eq!(fs::read_to_string(folder.path().join(ASIDE)).unwrap(), bad);
        }
        fs::write(&path, " ".repeat(MAX_FILE as usize + 1)).unwrap();
        assert_eq!(read(folder.path()), Choices::new());
        assert!(!path.exists());
        BootFile::of(folder.path()).set(name("a"), true).unwrap();
        assert_eq!(read(folder.path()), Choices::from([(name("a"), true)]));
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let error = BootFile::of(&gone).set(name("a"), true).unwrap_err();
        assert!(error.to_string().contains("gone/boot.json.new"), "{error}");
    }
}
