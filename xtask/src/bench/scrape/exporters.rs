//! The exporters that are usual besides: node_exporter for the host, process-exporter for its processes. Debian's, as it
//! has them, on the same host in the same minutes; the second with a group for each process, so that it tells of each
//! victim what defib tells of it.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::timed::Timed;
use crate::bench::peers::debian;
use crate::bench::stage::{Setup, Stage};
use crate::bench::subject::Subject;
use crate::bench::{Bench, clock};

/// How long one may take to listen.
const LIMIT: Duration = Duration::from_secs(20);

/// How one is started, given where it is to listen.
type Start = fn(&Stage<'_>, SocketAddr) -> Result<Command>;

const EXPORTERS: [(&str, Start); 2] =
    [("prometheus-node-exporter", node), ("prometheus-process-exporter", process)];

fn node(stage: &Stage<'_>, address: SocketAddr) -> Result<Command> {
    let mut command = debian::program(stage.programs, "usr/bin/prometheus-node-exporter");
    command.arg(format!("--web.listen-address={address}"));
    Ok(command)
}

fn process(stage: &Stage<'_>, address: SocketAddr) -> Result<Command> {
    let settings = stage.folder.join("process-exporter.yml");
    fs::write(&settings, "process_names:\n- name: \"{{.Comm}}-{{.PID}}\"\n  cmdline: [\".+\"]\n")?;
    let mut command = debian::program(stage.programs, "usr/bin/prometheus-process-exporter");
    command.arg(format!("--web.listen-address={address}"));
    command.arg("--config.path").arg(settings);
    Ok(command)
}

/// What scrapes of each take, or why that is not known.
pub(super) fn measure(bench: &Bench, scrapes: usize) -> Vec<(String, Result<Timed>)> {
    EXPORTERS.into_iter().map(|(name, start)| (name.to_owned(), one(bench, name, start, scrapes))).collect()
}

fn one(bench: &Bench, name: &'static str, start: Start, scrapes: usize) -> Result<Timed> {
    debian::unpack(&bench.programs, name)?;
    // Free a moment ago; whoever takes it in between makes the exporter fail, and is seen.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let setup = |stage: &Stage<'_>| start(stage, address).map(Setup::new);
    let subject = Subject::launch(name, &bench.arena, &bench.programs, &[], setup)?;
    let listens = clock::wait(LIMIT, || Ok(TcpStream::connect(address).ok()))?;
    listens.with_context(|| format!("{name}: does not listen within {LIMIT:?}"))?;
    Timed::of(address, subject.pid(), scrapes)
}
