//! The machine, the user, and how much of the host can be seen from here.

use std::env;
use std::fs;

use super::facts::{Facts, word};
use super::rights::{self, Namespaces, Place, Rights};
use super::row::{Group, Row};

const GROUP: Group = Group::Host;

pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    vec![
        kernel(facts),
        user(&facts.rights, &facts.namespaces),
        namespaces(facts),
        container(facts),
        config(facts),
    ]
}

fn kernel(facts: &Facts) -> Row {
    let found = format!("Linux {} on {}", facts.release, facts.machine);
    // What fails on the older ones is found by trying: this says only what to do about it.
    if facts.since(5, 10) {
        GROUP.ok("kernel", found)
    } else {
        GROUP.limited(
            "kernel",
            format!("{found}: eBPF needs 5.10, starts need 5.7"),
            "run Linux 5.10 or later",
        )
    }
}

fn user(rights: &Rights, namespaces: &Namespaces) -> Row {
    let who = if rights.uid == 0 { "root".to_owned() } else { format!("user {}", rights.uid) };
    if namespaces.user == Place::Own {
        let found = format!("{who} of a user namespace, whose rights end at its border: no eBPF");
        return GROUP.limited("user", found, "run defib as the host's root for eBPF");
    }
    let lacking: Vec<_> = rights::USED.iter().filter(|capability| !rights.has(capability)).collect();
    if lacking.is_empty() {
        return GROUP.ok("user", format!("{who}, with every capability that defib uses"));
    }
    if lacking.len() == rights::USED.len() {
        let found = format!("{who}, without capabilities: no eBPF, services of this user only");
        let remedy = if rights.uid == 0 {
            "grant them (docker: --privileged, or --cap-add for each); restarts work all the same"
        } else {
            "run defib as root, or leave it: restarts work all the same"
        };
        return GROUP.limited("user", found, remedy);
    }
    let names: Vec<_> =
        lacking.iter().map(|capability| format!("{} ({})", capability.name, capability.purpose)).collect();
    let remedy = "grant them: AmbientCapabilities= in a unit, --cap-add for a container";
    GROUP.limited("user", format!("{who}, without {}", names.join(", ")), remedy)
}

fn namespaces(facts: &Facts) -> Row {
    let name = "namespaces";
    let of = |wanted: Place| {
        let all = facts.namespaces.all().into_iter();
        all.filter(|(_, place)| *place == wanted).map(|(name, _)| name).collect::<Vec<_>>()
    };
    let (host, own, unknown) = (of(Place::Host), of(Place::Own), of(Place::Unknown));
    let unknown = match unknown.as_slice() {
        [] => String::new(),
        names => format!(" (not known: {})", names.join(" ")),
    };
    if own.is_empty() {
        return match host.as_slice() {
            [] => GROUP.limited(name, "/proc does not tell: no eBPF", "mount -t proc none /proc"),
            names => GROUP.ok(name, format!("the host's: {}{unknown}", names.join(" "))),
        };
    }
    let found = format!("its own: {}{unknown}", own.join(" "));
    match effects(&own) {
        effects if effects.is_empty() => GROUP.ok(name, found),
        effects => {
            let remedy = match flags(&own) {
                flags if flags.is_empty() => "run defib in the host's".to_owned(),
                flags => format!("run defib in the host's (docker: {flags})"),
            };
            GROUP.limited(name, format!("{found}: {}", effects.join("; ")), remedy)
        }
    }
}

/// What is not there in namespaces that are not the host's.
fn effects(own: &[&str]) -> Vec<&'static str> {
    let mut effects = Vec::new();
    if own.iter().any(|name| ["pid", "user", "time"].contains(name)) {
        effects.push("no eBPF, no proc connector, which see the host's");
    } else if own.contains(&"net") {
        effects.push("no proc connector");
    }
    if own.contains(&"net") {
        effects.push("ports are those of this network");
    }
    effects
}

/// How a container is let into the host's.
fn flags(own: &[&str]) -> String {
    let flag = |name: &&str| match *name {
        "pid" => Some("--pid=host"),
        "user" => Some("--userns=host"),
        "net" => Some("--network=host"),
        _ => None,
    };
    own.iter().filter_map(flag).collect::<Vec<_>>().join(" ")
}

/// What container managers leave where it can be found.
const MARKS: [(&str, &str); 3] = [
    ("/.dockerenv", "docker"),
    ("/run/.containerenv", "podman"),
    ("/run/systemd/container", "a container of systemd's kind"),
];

fn container(facts: &Facts) -> Row {
    let file = MARKS.iter().find(|(path, _)| fs::exists(path).unwrap_or(false));
    let variable = || env::var("container").ok().filter(|name| !name.is_empty());
    let sign = match file {
        Some((path, name)) => Some(format!("{name} ({path})")),
        None => variable()
            .map(|name| format!("{name} ($container)"))
            .or_else(|| manager(&facts.membership).map(|name| format!("{name} (/proc/self/cgroup)"))),
    };
    let seccomp = if facts.rights.seccomp { "; a seccomp filter is in force" } else { "" };
    let found = match sign {
        Some(sign) => format!("{sign}; the rows below say what it withholds{seccomp}"),
        None => format!("no sign of one{seccomp}"),
    };
    GROUP.ok("container", found)
}

/// The container manager that the names of cgroups give away.
fn manager(membership: &str) -> Option<&'static str> {
    ["docker", "kubepods", "libpod", "lxc", "containerd"].into_iter().find(|name| membership.contains(name))
}

fn config(facts: &Facts) -> Row {
    let settings = &facts.settings;
    let file = settings.file.display();
    match &settings.outcome {
        Ok(0) if !settings.present => {
            GROUP.ok("config", format!("{file} is not there: no service, defaults"))
        }
        Ok(services) => {
            let plural = if *services == 1 { "" } else { "s" };
            GROUP.ok("config", format!("{file}: {services} service{plural}"))
        }
        Err((errors, first)) => {
            let more = match errors.saturating_sub(1) {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            GROUP.limited("config", format!("no daemon would start: {first}{more}"), "see `defib check`")
        }
    }
}

/// Whether the kernel is locked down, and how far; `None` where there is no lockdown.
pub(super) fn lockdown() -> Option<String> {
    chosen(&word("/sys/kernel/security/lockdown")?).map(str::to_owned).filter(|level| level != "none")
}

/// The word in brackets.
fn chosen(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_cgroups_give_a_manager_away() {
        assert_eq!(manager("0::/system.slice/docker-1234.scope\n"), Some("docker"));
        assert_eq!(manager("0::/\n"), None);
    }

    #[test]
    fn what_namespaces_withhold_is_told_with_the_way_out() {
        assert_eq!(effects(&["net"]), ["no proc connector", "ports are those of this network"]);
        assert_eq!(effects(&["pid", "net"]).len(), 2);
        assert!(effects(&["cgroup"]).is_empty());
        assert_eq!(flags(&["pid", "cgroup", "net"]), "--pid=host --network=host");
    }

    #[test]
    fn the_word_in_brackets_is_the_chosen_one() {
        assert_eq!(chosen("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(chosen("none"), None);
        assert_eq!(chosen("]["), None);
    }
}
