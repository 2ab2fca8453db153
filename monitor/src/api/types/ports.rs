//! The JSON of the table of ports.

use std::collections::BTreeMap;

use defib_core::model::ServiceName;
use serde::{Deserialize, Serialize};

/// All watched ports, or those that were asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortTable {
    /// By network namespace and port, those of defib's own namespace first.
    pub ports: Vec<WatchedPort>,
    /// How connections are counted.
    pub method: PortMethod,
    /// The network namespace of defib, as the number of its inode; `null`: it cannot be known.
    pub netns: Option<u32>,
    /// How often everything was counted anew because the kernel had skipped a run of a probe; `null`: nobody counts.
    pub reseeds: Option<u64>,
    /// How often more connections ended than the kernel could tell, so that `opened` and `closed` are at least what they
    /// say; `null`: nobody counts by that.
    pub lost: Option<u64>,
    /// What cannot be known by this method.
    #[serde(default)]
    pub limits: Vec<String>,
    /// What could not be looked at, and why.
    pub troubles: Vec<String>,
    /// What a second count has come to; missing unless it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<PortVerification>,
}

/// How connections are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortMethod {
    /// In the kernel, as they open and close.
    Ebpf,
    /// By the sockets that are there when somebody asks, and the ends of which the kernel tells meanwhile.
    SockDiag,
}

/// A port in one network namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchedPort {
    /// Its number.
    pub port: u16,
    /// `tcp`.
    pub protocol: String,
    /// The network namespace, as the number of its inode.
    pub netns: u32,
    /// Whether somebody listens on it.
    pub listening: Option<bool>,
    /// How many sockets listen.
    pub listeners: Option<u64>,
    /// The process that listens; `null`: nobody does, or only defib, or it cannot be seen.
    pub owner: Option<PortOwner>,
    /// The services that name the port.
    pub services: Vec<ServiceName>,
    /// Whether defib holds a listener open.
    pub held: Option<bool>,
    /// Connections that are established, accepted or not.
    pub active: Option<u64>,
    /// How many sockets are in each state of TCP.
    pub states: Option<BTreeMap<String, u64>>,
    /// Connections that became established since the port is watched; `null`: nobody counts, or not here.
    pub opened: Option<u64>,
    /// Connections that were established and are no more.
    pub closed: Option<u64>,
    /// Connections that a reset has ended.
    pub resets: Option<u64>,
    /// How long those that are closed were.
    pub lengths: Option<PortLengths>,
    /// Connections that wait to be accepted.
    pub accept_queue: Option<u64>,
    /// How many can.
    pub accept_queue_max: Option<u64>,
    /// How many were dropped because none more could.
    pub overflows: Option<u64>,
}

/// Who listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortOwner {
    /// The process; of several the one with the lowest pid.
    pub pid: u32,
    /// Its name: at most 15 bytes, which it can choose.
    pub name: String,
    /// The service that it is of.
    pub service: Option<ServiceName>,
}

/// How long closed connections had been established.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortLengths {
    /// How many there are of which that is known.
    pub count: u64,
    /// Those together, in seconds.
    pub sum_seconds: f64,
    /// How many there are of which it is not: they were there before the port was watched.
    pub unknown: u64,
    /// How many were no longer than each bound, the shortest bound first.
    pub buckets: Vec<PortBucket>,
}

/// A bound of lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortBucket {
    /// The bound, in seconds.
    pub le: f64,
    /// How many were no longer.
    pub count: u64,
}

/// What a second count has come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortVerification {
    /// Whether both are the same everywhere.
    pub equal: bool,
    /// How many ports were counted again; 0 where nobody counts.
    pub checked: usize,
    /// Where they differ.
    pub differences: Vec<PortDifference>,
    /// Where no second count could be had.
    pub failures: Vec<PortFailure>,
}

/// Two counts that differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDifference {
    /// The port.
    pub port: u16,
    /// Its network namespace.
    pub netns: u32,
    /// What the kernel had counted.
    pub counted: u64,
    /// What the sockets show.
    pub found: u64,
}

/// A count that could not be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFailure {
    /// The port.
    pub port: u16,
    /// Its network namespace.
    pub netns: u32,
    /// Why.
    pub why: String,
}
