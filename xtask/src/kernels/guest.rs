//! One boot in QEMU, to its end or its deadline.

use std::fs;
use std::io::{Seek, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::image::Image;
use super::initramfs;
use super::payload::Payload;

/// After this a guest hangs. On a machine that is busy with other things it takes half of it.
const DEADLINE: Duration = Duration::from_secs(300);

/// How often a guest is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What the kernel is told: to speak to the serial port, to end, not wait, when it panics, to do without guards
/// against faults that an emulated processor has not, and not to judge its timer by how quick a busy host makes it.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 oops=panic mitigations=off no_timer_check quiet";

/// The machine: two emulated processors, so that what races on real ones can race here, and no devices but the console.
/// A processor without vector instructions was emulated somewhat quicker; without `rdrand` the kernel waits for entropy.
const MACHINE: [&str; 13] = [
    "-machine",
    "q35",
    "-accel",
    "tcg,thread=multi",
    "-cpu",
    "Nehalem,+rdrand",
    "-smp",
    "2",
    "-m",
    "1024",
    "-display",
    "none",
    "-nodefaults",
];

/// Boots a kernel with the payload and returns what the guest wrote to its console, which `log` keeps. A guest that
/// does not end by itself is ended, and says so in the last line.
pub(super) fn boot(image: &Image, payload: &Payload, log: &Path) -> Result<String> {
    let mut disk = tempfile::tempfile().context("cannot make a file for the initial RAM disk")?;
    disk.write_all(&initramfs::pack(image, payload)?).context("cannot write the initial RAM disk")?;
    disk.rewind().context("cannot rewind the initial RAM disk")?;
    // QEMU makes it anew, but only once it runs.
    fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;

    // QEMU must not outlive us, however we end. It reads the disk from its standard input: that file has no name, so
    // nothing is left of it either.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]).args(MACHINE).arg("-no-reboot");
    command.arg("-kernel").arg(image.vmlinuz()).args(["-initrd", "/dev/stdin", "-append", KERNEL_ARGUMENTS]);
    command.arg("-chardev").arg(format!("file,id=console,path={}", escaped(log)));
    command.args(["-serial", "chardev:console"]);
    let qemu = command.stdin(disk).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let ended = Guest(qemu.context("cannot start qemu-system-x86_64")?).wait()?;

    let bytes = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let mut text = String::from_utf8_lossy(&bytes).replace('\r', "");
    if !ended {
        text += &format!("\nended from outside: it ran longer than {} s\n", DEADLINE.as_secs());
    }
    fs::write(log, &text).with_context(|| format!("cannot write {}", log.display()))?;
    Ok(text)
}

/// A running QEMU, which is ended when this is dropped.
#[derive(Debug)]
struct Guest(Child);

impl Guest {
    /// Waits until it ends, and says whether it did before the deadline.
    fn wait(mut self) -> Result<bool> {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            if let Some(status) = self.0.try_wait().context("cannot wait for QEMU")? {
                if status.success() {
                    return Ok(true);
                }
                let said = self.0.stderr.take().map(std::io::read_to_string);
                let said = said.and_then(Result::ok).unwrap_or_default();
                bail!("QEMU itself failed, {status}: {}", said.trim());
            }
            thread::sleep(LOOK);
        }
        Ok(false)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A path as QEMU's options take it: a comma is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
