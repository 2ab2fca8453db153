//! What is read from the tables and written into them.

use std::str::FromStr;

use defib_core::model::ServiceName;
use defib_core::{Gist, Memo};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Result, Row, Transaction, params};

use super::pending::{Change, Ended, Waiting};
use super::{Place, Remembered, RememberedLife, RememberedService};

/// How many ends are kept.
const KEPT: i64 = 10_000;

/// How many gaps are kept.
const GAPS: i64 = 100;

/// The boot that a row is of, and by how much its ticks are to be moved to be of the present one.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    pub(super) id: String,
    /// The wall time of tick 0.
    pub(super) zero: i64,
}

/// When nothing could be written, and why.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) began: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) lost: u64,
    pub(super) why: String,
}

/// Reads what is remembered. A row that makes no sense is left out and told.
pub(super) fn read(db: &Connection, now: &Boot) -> Result<Remembered> {
    let left = db.query_row("SELECT 1 FROM meta WHERE key = 'left'", [], |_| Ok(())).optional()?.is_some();
    let mut all = db.prepare(
        "SELECT name, slot, boot, zero, incarnation, restarts, disabled, memo, life_incarnation, life_pid, life_started \
         FROM service ORDER BY name",
    )?;
    let mut rows = all.query([])?;
    let mut services = Vec::new();
    while let Some(row) = rows.next()? {
        match service(row, now) {
            Ok(service) => services.push(service),
            Err(error) => {
                tracing::error!(%error, "a row of the state database makes no sense: it is left out")
            }
        }
    }
    Ok(Remembered { services, left })
}

fn service(row: &Row<'_>, now: &Boot) -> Result<RememberedService, Box<dyn std::error::Error>> {
    let service = ServiceName::from_str(&row.get::<_, String>(0)?)?;
    let (boot, zero): (String, i64) = (row.get(2)?, row.get(3)?);
    let same_boot = !boot.is_empty() && boot == now.id;
    let gist = Gist { incarnation: number(row, 4)?, restarts: number(row, 5)?, disabled: row.get(6)? };
    let mut memo: Memo = serde_json::from_str(&row.get::<_, String>(7)?).unwrap_or_else(|error| {
        tracing::warn!(%service, %error, "not all that is remembered of it can be understood");
        Memo::of_gist(gist)
    });
    if !same_boot {
        memo.carry_over(zero.wrapping_sub(now.zero));
    }
    let life = match row.get(9)? {
        Some(pid) => Some(RememberedLife { incarnation: number(row, 8)?, pid, started: number(row, 10)? }),
        None => None,
    };
    Ok(RememberedService { slot: row.get(1)?, service, memo: Box::new(memo), life, same_boot })
}

/// Writes all that waits, in one transaction. Nothing of it is lost if that fails.
pub(super) fn write(db: &mut Connection, waiting: &Waiting, gap: Option<&Gap>, boot: &Boot) -> Result<()> {
    let change = db.transaction()?;
    put_meta(&change, waiting.left, boot)?;
    forget_others(&change, waiting)?;
    put_services(&change, waiting, boot)?;
    put_ends(&change, &waiting.ends, boot)?;
    if let Some(Gap { began, ended, lost, why }) = gap {
        change.execute(
            "INSERT INTO gap (began, ended, lost, why) VALUES (?, ?, ?, ?)",
            params![nanos(*began), nanos(*ended), int(*lost), why],
        )?;
        change.execute("DELETE FROM gap WHERE rowid <= (SELECT max(rowid) FROM gap) - ?", [GAPS])?;
    }
    change.commit()
}

fn put_meta(db: &Transaction<'_>, left: bool, boot: &Boot) -> Result<()> {
    let mut put = db.prepare("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)")?;
    put.execute(params!["boot", boot.id])?;
    put.execute(params!["zero", boot.zero])?;
    if left {
        put.execute(params!["left", true])?;
    } else {
        db.execute("DELETE FROM meta WHERE key = 'left'", [])?;
    }
    Ok(())
}

