//! Where a daemon is to be found, for who wants to ask it.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::load::text_of;
use super::members;
use super::overrides::Overrides;

/// The folders in which the socket may be: that of the flag or the variable, else that of the configuration, else the
/// system's and the user's own. What else is in the configuration, right or wrong, is not the asker's business.
pub fn socket_folders(overrides: &Overrides) -> Vec<PathBuf> {
    let flag = overrides.flags.runtime_dir.as_deref().map(Path::as_os_str);
    let set = overrides.setting("--runtime-dir", flag, "DEFIB_RUNTIME_DIR");
    let decided = set.map(|(_, folder)| PathBuf::from(folder)).or_else(|| configured(overrides));
    match decided {
        Some(folder) => vec![folder],
        None => {
            let own = overrides.absolute("XDG_RUNTIME_DIR").map(|folder| folder.join("defib"));
            [Some(PathBuf::from("/run/defib")), own].into_iter().flatten().collect()
        }
    }
}

/// `daemon.runtime_dir`, from whichever file has it.
fn configured(overrides: &Overrides) -> Option<PathBuf> {
    let (file, _) = overrides.config();
    let own = text_of(&file, overrides.euid).ok();
    let others = members::read(&file, overrides.euid).unwrap_or_default();
    own.into_iter().chain(others.into_iter().map(|(_, text)| text)).find_map(|text| {
        let (table, _) = DeTable::parse_recoverable(&text);
        let folder = table.get_ref().get("daemon")?.get_ref().get("runtime_dir")?.get_ref().as_str()?;
        Some(PathBuf::from(folder)).filter(|folder| folder.is_absolute())
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;

    use super::super::overrides::Flags;
    use super::*;

    fn folders(flags: Flags, variables: &[(&str, &str)]) -> Vec<PathBuf> {
        let variable = |name: &str| {
            variables.iter().find(|(set, _)| *set == name).map(|(_, value)| OsString::from(value))
        };
        socket_folders(&Overrides::new(flags, variable, rustix::process::geteuid().as_raw()))
    }

    #[test]
    fn flags_and_variables_decide_over_files_and_files_over_usual_places() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("defib.toml");
        let config = || Flags { config: Some(file.clone()), ..Flags::default() };
        let flag = Flags { runtime_dir: Some("/tmp/f".into()), ..config() };
        let variable = [("DEFIB_RUNTIME_DIR", "/tmp/v"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let usual = [("DEFIB_RUNTIME_DIR", ""), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let there = |found: Vec<PathBuf>, wanted: &[&str]| {
            assert_eq!(found, wanted.iter().map(PathBuf::from).collect::<Vec<_>>())
        };

        // There is no file.
        there(folders(config(), &usual), &["/run/defib", "/run/user/7/defib"]);
        there(folders(config(), &[("XDG_RUNTIME_DIR", "relative")]), &["/run/defib"]);
        fs::write(&file, "[daemon]\nruntime_dir = \"/tmp/c\"\n[service.it]\ncommand = 7\nnonsense").unwrap();
        there(folders(flag, &variable), &["/tmp/f"]);
        there(folders(config(), &variable), &["/tmp/v"]);
        there(folders(config(), &usual), &["/tmp/c"]);
        for nothing in
            ["", "runtime_dir = 7", "[daemon]\nruntime_dir = \"relative\"", "[daemon]\nruntime_dir = []"]
        {
            fs::write(&file, nothing).unwrap();
            there(folders(config(), &[]), &["/run/defib"]);
        }
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        fs::write(folder.path().join("conf.d/own.toml"), "[daemon]\nruntime_dir = \"/tmp/d\"\n").unwrap();
        there(folders(config(), &usual), &["/tmp/d"]);
    }
}
