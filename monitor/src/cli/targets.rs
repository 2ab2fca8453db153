//! Which services the words of a command line mean.

use defib_core::model::ServiceName;

use super::glob;
use crate::api::names;

/// What words and patterns have come to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Targets {
    /// The services that are meant, each once, by name.
    pub(super) names: Vec<ServiceName>,
    /// Each word that means none, and what is to be said of it.
    pub(super) missing: Vec<(String, String)>,
}

/// Finds the services that `words` mean among all that are known, who are sorted by name.
pub(super) fn find(words: &[String], known: &[ServiceName]) -> Targets {
    let meant = |word: &String, name: &ServiceName| glob::matches(word, name.as_str());
    let names = known.iter().filter(|name| words.iter().any(|word| meant(word, name)));
    let missing = words.iter().filter(|word| !known.iter().any(|name| meant(word, name)));
    let told = |word: &String| (word.clone(), names::unknown(word, &names::nearest(word, known.iter())));
    Targets { names: names.cloned().collect(), missing: missing.map(told).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_is_meant_once_and_each_word_must_mean_one() {
        let known = ["api-1", "api-2", "db"].map(|name| name.parse().unwrap());
        let words = ["db", "api-*", "*-1", "bd", "x*"].map(str::to_owned);
        let found = find(&words, &known);
        assert_eq!(found.names, known);
        assert_eq!(
            found.missing,
            [
                ("bd".to_owned(), "no service is named \"bd\"; `defib status` lists them".to_owned()),
                ("x*".to_owned(), "no service is named \"x*\"; `defib status` lists them".to_owned())
            ]
        );
    }
}
