//! What the programs must be told about the running kernel before they are loaded.
//!
//! Both structs are globals of the object in its read-only data. User space writes them before the load, so the
//! verifier sees constants: offsets are checked against the kernel's own types, and a branch on a fact is pruned.

/// An offset that has not been set. A program that is loaded with it is refused by the verifier.
pub const ABSENT: u32 = u32::MAX;

/// Which programs need a field. Without a field of the base nothing is loaded, without another its group is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Fork, exec, exit, choice of the out-of-memory killer.
    Base,
    /// Fatal signals.
    Signals,
    /// Listening sockets.
    Ports,
    /// Connections, with those.
    Connections,
    /// What tasks use.
    Tasks,
}

macro_rules! offsets {
    ($($group:ident { $($(#[$doc:meta])* $field:ident = $path:literal,)+ })+) => {
        /// Byte offsets of fields in the running kernel's structs, in the order of [`Offsets::PATHS`].
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Offsets {
            $($($(#[$doc])* #[doc = concat!("\n\n`", $path, "`")] pub $field: u32,)+)+
        }

        impl Offsets {
            /// The BTF path of every field: the struct, then the member in it; with the programs that need it.
            pub const PATHS: [(Group, &'static str); [$($($path),+),+].len()] =
                [$($((Group::$group, $path)),+),+];

            /// Nothing known yet.
            pub const UNSET: Self = Self { $($($field: ABSENT,)+)+ };

            /// The offsets in the order of [`Offsets::PATHS`].
            pub const fn from_array(offsets: [u32; Self::PATHS.len()]) -> Self {
                let [$($($field),+),+] = offsets;
                Self { $($($field,)+)+ }
            }
        }
    };
}

offsets! {
    Base {
        /// What user space calls the pid.
        task_tgid = "task_struct.tgid",
        /// The status of this one thread, as wait(2) encodes it.
        task_exit_code = "task_struct.exit_code",
        /// When the thread was made, in nanoseconds of `CLOCK_BOOTTIME`; called so since Linux 5.5.
        task_start_boottime = "task_struct.start_boottime",
        /// The first thread, which is kept until the process is reaped.
        task_group_leader = "task_struct.group_leader",
        /// What all threads share.
        task_signal = "task_struct.signal",
        /// The name, `TASK_COMM_LEN` bytes.
        task_comm = "task_struct.comm",
        /// How many threads have not begun to exit.
        signal_live = "signal_struct.live",
        /// `SIGNAL_GROUP_EXIT` says that `group_exit_code` counts.
        signal_flags = "signal_struct.flags",
        /// The status of the whole process, if it was ended as a whole.
        signal_group_exit_code = "signal_struct.group_exit_code",
        /// Set when the out-of-memory killer marks the process, and kept until its memory is freed.
        signal_oom_mm = "signal_struct.oom_mm",
        /// The path that was given to execve(2).
        bprm_filename = "linux_binprm.filename",
    }
    Signals {
        /// The handlers, which all threads share.
        task_sighand = "task_struct.sighand",
        /// One `struct k_sigaction` for each signal, from 1.
        sighand_action = "sighand_struct.action",
        /// The handler; null is the default.
        action_handler = "k_sigaction.sa.sa_handler",
    }
    Ports {
        /// The port that a socket is bound to, in host order.
        sock_num = "sock.__sk_common.skc_num",
        /// The network namespace.
        sock_net = "sock.__sk_common.skc_net.net",
        /// `IPPROTO_*`.
        sock_protocol = "sock.sk_protocol",
        /// The port in network order, which stays when the socket is unbound.
        inet_sport = "inet_sock.inet_sport",
        /// The inode number of a network namespace.
        net_inum = "net.ns.inum",
        /// Why the connection has ended; zero if this end has ended it.
        sock_err = "sock.sk_err",
    }
    Tasks {
        /// The cgroups that a task is in.
        task_cgroups = "task_struct.cgroups",
        /// That of the unified hierarchy.
        css_set_dfl_cgrp = "css_set.dfl_cgrp",
        /// The file that a cgroup is.
        cgroup_kn = "cgroup.kn",
        /// Its inode number.
        kernfs_node_id = "kernfs_node.id",
        /// What a cgroup is to the one below: there is the pointer to the one above.
        cgroup_self = "cgroup.self",
        /// What the cgroup above is to it.
        cgroup_parent = "cgroup.self.parent",
        /// The memory.
        task_mm = "task_struct.mm",
        /// Pages of virtual memory.
        mm_total_vm = "mm_struct.total_vm",
        /// How many threads there are.
        signal_nr_threads = "signal_struct.nr_threads",
        /// One `struct rlimit` for each limit.
        signal_rlim = "signal_struct.rlim",
        /// Bytes that the thread has caused to be read from storage.
        task_read_bytes = "task_struct.ioac.read_bytes",
        /// Bytes that it has caused to be written there.
        task_write_bytes = "task_struct.ioac.write_bytes",
        /// What its ended threads have, and the children that it has waited for.
        signal_read_bytes = "signal_struct.ioac.read_bytes",
        /// The same of what was written.
        signal_write_bytes = "signal_struct.ioac.write_bytes",
    }
}

/// What differs between kernels but is no offset. `u32` instead of `bool`: no padding, no invalid values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// 1 if `sched_process_exit` says by its second argument whether the last thread ends (newer than 6.12).
    pub exit_has_group_dead: u32,
    /// 1 if the argument of `mark_victim` is a task (late 6.1), 0 if it is a thread's pid.
    pub oom_arg_is_task: u32,
    /// `sizeof(struct k_sigaction)`, which depends on the architecture.
    pub action_size: u32,
    /// 1 if sockets can be told apart where they change their state (5.12): connections are counted.
    pub counts_connections: u32,
    /// Where `struct mm_struct` has the first counter of its pages.
    pub rss_at: u32,
    /// How far it is from one to the next: a counter for several CPUs takes more room (6.2).
    pub rss_step: u32,
}

const _: () = assert!(size_of::<Offsets>() == 4 * Offsets::PATHS.len() && size_of::<Facts>() == 24);
