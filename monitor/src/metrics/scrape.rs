//! One scrape: the collectors that were asked for, each with how long it took.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use defib_core::model::{ServiceName, ServiceView, SourceName, Tick};

use super::counted::Counted;
use super::pipeline::{self, Pipeline};
use super::ports::{self, Port};
use super::text::{Format, Page};
use super::{Metrics, names, own_process, services, usage, wall_seconds};
use crate::effect::usage::{TreeUsage, of_this_process};

/// A part of the page that can be asked for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collector {
    /// The supervised services.
    Services,
    /// What the processes of the services use.
    Usage,
    /// The event source, the queues, the host.
    Events,
    /// The watched ports.
    Ports,
    /// The daemon: its build, configuration, log and answers.
    Daemon,
    /// The daemon's process.
    Process,
}

impl Collector {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Services, Self::Usage, Self::Events, Self::Ports, Self::Daemon, Self::Process];

    /// Its word, in `collect[]` and in the label `collector`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Usage => "usage",
            Self::Events => "events",
            Self::Ports => "ports",
            Self::Daemon => "daemon",
            Self::Process => "process",
        }
    }

    /// The collector of that word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|collector| collector.as_str() == word)
    }
}

/// What a scrape is made of besides what is counted.
#[derive(Debug)]
pub struct Scrape<'a> {
    /// The collectors that were asked for.
    pub collectors: &'a [Collector],
    /// The services as they are now.
    pub views: &'a BTreeMap<ServiceName, std::sync::Arc<ServiceView>>,
    /// What services use, as far as they could be looked at, and how long that took.
    pub usage: (Vec<TreeUsage>, Duration),
    /// The source in use.
    pub source: SourceName,
    /// What the supervisor thread told, and how long that took; `None` if it did not answer in time.
    pub pipeline: (Option<Pipeline>, Duration),
    /// The watched ports and whether all of them could be looked at, and how long that took.
    pub ports: (Vec<Port>, bool, Duration),
    /// The time.
    pub now: fn() -> Tick,
    /// How it is to be written.
    pub format: Format,
}

impl Metrics {
    /// The page for a scrape.
    pub fn page(&self, scrape: &Scrape<'_>) -> String {
        let mut page = Page::within(self.most.load(Ordering::Relaxed));
        let mut recorded = String::new();
        let begun = (scrape.now)();
        let counted = self.counted(scrape);
        let copied = (scrape.now)().since(begun);
        for collector in scrape.collectors {
            let begun = (scrape.now)();
            let (success, before) = match collector {
                Collector::Services => {
                    self.services(&mut page, scrape, &counted);
                    (true, copied)
                }
                Collector::Usage => {
                    let (found, took) = &scrape.usage;
                    let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
                    usage::write(&mut page, found, &counted, &mut sums);
                    sums.retain(|name| scrape.views.contains_key(name));
                    (found.len() == scrape.views.len(), *took)
                }
                Collector::Events => {
                    pipeline::write_spans(&mut page, scrape.source, &self.tally);
                    let (told, took) = &scrape.pipeline;
                    if let Some(told) = told {
                        pipeline::write(&mut page, told);
                    }
                    (told.is_some(), *took)
                }
                Collector::Ports => {
                    let (ports, success, took) = &scrape.ports;
                    ports::write(&mut page, ports);
                    (*success, *took)
                }
                Collector::Daemon => {
                    self.daemon(&mut page);
                    recorded = self.recorder.text(scrape.format);
                    (true, Duration::ZERO)
                }
                Collector::Process => match of_this_process() {
                    Ok(own) => {
                        own_process::write(&mut page, &own);
                        (true, Duration::ZERO)
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the daemon's own process cannot be read");
                        (false, Duration::ZERO)
                    }
                },
            };
            let took = before + (scrape.now)().since(begun);
            page.family(&names::COLLECTOR_DURATION).add(&[collector.as_str()], took.as_secs_f64());
            page.family(&names::COLLECTOR_SUCCESS).truth(&[collector.as_str()], success);
        }
        self.tell_left_out(&mut page, scrape.collectors.contains(&Collector::Daemon));
        page.append_to(&mut recorded, scrape.format);
        recorded.push_str(scrape.format.end());
        recorded
    }

    /// Counts what this page had no room for, and tells it together with what earlier ones had none for.
    fn tell_left_out(&self, page: &mut Page, tell: bool) {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        for (family, count) in page.left_out() {
            *left_out.entry(family).or_default() += count;
        }
        if tell {
            // All that can be limited stand at 0 before they are: the first increase is seen.
            for family in names::ALL.iter().filter(|family| family.is_open()) {
                let refused = if **family == names::PROCESS_EXITS { self.tally.refused() } else { 0 };
                let count = left_out.get(family.name).copied().unwrap_or_default() + refused;
                page.family(&names::SERIES_DROPPED).count(&[family.name], count);
            }
        }
    }

    /// What was counted of services, nothing of one of which nothing was. One copy for all collectors: each takes a lock a
    /// service, and two of them would not be of the same moment.
    fn counted(&self, scrape: &Scrape<'_>) -> BTreeMap<ServiceName, Counted> {
        let wanted = [Collector::Services, Collector::Usage];
        if !scrape.collectors.iter().any(|collector| wanted.contains(collector)) {
            return BTreeMap::new();
        }
        let mut counted = self.tally.copy((scrape.now)());
        for name in scrape.views.keys() {
            if !counted.contains_key(name) {
                counted.insert(name.clone(), Counted::default());
            }
        }
        counted
    }

    fn services(&self, page: &mut Page, scrape: &Scrape<'_>, counted: &BTreeMap<ServiceName, Counted>) {
        let views: Vec<&ServiceView> = scrape.views.values().map(AsRef::as_ref).collect();
        services::write_views(page, &views, counted);
        services::write_counted(page, counted);
        if let Some(output) = self.output.get() {
            services::write_output(page, &views, output);
        }
    }

    fn daemon(&self, page: &mut Page) {
        let build = [env!("CARGO_PKG_VERSION"), env!("DEFIB_REVISION"), env!("DEFIB_RUSTC")];
        page.family(&names::BUILD_INFO).add(&build, 1.0);
        let (successful, at) = self.loads.last();
        page.family(&names::CONFIG_SUCCESSFUL).truth(&[], successful);
        if let Some(at) = at {
            page.single(&names::CONFIG_SUCCESS_TIME, wall_seconds(at));
        }
        if let Some(state) = self.state.get() {
            page.family(&names::STATE_DATABASE_UP).truth(&[], state.works());
            page.family(&names::STATE_DATABASE_LOST).count(&[], state.lost());
        }
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        for (handler, histogram) in answers.iter() {
            page.family(&names::HTTP_DURATION).histogram(&[handler], &histogram.read());
        }
    }
}

#[cfg(test)]
mod tests;
