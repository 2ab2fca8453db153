//! What must be there before a start is tried, and what a service gets from defib's own surroundings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use defib_core::model::{StartFailure, StartFailureKind};

use super::failure;

/// Looks for the files and folders of `needs_files`.
///
/// # Errors
/// If one is not there, or cannot be looked for.
pub fn check(files: &[PathBuf]) -> Result<(), StartFailure> {
    for file in files {
        std::fs::metadata(file).map_err(|error| {
            let remedy = "make it, mount what it is on, or take it out of `needs_files`".to_owned();
            failure::of_call(StartFailureKind::File, format!("find {}", file.display()), &error, remedy)
        })?;
    }
    Ok(())
}

/// The variables of `inherit_env` that are set in defib's own environment. What is no UTF-8 is not passed on.
pub fn inherited(names: &BTreeSet<String>) -> BTreeMap<String, String> {
    names.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?))).collect()
}
