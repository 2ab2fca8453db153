//! Reads `[service.X.restart]` over the values that it starts from.

use std::ffi::OsStr;
use std::time::Duration;

use defib_core::model::{Backoff, Delays, GiveUp, Policy, RestartSpec};
use toml::de::DeValue;

use super::document::{Document, Node, Table};
use super::error::{Place, quoted};
use super::overrides::Overrides;
use super::values;

pub(super) const POLICIES: [(&str, Policy); 3] =
    [("on-failure", Policy::OnFailure), ("always", Policy::Always), ("never", Policy::Never)];

/// The restart rules as layers of tables have set them so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Restart {
    spec: RestartSpec,
    /// `immediate` if one of the layers gives it: otherwise it follows from the kind of the delays.
    immediate: Option<u32>,
}

impl Restart {
    /// Sets what `node` gives and leaves the rest.
    pub(super) fn read(&mut self, node: Node<'_>) -> Option<()> {
        if let Some((word, _)) = POLICIES.iter().find(|(word, _)| node.value.as_str() == Some(word)) {
            return node.refuse(&format!("a table; write restart = {{ policy = \"{word}\" }}"));
        }
        let mut table = node.table("a table such as { policy = \"always\" }")?;
        let spec = &mut self.spec;
        table.set(&mut spec.policy, "policy", |node| values::word(node, &POLICIES));
        table.set(&mut spec.success_codes, "success_codes", values::codes);
        table.set(&mut spec.never_codes, "never_codes", values::codes);
        let immediate = table.get("immediate", |node| {
            values::whole(node, 0..=u32::MAX, "a whole number from 0 to 4294967295")
        });
        self.immediate = immediate.or(self.immediate);
        table.get("backoff", |node| backoff(node, &mut spec.delays));
        table.set(&mut spec.delays, "delays", delays);
        table.set(&mut spec.max_restarts, "max_restarts", max_restarts);
        table.set(&mut spec.window, "window", window);
        table.set(&mut spec.give_up, "give_up", give_up);
        table.set(&mut spec.reset_after, "reset_after", values::span);
        self.compare(&table);
        table.finish(|_| None);
        Some(())
    }

    /// The rules that span several keys.
    fn compare(&self, table: &Table<'_>) {
        if table.has("backoff") && table.has("delays") {
            table.complain("delays", "given together with backoff; choose one of the two");
        }
        let touched = ["never_codes", "success_codes"].into_iter().find(|key| table.has(key));
        if let Some(key) = touched.filter(|_| !table.faulty()) {
            for code in self.spec.success_codes.intersection(&self.spec.never_codes) {
                table.complain(key, format!("exit code {code} is in both success_codes and never_codes"));
            }
        }
    }

    /// The rules as a whole.
    pub(super) fn finish(self) -> RestartSpec {
        let implied = match self.spec.delays {
            Delays::Backoff(_) => RestartSpec::default().immediate,
            // A list names every delay there is, so its first is that of the first restart.
            Delays::List(_) => 0,
        };
        RestartSpec { immediate: self.immediate.unwrap_or(implied), ..self.spec }
    }
}

/// Sets what `node` gives, over the backoff so far; a list of delays from `[defaults]` gives way to it.
fn backoff(node: Node<'_>, delays: &mut Delays) -> Option<()> {
    let mut backoff = match delays {
        Delays::Backoff(backoff) => backoff.clone(),
        Delays::List(_) => Backoff::default(),
    };
    let mut table =
        node.table("a table such as { initial = \"100ms\", factor = 2, max = \"60s\", jitter = 0.1 }")?;
    table.set(&mut backoff.initial, "initial", values::span);
    table.set(&mut backoff.factor, "factor", |node| {
        values::number(node, 1.0..=f64::MAX, "a finite number, at least 1")
    });
    table.set(&mut backoff.max, "max", values::span);
    table.set(&mut backoff.jitter, "jitter", |node| values::number(node, 0.0..=1.0, "a number from 0 to 1"));
    if backoff.max < backoff.initial && !table.faulty() {
        let [max, initial] = [backoff.max, backoff.initial].map(crate::duration::show);
        let key = if table.has("max") { "max" } else { "initial" };
        table.complain(key, format!("max is {max}, but must be at least initial, which is {initial}"));
    }
    *delays = Delays::Backoff(backoff);
    table.finish(|_| None);
    Some(())
}

fn delays(node: Node<'_>) -> Option<Delays> {
    match values::list(node.clone(), "an array of durations such as [\"5s\", \"10s\"]", values::duration)? {
        empty if empty.is_empty() => node.complain("the array is empty; give one delay at least"),
        delays => Some(Delays::List(delays)),
    }
}

fn wanted_restarts() -> String {
    format!("a whole number from 1 to {} or \"none\"", RestartSpec::MAX_RESTARTS)
}

/// `max_restarts` of every service, if a flag or a variable decides it.
pub(super) fn decided_restarts(doc: &Document<'_>, overrides: &Overrides) -> Option<Option<u32>> {
    let flag = overrides.flags.max_restarts.as_deref().map(OsStr::new);
    let (name, value) = overrides.setting("--max-restarts", flag, "DEFIB_MAX_RESTARTS")?;
    let value = value.to_string_lossy();
    if value == "none" {
        return Some(None);
    }
    // Not `parse` alone, which takes a plus sign.
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits && (1..=RestartSpec::MAX_RESTARTS).contains(&number) => Some(Some(number)),
        _ => {
            let message = format!("found {}, wanted {}", quoted(&value), wanted_restarts());
            doc.note(Place::Override, name, message);
            None
        }
    }
}

fn max_restarts(node: Node<'_>) -> Option<Option<u32>> {
    let wanted = wanted_restarts();
    values::or_none(node, |node| values::whole(node, 1..=RestartSpec::MAX_RESTARTS, &wanted))
}

fn window(node: Node<'_>) -> Option<Option<Duration>> {
    values::or_none(node, |node| values::span_or(node, "a duration above zero, such as \"5m\", or \"none\""))
}

fn give_up(node: Node<'_>) -> Option<GiveUp> {
    let wanted = "\"fail\" or { retry_every = \"6h\" }";
    match node.value {
        DeValue::String(word) if word == "fail" => Some(GiveUp::Fail),
        DeValue::Table(_) => {
            let mut table = node.table(wanted)?;
            let every = table.get("retry_every", values::span);
            if !table.has("retry_every") {
                table.complain("retry_every", format!("missing; give_up is {wanted}"));
            }
            table.finish(|_| None);
            every.map(GiveUp::RetryEvery)
        }
        _ => node.refuse(wanted),
    }
}
