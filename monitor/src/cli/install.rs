//! `defib install` and `defib uninstall`: the units of systemd.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::json;

use super::Exit;
use super::args::Options;
use super::output::{Printer, complain_of, escape};
use super::session::{self, Failure};

/// Where an administrator's units are: systemd.unit(5). Those of a package are elsewhere, and these win.
const UNITS: &str = "etc/systemd/system";

/// The units, with the program where a package puts it.
const FILES: [(&str, &str); 2] = [
    ("defib.service", include_str!("../../../config/systemd/defib.service")),
    ("defib@.service", include_str!("../../../config/systemd/defib@.service")),
];
const PACKAGED: &str = "/usr/bin/defib";

/// Begins each file that `install` writes: `uninstall` removes no other.
const MARK: &str = "# Written by `defib install`; `defib uninstall` removes it.";
/// Begins the line that names a program which was copied.
const COPIED: &str = "# The program was copied to ";

/// What makes it start with the machine.
const WANTS: &str = "multi-user.target.wants/defib.service";

/// What `defib install` takes.
#[derive(Clone, Debug, Args)]
pub struct Install {
    /// Copy this program to DIR/bin, and let the units run it there; without it they run it where it is
    #[arg(long, value_name = "DIR")]
    pub prefix: Option<PathBuf>,
    /// Take DIR for the root of the file system, as for an image
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Start defib with the machine
    #[arg(long)]
    pub enable: bool,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// What `defib uninstall` takes.
#[derive(Clone, Debug, Args)]
pub struct Uninstall {
    /// Take DIR for the root of the file system, as for an image
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Write {
        path: PathBuf,
        text: String,
    },
    Copy {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        path: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    /// Tell systemd.
    Reload,
}

/// Why nothing was done, or not all.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("{what} {}: {cause}", path.display())]
    Path { what: &'static str, path: PathBuf, cause: io::Error },
    #[error("{}: it is there already and was not written by `defib install`; move it away", .0.display())]
    Foreign(PathBuf),
    #[error("{}: systemd takes no such path; put the program elsewhere with --prefix", .0.display())]
    Strange(PathBuf),
    #[error("wanted an absolute path for --prefix, found {}", .0.display())]
    Relative(PathBuf),
    #[error("defib.service runs, and every service with it: `systemctl stop defib.service` first")]
    Runs,
    #[error("`systemctl {0}` failed; it has said why")]
    Systemctl(&'static str),
}

/// Writes the units, and says what it does.
pub fn install(options: &Options, wanted: &Install) -> Exit {
    let mut printer = Printer::new(options);
    let done = plan(wanted).and_then(|steps| perform(&steps, wanted.dry_run));
    let next = if wanted.enable {
        "`systemctl start defib` starts it; it starts with the machine from now on"
    } else {
        "`systemctl enable --now defib` starts it, now and with the machine"
    };
    report(&mut printer, done, wanted.dry_run, next)
}

/// Removes what `install` has made, and says what it does.
pub fn uninstall(options: &Options, wanted: &Uninstall) -> Exit {
    let mut printer = Printer::new(options);
    let done = removal(wanted).and_then(|steps| perform(&steps, wanted.dry_run));
    report(&mut printer, done, wanted.dry_run, "configuration, state and logs are left as they are")
}

fn report(
    printer: &mut Printer,
    done: Result<Vec<(&'static str, PathBuf)>, InstallError>,
    dry: bool,
    next: &str,
) -> Exit {
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            complain_of(&error.to_string());
            let denied = matches!(&error, InstallError::Path { cause, .. }
                if cause.kind() == io::ErrorKind::PermissionDenied);
            return if denied { Exit::Denied } else { Exit::Failed };
        }
    };
    session::finish(show(printer, &done, dry, next))
}

fn show(
    printer: &mut Printer,
    done: &[(&'static str, PathBuf)],
    dry: bool,
    next: &str,
) -> Result<Exit, Failure> {
    if printer.json {
        let steps: Vec<_> = done
            .iter()
            .map(|(what, path)| json!({ "action": what, "path": path.display().to_string() }))
            .collect();
        printer.print_json(&json!({ "dry_run": dry, "steps": steps }))?;
        return Ok(Exit::Done);
    }
    let would = if dry { "would have " } else { "" };
    for (what, path) in done {
        printer.print(&format!("{would}{what} {}\n", escape(&path.display().to_string())))?;
    }
    match (done.is_empty(), dry) {
        (true, _) => printer.print("there is nothing to do\n")?,
        (false, true) => {}
        (false, false) => printer.print(&format!("{next}\n"))?,
    }
    Ok(Exit::Done)
}

/// What an installation takes.
fn plan(wanted: &Install) -> Result<Vec<Step>, InstallError> {
    let own = std::env::current_exe().and_then(fs::canonicalize).map_err(|cause| InstallError::Path {
        what: "find",
        path: "/proc/self/exe".into(),
        cause,
    })?;
    let program = match &wanted.prefix {
        Some(prefix) if prefix.is_relative() => return Err(InstallError::Relative(prefix.clone())),
        Some(prefix) => prefix.join("bin/defib"),
        None => own.clone(),
    };
    let name = program.to_str().filter(|name| name.chars().all(plain));
    let name = name.ok_or_else(|| InstallError::Strange(program.clone()))?;
    let mut steps = Vec::new();
    let mut head = format!("{MARK}\n");
    if wanted.prefix.is_some() && own != program {
        head.push_str(&format!("{COPIED}{name}\n"));
        steps.push(Step::Copy { from: own, to: below(wanted.root.as_deref(), &program) });
    } else {
        warn_of(&program);
    }
    let units = units(wanted.root.as_deref());
    for (file, text) in FILES {
        let path = units.join(file);
        let text = format!("{head}{}", text.replace(PACKAGED, name));
        match fs::read_to_string(&path) {
            Ok(there) if there == text => {}
            Ok(there) if !there.starts_with(MARK) => return Err(InstallError::Foreign(path)),
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(InstallError::Path { what: "read", path, cause });
            }
            Ok(_) | Err(_) => steps.push(Step::Write { path, text }),
        }
    }
    let link = units.join(WANTS);
    if wanted.enable && fs::symlink_metadata(&link).is_err() {
        // What a link in an image points to is meant inside of it.
        steps.push(Step::Link { path: link, to: Path::new("/").join(UNITS).join(FILES[0].0) });
    }
    reload(&mut steps, wanted.root.as_deref());
    Ok(steps)
}

/// What there is to remove.
fn removal(wanted: &Uninstall) -> Result<Vec<Step>, InstallError> {
    let root = wanted.root.as_deref();
    let units = units(root);
    let mut steps = Vec::new();
    for (file, _) in FILES {
        let path = units.join(file);
        let text = match fs::read_to_string(&path) {
            Ok(text) if text.starts_with(MARK) => text,
            Ok(_) => return Err(InstallError::Foreign(path)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(InstallError::Path { what: "read", path, cause }),
        };
        let copied = text.lines().nth(1).and_then(|line| line.strip_prefix(COPIED));
        if let Some(program) = copied.map(|program| below(root, Path::new(program)))
            && program.exists()
            && !steps.contains(&Step::Remove(program.clone()))
        {
            steps.push(Step::Remove(program));
        }
        steps.push(Step::Remove(path));
    }
    let link = units.join(WANTS);
    if !steps.is_empty() && fs::symlink_metadata(&link).is_ok() {
        steps.insert(0, Step::Remove(link));
    }
    if !steps.is_empty() && managed(root) && systemctl(&["is-active", "--quiet", "defib.service"]) {
        return Err(InstallError::Runs);
    }
    reload(&mut steps, root);
    Ok(steps)
}

fn reload(steps: &mut Vec<Step>, root: Option<&Path>) {
    if !steps.is_empty() && managed(root) {
        steps.push(Step::Reload);
    }
}

/// Whether systemd manages this very system: sd_booted(3).
fn managed(root: Option<&Path>) -> bool {
    root.is_none() && Path::new("/run/systemd/system").is_dir()
}

/// What needs no quotes in a command line of a unit, and is no specifier.
fn plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '+' | '@' | ',')
}

fn units(root: Option<&Path>) -> PathBuf {
    root.unwrap_or(Path::new("/")).join(UNITS)
}

fn below(root: Option<&Path>, path: &Path) -> PathBuf {
    match root {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    }
}

/// Root is about to run it for good.
fn warn_of(program: &Path) {
    let loose =
        |path: &Path| fs::metadata(path).is_ok_and(|file| file.uid() != 0 || file.mode() & 0o022 != 0);
    if let Some(path) = program.ancestors().find(|path| loose(path)) {
        complain_of(&format!(
            "warning: the units run {} as root, and others than root can change {}; --prefix /usr/local copies it",
            program.display(),
            path.display()
        ));
    }
}

/// Does it, one after the other; says of each what was done.
fn perform(steps: &[Step], dry: bool) -> Result<Vec<(&'static str, PathBuf)>, InstallError> {
    let mut done = Vec::new();
    for step in steps {
        let (what, path) = match step {
            Step::Write { path, .. } => ("written", path.clone()),
            Step::Copy { to, .. } => ("copied the program to", to.clone()),
            Step::Link { path, .. } => ("linked", path.clone()),
            Step::Remove(path) => ("removed", path.clone()),
            Step::Reload => ("told systemd to read its units:", "systemctl daemon-reload".into()),
        };
        if !dry {
            carry_out(step)?;
        }
        done.push((what, path));
    }
    Ok(done)
}

fn carry_out(step: &Step) -> Result<(), InstallError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |cause| InstallError::Path { what, path, cause }
    };
    match step {
        Step::Write { path, text } => {
            replace(path, 0o644, |new| fs::write(new, text)).map_err(failed("write", path))
        }
        Step::Copy { from, to } => {
            replace(to, 0o755, |new| fs::copy(from, new).map(drop)).map_err(failed("write", to))
        }
        Step::Link { path, to } => {
            folder_of(path).and_then(|()| std::os::unix::fs::symlink(to, path)).map_err(failed("link", path))
        }
        Step::Remove(path) => fs::remove_file(path).map_err(failed("remove", path)),
        Step::Reload if systemctl(&["daemon-reload"]) => Ok(()),
        Step::Reload => Err(InstallError::Systemctl("daemon-reload")),
    }
}

/// Makes a file beside the old one, then puts it in its place: whoever looks sees the one or the other, and a program
/// that runs can be replaced.
fn replace(path: &Path, mode: u32, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    folder_of(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let made = make(&new)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&new, path));
    if made.is_err() {
        fs::remove_file(&new).ok();
    }
    made
}

fn folder_of(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path.parent().unwrap_or(path))
}

/// Runs systemctl; whether it succeeded.
#[expect(clippy::disallowed_methods, reason = "the command line has no keeper, and systemctl is no service")]
fn systemctl(args: &[&str]) -> bool {
    Command::new("systemctl").args(args).stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_name_the_program_where_it_can_be_replaced() {
        for (file, text) in FILES {
            assert!(text.contains(&format!("={PACKAGED} ")), "{file}");
            assert!(text.replace(PACKAGED, "").find("/bin/defib").is_none(), "{file}");
        }
    }

    #[test]
    fn paths_that_systemd_would_read_otherwise_are_refused() {
        assert!("/usr/local/bin/defib-0.1_x".chars().all(plain));
        for path in ["/a b", "/a%n", "/a\"", "/a$b", "/a\\b", "/a\n", "/a;b", "/a'b"] {
            assert!(!path.chars().all(plain), "{path}");
        }
    }
}
