//! Tests of the configuration as a whole, from a text to settings or errors.

mod bad;
mod files;
mod good;
mod mutation;
mod trust;

use std::ffi::OsString;

use super::{Flags, Overrides, Settings, parse};

/// Root, with no flag and no variable.
fn root() -> Overrides {
    Overrides::new(Flags::default(), |_| None, 0)
}

/// User 1000 with these variables.
fn user(variables: &[(&str, &str)]) -> Overrides {
    let variable = |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    };
    Overrides::new(Flags::default(), variable, 1000)
}

/// The settings of a good text.
#[track_caller]
fn good(text: &str) -> Settings {
    match parse("f", text, &root()) {
        Ok(settings) => settings,
        Err(errors) => panic!("{errors}"),
    }
}

/// What is found in a bad text, line by line.
#[track_caller]
fn bad(text: &str, overrides: &Overrides) -> Vec<String> {
    match parse("f", text, overrides) {
        Ok(settings) => panic!("accepted: {settings:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}
