//! Whether a service could be started here and now, looked at piece by piece without starting it: `defib check NAME`.
//!
//! Nothing is written and no process is made. What the user of a service may do is not reckoned from modes, which know
//! nothing of access lists and security modules: a thread becomes that user and asks the kernel (`access`).

mod access;
mod files;
mod host;
mod program;
mod row;

use std::collections::BTreeMap;

use defib_core::model::ServiceSpec;

pub use row::{Row, Verdict};

use crate::config::{DaemonSettings, env_file};
use crate::effect::{identity, needs};
use access::User;

/// What was found of a service, in the order of a start.
pub fn examine(spec: &ServiceSpec, daemon: &DaemonSettings, euid: u32) -> Vec<Row> {
    let mut rows = Vec::new();
    let (user, row) = user(spec, euid);
    rows.push(row);
    let variables = spec.launch.env_file.as_deref().map(|path| (path, env_file::load(path, euid)));
    let mut env: BTreeMap<String, String> = needs::inherited(&spec.launch.inherit_env);
    match variables {
        Some((path, Ok(read))) => {
            rows.push(row::ok("env_file", format!("{}: {} variables", path.display(), read.len())));
            env.extend(read);
        }
        Some((path, Err(why))) => {
            let remedy = "correct the file, or the key `env_file`";
            rows.push(row::error("env_file", format!("{}: {why}", path.display()), remedy));
        }
        None => {}
    }
    env.extend(spec.launch.env.clone());
    rows.extend(files::needed(&spec.launch.needs_files));
    rows.push(files::cwd(&spec.launch.cwd, &user));
    rows.extend(program::rows(&spec.launch, &env, &user));
    rows.extend(host::ports(spec, &user));
    rows.extend(host::held_ports(spec));
    rows.extend(files::kept(spec, daemon));
    rows.push(host::open_files());
    rows
}

/// As whom the service runs.
fn user(spec: &ServiceSpec, euid: u32) -> (User, Row) {
    match identity::resolve(&spec.launch) {
        Ok(account) => {
            let user = User::new(account.name, account.identity);
            let row = row::ok("user", user.to_string());
            (user, row)
        }
        // Whoever is not root can look up a user, and cannot try what that one may do.
        Err(failure) if euid != 0 && failure.call.starts_with("become ") => {
            let found =
                "what another user may do cannot be tried; the rows below are of whoever runs this check";
            (User::current(), row::warning("user", found, "run this check as root"))
        }
        Err(failure) => {
            let found = format!("{}: {}", failure.call, failure.error);
            (User::current(), row::error("user", found, failure.remedy))
        }
    }
}
