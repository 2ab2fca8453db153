//! One file per tracepoint.

mod exec;
mod exit;
mod fork;
mod oom;
