//! Bad input: every case with all of its messages, word for word.

mod service_lines;
mod texts;

use super::{bad, root};
use service_lines::SERVICE_LINES;
use texts::TEXTS;

#[test]
fn every_error_is_reported_at_its_line() {
    for (text, errors) in TEXTS {
        assert_eq!(bad(text, &root()).join("\n"), *errors, "in\n{text}");
    }
}

#[test]
fn every_error_of_a_service_names_its_key() {
    for (line, errors) in SERVICE_LINES {
        let text = format!("[service.a]\ncommand = \"x\"\n{line}");
        assert_eq!(bad(&text, &root()).join("\n"), *errors, "in {line}");
    }
}

#[test]
fn errors_of_all_tables_come_together_in_the_order_of_lines() {
    let text = "[service.b]\nx = 1\n[daemon]\nsource = 1\n[service.a]\ncommand = []\n[defaults]\ncwd = 1\n";
    let lines: Vec<String> = bad(text, &root()).into_iter().map(|error| error[..4].to_owned()).collect();
    assert_eq!(lines, ["f:1:", "f:2:", "f:4:", "f:6:", "f:8:"]);
}

#[test]
fn lines_of_long_values_are_those_of_their_items() {
    let text = "[service.a]\ncommand = [\n  'x',\n  5,\n]\n[service.a.restart]\ndelays = [\n'1s',\n'2',\n]\n";
    let lines: Vec<String> = bad(text, &root()).into_iter().map(|error| error[..4].to_owned()).collect();
    assert_eq!(lines, ["f:4:", "f:9:"]);
}

#[test]
fn there_is_a_limit_to_services() {
    let text: String = (0..4097).map(|n| format!("[service.s{n}]\ncommand = 'x'\n")).collect();
    assert_eq!(bad(&text, &root()), ["f:1: service: found 4097 services, wanted at most 4096"]);
}

#[test]
fn huge_values_and_keys_do_not_make_huge_messages() {
    let (long, number) = ("k".repeat(1 << 19), "9".repeat(1 << 18));
    for error in bad(&format!("{long} = 1\n[daemon]\nstate_dir = '{long}'\nlog_dir = {number}"), &root()) {
        assert!(error.len() < 300, "{} bytes", error.len());
    }
}
