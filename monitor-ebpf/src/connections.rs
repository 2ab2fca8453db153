//! Connections of watched ports, counted as their sockets become ESTABLISHED and cease to be.
//!
//! A socket remembers what was counted of it, so the same change is counted once however often a program sees it.
//!
//! Most of what this costs is memory that is not in the cache, and what the kernel allocates for a socket to remember by. So
//! a change that is not counted is told by as few looks as can be, those first that see least: a port that is not watched
//! costs the arguments, the port and a word of a small bitmap.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{
    CONNECTION_CLOSED, CONNECTION_NEW, CONNECTION_OPEN, CONNECTION_RESET, Connection, LENGTH_BOUNDS, LENGTHS,
    PortBase, PortCounts, PortKey, PortStats, ROUND_BANK, ROUND_SEEING, ROUND_SHIFT, Seen, SeenKey,
    WATCHED_WORDS, ctrl, watched_bit,
};

use crate::emit::now;
use crate::maps::{add, fact, offset, set};
use crate::task::{field, number, read};

const IPPROTO_TCP: u16 = 6;

/// include/net/tcp_states.h.
const ESTABLISHED: u32 = 1;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
/// FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and CLOSING: the connection was ESTABLISHED, and is not closed yet.
const CLOSING: u32 = 1 << 4 | 1 << 5 | 1 << CLOSE_WAIT | 1 << 9 | 1 << 11;

/// include/uapi/asm-generic/errno.h.
const EPIPE: u32 = 32;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const EEXIST: i32 = 17;

/// One bit for ports that are watched in any namespace, and for those that share it: most ports are not, and cost no more
/// than this.
#[map]
static WATCHED: Array<u64> = Array::with_max_entries(WATCHED_WORDS, 0);

/// The change at a watched port that the first program has seen on this CPU, until the second has seen it, too.
#[map]
static LAST: PerCpuArray<Last> = PerCpuArray::with_max_entries(1, 0);

/// The places that are watched. User space adds and removes them, and changes nothing in them.
#[map]
static PORTS: HashMap<PortKey, PortCounts> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// What one daemon leaves to the next about the places. It is with the rest, so that it is pinned with the rest.
#[map]
static BASES: HashMap<PortKey, PortBase> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// What sockets did first in a round.
#[map]
static SEEN_SOCKETS: HashMap<SeenKey, Seen> = HashMap::with_max_entries(16 * 1024, BPF_F_NO_PREALLOC);

/// What is remembered with a socket: it goes when the socket does.
#[btf_map]
static CONNECTIONS: SkStorage<Connection> = SkStorage::new();

#[map]
static PORT_STATS: Array<PortStats> = Array::with_max_entries(1, 0);

/// Whether a change of state is one that is counted.
#[inline(always)]
pub(crate) fn concerns(old: u32, new: u32) -> bool {
    (new == ESTABLISHED) != (old == ESTABLISHED) || new == CLOSE && was_closing(old)
}

#[inline(always)]
fn was_closing(old: u32) -> bool {
    1u32.wrapping_shl(old) & CLOSING != 0
}

/// A change of state of a socket, as the arguments of the tracepoint tell it.
pub(crate) struct Change<'a> {
    pub(crate) ctx: &'a BtfTracePointContext,
    pub(crate) old: u32,
    pub(crate) new: u32,
}

/// Which of the two programs on the tracepoint runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    First,
    /// For changes of which the kernel has skipped the first program.
    Second,
}

/// A change of state. Zeroes: none.
#[derive(Clone, Copy)]
struct Last {
    /// Its address, which is a pointer to the verifier.
    socket: u64,
    states: u64,
}

