//! On a real file system, with the numbers of real processes.

use std::fs::{self, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::SystemTime;

use nix::unistd::geteuid;

use super::*;

/// A number that no process has: pid_max is at most 2^22.
const NOBODY: u32 = 1 << 23;

struct Place {
    folder: tempfile::TempDir,
    spec: ServiceSpec,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = ServiceSpec::new("a".parse().unwrap(), vec!["x".to_owned()]);
        spec.pid_file = Some(folder.path().join("own.pid"));
        Self { folder, spec }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Tells levels one after the other, and waits until they are carried out.
    fn tell(&self, levels: &[Option<u32>]) {
        let mut files = PidFiles::new(Some(self.folder.path().to_owned()), geteuid().as_raw());
        levels.iter().for_each(|pid| files.tell(&self.spec, *pid));
        files.finish();
    }

    /// The files in the folder with their texts.
    fn files(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.folder.path()).unwrap().flatten();
        let mut files: Vec<_> = entries
            .map(|entry| {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        files.sort();
        files
    }
}

fn both(text: &str) -> Vec<(String, String)> {
    ["a.pid", "own.pid"].map(|name| (name.to_owned(), text.to_owned())).to_vec()
}

#[test]
fn a_life_is_in_both_files_as_long_as_it_lasts() {
    let place = Place::new();
    place.tell(&[None, Some(7)]);
    assert_eq!(place.files(), both("7\n"));
    let mode = fs::metadata(place.path("a.pid")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
    // A daemon that comes back tells what is there, and later the next life.
    place.tell(&[Some(7), Some(8)]);
    assert_eq!(place.files(), both("8\n"));
    place.tell(&[Some(8), None]);
    assert_eq!(place.files(), []);
}

#[test]
fn a_file_that_somebody_else_has_written_meanwhile_is_left() {
    let place = Place::new();
    let mut files = PidFiles::new(None, geteuid().as_raw());
    files.tell(&place.spec, Some(7));
    files.finish();
    fs::write(place.path("own.pid"), "9\n").unwrap();
    let order = Order {
        service: place.spec.name.clone(),
        before: Some(Level { files: [place.path("own.pid")].into(), pid: Some(7) }),
        now: Level::default(),
    };
    order.carry_out(geteuid().as_raw());
    assert_eq!(fs::read_to_string(place.path("own.pid")).unwrap(), "9\n");
}

#[test]
fn files_follow_the_configuration() {
    let mut place = Place::new();
    let mut files = PidFiles::new(None, geteuid().as_raw());
    files.tell(&place.spec, Some(7));
    place.spec.pid_file = Some(place.path("new.pid"));
    files.tell(&place.spec, Some(7));
    files.finish();
    assert_eq!(place.files(), [("new.pid".to_owned(), "7\n".to_owned())]);
    let mut files = PidFiles::new(None, geteuid().as_raw());
    files.tell(&place.spec, Some(7));
    files.forget(&place.spec.name);
    files.finish();
    assert_eq!(place.files(), []);
}

#[test]
fn stale_files_are_removed_and_others_left() {
    let place = Place::new();
    let own = place.path("own.pid");
    let begin = |text: &str| {
        fs::write(&own, text).unwrap();
        place.tell(&[None]);
        fs::read_to_string(&own).ok()
    };
    assert_eq!(begin(&format!("{NOBODY}\n")), None);
    // A process that lives, and did when the file was written: that of another supervisor.
    let us = std::process::id().to_string();
    assert_eq!(begin(&us), Some(us.clone()));
    // The same number, written before this process began.
    let file = File::options().write(true).open(&own).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    file.set_times(FileTimes::new().set_modified(long_ago)).unwrap();
    place.tell(&[None]);
    assert!(!own.exists());
    for text in ["", "words", "-1"] {
        assert_eq!(begin(text).as_deref(), Some(text), "what is no pid file is nobody's to remove");
    }
}

#[test]
fn links_are_not_followed() {
    let place = Place::new();
    let far = place.path("far");
    fs::write(&far, "precious").unwrap();
    symlink(&far, place.path("own.pid")).unwrap();
    place.tell(&[None]);
    assert_eq!(fs::read_to_string(&far).unwrap(), "precious");
    place.tell(&[Some(7)]);
    assert_eq!(fs::read_to_string(&far).unwrap(), "precious");
    assert!(fs::symlink_metadata(place.path("own.pid")).unwrap().is_file());
}

#[test]
fn no_link_of_a_stranger_leads_the_pen_elsewhere() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut place = Place::new();
    fs::create_dir(place.path("theirs")).unwrap();
    chown(place.path("theirs"), Some(1000), None).unwrap();
    // In a folder of the service's user, as /run/api is one.
    place.spec.pid_file = Some(place.path("theirs/x.pid"));
    place.tell(&[Some(7)]);
    assert_eq!(fs::read_to_string(place.path("theirs/x.pid")).unwrap(), "7\n");
    // But not through a link that they have put there.
    fs::create_dir(place.path("roots")).unwrap();
    let link = place.path("theirs/link");
    symlink(place.path("roots"), &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(1000), None).unwrap();
    place.spec.pid_file = Some(link.join("x.pid"));
    place.tell(&[Some(7)]);
    assert!(!place.path("roots/x.pid").exists());
}

#[test]
fn a_folder_that_is_missing_is_no_obstacle() {
    let mut place = Place::new();
    place.spec.pid_file = Some(place.path("none/x.pid"));
    fs::set_permissions(place.folder.path(), Permissions::from_mode(0o755)).unwrap();
    place.tell(&[None, Some(7), None]);
    assert_eq!(place.files(), []);
}
