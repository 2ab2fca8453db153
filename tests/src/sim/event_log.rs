//! A history as JSON lines: the setup, then one action a line.

use std::fs;
use std::io;
use std::path::Path;

use super::action::{Action, Setup};

/// All that has happened in a world.
#[derive(Clone, Debug, PartialEq)]
pub struct EventLog {
    /// How it began.
    pub setup: Setup,
    /// What happened then.
    pub actions: Vec<Action>,
}

impl EventLog {
    /// Nothing has happened yet.
    pub fn new(setup: Setup) -> Self {
        Self { setup, actions: Vec::new() }
    }

    /// The text of the log.
    pub fn to_lines(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string(&self.setup)? + "\n";
        for action in &self.actions {
            text += &serde_json::to_string(action)?;
            text.push('\n');
        }
        Ok(text)
    }

    /// Reads what [`EventLog::to_lines`] wrote.
    pub fn from_lines(text: &str) -> serde_json::Result<Self> {
        let (setup, actions) = text.split_once('\n').unwrap_or((text, ""));
        let actions = actions.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Self { setup: serde_json::from_str(setup)?, actions })
    }

    /// Writes the log to a file, with the folders above it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, self.to_lines()?)
    }

    /// Reads a log from a file.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::from_lines(&fs::read_to_string(path)?)?)
    }
}
