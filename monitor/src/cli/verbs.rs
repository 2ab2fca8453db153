//! `defib start`, `stop`, `restart`, `reset`, `enable`, `disable`, `pause`, `resume` and `kill`

use defib_core::Verb;
use futures_util::stream::{self, StreamExt};
use serde::Serialize;

use super::Exit;
use super::args::{Act, Asked, Options};
use super::output::complain_of;
use super::session;
use super::targets::{self, Choice, Known, Targets};
use crate::api::types::{Answer, Progress};
use crate::client::Error;

/// How many services are asked for at once: a stop may take its time, and a client may have only so many connections.
const AT_ONCE: usize = 16;

/// What came of a verb, in JSON.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The service, or the word that means none.
    service: String,
    verb: &'static str,
    /// `done`, `accepted`, or why not.
    result: &'static str,
    detail: String,
}

/// All of it.
#[derive(Debug, Serialize)]
struct Outcomes {
    results: Vec<Outcome>,
}

/// Carries out a verb on every service that is meant, and reports each.
pub fn run(options: &Options, act: Act) -> Exit {
    let (asked, wanted) = act.split();
    session::run(options, async |client, printer| {
        let known: Vec<Known> = client.status().await?.services.iter().map(Known::from).collect();
        let Targets { names, missing } = targets::find(Choice::from(&wanted), &known);
        let (mut exit, mut results) = (Exit::Done, Vec::new());
        let mut note = |service: String, result, detail| {
            results.push(Outcome { service, verb: word_of(asked), result, detail });
        };
        for (word, text) in missing {
            complain_of(&text);
            exit = Exit::NotFound;
            note(word, "not-found", text);
        }
        let client = &client;
        let ask = |name| async move {
            let answer = match asked {
                Asked::Verb(verb) => client.act(&name, verb, !wanted.no_wait).await,
                Asked::Boot(start) => client.set_boot(&name, start).await,
            };
            (answer, name)
        };
        let mut answers = stream::iter(names).map(ask).buffered(AT_ONCE);
        while let Some((answer, name)) = answers.next().await {
            match answer {
                Ok(Answer { result, detail, .. }) => {
                    if !printer.json {
                        printer.print(&format!("{name}: {}\n", done(asked, result, &detail)))?;
                    }
                    note(name.to_string(), word(result), detail);
                }
                Err(error) => {
                    complain_of(&format!("cannot {} {name}: {error}", word_of(asked)));
                    exit = exit.max(Exit::from(&error));
                    note(name.to_string(), reason(&error), error.to_string());
                }
            }
        }
        if printer.json {
            printer.print_json(&Outcomes { results })?;
        }
        Ok(exit)
    })
}

fn word_of(asked: Asked) -> &'static str {
    match asked {
        Asked::Verb(verb) => verb.as_str(),
        Asked::Boot(true) => "enable --boot",
        Asked::Boot(false) => "disable --boot",
    }
}

fn word(progress: Progress) -> &'static str {
    match progress {
        Progress::Done => "done",
        Progress::Accepted => "accepted",
    }
}

fn reason(error: &Error) -> &'static str {
    match error {
        Error::NotFound(_) => "not-found",
        Error::Denied(_) => "denied",
        Error::Disabled(_) => "disabled",
        Error::Unreachable { .. } | Error::Broken(_) => "unreachable",
        Error::Failed(_) | Error::Strange(_) => "failed",
    }
}

/// What is to be said of a verb that went well.
fn done(asked: Asked, progress: Progress, detail: &str) -> String {
    let verb = match (progress, asked) {
        (Progress::Accepted, _) => return format!("{} accepted", word_of(asked)),
        (Progress::Done, _) if !detail.is_empty() => return super::output::escape(detail),
        (Progress::Done, Asked::Boot(true)) => return "starts with defib".to_owned(),
        (Progress::Done, Asked::Boot(false)) => return "does not start with defib".to_owned(),
        (Progress::Done, Asked::Verb(verb)) => verb,
    };
    match verb {
        Verb::Start => "started".to_owned(),
        Verb::Stop => "stopped".to_owned(),
        Verb::Restart => "restarted".to_owned(),
        Verb::Reset => "reset".to_owned(),
        Verb::Enable => "enabled".to_owned(),
        Verb::Disable => "disabled".to_owned(),
        Verb::Pause(_) => "paused".to_owned(),
        Verb::Resume => "resumed".to_owned(),
        Verb::Kill(signal) => format!("{signal} sent"),
    }
}
