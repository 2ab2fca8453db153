//! Whatever the text, [`parse`](crate::config::parse()) answers and does not panic.

use super::{parse, root};
use crate::config::env_file;
use crate::duration;

const VALID: &str = include_str!("../../../../config/sample.toml");

/// Marsaglia's xorshift64: enough to hit every byte, and the same on each run.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize % end.max(1)
    }
}

/// Pieces that lead into corners: of TOML, of numbers, of commands and of durations.
const PIECES: &[&str] = &[
    "",
    "\"",
    "'",
    "'''",
    "\"\"\"",
    "[",
    "]",
    "{",
    "}",
    "[[",
    "=",
    ".",
    ",",
    "#",
    "\n",
    "\r\n",
    "\\",
    "\\u0000",
    "\0",
    "\u{202e}",
    "ä",
    "\u{1b}",
    "-1",
    "1e999",
    "nan",
    "0x",
    "99999999999999999999",
    "\"1h\"",
    "\"0s\"",
    "true",
    "inf",
    "2020-01-01",
    "service",
    "restart.",
    "backoff",
    "delays = []",
    "$(",
    "|",
    "[defaults]\n",
    "[service.a]\n",
    "1_0",
];

#[test]
fn no_mutation_of_a_valid_file_makes_it_panic() {
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    for _ in 0..2000 {
        let mut text: Vec<char> = VALID.chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len());
            let end = (at + random.below(12)).min(text.len());
            let piece = PIECES[random.below(PIECES.len())];
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        match parse(&text, &root()) {
            Ok(_) => accepted += 1,
            Err(errors) => assert!(errors.iter().count() > 0 && !errors.to_string().contains('\u{1b}')),
        }
        drop(env_file::parse(&text));
    }
    // Else the mutations would be too wild to get past the TOML parser.
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        "a = ".to_owned() + &"[".repeat(100_000),
        "a = ".to_owned() + &"{a=".repeat(100_000),
        "a.".repeat(100_000),
    ] {
        assert!(parse(&text, &root()).is_err());
    }
}

#[test]
fn no_text_makes_a_duration_panic() {
    let mut random = Xorshift(7);
    let alphabet: Vec<char> = "0123456789dhmsu.- ä".chars().collect();
    for _ in 0..20_000 {
        let text: String = (0..random.below(24)).map(|_| alphabet[random.below(alphabet.len())]).collect();
        if let Ok(duration) = duration::parse(&text) {
            assert_eq!(duration::parse(&duration::show(duration)), Ok(duration), "{text}");
        }
    }
}
