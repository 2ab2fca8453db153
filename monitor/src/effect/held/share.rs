//! `hold_ports`: what makes a program that binds by itself share its port with the socket that is held of its last life.
//!
//! - A program at bind(2) in the service's cgroup sets SO_REUSEPORT on TCP sockets of the ports that the service names:
//!   the next life can bind while the duplicate of the last one's socket still listens. Only sockets of the same user
//!   share a port; all others are refused as ever.
//! - A program of the sockets that share a port moves what waits in the queue of one that is closed to another. Without it
//!   the kernel resets all of that, unless `net.ipv4.tcp_migrate_req` is set for the whole machine. Which socket gets a new
//!   connection it leaves to the kernel.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::bpf::{self, BIND4, BIND6, Insn, MIGRATE};

/// The first kernel whose bind programs may set SO_REUSEPORT.
const SINCE: (u32, u32) = (6, 1);

/// Why ports cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum NoShare {
    /// Of a kernel.
    #[error("it needs Linux 6.1, and this is {0}")]
    Kernel(String),
    /// Nowhere to attach the program to.
    #[error("it needs cgroup v2, and services have no cgroups here")]
    NoCgroup,
    /// The kernel has refused.
    #[error("{what}: {cause}; it needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_PTRACE")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
}

/// Lets whatever binds these ports in the cgroup share them, as long as what comes back is open.
///
/// # Errors
/// Where the kernel, or the rights of this process, do not allow it.
pub fn guard(cgroup: Option<BorrowedFd<'_>>, ports: &BTreeSet<u16>) -> Result<Vec<OwnedFd>, NoShare> {
    check_kernel()?;
    let cgroup = cgroup.ok_or(NoShare::NoCgroup)?;
    let program = at_bind(ports);
    let link = |kind| {
        let loaded = bpf::load(kind, &program);
        let loaded =
            loaded.map_err(|cause| NoShare::Refused { what: "load a program for bind(2)", cause })?;
        bpf::link(kind, loaded.as_fd(), cgroup)
            .map_err(|cause| NoShare::Refused { what: "attach it to the service's cgroup", cause })
    };
    Ok(vec![link(BIND4)?, link(BIND6)?])
}

/// Whether ports could be held here, by a trial of which nothing stays.
///
/// # Errors
/// If not, why.
pub fn check() -> Result<(), NoShare> {
    check_kernel()?;
    for kind in [BIND4, BIND6] {
        bpf::load(kind, &at_bind(&BTreeSet::from([1])))
            .map_err(|cause| NoShare::Refused { what: "load a program for bind(2)", cause })?;
    }
    Migration::load().map(drop)
}

fn check_kernel() -> Result<(), NoShare> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= SINCE { Ok(()) } else { Err(NoShare::Kernel(release.into_owned())) }
}

/// The program that moves what waits.
#[derive(Debug)]
pub struct Migration(OwnedFd);

impl Migration {
    /// Has the kernel take it.
    ///
    /// # Errors
    /// Where the kernel, or the rights of this process, do not allow it.
    pub fn load() -> Result<Self, NoShare> {
        // No choice of its own: the kernel chooses by the connection's hash.
        let pass = [op(MOV, 0, 0, 0, SK_PASS), op(EXIT, 0, 0, 0, 0)];
        let refused = |cause| NoShare::Refused { what: "load a program for shared ports", cause };
        bpf::load(MIGRATE, &pass).map(Self).map_err(refused)
    }

    /// Lets those who share a port with this socket inherit its queue.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn of(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        bpf::choose_by(socket, self.0.as_fd())
    }
}

const SK_PASS: i32 = 1;
const ALLOW: i32 = 1;

/// Operations: include/uapi/linux/bpf.h.
const MOV: u8 = 0xb7;
const MOV_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x62;
const JUMP_IF: u8 = 0x15;
const JUMP_UNLESS: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// `bpf_setsockopt`.
const SETSOCKOPT: i32 = 49;

/// Offsets in `struct bpf_sock_addr`.
const USER_PORT: i16 = 24;
const PROTOCOL: i16 = 36;

fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Insn {
    Insn { code, registers: to | from << 4, offset, value }
}

/// Sets SO_REUSEPORT where a TCP socket is bound to one of the ports, and allows every bind.
fn at_bind(ports: &BTreeSet<u16>) -> Vec<Insn> {
    let allow = [op(MOV, 0, 0, 0, ALLOW), op(EXIT, 0, 0, 0, 0)];
    let share = [
        op(STORE_WORD, 10, 0, -4, 1),
        op(MOV_REGISTER, 1, 6, 0, 0),
        op(MOV, 2, 0, 0, libc::SOL_SOCKET),
        op(MOV, 3, 0, 0, libc::SO_REUSEPORT),
        op(MOV_REGISTER, 4, 10, 0, 0),
        op(ADD, 4, 0, 0, -4),
        op(MOV, 5, 0, 0, 4),
        op(CALL, 0, 0, 0, SETSOCKOPT),
    ];
    let mut program = vec![
        op(MOV_REGISTER, 6, 1, 0, 0),
        op(LOAD_WORD, 2, 6, USER_PORT, 0),
        op(LOAD_WORD, 3, 6, PROTOCOL, 0),
        // To the first `allow`, over the ports.
        op(JUMP_UNLESS, 3, 0, ports.len() as i16, libc::IPPROTO_TCP),
    ];
    for (index, port) in ports.iter().enumerate() {
        // Over the ports that are left, and the first `allow`.
        let distance = ports.len() - 1 - index + allow.len();
        program.push(op(JUMP_IF, 2, 0, distance as i16, i32::from(port.to_be())));
    }
    program.extend(allow);
    program.extend(share);
    program.extend(allow);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_leads_to_one_of_two_ends() {
        for ports in [vec![80], vec![80, 443], (1..=64).collect()] {
            let program = at_bind(&ports.iter().copied().collect());
            let share = program.iter().position(|insn| insn.code == STORE_WORD).expect("the option is set");
            let mut told = Vec::new();
            for (at, insn) in program.iter().enumerate() {
                let target = (at as i64 + 1 + i64::from(insn.offset)) as usize;
                match insn.code {
                    JUMP_IF => {
                        assert_eq!(target, share);
                        told.push(u16::from_be(insn.value as u16));
                    }
                    JUMP_UNLESS => {
                        assert_eq!((target, program[target]), (share - 2, op(MOV, 0, 0, 0, ALLOW)))
                    }
                    _ => {}
                }
            }
            assert_eq!(told, ports);
            assert_eq!(program.last(), Some(&op(EXIT, 0, 0, 0, 0)));
        }
    }
}
