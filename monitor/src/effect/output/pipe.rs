//! A pipe and a spool for each stream of a service.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use defib_core::model::{LogStreams, ServiceName};
use rustix::fs::{CWD, FileType, Gid, MemfdFlags, Mode, Uid};
use rustix::pipe::PipeFlags;

use super::Kind;
use super::folder::Folder;

/// The daemon's side of one stream.
#[derive(Debug)]
pub struct Inlet {
    /// Read without waiting.
    pub pipe: OwnedFd,
    /// Holds what has been read and is not in a file yet: it outlives this daemon, and disks do not hold it up.
    pub spool: OwnedFd,
}

/// The pipes of one service.
#[derive(Debug)]
pub struct Pipes {
    /// What they are for.
    pub plumbing: Plumbing,
    /// The service's ends: standard output, and standard error if that is apart.
    pub service: Vec<OwnedFd>,
    /// The daemon's.
    pub daemon: Vec<Inlet>,
}

/// What decides whether pipes still fit a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plumbing {
    /// One stream or two.
    pub streams: LogStreams,
    /// To whom they belong: only their owner may open /dev/stdout anew.
    pub owner: u32,
}

impl Plumbing {
    /// How many streams there are.
    pub fn count(self) -> u8 {
        match self.streams {
            LogStreams::Joined => 1,
            LogStreams::Apart => 2,
        }
    }

    /// That of pipes that an earlier daemon has made.
    ///
    /// # Errors
    /// If a pipe cannot be looked at.
    pub fn of(inlets: &[Inlet]) -> io::Result<Self> {
        let streams = if inlets.len() == 1 { LogStreams::Joined } else { LogStreams::Apart };
        let first = inlets.first().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { streams, owner: rustix::fs::fstat(&first.pipe)?.st_uid })
    }
}

/// The streams of a service.
pub(super) fn kinds(streams: LogStreams) -> &'static [Kind] {
    match streams {
        LogStreams::Joined => &[Kind::Joined],
        LogStreams::Apart => &[Kind::Stdout, Kind::Stderr],
    }
}

/// Makes pipes; with names, if there is a folder for them. They have the kernel's own size (64 KiB): that takes 1.5 KiB of
/// kernel memory, a pipe of 1 MiB 15.6 KiB even when it is empty, on top of what a process costs anyway. The reader's
/// thread makes a pipe larger when it is used.
///
/// # Errors
/// If the process is out of file descriptors, the kernel out of memory, or the folder cannot be written.
pub fn make(plumbing: Plumbing, group: u32, names: Option<(&Folder, &ServiceName)>) -> io::Result<Pipes> {
    if let Some((folder, service)) = names {
        // What a life still holds of earlier ones is read on.
        Kind::ALL.into_iter().for_each(|kind| folder.remove(service, kind));
    }
    let (mut service, mut daemon) = (Vec::new(), Vec::new());
    for kind in kinds(plumbing.streams) {
        let (both, spool) = match names {
            Some((folder, service)) => {
                let (path, spool) = (folder.pipe(service, *kind), folder.spool(service, *kind));
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
                let spool = both_ways().create_new(true).mode(0o600).open(spool)?;
                (open(&path)?, spool.into())
            }
            None => {
                let (_read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                (open(&own_path(&write))?, anonymous_spool()?)
            }
        };
        if rustix::fs::fstat(&both)?.st_uid != plumbing.owner {
            let (owner, group) = (Uid::from_raw(plumbing.owner), Gid::from_raw(group));
            rustix::fs::fchown(&both, Some(owner), Some(group))?;
        }
        daemon.push(Inlet { pipe: reader_of(&both)?, spool });
        service.push(both);
    }
    Ok(Pipes { plumbing, service, daemon })
}

/// The pipes and spools that an earlier daemon has made for a service, by their names. From here on what is in the pipes
/// stays there, whoever ends.
///
/// # Errors
/// If what has such a name cannot be opened.
pub fn find(folder: &Folder, service: &ServiceName) -> io::Result<Option<Pipes>> {
    for streams in [LogStreams::Joined, LogStreams::Apart] {
        let named = kinds(streams).iter().map(|kind| named(folder, service, *kind));
        let Some(found) = named.collect::<io::Result<Option<Vec<_>>>>()? else { continue };
        let (service, daemon): (Vec<OwnedFd>, _) = found.into_iter().unzip();
        let owner = service.first().map(rustix::fs::fstat).transpose()?.map_or(0, |stat| stat.st_uid);
        return Ok(Some(Pipes { plumbing: Plumbing { streams, owner }, service, daemon }));
    }
    Ok(None)
}

fn named(folder: &Folder, service: &ServiceName, kind: Kind) -> io::Result<Option<(OwnedFd, Inlet)>> {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let both = match open(&folder.pipe(service, kind)) {
        Err(error) if absent(&error) => return Ok(None),
        both => both?,
    };
    let spool = match both_ways().open(folder.spool(service, kind)) {
        Err(error) if absent(&error) => return Ok(None),
        spool => spool?,
    };
    if !is_pipe(&both)? || !spool.metadata()?.is_file() {
        return Ok(None);
    }
    let pipe = reader_of(&both)?;
    Ok(Some((both, Inlet { pipe, spool: spool.into() })))
}

/// The pipes into which a process writes that an earlier daemon has started, opened anew, if they are others than were found
/// by name. `None` also if its output goes to no pipe that defib has made: only those are open for reading and writing. What
/// is opened anew has no name, and its spool is empty.
///
/// # Errors
/// If the process is gone, or may not be looked at.
pub fn of_process(pid: u32, found: Option<&Pipes>) -> io::Result<Option<Pipes>> {
    let outputs = [1, 2].map(|fd| -> io::Result<Option<(OwnedFd, (u64, u64))>> {
        let path = format!("/proc/{pid}/fd/{fd}");
        let (Ok(there), Ok(info)) =
            (fs::metadata(&path), fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")))
        else {
            // It has closed it. A process that is gone has no folder either.
            return fs::metadata(format!("/proc/{pid}")).map(|_| None);
        };
        if !there.file_type().is_fifo() || !is_both_ways(&info) {
            return Ok(None);
        }
        Ok(Some((open(Path::new(&path))?, (there.dev(), there.ino()))))
    });
    let [first, second] = outputs;
    let (first, second) = (first?, second?);
    if let Some(found) = found {
        let known: io::Result<Vec<_>> = found.service.iter().map(identity).collect();
        let known = known?;
        let has = |output: &Option<(OwnedFd, (u64, u64))>| {
            output.as_ref().is_some_and(|(_, id)| known.contains(id))
        };
        if has(&first) || has(&second) || (first.is_none() && second.is_none()) {
            return Ok(None);
        }
    }
    let (streams, outputs) = match (first, second) {
        (Some(first), Some(second)) if first.1 != second.1 => (LogStreams::Apart, vec![first.0, second.0]),
        (Some((both, _)), _) | (None, Some((both, _))) => (LogStreams::Joined, vec![both]),
        (None, None) => return Ok(None),
    };
    let owner = outputs.first().map(rustix::fs::fstat).transpose()?.map_or(0, |stat| stat.st_uid);
    let inlet = |both: &OwnedFd| Ok(Inlet { pipe: reader_of(both)?, spool: anonymous_spool()? });
    let daemon = outputs.iter().map(inlet).collect::<io::Result<_>>()?;
    Ok(Some(Pipes { plumbing: Plumbing { streams, owner }, service: outputs, daemon }))
}

/// Whether a descriptor is for reading and writing, by its `fdinfo`.
fn is_both_ways(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or_default();
    flags & libc::O_ACCMODE as u32 == libc::O_RDWR as u32
}

fn identity(pipe: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(pipe)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn is_pipe(fd: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Fifo)
}

fn both_ways() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW);
    options
}

