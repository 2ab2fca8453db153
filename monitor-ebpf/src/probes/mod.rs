//! One file per tracepoint, and one for an iterator.

mod deliver;
mod exec;
mod exit;
mod fork;
mod generate;
mod oom;
mod state;
mod task;
