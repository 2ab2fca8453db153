//! Walks every cell of the tables in `states.md`: the code does what the specification says, nothing is left out.

use std::sync::Arc;

use crate::model::{
    Blame, Command, Draft, End, Incarnation, Launch, RequestId, RestartSpec, ServiceName, ServiceSpec,
    Signal, StartFailure, StartFailureKind, Tick, Usage, WaitStatus, What,
};
use crate::phase::Phase;
use crate::{Effect, Effects, Input, Lost, Memo, Reply, Supervisor, Verb};

const STATES: &str = include_str!("states.md");

/// The rows that name a life.
const REPORTS: [&str; 9] = [
    "prepared",
    "prepare failed",
    "spawned",
    "spawn failed",
    "ended well",
    "ended ill",
    "followed",
    "cleared",
    "listens",
];

#[test]
fn every_cell_of_the_table_is_what_the_code_does() {
    let (columns, rows) = table("| input |");
    for (row, cells) in &rows {
        for (column, cell) in columns.iter().zip(cells) {
            let at = format!("row `{row}`, column `{column}`, cell `{cell}`");
            let mut rig = Rig::brought_to(column);
            let before = rig.memo.clone();
            let effects = rig.take_row(row);
            let expected = match cell.as_str() {
                "=" | "refused" => column,
                step => step,
            };
            assert_eq!(step(&rig.memo.phase), expected, "{at}");
            if cell == "refused" {
                assert!(
                    matches!(&effects[..], [Effect::Reply { reply: Reply::Failed(_) | Reply::Disabled, .. }]),
                    "{at}: {effects:?}"
                );
                assert_eq!(rig.memo, before, "{at}");
            }

            let mut twin = Rig::brought_to(column);
            assert_eq!(twin.take_row(row), effects, "{at}: another run had other effects");
        }
    }
}

#[test]
fn a_report_of_another_life_changes_nothing() {
    let (columns, rows) = table("| input |");
    let rows: Vec<_> = rows.iter().map(|(row, _)| row.as_str()).filter(|row| REPORTS.contains(row)).collect();
    assert_eq!(rows, REPORTS);
    for row in rows {
        for column in &columns {
            let life = Rig::brought_to(column).life_of(row).0;
            for other in [life.checked_sub(1), life.checked_add(1), life.checked_add(7)].into_iter().flatten()
            {
                let at = format!("row `{row}`, column `{column}`, of life {other} instead of {life}");
                let mut rig = Rig::brought_to(column);
                let (before, stale) = (rig.memo.clone(), rig.supervisor.stale_reports());
                let input = rig.input(row, Incarnation(other));
                let effects = rig.take(input);
                // The keeper may forget what is of no use to anybody.
                let (service, incarnation) = (name(), Incarnation(other));
                let expected = match row {
                    "spawn failed" | "ended well" | "ended ill" | "followed" => {
                        vec![Effect::Acknowledge { service, incarnation, followed: row == "followed" }]
                    }
                    _ => Vec::new(),
                };
                assert_eq!(effects, expected, "{at}");
                assert_eq!(rig.memo, before, "{at}");
                assert_eq!(rig.supervisor.stale_reports(), stale + 1, "{at}");
            }
        }
    }
}

#[test]
fn every_step_is_shown_as_the_table_says() {
    let (_, rows) = table("| step |");
    let (columns, _) = table("| input |");
    assert_eq!(rows.iter().map(|(step, _)| step).collect::<Vec<_>>(), columns.iter().collect::<Vec<_>>());
    for (step, cells) in rows {
        let rig = Rig::brought_to(&step);
        let view = rig.supervisor.view(&name()).expect("it is configured");
        assert_eq!(view.state.as_str(), cells[0], "step `{step}`");
    }
}

