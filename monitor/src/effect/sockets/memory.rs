//! What a map of the kind sk_storage remembers of sockets, as sock_diag tells it: linux/inet_diag.h and
//! linux/sock_diag.h.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, Emitable, NlasIterator};

use super::snapshot::Memory;

/// `INET_DIAG_REQ_SK_BPF_STORAGES`: the attribute that names the maps.
const REQUEST: u16 = 2;

/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`: a map in it.
const MAP_FD: u16 = 1;

/// `INET_DIAG_SK_BPF_STORAGES`: the attribute of an answer.
pub(super) const KIND: u16 = 20;

/// `SK_DIAG_BPF_STORAGE`: a map in it.
const STORAGE: u16 = 1;

/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`: what that remembers.
const VALUE: u16 = 3;

/// The attribute by which the kernel tells with each socket what this map remembers of it. It looks the number up in the
/// process that asks, once.
pub(super) fn request(map: BorrowedFd<'_>) -> DefaultNla {
    let map = DefaultNla::new(MAP_FD, map.as_raw_fd().to_ne_bytes().to_vec());
    let mut bytes = vec![0; map.buffer_len()];
    map.emit(&mut bytes);
    DefaultNla::new(REQUEST, bytes)
}

/// What the one map remembers that was asked for; `None` if it remembers nothing of this socket, or something of another
/// size.
pub(super) fn parse(attribute: &[u8]) -> Option<Memory> {
    let inside = |bytes, kind| NlasIterator::new(bytes).flatten().find(|found| found.kind() == kind);
    let storage = inside(attribute, STORAGE)?;
    let value = inside(storage.value(), VALUE)?;
    value.value().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let nla = DefaultNla::new(kind, value.to_vec());
        let mut bytes = vec![0; nla.buffer_len()];
        nla.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_value_is_read_and_nothing_else() {
        let value: Memory = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let storage = [nla(2, &7_u32.to_ne_bytes()), nla(VALUE, &value)].concat();
        let answer = nla(STORAGE, &storage);
        assert_eq!(parse(&answer), Some(value));
        assert_eq!(parse(&nla(STORAGE, &nla(VALUE, &value[..16]))), None, "of another size");
        assert_eq!(parse(&[]), None);
        for cut in 0..answer.len() {
            parse(&answer[..cut]);
        }
    }
}
