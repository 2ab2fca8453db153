//! Services whose new parent reaps nobody: what has ended stays there as a zombie.

use defib_tests::{Daemon, lives, patiently, signal};
use rusqlite::Connection;
use serde_json::Value;

fn pid(status: &Value) -> u32 {
    status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

/// Keeper and daemon are killed after an end has been told and before the state database has it. The process is still
/// there to be found, in its cgroup, and is not taken for a service that lives.
#[test]
fn a_zombie_whose_end_was_told_is_not_taken_over() {
    // From here on this process is the parent of whatever loses its own, and reaps only its children.
    nix::sys::prctl::set_child_subreaper(true).expect("any process may");
    for source in ["ebpf", "pidfd"] {
        let config = format!("[daemon]\nsource = \"{source}\"\n[service.it]\ncommand = \"sleep 1000\"\n");
        let mut daemon = Daemon::start(&config);
        let it = pid(&daemon.wait_state("it", "running"));
        daemon.kill_keeper();
        daemon.start_again();
        daemon.wait("it", "taken over", |it| it["adopted"] == true);
        let database = daemon.path("state/state.db");
        let written = || {
            let db = Connection::open(&database).ok()?;
            let life = db.query_row("SELECT life_pid FROM service", [], |row| row.get::<_, u32>(0)).ok()?;
            (life == it).then_some(db)
        };
        let db = patiently("the life in the database", written);
        db.execute_batch("BEGIN IMMEDIATE").expect("a lock");

        daemon.ask(&["stop", "it"]);
        assert_eq!(daemon.status("it")["last_exit"]["by"], "stop");
        let pids = [daemon.daemon(), daemon.keeper()];
        pids.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
        daemon.exit_code();
        patiently("both to be gone", || (!pids.iter().any(|pid| lives(*pid))).then_some(()));
        drop(db);
        daemon.start_again();
        // That it was to be stopped nobody could write down.
        let after = daemon.wait("it", "in its next life", |it| it["incarnation"] == 2);
        assert_eq!(after["adopted"], false, "{after:#}");
        let ends = daemon.events_of("it", "exit").into_iter().filter(|event| event["main"] == true);
        assert_eq!(ends.map(|end| end["by"].clone()).collect::<Vec<_>>(), ["stop"], "{source}");
    }
}
