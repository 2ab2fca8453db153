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
    match nearest {
        [] => format!("no service is named {wanted:?}; `defib status` lists them"),
        names => {
            let names: Vec<_> = names.iter().map(ServiceName::as_str).collect();
            format!("no service is named {wanted:?}; did you mean {}?", names.join(" or "))
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
