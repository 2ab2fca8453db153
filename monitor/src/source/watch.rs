//! Descriptors that tokio polls for the sources.

#![expect(unsafe_code, reason = "tokio takes the owner's word that a polled descriptor stays open")]

use std::io;
use std::os::fd::OwnedFd;

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets the runtime of this thread poll `fd` for reading.
pub(super) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is the same one each time and stays open until it is dropped, which the result does
    // only after it has taken it out of the poll set.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// The same of a ring of the eBPF programs.
pub(super) fn readable_ring(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, returns the same one each time and closes it when it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}
