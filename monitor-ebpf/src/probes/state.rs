//! `inet_sock_set_state(sock, old, new)`: a TCP socket begins or ceases to listen.
//!
//! The begin runs in the process that called listen(2), before the socket can be reached. The end runs in whoever closes
//! the socket last, mostly the process that dies and is not tracked any more: so the socket itself is remembered.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{Listening, NAME_LEN, PortEvent, Tracked, kind};

use crate::connections::{Change, Pass, concerns};
use crate::emit::{Wake, emit, event, now};
use crate::maps::{count, offset, suppressed, tracked};
use crate::slots::{give_place, may_tell, take_place};
use crate::task::{current_name, field, number, read, tracked_current};

/// include/net/tcp_states.h.
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;
const IPPROTO_TCP: u16 = 6;

/// The sockets of services that listen, by address.
#[map]
static LISTENERS: HashMap<u64, Listening> = HashMap::with_max_entries(16 * 1024, BPF_F_NO_PREALLOC);

#[btf_tracepoint(function = "inet_sock_set_state")]
fn on_state(ctx: BtfTracePointContext) -> i32 {
    let (old, new) = (ctx.arg::<u64>(1) as u32, ctx.arg::<u64>(2) as u32);
    if concerns(old, new) {
        Change { ctx: &ctx, old, new }.count(Pass::First);
        return 0;
    }
    let begins = new == LISTEN && old != LISTEN;
    // A connection is a clone of the socket that it came in by, and leaves LISTEN for another state.
    let ends = old == LISTEN && new == CLOSE;
    if !begins && !ends {
        return 0;
    }
    let (protocol_at, num_at, net_at, inum_at) =
        (offset!(sock_protocol), offset!(sock_num), offset!(sock_net), offset!(net_inum));
    // SAFETY: the first argument is a `struct sock *` on every kernel from 5.10 on.
    let protocol: u16 = unsafe { field(ctx.arg(0), protocol_at) };
    if protocol != IPPROTO_TCP {
        return 0;
    }
    let socket = number(&ctx, 0);
    if begins {
        // SAFETY: as above, and the namespace is a `struct net *`, which a socket keeps.
        let (port, netns) = unsafe {
            let net: *const u8 = field(ctx.arg(0), net_at);
            (field(ctx.arg(0), num_at), field(net, inum_at))
        };
        begin(socket, port, netns);
    } else {
        end(socket);
    }
    0
}

/// What was skipped of [`on_state`] is counted here: a program that runs is not run for what interrupts it, and sockets
/// change their state in interrupts.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn on_state_again(ctx: BtfTracePointContext) -> i32 {
    let (old, new) = (ctx.arg::<u64>(1) as u32, ctx.arg::<u64>(2) as u32);
    if concerns(old, new) {
        Change { ctx: &ctx, old, new }.count(Pass::Second);
    }
    0
}

#[inline(always)]
fn begin(socket: u64, port: u16, netns: u32) {
    count(|stats| stats.host[kind::LISTEN as usize] += 1);
    let Some((tgid, entry)) = tracked_current() else { return };
    let at = now();
    if !may_tell(&entry, at) {
        return;
    }
    if !take_place(&entry) {
        suppressed();
        return;
    }
    let Tracked { start, slot, flags } = entry;
    let listening = Listening { start, tgid, slot, flags, netns };
    if LISTENERS.insert(socket, &listening, BPF_ANY.into()).is_err() {
        give_place(slot);
        count(|stats| stats.listeners_full += 1);
        return;
    }
    let event = event(kind::LISTEN, at, tgid, &entry, current_name());
    emit(kind::LISTEN, PortEvent { event, netns, port, padding: 0 }, Wake::Now);
}

/// Every end is told whose begin was told: there are no more of them, and nobody is left with a port that is closed.
#[inline(always)]
fn end(socket: u64) {
    count(|stats| stats.host[kind::UNLISTEN as usize] += 1);
    let Some(listening) = LISTENERS.get_ptr(socket) else { return };
    // SAFETY: the entry stays allocated until this program returns (RCU).
    let Listening { start, tgid, slot, flags, netns } = unsafe { *listening };
    if LISTENERS.remove(socket).is_err() {
        return;
    }
    give_place(slot);
    let entry = Tracked { start, slot, flags };
    // Not the number that the socket is bound to: that has been given back if the kernel had chosen it.
    let port = u16::from_be(read(socket + offset!(inet_sport) as u64));
    // A main process that is not tracked any more has ended. Its end is about to be reported, or has been, where a
    // descendant has kept the socket.
    let ended = entry.is_reported() && tracked(tgid, start).is_none();
    let event = event(kind::UNLISTEN, now(), tgid, &entry, [0; NAME_LEN]);
    let wake = if ended { Wake::IfCaughtUp } else { Wake::Now };
    emit(kind::UNLISTEN, PortEvent { event, netns, port, padding: 0 }, wake);
}
