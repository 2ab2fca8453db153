//! Which services a verb is for: the words that verbs share.

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::names;

/// What names and groups look like.
const NAMES: &str = "\
Which services. `*` and `?` stand for any text and any character; GROUP:NAME means those of a group, GROUP:* all of it";

/// Services of which a verb wants some.
#[derive(Debug, Args)]
pub struct Wanted {
    #[doc = "Which."]
    #[arg(value_name = "NAME", help = NAMES, add = ArgValueCompleter::new(names::complete))]
    #[arg(required_unless_present_any = ["all", "group"], conflicts_with = "all")]
    pub names: Vec<String>,
    /// All services of this group, which `service_group` names; may be given several times
    #[arg(short, long, value_name = "GROUP", conflicts_with = "all")]
    #[arg(add = ArgValueCompleter::new(names::complete_group))]
    pub group: Vec<String>,
    /// All services
    #[arg(long)]
    pub all: bool,
    /// Return as soon as the daemon has taken the order
    #[arg(long)]
    pub no_wait: bool,
}

/// Services of which a verb takes all if none is named.
#[derive(Debug, Default, Args)]
pub struct Chosen {
    #[doc = "Which; all without one."]
    #[arg(value_name = "NAME", help = format!("{NAMES}. All without one"))]
    #[arg(add = ArgValueCompleter::new(names::complete), conflicts_with = "all")]
    pub names: Vec<String>,
    /// All services of this group, which `service_group` names; may be given several times
    #[arg(short, long, value_name = "GROUP", conflicts_with = "all")]
    #[arg(add = ArgValueCompleter::new(names::complete_group))]
    pub group: Vec<String>,
    /// All services, as without a name
    #[arg(long)]
    pub all: bool,
}
