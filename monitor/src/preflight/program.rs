//! The program: whether it is there, may be executed, is one, and what would execute it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use defib_core::model::Launch;
use rustix::fs::{Access, StatVfsMountFlags, statvfs};

use super::access::User;
use super::row::{self, Row};
use crate::effect::planner::find_program;

/// What the kernel reads of a file to find out what it is (BINPRM_BUF_SIZE).
const HEAD: u64 = 256;

pub(super) fn rows(launch: &Launch, env: &BTreeMap<String, String>, user: &User) -> Vec<Row> {
    let name = launch.command.first().map_or("", String::as_str);
    let program = match find_program(name, env, &launch.cwd) {
        Ok(program) => program,
        Err(failure) => {
            return vec![row::error(
                "program",
                format!("{}: {}", failure.call, failure.error),
                failure.remedy,
            )];
        }
    };
    let mut rows = vec![executable("program", &program, user)];
    rows.extend(interpreter(&program, env, user));
    rows.extend(confined(&program));
    rows
}

/// Whether a file can be executed by the user.
fn executable(name: &str, path: &Path, user: &User) -> Row {
    let noexec = statvfs(path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::NOEXEC));
    if path.is_dir() {
        return row::error(name, format!("{} is a folder", path.display()), "correct `command`");
    }
    if noexec {
        let found = format!("{} is on a file system that is mounted noexec", path.display());
        return row::error(name, found, "install it elsewhere, or mount with exec (mount -o remount,exec)");
    }
    match user.reach(path, Access::EXEC_OK, "execute") {
        Ok(()) => row::ok(name, path.display().to_string()),
        Err(obstacle) if name == "interpreter" => {
            row::error(name, obstacle.to_string(), "install it, or correct the first line of the script")
        }
        Err(obstacle) => row::error(name, obstacle.to_string(), obstacle.remedy("command")),
    }
}

/// What executes a script, and whether that can read it.
fn interpreter(program: &Path, env: &BTreeMap<String, String>, user: &User) -> Vec<Row> {
    // A program that this process may not read may be executed all the same.
    let Some(head) = head(program) else { return Vec::new() };
    let Some((first, second)) = shebang(&head) else {
        if head.starts_with(b"\x7fELF") {
            return Vec::new();
        }
        let found = "neither an ELF file nor a script with a first line like #!/bin/sh";
        let remedy = "give it such a line; only a handler of binfmt_misc could execute it as it is";
        return vec![row::warning("program", found, remedy)];
    };
    let mut rows = vec![executable("interpreter", &first, user)];
    if let Err(obstacle) = user.reach(program, Access::READ_OK, "read") {
        rows.push(row::error("interpreter", obstacle.to_string(), obstacle.remedy("command")));
    }
    // env(1) looks for what follows.
    let wanted =
        second.filter(|word| first.ends_with("env") && !word.starts_with('-') && !word.contains('='));
    if let Some(Err(failure)) = wanted.map(|word| find_program(&word, env, Path::new("/"))) {
        rows.push(row::error("interpreter", format!("{}: {}", failure.call, failure.error), failure.remedy));
    }
    rows
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
    Some(head)
}

/// The interpreter in the first line of a script, and the first word after it.
fn shebang(head: &[u8]) -> Option<(PathBuf, Option<String>)> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    Some((PathBuf::from(words.next()?), words.next().map(str::to_owned)))
}

/// What confines it: a security module refuses things that no mode tells.
fn confined(program: &Path) -> Vec<Row> {
    let word = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mut rows = Vec::new();
    match word("/sys/fs/selinux/enforce").as_str() {
        "1" => rows.push(row::ok("selinux", "enforcing; what it refuses is told by `ausearch -m avc`")),
        "0" => rows.push(row::ok("selinux", "permissive: it refuses nothing")),
        _ => {}
    }
    if word("/sys/module/apparmor/parameters/enabled") == "Y" {
        rows.push(match profile(&word("/sys/kernel/security/apparmor/profiles"), program) {
            Some(mode) => {
                let found = format!("a profile for {} is in force ({mode})", program.display());
                let remedy =
                    "what it refuses is told by `journalctl -k -g apparmor`; aa-complain lets it pass";
                row::warning("apparmor", found, remedy)
            }
            None => row::ok("apparmor", "enabled, with no profile for the program"),
        });
    }
    rows
}

/// The mode of the AppArmor profile of a program, from lines like `/usr/bin/man (enforce)`.
fn profile(profiles: &str, program: &Path) -> Option<String> {
    let of = |line: &str| {
        let (name, mode) = line.trim().strip_suffix(')')?.rsplit_once(" (")?;
        (Path::new(name) == program).then(|| mode.to_owned())
    };
    profiles.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_script_names_its_interpreter() {
        for (head, found) in [
            (&b"#!/bin/sh\n"[..], Some(("/bin/sh", None))),
            (b"#! /usr/bin/env  python3 -u\nx", Some(("/usr/bin/env", Some("python3")))),
            (b"#!/bin/sh", Some(("/bin/sh", None))),
            (b"#!\n", None),
            (b"\x7fELF", None),
            (b"", None),
        ] {
            let expected = found.map(|(first, second)| (PathBuf::from(first), second.map(str::to_owned)));
            assert_eq!(shebang(head), expected, "{head:?}");
        }
    }

    #[test]
    fn a_profile_is_found_by_the_path_it_is_named_after() {
        let text = "/usr/bin/man (enforce)\nnvidia_modprobe (enforce)\n/usr/bin/x y (complain)\nodd\n";
        assert_eq!(profile(text, Path::new("/usr/bin/man")).as_deref(), Some("enforce"));
        assert_eq!(profile(text, Path::new("/usr/bin/x y")).as_deref(), Some("complain"));
        assert_eq!(profile(text, Path::new("/usr/bin/odd")), None);
    }
}
