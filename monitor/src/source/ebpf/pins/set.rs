//! Pinning a set, and taking one that is pinned.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use aya::maps::MapData;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{self, BtfTracePoint, Iter};
use defib_ebpf::{Group, VERSION, ctrl};

use super::super::super::any::chain;
use super::super::control::Control;
use super::super::error::EbpfError;
use super::super::load::{Loaded, PROBES, Probe, Program};
use super::super::report::{Hook, ProbeReport};
use super::super::shape::{OWN, SHAPES, Shelf};
use super::folder::{Folder, NEW, OLD, SET, Unpinned, remove_set};

/// Why a set cannot be used again.
type Misfit = String;

impl Folder {
    /// Pins what was loaded. What was in force before becomes part of what is left behind.
    ///
    /// # Errors
    /// If it cannot be pinned. Some of it may be detached then: it has to be loaded again.
    pub(in crate::source::ebpf) fn pin(&self, loaded: &mut Loaded) -> Result<(), Unpinned> {
        let (new, set, old) = (self.join(NEW), self.join(SET), self.join(OLD));
        remove_set(&new)?;
        let pinned = pin_into(&new, loaded).and_then(|()| {
            if set.exists() {
                // Nothing is lost with the older one: its successor has asked it already.
                remove_set(&old)?;
                rename(&set, &old)?;
            }
            rename(&new, &set)
        });
        if pinned.is_err() {
            remove_set(&new).ok();
        }
        pinned
    }

    /// Takes the set that is in force. `None` if there is none.
    pub(in crate::source::ebpf) fn reuse(&self) -> Option<Result<Loaded, Misfit>> {
        let set = self.join(SET);
        set.exists().then(|| take(&set))
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Unpinned> {
    fs::rename(from, to).map_err(|cause| Unpinned::Failed { what: "rename to", path: to.to_owned(), cause })
}

fn pin_into(folder: &Path, loaded: &mut Loaded) -> Result<(), Unpinned> {
    let failed = |error: &dyn std::error::Error| Unpinned::Failed {
        what: "pin in",
        path: folder.to_owned(),
        cause: std::io::Error::other(chain(error)),
    };
    let made = DirBuilder::new().mode(0o700).create(folder);
    made.map_err(|cause| Unpinned::Failed { what: "make", path: folder.to_owned(), cause })?;
    for (name, map) in &loaded.maps {
        map.pin(folder.join(format!("map_{name}"))).map_err(|error| failed(&error))?;
    }
    let mut control = Control::of(&loaded.maps).map_err(|error| failed(&error))?;
    for (index, probe) in (ctrl::TAGS..).zip(&PROBES) {
        let Some(program) = loaded.programs.iter_mut().find(|program| program.name == probe.name) else {
            continue;
        };
        let object = loaded.object.as_mut().and_then(|object| object.program_mut(probe.name));
        let Some(object) = object else { continue };
        object.pin(folder.join(format!("prog_{}", probe.name))).map_err(|error| failed(&error))?;
        let tag = object.info().map_err(|error| failed(&error))?.tag();
        control.set(index, tag).map_err(|error| failed(&error))?;
        if let Some(link) = program.link.take() {
            let pinned = link.pin(folder.join(format!("link_{}", probe.name)));
            program.link = Some(pinned.map_err(|error| failed(&error))?.into());
        }
    }
    Ok(())
}

/// Opens everything in a set, and believes nothing of it: each map must be as this code expects it, each link must be
/// that of its program, each program the one that was pinned, and the programs must use these very maps.
fn take(set: &Path) -> Result<Loaded, Misfit> {
    let maps = take_maps(set)?;
    let control = Control::of(&maps).map_err(|error| error.chain())?;
    let set_by = |index| control.get(index).map_err(|error| error.chain());
    if set_by(ctrl::VERSION)? != u64::from(VERSION) {
        return Err("it was made with another layout".into());
    }
    let (mut programs, mut reports, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut tasks = None;
    for (index, probe) in (ctrl::TAGS..).zip(&PROBES) {
        let Probe { name, hook, group } = *probe;
        let wrong = |error: &dyn std::error::Error| format!("{name}: {}", chain(error));
        let tag = set_by(index)?;
        if tag == 0 && group != Group::Base {
            let outcome = Err(EbpfError::LeftOut { probe: name });
            reports.push(ProbeReport { probe: name, hook, outcome });
            continue;
        }
        let pin = set.join(format!("prog_{name}"));
        let program = match hook {
            Hook::Tracepoint(_) => BtfTracePoint::from_pin(pin).map(programs::Program::BtfTracePoint),
            Hook::Iterator(_) => Iter::from_pin(pin).map(programs::Program::Iter),
        };
        let program = program.map_err(|error| wrong(&error))?;
        let info = program.info().map_err(|error| wrong(&error))?;
        if info.tag() != tag {
            return Err(format!("{name}: not the program that was pinned"));
        }
        let link = match hook {
            Hook::Tracepoint(_) => {
                let link = PinnedLink::from_pin(set.join(format!("link_{name}")));
                let link = FdLink::from(link.map_err(|error| wrong(&error))?);
                if link.info().map_err(|error| wrong(&error))?.program_id() != info.id() {
                    return Err(format!("{name}: the link is another program's"));
                }
                Some(link)
            }
            Hook::Iterator(_) => None,
        };
        used.extend(info.map_ids().map_err(|error| wrong(&error))?.unwrap_or_default());
        let fd = program.fd().map_err(|error| wrong(&error))?.as_fd().try_clone_to_owned();
        programs.push(Program { name, fd: fd.map_err(|error| wrong(&error))?, link });
        let count = info.verified_instruction_count().filter(|&count| count > 0);
        reports.push(ProbeReport { probe: name, hook, outcome: Ok(count) });
        if let programs::Program::Iter(iterator) = program {
            tasks = Some(iterator);
        }
    }
    for (name, map) in &maps {
        let id = map_id(map).ok_or_else(|| format!("{name}: cannot be looked at"))?;
        if *name != OWN && !used.contains(&id) {
            return Err(format!("{name}: not the map of these programs"));
        }
    }
    Ok(Loaded { maps, programs, reports, object: None, tasks })
}

fn take_maps(set: &Path) -> Result<Shelf, Misfit> {
    let take = |shape: &super::super::shape::Shape| {
        let name = shape.name;
        let wrong = |error: &dyn std::error::Error| format!("{name}: {}", chain(error));
        let data = MapData::from_pin(set.join(format!("map_{name}"))).map_err(|error| wrong(&error))?;
        if !shape.fits(&data.info().map_err(|error| wrong(&error))?) {
            return Err(format!("{name}: of another type or size"));
        }
        let map = shape.map(data).ok_or_else(|| format!("{name}: of no known type"))?;
        Ok((name, map))
    };
    SHAPES.iter().map(take).collect()
}

fn map_id(map: &aya::maps::Map) -> Option<u32> {
    use aya::maps::Map;
    let (Map::HashMap(data)
    | Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::RingBuf(data)
    | Map::SkStorage(data)) = map
    else {
        return None;
    };
    data.info().ok().map(|info| info.id())
}
