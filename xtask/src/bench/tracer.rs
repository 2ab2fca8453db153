//! When the kernel did what a restart is made of: static tracepoints, read from an instance of tracefs of our own.
//!
//! The kernel writes its events into a ring buffer which is read after the restart: nobody is woken on the way, and what
//! a CPU pays is well below a microsecond for each event, of which filters leave our own only. The stamps are of
//! `CLOCK_MONOTONIC`, the clock of bench and victims, in whole microseconds. `sched_switch` would tell when a thread
//! comes to run, but in one of ten switches from the idle task it was not there (Linux 6.18).
//!
//! A helper mounts tracefs in a mount namespace of its own, and removes the instance when the bench ends, however it
//! ends: it waits for the end of a pipe that only the bench holds.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::is_root;

/// Where the kernel of the bench has its pid namespace: the numbers in events are those of this one.
const INITIAL_PIDS: &str = "pid:[4026531836]";

/// What is traced.
const EVENTS: [&str; 5] = [
    "sched/sched_process_exit",
    "sched/sched_waking",
    "sched/sched_process_fork",
    "sched/sched_process_exec",
    "syscalls/sys_exit_wait4",
];

const HELPER: &str = r#"
trap '' INT TERM HUP
mount -t tracefs tracefs /sys/kernel/tracing && mkdir "/sys/kernel/tracing/instances/$1" || exit 1
echo ready
cat > /dev/null
tries=0
until rmdir "/sys/kernel/tracing/instances/$1" || [ $tries -ge 50 ]; do tries=$((tries + 1)); sleep 0.1; done
"#;

/// One thing that the kernel did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// In nanoseconds, of whole microseconds.
    pub(super) at: u64,
    /// The thread that did it.
    pub(super) by: u32,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A process begins to end.
    Exit(u32),
    /// A thread is to run.
    Waking(u32),
    /// `wait4` has returned this.
    Reaped(u32),
    /// A child has been made.
    Fork(u32),
    /// A program has been executed.
    Exec(u32),
}

#[derive(Debug)]
pub(super) struct Tracer {
    helper: Child,
    instance: PathBuf,
}

impl Tracer {
    /// Makes the instance, with nothing traced. Needs root and a kernel with tracefs.
    pub(super) fn open() -> Result<Self> {
        ensure!(is_root(), "tracepoints need root");
        let pids = fs::read_link("/proc/self/ns/pid")?;
        ensure!(pids.as_os_str() == INITIAL_PIDS, "tracepoints tell the pids of the host's namespace only");
        let name = format!("defib-bench-{}", std::process::id());
        let mut helper = Command::new("unshare");
        helper.args(["--mount", "--propagation=private", "/bin/sh", "-c", HELPER, "tracer", &name]);
        helper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut helper = helper.current_dir("/").spawn().context("cannot start unshare")?;
        let mut answer = String::new();
        BufReader::new(helper.stdout.take().context("no output")?).read_line(&mut answer)?;
        if answer != "ready\n" {
            let mut said = String::new();
            helper.stderr.take().context("no output")?.read_to_string(&mut said)?;
            helper.wait()?;
            bail!("tracefs cannot be used: {}", said.trim());
        }
        let instance = format!("/proc/{}/root/sys/kernel/tracing/instances/{name}", helper.id());
        let tracer = Self { helper, instance: instance.into() };
        tracer.write("trace_clock", "mono")?;
        // What is read at once is small; so is what has to be cleared.
        tracer.write("buffer_size_kb", "64")?;
        Ok(tracer)
    }

    /// Chooses what is traced: what these supervisors do, and what becomes of processes of a program of this name.
    pub(super) fn watch(&self, supervisors: &[u32], program: &str) -> Result<()> {
        let pids = |field: &str| {
            let terms: Vec<String> = supervisors.iter().map(|pid| format!("{field} == {pid}")).collect();
            terms.join(" || ")
        };
        let filters = [
            format!("comm == \"{program}\""),
            pids("pid"),
            pids("parent_pid"),
            format!("filename ~ \"*/{program}\""),
            pids("common_pid"),
        ];
        let mut filters = EVENTS.iter().zip(filters);
        filters.try_for_each(|(event, filter)| self.write(&format!("events/{event}/filter"), &filter))
    }