#[test]
fn what_an_earlier_keeper_left_leads_where_the_table_says() {
    let (columns, rows) = table("| recalled |");
    let (steps, _) = table("| input |");
    assert_eq!(rows.iter().map(|(step, _)| step).collect::<Vec<_>>(), steps.iter().collect::<Vec<_>>());
    for (step, cells) in &rows {
        for (column, cell) in columns.iter().zip(cells) {
            let Rig { memo, now, .. } = Rig::brought_to(step);
            let mut rig = Rig { supervisor: Supervisor::new(7), now, memo: Memo::new() };
            let autostart = column == "anew, autostart";
            rig.take(Input::Configure(vec![Arc::new(ServiceSpec { autostart, ..spec() })]));
            // As it is kept: a text.
            let text = serde_json::to_string(&memo).expect("JSON");
            let kept = serde_json::from_str::<Memo>(&text).expect("the same");
            assert_eq!(kept, memo, "{text}");
            rig.take(Input::Recall { service: name(), memo: Box::new(kept), torn: column == "torn" });
            rig.take(Input::Begin);
            let at = format!("recalled from `{step}`, column `{column}`");
            assert_eq!(self::step(&rig.memo.phase), cell, "{at}");
            assert_eq!(rig.memo.gist().restarts, memo.gist().restarts, "{at}");
            let begun = u64::from(cell == "preparing");
            assert_eq!(rig.memo.incarnation.0, memo.incarnation.0 + begun, "{at}");
        }
    }
}

/// What keepers begin while they and their daemons die is within the limits of the series.
#[test]
fn lives_of_which_only_a_keeper_knew_count_as_restarts() {
    let max = RestartSpec::default().max_restarts.map_or(0, u64::from);
    for (lives, expected) in [(max, "preparing"), (max + 1, "failed")] {
        let running = Rig::brought_to("running");
        let mut rig = running.under_another_keeper();
        let lost = (1..=lives).map(|life| rig.lost(Incarnation(life))).collect();
        rig.take(Input::Deserted { service: name(), lost });
        rig.take(Input::Deadline);
        assert_eq!(step(&rig.memo.phase), expected, "after {lives} lives");

        let mut rig = running.under_another_keeper();
        let lost = (1..lives).map(|life| rig.lost(Incarnation(life))).collect();
        let (pid, at, incarnation) = (43, rig.now, Incarnation(lives));
        rig.take(Input::Adopted { service: name(), incarnation, pid, at, lost, holds: false });
        assert_eq!(step(&rig.memo.phase), "running");
        assert_eq!(rig.memo.gist().restarts, lives - 1);
        rig.take_row("ended ill");
        rig.take_row("cleared");
        if expected == "failed" {
            assert_eq!(step(&rig.memo.phase), "failed", "the {lives}th was one too many");
        } else {
            assert_ne!(step(&rig.memo.phase), "failed");
        }
    }
}

/// A life that the keeper had begun before it heard what was to follow, found by the first daemon of the next one.
#[test]
fn what_was_to_follow_an_end_holds_for_a_later_life() {
    for (verb, alive, ended) in [
        ("stop", "stopping", "stopped"),
        ("disable", "stopping", "disabled"),
        ("start", "running", "preparing"),
        ("pause", "running", "failed"),
    ] {
        let mut before = Rig::brought_to("crashed");
        before.take_row(verb);
        let (pid, at, incarnation) = (43, before.now, Incarnation(2));
        let mut rig = before.under_another_keeper();
        rig.take(Input::Adopted { service: name(), incarnation, pid, at, lost: Vec::new(), holds: false });
        assert_eq!(step(&rig.memo.phase), alive, "`{verb}`, and it lives");
        let mut rig = before.under_another_keeper();
        let lost = vec![rig.lost(incarnation)];
        let told = rig.take(Input::Deserted { service: name(), lost });
        assert_eq!(step(&rig.memo.phase), ended, "`{verb}`, and it has ended");
        let exits =
            told.iter().filter(|it| matches!(it, Effect::Record(it) if matches!(it.what, What::Exit { .. })));
        assert_eq!(exits.count(), 1, "`{verb}`");
    }
}

#[test]
fn a_life_of_an_outdated_plan_that_is_taken_over_is_replaced() {
    let mut before = Rig::brought_to("spawning");
    before.take_row("reload");
    let mut rig = before.under_another_keeper();
    let (pid, at, incarnation) = (43, rig.now, rig.memo.incarnation);
    rig.take(Input::Adopted { service: name(), incarnation, pid, at, lost: Vec::new(), holds: false });
    assert_eq!(step(&rig.memo.phase), "replacing");
}

