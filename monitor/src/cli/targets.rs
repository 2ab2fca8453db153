//! Which services the words of a command line mean.

use std::collections::BTreeSet;

use defib_core::model::ServiceName;

use super::choice::{Chosen, Wanted};
use super::glob;
use crate::api::names;
use crate::api::types::Service;

/// The words that say which services are meant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    names: &'a [String],
    groups: &'a [String],
    all: bool,
}

impl<'a> From<&'a Wanted> for Choice<'a> {
    fn from(Wanted { names, group, all, .. }: &'a Wanted) -> Self {
        Self { names, groups: group, all: *all }
    }
}

impl<'a> From<&'a Chosen> for Choice<'a> {
    fn from(Chosen { names, group, all }: &'a Chosen) -> Self {
        Self { names, groups: group, all: *all || (names.is_empty() && group.is_empty()) }
    }
}

impl<'a> Choice<'a> {
    /// Those that these words name.
    pub(super) fn named(names: &'a [String]) -> Self {
        Self { names, groups: &[], all: false }
    }
}

impl Choice<'_> {
    /// Whether nobody has asked for any in particular.
    pub(super) fn is_all(self) -> bool {
        self.all
    }

    /// Whether one service is asked for, by its name and not by a pattern that may fit several.
    pub(super) fn is_one(self) -> bool {
        matches!(self.names, [name] if self.groups.is_empty() && !name.contains(['*', '?', ':']))
    }
}

/// A service as far as words can mean it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: ServiceName,
    pub(super) group: Option<ServiceName>,
}

impl From<&Service> for Known {
    fn from(service: &Service) -> Self {
        Self { name: service.name.clone(), group: service.group.clone() }
    }
}

/// What words and patterns have come to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Targets {
    /// The services that are meant, each once, by name.
    pub(super) names: Vec<ServiceName>,
    /// Each word that means none, and what is to be said of it.
    pub(super) missing: Vec<(String, String)>,
}

/// Finds the services that are meant among all that are known, who are sorted by name.
pub(super) fn find(choice: Choice<'_>, known: &[Known]) -> Targets {
    let Choice { names, groups, all } = choice;
    let meant = |it: &Known| {
        all || names.iter().any(|word| by_name(word, it)) || groups.iter().any(|word| in_group(word, it))
    };
    let missing = names.iter().filter(|word| !known.iter().any(|it| by_name(word, it)));
    let missing = missing.map(|word| (word.clone(), no_name(word, known)));
    let empty = groups.iter().filter(|word| !known.iter().any(|it| in_group(word, it)));
    let empty = empty.map(|word| (word.clone(), no_group(word, known)));
    Targets {
        names: known.iter().filter(|it| meant(it)).map(|it| it.name.clone()).collect(),
        missing: missing.chain(empty).collect(),
    }
}

/// No name of a service has a colon in it, so one in a word stands between a group and a name.
fn by_name(word: &str, it: &Known) -> bool {
    match word.split_once(':') {
        Some((group, name)) => in_group(group, it) && glob::matches(name, it.name.as_str()),
        None => glob::matches(word, it.name.as_str()),
    }
}

fn in_group(word: &str, it: &Known) -> bool {
    it.group.as_ref().is_some_and(|group| glob::matches(word, group.as_str()))
}

/// What to say of a word that means no service.
fn no_name(word: &str, known: &[Known]) -> String {
    let Some((group, name)) = word.split_once(':') else {
        let nearest = names::nearest(word, known.iter().map(|it| &it.name));
        return names::unknown(word, &nearest);
    };
    let members: Vec<&ServiceName> =
        known.iter().filter(|it| in_group(group, it)).map(|it| &it.name).collect();
    if members.is_empty() {
        return no_group(group, known);
    }
    names::unknown_in(group, name, &names::nearest(name, members.into_iter()))
}

fn no_group(word: &str, known: &[Known]) -> String {
    let groups: BTreeSet<&ServiceName> = known.iter().filter_map(|it| it.group.as_ref()).collect();
    names::unknown_group(word, &names::nearest(word, groups.iter().copied()), groups.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<Known> {
        let list = [("api-1", Some("web")), ("api-2", Some("web")), ("db", Some("data")), ("lone", None)];
        let one = |(name, group): (&str, Option<&str>)| Known {
            name: name.parse().unwrap(),
            group: group.map(|group| group.parse().unwrap()),
        };
        list.map(one).to_vec()
    }

    #[track_caller]
    fn check(words: &[&str], groups: &[&str], names: &[&str], missing: &[&str]) {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (words, groups) = (own(words), own(groups));
        let found = find(Choice { names: &words, groups: &groups, all: false }, &known());
        assert_eq!(found.names.iter().map(ServiceName::as_str).collect::<Vec<_>>(), names);
        assert_eq!(found.missing.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), missing);
    }

    #[test]
    fn each_service_is_meant_once_and_each_word_must_mean_one() {
        check(
            &["db", "api-*", "*-1", "bd", "x*"],
            &[],
            &["api-1", "api-2", "db"],
            &[
                "no service is named \"bd\"; `defib status` lists them",
                "no service is named \"x*\"; `defib status` lists them",
            ],
        );
        let known = known();
        let all = Choice { names: &[], groups: &[], all: true };
        assert_eq!(find(all, &known).names.len(), 4);
    }

    #[test]
    fn groups_are_meant_by_option_and_by_colon() {
        check(&[], &["web"], &["api-1", "api-2"], &[]);
        check(&["web:*", "db"], &[], &["api-1", "api-2", "db"], &[]);
        check(&["w*:*-2"], &["data"], &["api-2", "db"], &[]);
        check(&["*:*"], &[], &["api-1", "api-2", "db"], &[]);
        check(&["lone"], &["web"], &["api-1", "api-2", "lone"], &[]);
        check(&["db:*"], &[], &[], &["no group is named \"db\"; `defib status` shows them"]);
        check(&[], &["wep"], &[], &["no group is named \"wep\"; did you mean web?"]);
        check(&["wep:api-1"], &[], &[], &["no group is named \"wep\"; did you mean web?"]);
        check(
            &["web:apl-1"],
            &[],
            &[],
            &["no service of group \"web\" is named \"apl-1\"; did you mean api-1 or api-2?"],
        );
        check(
            &["web:db"],
            &[],
            &[],
            &["no service of group \"web\" is named \"db\"; `defib status --group web` lists them"],
        );
    }

    #[test]
    fn where_there_are_no_groups_the_remedy_is_to_make_one() {
        let known = [Known { name: "a".parse().unwrap(), group: None }];
        let groups = ["web".to_owned()];
        let found = find(Choice { names: &[], groups: &groups, all: false }, &known);
        let text = "no group is named \"web\": no service has a `service_group`";
        assert_eq!(found, Targets { names: vec![], missing: vec![("web".to_owned(), text.to_owned())] });
    }
}
