//! A defib that keeps as well as any, and whose daemon ends before it supervises: what an upgrade is taken back from.

use std::ffi::OsString;
use std::process::{ExitCode, exit};

use defib::keeper::handover;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    if has("--under-keeper") {
        exit(1);
    }
    if has(handover::CHECK) {
        return defib::daemon::check_handover();
    }
    let at = args.iter().position(|word| word == handover::OPTION).expect("a hand-over");
    let number = args[at + 1].to_str().and_then(|number| number.parse().ok()).expect("a number");
    handover::forget(&mut args);
    args.push("--under-keeper".into());
    defib::keeper::run(args, Some(number))
}
