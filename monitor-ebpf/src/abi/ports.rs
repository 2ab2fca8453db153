//! What is counted of the connections of ports.
//!
//! A place counts in one of two banks. User space tells all places by one word, [`ctrl::ROUND`](super::ctrl::ROUND), to
//! change over to the other: what stands in the bank before is then what was counted up to one instant. Nothing is ever
//! taken out of a bank, so both together are what was counted since the place is watched.

/// A place: a port in a network namespace. The key of `PORTS`, and of `BASES`, which is user space's own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    /// The inode number of the namespace.
    pub netns: u32,
    /// The port in host order.
    pub port: u16,
    /// Zero.
    pub padding: u16,
}

/// How many words the array `WATCHED` has.
///
/// It is kept in few cache lines, because every change of a socket looks into it: so ports share its bits, and whose bit is
/// set is looked up among the places.
pub const WATCHED_WORDS: u32 = 64;

/// The word in `WATCHED` that has the bit of a port, and that bit.
#[inline(always)]
pub const fn watched_bit(port: u16) -> (u32, u64) {
    ((port as u32 >> 6) % WATCHED_WORDS, 1 << (port & 63))
}

/// How many lengths of connections are told apart.
pub const LENGTHS: usize = 16;

/// The upper bounds of all lengths but the last, which has none, in nanoseconds.
pub const LENGTH_BOUNDS: [u64; LENGTHS - 1] = [
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    300_000_000_000,
    600_000_000_000,
    1_800_000_000_000,
    3_600_000_000_000,
];

/// What was counted while a bank was in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bank {
    /// Connections that became ESTABLISHED.
    pub opened: u64,
    /// Connections that ceased to be.
    pub closed: u64,
}

/// A value of `PORTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// What tells this watch of the place from others, also from earlier ones of the same place.
    pub number: u64,
    /// What was counted in each bank.
    pub banks: [Bank; 2],
    /// Connections that a reset has ended.
    pub resets: u64,
    /// Connections that closed whose begin was not seen.
    pub unknown: u64,
    /// How long the others were ESTABLISHED, in nanoseconds.
    pub length: u64,
    /// How many there were of each length; see [`LENGTH_BOUNDS`].
    pub lengths: [u64; LENGTHS],
}

/// A value of `BASES`: what a daemon has found out about a place, for the next one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortBase {
    /// The [`PortCounts::number`] that this is about.
    pub number: u64,
    /// How many connections there were before the place was watched, by what is known now.
    pub before: i64,
    /// Openings and closings that the probe did not see, because the kernel had skipped it.
    pub missed: Bank,
}

/// A key of `SEEN`: a socket that has changed its state during a round.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenKey {
    /// What sock_diag calls the socket.
    pub cookie: u64,
    /// The round: a program may be late, and write when the next one has begun.
    pub round: u64,
}

/// A value of `SEEN`: what the socket did first in the round.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The [`PortCounts::number`] of its place.
    pub number: u64,
    /// 1 if it has left ESTABLISHED, 0 if it has become that.
    pub left: u64,
}

/// What is remembered of a connection, with its socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The [`PortCounts::number`] of its place; what another watch has remembered counts for nothing.
    pub number: u64,
    /// When it became ESTABLISHED, in nanoseconds of `CLOCK_BOOTTIME`; zero if that was not seen.
    pub since: u64,
    /// One of `CONNECTION_*`.
    pub stage: u64,
}

/// [`Connection::stage`]: it is not counted yet.
pub const CONNECTION_NEW: u64 = 0;
/// [`Connection::stage`]: it is counted as open.
pub const CONNECTION_OPEN: u64 = 1;
/// [`Connection::stage`]: it is counted as closed.
pub const CONNECTION_CLOSED: u64 = 2;
/// [`Connection::stage`]: that it was reset is counted, too.
pub const CONNECTION_RESET: u64 = 3;

/// The one value of the array `PORT_STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Changes that found no room in `SEEN`: the round tells nothing.
    pub seen_full: u64,
    /// How often the kernel had no memory to remember what was counted of a connection: it may have been counted twice, or
    /// not at all.
    pub unremembered: u64,
    /// Changes for which the kernel had skipped the first of the two probes, and which the second has counted.
    pub recovered: u64,
}

/// Set in [`ctrl::ROUND`](super::ctrl::ROUND): the second bank is in use.
pub const ROUND_BANK: u64 = 1;
/// Set there: what sockets do is written into `SEEN`.
pub const ROUND_SEEING: u64 = 2;
/// The number of the round is the rest of the word.
pub const ROUND_SHIFT: u32 = 2;

const _: () = assert!(size_of::<PortKey>() == 8 && size_of::<PortCounts>() == 8 * (8 + LENGTHS));
const _: () = assert!(size_of::<PortBase>() == 32 && size_of::<SeenKey>() == 16 && size_of::<Seen>() == 16);
const _: () = assert!(size_of::<Connection>() == 24 && size_of::<PortStats>() == 24);
