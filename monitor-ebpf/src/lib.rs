//! What the eBPF programs and user space say to each other: the layout of every map value, ring record and global.
//!
//! The kernel half is `main.rs` and the modules beside it, the user half is `source/ebpf` of the package `defib`.
//! Everything here is `#[repr(C)]`, made of fixed-width integers without implicit padding, and its size is checked
//! by the compiler. User space decodes integers by `match`; nothing is ever reborn as a Rust enum from bytes.

#![no_std]
#![forbid(unsafe_code)]

mod abi;

pub use abi::*;
