//! `defib completions` and `defib man`: what is made of the words of the command line.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use clap_mangen::Man;

use super::Exit;
use super::args::{Cli, Options};
use super::output::{Printer, complain_of};
use super::session::{self, Failure};

/// With this variable the scripts ask the program for what may come next.
const VARIABLE: &str = "_DEFIB_COMPLETE";

/// For which shell.
#[derive(Debug, Args)]
#[command(after_help = INSTALL)]
pub struct Shell {
    /// The shell
    #[arg(value_enum)]
    shell: Name,
    /// What the script runs to find out what may come next [default: as this program was called]
    #[arg(long, value_name = "PATH")]
    program: Option<String>,
}

const INSTALL: &str = "\
Services are completed by the names that the daemon knows, if this user may ask it.

  defib completions bash > /etc/bash_completion.d/defib
  defib completions zsh  > /usr/local/share/zsh/site-functions/_defib
  defib completions fish > /etc/fish/completions/defib.fish";

/// The shells.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    Bash,
    Zsh,
    Fish,
}

/// Where to.
#[derive(Debug, Args)]
pub struct Pages {
    /// A folder: defib.1 and a page for each verb are written there. Without it, defib.1 goes to standard output
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// A page in ASCII: what roff(7) cannot be sure to understand is named by its number, as groff_char(7) says.
fn page(command: clap::Command) -> io::Result<String> {
    let mut bytes = Vec::new();
    Man::new(command).render(&mut bytes)?;
    let mut page = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(&bytes).chars() {
        if c.is_ascii() { page.push(c) } else { page.push_str(&format!("\\[u{:04X}]", u32::from(c))) }
    }
    Ok(page)
}

/// Whether this was the question of a completion script, which has been answered then.
pub fn completed() -> bool {
    let here = env::current_dir().ok();
    let asked = CompleteEnv::with_factory(Cli::command).var(VARIABLE);
    match asked.try_complete(env::args_os(), here.as_deref()) {
        Ok(answered) => answered,
        Err(error) => {
            complain_of(&format!("{VARIABLE} is set for completion scripts: {error}"));
            true
        }
    }
}

/// Prints the script for a shell.
pub fn completions(options: &Options, Shell { shell, program }: &Shell) -> Exit {
    let shell: &dyn EnvCompleter = match shell {
        Name::Bash => &Bash,
        Name::Zsh => &Zsh,
        Name::Fish => &Fish,
    };
    let program = program.clone().unwrap_or_else(called);
    let mut script = Vec::new();
    let written = shell.write_registration(VARIABLE, "defib", "defib", &program, &mut script);
    let text = String::from_utf8_lossy(&script).trim_start().to_owned();
    let mut printer = Printer::new(options);
    let printed = written.map_err(Failure::Output).and_then(|()| printer.print(&text));
    session::finish(printed.map(|()| Exit::Done))
}

/// How this program was called; a path is made to hold from everywhere.
fn called() -> String {
    let called = env::args_os().next().unwrap_or_else(|| "defib".into());
    let path = Path::new(&called);
    let path = if path.components().count() > 1 { std::path::absolute(path).ok() } else { None };
    path.unwrap_or_else(|| PathBuf::from(&called)).to_string_lossy().into_owned()
}

/// Prints the manual page, or writes all of them.
pub fn pages(options: &Options, Pages { folder }: &Pages) -> Exit {
    let Some(folder) = folder else {
        let page = page(command()).map_err(Failure::Output);
        let printed = page.and_then(|page| Printer::new(options).print(&page));
        return session::finish(printed.map(|()| Exit::Done));
    };
    match write(folder) {
        Ok(count) => {
            let text = format!("{count} pages in {}\n", super::output::escape(&folder.to_string_lossy()));
            session::finish(Printer::new(options).print(&text).map(|()| Exit::Done))
        }
        Err(error) => {
            complain_of(&format!("cannot write manual pages to {}: {error}", folder.display()));
            Exit::Failed
        }
    }
}

fn command() -> clap::Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

/// Writes a page for the program, and one for each verb.
fn write(folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let mut left = vec![command()];
    let mut count = 0;
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned());
        let name = Man::new(command.clone()).get_filename();
        fs::write(folder.join(name), page(command)?)?;
        count += 1;
    }
    Ok(count)
}
