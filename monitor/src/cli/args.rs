//! The words of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use defib_core::Verb;
use defib_core::model::{ServiceName, Signal};
use jiff::Timestamp;
use nix::unistd::geteuid;

use super::choice::{Chosen, Wanted};
use super::install::{Install, Uninstall};
use super::{inspect, manual, ports, stats};
use crate::api::types::{InvalidTime, time};
use crate::config::{self, ConfigErrors, Flags, Overrides};
use crate::{duration, size};

/// A supervisor that hears from the kernel when a process dies, and starts it again
#[derive(Debug, Parser)]
// Of a flag given twice the last counts, so that an alias or a wrapper can be overruled.
#[command(name = "defib", version, max_term_width = 100, after_help = EXITS, args_override_self = true)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Whether this program is to be the keeper.
    pub fn is_keeper(&self) -> bool {
        let Command::Daemon(daemon) = &self.command else { return false };
        daemon.ask.is_none() && !daemon.under_keeper && !daemon.check_handover
    }
}

const EXITS: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 daemon unreachable, 6 disabled, 130 interrupted.
Of several services the highest code counts.";

const BOOT: &str = "\
What --boot sets is kept in boot.json in the state directory, over restarts of defib and of the machine. \
It changes nothing about the process that runs now.

  defib disable --boot api      it runs on, and does not start with defib any more";

const GROUPS: &str = "\
  defib restart api             one
  defib restart 'api-*' db      all whose names fit, and another; quotes keep the shell from looking for files
  defib restart 'web:*'         all of a group, as with --group web
  defib restart --all";

const PAUSE: &str = "\
  defib pause api --for 30m     while somebody debugs it: it may crash, and stays as it is
  defib resume api              what crashed meanwhile is started again";

const KILL: &str = "\
  defib kill api --signal HUP   as kill(1), by name";

const RESTART: &str = "\
The keeper executes the new binary in place of itself: it keeps its pid, its children and all that it holds for them. \
Before that, the new binary must understand what it will be handed; and if its daemon ends three times before it \
supervises, the old binary comes back. Exit code 1 says that the old one runs.

What [daemon] says of folders and the like counts from the next start of defib on, not from a restart.";

/// What holds for every verb, and may stand before or after it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Options {
    /// The configuration file [env: DEFIB_CONFIG] [default: /etc/defib/defib.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the socket is [env: DEFIB_RUNTIME_DIR] [default: what the configuration says, or /run/defib]
    #[arg(long, global = true, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// What survives a restart of the machine [env: DEFIB_STATE_DIR] [default: /var/lib/defib]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the output of services goes [env: DEFIB_LOG_DIR] [default: /var/log/defib]
    #[arg(long, global = true, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// A file NAME.pid for each service that runs goes here [env: DEFIB_PID_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub pid_dir: Option<PathBuf>,
    /// What runs the services: direct, by defib itself [env: DEFIB_BACKEND] [default: direct]
    #[arg(long, global = true, value_name = "BACKEND")]
    pub backend: Option<String>,
    /// Decides `restart.max_restarts` of every service: 1 to 256, or none [env: DEFIB_MAX_RESTARTS]
    #[arg(long, global = true, value_name = "N")]
    pub max_restarts: Option<String>,
    /// Where Prometheus scrapes; "" for nowhere [env: DEFIB_LISTEN_METRICS] [default: 127.0.0.1:9977]
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    pub listen_metrics: Option<String>,
    /// The web configuration file that says by TLS and by passwords who may ask there, as other exporters have it; "" for
    /// none [env: DEFIB_LISTEN_WEB_CONFIG]
    #[arg(long, global = true, value_name = "FILE", alias = "web.config.file")]
    pub listen_web_config: Option<PathBuf>,
    /// Where the daemon's own log goes: stderr, journal or a file [env: DEFIB_LOG_TO] [default: stderr]
    #[arg(long, global = true, value_name = "TARGET")]
    pub log_to: Option<String>,
    /// Its form: text or json [env: DEFIB_LOG_FORMAT] [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What it tells, also by module: info,defib::source=debug [env: DEFIB_LOG] [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Where events come from: auto, ebpf, proc-connector or pidfd [env: DEFIB_SOURCE] [default: auto]
    #[arg(long, global = true, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Whether to use colour; auto: on a terminal or with CLICOLOR_FORCE, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