impl Change<'_> {
    /// Counts it, if its place is watched.
    #[inline(always)]
    pub(crate) fn count(&self, pass: Pass) {
        let (old, new) = (self.old, self.new);
        let reset = new == CLOSE && self.is_reset();
        if old != ESTABLISHED && new != ESTABLISHED && !reset {
            return;
        }
        let port = self.port();
        // Where connections cannot be counted, no port is watched: the verifier need not see what comes after.
        if !is_watched(port) || fact!(counts_connections) == 0 {
            return;
        }
        match pass {
            Pass::First => self.leave(),
            Pass::Second if self.was_left() => return,
            Pass::Second => {}
        }
        let Some(counts) = self.counts(port) else { return };
        // SAFETY: the value stays allocated until this program returns (RCU), and user space never changes this.
        let watch = unsafe { (*counts).number };
        let connection = self.remembered(watch);
        if connection.is_null() {
            stats(|stats| &raw mut stats.unremembered);
            // Nobody can tell whether the first program has counted it: mostly it has.
            if pass == Pass::Second {
                return;
            }
        }
        if new == ESTABLISHED {
            if advance(connection, CONNECTION_OPEN) {
                begin(connection);
                self.note(counts, watch, false);
                recovered(pass);
            }
            return;
        }
        if old == ESTABLISHED && advance(connection, CONNECTION_CLOSED) {
            end(connection, counts);
            self.note(counts, watch, true);
            recovered(pass);
        }
        if reset && advance(connection, CONNECTION_RESET) {
            // SAFETY: as above.
            add(unsafe { &raw mut (*counts).resets }, 1);
        }
    }

    /// The port at this end.
    #[inline(always)]
    fn port(&self) -> u16 {
        let num_at = offset!(sock_num);
        // SAFETY: the first argument is a `struct sock *` on every kernel from 5.10 on.
        let port: u16 = unsafe { field(self.ctx.arg(0), num_at) };
        if port != 0 {
            return port;
        }
        // It has been given back: one socket in eight closes like that.
        u16::from_be(read(number(self.ctx, 0) + offset!(inet_sport) as u64))
    }

    /// Tells the second program that the first has run.
    #[inline(always)]
    fn leave(&self) {
        let Some(last) = LAST.get_ptr_mut(0) else { return };
        // SAFETY: the map has this entry. Volatile: the other program reads it.
        unsafe {
            core::ptr::write_volatile(&raw mut (*last).socket, self.ctx.arg(0));
            core::ptr::write_volatile(&raw mut (*last).states, self.states());
        }
    }

    /// Whether the first program has told so. Only for speed: who is told nothing, because a change in an interrupt has come
    /// between the two, asks the socket.
    ///
    /// It is told once. What the kernel has kept from the second program stays here, and could be taken for a change of the
    /// same socket to the same state that it keeps from the first one: user space looks at the sockets anew where something was
    /// kept from both.
    #[inline(always)]
    fn was_left(&self) -> bool {
        let Some(last) = LAST.get_ptr_mut(0) else { return false };
        // SAFETY: as above. One comparison after the other, by the second load: both as one would be calculated with a
        // pointer, which the verifier forbids.
        unsafe {
            if core::ptr::read_volatile(&raw const (*last).states) != self.states()
                || core::ptr::read_volatile(&raw const (*last).socket) != self.ctx.arg(0)
            {
                return false;
            }
            core::ptr::write_volatile(&raw mut (*last).states, 0);
        }
        true
    }

    /// Both states in one word. Never zero: no state is.
    #[inline(always)]
    fn states(&self) -> u64 {
        u64::from(self.old) << 32 | u64::from(self.new)
    }

    /// The counters of its place.
    #[inline(always)]
    fn counts(&self, port: u16) -> Option<*mut PortCounts> {
        let (protocol_at, net_at, inum_at) = (offset!(sock_protocol), offset!(sock_net), offset!(net_inum));
        // SAFETY: the first argument is a `struct sock *` on every kernel from 5.10 on.
        let protocol: u16 = unsafe { field(self.ctx.arg(0), protocol_at) };
        if protocol != IPPROTO_TCP {
            return None;
        }
        // SAFETY: as above, and the namespace is a `struct net *`, which a socket keeps.
        let netns = unsafe {
            let net: *const u8 = field(self.ctx.arg(0), net_at);
            field(net, inum_at)
        };
        PORTS.get_ptr_mut(PortKey { netns, port, padding: 0 })
    }

    /// What is remembered of the connection; what an earlier watch has remembered is forgotten. Null if there is no memory.
    #[inline(always)]
    fn remembered(&self, watch: u64) -> *mut Connection {
        let map = (&raw const CONNECTIONS).cast_mut().cast();
        let socket = self.ctx.arg::<*mut core::ffi::c_void>(0);
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: the map is one of sockets, and the argument a socket.
        let found = unsafe { bpf_sk_storage_get(map, socket, core::ptr::null_mut(), create) };
        let found: *mut Connection = found.cast();
        if !found.is_null() {
            // SAFETY: the kernel frees the value after this program has returned; the socket is locked, so nobody else
            // writes it.
            unsafe {
                if (*found).number != watch {
                    (*found).number = watch;
                    (*found).since = 0;
                    // Volatile: the compiler would call a function for two zeroes side by side.
                    core::ptr::write_volatile(&raw mut (*found).stage, CONNECTION_NEW);
                }
            }
        }
        found
    }

    /// Counts a change in the bank that is in use, and writes it down if that is asked for. Both by one look at the word:
    /// a change belongs to the time before a round begins, or after.
    #[inline(always)]
    fn note(&self, counts: *mut PortCounts, watch: u64, left: bool) {
        let word = set(ctrl::ROUND);
        if word & ROUND_SEEING != 0 {
            // SAFETY: the argument is a socket.
            let cookie = unsafe { bpf_get_socket_cookie(self.ctx.arg(0)) };
            let key = SeenKey { cookie, round: word >> ROUND_SHIFT };
            let seen = Seen { number: watch, left: left.into() };
            match SEEN_SOCKETS.insert(key, seen, BPF_NOEXIST.into()) {
                Ok(()) => {}
                // What it did first counts.
                Err(error) if error == -EEXIST => {}
                Err(_) => stats(|stats| &raw mut stats.seen_full),
            }
        }
        // SAFETY: the value stays allocated until this program returns (RCU).
        let bank = unsafe { &raw mut (*counts).banks[(word & ROUND_BANK) as usize] };
        // SAFETY: as above.
        add(unsafe { if left { &raw mut (*bank).closed } else { &raw mut (*bank).opened } }, 1);
    }

    /// Whether a connection that is closed now was reset. It is closed without a reset when it has timed out, and when
    /// the other end has confirmed that this one has closed.
    #[inline(always)]
    fn is_reset(&self) -> bool {
        let at = offset!(sock_err);
        // SAFETY: the first argument is a `struct sock *` on every kernel from 5.10 on.
        let error: u32 = unsafe { field(self.ctx.arg(0), at) };
        match self.old {
            // Nobody has said anything: this end throws the connection away, and tells the other so.
            ESTABLISHED | CLOSE_WAIT => matches!(error, 0 | EPIPE | ECONNRESET | ECONNABORTED),
            _ => error == ECONNRESET,
        }
    }
}

