//! The eBPF programs of defib: one object for every kernel from 5.10 on.
//!
//! BTF tracepoints follow the keeper's children from fork to exit. Nothing is armed from user space after a process
//! runs: the fork program itself sees that the parent is the keeper. The programs stay within what kernel 5.10 can
//! verify: no atomics but add, no callbacks, no kfuncs, and one loop, which is short and bounded.
//!
//! Fork, exec, exit and the choice of the out-of-memory killer are the base. What tells who sent a signal, who listens on a
//! port and what tasks use is optional: each program is loaded by itself, and is left out where the kernel does not take it.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod blows;
mod connections;
mod emit;
mod feed;
mod maps;
mod probes;
mod signal;
mod slots;
mod task;

/// The verifier proves that no program reaches it; the compiler wants it all the same.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers such as `bpf_probe_read_kernel_str` are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
