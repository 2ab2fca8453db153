//! Everything that a start needs, made ready before the start.
//!
//! The daemon resolves names to numbers and paths, and hands the result over as a sealed memfd: what the keeper has
//! read can no longer change. The keeper turns it once into the form that execve(2) takes.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

use super::tree::Tag;

/// The variable that tells a process, and whoever looks at it, of which life it is a part. The keeper writes the
/// number at each start.
pub const INCARNATION_VARIABLE: &str = "DEFIB_INCARNATION";

/// The extended attributes of a leaf cgroup, of which one says whose it is: the first needs CAP_SYS_ADMIN. The number of
/// the life; behind it, where that is known, the pid of its main process and when that was made, in ns of CLOCK_BOOTTIME.
pub const MARKS: [&str; 2] = ["trusted.defib.life", "user.defib.life"];

/// The variable by which a process knows that the sockets are meant for it: sd_listen_fds(3). The process that is being
/// made writes its own pid there.
pub const PID_VARIABLE: &str = "LISTEN_PID";

/// The variable by which a main process is told from what it has made, which has its environment, too: its pid, which it
/// writes there itself.
pub const MAIN_VARIABLE: &str = "DEFIB_PID";

/// The variable that holds the name of the service.
pub const SERVICE_VARIABLE: &str = "DEFIB_SERVICE";

/// How to make a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The program, as an absolute path.
    pub program: Vec<u8>,
    /// Its arguments, its own name first.
    pub args: Vec<Vec<u8>>,
    /// Its environment as `NAME=value`, without [`INCARNATION_VARIABLE`].
    pub env: Vec<Vec<u8>>,
    /// The working directory.
    pub cwd: Vec<u8>,
    /// Whom to become; `None`: whoever the keeper is.
    pub identity: Option<Identity>,
    /// The file mode creation mask.
    pub umask: u32,
    /// Whether the rest of the tree is ended with the main process.
    pub end_leftovers: bool,
    /// How many sockets are passed to it. The environment says the same, but for [`PID_VARIABLE`].
    pub sockets: u32,
}

/// A user in the kernel's terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

impl Plan {
    /// The plan in a memfd that nobody can change any more.
    ///
    /// # Errors
    /// If the kernel has no memory for it, or the process is out of file descriptors.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let bytes = postcard::to_stdvec(self).map_err(io::Error::other)?;
        sealed("defib-plan", &bytes)
    }

    /// Reads a plan from a memfd, if that is sealed.
    ///
    /// # Errors
    /// If it can still change, or holds no plan.
    pub fn unseal(fd: OwnedFd) -> io::Result<Self> {
        PackedPlan::unseal(fd)?.unpack()
    }

    fn user(&self) -> Option<u32> {
        self.identity.as_ref().map(|identity| identity.uid)
    }
}

/// A plan as it came, in one piece: the keeper holds it for as long as there is the service.
#[derive(Debug)]
pub(super) struct PackedPlan {
    bytes: Box<[u8]>,
    /// Who it is for; `None`: whoever the keeper is.
    pub(super) user: Option<u32>,
}

impl PackedPlan {
    /// Reads a plan from a memfd, if that is sealed.
    pub(super) fn unseal(fd: OwnedFd) -> io::Result<Self> {
        let mut packed = Self { bytes: unsealed(fd)?.into(), user: None };
        packed.user = packed.unpack()?.user();
        Ok(packed)
    }

    /// Packs a plan that has come in another form.
    pub(super) fn pack(plan: &Plan) -> io::Result<Self> {
        let bytes = postcard::to_stdvec(plan).map_err(io::Error::other)?.into();
        Ok(Self { bytes, user: plan.user() })
    }

    pub(super) fn unpack(&self) -> io::Result<Plan> {
        postcard::from_bytes(&self.bytes).map_err(io::Error::other)
    }
}

/// A memfd with these bytes that nobody can change any more.
///
/// # Errors
/// If the kernel has no memory for it, or the process is out of file descriptors.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file =
        File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes)?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, all)?;
    Ok(file.into())
}

/// The bytes of a sealed memfd.
///
/// # Errors
/// If it can still be changed, or cannot be read.
pub fn unsealed(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let needed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    if !rustix::fs::fcntl_get_seals(&fd)?.contains(needed) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the memfd is not sealed"));
    }
    let mut bytes = Vec::new();
    let mut file = File::from(fd);
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A plan as execve(2) takes it.
#[derive(Debug)]
pub(super) struct ReadyPlan {
    pub(super) program: CString,
    pub(super) args: CStrings,
    pub(super) env: CStrings,
    pub(super) cwd: CString,
    pub(super) identity: Option<Identity>,
    pub(super) umask: u32,
    pub(super) end_leftovers: bool,
    /// How many sockets are passed.
    pub(super) sockets: usize,
    /// The texts of the variables that hold the pid: one more if sockets are passed.
    pub(super) pids: Box<[PidText]>,
    /// By which the processes of the life are known.
    pub(super) tag: Rc<Tag>,
}

impl ReadyPlan {
    /// Prepares a plan for one life. Fails if a text holds a NUL byte.
    pub(super) fn new(plan: Plan, incarnation: u64) -> io::Result<Self> {
        let tag = Rc::new(Tag::new(&plan.env, incarnation));
        let mut env = plan.env;
        env.push(format!("{INCARNATION_VARIABLE}={incarnation}").into_bytes());
        let names = std::iter::once(MAIN_VARIABLE).chain((plan.sockets > 0).then_some(PID_VARIABLE));
        let pids: Box<[PidText]> = names.map(PidText::new).collect();
        Ok(Self {
            program: CString::new(plan.program)?,
            args: CStrings::new(&plan.args, &[])?,
            env: CStrings::new(&env, &pids)?,
            cwd: CString::new(plan.cwd)?,
            identity: plan.identity,
            umask: plan.umask,
            end_leftovers: plan.end_leftovers,
            sockets: plan.sockets as usize,
            pids,
            tag,
        })
    }
}

