//! Files on disk: which are read, and which root does not trust. The tests of ownership need root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

use super::super::{ConfigErrors, Flags, MAX_FILE, Overrides, env_file, load, open_trusted};

/// A folder of its own for a test; in a sticky one, as `/tmp` is.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    mode(&path, 0o755);
    (folder, path)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn file(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    mode(&path, 0o644);
    path
}

fn overrides(strict: bool) -> Overrides {
    let variable = |name: &str| (name == "HOME").then(|| "/nowhere".into());
    Overrides::new(Flags { strict, ..Flags::default() }, variable, geteuid().as_raw())
}

/// Why a file is not trusted by root, if it is not; with the name of the folder left out.
fn refusal(folder: &Path, path: &Path) -> Option<String> {
    let why = open_trusted(path, 0).err()?.to_string();
    Some(why.replace(&format!("{}/", folder.display()), "").replace(&folder.display().to_string(), "."))
}

/// Whether to go on: a test of ownership can only be set up by root.
fn root() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

#[test]
fn root_trusts_what_only_root_can_write() {
    if !root() {
        return;
    }
    let (_guard, folder) = folder();
    let config = file(&folder, "f", "");
    assert_eq!(refusal(&folder, &config), None);
    for (bits, why) in [
        (0o664, "f may be written by others (mode 0664), who could make root act; run: chmod go-w f"),
        (0o646, "f may be written by others (mode 0646), who could make root act; run: chmod go-w f"),
    ] {
        mode(&config, bits);
        assert_eq!(refusal(&folder, &config).as_deref(), Some(why));
    }
    mode(&config, 0o600);
    chown(&config, Some(1000), None).unwrap();
    let why = "f belongs to user 1000, who could make root act; run: chown root f";
    assert_eq!(refusal(&folder, &config).as_deref(), Some(why));
}

#[test]
fn root_trusts_no_folder_that_others_can_write() {
    if !root() {
        return;
    }
    let (_guard, folder) = folder();
    let config = file(&folder, "f", "");
    mode(&folder, 0o775);
    let why = ". may be written by others (mode 0775), who could make root act; run: chmod go-w .";
    assert_eq!(refusal(&folder, &config).as_deref(), Some(why));
    mode(&folder, 0o1777);
    assert_eq!(refusal(&folder, &config), None);
    chown(&folder, Some(1000), None).unwrap();
    let why = ". belongs to user 1000, who could make root act; run: chown root .";
    assert_eq!(refusal(&folder, &config).as_deref(), Some(why));
}

