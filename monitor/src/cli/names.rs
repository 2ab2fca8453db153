//! The names of services, for the shell that completes them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::CompletionCandidate;
use tokio::runtime::Builder;

use super::args::Options;
use crate::api::types::Service;
use crate::client::Client;

/// Whoever presses Tab does not wait longer for names than this.
const PATIENCE: Duration = Duration::from_millis(500);

/// The services whose names begin with what has been typed.
pub(super) fn complete(typed: &OsStr) -> Vec<CompletionCandidate> {
    let one = |service: &Service| {
        let candidate = CompletionCandidate::new(service.name.as_str());
        candidate.help(Some(service.state.as_str().into()))
    };
    matching(typed, |service| Some(service.name.as_str().to_owned()), one)
}

/// The groups whose names begin so.
pub(super) fn complete_group(typed: &OsStr) -> Vec<CompletionCandidate> {
    let group = |service: &Service| service.group.as_ref().map(ToString::to_string);
    matching(typed, group, |service| CompletionCandidate::new(group(service).unwrap_or_default()))
}

/// Each word that begins so, once. Without a daemon there are none, and nothing is said: that would be said between the
/// words that are being typed.
fn matching(
    typed: &OsStr,
    word: impl Fn(&Service) -> Option<String>,
    candidate: impl Fn(&Service) -> CompletionCandidate,
) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let mut seen = BTreeSet::new();
    let services = services().unwrap_or_default();
    let new = services.iter().filter(|service| {
        word(service).is_some_and(|word| word.starts_with(typed.as_ref()) && seen.insert(word))
    });
    new.map(candidate).collect()
}

/// Asks the daemon that the environment or the configuration names. What the line says of those is not known here.
fn services() -> Option<Vec<Service>> {
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let status = runtime.block_on(async {
        let folders = Options::default().socket_folders().ok()?;
        let ask = async { Client::find(&folders).await.ok()?.status().await.ok() };
        tokio::time::timeout(PATIENCE, ask).await.ok().flatten()
    });
    Some(status?.services)
}
