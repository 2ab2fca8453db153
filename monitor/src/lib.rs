//! defib: a defibrillator for Linux processes. `monitor/ARCHITECTURE.md` says how its parts fit together, and who may know
//! whom.
#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod connections;
pub mod daemon;
pub mod doctor;
pub mod duration;
pub mod effect;
pub mod keeper;
pub mod metrics;
pub mod preflight;
pub mod size;
pub mod source;
pub mod state;
pub mod web;
