//! The services: twenty of them, of seven kinds, and the configuration that has them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ledger;
use crate::free_port;

/// What a service is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Runs until somebody ends it; the keeper starts it again by itself.
    Steady,
    /// Each restart is the daemon's, after a short delay.
    Delayed,
    /// Writes much at once, into a log that is rotated.
    Loud,
    /// Serves on a socket that defib holds.
    Server,
    /// Has children that outlive it.
    Parent,
    /// Does not hear SIGTERM.
    Deaf,
    /// Ends by itself, again and again, in every way.
    Mayfly,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Where clients reach a [`Kind::Server`].
    pub(super) port: u16,
    /// Counts the command lines that it has had.
    variant: u64,
}

impl Member {
    /// Whether it may be away for a while: nobody connects to it.
    pub(super) fn expendable(&self) -> bool {
        self.kind != Kind::Server
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) members: Vec<Member>,
    /// Those that the configuration has not, by their place.
    pub(super) removed: BTreeSet<usize>,
    folder: PathBuf,
    seed: u64,
}

const KINDS: [(Kind, &str, usize); 7] = [
    (Kind::Steady, "steady", 4),
    (Kind::Delayed, "delayed", 2),
    (Kind::Loud, "loud", 2),
    (Kind::Server, "server", 4),
    (Kind::Parent, "parent", 3),
    (Kind::Deaf, "deaf", 2),
    (Kind::Mayfly, "mayfly", 3),
];

/// Restarted at once, however often, by the keeper's standing order.
const AT_ONCE: &str = "restart = { policy = \"always\", immediate = 256, max_restarts = \"none\" }\n";

impl Crowd {
    /// The crowd of a folder.
    pub(super) fn new(folder: &Path, seed: u64) -> Self {
        let mut members = Vec::new();
        for (kind, name, count) in KINDS {
            for number in 1..=count {
                let port = if kind == Kind::Server { free_port() } else { 0 };
                members.push(Member { name: format!("{name}{number}"), kind, port, variant: 0 });
            }
        }
        Self { members, removed: BTreeSet::new(), folder: folder.to_owned(), seed }
    }

    /// Where they keep their ledgers.
    pub(super) fn ledgers(&self) -> PathBuf {
        self.folder.join("ledgers")
    }

    /// Gives one another command line.
    pub(super) fn vary(&mut self, member: usize) {
        self.members[member].variant += 1;
    }

    /// Writes the configuration, in one step.
    pub(super) fn write(&self) -> io::Result<()> {
        fs::create_dir_all(self.ledgers())?;
        let mut text = String::new();
        for (place, member) in self.members.iter().enumerate() {
            if !self.removed.contains(&place) {
                text += &self.section(place, member);
            }
        }
        let (new, file) = (self.folder.join("defib.toml.new"), self.folder.join("defib.toml"));
        fs::write(&new, text)?;
        fs::rename(new, file)
    }

    fn section(&self, place: usize, member: &Member) -> String {
        let (ways, keys) = match member.kind {
            Kind::Steady => ("--every 20".to_owned(), AT_ONCE.to_owned()),
            Kind::Delayed => (
                "--every 25".to_owned(),
                "restart = { policy = \"always\", delays = [\"20ms\", \"80ms\"], max_restarts = \"none\" }\n"
                    .to_owned(),
            ),
            Kind::Loud => (
                "--every 300 --burst 400".to_owned(),
                format!("{AT_ONCE}log = {{ max_size = \"64k\", max_files = 1000 }}\n"),
            ),
            Kind::Server => (
                "--every 50 --listen".to_owned(),
                format!("{AT_ONCE}sockets = [\"tcp:127.0.0.1:{}\"]\nwhen_down = \"hold\"\n", member.port),
            ),
            Kind::Parent => ("--every 50 --leave 3".to_owned(), AT_ONCE.to_owned()),
            Kind::Deaf => {
                ("--every 30 --deaf".to_owned(), format!("{AT_ONCE}stop = {{ timeout = \"300ms\" }}\n"))
            }
            Kind::Mayfly => ("--every 15 --die 700".to_owned(), AT_ONCE.to_owned()),
        };
        let mut words = vec![crate::program().with_file_name("martyr").display().to_string()];
        words.extend([self.ledgers().display().to_string(), member.name.clone()]);
        words.extend(ways.split(' ').map(str::to_owned));
        let seed = self.seed.wrapping_add(place as u64) % 1_000_000_007;
        words.extend(["--seed".to_owned(), seed.to_string()]);
        words.extend(["--variant".to_owned(), member.variant.to_string()]);
        // A log that is not rotated, unless its own line says otherwise.
        let log = if keys.contains("log = ") { "" } else { "log = { max_size = \"0\" }\n" };
        format!("[service.{}]\ncommand = {words:?}\n{keys}{log}", member.name)
    }

    /// Waits for the first life of each.
    pub(super) fn wait_begun(&self) -> Result<(), String> {
        let begun = Instant::now();
        while let Some(member) =
            self.members.iter().find(|member| ledger::latest(&self.ledgers(), &member.name).is_none())
        {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err(format!("{} has not begun in 20 s", member.name));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
