//! A command: an array of strings, or one string that is split by the shell's rules and never given to a shell.

use defib_core::model::Command;
use toml::de::DeValue;

use super::document::Node;
use super::error::quoted;
use super::values;

const WANTED: &str = "a command: an array such as [\"/usr/bin/api\", \"--port\", \"80\"], or one string";

/// Reads a command.
pub(super) fn command(node: Node<'_>) -> Option<Command> {
    let words = match node.value {
        DeValue::Array(_) => values::list(node.clone(), WANTED, values::argument)?,
        DeValue::String(text) => split(&node, text)?,
        _ => return node.refuse(WANTED),
    };
    match words.first().map(String::as_str) {
        None => node.complain("the command is empty; name a program"),
        Some("") => node.complain("the program, the first word of the command, is empty"),
        Some(_) => Some(words),
    }
}

fn split(node: &Node<'_>, text: &str) -> Option<Command> {
    values::argument(node.clone())?;
    if let Some(sign) = needs_shell(text) {
        return node.complain(format!(
            "found the string {}, in which {sign} needs a shell, and defib uses none; \
             write command = [\"sh\", \"-c\", \"…\"], or quote the sign if it has no meaning there",
            quoted(text)
        ));
    }
    shlex::split(text)
        .or_else(|| node.refuse("a command whose quotes are closed and which does not end in a backslash"))
}

/// The first unquoted sign that only a shell could act on. What is quoted reaches the program as it is, so
/// `sh -c "a; b"` needs no other shell.
fn needs_shell(text: &str) -> Option<&'static str> {
    let mut rest = text.chars().peekable();
    let mut quote = None;
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some('\''), '\\') => {}
            (_, '\\') => {
                rest.next();
            }
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '|') => return Some("|"),
            (None, ';') => return Some(";"),
            (None, '&') => return Some("&"),
            (None, '>') => return Some(">"),
            (None, '<') => return Some("<"),
            (None, '`') => return Some("`"),
            (None, '$') => match rest.peek() {
                Some('(') => return Some("$("),
                Some('{') => return Some("${"),
                Some(c) if c.is_ascii_alphabetic() || *c == '_' => return Some("$"),
                _ => {}
            },
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::needs_shell;

    #[test]
    fn only_unquoted_signs_need_a_shell() {
        for (text, sign) in [
            ("a | b", Some("|")),
            ("a; b", Some(";")),
            ("a && b", Some("&")),
            ("a>b", Some(">")),
            ("a <b", Some("<")),
            ("a `b`", Some("`")),
            ("a $(b)", Some("$(")),
            ("a ${B}", Some("${")),
            ("a $B", Some("$")),
            (r"a '\' | b", Some("|")),
            (r#"a "\"" ; b"#, Some(";")),
            ("a $ $5 b", None),
            (r"a \; \| \&", None),
            ("a '; | & > < ` $('", None),
            (r#"sh -c "a; b > $C""#, None),
            (r#"a "it's" b"#, None),
            ("", None),
        ] {
            assert_eq!(needs_shell(text), sign, "{text}");
        }
    }
}
