//! The ends that an earlier keeper knew and no daemon had acknowledged: read by the first daemon of the next one, from the
//! file that the keeper had held (see `keeper::ends`).
//!
//! The file is replaced by a new one when all of them have been told, and so written down in the daemon's own file: until
//! then whoever is killed leaves it as it was, and what is in both is told once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use defib_core::KnownLife;
use defib_core::model::{Blame, End, Incarnation, ServiceName, Tick, WaitStatus};

use crate::keeper::ends::record::{self, PastEnd};
use crate::state;

/// Its name beside the pipes, and that of the next one while it is made.
const NAMES: [&str; 2] = ["keeper-ends", "keeper-ends.new"];

/// The lives of a service of which an earlier keeper knew, and how they ended, if it knew that.
pub(super) type Lives = BTreeMap<Incarnation, (KnownLife, Option<End>)>;

/// Reads what an earlier keeper has left in this folder.
pub(super) fn read(folder: &Path) -> BTreeMap<ServiceName, Lives> {
    let path = folder.join(NAMES[0]);
    let mut bytes = Vec::new();
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    match file.and_then(|file| file.take(record::MAX_FILE).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "the ends that an earlier keeper knew cannot be read");
        }
    }
    sort(record::read(&bytes, &state::boot_id()))
}

/// The lives of each service. Of an end that was acknowledged only the life after it may be news.
fn sort(ends: Vec<PastEnd>) -> BTreeMap<ServiceName, Lives> {
    let mut services: BTreeMap<ServiceName, Lives> = BTreeMap::new();
    for PastEnd { acknowledged, service, end, next, .. } in ends {
        let Ok(service) = service.parse::<ServiceName>() else { continue };
        let lives = services.entry(service).or_default();
        let life = |incarnation: u64, pid, started| KnownLife {
            incarnation: Incarnation(incarnation),
            pid,
            started: Tick(started),
        };
        let ended = life(end.incarnation, end.pid, end.started);
        if acknowledged {
            lives.remove(&ended.incarnation);
        } else {
            let status = end.status.map(WaitStatus);
            let (at, usage) = (Tick(end.at), end.usage);
            let end = End { status, at, usage, oom: None, blame: Blame::Unknown };
            lives.insert(ended.incarnation, (ended, Some(end)));
        }
        if let Some((pid, started)) = next {
            let next = life(ended.incarnation.0.saturating_add(1), pid, started);
            lives.insert(next.incarnation, (next, None));
        }
    }
    services
}

/// A new file in this folder in place of the one before, for the keeper to hold.
pub(super) fn make(folder: &Path) -> io::Result<OwnedFd> {
    let [path, draft] = paths(folder);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&draft)?;
    file.write_all(&record::head(&state::boot_id()))?;
    fs::rename(draft, path)?;
    Ok(file.into())
}

/// Every service has ended, and all is written.
pub(super) fn remove(folder: &Path) {
    for path in paths(folder) {
        fs::remove_file(path).ok();
    }
}

fn paths(folder: &Path) -> [PathBuf; 2] {
    NAMES.map(|name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use defib_core::model::Usage;

    use super::*;
    use crate::keeper::protocol::LifeEnd;

    #[test]
    fn an_end_that_was_acknowledged_is_no_news_but_the_life_after_it_is() {
        let end = |incarnation, acknowledged, next| {
            let (pid, started, at) = (incarnation as u32 + 100, incarnation, incarnation + 1);
            let end = LifeEnd { incarnation, pid, started, at, status: Some(256), usage: Usage::default() };
            PastEnd::told("it", end, acknowledged, next)
        };
        let ends =
            vec![end(4, true, Some((105, 5))), end(5, false, Some((106, 6))), end(6, true, Some((107, 7)))];
        let lives = &sort(ends)[&"it".parse().unwrap()];
        let known: Vec<_> = lives.values().map(|(life, end)| (life.pid, end.is_some())).collect();
        assert_eq!(known, [(105, true), (107, false)]);
    }

    #[test]
    fn a_new_file_takes_the_place_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAMES[0]), "garbage").unwrap();
        assert!(read(folder.path()).is_empty());
        make(folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join(NAMES[0])).unwrap(), record::head(&state::boot_id()));
        remove(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(read(folder.path()).is_empty());
    }
}
