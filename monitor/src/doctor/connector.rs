//! Asks the proc connector for its events and, once it has answered, to stop. Documentation/driver-api/connector.rst and
//! include/uapi/linux/cn_proc.h.

use std::io;
use std::process;
use std::time::Duration;

use rustix::net::netlink::CONNECTOR;

use super::netlink::{DONE, HEADER, Netlink, message, word};
use super::row::{Group, Row};

const GROUP: Group = Group::Sources;

/// How long the kernel may take; it answers within the send.
const PATIENCE: Duration = Duration::from_millis(300);

/// The connector's number for process events, and their multicast group.
const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;

const LISTEN: u32 = 1;
const IGNORE: u32 = 2;

/// Bytes of `struct cn_msg`, and the place of its `ack` in a datagram. (Its `seq` counts the events of a CPU.)
const CN_MSG: usize = 20;
const ACK: usize = HEADER + 12;

/// Places in `struct proc_event` behind them: what, and the error of an acknowledgement.
const WHAT: usize = HEADER + CN_MSG;
const ERRNO: usize = HEADER + CN_MSG + 16;

/// What it costs, as measured: a fork, exec and exit with and without a listener.
const COST: &str = "costs every fork, exec and exit of the host about 30 %";

/// Whether the kernel would tell.
pub(super) fn row() -> Row {
    let name = "proc-connector";
    let fallback = "needed only where there is no eBPF";
    match probe() {
        Ok(true) => GROUP.ok(name, format!("answers; in use it {COST}")),
        Ok(false) => GROUP.missing(
            name,
            "silent: it answers in the host's pid and user namespaces only",
            format!("run defib in those; {fallback}"),
        ),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => GROUP.missing(
                name,
                "this user may not listen",
                format!("run defib as root or grant CAP_NET_ADMIN; {fallback}"),
            ),
            Some(libc::ECONNREFUSED) => GROUP.missing(
                name,
                "it is not in this network namespace",
                format!("run defib in the host's; {fallback}"),
            ),
            Some(libc::EPROTONOSUPPORT) => GROUP.missing(
                name,
                "this kernel has none",
                format!("a kernel with CONFIG_PROC_EVENTS; {fallback}"),
            ),
            _ => GROUP.missing(name, format!("it cannot be used: {error}"), ""),
        },
    }
}

/// Whether it acknowledges a listener; silence is no error.
fn probe() -> io::Result<bool> {
    let socket = Netlink::open(CONNECTOR, CN_IDX_PROC)?;
    let mark = process::id();
    socket.send(&request(mark, LISTEN))?;
    let outcome = socket.wait(PATIENCE, |datagram| acknowledgement(datagram, mark));
    // Also after silence: a listener that leaves without a word is counted as one for ever.
    socket.send(&request(mark, IGNORE)).ok();
    match outcome? {
        None => Ok(false),
        Some(0) => Ok(true),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn request(mark: u32, operation: u32) -> Vec<u8> {
    let mut payload = Vec::new();
    // The sequence number, what it acknowledges, and the length of the data with flags.
    for field in [CN_IDX_PROC, CN_VAL_PROC, 0, mark] {
        payload.extend(field.to_ne_bytes());
    }
    payload.extend(4_u16.to_ne_bytes());
    payload.extend(0_u16.to_ne_bytes());
    payload.extend(operation.to_ne_bytes());
    message(DONE, 0, &payload)
}

/// The error number in the acknowledgement of our request, which counts on from the `ack` that it came with. Everybody
/// who listens gets everybody's.
fn acknowledgement(datagram: &[u8], mark: u32) -> Option<i32> {
    let ours = word(datagram, WHAT)? == 0 && word(datagram, ACK)? == mark.wrapping_add(1);
    ours.then(|| word(datagram, ERRNO)).flatten().map(u32::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram with this `what`, acknowledgement and error.
    fn datagram(ack: u32, what: u32, errno: u32) -> Vec<u8> {
        let mut payload = Vec::new();
        for field in [CN_IDX_PROC, CN_VAL_PROC, 4711, ack, 40, what, 0, 0, 0, errno] {
            payload.extend(u32::to_ne_bytes(field));
        }
        message(DONE, 0, &payload)
    }

    #[test]
    fn only_the_answer_to_our_request_counts() {
        assert_eq!(acknowledgement(&datagram(8, 0, 0), 7), Some(0));
        assert_eq!(acknowledgement(&datagram(8, 0, 1), 7), Some(libc::EPERM));
        assert_eq!(acknowledgement(&datagram(9, 0, 0), 7), None, "another listener's");
        assert_eq!(acknowledgement(&datagram(0, 2, 0), 7), None, "an event");
        let whole = datagram(8, 0, 0);
        for length in 0..whole.len() {
            assert_eq!(acknowledgement(&whole[..length], 7), None, "{length}");
        }
        assert_eq!(request(7, LISTEN).len(), 40);
    }
}
