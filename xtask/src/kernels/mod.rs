//! `cargo xtask kernels`: defib on kernels that this machine does not run.
//!
//! Debian's own kernels are booted in QEMU, with plain emulation where there is no KVM, each with an initial RAM disk
//! that holds busybox, defib and a test program. What the probes and the daemon need of a kernel changes between
//! versions, and only a boot tells whether they have it.
//!
//! - [`catalog`]: which kernels, and where Debian keeps them. [`archive`] asks there, [`image`] keeps what was fetched.
//! - [`payload`]: what is built here to be run there. [`initramfs`] packs it, in the format of [`cpio`].
//! - [`guest`]: one boot, to its end or its deadline. [`console`] reads what it said, [`verdict`] judges.

mod archive;
mod catalog;
mod console;
mod cpio;
mod guest;
mod image;
mod initramfs;
mod payload;
mod verdict;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};

use crate::packages::{self, Advice};
use crate::{step, workspace};
use console::Console;
use image::Image;
use payload::Payload;

/// What fetching a kernel and booting it takes, besides what every Debian has.
const PACKAGES: [&str; 5] =
    ["qemu-system-x86", "busybox-static", "zstd", "xz-utils", "debian-archive-keyring"];

/// Guests that run at once. One alone does not keep two real processors busy: its tests also wait.
const AT_ONCE: usize = 2;

/// Lines of a failed guest's log that are repeated.
const TAIL: usize = 40;

/// Boots the kernels of these names, or all, and tests there. Fails if one of them does.
pub(crate) fn run(names: &[String]) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the kernels are for x86_64, and this machine is {}", std::env::consts::ARCH);
    }
    let kernels = catalog::named(names)?;
    let folder = workspace::target()?.join("kernels");
    let logs = folder.join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    install()?;
    let images = image::fetched(&kernels, &folder)?;
    let payload = Payload::build()?;
    println!("\nThe whole logs are in {}.", workspace::shown(&logs));
    let began = Instant::now();
    let failed = boot_all(&images, &payload, &logs);
    let seconds = began.elapsed().as_secs_f64();
    match failed {
        0 => println!("\n{} kernels passed in {seconds:.0} s.", images.len()),
        _ => bail!("{failed} of {} kernels failed, in {seconds:.0} s", images.len()),
    }
    Ok(())
}

fn install() -> Result<()> {
    let missing = packages::missing(PACKAGES);
    if missing.is_empty() {
        return Ok(());
    }
    println!("Booting kernels needs {}.", missing.join(", "));
    packages::install(&missing, Advice::default())
}

/// Boots all, some at once, and returns how many failed.
fn boot_all(images: &[Image], payload: &Payload, logs: &Path) -> usize {
    let waiting = Mutex::new(images.iter());
    let failed = Mutex::new(0);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(images.len()) {
            scope.spawn(|| {
                while let Some(image) = next() {
                    let passed = boot(image, payload, logs);
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) += usize::from(!passed);
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Boots one, prints what came of it, and says whether it passed.
fn boot(image: &Image, payload: &Payload, logs: &Path) -> bool {
    let log = logs.join(format!("{}.log", image.kernel.name));
    let began = Instant::now();
    let title = |result: &str, after: Duration| {
        format!("{result}  {:6}  {:30}  {:3.0} s", image.kernel.name, image.version, after.as_secs_f64())
    };
    let text = guest::boot(image, payload, &log);
    let after = began.elapsed();
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            println!("{}  {error:#}", title("FAIL", after));
            return false;
        }
    };
    let console = Console::parse(&text);
    let faults = verdict::faults(&console, &payload.step_names());
    if faults.is_empty() {
        println!("{}  {}", title("PASS", after), verdict::summary(&console));
        return true;
    }
    let mut report = title("FAIL", after);
    for fault in faults {
        report += &format!("\n      {fault}");
    }
    report += &format!("\n  the last lines of {}:", workspace::shown(&log));
    for line in step::last_lines(&text, TAIL) {
        report += &format!("\n  | {line}");
    }
    println!("{report}");
    false
}
