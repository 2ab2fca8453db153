//! defib, configured by a file as anybody would. A victim is restarted at once, always, and as often as it is crashed;
//! all else is left as it comes.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::Peer;
use crate::bench::Bench;
use crate::bench::programs::Programs;
use crate::bench::stage::{Service, Setup, Stage};
use crate::bench::subject::Subject;

/// What differs from one bench to the other.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Options<'a> {
    pub(in crate::bench) source: &'static str,
    /// As in `DEFIB_LOG`.
    pub(in crate::bench) log: &'static str,
    /// Where metrics are served; empty: nowhere.
    pub(in crate::bench) metrics: &'static str,
    /// A socket that is held for every victim.
    pub(in crate::bench) socket: Option<u16>,
    /// More lines for every service.
    pub(in crate::bench) service: &'static str,
    /// More lines above all services.
    pub(in crate::bench) head: &'a str,
}

impl Options<'static> {
    pub(in crate::bench) const PLAIN: Self =
        Self { source: "auto", log: "info", metrics: "", socket: None, service: "", head: "" };
}

pub(super) const PEER: Peer =
    Peer { name: "defib", prepare: |_| Ok(String::new()), setup: |stage| setup(stage, Options::PLAIN) };

/// Starts one with a victim for each of `victims`: programs, and what these are given beside the file of their starts.
pub(in crate::bench) fn launch(
    bench: &Bench,
    name: &'static str,
    victims: &[(&Path, Vec<String>)],
    options: Options<'_>,
) -> Result<Subject> {
    Subject::launch(name, &bench.arena, &bench.programs, victims, |stage| setup(stage, options))
}

/// Starts one whose state directory is at `place`.
pub(in crate::bench) fn launch_on(
    bench: &Bench,
    victims: &[(&Path, Vec<String>)],
    place: &Path,
) -> Result<Subject> {
    Subject::launch("defib", &bench.arena, &bench.programs, victims, |stage| {
        std::os::unix::fs::symlink(place, stage.folder.join("state"))?;
        setup(stage, Options::PLAIN)
    })
}

pub(in crate::bench) fn setup(stage: &Stage<'_>, options: Options<'_>) -> Result<Setup> {
    let config = stage.folder.join("defib.toml");
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&config)?;
    file.write_all(settings(stage.services, options).as_bytes())?;
    let mut defib = Command::new(&stage.programs.defib);
    defib
        .args(["daemon", "--source", options.source, "--listen-metrics", options.metrics, "--config"])
        .arg(config);
    for (option, name) in [("--runtime-dir", "run"), ("--state-dir", "state"), ("--log-dir", "log")] {
        defib.arg(option).arg(stage.folder.join(name));
    }
    defib.env("DEFIB_LOG", options.log);
    Ok(Setup { polite: true, ..Setup::new(defib) })
}

/// The configuration.
pub(in crate::bench) fn settings(services: &[Service], options: Options<'_>) -> String {
    let service = |service: &Service| {
        let words: Vec<String> = service.words().iter().map(|word| format!("'{word}'")).collect();
        let sockets = options.socket.map(|port| format!("sockets = [\"tcp:127.0.0.1:{port}\"]\n"));
        format!(
            "[service.{}]\ncommand = [{}]\n{}{}restart = {{ policy = \"always\", immediate = 1000000, \
             max_restarts = \"none\", reset_after = \"1ms\" }}\n",
            service.name,
            words.join(", "),
            sockets.unwrap_or_default(),
            options.service,
        )
    };
    std::iter::once(options.head.to_owned()).chain(services.iter().map(service)).collect()
}

/// From where a defib hears of ends, in its own word; `unknown` if it does not say.
pub(in crate::bench) fn source(subject: &Subject, programs: &Programs) -> String {
    let mut status = Command::new(&programs.defib);
    let output =
        status.args(["status", "--json", "--runtime-dir"]).arg(subject.folder().join("run")).output();
    let answer = output.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
    answer.and_then(|answer| Some(answer["source"].as_str()?.to_owned())).unwrap_or("unknown".to_owned())
}

/// A command that follows the events of all processes.
pub(in crate::bench) fn all_events(subject: &Subject, programs: &Programs) -> Command {
    let mut events = Command::new(&programs.defib);
    events.args(["events", "--all", "--follow", "--json", "--runtime-dir"]).arg(subject.folder().join("run"));
    events
}
