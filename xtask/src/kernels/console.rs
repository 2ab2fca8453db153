//! What a guest has written to its console, taken apart at the marks.

/// What the lines begin with that the first program writes to be read by the host.
pub(super) const MARK: &str = "@defib-kernels@ ";

/// The story of a boot.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Console<'a> {
    /// The running kernel, and the seconds that it took to get there.
    pub(super) booted: Option<(&'a str, f64)>,
    pub(super) steps: Vec<Ran<'a>>,
    /// Whether the last step was followed by an orderly end.
    pub(super) done: bool,
    /// Everything that belongs to no step: the kernel's own words.
    pub(super) rest: Vec<&'a str>,
}

/// A step that was begun.
#[derive(Debug, PartialEq)]
pub(super) struct Ran<'a> {
    pub(super) name: &'a str,
    /// Its exit code, if it ended.
    pub(super) code: Option<i32>,
    pub(super) seconds: f64,
    pub(super) output: Vec<&'a str>,
}

impl<'a> Console<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let mut console = Self::default();
        let mut open = false;
        for line in text.lines() {
            let Some(words) = line.strip_prefix(MARK) else {
                match console.steps.last_mut() {
                    Some(step) if open => step.output.push(line),
                    _ => console.rest.push(line),
                }
                continue;
            };
            let words: Vec<&str> = words.split_whitespace().collect();
            match (words.as_slice(), console.steps.last_mut()) {
                (["boot", release, uptime], _) => console.booted = Some((release, seconds(uptime))),
                (["begin", name, uptime], _) => {
                    // Until the end is known, `seconds` is when it began.
                    let seconds = seconds(uptime);
                    console.steps.push(Ran { name, code: None, seconds, output: Vec::new() });
                    open = true;
                }
                (["end", name, code, uptime], Some(step)) if open && step.name == *name => {
                    step.code = code.parse().ok();
                    step.seconds = seconds(uptime) - step.seconds;
                    open = false;
                }
                (["done", _], _) => console.done = true,
                _ => console.rest.push(line),
            }
        }
        console
    }
}

fn seconds(uptime: &str) -> f64 {
    uptime.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "[    0.5] hello\n@defib-kernels@ boot 6.1.0 2.5\n\n@defib-kernels@ begin look 2.75\none\n\
                         @defib-kernels@ twice\n\n@defib-kernels@ end look 3 4.25\n@defib-kernels@ done 4.5\nbye\n";

    #[test]
    fn a_boot_is_taken_apart() {
        let console = Console::parse(WHOLE);
        assert_eq!(console.booted, Some(("6.1.0", 2.5)));
        assert!(console.done);
        let [step] = &console.steps[..] else { panic!("{console:?}") };
        assert_eq!((step.name, step.code, step.seconds), ("look", Some(3), 1.5));
        assert_eq!(step.output, ["one", ""]);
        assert_eq!(console.rest, ["[    0.5] hello", "", "@defib-kernels@ twice", "bye"]);
    }

    #[test]
    fn a_guest_that_hangs_leaves_a_step_open() {
        let (cut, _) = WHOLE.split_once("\n@defib-kernels@ end").unwrap();
        let console = Console::parse(cut);
        assert_eq!((console.steps[0].code, console.done), (None, false));
        assert_eq!(Console::parse(""), Console::default());
    }
}
