//! What was asked of a log, answered line by line.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use defib_core::model::{LogStreams, ServiceName};
use jiff::Timestamp;

use super::Kind;
use super::chain::Chain;
use super::lines::{Cutter, Line};
use super::service::Service;
use super::stream::Stream;
use crate::effect::clock;

/// How long reading may take: a reader that is slow, or a disk that is, must not hold a thread for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most bytes of lines that are put aside to give the last ones.
const ASIDE: usize = 16 << 20;

/// What is wanted of a log.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only the last lines.
    pub lines: Option<usize>,
    /// Only what came then or later.
    pub since: Option<Timestamp>,
    /// Only what came then or earlier.
    pub until: Option<Timestamp>,
    /// Only lines that hold this.
    pub grep: Option<Vec<u8>>,
    /// Only this stream.
    pub stream: Option<Kind>,
}

/// Why a log cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no such service.
    #[error("no such service")]
    NotFound,
    /// The streams of the service are not apart.
    #[error(
        "standard output and error of {0} go to one log: `log.streams = \"apart\"` gives each its own, from the next start on"
    )]
    Joined(ServiceName),
}

impl Query {
    /// Whether a line is wanted, but for the number of lines.
    pub fn wants(&self, line: &Line) -> bool {
        let late = self.since.is_none_or(|since| line.at.is_none_or(|at| at >= since));
        let early = self.until.is_none_or(|until| line.at.is_none_or(|at| at <= until));
        let holds = |text: &Vec<u8>| {
            text.is_empty() || line.bytes.windows(text.len()).any(|part| part == text.as_slice())
        };
        late && early && self.grep.as_ref().is_none_or(holds)
    }

    /// The streams that are asked for.
    pub(super) fn kinds(&self, service: &Service) -> Result<Vec<Kind>, QueryError> {
        match self.stream {
            None => Ok(Kind::ALL.to_vec()),
            Some(_) if service.spec().streams == LogStreams::Joined => {
                Err(QueryError::Joined(service.name.clone()))
            }
            Some(kind) => Ok(vec![kind]),
        }
    }
}

/// Up to where a stream was read, for whoever goes on from there.
#[derive(Debug)]
pub(super) struct End {
    stream: u64,
    pos: u64,
    kind: Kind,
    /// The line that has begun.
    rest: Option<Line>,
}

/// Reads back, line by line, until `give` says that it has enough. May block on a disk. `rest`: also what has no end yet.
pub(super) fn read(
    service: &Service,
    log_dir: &Path,
    query: &Query,
    kinds: &[Kind],
    rest: bool,
    mut give: impl FnMut(Line) -> bool,
) -> Vec<End> {
    let (base, spec) = service.base(log_dir);
    let begun = clock::now();
    let mut ends = Vec::new();
    let mut chains = Vec::new();
    let streams = service.streams();
    // The last lines are often in memory, whatever the disk does.
    let plain = query.since.is_none() && query.until.is_none() && query.grep.is_none();
    let asked = || streams.iter().filter(|stream| kinds.contains(&stream.kind));
    let enough = |wanted| asked().count() > 0 && asked().all(|stream| stream.ring().lines() >= wanted);
    let memory_only = plain && query.lines.is_some_and(enough);
    for kind in kinds {
        // Of one kind only the last is written to, but for what a life still holds of an earlier pipe.
        let stream = streams.iter().rfind(|stream| stream.kind == *kind);
        let mark = stream.and_then(|stream| stream.mark());
        let memory = stream.map(|stream| {
            let ring = stream.ring();
            ends.push(End { stream: stream.id, pos: ring.end(), kind: *kind, rest: None });
            let from = mark.filter(|_| !memory_only).map_or(0, |mark| mark.captured);
            ring.since(from).1
        });
        if memory_only {
            chains.push(Chain::of_memory(*kind, memory.unwrap_or_default()));
            continue;
        }
        let mut chain = Chain::open(&base, spec.layout, *kind, mark, memory.unwrap_or_default());
        match (query.since, query.lines) {
            (Some(since), _) => chain.skip_to(since),
            (None, Some(lines)) if plain => chain.skip_to_last(lines),
            (None, _) => {}
        }
        chains.push(chain);
    }
    let mut merged = Merged { heads: chains.iter_mut().map(Iterator::next).collect(), chains };
    let mut last = Last { wanted: query.lines, lines: VecDeque::new(), bytes: 0 };
    let lines = std::iter::from_fn(|| merged.next(rest)).filter(|line| query.wants(line));
    for (count, line) in lines.enumerate() {
        if let Some(line) = last.take(line)
            && !give(line)
        {
            return ends;
        }
        if count % 1024 == 0 && clock::now().since(begun) > PATIENCE {
            break;
        }
    }
    for line in last.lines {
        if !give(line) {
            break;
        }
    }
    if !rest {
        for end in &mut ends {
            let chain = merged.chains.iter_mut().find(|chain| chain.kind() == end.kind);
            end.rest = chain.and_then(Chain::rest);
        }
    }
    ends
}

