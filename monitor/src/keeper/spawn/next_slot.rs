//! Where the eBPF programs find to which slot the keeper's next child belongs.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

/// Less than a page is mapped as a whole one.
const PAGE: usize = 4096;

/// The one-element array map in which the keeper announces the slot of its next child: slot + 1, or 0.
#[derive(Debug)]
pub(super) struct NextSlot(NonNull<AtomicU64>);

impl NextSlot {
    pub(super) fn map(fd: &OwnedFd) -> io::Result<Self> {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE, flags, MapFlags::SHARED, fd, 0)? };
        NonNull::new(page.cast()).map(Self).ok_or_else(|| io::Error::other("mmap at address 0"))
    }

    pub(super) fn store(&self, slot: Option<u32>) {
        // SAFETY: the mapping lives as long as `self`, is page-aligned, and is only used through atomics.
        unsafe { self.0.as_ref() }.store(slot.map_or(0, |slot| u64::from(slot) + 1), Ordering::SeqCst);
    }
}

impl Drop for NextSlot {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, used by nobody else.
        unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE) }.ok();
    }
}
