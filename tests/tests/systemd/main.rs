//! Under a real systemd, in a container made of this very system: an overlay of `/`, of which nothing stays.
//! `DEFIB_SYSTEMD_ROOT` names the root of another system for it: `cargo xtask systemds`.
//!
//! It needs root, and systemd-nspawn (`cargo xtask setup` installs it). As root without it the test fails: a gate that is
//! not there is not passed.
#![expect(clippy::disallowed_methods, reason = "a container is started, and waited for")]

mod machine;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use defib_tests::{Daemon, Options, Said, patiently, signal};
use serde_json::Value;

use machine::{Machine, remove};

/// What another keeper is to find.
struct Before {
    keeper: u32,
    services: [u32; 2],
    writer: u32,
    pipes: String,
}

impl Machine {
    /// Waits until another keeper is the unit's main process, and ready.
    #[track_caller]
    fn comes_back_after(&self, keeper: u32) {
        patiently("the unit to be back", || {
            let other = ![0, keeper].contains(&self.keeper());
            (other && self.show("ActiveState") == "active").then_some(())
        });
    }

    /// That another keeper has taken over what lives, and has what the one before has left.
    #[track_caller]
    fn assert_taken_over(&self, before: &Before) {
        assert_ne!(self.keeper(), before.keeper);
        assert_eq!(self.show("StatusText"), "supervises");
        assert_eq!(self.services(), before.services);
        assert_eq!(self.runs("writer"), before.writer);
        let mut one_each = before.services.to_vec();
        one_each.sort_unstable();
        assert_eq!(self.sleepers(), one_each, "one process for each service");
        assert_eq!(self.pipes(), before.pipes, "RuntimeDirectory= has been kept");
        let status: Value = serde_json::from_str(&self.must("defib status --json")).expect("JSON");
        for service in status["services"].as_array().expect("services") {
            assert_eq!(service["adopted"], true, "{service:#}");
        }
        each_process_is_where_it_belongs(self);
    }

    /// systemd starts what requires defib anew, and takes a moment for that.
    #[track_caller]
    fn is_active_again(&self, unit: &str) {
        patiently("the service's unit to be back", || {
            (self.run(&format!("systemctl is-active {unit}")).out == "active\n").then_some(())
        });
    }

    fn before(&self) -> Before {
        let [keeper, writer] = [self.keeper(), self.runs("writer")];
        Before { keeper, writer, services: self.services(), pipes: self.pipes() }
    }

    /// The pipes and spools of the services, each with its number.
    fn pipes(&self) -> String {
        self.must("find /run/defib/output -name '*api*' -printf '%i %p\\n' | sort | grep .")
    }

    #[track_caller]
    fn assert_untouched(&self, keeper: u32, services: [u32; 2], restarts: &str) {
        assert_eq!(self.show("ActiveState"), "active");
        assert_eq!(self.keeper(), keeper);
        assert_eq!(self.services(), services);
        assert_eq!(self.show("NRestarts"), restarts);
    }
}

/// systemd 254 and later start the keeper in the subgroup that `DelegateSubgroup=` names: what is above it is defib's.
#[test]
fn the_subgroup_that_systemd_makes_is_taken_for_the_keepers() {
    if !nix::unistd::geteuid().is_root() {
        writeln!(std::io::stderr(), "skipped: cgroups need root").ok();
        return;
    }
    let mount = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let mount = mount.iter().find(|path| path.join("cgroup.controllers").exists()).expect("a cgroup v2");
    let unit = mount.join(format!("defib-unit-{}", std::process::id()));
    let leaf = unit.join("defib");
    fs::create_dir_all(&leaf).expect("cgroups");
    rustix::fs::setxattr(&unit, "trusted.delegate", b"1", rustix::fs::XattrFlags::empty()).expect("a mark");
    let enter =
        format!("case $* in *daemon*) echo $$ > {}/cgroup.procs ;; esac; exec \"$@\"", leaf.display());
    let options =
        Options { before: ["sh", "-c", &enter, "sh"].map(str::to_owned).into(), ..Options::default() };
    let mut daemon = Daemon::start_with("[service.it]\ncommand = \"sleep 1000\"\n", &options);
    let it = daemon.wait_state("it", "running");
    let group = |pid: u64| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a cgroup");
    let name = unit.file_name().expect("a name").display().to_string();
    assert!(group(it["pid"].as_u64().expect("a pid")).contains(&format!("0::/{name}/svc/it/")));
    assert!(group(daemon.keeper().into()).contains(&format!("0::/{name}/defib\n")));
    signal(daemon.keeper(), libc::SIGTERM);
    assert_eq!(daemon.exit_code(), 0);
    remove(&unit);
    assert!(!unit.exists());
}