    /// Begins to trace what is watched, or stops: then no CPU pays anything.
    pub(super) fn enable(&self, on: bool) -> Result<()> {
        let set = |event: &&str| self.write(&format!("events/{event}/enable"), if on { "1" } else { "0" });
        EVENTS.iter().try_for_each(set)
    }

    /// Forgets all that has been traced.
    pub(super) fn clear(&self) -> Result<()> {
        // Opening it to be truncated is what clears it.
        self.write("trace", "")
    }

    /// What has been traced since.
    pub(super) fn read(&self) -> Result<Vec<Event>> {
        let file = self.instance.join("trace");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.lines().filter_map(parse).collect())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, text).with_context(|| format!("tracefs does not take {text:?} in {file}"))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        drop(self.helper.stdin.take());
        match self.helper.wait() {
            Ok(status) if status.success() => {}
            outcome => println!("cannot remove the instance of tracefs: {outcome:?}"),
        }
    }
}

/// One line: `COMM-PID [CPU] FLAGS SECONDS.MICROSECONDS: EVENT: FIELDS`, where a name may hold anything.
fn parse(line: &str) -> Option<Event> {
    let (task, rest) = line.split_once(" [")?;
    let by = task.trim_end().rsplit('-').next()?.parse().ok()?;
    let (head, event) = rest.split_once(": ")?;
    let (seconds, micros) = head.split_whitespace().next_back()?.split_once('.')?;
    let at = (seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?) * 1000;
    if let Some(result) = event.strip_prefix("sys_wait4 -> 0x") {
        let pid = u32::from_str_radix(result.trim(), 16).ok()?;
        return Some(Event { at, by, what: What::Reaped(pid) });
    }
    let (name, fields) = event.split_once(": ")?;
    let number = |field: &str| fields.rsplit_once(field)?.1.split(' ').next()?.parse().ok();
    let what = match name {
        "sched_process_exit" => What::Exit(number(" pid=")?),
        "sched_waking" => What::Waking(number(" pid=")?),
        "sched_process_fork" => What::Fork(number(" child_pid=")?),
        "sched_process_exec" => What::Exec(number(" pid=")?),
        _ => return None,
    };
    Some(Event { at, by, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_trace_become_events() {
        let text = "\
# tracer: nop
          victim-29415   [001] d..1.  1234.000007: sched_process_exit: comm=victim pid=29415 prio=120 group_dead=true
          victim-29415   [001] d..2.  1234.000009: sched_waking: comm=loop pid=77 prio=120 target_cpu=000
            loop-77      [000] .....  1234.000021: sys_wait4 -> 0x72e7
            loop-77      [000] .....  1234.000030: sched_process_fork: comm=loop pid=77 child_comm=loop child_pid=29416
          victim-29416   [000] .....  1234.000040: sched_process_exec: filename=/t/victim pid=29416 old_pid=29416
";
        let events: Vec<Event> = text.lines().filter_map(parse).collect();
        let told: Vec<(u64, u32)> = events.iter().map(|it| (it.at % 1_000_000_000, it.by)).collect();
        assert_eq!(told, [(7000, 29415), (9000, 29415), (21_000, 77), (30_000, 77), (40_000, 29416)]);
        let whats: Vec<What> = events.into_iter().map(|it| it.what).collect();
        assert_eq!(
            whats,
            [What::Exit(29415), What::Waking(77), What::Reaped(29415), What::Fork(29416), What::Exec(29416)]
        );
    }

    #[test]
    fn a_name_that_looks_like_a_field_is_none() {
        let line =
            "a [b] pid=9-5  [000] d..2.  1.000001: sched_waking: comm=x pid=3 pid=77 prio=120 target_cpu=000";
        assert_eq!(parse(line), None);
        let line =
            "          a-5  [000] d..2.  1.000001: sched_waking: comm=x pid=3 pid=77 prio=120 target_cpu=000";
        assert_eq!(parse(line).unwrap().what, What::Waking(77));
    }
}
