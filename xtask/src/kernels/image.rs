//! A kernel that was fetched: its image and the modules that are tested, kept below `target/kernels`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::catalog::{Choice, Kernel};
use crate::{step, workspace};

/// Modules that are loaded in the guest, each after those it needs: socket diagnostics, which count connections, and
/// pairs of network interfaces.
pub(super) const MODULES: [&str; 4] = ["inet_diag", "tcp_diag", "udp_diag", "veth"];

/// How the file of a module may end, and the program that undoes it.
const PACKINGS: [(&str, Option<&str>); 3] =
    [(".ko", None), (".ko.xz", Some("xz")), (".ko.zst", Some("zstd"))];

/// A kernel that can be booted.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) kernel: Kernel,
    /// As `uname -r` in the guest.
    pub(super) version: String,
    folder: PathBuf,
}

impl Image {
    /// The compressed kernel.
    pub(super) fn vmlinuz(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The file of a module, unpacked, unless it is built into this kernel.
    pub(super) fn module(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let file = self.folder.join(name).with_extension("ko");
        match fs::read(&file) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// The image that an earlier run has left in `folder`.
    fn kept(kernel: Kernel, folder: &Path) -> Option<Self> {
        let folder = folder.join(kernel.name);
        let version = fs::read_to_string(folder.join("version")).ok()?;
        Some(Self { kernel, version, folder })
    }

    /// Fetches a kernel by way of the folder `work`. It appears in `folder` complete or not at all.
    fn fetch(kernel: Kernel, archive: &Archive, work: &Path, folder: &Path) -> Result<()> {
        let choice = archive.choose(&kernel)?;
        let (unpacked, image) =
            (work.join("unpacked").join(kernel.name), work.join("image").join(kernel.name));
        for made in [&unpacked, &image] {
            fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        archive.unpack(&choice, &unpacked)?;
        gather(&unpacked, &choice, &image)
            .with_context(|| format!("the packages {} are not as expected", choice.packages.join(", ")))?;
        let place = folder.join(kernel.name);
        fs::rename(&image, &place).with_context(|| format!("cannot make {}", place.display()))
    }
}

/// The images of these kernels, fetched now where they are not there yet.
pub(super) fn fetched(kernels: &[Kernel], folder: &Path) -> Result<Vec<Image>> {
    let there = |kernel: &Kernel| Image::kept(*kernel, folder);
    let absent: Vec<Kernel> = kernels.iter().filter(|kernel| there(kernel).is_none()).copied().collect();
    if !absent.is_empty() {
        println!("Fetching kernels once, into {}.", workspace::shown(folder));
        // Lists and packages are large. A run that was interrupted may have left some.
        let work = folder.join("work");
        remove(&work)?;
        let result = fetch_all(&absent, &work, folder);
        remove(&work)?;
        result?;
    }
    let images: Vec<Image> = kernels.iter().filter_map(there).collect();
    if images.len() < kernels.len() {
        bail!("{} changed while kernels were fetched into it", folder.display());
    }
    Ok(images)
}

fn fetch_all(kernels: &[Kernel], work: &Path, folder: &Path) -> Result<()> {
    let archive = Archive::open(&work.join("apt"), kernels)?;
    kernels.iter().try_for_each(|kernel| Image::fetch(*kernel, &archive, work, folder))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Takes what a boot needs out of unpacked packages.
fn gather(unpacked: &Path, choice: &Choice, image: &Path) -> Result<()> {
    let files = files(unpacked)?;
    let find = |name: &str| files.iter().find(|file| file.file_name().is_some_and(|found| found == name));
    // Split packages have it among the modules.
    let vmlinuz = find(&format!("vmlinuz-{}", choice.version)).or_else(|| find("vmlinuz"));
    copy(vmlinuz.context("no kernel in them")?, &image.join("vmlinuz"))?;
    for module in MODULES {
        for (suffix, program) in PACKINGS {
            let Some(found) = find(&format!("{module}{suffix}")) else { continue };
            let kept = image.join(format!("{module}.ko"));
            match program {
                None => copy(found, &kept)?,
                Some(program) => {
                    let mut unpack = Command::new(program);
                    let bytes = step::bytes(unpack.args(["--decompress", "--stdout", "--quiet"]).arg(found))?;
                    fs::write(&kept, bytes).with_context(|| format!("cannot write {}", kept.display()))?;
                }
            }
        }
    }
    fs::write(image.join("version"), &choice.version).context("cannot keep the version")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// All plain files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let read = || format!("cannot read {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(read)? {
            let entry = entry.with_context(read)?;
            let kind = entry.file_type().with_context(read)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}
