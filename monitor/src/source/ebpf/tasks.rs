//! What the tasks of services use, as the kernel itself walks through its tasks.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::programs::Iter;
use defib_ebpf::{TaskUse, ctrl};

use super::control::Control;
use super::decode::{u32_at, u64_at};
use super::load::ON_TASK;

/// As many records as there are in what the kernel hands over at once, which is eight pages. Where pages are larger it fills
/// the room, with whole records, too.
const ROOM: usize = 32 * 1024 / size_of::<TaskUse>() * size_of::<TaskUse>();

/// The probe that tells of tasks, and the word that says of which.
pub struct TaskLook(Mutex<(Holder, Control)>);

/// Who holds the probe. From one that holds it no other can be made without CAP_SYS_ADMIN.
pub(super) enum Holder {
    /// All that was loaded.
    Object(Ebpf),
    /// It was pinned.
    Pin(Box<Iter>),
}

impl Holder {
    fn program(&mut self) -> Option<&mut Iter> {
        match self {
            Self::Object(object) => object.program_mut(ON_TASK)?.try_into().ok(),
            Self::Pin(program) => Some(program),
        }
    }
}

impl fmt::Debug for TaskLook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskLook").finish_non_exhaustive()
    }
}

impl TaskLook {
    pub(super) fn new(program: Holder, control: Control) -> Self {
        Self(Mutex::new((program, control)))
    }

    /// Shows what every thread in a cgroup below `services`, given by its inode number, uses at this moment. Takes up to 2 µs
    /// for each thread of the host.
    ///
    /// # Errors
    /// If the kernel does not let the probe be read.
    pub fn look(&self, services: u64, each: &mut dyn FnMut(&TaskUse)) -> io::Result<()> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (program, control) = &mut *held;
        control.set(ctrl::SERVICES, services).map_err(io::Error::other)?;
        let program = program.program().ok_or(io::ErrorKind::NotFound)?;
        // An iterator's file can be read once.
        let link = program.attach().and_then(|id| program.take_link(id)).map_err(io::Error::other)?;
        read(link.into_file().map_err(io::Error::other)?, each)
    }
}

fn read(mut file: File, each: &mut dyn FnMut(&TaskUse)) -> io::Result<()> {
    let mut room = vec![0; ROOM];
    loop {
        match file.read(&mut room) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let records = room[..length].chunks_exact(size_of::<TaskUse>()).filter_map(record);
                records.for_each(|record| each(&record));
            }
            // A million tasks without a record, and there are more.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

fn record(bytes: &[u8]) -> Option<TaskUse> {
    use std::mem::offset_of;
    Some(TaskUse {
        group: u64_at(bytes, offset_of!(TaskUse, group))?,
        read: u64_at(bytes, offset_of!(TaskUse, read))?,
        written: u64_at(bytes, offset_of!(TaskUse, written))?,
        virtual_pages: u64_at(bytes, offset_of!(TaskUse, virtual_pages))?,
        resident_pages: u64_at(bytes, offset_of!(TaskUse, resident_pages))?,
        max_files: u64_at(bytes, offset_of!(TaskUse, max_files))?,
        tgid: u32_at(bytes, offset_of!(TaskUse, tgid))?,
        threads: u32_at(bytes, offset_of!(TaskUse, threads))?,
    })
}
