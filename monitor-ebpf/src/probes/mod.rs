//! One file per tracepoint.

mod deliver;
mod exec;
mod exit;
mod fork;
mod generate;
mod oom;
mod state;
