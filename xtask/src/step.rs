//! Running commands: loud ones that speak for themselves, and quiet ones that show how long they have been at it.

use std::ffi::OsStr;
use std::io::{IsTerminal, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Lines of a failed command's output that are repeated.
const TAIL: usize = 40;

/// Runs a command that writes to our terminal.
pub(crate) fn loud(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command whose output matters only when it fails, with a line that says what for.
pub(crate) fn quiet(what: &str, command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let started = Instant::now();
    let progress = Progress::start(what);
    let result = output_of(command).with_context(|| format!("cannot start `{line}`"));
    progress.stop();
    let (success, output) = result?;
    if success {
        println!("  {what}: {:.1} s", started.elapsed().as_secs_f64());
        return Ok(());
    }
    let tail = last_lines(&output, TAIL).join("\n");
    bail!("{what}: `{line}` failed; its last lines:\n{tail}")
}

/// Runs a command for what it writes to its standard output.
pub(crate) fn bytes(command: &mut Command) -> Result<Vec<u8>> {
    let line = command_line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed, {}: {}", output.status, last_lines(&said, TAIL).join("\n"));
    }
    Ok(output.stdout)
}

/// As [`bytes`], for text.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes(command)?).into_owned())
}

/// The end of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

/// Whether a command can be run and says yes.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    output_of(command).is_ok_and(|(success, _)| success)
}

/// A command as it would be typed.
pub(crate) fn command_line(command: &Command) -> String {
    let quoted = |word: &OsStr| {
        let word = word.to_string_lossy();
        if word.contains(' ') { format!("'{word}'") } else { word.into_owned() }
    };
    let set =
        command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.display(), quoted(value?))));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    set.chain(words).collect::<Vec<_>>().join(" ")
}

/// Both streams in one text, in the order in which they were written.
fn output_of(command: &mut Command) -> std::io::Result<(bool, String)> {
    let (mut reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command still holds the writing ends, and the end of the output would never be seen.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    Ok((child.wait()?.success(), String::from_utf8_lossy(&output).into_owned()))
}

/// A line that counts the seconds on a terminal, and stands still elsewhere.
struct Progress {
    stop: mpsc::SyncSender<()>,
    ticker: Option<thread::JoinHandle<()>>,
}

impl Progress {
    fn start(what: &str) -> Self {
        let (stop, stopped) = mpsc::sync_channel(1);
        if !std::io::stdout().is_terminal() {
            println!("  {what} …");
            return Self { stop, ticker: None };
        }
        let what = what.to_owned();
        let ticker = thread::spawn(move || {
            for second in 0u32.. {
                print!("\r  {what} … {second} s");
                // A terminal that has gone away is no reason to stop.
                let _shown = std::io::stdout().flush();
                if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            print!("\r\x1b[K");
        });
        Self { stop, ticker: Some(ticker) }
    }

    fn stop(self) {
        drop(self.stop);
        if let Some(ticker) = self.ticker {
            // It only prints; if it panicked, the line is stale and nothing else.
            drop(ticker.join());
        }
    }
}
