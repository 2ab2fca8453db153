//! What of the eBPF source is pinned for the daemon with this state directory.

use std::time::Duration;

use crate::duration;
use crate::effect::cgroup::short_name;
use crate::source::{PinnedSet, Unpinned, pinned};

use super::bpf::told;
use super::facts::Facts;
use super::row::{Group, Row};

const GROUP: Group = Group::State;
const NAME: &str = "pins";

pub(super) fn row(facts: &Facts) -> Row {
    match pinned(&short_name(&facts.settings.state_dir)) {
        Ok(sets) if sets.is_empty() => GROUP.ok(NAME, "nothing is pinned for this state directory"),
        Ok(sets) => {
            let found: Vec<_> = sets.iter().map(shown).collect();
            GROUP.ok(NAME, found.join("; "))
        }
        Err(error) => refused(&error),
    }
}

fn shown(set: &PinnedSet) -> String {
    let PinnedSet { path, version, age, programs, maps, ends } = set;
    let version = version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
    let age =
        age.map_or_else(|| "some time".to_owned(), |age| duration::show(Duration::from_secs(age.as_secs())));
    let waiting = match ends {
        Some(ends) => format!("{ends} ends wait to be taken"),
        None => "its ends cannot be read".to_owned(),
    };
    let path = path.display();
    format!("{path}: layout {version}, {programs} programs and {maps} maps, for {age}, {waiting}")
}

/// A daemon would not use the folder either.
fn refused(error: &Unpinned) -> Row {
    let (found, remedy) = told(error);
    GROUP.limited(NAME, format!("{found}: nothing is recorded while no daemon runs"), remedy)
}