impl Options {
    /// Where the socket of the daemon may be that is to be asked.
    ///
    /// # Errors
    /// If `--config` names a file that cannot be read.
    pub fn socket_folders(&self) -> Result<Vec<PathBuf>, ConfigErrors> {
        config::socket_folders(&self.clone().overrides(false))
    }

    /// What decides over the configuration file, with the environment of this process.
    pub fn overrides(self, strict: bool) -> Overrides {
        let flags = Flags {
            config: self.config,
            state_dir: self.state_dir,
            runtime_dir: self.runtime_dir,
            log_dir: self.log_dir,
            pid_dir: self.pid_dir,
            backend: self.backend,
            max_restarts: self.max_restarts,
            listen_metrics: self.listen_metrics,
            // Meant from where it was typed. Nothing cannot be made absolute, and stays nothing.
            listen_web_config: self.listen_web_config.map(|path| std::path::absolute(&path).unwrap_or(path)),
            log_to: self.log_to,
            log_format: self.log_format,
            log_level: self.log_level,
            source: self.source,
            strict,
        };
        Overrides::new(flags, |name| std::env::var_os(name), geteuid().as_raw())
    }
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon, or ask the one that runs to leave
    #[command(args_conflicts_with_subcommands = true)]
    Daemon(Daemon),
    /// Show services: ● up, ● on the way or not ready (yellow), ○ down
    ///
    /// Of the PORTS that a service names, `8080` listens, `8080!` does not, and of `8080?` it cannot be known. A service
    /// that runs and is not ready says so under NEXT/WHY. One service, by its name, is shown in detail.
    Status {
        /// Which.
        #[command(flatten)]
        chosen: Chosen,
    },
    /// A verb for services.
    #[command(flatten)]
    Act(Act),
    /// Show what services use: CPU, memory, connections
    Stats(stats::Words),
    /// Show what a service consists of at this moment: processes, threads, files, sockets, memory, limits
    Inspect(inspect::Words),
    /// Show ports: who listens, connections that are open and were, what waits to be accepted
    Ports(ports::Words),
    /// Show what happened
    Events {
        /// Go on with what happens, until interrupted
        #[arg(short, long)]
        follow: bool,
        /// Only what concerns this service
        #[arg(long, value_name = "NAME")]
        service: Option<ServiceName>,
        /// Also what happens to every other process of the host, from now on; wants --follow
        #[arg(long, requires = "follow", conflicts_with = "service")]
        all: bool,
        /// Only what happened after the event of this number (`seq` in the JSON)
        #[arg(long, value_name = "SEQ")]
        after: Option<u64>,
    },
    /// Show what services have written: the last 1000 lines, unless something else is said
    ///
    /// On a terminal control characters are escaped; through a pipe the bytes come as they were written.
    Logs(Logs),
    /// Check the configuration, errors as FILE:LINE: KEY: …; and whether services could be started
    Check {
        /// Services to look at: program, user, files, ports. Without any, only the configuration is checked
        #[command(flatten)]
        chosen: Chosen,
        /// Take warnings for errors
        #[arg(long)]
        strict: bool,
    },
    /// Read the configuration again; only what has changed is touched, and a bad one changes nothing
    Reload {
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Write a commented configuration file, with every key and its default
    Init {
        /// Where to; without it, where the configuration is looked for
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Print the JSON schema of the configuration, for editors
    Schema,
    /// Say what this kernel and these rights allow defib to do, and what to do about the rest
    Doctor,
    /// Print a script with which a shell completes the words of defib
    Completions(manual::Shell),
    /// Print the manual page, or write one for each verb into a folder
    Man(manual::Pages),
    /// Write the units of systemd: defib.service, and defib@NAME.service for each service
    Install(Install),
    /// Remove what `install` has made
    Uninstall(Uninstall),
    /// Load the eBPF programs, say what came of it, and unload them
    #[command(hide = true)]
    LoadProbes,
}

/// The verbs for services.
#[derive(Debug, Subcommand)]
pub enum Act {
    /// Start services, and wait until they run
    #[command(after_help = GROUPS)]
    Start(Wanted),
    /// Stop services, and wait until nothing of them is left
    #[command(after_help = GROUPS)]
    Stop(Wanted),
    /// Stop services and start them again; one that could not be started is left running
    #[command(after_help = GROUPS)]
    Restart(Wanted),
    /// Forget failures: `failed` becomes `stopped`, and a series of restarts begins anew
    Reset(Wanted),
    /// Allow starts again; with --boot, start services with the daemon
    #[command(after_help = BOOT)]
    Enable {
        /// Which.
        #[command(flatten)]
        wanted: Wanted,
        /// Only from the next start of defib on: as `autostart = true`, whatever the file says
        #[arg(long)]
        boot: bool,
    },
    /// Stop services and refuse every start until `enable`; with --boot, do not start them with the daemon
    #[command(after_help = BOOT)]
    Disable {
        /// Which.
        #[command(flatten)]
        wanted: Wanted,
        /// Only from the next start of defib on: as `autostart = false`, whatever the file says
        #[arg(long)]
        boot: bool,
    },
    /// No automatic restart of services, until `resume` or for a while; ends are recorded as ever
    #[command(after_help = PAUSE)]
    Pause {
        /// Which.
        #[command(flatten)]
        wanted: Wanted,
        /// For how long, as in 30m
        #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
        span: Option<Duration>,
    },
    /// Restart services automatically again, and at once those that ended meanwhile
    #[command(after_help = PAUSE)]
    Resume(Wanted),
    /// Send a signal to the main process of services; one that ends of it has crashed
    #[command(after_help = KILL)]
    Kill {
        /// Which.
        #[command(flatten)]
        wanted: Wanted,
        /// The signal, with or without SIG, or its number
        #[arg(short, long, default_value = "TERM")]
        signal: Signal,
    },
}

impl Act {
    /// What is asked, and of which services.
    pub fn split(self) -> (Asked, Wanted) {
        let (verb, wanted) = match self {
            Self::Start(wanted) => (Verb::Start, wanted),
            Self::Stop(wanted) => (Verb::Stop, wanted),
            Self::Restart(wanted) => (Verb::Restart, wanted),
            Self::Reset(wanted) => (Verb::Reset, wanted),
            Self::Enable { wanted, boot: true } => return (Asked::Boot(true), wanted),
            Self::Disable { wanted, boot: true } => return (Asked::Boot(false), wanted),
            Self::Enable { wanted, .. } => (Verb::Enable, wanted),
            Self::Disable { wanted, .. } => (Verb::Disable, wanted),
            Self::Pause { wanted, span } => {
                // The longest duration has fewer nanoseconds than 64 bits can count.
                (Verb::Pause(span.and_then(|span| u64::try_from(span.as_nanos()).ok())), wanted)
            }
            Self::Resume(wanted) => (Verb::Resume, wanted),
            Self::Kill { wanted, signal } => (Verb::Kill(signal), wanted),
        };
        (Asked::Verb(verb), wanted)
    }
}

/// What is asked of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A verb.
    Verb(Verb),
    /// Whether it is to start with the daemon.
    Boot(bool),
}

/// What is wanted of the logs.
#[derive(Debug, Args)]
pub struct Logs {
    /// Which services. Lines of several are in the order of their times
    #[command(flatten)]
    pub chosen: Chosen,
    /// Go on with what they write, until interrupted; begins with the last 10 lines
    #[arg(short, long, conflicts_with_all = ["until", "count"])]
    pub follow: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Only what came since: 2026-05-01T12:00:00Z, or 1h, or "1 hour ago"
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub since: Option<String>,
    /// Only what came until then
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub until: Option<String>,
    /// Only lines that hold this text
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
    /// Only say how many lines there are
    #[arg(long)]
    pub count: bool,
    /// Only this stream: stdout or stderr; wants `log.streams = "apart"`
    #[arg(long, value_name = "STREAM", value_parser = stream)]
    pub stream: Option<&'static str>,
    /// Show when each line came, to about 100 ms
    #[arg(short, long)]
    pub timestamps: bool,
    /// Say what the files take
    #[arg(long, conflicts_with_all = ["follow", "lines", "since", "until", "grep", "count", "stream"])]
    pub disk_usage: bool,
    /// Remove rotated files that have not been written for longer, as in 7d
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with_all = ["follow", "disk_usage", "count"])]
    pub vacuum_time: Option<Duration>,
    /// Remove the oldest rotated files until all files of these services together are no larger, as in 500M
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with_all = ["follow", "disk_usage", "count"])]
    pub vacuum_size: Option<u64>,
}

