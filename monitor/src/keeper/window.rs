//! The low descriptor numbers of the keeper, reserved for children that are being made.
//!
//! A child begins with the keeper's own descriptor table (CLONE_FILES) and then takes a copy of its low end:
//! `close_range(end, ~0, CLOSE_RANGE_UNSHARE)`. So a start costs the same whether the keeper holds ten descriptors or
//! ten thousand (measured on 6.18: a copy of all of 6000, closed again at execve, takes half a millisecond). For that
//! to work, what a child needs must have low numbers, and everything else that the keeper holds high ones. Every number
//! below [`END`] is taken by `/dev/null` from the start, so the kernel gives none of them to anything else:
//!
//! ```text
//! 0–2  3 … 18                  19 … 38            39 … 58      …                 383
//! own  where sockets end up    part of a start    the next     … sixteen parts    end
//! ```
//!
//! A part is filled before the clone, by dup3, which leaves no moment in which a number is free, and is emptied when
//! the child says that it has a table of its own. Until then nothing in that part may change; whatever else the keeper
//! opens and closes meanwhile has numbers that the child never looks at.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::raw;

/// The most sockets that are passed to a process.
pub(super) const MAX_PASSED: usize = 16;

/// Where the passed sockets begin in the new process: sd_listen_fds(3) says 3.
pub(super) const FIRST_PASSED: RawFd = 3;

/// How many starts have a part at a time.
const PARTS: usize = 16;

/// Behind the numbers that passed sockets have in the child, so that moving one there overwrites none of the others.
const FIRST_PART: RawFd = FIRST_PASSED + MAX_PASSED as RawFd;

/// The numbers of a part, by what they are for.
const NULL: RawFd = 0;
const OUTPUT: [RawFd; 2] = [1, 2];
const STATUS: RawFd = 3;
const SOCKETS: RawFd = 4;
const WIDTH: RawFd = SOCKETS + MAX_PASSED as RawFd;

/// The kernel copies tables by words of their bitmaps, and up to Linux 6.10 marks the rest of the last word as in use
/// if the copy ends within it: so a copy ends between two words.
const WORD: RawFd = 64;

/// All numbers from here on are for what the keeper holds.
pub(super) const END: RawFd = behind(FIRST_PART + WIDTH * PARTS as RawFd);

/// The first number of the word behind `number - 1`.
const fn behind(number: RawFd) -> RawFd {
    (number + WORD - 1) / WORD * WORD
}

/// The reserved numbers.
#[derive(Debug)]
pub(super) struct Window {
    null: OwnedFd,
    /// First numbers of the parts that no start has; the lowest last, because its copy is the smallest.
    free: Vec<RawFd>,
}

/// The numbers of one start. To be given back.
#[derive(Debug)]
pub(super) struct Part {
    first: RawFd,
    /// How many of them, from the first on, may hold something else than `/dev/null`.
    filled: RawFd,
}

impl Window {
    /// Takes all of the low numbers. What has one already is kept where it is out of the way: somebody who started
    /// defib may have passed on a lock.
    pub(super) fn reserve() -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let null = rustix::io::fcntl_dupfd_cloexec(null, END)?;
        for number in FIRST_PASSED..END {
            raw::keep_above(number, END)?;
            raw::place(null.as_fd(), number)?;
        }
        let free = (0..PARTS as RawFd).rev().map(|index| FIRST_PART + WIDTH * index).collect();
        Ok(Self { null, free })
    }

    /// A part that nobody has.
    pub(super) fn take(&mut self) -> Option<Part> {
        let first = self.free.pop()?;
        Some(Part { first, filled: 0 })
    }

    /// Whether there is such a part.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Takes a part back, and lets go of what is in it.
    pub(super) fn give_back(&mut self, mut part: Part) {
        self.empty(&mut part, 0);
        let place = self.free.partition_point(|first| *first > part.first);
        self.free.insert(place, part.first);
    }

    /// Lets go of what was added for a start that came to nothing.
    pub(super) fn unload(&self, part: &mut Part) {
        self.empty(part, STATUS + 1);
        for number in OUTPUT {
            self.clear(part.first + number);
        }
    }

    fn empty(&self, part: &mut Part, from: RawFd) {
        for number in from..part.filled {
            self.clear(part.first + number);
        }
        part.filled = part.filled.min(from);
    }

    fn clear(&self, number: RawFd) {
        // It can fail only for a number that is out of range, and this one was in use.
        raw::place(self.null.as_fd(), number).ok();
    }
}

impl Part {
    /// Puts the writing end of the status pipe where the child finds it.
    pub(super) fn set_status(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.put(STATUS, fd)
    }

    /// Puts standard output and error there, and the sockets that are to be passed.
    pub(super) fn load(
        &mut self,
        output: Option<[BorrowedFd<'_>; 2]>,
        sockets: &[OwnedFd],
    ) -> io::Result<()> {
        for (number, fd) in OUTPUT.into_iter().zip(output.into_iter().flatten()) {
            self.put(number, fd)?;
        }
        if sockets.len() > MAX_PASSED {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        for (number, socket) in (SOCKETS..).zip(sockets) {
            self.put(number, socket.as_fd())?;
        }
        Ok(())
    }

    fn put(&mut self, number: RawFd, fd: BorrowedFd<'_>) -> io::Result<()> {
        raw::place(fd, self.first + number)?;
        self.filled = self.filled.max(number + 1);
        Ok(())
    }

    /// The numbers, as the child is told them.
    pub(super) fn numbers(&self) -> Numbers {
        Numbers {
            null: self.first + NULL,
            output: OUTPUT.map(|number| self.first + number),
            status: self.first + STATUS,
            sockets: self.first + SOCKETS,
            part: (self.first, self.first + WIDTH),
            end: behind(self.first + WIDTH),
        }
    }
}

/// Where a child finds what it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) null: RawFd,
    pub(super) output: [RawFd; 2],
    pub(super) status: RawFd,
    /// The first of the sockets.
    pub(super) sockets: RawFd,
    /// Its own part: the first number, and the one behind the last.
    pub(super) part: (RawFd, RawFd),
    /// The first number that it does not copy.
    pub(super) end: RawFd,
}

impl Numbers {
    /// Those of descriptors that have whatever number they have: for a child with a copy of the whole table.
    pub(super) fn of(null: BorrowedFd<'_>, output: [BorrowedFd<'_>; 2], status: BorrowedFd<'_>) -> Self {
        let output = output.map(|fd| fd.as_raw_fd());
        let (null, status) = (null.as_raw_fd(), status.as_raw_fd());
        Self { null, output, status, sockets: 0, part: (0, 0), end: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_behind_each_other_and_the_first_one_in_the_first_word() {
        let parts: Vec<_> =
            (0..PARTS as RawFd).map(|index| Part { first: FIRST_PART + WIDTH * index, filled: 0 }).collect();
        let numbers: Vec<_> = parts.iter().map(Part::numbers).collect();
        assert_eq!((numbers[0].part, numbers[0].end), ((19, 39), 64));
        assert!(numbers.windows(2).all(|two| two[0].part.1 == two[1].part.0));
        assert!(numbers.iter().all(|it| it.end % WORD == 0 && it.part.1 <= it.end && it.end <= END));
        assert!(numbers.iter().all(|it| it.sockets + MAX_PASSED as RawFd == it.part.1));
    }
}