/// `NAME=…`, of which the new process writes the digits: it is the first to know them, and shares this memory.
#[derive(Debug)]
pub(super) struct PidText {
    text: [AtomicU8; PID_VARIABLE.len() + 1 + Self::DIGITS + 1],
    /// Where the digits begin.
    digits: usize,
}

const _: () = assert!(MAIN_VARIABLE.len() <= PID_VARIABLE.len());

impl PidText {
    /// As many as the largest pid has, and then some.
    pub(super) const DIGITS: usize = 10;

    fn new(name: &str) -> Self {
        let text = std::array::from_fn(|_| AtomicU8::new(0));
        for (place, byte) in text.iter().zip(name.bytes().chain([b'='])) {
            place.store(byte, Ordering::Relaxed);
        }
        Self { text, digits: name.len() + 1 }
    }

    /// Writes the digits, of which there are at most [`Self::DIGITS`]. Neither allocates nor locks.
    pub(super) fn set(&self, digits: impl Iterator<Item = u8>) {
        for (place, digit) in self.text.iter().skip(self.digits).zip(digits) {
            place.store(digit, Ordering::Relaxed);
        }
    }

    /// Where it is: in memory as at execve(2).
    fn address(&self) -> usize {
        self.text.as_ptr() as usize
    }
}

/// An array of C strings that ends with a null pointer.
#[derive(Debug)]
pub(super) struct CStrings {
    /// What `pointers` point to, each text with its NUL byte; never changed. One piece: there are two such arrays for
    /// each service, and an allocation for each text would take more than the texts do.
    texts: Box<[u8]>,
    pointers: Box<[usize]>,
}

impl CStrings {
    /// `last` are more texts, which somebody else owns for as long.
    fn new(texts: &[Vec<u8>], last: &[PidText]) -> io::Result<Self> {
        let mut piece = Vec::with_capacity(texts.iter().map(|text| text.len() + 1).sum());
        for text in texts {
            if text.contains(&0) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a text holds a NUL byte"));
            }
            piece.extend_from_slice(text);
            piece.push(0);
        }
        let piece = piece.into_boxed_slice();
        let mut next = piece.as_ptr() as usize;
        let mut pointers = Vec::with_capacity(texts.len() + last.len() + 1);
        for text in texts {
            pointers.push(next);
            next += text.len() + 1;
        }
        pointers.extend(last.iter().map(PidText::address));
        pointers.push(0);
        Ok(Self { texts: piece, pointers: pointers.into() })
    }

    /// The address of the array, as a system call takes it.
    pub(super) fn address(&self) -> usize {
        debug_assert!(self.texts.is_empty() || self.pointers[0] == self.texts.as_ptr() as usize);
        self.pointers.as_ptr() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            program: b"/bin/true".to_vec(),
            args: vec![b"true".to_vec()],
            env: vec![b"A=b".to_vec()],
            cwd: b"/".to_vec(),
            identity: Some(Identity { uid: 7, gid: 8, groups: vec![9] }),
            umask: 0o22,
            end_leftovers: true,
            sockets: 2,
        }
    }

    #[test]
    fn a_sealed_plan_is_read_as_it_was_written() {
        let fd = plan().seal().expect("a memfd");
        assert_eq!(Plan::unseal(fd).expect("a plan"), plan());
    }

    #[test]
    fn a_plan_that_can_still_change_is_refused() {
        let fd = rustix::fs::memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .expect("a memfd");
        Plan::unseal(fd).expect_err("it is not sealed");
    }

    #[test]
    fn the_texts_stand_one_behind_the_other() {
        let texts = CStrings::new(&[b"one".to_vec(), Vec::new(), b"two".to_vec()], &[]).expect("no NUL byte");
        assert_eq!(*texts.texts, *b"one\0\0two\0");
        let starts: Vec<_> =
            [0, 4, 5].map(|at| texts.texts.as_ptr() as usize + at).into_iter().chain([0]).collect();
        assert_eq!(*texts.pointers, *starts);
        assert_eq!(*CStrings::new(&[], &[]).expect("no NUL byte").pointers, [0]);
    }

    #[test]
    fn the_pid_becomes_part_of_the_environment() {
        let ready = ReadyPlan::new(plan(), 1).expect("a plan");
        let names = [b"DEFIB_PID=1234\0".as_slice(), b"LISTEN_PID=1234\0"];
        assert_eq!(ready.pids.len(), names.len());
        for (text, name) in ready.pids.iter().zip(names) {
            text.set(b"1234".iter().copied());
            let read: Vec<u8> = text.text.iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
            assert!(read.starts_with(name) && read.ends_with(&[0]), "{read:?}");
            assert!(ready.env.pointers.contains(&text.address()));
        }
        assert_eq!(ready.env.pointers.last(), Some(&0));
        let without = ReadyPlan::new(Plan { sockets: 0, ..plan() }, 1).expect("a plan");
        assert_eq!((without.pids.len(), without.env.pointers.len()), (1, ready.env.pointers.len() - 1));
    }

    #[test]
    fn a_nul_byte_is_an_error_and_no_shorter_argument() {
        let plan = Plan { args: vec![b"a\0b".to_vec()], ..plan() };
        ReadyPlan::new(plan, 1).expect_err("a NUL byte");
    }
}
