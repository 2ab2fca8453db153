//! Patterns for names: `*` is any text, `?` any character.

/// Whether the whole name fits the pattern. Linear in practice, quadratic at worst: of all stars only the last can
/// need another try.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Behind the last star, and how much of the name it has taken so far.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, n));
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            Some(_) | None => {
                let Some((behind, taken)) = star else { return false };
                p = behind;
                n = taken + 1;
                star = Some((behind, n));
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name) in [
            ("api", "api"),
            ("*", "api"),
            ("*", ""),
            ("a*", "api"),
            ("*i", "api"),
            ("a?i", "api"),
            ("a*b*c", "aXbYbZc"),
            ("*-worker-*", "api-worker-1"),
            ("a**", "a"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("api", "apis"), ("ap", "api"), ("?", ""), ("a?", "a"), ("a*c", "ab"), ("", "a"), ("*a", "b")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches(&"a*".repeat(1000), &"a".repeat(999)));
        assert!(!matches(&format!("{}b", "*a".repeat(100)), &"a".repeat(4000)));
    }
}