#[test]
fn defib_is_a_good_unit() {
    if !nix::unistd::geteuid().is_root() {
        writeln!(std::io::stderr(), "skipped: a container needs root").ok();
        return;
    }
    let nspawn = Command::new("systemd-nspawn").arg("--version").output();
    assert!(nspawn.is_ok(), "there is no systemd-nspawn: `cargo xtask setup` installs systemd-container");

    let machine = Machine::boot();
    let version = machine.must("systemctl --version | head -n 1");
    writeln!(std::io::stderr(), "in a container of {version}").ok();
    verify_is_content(&machine);
    systemd_knows_when_services_are_supervised(&machine);
    each_process_is_where_it_belongs(&machine);
    the_journal_has_priorities(&machine);
    a_reload_takes_over_what_has_changed(&machine);
    a_daemon_that_is_killed_is_no_matter_of_systemd(&machine);
    an_upgrade_is_no_matter_of_systemd(&machine);
    each_process_is_where_it_belongs(&machine);
    a_daemon_that_hangs_is_replaced_under_the_watchdog(&machine);
    a_restart_leaves_services_running(&machine);
    the_journal_takes_fields(&machine);
    a_keeper_that_is_killed_comes_back_to_its_services(&machine);
    a_package_is_upgraded_by_a_restart(&machine);
    to_leave_is_to_come_back(&machine);
    a_daemon_that_hangs_holds_up_no_restart(&machine);
    a_file_that_is_broken_ends_nothing(&machine);
    not_a_line_is_lost_or_doubled(&machine);
    services_are_units_by_the_template(&machine);
    a_stop_leaves_nothing(&machine);
}

fn verify_is_content(machine: &Machine) {
    let Said { code, out, err } =
        machine.run("systemd-analyze verify --man=no defib.service defib@api.service");
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    // systemd 254 has it; to an earlier one it is a word without meaning.
    assert!(err.lines().all(|line| line.contains("Unknown key 'DelegateSubgroup'")), "{err}");
}

fn systemd_knows_when_services_are_supervised(machine: &Machine) {
    // The machine has started it at boot. Once more: whoever has waited for the unit finds its services.
    machine.must("systemctl stop defib");
    let said = machine.must("systemctl start defib && defib status --json");
    let status: Value = serde_json::from_str(&said).expect("JSON");
    for service in status["services"].as_array().expect("services") {
        assert!(service["state"] == "starting" || service["state"] == "running", "{service:#}");
    }
    assert_eq!(machine.must("systemctl is-active defib"), "active");
    assert_eq!(machine.show("StatusText"), "supervises");
    machine.services();
}

fn each_process_is_where_it_belongs(machine: &Machine) {
    let (keeper, daemon, [api, _]) = (machine.keeper(), machine.daemon(), machine.services());
    let cgroup = |pid: u32| machine.must(&format!("sed -n s/^0:://p /proc/{pid}/cgroup"));
    assert_eq!(cgroup(keeper), "/system.slice/defib.service/defib");
    assert_eq!(cgroup(daemon), cgroup(keeper));
    assert!(cgroup(api).starts_with("/system.slice/defib.service/svc/api/"), "{}", cgroup(api));
    // The protection of the unit is the daemon's: the keeper cannot have it without its services.
    let oom = |pid: u32| machine.must(&format!("cat /proc/{pid}/oom_score_adj"));
    let may_protect = machine.run("echo -900 > /proc/self/oom_score_adj").code == 0;
    if !may_protect {
        writeln!(
            std::io::stderr(),
            "no CAP_SYS_RESOURCE here: the OOM protection of the daemon is not looked at"
        )
        .ok();
    }
    assert_eq!([keeper, daemon, api].map(oom), ["0", if may_protect { "-900" } else { "0" }, "0"]);
    // Nobody speaks to systemd in the keeper's name.
    for pid in [daemon, api] {
        let environment = machine.must(&format!("tr '\\0' '\\n' < /proc/{pid}/environ"));
        assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment}");
    }
}