/// Whether a port is watched, or may be.
#[inline(always)]
fn is_watched(port: u16) -> bool {
    let (word, bit) = watched_bit(port);
    // SAFETY: the array has this entry. Volatile: user space writes it.
    WATCHED.get(word).is_some_and(|words| unsafe { core::ptr::read_volatile(words) } & bit != 0)
}

/// Takes a connection a stage further. False if it has got there already.
#[inline(always)]
fn advance(connection: *mut Connection, stage: u64) -> bool {
    if connection.is_null() {
        return true;
    }
    // SAFETY: the value stays allocated until this program returns, and the socket is locked.
    unsafe {
        // From CLOSED a socket may be connected once more.
        let known = (*connection).stage;
        if known == stage || stage == CONNECTION_CLOSED && known == CONNECTION_RESET {
            return false;
        }
        (*connection).stage = stage;
    }
    true
}

#[inline(always)]
fn begin(connection: *mut Connection) {
    if !connection.is_null() {
        // SAFETY: as above.
        unsafe { (*connection).since = now() };
    }
}

/// Counts how long a connection was ESTABLISHED.
#[inline(always)]
fn end(connection: *mut Connection, counts: *mut PortCounts) {
    // SAFETY: as above.
    let since = if connection.is_null() { 0 } else { unsafe { (*connection).since } };
    if since == 0 {
        // SAFETY: the value stays allocated until this program returns (RCU).
        add(unsafe { &raw mut (*counts).unknown }, 1);
        return;
    }
    let length = now().saturating_sub(since);
    let index = place(length) & (LENGTHS - 1);
    // SAFETY: as above, and the index is one of the array's.
    unsafe {
        add(&raw mut (*counts).length, length as i64);
        add((&raw mut (*counts).lengths).cast::<u64>().add(index), 1);
    }
}

/// The place of a length among the bounds, by four comparisons.
#[inline(always)]
fn place(length: u64) -> usize {
    let mut index = 0;
    if length > LENGTH_BOUNDS[7] {
        index = 8;
    }
    if length > LENGTH_BOUNDS[index + 3] {
        index += 4;
    }
    if length > LENGTH_BOUNDS[index + 1] {
        index += 2;
    }
    if length > LENGTH_BOUNDS[index] {
        index += 1;
    }
    index
}

#[inline(always)]
fn recovered(pass: Pass) {
    if pass == Pass::Second {
        stats(|stats| &raw mut stats.recovered);
    }
}

#[inline(always)]
fn stats(counter: impl FnOnce(&mut PortStats) -> *mut u64) {
    if let Some(stats) = PORT_STATS.get_ptr_mut(0) {
        // SAFETY: the array has this entry.
        add(counter(unsafe { &mut *stats }), 1);
    }
}
