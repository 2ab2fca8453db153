//! Which sockets are held for which slot: known here, held by the keeper.
//!
//! The daemon has a duplicate of each, for the planner, who must not open again what is open. They are the keeper's in the
//! first place: a daemon that comes back gets them with what their configuration was.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use defib_core::model::SocketSpec;

use super::link::{KeeperLink, LinkError};
use crate::effect::held::{self, Held, Opened};
use crate::keeper::protocol::Order;

/// The sockets of all slots.
#[derive(Debug, Default)]
pub(super) struct HeldSockets(BTreeMap<u32, Vec<Held>>);

impl HeldSockets {
    /// Takes over what an earlier daemon had opened.
    pub(super) fn adopt(&mut self, past: Vec<(u32, Vec<u8>, Vec<OwnedFd>)>) {
        for (slot, label, fds) in past {
            match serde_json::from_slice::<Vec<SocketSpec>>(&label) {
                Ok(specs) => {
                    let held = specs.into_iter().zip(fds).map(|(spec, fd)| Held::taken_over(spec, fd));
                    self.0.insert(slot, held.collect());
                }
                // They stay with the keeper until the next plan brings others.
                Err(error) => tracing::error!(slot, %error, "unreadable sockets: they are opened anew"),
            }
        }
    }

    /// Those of a slot.
    pub(super) fn of(&self, slot: u32) -> Vec<Held> {
        self.0.get(&slot).cloned().unwrap_or_default()
    }

    /// The keeper gets what a plan has opened, in place of what it held. Returns the paths at which nobody is any more.
    pub(super) fn give(
        &mut self,
        slot: u32,
        opened: Opened,
        link: &mut KeeperLink,
    ) -> Result<Vec<PathBuf>, LinkError> {
        let Opened { sockets, passed } = opened;
        let old = self.of(slot);
        let same = old.len() == sockets.len() && old.iter().zip(&sockets).all(|(old, new)| old.is(new));
        if same {
            return Ok(Vec::new());
        }
        let specs: Vec<&SocketSpec> = sockets.iter().map(|held| &held.spec).collect();
        // Numbers and text can always be written. As JSON: the next daemon may be of a later version.
        let label = serde_json::to_vec(&specs).unwrap_or_default();
        link.order(Order::Sockets { slot, count: passed.len() as u8, label }, passed)?;
        let deserted = held::deserted(&old, &sockets);
        if sockets.is_empty() {
            self.0.remove(&slot);
        } else {
            self.0.insert(slot, sockets);
        }
        Ok(deserted)
    }

    /// Nobody is to wait at them any longer. Returns the paths at which nobody is any more.
    pub(super) fn close(&mut self, slot: u32, link: &mut KeeperLink) -> Result<Vec<PathBuf>, LinkError> {
        self.give(slot, Opened::default(), link)
    }

    /// The paths of all that are left: defib leaves, and the keeper with it.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.values().flat_map(|held| held::deserted(held, &[])).collect()
    }
}
