//! Whether colour is wanted: `--color` decides, else the variables that programs agree on, else whether it is a terminal.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use clap::{CommandFactory, FromArgMatches};

use super::Exit;
use super::args::{Cli, Color};

/// Whether standard error is written in colour. What goes wrong is told from everywhere, also where nobody knows the
/// options, so this is decided once, before anything can.
static ERRORS: OnceLock<bool> = OnceLock::new();

/// Reads the command line, and decides about the colour of what goes wrong later.
///
/// # Errors
/// With what is to be said, and how this program ends, if it makes no sense or is answered by its help.
pub fn parse(args: Vec<OsString>) -> Result<Cli, Usage> {
    let color = asked(&args);
    ERRORS.get_or_init(|| wanted(color, io::stderr().is_terminal()));
    let mut command = Cli::command();
    command
        .try_get_matches_from_mut(args)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| Usage { error: error.format(&mut command), color })
}

/// What is said about a command line instead of carrying it out.
#[derive(Debug)]
pub struct Usage {
    error: clap::Error,
    color: Color,
}

impl Usage {
    /// Writes it to where it belongs, in colour or not by the rule of this file: clap's own takes a set `CI` for a
    /// terminal that can show colours.
    pub fn tell(&self) -> Exit {
        let text = self.error.render();
        let write = |stream: &mut dyn Write, terminal| {
            // Nobody is left to tell if even this cannot be written.
            if wanted(self.color, terminal) {
                write!(stream, "{}", text.ansi()).ok();
            } else {
                write!(stream, "{text}").ok();
            }
        };
        if self.error.use_stderr() {
            write(&mut io::stderr(), io::stderr().is_terminal());
            Exit::Usage
        } else {
            write(&mut io::stdout(), io::stdout().is_terminal());
            Exit::Done
        }
    }
}

/// Whether standard error is written in colour.
pub(super) fn of_errors() -> bool {
    ERRORS.get().is_some_and(|wanted| *wanted)
}

/// Whether a stream is written in colour.
pub(super) fn wanted(color: Color, terminal: bool) -> bool {
    decide(color, terminal, |name| env::var_os(name))
}

/// no-color.org, and bixense.com/clicolors; an empty variable counts as not set.
fn decide(color: Color, terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if set("NO_COLOR").is_some() => false,
        Color::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        Color::Auto => {
            terminal
                && set("TERM").is_none_or(|term| term != "dumb")
                && set("CLICOLOR").is_none_or(|value| value != "0")
        }
    }
}

/// What `--color` says, before anything else is understood. The last one counts, as in the command line itself.
fn asked(args: &[OsString]) -> Color {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    let end = words.iter().position(|word| *word == "--").unwrap_or(words.len());
    let words = &words[..end];
    let value = |(at, word): (usize, &&str)| match word.strip_prefix("--color") {
        Some("") => words.get(at + 1).copied().map(str::to_owned),
        Some(rest) => rest.strip_prefix('=').map(str::to_owned),
        None => None,
    };
    match words.iter().enumerate().filter_map(value).next_back().as_deref() {
        Some("always") => Color::Always,
        Some("never") => Color::Never,
        Some(_) | None => Color::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_decides_then_the_variables_then_the_terminal() {
        let decide = |color, terminal, set: &'static [(&str, &str)]| {
            let find = move |name: &str| set.iter().find(|(known, _)| *known == name);
            decide(color, terminal, move |name| find(name).map(|(_, value)| OsString::from(value)))
        };
        const FORCE: (&str, &str) = ("CLICOLOR_FORCE", "1");
        const NO: (&str, &str) = ("NO_COLOR", "1");
        assert!(decide(Color::Always, false, &[NO]));
        assert!(!decide(Color::Never, true, &[FORCE]));
        assert!(decide(Color::Auto, true, &[("TERM", "xterm"), ("NO_COLOR", "")]));
        assert!(decide(Color::Auto, false, &[FORCE]));
        for no in [&[NO, FORCE][..], &[("TERM", "dumb")], &[("CLICOLOR", "0")]] {
            assert!(!decide(Color::Auto, true, no), "{no:?}");
        }
        assert!(!decide(Color::Auto, false, &[("CLICOLOR_FORCE", "0")]));
    }

    #[test]
    fn the_option_is_found_wherever_it_stands() {
        let asked = |line: &str| asked(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(asked("defib status --color never"), Color::Never);
        assert_eq!(asked("defib --color=always nonsense --oops"), Color::Always);
        assert_eq!(asked("defib --color always status --color=never"), Color::Never);
        assert_eq!(asked("defib status -- --color always"), Color::Auto);
        assert_eq!(asked("defib status --colour --color"), Color::Auto);
    }
}
