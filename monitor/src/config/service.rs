//! Reads `[service.NAME]` over `[defaults]` over what is built in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use defib_core::model::{
    Command, Launch, Leftovers, LogSpec, ReadySpec, ServiceName, ServiceSpec, StopSpec, WhenDown,
};

use super::command::command;
use super::document::{Node, Table};
use super::error::{Place, quoted};
use super::restart::Restart;
use super::{log, planned, ports, profile, sockets, values};

/// The keys that services share, as layers of tables have set them so far: a nearer layer overwrites a farther one
/// key by key, also inside `env`, `restart` and `stop`.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    cwd: PathBuf,
    env: BTreeMap<String, String>,
    env_file: Option<PathBuf>,
    user: Option<String>,
    group: Option<String>,
    groups: Option<Vec<String>>,
    inherit_env: BTreeSet<String>,
    umask: u32,
    needs_files: Vec<PathBuf>,
    service_group: Option<ServiceName>,
    log: LogSpec,
    autostart: bool,
    ready: ReadySpec,
    restart: Restart,
    stop: StopSpec,
    leftovers: Leftovers,
    hold_for: Duration,
    when_down: WhenDown,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            cwd: PathBuf::from("/"),
            env: BTreeMap::new(),
            env_file: None,
            user: None,
            group: None,
            groups: None,
            inherit_env: BTreeSet::new(),
            umask: 0o022,
            needs_files: Vec::new(),
            service_group: None,
            log: LogSpec::default(),
            autostart: true,
            ready: ReadySpec::default(),
            restart: Restart::default(),
            stop: StopSpec::default(),
            leftovers: Leftovers::default(),
            hold_for: ServiceSpec::HOLD_FOR,
            when_down: WhenDown::default(),
        }
    }
}

impl Keys {
    fn read(&mut self, table: &mut Table<'_>) {
        let some = |path| values::path(path).map(Some);
        let account = |node| values::account(node).map(Some);
        table.set(&mut self.cwd, "cwd", values::path);
        table.get("env", |node| env(node, &mut self.env));
        table.set(&mut self.env_file, "env_file", some);
        table.set(&mut self.user, "user", account);
        table.set(&mut self.group, "group", account);
        table.set(&mut self.groups, "groups", |node| {
            values::list(node, "an array of groups such as [\"video\", 44]", values::account).map(Some)
        });
        table.set(&mut self.inherit_env, "inherit_env", |node| {
            values::list(node, "an array of names of variables such as [\"TZ\"]", variable)
                .map(BTreeSet::from_iter)
        });
        table.set(&mut self.umask, "umask", umask);
        table.set(&mut self.needs_files, "needs_files", |node| {
            values::list(node, "an array of absolute paths such as [\"/etc/api.conf\"]", values::path)
        });
        table.set(&mut self.service_group, "service_group", |node| service_group(node).map(Some));
        table.get("log", |node| log::log(node, &mut self.log));
        table.set(&mut self.autostart, "autostart", values::boolean);
        table.set(&mut self.ready, "ready", ports::ready);
        table.get("restart", |node| self.restart.read(node));
        table.get("stop", |node| stop(node, &mut self.stop));
        table.set(&mut self.leftovers, "leftovers", |node| {
            values::word(node, &[("kill", Leftovers::Kill), ("keep", Leftovers::Keep)])
        });
        table.set(&mut self.hold_for, "hold_for", values::duration);
        table.set(&mut self.when_down, "when_down", |node| values::word(node, &sockets::WHEN_DOWN));
    }
}

/// Reads `[defaults]`.
pub(super) fn defaults(node: Node<'_>) -> Option<Keys> {
    let mut table = node.table("a table of a service's keys")?;
    let mut keys = table.get("profile", profile::profile).unwrap_or_default();
    keys.read(&mut table);
    table.finish(|key| match key {
        "command" | "description" | "hold_ports" | "pid_file" | "ports" | "sockets" => {
            Some("belongs to one service; move it to its [service.NAME]")
        }
        _ => planned::refusal(planned::SERVICE, key),
    });
    Some(keys)
}

