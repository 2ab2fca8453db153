//! Whether the kernel describes its types, and which names are in the description: the surest sign, without trying it,
//! that a kernel has a function or a field.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Range;

/// Where the kernel shows its types.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The kfunc that sends a signal from an eBPF program to any task.
pub(super) const SEND_SIGNAL: &str = "bpf_send_signal_task";

/// A function of kernels that were built with CONFIG_RT_GROUP_SCHED.
pub(super) const RT_GROUPS: &str = "sched_rt_can_attach";

/// The names that rows ask for.
const NAMES: [&str; 2] = [SEND_SIGNAL, RT_GROUPS];

/// The kernel's types, as far as they matter here.
#[derive(Debug)]
pub(super) struct KernelTypes {
    /// Bytes of the description.
    pub(super) size: usize,
    names: BTreeSet<&'static str>,
}

impl KernelTypes {
    pub(super) fn read() -> io::Result<Self> {
        let bytes = fs::read(VMLINUX)?;
        Self::parse(&bytes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its header is not that of BTF"))
    }

    /// Documentation/bpf/btf.rst: the header names the section of the strings, each of which ends with a NUL.
    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..2) != Some(&0xeb9f_u16.to_ne_bytes()) {
            return None;
        }
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 4)?;
            usize::try_from(u32::from_ne_bytes(bytes.try_into().ok()?)).ok()
        };
        let header = word(4)?;
        let section = |at: usize| -> Option<Range<usize>> {
            let start = header.checked_add(word(at)?)?;
            Some(start..start.checked_add(word(at + 4)?)?)
        };
        let types = bytes.get(section(8)?)?;
        let strings = bytes.get(section(16)?)?;
        if types.is_empty() {
            return None;
        }
        let found = strings.split(|byte| *byte == 0);
        let names =
            found.filter_map(|name| NAMES.into_iter().find(|wanted| wanted.as_bytes() == name)).collect();
        Some(Self { size: bytes.len(), names })
    }

    /// Whether a name stands in it.
    pub(super) fn name(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, 4 bytes of types, and these strings.
    fn blob(strings: &[u8], claimed: u32) -> Vec<u8> {
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, 4, 4, claimed] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend([0; 4]);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn whole_names_are_found_and_nothing_else() {
        let strings = b"\0task_struct\0bpf_send_signal_task\0my_sched_rt_can_attach\0";
        let types = KernelTypes::parse(&blob(strings, strings.len() as u32)).expect("BTF");
        assert!(types.name(SEND_SIGNAL) && !types.name(RT_GROUPS) && !types.name("task_struct"));
    }

    #[test]
    fn what_is_no_btf_is_refused_wherever_it_is_cut() {
        let whole = blob(b"\0x\0", 3);
        assert!(KernelTypes::parse(&whole).is_some());
        for length in 0..whole.len() {
            assert!(KernelTypes::parse(&whole[..length]).is_none(), "{length}");
        }
        assert!(KernelTypes::parse(&blob(b"\0x\0", u32::MAX)).is_none());
    }
}
