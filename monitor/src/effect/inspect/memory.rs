//! The memory of a process by what is mapped, from `/proc/PID/smaps`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use super::types::{Listed, Mapping, Memory};

/// The table is read up to here: some 40 000 mappings. The kernel allows 65 530 by default.
const TABLE: u64 = 64 << 20;

/// The memory of a process, with the first `most` of what it has mapped.
pub(super) fn memory(pid: u32, most: usize) -> io::Result<Memory> {
    let file = File::open(format!("/proc/{pid}/smaps"))?;
    parse(BufReader::new(file.take(TABLE)), most)
}

fn parse(table: impl BufRead, most: usize) -> io::Result<Memory> {
    let mut by_name: BTreeMap<String, Mapping> = BTreeMap::new();
    let mut name = String::new();
    // A path may hold any bytes.
    for line in table.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        match head(&line) {
            Some(head) => name = head.to_owned(),
            None => {
                let Some((key, bytes)) = size(&line) else { continue };
                let mapping = by_name.entry(name.clone()).or_default();
                let field = match key {
                    "Size" => &mut mapping.size_bytes,
                    "Rss" => &mut mapping.rss_bytes,
                    "Pss" => &mut mapping.pss_bytes,
                    "Swap" => &mut mapping.swap_bytes,
                    _ => continue,
                };
                *field = field.saturating_add(bytes);
            }
        }
    }
    let sum = |field: fn(&Mapping) -> u64| by_name.values().map(field).fold(0, u64::saturating_add);
    let (rss_bytes, pss_bytes) = (sum(|it| it.rss_bytes), sum(|it| it.pss_bytes));
    let swap_bytes = sum(|it| it.swap_bytes);
    let mut mappings: Vec<Mapping> =
        by_name.into_iter().map(|(name, mapping)| Mapping { name, ..mapping }).collect();
    // The sort is stable: equals stay in the order of their names.
    mappings.sort_by_key(|mapping| std::cmp::Reverse(mapping.rss_bytes));
    Ok(Memory { rss_bytes, pss_bytes, swap_bytes, mappings: Listed::first(mappings, most) })
}

/// The name in the first line of a mapping: proc_pid_maps(5). It stands behind five fields and blanks.
fn head(line: &str) -> Option<&str> {
    let (range, mut rest) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hex(from) || !hex(to) {
        return None;
    }
    for _ in 0..4 {
        rest = rest.trim_start_matches(' ');
        rest = rest.split_once(' ').map_or("", |(_, rest)| rest);
    }
    let name = rest.trim_start_matches(' ');
    Some(if name.is_empty() { "[anonymous]" } else { name })
}

/// A line such as `Rss:      132 kB`.
fn size(line: &str) -> Option<(&str, u64)> {
    let (key, value) = line.split_once(':')?;
    let kilobytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((key, kilobytes.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_one_file_are_one() {
        let table = "\
5000-6000 r--p 00000000 08:01 42                   /usr/bin/a b
Size:                  4 kB
Rss:                   4 kB
Pss:                   2 kB
Swap:                  0 kB
VmFlags: rd mr mw
6000-8000 r-xp 00001000 08:01 42                   /usr/bin/a b
Size:                  8 kB
Rss:                   8 kB
Pss:                   4 kB
7f00-8f00 rw-p 00000000 00:00 0
Size:                 64 kB
Rss:                  16 kB
Pss:                  16 kB
Swap:                 12 kB
";
        let memory = parse(table.as_bytes(), 1).unwrap();
        assert_eq!((memory.rss_bytes, memory.pss_bytes, memory.swap_bytes), (28 << 10, 22 << 10, 12 << 10));
        assert_eq!((memory.mappings.items.len(), memory.mappings.more), (1, 1));
        assert_eq!(memory.mappings.items[0].name, "[anonymous]");
        let memory = parse(table.as_bytes(), 10).unwrap();
        let wanted = Mapping {
            name: "/usr/bin/a b".to_owned(),
            size_bytes: 12 << 10,
            rss_bytes: 12 << 10,
            pss_bytes: 6 << 10,
            swap_bytes: 0,
        };
        assert_eq!(memory.mappings.items[1], wanted);
    }
}