/// Several rows in the order of their times.
struct Merged {
    heads: Vec<Option<Line>>,
    chains: Vec<Chain>,
}

impl Merged {
    fn next(&mut self, rest: bool) -> Option<Line> {
        let waiting =
            self.heads.iter().enumerate().filter_map(|(index, head)| Some((head.as_ref()?.at, index)));
        if let Some((_, index)) = waiting.min() {
            let next = self.chains[index].next();
            return std::mem::replace(&mut self.heads[index], next);
        }
        if rest { self.chains.iter_mut().find_map(Chain::rest) } else { None }
    }
}

/// Holds lines back until it is known that they are among the last.
struct Last {
    wanted: Option<usize>,
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Last {
    /// Takes a line, and gives it at once if all are wanted.
    fn take(&mut self, line: Line) -> Option<Line> {
        let Some(wanted) = self.wanted else { return Some(line) };
        self.bytes += line.bytes.len();
        self.lines.push_back(line);
        while self.lines.len() > wanted || self.bytes > ASIDE {
            self.bytes -= self.lines.pop_front().map_or(self.bytes, |line| line.bytes.len());
        }
        None
    }
}

/// One who follows a service. Streams that begin later are followed from their beginning.
#[derive(Debug)]
pub struct Follower {
    service: Arc<Service>,
    query: Query,
    kinds: Vec<Kind>,
    /// Up to where each stream was read, and the line that has begun.
    ways: Vec<(Arc<Stream>, u64, Cutter)>,
}

impl Follower {
    pub(super) fn new(service: Arc<Service>, query: Query, kinds: Vec<Kind>) -> Self {
        service.followers.fetch_add(1, Ordering::AcqRel);
        Self { service, query, kinds, ways: Vec::new() }
    }

    pub(super) fn begin(&mut self, mut ends: Vec<End>) {
        for stream in self.service.streams() {
            let end = ends.iter_mut().find(|end| end.stream == stream.id);
            let mut cutter = Cutter::new(stream.kind);
            let pos = match end {
                Some(end) => {
                    if let Some(Line { at, bytes, .. }) = end.rest.take() {
                        // A line that has begun makes no whole one.
                        cutter.push(at, &bytes, drop);
                    }
                    end.pos
                }
                None => stream.ring().end(),
            };
            self.ways.push((stream, pos, cutter));
        }
    }

    /// What has come since the last call; waits until something has. `Err`: so many bytes were missed before that.
    pub async fn next(&mut self) -> (u64, Vec<Line>) {
        loop {
            let service = Arc::clone(&self.service);
            let mut news = std::pin::pin!(service.news.notified());
            // From here on nothing that comes is missed.
            news.as_mut().enable();
            let (missed, lines) = self.look();
            if missed > 0 || !lines.is_empty() {
                return (missed, lines);
            }
            news.await;
        }
    }

    fn look(&mut self) -> (u64, Vec<Line>) {
        let streams = self.service.streams();
        self.ways.retain(|(stream, ..)| streams.iter().any(|other| other.id == stream.id));
        for stream in streams {
            if self.ways.iter().all(|(known, ..)| known.id != stream.id) {
                let cutter = Cutter::new(stream.kind);
                self.ways.push((stream, 0, cutter));
            }
        }
        let (mut missed, mut lines) = (0, Vec::new());
        for (stream, pos, cutter) in &mut self.ways {
            if !self.kinds.contains(&stream.kind) {
                continue;
            }
            let ring = stream.ring();
            let (gone, pieces) = ring.since(*pos);
            *pos = ring.end();
            drop(ring);
            missed += gone;
            for piece in pieces {
                cutter.push(Some(piece.at), &piece.bytes, |line| lines.push(line));
            }
        }
        lines.retain(|line| self.query.wants(line));
        (missed, lines)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.service.followers.fetch_sub(1, Ordering::AcqRel);
    }
}
