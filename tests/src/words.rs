//! What programs say.

use crate::daemon::Said;

/// The exit code, and words that are to be there.
#[track_caller]
pub fn assert_said(said: &Said, code: i32, wanted: &[&str]) {
    let text = format!("{}{}", said.out, said.err);
    assert_eq!(said.code, code, "{text}");
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// No byte that a terminal acts on but the ends of lines.
#[track_caller]
pub fn assert_harmless(text: &str) {
    let bad = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(bad, None, "{text:?}");
}
