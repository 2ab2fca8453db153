//! What services use is looked up in the kernel, where the source has a probe for that.

use std::io;

use defib_ebpf::TaskUse;

use crate::effect::usage::Tasks;
use crate::source::TaskLook;

impl Tasks for TaskLook {
    fn look(&self, services: u64, each: &mut dyn FnMut(&TaskUse)) -> io::Result<()> {
        TaskLook::look(self, services, each)
    }
}
