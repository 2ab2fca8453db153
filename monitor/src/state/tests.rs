use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use defib_core::Gist;
use defib_core::model::{Blame, By, End, Ending, Incarnation, ServiceName, Tick, Usage, WaitStatus, What};
use rusqlite::Connection;

use super::pending::Waiting;
use super::*;
use crate::effect::clock;

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn memo(incarnation: u64) -> Box<Memo> {
    Box::new(Memo::of_gist(Gist { incarnation, restarts: incarnation, disabled: incarnation % 2 == 1 }))
}

fn end(service: &str, incarnation: u64) -> Record {
    let end = End {
        status: Some(WaitStatus(9)),
        at: clock::now(),
        usage: Usage::default(),
        oom: None,
        blame: Blame::Unknown,
    };
    Record {
        at: clock::now(),
        service: name(service),
        incarnation: Incarnation(incarnation),
        pid: Some(7),
        what: What::Exit { ending: Ending { end, by: By::Itself }, started: Some(Tick(1)) },
    }
}

const LIFE: RememberedLife = RememberedLife { incarnation: 4, pid: 12, started: u64::MAX / 4 };

fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

fn count(folder: &Path, query: &str) -> i64 {
    Connection::open(file(folder)).unwrap().query_row(query, [], |row| row.get(0)).unwrap()
}

/// The names of what was set aside.
fn aside(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.len() > FILE.len() + 4).collect()
}

#[test]
fn who_is_gone_unheard_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (db, _) = StateDb::open(folder.path()).unwrap();
    ["a", "b", "c"].iter().for_each(|it| db.remember(name(it), 3, memo(5)));
    drop(db);
    let db = StateDb::go_on(folder.path()).unwrap();
    db.only([name("a"), name("b")].into());
    db.remember(name("new"), 4, memo(1));
    db.forget(&name("b"));
    drop(db);
    let (_db, remembered) = StateDb::open(folder.path()).unwrap();
    let names: Vec<_> = remembered.services.iter().map(|it| it.service.as_str()).collect();
    assert_eq!(names, ["a", "new"]);
}

/// Opens it, and tells of one service. Returns what was remembered before.
fn session(folder: &Path) -> Remembered {
    let (db, remembered) = StateDb::open(folder).unwrap();
    db.remember(name("a"), 3, memo(5));
    remembered
}

#[test]
fn what_is_told_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (db, remembered) = StateDb::open(folder.path()).unwrap();
    assert!(remembered.services.is_empty() && !remembered.left);
    db.remember(name("b"), 9, memo(2));
    db.remember(name("a"), 3, memo(4));
    db.remember(name("a"), 3, memo(5));
    db.lives(&name("a"), Some(LIFE));
    db.remember(name("gone"), 4, memo(5));
    db.forget(&name("gone"));
    db.ended(&end("a", 4));
    db.leave();
    let mode = fs::metadata(file(folder.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (db, Remembered { services, left }) = StateDb::open(folder.path()).unwrap();
    assert!(left);
    let [a, b] = &services[..] else { panic!("{services:?}") };
    assert_eq!((&a.service, a.slot, a.life, a.same_boot), (&name("a"), 3, Some(LIFE), true));
    assert_eq!((&b.service, b.slot, b.life), (&name("b"), 9, None));
    assert_eq!([a.memo.gist(), b.memo.gist()], [memo(5).gist(), memo(2).gist()]);
    db.lives(&name("a"), None);
    drop(db);
    let (db, Remembered { services, left }) = StateDb::open(folder.path()).unwrap();
    assert!(!left && services[0].life.is_none());
    assert_eq!(services[0].memo.gist(), memo(5).gist());
    assert_eq!(db.health().trouble(), None);
    drop(db);
    assert_eq!(count(folder.path(), "SELECT count(*) FROM ended WHERE record LIKE '%\"status\":9%'"), 1);
    assert_eq!(count(folder.path(), "SELECT count(*) FROM gap"), 0);
}

#[test]
fn rows_of_another_boot_are_told_apart_and_senseless_ones_left_out() {
    let folder = tempfile::tempdir().unwrap();
    session(folder.path());
    let db = Connection::open(file(folder.path())).unwrap();
    let copy = "INSERT INTO service SELECT ?, slot, boot, zero, incarnation, restarts, disabled, ?, 1, 1, 1 FROM service \
                WHERE name = 'a'";
    db.execute(copy, ["no/name", "{}"]).unwrap();
    db.execute(copy, ["future", "{\"phase\": \"Levitating\"}"]).unwrap();
    db.execute("UPDATE service SET boot = 'another', zero = zero - 1000000000 WHERE name = 'a'", []).unwrap();
    drop(db);
    let (_db, remembered) = StateDb::open(folder.path()).unwrap();
    let [a, future] = &remembered.services[..] else { panic!("{remembered:?}") };
    assert!(!a.same_boot && future.same_boot);
    assert_eq!(future.memo.gist(), memo(5).gist(), "what its columns tell");
}

#[test]
fn a_damaged_file_is_set_aside_whatever_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    session(folder.path());
    let good = fs::read(file(folder.path())).unwrap();
    assert!(good.len() > 8192, "{}", good.len());
    let mut dice = 7_u64;
    let mut roll = |below: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(dice >> 33).unwrap() % below
    };
    for round in 0..60 {
        let mut bad = good.clone();
        match round % 4 {
            0 => bad.truncate(roll(good.len())),
            1 => {
                let from = roll(good.len());
                bad[from..].fill(0xff);
            }
            2 => bad[..roll(4096)].fill(0),
            _ => (0..64).for_each(|_| bad[roll(good.len())] ^= 0x5a),
        }
        fs::write(file(folder.path()), &bad).unwrap();
        // Nothing panics, and it works from then on.
        session(folder.path());
        let again = session(folder.path());
        assert!(
            again.services.iter().any(|it| it.service == name("a") && it.memo.gist() == memo(5).gist()),
            "round {round}: {again:?}"
        );
    }
    let kept =
        aside(folder.path()).into_iter().filter(|name| !name.contains("-wal") && !name.contains("-shm"));
    assert_eq!(kept.count(), 3, "{:?}", aside(folder.path()));
    let text = "not a database at all, but a text that is longer than its header would be".repeat(4);
    fs::write(file(folder.path()), &text).unwrap();
    session(folder.path());
    let newest = aside(folder.path()).into_iter().filter(|name| !name.ends_with("-shm")).max().unwrap();
    assert_eq!(fs::read_to_string(folder.path().join(newest)).unwrap(), text);
}

