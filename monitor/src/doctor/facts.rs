//! What several rows rest on, read once.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::btf::KernelTypes;
use super::mounts::{Mount, mounts};
use super::rights::{Namespaces, Rights};
use crate::config::{self, Overrides, SourceChoice};

/// More than any of the files that are read here has.
const MAX: u64 = 1 << 20;

/// What several rows rest on.
#[derive(Debug)]
pub(super) struct Facts {
    /// `uname -r`, as text and as numbers.
    pub(super) release: String,
    pub(super) version: (u32, u32),
    pub(super) machine: String,
    pub(super) rights: Rights,
    pub(super) namespaces: Namespaces,
    pub(super) types: Result<KernelTypes, io::Error>,
    pub(super) mounts: Vec<Mount>,
    /// `/proc/self/cgroup`.
    pub(super) membership: String,
    pub(super) settings: Configured,
}

/// What of the configuration matters here.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) file: PathBuf,
    /// How many services it has; or how many errors, and the first.
    pub(super) outcome: Result<usize, (usize, String)>,
    pub(super) present: bool,
    pub(super) source: SourceChoice,
    pub(super) state_dir: PathBuf,
}

impl Facts {
    pub(super) fn gather(overrides: &Overrides) -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let status = text("/proc/self/status").unwrap_or_default();
        Self {
            version: version(&release),
            machine: uname.machine().to_string_lossy().into_owned(),
            rights: Rights::of_self(&status),
            namespaces: Namespaces::of_self(version(&release) >= (6, 18)),
            types: KernelTypes::read(),
            mounts: mounts(&text("/proc/self/mountinfo").unwrap_or_default()),
            membership: text("/proc/self/cgroup").unwrap_or_default(),
            settings: Configured::load(overrides),
            release,
        }
    }

    /// Whether the kernel is of this version or a later one. For what no better question answers: distributions port
    /// things back.
    pub(super) fn since(&self, major: u32, minor: u32) -> bool {
        self.version >= (major, minor)
    }

    /// The remedy for what kernels have since a version: a later one, or where it is one already, `other`.
    pub(super) fn of_kernel(&self, (major, minor): (u32, u32), other: &str) -> String {
        if self.since(major, minor) {
            other.to_owned()
        } else {
            format!("run Linux {major}.{minor} or later")
        }
    }

    /// Whether a name stands in the kernel's description of its types; `None` if there is none.
    pub(super) fn kernel_names(&self, name: &str) -> Option<bool> {
        self.types.as_ref().ok().map(|types| types.name(name))
    }
}

impl Configured {
    fn load(overrides: &Overrides) -> Self {
        let (file, _) = overrides.config();
        let (settings, outcome, present) = match config::load(&file, overrides) {
            Ok(loaded) => {
                let services = loaded.settings.services.len();
                (Some(loaded.settings), Ok(services), loaded.found)
            }
            // What would hold without the file.
            Err(errors) => {
                let first = errors.iter().next().map(ToString::to_string).unwrap_or_default();
                (config::parse(&[], overrides).ok(), Err((errors.iter().count(), first)), true)
            }
        };
        let daemon = settings.map(|settings| settings.daemon);
        let (source, state_dir) = daemon.map(|daemon| (daemon.source, daemon.state_dir)).unwrap_or_default();
        Self { file, outcome, present, source, state_dir }
    }
}

/// A text file of the kernel: not more than a bound of it, and whatever is no UTF-8 replaced.
pub(super) fn text(path: impl AsRef<Path>) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The one word in a file.
pub(super) fn word(path: impl AsRef<Path>) -> Option<String> {
    text(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The error in as few words as it takes: without the number that the standard library appends.
pub(super) fn brief(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// `6.18.44-custom` is (6, 18); what is no version is (0, 0).
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_whatever_uname_says() {
        for (release, expected) in [
            ("6.18.44-fc-v657", (6, 18)),
            ("5.10.0-28-cloud-amd64", (5, 10)),
            ("7.2-rc1", (7, 2)),
            ("", (0, 0)),
            ("custom", (0, 0)),
            ("99999999999.1", (0, 1)),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn an_error_is_brief() {
        assert_eq!(brief(&io::Error::from_raw_os_error(libc::EPERM)), "operation not permitted");
        assert_eq!(brief(&io::Error::other("strange")), "strange");
    }
}
