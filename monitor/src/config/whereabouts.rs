//! Where a daemon is to be found, for who wants to ask it.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::ConfigErrors;
use super::load::text_of;
use super::members;
use super::overrides::Overrides;

/// The folders in which the socket may be: that of the flag or the variable, else that of the configuration, else the
/// system's and the user's own. What else is in the configuration, right or wrong, is not the asker's business.
///
/// # Errors
/// If a flag names a configuration that cannot be read: another daemon may be in the usual places.
pub fn socket_folders(overrides: &Overrides) -> Result<Vec<PathBuf>, ConfigErrors> {
    let flag = overrides.flags.runtime_dir.as_deref().map(Path::as_os_str);
    let decided = match overrides.setting("--runtime-dir", flag, "DEFIB_RUNTIME_DIR") {
        Some((_, folder)) => Some(PathBuf::from(folder)),
        None => configured(overrides)?,
    };
    Ok(match decided {
        Some(folder) => vec![folder],
        None => {
            let own = overrides.absolute("XDG_RUNTIME_DIR").map(|folder| folder.join("defib"));
            [Some(PathBuf::from("/run/defib")), own].into_iter().flatten().collect()
        }
    })
}

/// `daemon.runtime_dir`, from whichever file has it.
fn configured(overrides: &Overrides) -> Result<Option<PathBuf>, ConfigErrors> {
    let (file, _) = overrides.config();
    let own = match text_of(&file, overrides.euid) {
        Ok(text) => Some(text),
        Err(why) if overrides.flags.config.is_some() => return Err(why.at(&file.to_string_lossy())),
        Err(_) => None,
    };
    let others = members::read(&file, overrides.euid).unwrap_or_default();
    let mut texts = own.into_iter().chain(others.into_iter().map(|(_, text)| text));
    Ok(texts.find_map(|text| {
        let (table, _) = DeTable::parse_recoverable(&text);
        let folder = table.get_ref().get("daemon")?.get_ref().get("runtime_dir")?.get_ref().as_str()?;
        Some(PathBuf::from(folder)).filter(|folder| folder.is_absolute())
    }))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;

    use super::super::overrides::Flags;
    use super::*;

    fn folders(flags: Flags, variables: &[(&str, &str)]) -> Result<Vec<PathBuf>, ConfigErrors> {
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
        let there = |found: Result<Vec<PathBuf>, ConfigErrors>, wanted: &[&str]| {
            assert_eq!(found, Ok(wanted.iter().map(PathBuf::from).collect()))
        };

        // There is no file.
        let missing = folders(config(), &usual).unwrap_err().to_string();
        assert!(missing.contains("no such file"), "{missing}");
        there(folders(Flags { runtime_dir: Some("/tmp/f".into()), ..config() }, &usual), &["/tmp/f"]);
        let named = [("DEFIB_CONFIG", file.to_str().unwrap()), ("XDG_RUNTIME_DIR", "/run/user/7")];
        there(folders(Flags::default(), &named), &["/run/defib", "/run/user/7/defib"]);
        let relative = [named[0], ("XDG_RUNTIME_DIR", "relative")];
        there(folders(Flags::default(), &relative), &["/run/defib"]);
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
