//! The kernel's filter of sockets: a program of linux/inet_diag.h.

use std::collections::BTreeSet;

use netlink_packet_core::DefaultNla;

/// A filter of more ranges of ports than this is not given to the kernel, which would try all of them on each socket.
const MAX_RANGES: usize = 256;

/// `INET_DIAG_REQ_BYTECODE` of linux/inet_diag.h: the attribute with the filter.
const REQ_BYTECODE: u16 = 1;

/// The attribute by which the kernel tells only of sockets with one of these ports at this end; `None`: there are none, or
/// too many ranges of them.
pub(super) fn of(ports: &BTreeSet<u16>) -> Option<DefaultNla> {
    let ranges = Some(ranges(ports)).filter(|ranges| (1..=MAX_RANGES).contains(&ranges.len()))?;
    Some(DefaultNla::new(REQ_BYTECODE, bytecode(&ranges)))
}

/// Ports as ranges, first and last.
pub(super) fn ranges(ports: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    ranges
}

/// A program for the kernel's filter that accepts sockets with a port in one of these ranges at this end. For each range
/// there are two comparisons, each `{ op, yes: 8, no } { port }`, and a jump behind the end, which accepts. A jump that
/// goes another 4 bytes beyond rejects: that is where the last comparisons lead.
fn bytecode(ranges: &[(u16, u16)]) -> Vec<u8> {
    const S_GE: u8 = 2;
    const S_LE: u8 = 3;
    const JMP: u8 = 1;
    /// Two comparisons and a jump.
    const UNIT: u16 = 20;
    let mut program = Vec::new();
    let count = u16::try_from(ranges.len()).unwrap_or(u16::MAX);
    for (behind, (first, last)) in (0..count).rev().zip(ranges) {
        // From the first comparison to the next unit. Behind the last unit, which has no jump, that is 4 too far.
        for (op, port, next) in [(S_GE, first, UNIT), (S_LE, last, UNIT - 8)] {
            program.extend([op, 8]);
            program.extend(next.to_ne_bytes());
            program.extend([0, 0]);
            program.extend(port.to_ne_bytes());
        }
        // To be past the last comparison is to be accepted.
        if behind > 0 {
            // From the jump to the end: itself, the whole units behind it, and the last one, which has no jump.
            let end = 4 + (behind - 1) * UNIT + (UNIT - 4);
            program.extend([JMP, 4]);
            program.extend(end.to_ne_bytes());
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel runs it: each step goes on by `yes` or by `no`; at the end it accepts, 4 bytes behind it rejects.
    fn accepts(program: &[u8], port: u16) -> bool {
        let number = |at: usize| u16::from_ne_bytes([program[at], program[at + 1]]);
        let mut at = 0;
        while at < program.len() {
            let (op, yes, no) = (program[at], program[at + 1], number(at + 2));
            let holds = match op {
                1 => false,
                2 => port >= number(at + 6),
                3 => port <= number(at + 6),
                _ => panic!("{op}"),
            };
            at += usize::from(if holds { u16::from(yes) } else { no });
        }
        assert!(at == program.len() || at == program.len() + 4, "{at}");
        at == program.len()
    }

    #[test]
    fn ports_are_accepted_by_their_ranges() {
        for ports in [&[80][..], &[1, 2, 3, 65535], &[22, 80, 81, 90, 8000, 8001, 8002], &[65534, 65535]] {
            let ports: BTreeSet<u16> = ports.iter().copied().collect();
            let program = bytecode(&ranges(&ports));
            for port in 0..=u16::MAX {
                assert_eq!(accepts(&program, port), ports.contains(&port), "{port} of {ports:?}");
            }
        }
    }

    #[test]
    fn what_is_scattered_is_left_to_who_asks() {
        let scattered = |count: u16| (0..count).map(|port| 2 * port).collect::<BTreeSet<u16>>();
        assert!(
            of(&scattered(256)).is_some() && of(&scattered(257)).is_none() && of(&BTreeSet::new()).is_none()
        );
        assert_eq!(ranges(&(1..=4096).collect()), [(1, 4096)]);
    }
}