#[test]
fn a_text_that_lacks_fields_is_a_memo_all_the_same() {
    let memo: Memo = serde_json::from_str("{\"restarts\":7,\"unknown\":[1]}").expect("a memo");
    assert_eq!(memo.gist(), crate::Gist { restarts: 7, ..crate::Gist::default() });
    let gist = crate::Gist { incarnation: 3, restarts: 2, disabled: true };
    assert_eq!(Memo::of_gist(gist).gist(), gist);
}

/// One service with the default policy, and what is known of it from outside.
struct Rig {
    supervisor: Supervisor,
    now: Tick,
    memo: Memo,
}

impl Rig {
    /// Brings a new service into a step. The ways are told in the words of the rows.
    fn brought_to(column: &str) -> Self {
        let up = ["start", "prepared", "spawned"];
        let way = match column {
            "stopped" => vec![],
            "preparing" => vec!["start"],
            "spawning" => vec!["start", "prepared"],
            "running" => up.to_vec(),
            "replacing" => [&up[..], &["restart"]].concat(),
            "stopping" => vec!["start", "prepared", "stop"],
            "emptying" => [&up[..], &["ended well"]].concat(),
            "crashed" => [&up[..], &["ended ill"]].concat(),
            "retrying" => vec!["start", "prepare failed"],
            "failed" => {
                let restarts = RestartSpec::default().max_restarts.map_or(0, |max| max as usize);
                [&["start"], ["prepare failed", "deadline"].repeat(restarts).as_slice(), &["prepare failed"]]
                    .concat()
            }
            "disabled" => vec!["disable"],
            unknown => panic!("there is no way to the column `{unknown}`"),
        };
        let mut rig = Self { supervisor: Supervisor::new(7), now: Tick(1_000), memo: Memo::new() };
        rig.take(Input::Configure(vec![Arc::new(spec())]));
        rig.take(Input::Begin);
        for row in way {
            rig.take_row(row);
        }
        assert_eq!(step(&rig.memo.phase), column, "the way to the column `{column}`");
        rig
    }

    /// What the first daemon of the next keeper knows.
    fn under_another_keeper(&self) -> Self {
        let mut rig = Self { supervisor: Supervisor::new(7), now: self.now, memo: Memo::new() };
        rig.take(Input::Configure(vec![Arc::new(spec())]));
        rig.take(Input::Resume { service: name(), memo: Box::new(self.memo.clone()) });
        rig
    }

    fn lost(&self, incarnation: Incarnation) -> Lost {
        let (at, usage) = (self.now, Usage::default());
        let end = End { status: Some(WaitStatus(9)), at, usage, oom: None, blame: Blame::Unknown };
        Lost { incarnation, pid: 42, started: at, end }
    }

    fn take_row(&mut self, row: &str) -> Vec<Effect> {
        let input = self.input(row, self.life_of(row));
        self.take(input)
    }

    fn take(&mut self, input: Input) -> Vec<Effect> {
        if input == Input::Deadline {
            self.now = self.supervisor.next_deadline().unwrap_or(self.now);
        }
        let mut fx = Effects::new();
        self.supervisor.handle(self.now, input, &mut fx);
        let effects: Vec<_> = fx.drain().collect();
        for effect in &effects {
            if let Effect::Remember { memo, .. } = effect {
                self.memo = Memo::clone(memo);
            }
        }
        effects
    }

    /// The life that a report is about if it is not stale, or the draft, which is a number too.
    fn life_of(&self, row: &str) -> Incarnation {
        let plan = matches!(row, "prepared" | "prepare failed");
        if plan { Incarnation(self.memo.draft.0) } else { self.memo.incarnation }
    }

