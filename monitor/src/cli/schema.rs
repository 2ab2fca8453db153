//! `defib schema`

use super::Exit;
use super::args::Options;
use super::output::Printer;
use super::session::{self, Failure};
use crate::config;

/// Prints the schema of the configuration: for editors, and it is what `config/defib.schema.json` holds.
pub fn run(options: &Options) -> Exit {
    session::finish(print(&mut Printer::new(options)))
}

fn print(printer: &mut Printer) -> Result<Exit, Failure> {
    printer.print(&format!("{}\n", serde_json::to_string_pretty(&config::schema())?))?;
    Ok(Exit::Done)
}
