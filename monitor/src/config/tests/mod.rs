//! Tests of the configuration as a whole, from a text to settings or errors.

mod bad;
mod diff;
mod files;
mod good;
mod members;
mod mutation;
mod overrides;
mod profiles;
mod schema;
mod trust;

use std::ffi::OsString;

use super::super::config;
use super::{ConfigErrors, Flags, Overrides, Settings};

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

/// A file of this name and text.
fn file(file: &str, text: &str) -> (String, String) {
    (file.to_owned(), text.to_owned())
}

/// As the whole of a configuration.
fn parse(text: &str, overrides: &Overrides) -> Result<Settings, ConfigErrors> {
    config::parse(&[file("f", text)], overrides)
}

/// The settings of a good text.
#[track_caller]
fn good(text: &str) -> Settings {
    match parse(text, &root()) {
        Ok(settings) => settings,
        Err(errors) => panic!("{errors}"),
    }
}

/// What is found in a bad text, line by line.
#[track_caller]
fn bad(text: &str, overrides: &Overrides) -> Vec<String> {
    match parse(text, overrides) {
        Ok(settings) => panic!("accepted: {settings:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}
