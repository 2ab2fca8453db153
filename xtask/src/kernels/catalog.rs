//! Which kernels are booted, and which of Debian's packages hold them.

use anyhow::{Result, bail};

/// A kernel of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// As it is named on the command line.
    pub(super) name: &'static str,
    /// Debian's label of the archive that holds it.
    pub(super) label: &'static str,
    pub(super) suite: &'static str,
    layout: Layout,
}

/// How Debian packs a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One package, `linux-image-SERIES…`.
    Whole { series: &'static str },
    /// Since 7.x two, of which the first has a signed kernel and the second the modules.
    Split,
}

const MAIN: &str = "Debian";
const SECURITY: &str = "Debian-Security";

/// The flavour without drivers of real hardware: it boots in half the time.
const FLAVOUR: &str = "-cloud-amd64";

/// The oldest kernel that defib supports, those of Debian 12, and the newest there is.
pub(super) const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", label: MAIN, suite: "bullseye", layout: Layout::Whole { series: "5.10" } },
    Kernel {
        name: "6.1",
        label: SECURITY,
        suite: "bookworm-security",
        layout: Layout::Whole { series: "6.1" },
    },
    Kernel {
        name: "6.12",
        label: SECURITY,
        suite: "bookworm-security",
        layout: Layout::Whole { series: "6.12" },
    },
    Kernel { name: "newest", label: MAIN, suite: "sid", layout: Layout::Split },
];

/// The kernels of these names, or all.
pub(super) fn named(names: &[String]) -> Result<Vec<Kernel>> {
    if let Some(unknown) = names.iter().find(|name| KERNELS.iter().all(|kernel| kernel.name != **name)) {
        bail!("no kernel `{unknown}`; there are: {}", KERNELS.map(|kernel| kernel.name).join(", "));
    }
    let asked = |kernel: &Kernel| names.is_empty() || names.iter().any(|name| name == kernel.name);
    Ok(KERNELS.into_iter().filter(asked).collect())
}

/// The packages that hold a kernel, and the kernel's version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) version: String,
    pub(super) packages: Vec<String>,
}

impl Kernel {
    /// What the names of its packages begin with.
    pub(super) fn prefix(&self) -> String {
        match self.layout {
            Layout::Whole { series } => format!("linux-image-{series}."),
            Layout::Split => "linux-binary-".to_owned(),
        }
    }

    /// The newest of the packages that an archive has under [`Self::prefix`].
    pub(super) fn choose<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Option<Choice> {
        let prefix = self.prefix();
        let version = |name: &'a str| {
            let rest = name.strip_prefix(prefix.as_str())?;
            // The unsigned twin is the same kernel, and the signed one comes without its modules since 6.x.
            let rest = match self.layout {
                Layout::Whole { .. } => rest.strip_suffix("-unsigned")?,
                Layout::Split => rest,
            };
            (rest.ends_with(FLAVOUR) && rest.starts_with(|first: char| first.is_ascii_digit()))
                .then_some(rest)
        };
        let newest = names.into_iter().filter_map(version).max_by_key(|rest| numbers(rest))?;
        Some(match self.layout {
            Layout::Whole { series } => Choice {
                version: format!("{series}.{newest}"),
                packages: vec![format!("{prefix}{newest}-unsigned")],
            },
            Layout::Split => Choice {
                version: newest.to_owned(),
                packages: vec![format!("{prefix}{newest}"), format!("linux-modules-{newest}")],
            },
        })
    }
}

/// The numbers in a version, which sort as the versions do.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(kernel: &str, names: &[&str]) -> Option<Choice> {
        let [kernel] = named(&[kernel.to_owned()]).unwrap()[..] else { panic!("one name, one kernel") };
        kernel.choose(names.iter().copied())
    }

    #[test]
    fn the_newest_unsigned_cloud_kernel_of_the_series_is_chosen() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-57-cloud-amd64",
            "linux-image-6.1.0-58-cloud-amd64-dbg",
            "linux-image-6.1.0-59-amd64-unsigned",
            "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
        ];
        let choice = choose("6.1", &names).unwrap();
        assert_eq!(choice.version, "6.1.0-56-cloud-amd64");
        assert_eq!(choice.packages, ["linux-image-6.1.0-56-cloud-amd64-unsigned"]);
        assert_eq!(choose("6.12", &names).unwrap().version, "6.12.117+deb12-cloud-amd64");
        assert_eq!(choose("5.10", &names), None);
    }

    #[test]
    fn a_split_kernel_comes_with_its_modules() {
        let names = [
            "linux-binary-7.2.13+deb14-cloud-amd64",
            "linux-binary-7.10.1+deb14-cloud-amd64",
            "linux-binary-unsigned-7.11.0+deb14-cloud-amd64",
            "linux-binary-7.12.0+deb14-amd64",
        ];
        let choice = choose("newest", &names).unwrap();
        assert_eq!(choice.version, "7.10.1+deb14-cloud-amd64");
        let modules = "linux-modules-7.10.1+deb14-cloud-amd64";
        assert_eq!(choice.packages, ["linux-binary-7.10.1+deb14-cloud-amd64", modules]);
    }

    #[test]
    fn names_select_and_unknown_ones_are_refused() {
        assert_eq!(named(&[]).unwrap().len(), KERNELS.len());
        let some = named(&["newest".to_owned(), "5.10".to_owned()]).unwrap();
        assert_eq!(some.iter().map(|kernel| kernel.name).collect::<Vec<_>>(), ["5.10", "newest"]);
        assert!(named(&["4.19".to_owned()]).unwrap_err().to_string().contains("6.12"));
    }
}