fn the_journal_has_priorities(machine: &Machine) {
    let entries = machine.journal("--unit defib.service SYSLOG_IDENTIFIER=defib");
    let find = |what: &str| {
        let message = |entry: &&Value| entry["MESSAGE"].as_str().is_some_and(|text| text.starts_with(what));
        entries.iter().find(message).unwrap_or_else(|| panic!("{what}: {entries:#?}"))
    };
    assert_eq!(find("defib supervises")["PRIORITY"], "6");
    assert_eq!(find("asked to end signal=15")["PRIORITY"], "6");
    let dressed = |entry: &Value| entry["MESSAGE"].as_str().is_none_or(|text| text.starts_with(['<', '2']));
    assert!(!entries.iter().any(dressed), "neither a prefix nor a time of its own: {entries:#?}");
}

fn a_reload_takes_over_what_has_changed(machine: &Machine) {
    let (keeper, services) = (machine.keeper(), machine.services());
    let file = "/etc/defib/defib.toml";
    machine.must(&format!(
        "cp {file} {file}.before; printf '[service.late]\\ncommand = \"sleep 1000\"\\n' >> {file}"
    ));
    machine.must("systemctl reload defib");
    patiently("the new service", || {
        machine.run("defib status late --json").out.contains(r#""state":"running""#).then_some(())
    });
    machine.must(&format!("echo 'wrong = 1' >> {file}"));
    assert_ne!(machine.run("systemctl reload defib").code, 0, "a bad file is refused, and systemd told so");
    assert_eq!(machine.show("ActiveState"), "active");
    machine.must(&format!("mv {file}.before {file}; systemctl reload defib"));
    patiently("the end of the new service", || (machine.run("defib status late").code == 3).then_some(()));
    machine.must("systemctl kill --kill-who=main --signal=HUP defib");
    machine.assert_untouched(keeper, services, "0");
}

fn a_daemon_that_is_killed_is_no_matter_of_systemd(machine: &Machine) {
    let (keeper, daemon, services) = (machine.keeper(), machine.daemon(), machine.services());
    machine.must(&format!("kill -KILL {daemon}"));
    patiently("the next daemon", || (machine.daemon() != daemon).then_some(()));
    patiently("its status", || (machine.show("StatusText") == "supervises").then_some(()));
    machine.assert_untouched(keeper, services, "0");
    let told = machine.journal("--unit defib.service PRIORITY=4");
    let text = "defib keeper: the daemon ended by SIGKILL";
    assert!(told.iter().any(|entry| entry["MESSAGE"].as_str().is_some_and(|it| it.starts_with(text))));
}

/// The keeper that is handed over everything still speaks with systemd, and its daemon is protected as before.
fn an_upgrade_is_no_matter_of_systemd(machine: &Machine) {
    let (keeper, daemon, services) = (machine.keeper(), machine.daemon(), machine.services());
    let said = machine.must(
        "cp /usr/bin/defib /usr/bin/defib.new && mv /usr/bin/defib.new /usr/bin/defib && defib daemon restart",
    );
    assert!(said.contains(" unchanged, daemon "), "{said}");
    assert_ne!(machine.daemon(), daemon);
    machine.assert_untouched(keeper, services, "0");
    assert_eq!(machine.show("StatusText"), "supervises");
}

fn a_daemon_that_hangs_is_replaced_under_the_watchdog(machine: &Machine) {
    let (keeper, daemon, services) = (machine.keeper(), machine.daemon(), machine.services());
    machine.must(&format!("kill -STOP {daemon}"));
    patiently("the next daemon", || (machine.daemon() != daemon).then_some(()));
    machine.assert_untouched(keeper, services, "0");
    let told = machine.journal("--unit defib.service PRIORITY=4");
    for text in ["the daemon does not answer", "the daemon ended by SIGABRT"] {
        let text = format!("defib keeper: {text}");
        assert!(told.iter().any(|entry| entry["MESSAGE"].as_str().is_some_and(|it| it.starts_with(&text))));
    }
}

fn a_restart_leaves_services_running(machine: &Machine) {
    machine.must("echo DEFIB_LOG_TO=journal > /etc/default/defib");
    let before = machine.before();
    machine.must("systemctl restart defib");
    machine.assert_taken_over(&before);
    assert_eq!([machine.show("Result"), machine.show("NRestarts")], ["success", "0"]);
    let asked =
        machine.journal("--unit defib.service --grep '^SIGQUIT: asked to leave, and the services alone'");
    assert_eq!(asked.len(), 1, "{asked:#?}");
    // A second one finds what it has left itself, and so does that of a script which restarts only what runs.
    let before = machine.before();
    machine.must("systemctl try-restart defib");
    machine.assert_taken_over(&before);
}

fn the_journal_takes_fields(machine: &Machine) {
    machine.must("defib restart api");
    let entries = patiently("entries with fields", || {
        let entries = machine.journal("--unit defib.service SERVICE=api TO=running");
        (!entries.is_empty()).then_some(entries)
    });
    let entry = &entries[0];
    assert_eq!((&entry["FROM"], &entry["PRIORITY"]), (&"starting".into(), &"6".into()), "{entry:#}");
    assert!(entry["TARGET"].as_str().is_some_and(|module| module.starts_with("defib::")), "{entry:#}");
    assert!(entry["MESSAGE"].as_str().is_some_and(|text| text.contains("service=api")), "{entry:#}");
}

fn a_keeper_that_is_killed_comes_back_to_its_services(machine: &Machine) {
    let before = machine.before();
    machine.must(&format!("kill -KILL {}", before.keeper));
    machine.comes_back_after(before.keeper);
    assert_eq!(machine.show("NRestarts"), "1");
    machine.assert_taken_over(&before);
    // Both at once: the daemon cannot put anything in order.
    let before = machine.before();
    machine.must(&format!("kill -KILL {} {}", machine.daemon(), before.keeper));
    machine.comes_back_after(before.keeper);
    machine.assert_taken_over(&before);
}

/// What a package does that knows of no better way: the new keeper is of the new file.
fn a_package_is_upgraded_by_a_restart(machine: &Machine) {
    let before = machine.before();
    machine.must("cp /usr/bin/defib /usr/bin/defib.new && mv /usr/bin/defib.new /usr/bin/defib");
    let file = |path: &str| machine.must(&format!("stat --dereference --format %i {path}"));
    assert_ne!(file(&format!("/proc/{}/exe", before.keeper)), file("/usr/bin/defib"));
    machine.must("systemctl daemon-reload && systemctl restart defib");
    machine.assert_taken_over(&before);
    assert_eq!(file(&format!("/proc/{}/exe", machine.keeper())), file("/usr/bin/defib"));
}

/// `Restart=always`: systemd starts a keeper that has left on purpose too.
fn to_leave_is_to_come_back(machine: &Machine) {
    let before = machine.before();
    machine.must("defib daemon stop --leave");
    machine.comes_back_after(before.keeper);
    machine.assert_taken_over(&before);
}

/// The keeper's watchdog replaces it, and the next one leaves at once.
fn a_daemon_that_hangs_holds_up_no_restart(machine: &Machine) {
    let before = machine.before();
    machine.must(&format!("kill -STOP {} && systemctl restart defib", machine.daemon()));
    machine.assert_taken_over(&before);
    assert_eq!(machine.show("Result"), "success");
}

/// systemd tries again every second, until somebody has mended it.
fn a_file_that_is_broken_ends_nothing(machine: &Machine) {
    let before = machine.before();
    let file = "/etc/defib/defib.toml";
    machine.must(&format!("cp {file} {file}.before; echo 'wrong = 1' >> {file}"));
    assert_ne!(machine.run("systemctl restart defib").code, 0);
    assert_eq!(machine.sleepers().len(), 2);
    machine.must(&format!("mv {file}.before {file}"));
    machine.comes_back_after(before.keeper);
    machine.assert_taken_over(&before);
    // Without a keeper nobody can stop them: a stop is one of the unit alone.
    let before = machine.before();
    machine.must(&format!("cp {file} {file}.before; echo 'wrong = 1' >> {file}"));
    assert_ne!(machine.run("systemctl restart defib").code, 0);
    machine.must("systemctl stop defib");
    assert_eq!(machine.sleepers().len(), 2);
    machine.must(&format!("mv {file}.before {file}; systemctl start defib"));
    machine.assert_taken_over(&before);
}

/// Over everything that has been done to keeper and daemon since the unit was started.
fn not_a_line_is_lost_or_doubled(machine: &Machine) {
    let log = machine.must("defib logs writer --lines 1000000");
    let numbers = log.lines().map(|line| line.rsplit(' ').next()?.parse().ok());
    let numbers: Vec<u32> = numbers.collect::<Option<_>>().unwrap_or_else(|| panic!("{log}"));
    let begun = numbers.iter().rposition(|number| *number == 1).expect("a first line");
    assert!(
        numbers[begun..].iter().copied().eq(1..=u32::try_from(numbers.len() - begun).expect("few")),
        "{log}"
    );
}

fn services_are_units_by_the_template(machine: &Machine) {
    let state = || machine.must("defib status --json my-db").contains("\"state\":\"running\"");
    machine.must("systemctl start defib@my-db");
    assert_eq!(machine.must("systemctl is-active defib@my-db"), "active");
    machine.must("systemctl stop defib@my-db");
    assert!(!state());
    assert_eq!(machine.run("systemctl is-active defib@my-db").out, "inactive\n");
    machine.must("systemctl start defib@my-db");
    assert!(state());
    let Said { code, .. } = machine.run("systemctl start defib@no-such-service");
    assert_eq!(code, 1);
    // Neither a crash nor a restart of defib is a reason to stop what belongs to it.
    let before = machine.before();
    machine.must("systemctl restart defib");
    machine.assert_taken_over(&before);
    machine.is_active_again("defib@my-db");
    let before = machine.before();
    machine.must(&format!("kill -KILL {}", before.keeper));
    machine.comes_back_after(before.keeper);
    machine.assert_taken_over(&before);
    machine.is_active_again("defib@my-db");
    // A restart of its own is one, and a stop of defib is for all.
    machine.must("systemctl restart defib@my-db");
    assert_ne!(machine.services()[1], before.services[1]);
    machine.must("systemctl stop defib");
    assert_eq!(machine.run("systemctl is-active defib@my-db").out, "inactive\n");
    assert_eq!(machine.sleepers(), [0; 0]);
    machine.must("systemctl start defib");
    // As shutdown.target does it, and what else conflicts with defib.
    machine.services();
    let unit = "printf '[Unit]\\nConflicts=defib.service\\n' > /run/systemd/system/away.target";
    machine.must(&format!("{unit} && systemctl daemon-reload && systemctl start away.target"));
    patiently("the end of all services", || machine.sleepers().is_empty().then_some(()));
    assert_eq!(machine.show("Result"), "success");
    machine.must("systemctl start defib");
}

fn a_stop_leaves_nothing(machine: &Machine) {
    // What was taken over is stopped as everything else is.
    machine.services();
    let before = machine.before();
    machine.must("systemctl restart defib");
    machine.assert_taken_over(&before);
    let ends = || machine.journal("--unit defib.service --grep '^exit service=.* by=shutdown'").len();
    let earlier = ends();
    assert_eq!(machine.run("defib uninstall").code, 1, "not while it runs");
    machine.must("systemctl stop defib");
    assert_eq!(machine.run("systemctl is-active defib").out, "inactive\n");
    assert_eq!(machine.show("Result"), "success");
    assert_eq!(machine.sleepers(), [0; 0]);
    assert_eq!(ends() - earlier, 3, "each was stopped, not killed with its group");
    assert_eq!(machine.must("find /sys/fs/cgroup -name defib.service"), "");
    assert_eq!(machine.must("find /run/defib -mindepth 1"), "");

    machine.must("defib uninstall");
    assert_eq!(machine.must("find /etc/systemd/system /usr/bin -name 'defib*' -not -path '*.d*'"), "");
    assert_eq!(machine.run("systemctl cat defib.service").code, 1);
}