#[test]
fn a_database_of_a_newer_defib_is_set_aside_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    session(folder.path());
    let db = Connection::open(file(folder.path())).unwrap();
    db.execute_batch("CREATE TABLE future (x); PRAGMA user_version = 999;").unwrap();
    drop(db);
    let before = fs::read(file(folder.path())).unwrap();
    assert!(session(folder.path()).services.is_empty());
    let whole =
        |name: &String| name.contains(".newer-") && !name.ends_with("-wal") && !name.ends_with("-shm");
    let newer = aside(folder.path()).into_iter().find(whole).unwrap();
    assert!(fs::read(folder.path().join(newer)).unwrap() == before);
    assert_eq!(session(folder.path()).services.len(), 1);
}

#[test]
fn what_cannot_be_opened_is_no_reason_to_fail_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(file(folder.path())).unwrap();
    let (db, remembered) = StateDb::open(folder.path()).unwrap();
    assert!(remembered.services.is_empty());
    assert!(db.health().trouble().unwrap().contains("no regular file"));
    db.remember(name("a"), 3, memo(5));
    fs::remove_dir(file(folder.path())).unwrap();
    // The last attempt comes when it is closed.
    drop(db);
    assert_eq!(session(folder.path()).services.len(), 1);
    assert_eq!(count(folder.path(), "SELECT count(*) FROM gap WHERE why LIKE '%regular%'"), 1);
}

#[tokio::test]
async fn what_is_settled_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (db, _) = StateDb::open(folder.path()).unwrap();
    let commits = db.commits();
    commits.settle().await;
    for life in 1..=5 {
        db.remember(name("a"), 3, memo(life));
        commits.settle().await;
        let written = count(folder.path(), "SELECT incarnation FROM service");
        assert_eq!(u64::try_from(written).unwrap(), life);
    }
}

/// Whoever removes or overwrites the file under a daemon is given it anew, with all that is known.
#[tokio::test]
async fn what_was_written_is_asked_for_again_when_it_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    session(folder.path());
    let (db, _) = StateDb::open(folder.path()).unwrap();
    db.remember(name("b"), 4, memo(2));
    tokio::time::timeout(Duration::from_millis(200), db.wanted()).await.unwrap_err();
    fs::remove_file(file(folder.path())).unwrap();
    db.remember(name("c"), 5, memo(2));
    db.wanted().await;
    drop(db);
    let names: Vec<_> = session(folder.path()).services.into_iter().map(|it| it.service).collect();
    assert_eq!(names, [name("c")]);
}

#[test]
fn ends_and_gaps_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let (db, _) = StateDb::open(folder.path()).unwrap();
        for life in 0..4096 {
            db.ended(&end("a", life));
        }
        // Whoever leaves does not wait for a slow disk for long.
        let begun = clock::now();
        while count(folder.path(), "SELECT coalesce(max(id), 0) FROM ended") < round * 4096 {
            assert!(clock::now().since(begun).as_secs() < 60, "they are not written");
            std::thread::yield_now();
        }
    }
    assert_eq!(count(folder.path(), "SELECT count(*) FROM ended"), 10_000);
    assert_eq!(count(folder.path(), "SELECT max(id) FROM ended"), 3 * 4096);
}

#[test]
fn what_does_not_fit_is_counted_and_what_was_put_back_is_older() {
    let mut older = Waiting::default();
    older.remember(name("a"), 1, memo(1));
    older.lives(&name("a"), Some(LIFE));
    older.remember(name("b"), 2, memo(1));
    (0..4000).for_each(|life| older.ended(Ended::of(&end("a", life)).unwrap()));
    let mut waiting = Waiting::default();
    waiting.remember(name("a"), 1, memo(2));
    waiting.forget(&name("b"));
    waiting.left = true;
    (4000..4100).for_each(|life| waiting.ended(Ended::of(&end("a", life)).unwrap()));
    waiting.put_back(older);
    assert_eq!(waiting.changes[&name("a")].memo.as_ref().unwrap().1.gist(), memo(2).gist());
    assert_eq!(waiting.changes[&name("a")].life, Some(Some(LIFE)));
    assert!(waiting.changes[&name("b")].forget && waiting.changes[&name("b")].memo.is_none());
    assert_eq!((waiting.ends.len(), waiting.lost.unwrap().count), (4096, 4));
    assert_eq!(waiting.ends.front().unwrap().incarnation, 0);
    assert!(waiting.left);
    for number in 0..9000 {
        waiting.forget(&name(&format!("s{number}")));
    }
    assert_eq!((waiting.changes.len(), waiting.lost.unwrap().count), (8192, 4 + 9000 - 8190));
}
