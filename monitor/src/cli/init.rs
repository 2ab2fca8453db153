//! `defib init`

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Exit;
use super::args::Options;
use super::output::{Printer, complain_of, escape};
use super::session::{self, Failure};

/// The file with every key and its default.
const REFERENCE: &str = include_str!("../../../config/defib.toml");

/// What was written, in JSON.
#[derive(Debug, Serialize)]
struct Written {
    file: String,
    replaced: bool,
}

/// Writes a commented configuration to `file`, or where the configuration is looked for.
pub fn run(options: Options, file: Option<&Path>, force: bool) -> Exit {
    let mut printer = Printer::new(&options);
    let path = file.map_or_else(|| options.overrides(false).config().0, Path::to_owned);
    match write(&path, force) {
        Ok(replaced) => session::finish(tell(&mut printer, &path, replaced)),
        Err(why) => {
            complain_of(&why);
            Exit::Failed
        }
    }
}

fn write(path: &Path, force: bool) -> Result<bool, String> {
    let path = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("{} is a folder; name a file in it", path.display()));
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|error| format!("cannot make the folder {}: {error}", folder.display()))?;
    let there = match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => {
            return Err(format!("{} is a folder; name a file in it", path.display()));
        }
        Ok(_) if !force => {
            return Err(format!(
                "{} is there already and was left as it is; `defib init --force` replaces it",
                path.display()
            ));
        }
        Ok(_) => true,
        Err(_) => false,
    };
    // Whole or not at all: a daemon may read it meanwhile. And not through a link that somebody has put there.
    let mut draft = PathBuf::from(folder);
    draft.push(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = draw_up(&draft).and_then(|()| match there {
        true => fs::rename(&draft, &path),
        // Whoever has made the file since it was looked for keeps it.
        false => fs::hard_link(&draft, &path),
    });
    if written.is_err() || !there {
        fs::remove_file(&draft).ok();
    }
    written.map(|()| there).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn draw_up(draft: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(draft)?;
    file.write_all(REFERENCE.as_bytes())?;
    // Whatever the umask: it must be readable for those who may look, and root refuses what others can write.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()
}

fn tell(printer: &mut Printer, path: &Path, replaced: bool) -> Result<Exit, Failure> {
    let shown = escape(&path.to_string_lossy());
    if printer.json {
        printer.print_json(&Written { file: path.display().to_string(), replaced })?;
    } else {
        let how = if replaced { "replaced" } else { "written" };
        printer.print(&format!(
            "{shown}: {how}; every key is there with its default, and no service yet.\n\
             Next: add a [service.NAME] to it, see what `defib check` says, then start `defib daemon`.\n"
        ))?;
    }
    Ok(Exit::Done)
}
