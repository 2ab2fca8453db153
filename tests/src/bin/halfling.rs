//! A binary that keeps, and whose daemon does not supervise: it becomes the real defib, `DEFIB_REAL`, for everything but
//! `--under-keeper`, where it ends with exit code 1. What an upgrade must be taken back from.
#![expect(clippy::disallowed_methods, clippy::exit, reason = "it executes another program, or ends")]

use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.iter().any(|word| word == "--under-keeper") {
        exit(1);
    }
    let real = std::env::var_os("DEFIB_REAL").expect("DEFIB_REAL");
    let error = Command::new(real).args(args).exec();
    panic!("{error}");
}
