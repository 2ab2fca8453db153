//! The folder `conf.d` beside the configuration file: more files, in the order of their names.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::Dir;

use super::error::ConfigErrors;
use super::load::{Unreadable, text_of};
use super::trust::open_trusted_folder;

/// The most files in it.
const MAX_MEMBERS: usize = 1024;

/// The most bytes of all of them: they are held in memory as long as the daemon runs.
const MAX_BYTES: usize = 16 << 20;

/// The files of the folder with their texts. Only `*.toml`, and none whose name begins with a dot, as those of editors
/// do. A folder that is not there has none.
pub(super) fn read(config: &Path, euid: u32) -> Result<Vec<(String, String)>, ConfigErrors> {
    let folder = config.with_file_name("conf.d");
    let shown = folder.to_string_lossy();
    let failed = |why: &dyn std::fmt::Display| ConfigErrors::of_file(&shown, why);
    let absolute = std::path::absolute(&folder).map_err(|error| failed(&error))?;
    let listed = match open_trusted_folder(&absolute, euid) {
        Ok(folder) => Dir::new(folder),
        Err(why) if why.is_missing() => return Ok(Vec::new()),
        Err(why) => return Err(failed(&why)),
    };
    let unreadable = |errno: rustix::io::Errno| failed(&format!("cannot be listed: {errno}"));
    let mut names = Vec::new();
    for entry in listed.map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_owned().into_bytes();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            names.push(OsString::from_vec(name));
        }
        if names.len() > MAX_MEMBERS {
            return Err(failed(&format!("found more than {MAX_MEMBERS} files, wanted at most so many")));
        }
    }
    names.sort();
    let (mut texts, mut bytes, mut errors) = (Vec::new(), 0, Vec::new());
    for name in names {
        let path = folder.join(name);
        let file = path.to_string_lossy().into_owned();
        match text_of(&path, euid) {
            Ok(text) => {
                bytes += text.len();
                texts.push((file, text));
            }
            // A link that leads nowhere is a mistake here: somebody has put it into the folder.
            Err(Unreadable::Untrusted(why)) if why.is_missing() => {
                errors.extend(ConfigErrors::of_file(&file, why).iter().cloned());
            }
            Err(why) => errors.extend(why.at(&file).iter().cloned()),
        }
        if bytes > MAX_BYTES {
            return Err(failed(&format!("larger than the {MAX_BYTES} bytes that are allowed in all")));
        }
    }
    ConfigErrors::none(errors)?;
    Ok(texts)
}
