//! The daemon's end of the socket to the keeper.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use defib_core::model::SocketSpec;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::keeper::protocol::{self, MAX_FDS, MAX_PACKET, Order, Received, Report};

/// How many packets may wait for a keeper that does not read. More, and the daemon ends: the next one asks the keeper
/// for the state of everything, which is better than orders that are minutes old.
const QUEUE: usize = 16 * 1024;

/// A packet is closed between two slots once it is this long: the orders for one slot, of which a memo is the largest,
/// still fit behind.
const FULL: usize = MAX_PACKET / 2;

/// The most descriptors of the orders for one slot: three for each of two pipes, a plan, a cgroup, a guard of
/// two, and its sockets.
const SLOT_FDS: usize = 10 + SocketSpec::MAX;

/// A packet that could not be sent yet.
#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// The keeper, as the daemon sees it.
#[derive(Debug)]
pub(super) struct KeeperLink {
    /// A SOCK_SEQPACKET socket, whatever the name of the type: only its readiness is tokio's business.
    socket: UnixStream,
    /// The orders of this turn.
    turn: Vec<Order>,
    turn_fds: Vec<OwnedFd>,
    weight: usize,
    last_slot: Option<u32>,
    /// Packets of earlier turns.
    waiting: VecDeque<Packet>,
}

/// The keeper is gone, or cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// It has ended.
    #[error("the keeper is gone; services run on, and the next start of defib takes them over")]
    KeeperGone,
    /// Too many packets wait.
    #[error("the keeper does not listen: {QUEUE} packets wait")]
    Deaf,
    /// The socket does not work.
    #[error("the socket to the keeper: {0}")]
    Socket(#[from] io::Error),
}

impl KeeperLink {
    /// Takes the socket over. To be called on the runtime that will wait for it.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: UnixStream::from_std(socket.into())?,
            turn: Vec::new(),
            turn_fds: Vec::new(),
            weight: 0,
            last_slot: None,
            waiting: VecDeque::new(),
        })
    }

    /// Adds an order to this turn. A newer memo of a slot replaces one that has not been sent.
    pub(super) fn order(&mut self, order: Order, fds: Vec<OwnedFd>) -> Result<(), LinkError> {
        let slot = slot_of(&order);
        let full = self.weight >= FULL || self.turn_fds.len() + SLOT_FDS > MAX_FDS;
        if full && slot != self.last_slot {
            self.send_turn()?;
        }
        if let Order::Remember { slot, .. } = &order {
            self.turn.retain(|older| !matches!(older, Order::Remember { slot: of, .. } if of == slot));
        }
        self.weight += weight(&order);
        self.last_slot = slot;
        self.turn.push(order);
        self.turn_fds.extend(fds);
        Ok(())
    }

    /// Sends the orders of this turn.
    pub(super) fn send_turn(&mut self) -> Result<(), LinkError> {
        if self.turn.is_empty() {
            return Ok(());
        }
        let bytes = protocol::pack(&self.turn)?;
        self.turn.clear();
        self.weight = 0;
        self.last_slot = None;
        if self.waiting.len() >= QUEUE {
            return Err(LinkError::Deaf);
        }
        self.waiting.push_back(Packet { bytes, fds: std::mem::take(&mut self.turn_fds) });
        self.send_waiting()
    }

    fn send_waiting(&mut self) -> Result<(), LinkError> {
        while let Some(packet) = self.waiting.front() {
            let fds: Vec<_> = packet.fds.iter().map(AsFd::as_fd).collect();
            match protocol::send(self.socket.as_fd(), &packet.bytes, &fds) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Tells tokio that the socket is full, so that `receive` waits for room.
                    let full = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    self.socket.try_io(Interest::WRITABLE, full).ok();
                    return Ok(());
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
                {
                    return Err(LinkError::KeeperGone);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for the next packet of reports; meanwhile sends what waits. Cancelling it loses nothing.
    pub(super) async fn receive(&mut self) -> Result<Received<Report>, LinkError> {
        loop {
            let interest = if self.waiting.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = self.socket.ready(interest).await?;
            if ready.is_readable() {
                match self.socket.try_io(Interest::READABLE, || protocol::receive(&self.socket)) {
                    Ok(Some(reports)) => return Ok(reports),
                    Ok(None) => return Err(LinkError::KeeperGone),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        return Err(LinkError::KeeperGone);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if ready.is_writable() {
                self.send_waiting()?;
            }
        }
    }

    /// Sends the orders of this turn, and waits until everything has been sent: the last orders must arrive.
    pub(super) async fn finish(mut self) -> Result<(), LinkError> {
        self.send_turn()?;
        while !self.waiting.is_empty() {
            self.socket.writable().await?;
            self.send_waiting()?;
        }
        Ok(())
    }
}

fn slot_of(order: &Order) -> Option<u32> {
    match order {
        Order::Plan { slot, .. }
        | Order::Pipes { slot, .. }
        | Order::Sockets { slot, .. }
        | Order::HoldPort { slot, .. }
        | Order::ClosePorts { slot }
        | Order::Spawn { slot, .. }
        | Order::Adopt { slot, .. }
        | Order::Stand { slot, .. }
        | Order::Withdraw { slot, .. }
        | Order::Signal { slot, .. }
        | Order::KillTree { slot, .. }
        | Order::Acknowledge { slot, .. }
        | Order::Remember { slot, .. }
        | Order::Forget { slot } => Some(*slot),
        Order::Hello { .. }
        | Order::Ready
        | Order::Hold { .. }
        | Order::Ending
        | Order::Leave
        | Order::Restart
        | Order::Watch { .. }
        | Order::Pong
        | Order::Reloading => None,
    }
}

/// A bound for the length of an order in a packet.
fn weight(order: &Order) -> usize {
    let text = match order {
        Order::Remember { memo, .. } => memo.len(),
        Order::Hold { name } => name.len(),
        Order::Sockets { label, .. } => label.len(),
        Order::HoldPort { numbers, .. } => 5 * numbers.len(),
        Order::Hello { .. }
        | Order::Ready
        | Order::Plan { .. }
        | Order::Pipes { .. }
        | Order::ClosePorts { .. }
        | Order::Spawn { .. }
        | Order::Adopt { .. }
        // Its numbers take 70 bytes at most, most of them 20.
        | Order::Stand { .. }
        | Order::Withdraw { .. }
        | Order::Signal { .. }
        | Order::KillTree { .. }
        | Order::Acknowledge { .. }
        | Order::Forget { .. }
        | Order::Ending
        | Order::Leave
        | Order::Restart
        | Order::Watch { .. }
        | Order::Pong
        | Order::Reloading => 0,
    };
    96 + text
}
