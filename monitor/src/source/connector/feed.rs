//! The feed: every process of the host, on a subscription of its own.

use std::collections::VecDeque;

use super::super::any::Batch;
use super::super::clocks::Ahead;
use super::super::procfs;
use super::crowd::Crowd;
use super::error::ConnectorError;
use super::message::Message;
use super::socket::{ROOM, Socket};

/// Processes that are looked up in one turn.
const LOOKS: usize = 64;

/// Hears of every process while it is started. Dropping it cancels the subscription.
///
/// A process that was there before is looked up in `/proc` in the first turns. What ends before its turn comes is told
/// without start time (0), name and status.
#[derive(Debug, Default)]
pub struct ConnectorFeed {
    live: Option<Box<Live>>,
}

#[derive(Debug)]
struct Live {
    socket: Socket,
    crowd: Crowd,
    ahead: Ahead,
    inbox: Vec<Message>,
    /// Processes that are to be looked up: those that were there, and after a loss all.
    stale: VecDeque<u32>,
    malformed: u64,
}

impl ConnectorFeed {
    pub(in crate::source) fn start(&mut self) -> Result<(), ConnectorError> {
        if self.live.is_none() {
            let socket = Socket::open(ROOM)?;
            let stale = procfs::processes().into();
            self.live = Some(Box::new(Live {
                socket,
                crowd: Crowd::default(),
                ahead: Ahead::measure(),
                inbox: Vec::new(),
                stale,
                malformed: 0,
            }));
        }
        Ok(())
    }

    pub(in crate::source) async fn read(&mut self, batch: &mut Batch) {
        match &mut self.live {
            Some(live) => live.read(batch).await,
            None => std::future::pending().await,
        }
    }

    pub(in crate::source) fn stop(&mut self) {
        self.live = None;
    }
}

impl Live {
    async fn read(&mut self, batch: &mut Batch) {
        if self.stale.is_empty() {
            self.socket.wait(&mut self.inbox).await;
        } else {
            // Others on this thread have their turn, too.
            tokio::task::yield_now().await;
            self.socket.drain(&mut self.inbox);
        }
        self.ahead.refresh();
        for (index, message) in self.inbox.iter().enumerate() {
            self.crowd.take_in(message, self.ahead.tick(message.stamp), &self.inbox[index + 1..], batch);
        }
        self.inbox.clear();
        let missed = self.socket.losses.news();
        if missed > 0 {
            self.stale = self.crowd.pids().collect();
        }
        batch.lost += missed + (self.socket.malformed - self.malformed);
        self.malformed = self.socket.malformed;
        for _ in 0..LOOKS {
            let Some(pid) = self.stale.pop_front() else { break };
            self.crowd.look(pid);
        }
    }
}
