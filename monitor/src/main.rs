//! The program: reads the command line, carries out the verb, ends with its exit code.

use std::process::ExitCode;

use defib::cli;
use defib::cli::args::{Cli, Command, Daemon, DaemonVerb};
use defib::keeper::Early;
use defib::{api, daemon};

fn main() -> ExitCode {
    if cli::manual::completed() {
        return ExitCode::SUCCESS;
    }
    let early = Early::hold();
    match cli::color::parse(std::env::args_os().collect()) {
        Ok(cli) => {
            if !cli.is_keeper() {
                early.let_go();
            }
            dispatch(cli)
        }
        Err(usage) => usage.tell().into(),
    }
}

fn dispatch(Cli { options, command }: Cli) -> ExitCode {
    let exit = match command {
        Command::Daemon(Daemon { ask: None, check_handover: true, .. }) => return daemon::check_handover(),
        Command::Daemon(Daemon { ask: None, under_keeper, handover, .. }) => {
            return daemon::run(
                &options.overrides(false),
                under_keeper,
                handover,
                |listener, handle, stop| Box::pin(api::serve(listener, handle, stop)),
            );
        }
        Command::Daemon(Daemon { ask: Some(DaemonVerb::Restart), .. }) => cli::daemon::restart(&options),
        Command::Daemon(Daemon { ask: Some(DaemonVerb::Stop { now, leave }), .. }) => {
            cli::daemon::stop(&options, now, leave)
        }
        Command::Daemon(Daemon { ask: Some(DaemonVerb::Purge), .. }) => cli::daemon::purge(options),
        Command::Status { chosen } => cli::status::run(&options, &chosen),
        Command::Stats(words) => cli::stats::run(&options, &words),
        Command::Ports(words) => cli::ports::run(&options, &words),
        Command::Inspect(words) => cli::inspect::run(&options, &words),
        Command::Completions(shell) => cli::manual::completions(&options, &shell),
        Command::Man(pages) => cli::manual::pages(&options, &pages),
        Command::Act(act) => cli::verbs::run(&options, act),
        Command::Events { follow: false, service, after, .. } => {
            cli::events::past(&options, service.as_ref(), after)
        }
        Command::Events { all, service, after, .. } => {
            cli::events::follow(&options, all, service.as_ref(), after)
        }
        Command::Reload { dry_run } => cli::reload::run(&options, dry_run),
        Command::Logs(wanted) => cli::logs::run(&options, &wanted),
        Command::Check { chosen, strict } => cli::check::run(options, &chosen, strict),
        Command::Init { file, force } => cli::init::run(options, file.as_deref(), force),
        Command::Schema => cli::schema::run(&options),
        Command::Doctor => cli::doctor::run(&options),
        Command::Install(wanted) => cli::install::install(&options, &wanted),
        Command::Uninstall(wanted) => cli::install::uninstall(&options, &wanted),
        Command::LoadProbes => cli::probes::run(&options),
    };
    exit.into()
}
