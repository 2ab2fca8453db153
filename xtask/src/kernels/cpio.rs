//! The format of initial RAM disks: cpio, "newc". Written here, so that no tree has to be laid out on a disk, and the
//! owner is root whoever builds it.

use std::collections::BTreeSet;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// An archive that grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder, and those above it.
    pub(super) fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        for end in path.match_indices('/').map(|(index, _)| index).chain([path.len()]) {
            let part = &path[..end];
            if !part.is_empty() && self.folders.insert(part.to_owned()) {
                self.entry(part, FOLDER, (0, 0), &[]);
            }
        }
    }

    /// Adds a file that everybody may read and execute, and the folders above it.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        let path = path.trim_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// Adds `/dev/console`, without which the first program would have no output.
    pub(super) fn console(&mut self) {
        self.folder("dev");
        self.entry("dev/console", CONSOLE, (5, 1), &[]);
    }

    /// The bytes of the whole.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        // The first folder counts as a link of itself; the kernel asks no more than that it is not zero.
        let links = 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and sizes in an archive, read as the kernel does.
    fn entries(bytes: &[u8]) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let field = |number: usize| {
                let start = at + 6 + 8 * number;
                usize::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, name_size) = (field(6), field(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 109 + name_size]).unwrap();
            found.push((name.to_owned(), size));
            at = ((at + 110 + name_size).next_multiple_of(4) + size).next_multiple_of(4);
        }
        found
    }

    #[test]
    fn folders_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.file("/lib/a/one.so", b"12345");
        archive.file("lib/a/two.so", b"");
        archive.console();
        let entries = entries(&archive.finish());
        let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["lib", "lib/a", "lib/a/one.so", "lib/a/two.so", "dev", "dev/console", "TRAILER!!!"]
        );
        assert_eq!(entries[2].1, 5);
    }
}
