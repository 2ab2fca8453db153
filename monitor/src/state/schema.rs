//! The tables, as steps from version to version. A step that has been in a release is never changed: what is to be different
//! becomes a further step.

use rusqlite::{Connection, Result};

/// Each makes the next `user_version`.
const STEPS: [&str; 1] = ["
    -- One row each: `boot`, the boot in which it was last written; `zero`, the wall time of the tick 0 of that boot in
    -- nanoseconds since 1970, by which ticks are carried over; `left`, there if the last defib has left in order; `ends`,
    -- how far the ends are written that a daemon wrote down in memory before it told them: which file, which place in it.
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

    -- The services as they are.
    CREATE TABLE service (
        name TEXT PRIMARY KEY,
        slot INTEGER NOT NULL,
        boot TEXT NOT NULL,           -- in which the ticks of this row are
        zero INTEGER NOT NULL,        -- as in meta
        incarnation INTEGER NOT NULL, -- these three are of the memo: what counts if that cannot be read
        restarts INTEGER NOT NULL,
        disabled INTEGER NOT NULL,
        memo TEXT NOT NULL,           -- JSON
        life_incarnation INTEGER,     -- the main process; NULL if none is known to live
        life_pid INTEGER,
        life_started INTEGER          -- tick
    ) WITHOUT ROWID;

    -- The ends of lives, newest last; all times in nanoseconds since 1970, but the ticks in `record`.
    CREATE TABLE ended (
        id INTEGER PRIMARY KEY,
        service TEXT NOT NULL,
        incarnation INTEGER NOT NULL,
        pid INTEGER,
        started INTEGER,
        at INTEGER NOT NULL,
        boot TEXT NOT NULL,
        record TEXT NOT NULL          -- JSON
    );

    -- From when to when nothing could be written, and how many ends were dropped meanwhile.
    CREATE TABLE gap (began INTEGER NOT NULL, ended INTEGER NOT NULL, lost INTEGER NOT NULL, why TEXT NOT NULL);
"];

/// The version that this defib writes.
pub(super) const VERSION: i64 = STEPS.len() as i64;

/// The version of a database; 0: it is empty.
pub(super) fn version(db: &Connection) -> Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings it to the present version. All of it or nothing happens.
pub(super) fn migrate(db: &mut Connection) -> Result<()> {
    let from = usize::try_from(version(db)?).unwrap_or(0);
    if from >= STEPS.len() {
        return Ok(());
    }
    let change = db.transaction()?;
    for step in STEPS.iter().skip(from) {
        change.execute_batch(step)?;
    }
    change.pragma_update(None, "user_version", VERSION)?;
    change.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and texts of all tables, without blanks and comments, which ALTER TABLE does not keep.
    fn shape(db: &Connection) -> Vec<(String, String)> {
        let mut tables =
            db.prepare("SELECT m.name, group_concat(c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || c.pk) \
                        FROM sqlite_schema m JOIN pragma_table_info(m.name) c GROUP BY m.name ORDER BY m.name").unwrap();
        let rows = tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn every_step_leads_to_the_same_tables() {
        let mut fresh = Connection::open_in_memory().unwrap();
        migrate(&mut fresh).unwrap();
        assert!(!shape(&fresh).is_empty());
        for version in 0..VERSION {
            // As a defib of that version has made it.
            let mut old = Connection::open_in_memory().unwrap();
            for step in &STEPS[..usize::try_from(version).unwrap()] {
                old.execute_batch(step).unwrap();
            }
            old.pragma_update(None, "user_version", version).unwrap();
            migrate(&mut old).unwrap();
            assert_eq!(shape(&old), shape(&fresh), "from version {version}");
            assert_eq!(super::version(&old).unwrap(), VERSION);
            migrate(&mut old).unwrap();
        }
    }
}