/// Of whom nobody knows any more, an earlier daemon had not come to write that.
fn forget_others(db: &Transaction<'_>, waiting: &Waiting) -> Result<()> {
    let Some(only) = &waiting.only else { return Ok(()) };
    let names: Vec<String> =
        db.prepare("SELECT name FROM service")?.query_map([], |row| row.get(0))?.collect::<Result<_>>()?;
    let mut forget = db.prepare("DELETE FROM service WHERE name = ?")?;
    for name in names.iter().filter(|name| !only.iter().any(|it| it.as_str() == name.as_str())) {
        forget.execute([name])?;
    }
    Ok(())
}

fn put_services(db: &Transaction<'_>, waiting: &Waiting, boot: &Boot) -> Result<()> {
    if waiting.changes.is_empty() {
        return Ok(());
    }
    let mut forget = db.prepare("DELETE FROM service WHERE name = ?")?;
    let mut put = db.prepare(
        "INSERT INTO service (name, slot, boot, zero, incarnation, restarts, disabled, memo) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET slot = excluded.slot, boot = excluded.boot, \
         zero = excluded.zero, incarnation = excluded.incarnation, restarts = excluded.restarts, \
         disabled = excluded.disabled, memo = excluded.memo",
    )?;
    let mut live =
        db.prepare("UPDATE service SET life_incarnation = ?, life_pid = ?, life_started = ? WHERE name = ?")?;
    for (service, Change { forget: forgotten, memo, life }) in &waiting.changes {
        let name = service.as_str();
        if *forgotten {
            forget.execute([name])?;
        }
        // A memo is made of numbers and text: it can always be written.
        if let Some((slot, memo)) = memo
            && let Ok(text) = serde_json::to_string(memo)
        {
            let Gist { incarnation, restarts, disabled } = memo.gist();
            let (incarnation, restarts) = (int(incarnation), int(restarts));
            put.execute(params![name, slot, boot.id, boot.zero, incarnation, restarts, disabled, text])?;
        }
        match life {
            Some(Some(RememberedLife { incarnation, pid, started })) => {
                live.execute(params![int(*incarnation), pid, int(*started), name])?;
            }
            Some(None) => drop(live.execute(params![None::<i64>, None::<i64>, None::<i64>, name])?),
            None => {}
        }
    }
    Ok(())
}

fn put_ends<'a>(db: &Transaction<'_>, ends: impl IntoIterator<Item = &'a Ended>, boot: &Boot) -> Result<()> {
    let mut ends = ends.into_iter().peekable();
    if ends.peek().is_none() {
        return Ok(());
    }
    let mut put = db.prepare(
        "INSERT INTO ended (service, incarnation, pid, started, at, boot, record) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?;
    let known = if ends.peek().is_some_and(|first| first.earlier) { written(db)? } else { None };
    let mut last: Option<Place> = None;
    for Ended { service, incarnation, pid, started, at, record, place, earlier } in ends {
        last = place.filter(|place| last.is_none_or(|last| last.number < place.number)).or(last);
        if let (true, Some(Place { file, number }), Some(known)) = (*earlier, place, known)
            && *file == known.file
            && *number <= known.number
        {
            continue;
        }
        let text = serde_json::to_string(record).unwrap_or_default();
        let (started, at) = (started.map(nanos), nanos(*at));
        put.execute(params![service.as_str(), int(*incarnation), pid, started, at, boot.id, text])?;
    }
    if let Some(Place { file, number }) = last {
        let place = format!("{file} {number}");
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('ends', ?)", [place])?;
    }
    db.execute("DELETE FROM ended WHERE id <= (SELECT max(id) FROM ended) - ?", [KEPT])?;
    Ok(())
}

/// How far the ends are written that were written down before.
fn written(db: &Connection) -> Result<Option<Place>> {
    let found = db.query_row("SELECT value FROM meta WHERE key = 'ends'", [], |row| row.get(0)).optional()?;
    Ok(found.and_then(|text: String| {
        let (file, number) = text.split_once(' ')?;
        Some(Place { file: file.parse().ok()?, number: number.parse().ok()? })
    }))
}

/// Nanoseconds since 1970: until the year 2262.
fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

/// SQLite's numbers have a sign. None of ours comes near.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}
