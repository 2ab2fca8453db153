//! What to say when a name is not known.

use defib_core::model::ServiceName;

/// How alike two names must be to be worth a question, from 0 to 1.
const ALIKE: f64 = 0.75;

/// How many names are worth asking about.
const MOST: usize = 3;

/// The known names most like `wanted`, the best first.
pub(crate) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a ServiceName>) -> Vec<ServiceName> {
    let mut alike: Vec<_> = known
        .map(|name| (strsim::jaro_winkler(wanted, name.as_str()), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    alike.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    alike.into_iter().take(MOST).map(|(_, name)| name.clone()).collect()
}

/// The message for it. `wanted` is shown as it came, for JSON and for a terminal alike with its control
/// characters escaped.
pub(crate) fn unknown(wanted: &str, nearest: &[ServiceName]) -> String {
    remedy(format!("no service is named {wanted:?}"), nearest, "`defib status` lists them")
}

/// The same, of a service in a group that there is.
pub(crate) fn unknown_in(group: &str, wanted: &str, nearest: &[ServiceName]) -> String {
    let what = format!("no service of group {group:?} is named {wanted:?}");
    remedy(what, nearest, &format!("`defib status --group {}` lists them", group.escape_debug()))
}

/// The same, of a group; `none`: there is no group at all.
pub(crate) fn unknown_group(wanted: &str, nearest: &[ServiceName], none: bool) -> String {
    if none {
        return format!("no group is named {wanted:?}: no service has a `service_group`");
    }
    remedy(format!("no group is named {wanted:?}"), nearest, "`defib status` shows them")
}

fn remedy(what: String, nearest: &[ServiceName], otherwise: &str) -> String {
    match nearest {
        [] => format!("{what}; {otherwise}"),
        names => {
            let names: Vec<_> = names.iter().map(ServiceName::as_str).collect();
            format!("{what}; did you mean {}?", names.join(" or "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_followed_by_the_ones_like_it() {
        let known: Vec<ServiceName> =
            ["api", "api-worker", "database", "web"].iter().map(|name| name.parse().unwrap()).collect();
        let ask = |wanted| unknown(wanted, &nearest(wanted, known.iter()));
        assert_eq!(ask("databse"), "no service is named \"databse\"; did you mean database?");
        assert_eq!(ask("apo"), "no service is named \"apo\"; did you mean api or api-worker?");
        assert_eq!(ask("x\x1b[2J"), "no service is named \"x\\u{1b}[2J\"; `defib status` lists them");
    }
}