/// Both ends of a pipe as one descriptor: whoever holds it gets no SIGPIPE and sees no end, whoever else dies.
fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)?.into())
}

/// The end that is read without waiting.
fn reader_of(both: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    Ok(File::options().read(true).custom_flags(flags).open(own_path(both))?.into())
}

fn own_path(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn anonymous_spool() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("defib-spool", MemfdFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_pipe_has_no_end_and_no_broken_one() {
        let owner = rustix::process::geteuid().as_raw();
        let mut pipes = make(Plumbing { streams: LogStreams::Apart, owner }, 0, None).unwrap();
        assert_eq!((pipes.service.len(), pipes.daemon.len()), (2, 2));
        let mut service = File::from(pipes.service.remove(1));
        service.write_all(b"one").unwrap();
        let Inlet { pipe, spool: _ } = pipes.daemon.remove(1);
        let mut bytes = [0; 8];
        assert_eq!(rustix::io::read(&pipe, &mut bytes), Ok(3));
        assert_eq!(rustix::io::read(&pipe, &mut bytes), Err(rustix::io::Errno::AGAIN));
        drop(pipe);
        service.write_all(b"two").unwrap();
    }

    #[test]
    fn what_has_a_name_is_found_with_what_is_in_it() {
        let runtime = tempfile::tempdir().unwrap();
        let folder = Folder::open(runtime.path(), None).unwrap();
        let (name, owner) = ("a".parse().unwrap(), rustix::process::geteuid().as_raw());
        assert!(find(&folder, &name).unwrap().is_none());
        let plumbing = Plumbing { streams: LogStreams::Apart, owner };
        let mut made = make(plumbing, 0, Some((&folder, &name))).unwrap();
        rustix::io::write(&made.service[1], b"in the pipe").unwrap();
        rustix::io::write(&made.daemon[0].spool, b"in the spool").unwrap();
        made.daemon.clear();
        let found = find(&folder, &name).unwrap().unwrap();
        drop(made);
        assert_eq!((found.plumbing, found.daemon.len()), (plumbing, 2));
        assert_eq!(rustix::io::ioctl_fionread(&found.daemon[1].pipe), Ok(11));
        assert_eq!(rustix::fs::fstat(&found.daemon[0].spool).unwrap().st_size, 12);
        folder.clear_away();
    }

    #[test]
    fn the_output_of_a_process_is_told_from_a_pipe_of_its_own() {
        let owner = rustix::process::geteuid().as_raw();
        let pipes = make(Plumbing { streams: LogStreams::Joined, owner }, 0, None).unwrap();
        let start = |output: std::process::Stdio, error: std::process::Stdio| {
            #[expect(clippy::disallowed_methods, reason = "a process to look at")]
            let mut command = std::process::Command::new("sleep");
            command.arg("1000").stdout(output).stderr(error).spawn().unwrap()
        };
        let end = || pipes.service[0].try_clone().unwrap().into();
        let (mut ours, mut piped) =
            (start(end(), end()), start(std::process::Stdio::piped(), std::process::Stdio::null()));
        let again = of_process(ours.id(), None).unwrap().unwrap();
        assert_eq!(identity(&again.service[0]).unwrap(), identity(&pipes.service[0]).unwrap());
        assert_eq!(again.plumbing, pipes.plumbing);
        assert!(of_process(piped.id(), None).unwrap().is_none());
        for child in [&mut ours, &mut piped] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
