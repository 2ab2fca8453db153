//! The file of the database: made for nobody else's eyes, checked, and set aside if it cannot be used.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema;
use crate::effect::clock;

/// The largest file that is looked through at the start: at some 500 MiB/s it takes less than a tenth of a second. What
/// is kept is bounded and a third of that.
const CHECKED: u64 = 32 << 20;

/// How many damaged files are kept.
const KEPT: usize = 3;

/// Pages of the database that SQLite keeps in memory, in KiB. It takes 2 MiB if it is not told.
const CACHE: i64 = 64;

/// Frames of the log of changes after which it is written into the database: 1 MiB.
const CHECKPOINT: i64 = 256;

/// How long whoever looks into the file from outside may hold up a change.
const BUSY: Duration = Duration::from_secs(1);

/// Why there is no database for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("{}: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
    #[error("{}: {cause}", path.display())]
    Sqlite { path: PathBuf, cause: rusqlite::Error },
}

/// A database that can be used.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) db: Connection,
    /// Whether nothing is in it.
    pub(super) empty: bool,
    /// The file, by device and inode.
    file: (u64, u64),
}

impl Opened {
    /// Whether the file at `path` is still the one that is open. One that was removed takes whatever is written, and it is
    /// lost when it is closed.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == self.file)
    }
}

/// Opens the database at `path`, and makes it if there is none. One that is damaged, or of a newer defib, is set aside
/// first.
pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
    let (size, file) = make(path)?;
    let sqlite = |cause| OpenError::Sqlite { path: path.to_owned(), cause };
    match connect(path, size) {
        Ok(db) => return Ok(Opened { db, empty: size == 0, file }),
        Err(Unusable::Damaged(why)) => {
            let aside = set_aside(path, "damaged")?;
            tracing::error!(
                file = %path.display(), why, aside = %aside.display(),
                "the state database is damaged: it was set aside, and services start as if for the first time"
            );
            keep_few(path);
        }
        Err(Unusable::Newer(version)) => {
            let aside = set_aside(path, "newer")?;
            tracing::error!(
                file = %path.display(), version, known = schema::VERSION, aside = %aside.display(),
                "the state database is of a newer defib: it was set aside; that defib can use it again under its old name"
            );
        }
        Err(Unusable::Now(cause)) => return Err(sqlite(cause)),
    }
    let (_, file) = make(path)?;
    let made = connect(path, 0).map_err(|unusable| match unusable {
        Unusable::Now(cause) => sqlite(cause),
        Unusable::Damaged(why) => OpenError::Unfit { path: path.to_owned(), why },
        Unusable::Newer(version) => {
            OpenError::Unfit { path: path.to_owned(), why: format!("it is of version {version} again") }
        }
    });
    Ok(Opened { db: made?, empty: true, file })
}

/// The size of the file, which is made if it is not there, and what it is known by.
fn make(path: &Path) -> Result<(u64, (u64, u64)), OpenError> {
    let failed = |cause| OpenError::File { path: path.to_owned(), cause };
    let unfit = |why: String| Err(OpenError::Unfit { path: path.to_owned(), why });
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => unfit("it is no regular file; remove it".to_owned()),
        Ok(found) if found.uid() != Uid::effective().as_raw() => unfit(format!(
            "it belongs to the user {}; remove it, or give it to the user of defib",
            found.uid()
        )),
        Ok(found) => {
            if found.permissions().mode() & 0o777 != 0o600 {
                fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
            }
            Ok((found.len(), (found.dev(), found.ino())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The files beside it get the same mode from SQLite.
            let made = File::options().write(true).create_new(true).mode(0o600).open(path);
            let made = made.and_then(|file| file.metadata()).map_err(failed)?;
            Ok((0, (made.dev(), made.ino())))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Why a file cannot be used.
enum Unusable {
    /// Not ever.
    Damaged(String),
    /// Not by this defib.
    Newer(i64),
    /// Not now.
    Now(rusqlite::Error),
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        if is_damage(&error) { Self::Damaged(error.to_string()) } else { Self::Now(error) }
    }
}

/// Whether an error says that the file is not what it ought to be, and not that it cannot be reached.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => true,
            // SQL that fits the version and not the tables; a file that ends within a page.
            ErrorCode::Unknown | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch => true,
            ErrorCode::SystemIoFailure => failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ,
            _ => false,
        },
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::QueryReturnedNoRows => true,
        _ => false,
    }
}

fn connect(path: &Path, size: u64) -> Result<Connection, Unusable> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    db.pragma_update(None, "cache_size", -CACHE)?;
    // What is set aside must not be changed by closing it.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let version = schema::version(&db)?;
    if version > schema::VERSION {
        return Err(Unusable::Newer(version));
    }
    if size > CHECKED {
        tracing::warn!(file = %path.display(), size, "the state database is too large to be looked through at the start");
    } else {
        let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Err(Unusable::Damaged(found));
        }
    }
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        tracing::warn!(
            mode,
            "the state database is written without a log of changes, which its file system does not allow"
        );
    }
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT, |_| Ok(()))?;
    db.pragma_update_and_check(None, "journal_size_limit", 1 << 20, |_| Ok(()))?;
    schema::migrate(&mut db)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(db)
}

/// Gives the database and the files beside it another name.
pub(super) fn set_aside(path: &Path, why: &str) -> Result<PathBuf, OpenError> {
    let time = clock::wall(clock::now()).strftime("%Y%m%dT%H%M%S%.6f");
    let aside = with(path, &format!(".{why}-{time}"));
    for part in ["-shm", "-wal", ""] {
        let from = with(path, part);
        match fs::rename(&from, with(&aside, part)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::File { path: from, cause });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(aside)
}

/// Of what was damaged, the newest are kept for who wants to look into them.
fn keep_few(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    let begin = format!("{name}.damaged-");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| {
                name.starts_with(&begin) && !name.ends_with("-wal") && !name.ends_with("-shm")
            })
        })
        .map(|entry| entry.path())
        .collect();
    // The names end in the time.
    found.sort();
    for old in found.iter().rev().skip(KEPT) {
        for part in ["", "-wal", "-shm"] {
            fs::remove_file(with(old, part)).ok();
        }
    }
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
