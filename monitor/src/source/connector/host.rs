//! How the processes of the whole host end, of which nothing is kept but three numbers.
//!
//! The message of the leading thread stands for its process. A thread that ends because its group does has the group's
//! code, as it was when the thread left. Only the thread that dumps the core leaves after the kernel has marked the code
//! with that; so where it is another than the leading one, the leading one's message says `signal` and its own `core`, in
//! either order.

use super::super::stats::EndStats;

/// The bit of a code that says that a core was dumped.
const DUMPED: i32 = 0x80;

/// What has been heard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    pub(super) told: EndStats,
    /// Cores of threads that were not the leading one: as many ends are told twice, once with a signal. The next ones with
    /// a signal are left out for them, so that no number ever falls.
    owed: u64,
}

impl Ends {
    /// A thread has ended.
    pub(super) fn heard(&mut self, leads: bool, code: i32) {
        let (killed, dumped) = (code & 0x7f != 0, code & 0x7f != 0 && code & DUMPED != 0);
        match (leads, killed, dumped) {
            (true, false, _) => self.told.exit += 1,
            (true, _, true) => self.told.core += 1,
            (true, true, false) if self.owed > 0 => self.owed -= 1,
            (true, true, false) => self.told.signal += 1,
            (false, _, true) => {
                self.told.core += 1;
                self.owed += 1;
            }
            (false, _, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ends: &[(bool, i32)]) -> EndStats {
        let mut heard = Ends::default();
        ends.iter().for_each(|(leads, code)| heard.heard(*leads, *code));
        heard.told
    }

    #[test]
    fn the_leading_thread_stands_for_its_process() {
        let ends = [(true, 0), (true, 0x700), (true, 9), (true, 11 | 0x80), (false, 0), (false, 9)];
        assert_eq!(told(&ends), EndStats { exit: 2, signal: 1, core: 1 });
    }

    #[test]
    fn a_core_of_another_thread_is_one_end_in_whatever_order_it_is_told() {
        let (leader, dumper, other) = ((true, 11), (false, 11 | 0x80), (true, 9));
        let wanted = EndStats { exit: 0, signal: 1, core: 1 };
        assert_eq!(told(&[dumper, leader, other]), wanted);
        assert_eq!(told(&[leader, dumper, other]), wanted);
    }
}