/// A time is the daemon's to read, by its clock; nonsense is refused here.
fn past(text: &str) -> Result<String, InvalidTime> {
    // What is too long ago for a clock is so for every clock.
    time(text, Timestamp::now()).map(|_| text.to_owned())
}

fn stream(text: &str) -> Result<&'static str, &'static str> {
    match text {
        "stdout" => Ok("stdout"),
        "stderr" => Ok("stderr"),
        _ => Err("the streams are stdout and stderr"),
    }
}

/// The daemon's own verbs.
#[derive(Debug, Args)]
pub struct Daemon {
    /// Set by the keeper for the daemon that it starts.
    #[arg(long, hide = true)]
    pub under_keeper: bool,
    /// Set by a keeper that executes this binary in place of its own: where it hands over what it holds.
    #[arg(long, hide = true, value_name = "FD")]
    pub handover: Option<i32>,
    /// Only say whether this binary could take over what is on standard input.
    #[arg(long, hide = true)]
    pub check_handover: bool,
    /// What to ask of the daemon that runs.
    #[command(subcommand)]
    pub ask: Option<DaemonVerb>,
}

/// What can be asked of a daemon.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum DaemonVerb {
    /// Go on as the binary that is on the disk now, and wait until its daemon supervises; services run on
    #[command(after_help = RESTART)]
    Restart,
    /// End every service, then the daemon, and wait until it is gone
    Stop {
        /// By SIGKILL, without waiting for anybody
        #[arg(long)]
        now: bool,
        /// End no service: all run on, and the next start of defib takes them over
        #[arg(long, conflicts_with = "now")]
        leave: bool,
    },
    /// Remove what a daemon that does not run any more has left: pins, empty cgroups, its state, not its logs
    Purge,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_verb() {
        for line in ["defib --json --runtime-dir /r status a", "defib status a --runtime-dir /r --json"] {
            let cli = parse(line).unwrap();
            assert!(cli.options.json && cli.options.runtime_dir == Some("/r".into()), "{line}");
            assert!(matches!(cli.command, Command::Status { chosen } if chosen.names == ["a"]), "{line}");
        }
        let cli = parse("defib daemon stop --now --config /c").unwrap();
        assert_eq!(cli.options.config, Some("/c".into()));
        assert!(matches!(
            cli.command,
            Command::Daemon(Daemon { ask: Some(DaemonVerb::Stop { now: true, leave: false }), .. })
        ));
    }

    #[test]
    fn a_verb_names_services_or_means_all_of_them() {
        for line in ["defib stop", "defib stop --all a", "defib kill a --signal NOPE", "defib stop a --now"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        let cli = parse("defib kill a b* --signal sighup --no-wait").unwrap();
        let Command::Act(act) = cli.command else { panic!("not a verb for services") };
        let (verb, wanted) = act.split();
        assert_eq!((verb, wanted.names.len(), wanted.no_wait), (Asked::Verb(Verb::Kill(Signal(1))), 2, true));
    }
}