#[test]
fn links_are_followed_to_what_must_be_trusted_too() {
    if !root() {
        return;
    }
    let (_guard, folder) = folder();
    let far = folder.join("far");
    fs::create_dir(&far).unwrap();
    let config = file(&far, "f", "");
    for (name, target) in [("absolute", config.clone()), ("relative", "far/../far/./f".into())] {
        symlink(target, folder.join(name)).unwrap();
        assert_eq!(refusal(&folder, &folder.join(name)), None);
    }
    mode(&far, 0o757);
    let why = "far may be written by others (mode 0757), who could make root act; run: chmod go-w far";
    assert_eq!(refusal(&folder, &folder.join("absolute")).as_deref(), Some(why));
    assert_eq!(refusal(&folder, &folder.join("relative")).as_deref(), Some(why));

    mode(&far, 0o755);
    symlink("far/f", folder.join("planted")).unwrap();
    nix::unistd::fchownat(
        nix::fcntl::AT_FDCWD,
        &folder.join("planted"),
        Some(1000.into()),
        None,
        nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .unwrap();
    let why = "planted belongs to user 1000, who could make root act; run: chown root planted";
    assert_eq!(refusal(&folder, &folder.join("planted")).as_deref(), Some(why));

    symlink("loop", folder.join("loop")).unwrap();
    let why = "cannot open loop: Too many symbolic links encountered";
    assert_eq!(refusal(&folder, &folder.join("loop")).as_deref(), Some(why));
}

#[test]
fn only_regular_files_are_opened_and_nothing_hangs() {
    let (_guard, folder) = folder();
    mkfifo(&folder.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    let euid = geteuid().as_raw();
    for (path, why) in [
        (folder.join("pipe"), "pipe is a named pipe, not a file"),
        (folder.clone(), ". is a folder, not a file"),
        (folder.join("none"), "cannot open none: No such file or directory"),
    ] {
        for euid in [euid, 1000] {
            let error = open_trusted(&path, euid).unwrap_err().to_string();
            let error = error.replace(&format!("{}/", folder.display()), "");
            assert_eq!(error.replace(&folder.display().to_string(), "."), why);
        }
    }
}

#[test]
fn a_file_is_read_with_its_text() {
    let (_guard, folder) = folder();
    let text = "[service.a]\ncommand = '/bin/true'\n";
    let loaded = load(&file(&folder, "f", text), &overrides(true)).unwrap();
    assert_eq!((loaded.texts[0].1.as_str(), loaded.found, loaded.settings.services.len()), (text, true, 1));
    assert_eq!(loaded.warnings, []);
}

/// The errors of a file of this content, with its path shortened.
fn errors(content: impl AsRef<[u8]>, strict: bool) -> String {
    let (_guard, folder) = folder();
    let errors = load(&file(&folder, "f", content), &overrides(strict)).unwrap_err();
    errors.to_string().replace(&format!("{}/", folder.display()), "")
}

#[test]
fn files_that_are_no_configuration_are_refused_as_a_whole() {
    assert_eq!(
        errors(vec![b'\n'; MAX_FILE as usize + 1], false),
        "f: larger than the 1048576 bytes that are allowed"
    );
    assert_eq!(errors(b"\n\n# \xff", false), "f:3: line 3 is not UTF-8: found the byte 0xff");
    assert_eq!(errors("\nx", false), "f:2: not valid TOML: key with no value, expected `=`");
}

#[test]
fn only_a_file_that_nobody_asked_for_may_be_missing() {
    let (_guard, folder) = folder();
    let missing = folder.join("f");
    let message = |errors: ConfigErrors| errors.to_string().replace(&format!("{}/", folder.display()), "");
    let asked = load(&missing, &overrides(false)).map_err(message);
    assert_eq!(asked.unwrap_err(), "f: no such file; create it, or name another one with --config");

    let home = |name: &str| (name == "HOME").then(|| folder.clone().into());
    let overrides = Overrides::new(Flags::default(), home, 1000);
    let loaded = load(&overrides.config().0, &overrides).unwrap();
    assert_eq!((loaded.found, loaded.settings.services.len()), (false, 0));
}

#[test]
fn a_program_that_anybody_can_write_is_a_warning_and_strictly_an_error() {
    let (_guard, folder) = folder();
    let program = file(&folder, "p", "");
    mode(&program, 0o777);
    let config = file(&folder, "f", format!("[service.a]\ncommand = '{}'\n", program.display()));
    let shorten = |text: String| text.replace(&format!("{}/", folder.display()), "");

    let warning = "f:2: service.a.command: p may be written by others (mode 0777), who could make root act; \
                   run: chmod go-w p";
    let warnings = load(&config, &overrides(false)).unwrap().warnings;
    assert_eq!(warnings.iter().map(|warning| shorten(warning.to_string())).collect::<Vec<_>>(), [warning]);
    assert_eq!(shorten(load(&config, &overrides(true)).unwrap_err().to_string()), warning);
}

#[test]
fn environment_files_are_read_under_the_same_rules() {
    let (_guard, folder) = folder();
    let euid = geteuid().as_raw();
    let path = file(&folder, "e", "A=1\n");
    assert_eq!(env_file::load(&path, euid).unwrap()["A"], "1");
    let path = file(&folder, "e", "A\nB='\n");
    let why = "line 1: wanted NAME=value; line 2: the single quote is not closed";
    assert_eq!(env_file::load(&path, euid).unwrap_err().to_string(), why);
}