    fn input(&self, row: &str, incarnation: Incarnation) -> Input {
        let service = name();
        let (pid, at) = (42, self.now);
        let ended = |service, status, followed| {
            let end = End {
                status: Some(WaitStatus(status)),
                at,
                usage: Usage::default(),
                oom: None,
                blame: Blame::Unknown,
            };
            Input::Ended { service, incarnation, pid, started: at, end, seen: at, followed }
        };
        let request = |verb| Input::Request { id: RequestId(1), service: name(), verb };
        match row {
            "start" => request(Verb::Start),
            "stop" => request(Verb::Stop),
            "restart" => request(Verb::Restart),
            "reset" => request(Verb::Reset),
            "enable" => request(Verb::Enable),
            "disable" => request(Verb::Disable),
            "pause" => request(Verb::Pause(None)),
            "resume" => request(Verb::Resume),
            "reload" => {
                let command = Command::from(["/usr/bin/other".to_owned()]);
                Input::Reload(vec![Arc::new(ServiceSpec { launch: Launch::new(command), ..spec() })])
            }
            "removal" => Input::Reload(Vec::new()),
            "kill" => request(Verb::Kill(Signal::TERM)),
            "prepared" => {
                Input::Prepared { service, draft: Draft(incarnation.0), failure: None, taken: Vec::new() }
            }
            "prepare failed" => Input::Prepared {
                service,
                draft: Draft(incarnation.0),
                failure: Some(failure()),
                taken: Vec::new(),
            },
            "spawned" => Input::Spawned { service, incarnation, pid, at },
            "spawn failed" => Input::SpawnFailed { service, incarnation, failure: failure() },
            "ended well" => ended(service, 0, false),
            "ended ill" => ended(service, 7 << 8, false),
            "followed" => ended(service, 7 << 8, true),
            "listens" => Input::Port { service, incarnation, port: 80, listening: true },
            "cleared" => Input::Cleared { service, incarnation },
            "adopted" => Input::Adopted { service, incarnation, pid, at, lost: Vec::new(), holds: false },
            "deserted" => {
                let end = End { status: None, at, usage: Usage::default(), oom: None, blame: Blame::Unknown };
                let lost = self
                    .memo
                    .life()
                    .map(|_| Lost { incarnation, pid, started: at, end })
                    .into_iter()
                    .collect();
                Input::Deserted { service, lost }
            }
            "deadline" => Input::Deadline,
            "shutdown" => Input::Shutdown,
            "hurry" => Input::Hurry,
            unknown => panic!("there is no input for the row `{unknown}`"),
        }
    }
}

/// The column that a phase belongs to.
fn step(phase: &Phase) -> &'static str {
    match phase {
        Phase::Stopped => "stopped",
        Phase::Preparing => "preparing",
        Phase::Spawning => "spawning",
        Phase::Running(_) => "running",
        Phase::Replacing(..) => "replacing",
        Phase::Stopping { .. } => "stopping",
        Phase::Emptying { .. } => "emptying",
        Phase::Crashed { .. } => "crashed",
        Phase::Retrying { .. } => "retrying",
        Phase::Failed { .. } => "failed",
        Phase::Disabled => "disabled",
    }
}

/// The columns and the rows of the table whose header starts so; the first column names the rows.
fn table(header: &str) -> (Vec<String>, Vec<(String, Vec<String>)>) {
    let mut lines = STATES.lines().skip_while(|line| !line.starts_with(header)).map_while(cells);
    let (_, columns) = lines.next().expect("the table has a header");
    let rows: Vec<_> = lines.skip(1).collect();
    assert!(!rows.is_empty(), "the table `{header}` has no rows");
    for (row, cells) in &rows {
        assert_eq!(cells.len(), columns.len(), "row `{row}`");
    }
    (columns, rows)
}

/// The first cell of a line of a table, and the others.
fn cells(line: &str) -> Option<(String, Vec<String>)> {
    let mut cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(|cell| cell.trim().to_owned());
    Some((cells.next()?, cells.collect()))
}

fn name() -> ServiceName {
    "api".parse().expect("a valid name")
}

fn spec() -> ServiceSpec {
    let command = Command::from(["/usr/bin/api".to_owned()]);
    ServiceSpec { autostart: false, ..ServiceSpec::new(name(), command) }
}

fn failure() -> StartFailure {
    StartFailure {
        kind: StartFailureKind::Exec,
        call: "execve /usr/bin/api".to_owned(),
        errno: Some(2),
        error: "No such file or directory (ENOENT)".to_owned(),
        remedy: "check the path".to_owned(),
    }
}