/// Reads a service, and where its command stands.
pub(super) fn service(name: &str, node: Node<'_>, mut keys: Keys) -> Option<(ServiceSpec, Place)> {
    let name = name.parse::<ServiceName>();
    if let Err(why) = &name {
        node.complain::<()>(format!("not a name for a service: {why}"));
    }
    let mut table = node.table("a table with the keys of a service")?;
    let mut description = String::new();
    table.set(&mut description, "description", values::line);
    let command = table.get("command", |node| Some((node.place(), command(node)?)));
    if !table.has("command") {
        table.complain(
            "command",
            "missing; name the program, as in command = [\"/usr/bin/api\", \"--port\", \"80\"]",
        );
    }
    let ports = table.get("ports", ports::ports).unwrap_or_default();
    let sockets = table.get("sockets", sockets::sockets).unwrap_or_default();
    let hold = table.get("hold_ports", values::boolean).unwrap_or_default();
    let pid_file = table.get("pid_file", values::path);
    keys.read(&mut table);
    let hold_ports = if hold { ports.clone() } else { BTreeSet::new() };
    if let Some(why) = refused_hold(&ports, &keys).filter(|_| hold) {
        table.complain("hold_ports", why);
    }
    table.finish(|key| planned::refusal(planned::SERVICE, key));
    let (place, command) = command?;
    let mut spec = ServiceSpec { description, ports, pid_file, ..finish(name.ok()?, command, keys) };
    (spec.launch.sockets, spec.launch.hold_ports) = (sockets, hold_ports);
    Some((spec, place))
}

/// Why the ports of a service cannot be held.
fn refused_hold(ports: &BTreeSet<u16>, keys: &Keys) -> Option<&'static str> {
    if ports.is_empty() {
        return Some("there is no port to hold; name them in ports, as in ports = [8080]");
    }
    if keys.leftovers == Leftovers::Keep {
        return Some(
            "not together with leftovers = \"keep\": what is left of a life would share its ports with the next one",
        );
    }
    (keys.when_down == WhenDown::Hold).then_some(
        "not together with when_down = \"hold\": only sockets that defib opens itself can be held of a service that is down",
    )
}

fn finish(name: ServiceName, command: Command, keys: Keys) -> ServiceSpec {
    let launch = Launch {
        command,
        cwd: keys.cwd,
        env: keys.env,
        env_file: keys.env_file,
        user: keys.user,
        group: keys.group,
        groups: keys.groups,
        inherit_env: keys.inherit_env,
        umask: keys.umask,
        needs_files: keys.needs_files,
        sockets: Vec::new(),
        hold_ports: BTreeSet::new(),
    };
    ServiceSpec {
        name,
        description: String::new(),
        launch,
        autostart: keys.autostart,
        ports: BTreeSet::new(),
        ready: keys.ready,
        restart: keys.restart.finish(),
        stop: keys.stop,
        leftovers: keys.leftovers,
        log: keys.log,
        service_group: keys.service_group,
        pid_file: None,
        hold_for: keys.hold_for,
        when_down: keys.when_down,
    }
}

/// The name of a variable.
fn variable(node: Node<'_>) -> Option<String> {
    match values::argument(node.clone())? {
        name if name.is_empty() || name.contains('=') => node.refuse("the name of a variable"),
        name => Some(name),
    }
}

/// As chmod(1) takes it: octal, in quotes or with 0o.
fn umask(node: Node<'_>) -> Option<u32> {
    values::octal(node, "an octal mask such as \"027\" or 0o027, at most 777")
}

fn service_group(node: Node<'_>) -> Option<ServiceName> {
    match node.value.as_str().map(str::parse) {
        Some(Ok(name)) => Some(name),
        Some(Err(why)) => node.refuse(&format!("the name of a group: {why}")),
        None => node.refuse("the name of a group such as \"web\""),
    }
}

fn env(node: Node<'_>, env: &mut BTreeMap<String, String>) -> Option<()> {
    let table = node.table("a table of strings such as { RUST_LOG = \"info\" }")?;
    for (name, node) in table.nodes() {
        let value = values::argument(node);
        if name.is_empty() || name.contains(['=', '\0']) {
            table.complain(
                name,
                format!("found the name {}, wanted one without = and NUL, not empty", quoted(name)),
            );
        } else if let Some(value) = value {
            env.insert(name.to_owned(), value);
        }
    }
    Some(())
}

fn stop(node: Node<'_>, stop: &mut StopSpec) -> Option<()> {
    let mut table = node.table("a table such as { signal = \"TERM\", timeout = \"10s\" }")?;
    table.set(&mut stop.signal, "signal", values::signal);
    // Zero is a wish that one may have: SIGKILL follows at once.
    table.set(&mut stop.timeout, "timeout", values::duration);
    table.finish(|key| planned::refusal(planned::STOP, key));
    Some(())
}
