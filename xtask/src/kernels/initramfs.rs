//! The initial RAM disk of a guest: busybox, the payload, the kernel's modules, and the program that runs the steps.

use std::fs;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::image::{Image, MODULES};
use super::payload::{Payload, Step};

/// The first program's text up to the steps.
const INIT: &str = include_str!("init.sh");

/// Debian's busybox that needs no libraries; package `busybox-static`.
const BUSYBOX: &str = "/bin/busybox";

/// Users by name: the C library asks these files.
const ACCOUNTS: [(&str, &str); 2] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// Packs everything. It is not compressed: an emulated processor takes longer to unpack than a real one to copy.
pub(super) fn pack(image: &Image, payload: &Payload) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.console();
    let busybox = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    archive.file(BUSYBOX, &busybox);
    archive.file("init", init(&payload.steps).as_bytes());
    for (path, content) in ACCOUNTS {
        archive.file(path, content.as_bytes());
    }
    for (path, content) in &payload.files {
        archive.file(path, content);
    }
    for module in MODULES {
        if let Some(content) = image.module(module)? {
            archive.file(&format!("modules/{module}.ko"), &content);
        }
    }
    Ok(archive.finish())
}

fn init(steps: &[Step]) -> String {
    let mut text = INIT.to_owned();
    for Step { name, command } in steps {
        text += &format!("step {name} {command}\n");
    }
    text + "mark done\npoweroff -f\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::console::MARK;

    #[test]
    fn the_first_program_speaks_as_the_host_listens() {
        assert!(INIT.contains(&format!("echo \"{MARK}$*")), "the mark is `{MARK}`");
        for module in MODULES {
            assert!(INIT.contains(&format!(" {module}")), "{module} is never loaded");
        }
        let text = init(&[Step { name: "look", command: "ls /".to_owned() }]);
        assert!(text.ends_with("\nstep look ls /\nmark done\npoweroff -f\n"), "{text}");
    }
}
