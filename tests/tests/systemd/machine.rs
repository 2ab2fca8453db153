//! The container: a system of its own under a real systemd.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use defib_tests::{Said, children, patiently, program, said, signal};
use serde_json::Value;
use tempfile::TempDir;

/// Becomes the container's keeper, in a cgroup of its own, $3, in each hierarchy that systemd uses.
const BOOT: &str = concat!(
    "set -e; disk=$1 defib=$2 lower=$5 size=512m\n",
    "for group in $3; do echo $$ > \"$group/cgroup.procs\"; done\n",
    include_str!("../../src/container.sh"),
    r#"
"$defib" install --root "$root" --prefix /usr --enable
mkdir -p "$root/etc/systemd/system/defib.service.d" "$root/etc/defib"
cat > "$root/etc/systemd/system/defib.service.d/test.conf" <<'END'
[Service]
WatchdogSec=2s
END
cat > "$root/etc/defib/defib.toml" <<'END'
[listen]
metrics = ""
[service.api]
command = "sleep 1000"
[service.my-db]
command = "sleep 2000"
[service.writer]
command = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"]
END
exec systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --private-network \
    --machine="$4" --console=pipe
"#
);

pub(super) struct Machine {
    nspawn: Child,
    /// The container's PID 1, as it is called outside.
    init: u32,
    groups: Vec<PathBuf>,
    folder: TempDir,
}

impl Machine {
    pub(super) fn boot() -> Self {
        let folder = tempfile::Builder::new().prefix("defib-systemd-").tempdir().expect("a folder");
        let name = format!("defib-{}", std::process::id());
        let hierarchies =
            ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(Path::new);
        let present = hierarchies.iter().filter(|path| path.join("cgroup.procs").exists());
        let groups: Vec<_> = present.map(|path| path.join(&name)).collect();
        for group in &groups {
            fs::create_dir(group).expect("a cgroup");
        }
        let list = groups.iter().map(|group| group.display().to_string()).collect::<Vec<_>>().join(" ");
        let log = fs::File::create(folder.path().join("console")).expect("a file");
        // If this test is killed, so is the container.
        let nspawn = Command::new("unshare")
            .args(["--mount", "--propagation=private", "setpriv", "--pdeathsig=KILL", "sh", "-c", BOOT, "sh"])
            .arg(folder.path())
            .arg(program())
            .args([&list, &name])
            .arg(std::env::var_os("DEFIB_SYSTEMD_ROOT").unwrap_or_else(|| "/".into()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a duplicate"))
            .stderr(log)
            .spawn()
            .expect("unshare");
        let mut machine = Self { nspawn, init: 0, groups, folder };
        machine.init = patiently("the container's PID 1", || {
            let ended = machine.nspawn.try_wait().expect("a child");
            assert_eq!(ended, None, "systemd-nspawn has ended; it has said why");
            let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            children(machine.nspawn.id()).into_iter().find(|pid| name(pid) == "systemd\n")
        });
        patiently("systemd to have started", || {
            (machine.run("systemctl is-system-running").out == "running\n").then_some(())
        });
        machine
    }

    /// Runs a line of shell in the container.
    pub(super) fn run(&self, line: &str) -> Said {
        said(Command::new("nsenter").args(["--all", "--target", &self.init.to_string(), "sh", "-c", line]))
    }

    /// A line that must succeed; what it prints.
    #[track_caller]
    pub(super) fn must(&self, line: &str) -> String {
        let Said { code, out, err } = self.run(line);
        assert_eq!(code, 0, "`{line}`: {out}{err}");
        out.trim().to_owned()
    }

    pub(super) fn show(&self, property: &str) -> String {
        self.must(&format!("systemctl show --value --property {property} defib.service"))
    }

    #[track_caller]
    pub(super) fn keeper(&self) -> u32 {
        self.show("MainPID").parse().expect("a pid")
    }

    pub(super) fn daemon(&self) -> u32 {
        let pids = || self.run("pgrep --full '[-]-under-keeper'").out;
        patiently("the daemon", || pids().trim().parse().ok())
    }

    /// Waits until a service runs; returns its pid.
    #[track_caller]
    pub(super) fn runs(&self, service: &str) -> u32 {
        patiently(&format!("{service} to run"), || {
            let Said { code: 0, out, .. } = self.run(&format!("defib status --json {service}")) else {
                return None;
            };
            let status: Value = serde_json::from_str(&out).ok()?;
            let it = &status["services"][0];
            (it["state"] == "running").then(|| it["pid"].as_u64()?.try_into().ok())?
        })
    }

    pub(super) fn services(&self) -> [u32; 2] {
        ["api", "my-db"].map(|service| self.runs(service))
    }

    /// The processes of `api` and `my-db` that there are, whoever looks after them.
    pub(super) fn sleepers(&self) -> Vec<u32> {
        let out = self.run("pgrep --full '^sleep [12]000'").out;
        let mut pids: Vec<u32> = out.lines().map(|pid| pid.parse().expect("a pid")).collect();
        pids.sort_unstable();
        pids
    }

    /// The journal's entries with these fields.
    pub(super) fn journal(&self, wanted: &str) -> Vec<Value> {
        self.run("journalctl --sync");
        let lines = self.must(&format!("journalctl --quiet --output json {wanted}"));
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = fs::read_to_string(self.folder.path().join("console")).unwrap_or_default();
            let journal = "systemctl status --no-pager defib; journalctl --no-pager --lines 60";
            let out = if self.init == 0 { String::new() } else { self.run(journal).out };
            writeln!(std::io::stderr(), "--- in the container ---\n{console}\n{out}").ok();
        }
        if self.init != 0 {
            // PID 1 of a namespace takes all others with it; nspawn tidies up, and leaves.
            signal(self.init, libc::SIGKILL);
        } else {
            self.nspawn.kill().ok();
        }
        self.nspawn.wait().ok();
        for group in &self.groups {
            remove(group);
        }
    }
}

/// Removes a cgroup and those below, as soon as they are empty.
pub(super) fn remove(group: &Path) {
    patiently("an empty cgroup", || {
        let below = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
        below.filter(|path| path.is_dir()).for_each(|path| remove(&path));
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => None,
            Ok(()) | Err(_) => Some(()),
        }
    });
}
