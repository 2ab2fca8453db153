//! bpf(2), for programs of a dozen instructions that are made here: they differ with the ports of a service, and need no
//! object, no map and no type information.
//!
//! aya (0.14) loads programs out of objects only. It attaches to a cgroup too, but does not give the descriptor of the link
//! away, and that is what the keeper holds.

#![expect(unsafe_code, reason = "bpf(2) and setsockopt(2) take pointers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// An instruction as the kernel takes it: operation, registers (destination in the low bits), offset, value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    pub(super) code: u8,
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) value: i32,
}

/// What a program is for: its type, and where it is attached (`enum bpf_prog_type`, `enum bpf_attach_type`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    program: u32,
    attach: u32,
}

/// bind(2) of an IPv4 socket in a cgroup.
pub(super) const BIND4: Kind = Kind { program: 18, attach: 8 };
/// The same of an IPv6 socket.
pub(super) const BIND6: Kind = Kind { program: 18, attach: 9 };
/// Which of the sockets that share a port gets a connection, and what waits in the queue of one that is closed. Since
/// Linux 5.14.
pub(super) const MIGRATE: Kind = Kind { program: 21, attach: 40 };

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;

/// The helper that the bind programs call is for programs of such a licence only.
const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";

/// What `BPF_PROG_LOAD` takes; zeros for whatever comes after it.
#[repr(C)]
struct Load {
    program: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log: [u64; 2],
    version_and_flags: [u32; 2],
    name: [u8; 16],
    ifindex: u32,
    attach: u32,
}

/// What `BPF_LINK_CREATE` takes, likewise.
#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

/// Has the kernel verify a program, and take it.
///
/// # Errors
/// Those of bpf(2): `EPERM` without CAP_BPF and CAP_NET_ADMIN, `EINVAL` where the kernel does not know the kind.
pub(super) fn load(kind: Kind, insns: &[Insn]) -> io::Result<OwnedFd> {
    bpf(
        BPF_PROG_LOAD,
        &Load {
            program: kind.program,
            insn_count: insns.len() as u32,
            insns: insns.as_ptr().addr() as u64,
            license: LICENSE.as_ptr().addr() as u64,
            log: [0; 2],
            version_and_flags: [0; 2],
            name: *b"defib_hold\0\0\0\0\0\0",
            ifindex: 0,
            attach: kind.attach,
        },
    )
}

/// Runs a program for all of a cgroup and what is below it, as long as the link is open.
///
/// # Errors
/// Those of bpf(2).
pub(super) fn link(kind: Kind, program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
    let link = Link { program: number(program), target: number(cgroup), attach: kind.attach, flags: 0 };
    bpf(BPF_LINK_CREATE, &link)
}

/// Has the sockets that share a port with this one be chosen by a program.
///
/// # Errors
/// Those of setsockopt(2).
pub(super) fn choose_by(socket: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let number = program.as_raw_fd();
    // SAFETY: the option takes the number of a descriptor, an int, which lives until the call comes back.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_EBPF,
            (&raw const number).cast(),
            size_of_val(&number) as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A command that answers with a descriptor.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes as it is told of, and both structures are without gaps; the instructions and
    // the licence that `Load` points to are borrowed by the caller, and live until the call comes back.
    let number =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has made a descriptor, and it is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
}
