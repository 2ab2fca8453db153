//! What is built here to be run in the guests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{build, setup, step};

/// The test programs of the package `defib-tests` that say whether defib does on a kernel what it promises, and which of
/// their tests: the guests have no disk and hardly more than a shell.
const TESTS: [(&str, &str); 2] = [("conformance", ""), ("usage", "what_is_told_is_what_proc_says")];

/// The step in which every probe is loaded.
const LOAD: &str = "load-probes";

/// The verb that looks at a host, for as long as not every built defib has it.
const DOCTOR: &str = "doctor";

/// The shell of the tests. Busybox's own would run `sleep` and the like without executing a program.
const SHELL: &str = "bin/sh";

/// An emulated processor is some twenty times slower: what should be quick is waited for longer, and fewer processes
/// that are none of defib's make noise.
const ENVIRONMENT: [&str; 3] =
    ["DEFIB_BIN=/payload/defib", "DEFIB_TEST_PATIENCE=120", "DEFIB_TEST_STRANGERS=100"];

/// A command that is run in the guest.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) command: String,
}

/// The same for all guests.
#[derive(Debug)]
pub(super) struct Payload {
    /// Paths in the guest with contents: programs and the libraries that they need.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) steps: Vec<Step>,
}

impl Payload {
    /// Builds the programs and finds their libraries.
    pub(super) fn build() -> Result<Self> {
        setup::ensure()?;
        let defib = build::release()?;
        let mut build = vec!["test", "--no-run", "--package", "defib-tests"];
        TESTS.iter().for_each(|(name, _)| build.extend(["--test", name]));
        let programs = build::executables(&build)?;
        let mut payload = Self { files: BTreeMap::new(), steps: Vec::new() };
        payload.program("payload/defib", &defib)?;
        // The helpers of the tests lie beside the folder of the tests, as here.
        for helper in programs.iter().filter(|program| !is_test(program)) {
            let name = helper.file_name().unwrap_or_default().to_string_lossy();
            payload.program(&format!("payload/{name}"), helper)?;
        }
        payload.program(SHELL, Path::new("/bin/sh"))?;
        payload.step(LOAD, "/payload/defib load-probes".to_owned());
        if step::succeeds(Command::new(&defib).args(["help", DOCTOR])) {
            payload.step(DOCTOR, "/payload/defib doctor".to_owned());
        }
        let environment = ENVIRONMENT.join(" ");
        for (name, filter) in TESTS {
            let program = test(&programs, name).with_context(|| format!("cargo built no test {name}"))?;
            payload.program(&format!("payload/deps/{name}"), program)?;
            // What is not captured is in the log even if the guest hangs, and so is what a test says it cannot run here.
            let command =
                format!("env {environment} /payload/deps/{name} {filter} --test-threads=1 --nocapture");
            payload.step(name, command);
        }
        Ok(payload)
    }

    /// The names of all steps, in order.
    pub(super) fn step_names(&self) -> Vec<&'static str> {
        self.steps.iter().map(|step| step.name).collect()
    }

    fn step(&mut self, name: &'static str, command: String) {
        self.steps.push(Step { name, command });
    }

    /// Adds a program without its debug information, with the libraries that it needs.
    fn program(&mut self, path: &str, program: &Path) -> Result<()> {
        self.files.insert(path.to_owned(), read(program)?);
        // Only the dynamic loader knows which libraries it would take; `ldd` asks it.
        let listed = step::stdout(Command::new("ldd").arg(program))?;
        for library in libraries(&listed)? {
            self.files.insert(library.to_owned(), read(Path::new(library))?);
        }
        Ok(())
    }
}

/// Whether it is a test program: cargo keeps those among the dependencies, and programs above.
fn is_test(program: &Path) -> bool {
    program.parent().is_some_and(|folder| folder.ends_with("deps"))
}

/// The test program of that name, behind which cargo puts a hash.
fn test<'a>(programs: &'a [PathBuf], name: &str) -> Option<&'a PathBuf> {
    let is_it = |program: &&PathBuf| {
        let file = program.file_name().unwrap_or_default().to_string_lossy();
        is_test(program) && file.rsplit_once('-').is_some_and(|(test, _)| test == name)
    };
    programs.iter().find(is_it)
}

/// The files in the output of `ldd`, the dynamic loader among them.
fn libraries(listed: &str) -> Result<Vec<&str>> {
    let mut found = Vec::new();
    for line in listed.lines() {
        let file = line.split_once("=>").map_or(line, |(_, file)| file).trim();
        if file.starts_with("not found") {
            bail!("a library is missing: {}", line.trim());
        }
        if file.starts_with('/') {
            found.push(file.split(' ').next().unwrap_or(file));
        }
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        let listed = "\tlinux-vdso.so.1 (0x00007f5f6c400000)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f5f6bc1e000)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f5f6c402000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(listed).unwrap(), expected);
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
        assert!(libraries("\tlibelf.so.1 => not found\n").is_err());
    }

    #[test]
    fn the_test_is_told_from_its_helpers() {
        let programs =
            ["/t/debug/victim", "/t/debug/deps/conformance-1", "/t/debug/deps/usage-2"].map(PathBuf::from);
        assert_eq!(programs.each_ref().map(|program| is_test(program)), [false, true, true]);
        assert_eq!((test(&programs, "usage"), test(&programs, "victim")), (Some(&programs[2]), None));
    }
}
