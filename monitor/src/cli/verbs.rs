//! `defib start`, `stop`, `restart`, `reset`, `enable`, `disable` and `kill`

use defib_core::Verb;
use futures_util::stream::{self, StreamExt};
use serde::Serialize;

use super::Exit;
use super::args::{Act, Options};
use super::output::complain_of;
use super::session;
use super::targets::{self, Targets};
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
    let (verb, wanted) = act.split();
    session::run(options, async |client, printer| {
        let known =
            client.status().await?.services.into_iter().map(|service| service.name).collect::<Vec<_>>();
        let Targets { names, missing } = if wanted.all {
            Targets { names: known, missing: Vec::new() }
        } else {
            targets::find(&wanted.names, &known)
        };
        let (mut exit, mut results) = (Exit::Done, Vec::new());
        let mut note = |service: String, result, detail| {
            results.push(Outcome { service, verb: verb.as_str(), result, detail });
        };
        for (word, text) in missing {
            complain_of(&text);
            exit = Exit::NotFound;
            note(word, "not-found", text);
        }
        let client = &client;
        let ask = |name| async move { (client.act(&name, verb, !wanted.no_wait).await, name) };
        let mut answers = stream::iter(names).map(ask).buffered(AT_ONCE);
        while let Some((answer, name)) = answers.next().await {
            match answer {
                Ok(Answer { result, detail, .. }) => {
                    if !printer.json {
                        printer.print(&format!("{name}: {}\n", done(verb, result, &detail)))?;
                    }
                    note(name.to_string(), word(result), detail);
                }
                Err(error) => {
                    complain_of(&format!("cannot {} {name}: {error}", verb.as_str()));
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
fn done(verb: Verb, progress: Progress, detail: &str) -> String {
    match (progress, verb) {
        (Progress::Accepted, _) => format!("{} accepted", verb.as_str()),
        (Progress::Done, _) if !detail.is_empty() => super::output::escape(detail),
        (Progress::Done, Verb::Start) => "started".to_owned(),
        (Progress::Done, Verb::Stop) => "stopped".to_owned(),
        (Progress::Done, Verb::Restart) => "restarted".to_owned(),
        (Progress::Done, Verb::Reset) => "reset".to_owned(),
        (Progress::Done, Verb::Enable) => "enabled".to_owned(),
        (Progress::Done, Verb::Disable) => "disabled".to_owned(),
        (Progress::Done, Verb::Pause(_)) => "paused".to_owned(),
        (Progress::Done, Verb::Resume) => "resumed".to_owned(),
        (Progress::Done, Verb::Kill(signal)) => format!("{signal} sent"),
    }
}
