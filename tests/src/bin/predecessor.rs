//! Plays the keeper of an earlier version: makes what a committed hand-over text tells of, and executes defib in its place.
//!
//! `predecessor TEXT FOLDER DEFIB WORDS…`: the children's pids go into FOLDER/pids, by slot.
#![expect(unsafe_code, reason = "descriptors get the numbers that the text names")]
#![expect(
    clippy::disallowed_methods,
    clippy::zombie_processes,
    reason = "it makes children, and becomes another program, which waits for them"
)]

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

fn main() {
    let mut words = std::env::args_os().skip(1);
    let text = fs::read(words.next().expect("a text")).expect("the text");
    let folder = PathBuf::from(words.next().expect("a folder"));
    let defib = words.next().expect("defib");
    let mut text: Value = serde_json::from_slice(&text).expect("JSON");

    // Not to be ended, and without the ledger, whose form is nobody's business here.
    text["ending"] = false.into();
    // Not every root may raise a limit.
    text["nofile"] = Value::Null;
    text["held"].as_object_mut().expect("what is held").remove("log-ledger");
    let lock = File::create(folder.join("lock")).expect("a file");
    place(&lock.into(), &text["held"]["lock"]);
    place(&File::open(&defib).expect("defib").into(), &text["previous"]);
    let mut pids = String::new();
    for slot in text["slots"].as_array_mut().expect("slots") {
        let number = slot["slot"].as_u64().expect("a number");
        slot["memo"] = memo(&format!("it-{number}")).into();
        let state = slot["state"]["is"].as_str().expect("a state").to_owned();
        if state == "starting" || state == "living" {
            let life = &mut slot["state"]["life"];
            life["service"] = format!("DEFIB_SERVICE=it-{number}").into();
            let child = Command::new("sleep").arg("1000").process_group(0).spawn().expect("a child");
            life["pid"] = child.id().into();
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
            place(&pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd"), &slot["state"]["pidfd"]);
            pids.push_str(&format!("{number} {}\n", child.id()));
        }
        if state == "starting" {
            // Whose other end has been closed: the program has been executed.
            place(&rustix::pipe::pipe().expect("a pipe").0, &slot["state"]["status"]);
        }
        if let Some(fds) = slot["pipes"]["fds"].as_array() {
            let pipes = [0, 1].map(|_| rustix::pipe::pipe().expect("a pipe"));
            for (index, (daemons, services)) in pipes.iter().enumerate() {
                place(services, &fds[index]);
                place(daemons, &fds[2 + index]);
                place(&memfd(), &fds[4 + index]);
            }
        }
        if let Some(fds) = slot["sockets"]["fds"].as_array() {
            place(&UnixListener::bind(folder.join("socket")).expect("a socket").into(), &fds[0]);
        }
        if let Value::Object(plan) = &mut slot["plan"] {
            // As nobody else: the next life is to be able to run here.
            plan.insert("identity".into(), Value::Null);
        }
    }
    fs::write(folder.join("pids.new"), pids).expect("a file");
    fs::rename(folder.join("pids.new"), folder.join("pids")).expect("a file");

    let mut handover = File::from(memfd());
    handover.write_all(text.to_string().as_bytes()).expect("a memfd");
    handover.rewind().expect("a memfd");
    place(&handover.into(), &json!(500));
    panic!("{}", Command::new(defib).args(words).args(["--handover", "500"]).exec());
}

/// What a daemon of another version has left: its name is known, and nothing else.
fn memo(service: &str) -> String {
    let bytes = [&[1, service.len() as u8], service.as_bytes(), &[0xff, 1, 2, 3]].concat();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn memfd() -> OwnedFd {
    rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).expect("a memfd")
}

/// Gives a descriptor a number, under which it stays open over execve.
fn place(fd: &OwnedFd, number: &Value) {
    let number = number.as_i64().and_then(|number| RawFd::try_from(number).ok()).expect("a number");
    // SAFETY: no memory is involved; nothing in this program has such high numbers.
    let placed = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    assert_eq!(placed, number, "{}", std::io::Error::last_os_error());
}
