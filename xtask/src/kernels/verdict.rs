//! Whether a kernel passed, and if not, the lines that say why.

use super::console::{Console, Ran};

/// Words of lines in which the kernel complains. What it does in the guest, we made it do.
const KERNEL_ALARMS: [&str; 3] = ["BUG:", "WARNING: CPU", "Kernel panic"];

/// Words of lines that say why a step failed.
const STEP_ALARMS: [&str; 4] = ["panicked at", "error:", "Error", "ended from outside"];

/// Such lines that are shown; the log has the others.
const SHOWN: usize = 20;

/// The last lines of a step that failed and raised no alarm.
const TAIL: usize = 5;

/// Lines behind that of a panic that say what was wrong.
const MESSAGE: usize = 1;

/// What is wrong with a boot that should have made these steps; nothing, if it passed.
pub(super) fn faults(console: &Console<'_>, expected: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    if console.booted.is_none() {
        faults.push("it did not boot".to_owned());
    }
    for name in expected {
        let Some(step) = console.steps.iter().find(|step| step.name == *name) else {
            faults.push(format!("{name}: not reached"));
            continue;
        };
        match step.code {
            Some(0) if passed(step) == Some(0) => faults.push(format!("{name}: ran no test")),
            Some(0) => {
                let complaints = step.output.iter().filter(|line| has(line, &KERNEL_ALARMS));
                faults.extend(complaints.map(|line| format!("{name}: {line}")));
                continue;
            }
            Some(code) => faults.push(format!("{name}: exit code {code} after {:.1} s", step.seconds)),
            None => faults.push(format!("{name}: did not end")),
        }
        faults.extend(reasons(&step.output));
    }
    if !console.done {
        faults.push("it did not come to an orderly end".to_owned());
    }
    faults
        .extend(console.rest.iter().filter(|line| has(line, &KERNEL_ALARMS)).map(|line| (*line).to_owned()));
    faults
}

/// The steps in a few words.
pub(super) fn summary(console: &Console<'_>) -> String {
    let boot = console.booted.map(|(_, seconds)| format!("boot {seconds:.1} s"));
    let steps = console.steps.iter().map(|step| match passed(step) {
        Some(tests) => format!("{} {:.1} s ({tests} tests)", step.name, step.seconds),
        None => format!("{} {:.1} s", step.name, step.seconds),
    });
    boot.into_iter().chain(steps).collect::<Vec<_>>().join(", ")
}

/// The lines of a failed step that matter.
fn reasons(output: &[&str]) -> Vec<String> {
    let said: Vec<&str> = output.iter().copied().filter(|line| !line.trim().is_empty()).collect();
    let mut lines = Vec::new();
    let mut message = 0;
    for line in &said {
        if line.contains("panicked at") {
            message = MESSAGE + 1;
        }
        if message > 0 || has(line, &STEP_ALARMS) || has(line, &KERNEL_ALARMS) {
            lines.push(*line);
        }
        message = message.saturating_sub(1);
    }
    if lines.is_empty() {
        lines = said[said.len().saturating_sub(TAIL)..].to_vec();
    }
    let mut reasons: Vec<String> = lines.iter().take(SHOWN).map(|line| format!("  {line}")).collect();
    if lines.len() > SHOWN {
        reasons.push(format!("  and {} more", lines.len() - SHOWN));
    }
    reasons
}

fn has(line: &str, alarms: &[&str]) -> bool {
    alarms.iter().any(|alarm| line.contains(alarm))
}

/// The tests that passed, if a step is a test program.
fn passed(step: &Ran<'_>) -> Option<u32> {
    let result = step.output.iter().find_map(|line| line.strip_prefix("test result: ok. "))?;
    result.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [&str; 2] = ["load", "test"];

    fn ran<'a>(name: &'a str, code: i32, output: &[&'a str]) -> Ran<'a> {
        Ran { name, code: Some(code), seconds: 1.0, output: output.to_vec() }
    }

    fn console<'a>(steps: Vec<Ran<'a>>) -> Console<'a> {
        Console { booted: Some(("6.1", 2.0)), steps, done: true, rest: Vec::new() }
    }

    #[test]
    fn every_step_must_succeed() {
        let good = ran("test", 0, &["test result: ok. 7 passed; 0 failed"]);
        let passing = console(vec![ran("load", 0, &[]), good]);
        assert_eq!(faults(&passing, &STEPS), [""; 0]);
        assert_eq!(summary(&passing), "boot 2.0 s, load 1.0 s, test 1.0 s (7 tests)");

        let failing = console(vec![
            ran("load", 1, &["on_exit: refused", ""]),
            ran("test", 101, &["test a ...", "panicked at b.rs:1:", "left: 1"]),
        ]);
        let expected = [
            "load: exit code 1 after 1.0 s",
            "  on_exit: refused",
            "test: exit code 101 after 1.0 s",
            "  panicked at b.rs:1:",
            "  left: 1",
        ];
        assert_eq!(faults(&failing, &STEPS), expected);
    }

    #[test]
    fn silence_is_no_success() {
        assert_eq!(faults(&Console::default(), &["load"]).len(), 3);
        let idle = console(vec![ran("test", 0, &["test result: ok. 0 passed; 0 failed"])]);
        assert_eq!(faults(&idle, &["test"]), ["test: ran no test", "  test result: ok. 0 passed; 0 failed"]);
    }

    #[test]
    fn a_complaint_of_the_kernel_is_a_failure() {
        let mut upset = console(vec![ran("load", 0, &[])]);
        upset.rest = vec!["[  3.1] BUG: sleeping function called from invalid context"];
        assert_eq!(faults(&upset, &["load"]).len(), 1);
        let during = console(vec![ran("load", 0, &["[  3.1] WARNING: CPU: 0 PID: 1 at kernel/bpf"])]);
        assert_eq!(faults(&during, &["load"]).len(), 1);
    }
}
