//! Users and groups by name or number, from the system's databases.
//!
//! The look-up may ask a directory server and take its time: it happens on the planner's thread only.

use std::ffi::CString;
use std::path::PathBuf;

use defib_core::model::{Launch, StartFailure, StartFailureKind};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::keeper::plan::Identity;

/// Whoever a service runs as.
#[derive(Clone, Debug)]
pub struct Account {
    /// In the kernel's terms; `None`: as whoever the keeper is.
    pub identity: Option<Identity>,
    /// The name, for `USER` and `LOGNAME`.
    pub name: String,
    /// For `HOME`.
    pub home: PathBuf,
    /// For `SHELL`.
    pub shell: PathBuf,
}

/// Finds whoever a launch asks for.
///
/// # Errors
/// If there is no such user or group, or only root could become it.
pub fn resolve(launch: &Launch) -> Result<Account, StartFailure> {
    let own = Uid::effective();
    let user = match &launch.user {
        Some(text) => user(text)?,
        None => account_of(own),
    };
    let changes = launch.user.is_some() || launch.group.is_some() || launch.groups.is_some();
    let gid = match &launch.group {
        Some(text) => group(text)?,
        None => user.gid,
    };
    let mut groups = match &launch.groups {
        Some(list) => list.iter().map(|text| group(text)).collect::<Result<Vec<_>, _>>()?,
        None => getgrouplist(&c_name(&user.name), gid).unwrap_or_else(|_| vec![gid]),
    };
    groups.dedup();
    if changes && !own.is_root() && (user.uid != own || gid != Gid::effective() || launch.groups.is_some()) {
        let name = own.to_string();
        return Err(failure(
            format!("become user {}", user.name),
            "only root can become another user or group".to_owned(),
            format!("run defib as root, or leave out user, group and groups: defib runs as user {name}"),
        ));
    }
    let identity = (changes && own.is_root()).then(|| Identity {
        uid: user.uid.as_raw(),
        gid: gid.as_raw(),
        groups: groups.iter().map(|gid| gid.as_raw()).collect(),
    });
    Ok(Account { identity, name: user.name, home: user.dir, shell: user.shell })
}

/// The number of a user, given by name or number.
///
/// # Errors
/// If there is no such user.
pub fn uid_of(text: &str) -> Result<Uid, StartFailure> {
    text.parse().map(Uid::from_raw).or_else(|_| user(text).map(|user| user.uid))
}

/// The number of a group, given by name or number.
///
/// # Errors
/// If there is no such group.
pub fn gid_of(text: &str) -> Result<Gid, StartFailure> {
    group(text)
}

fn user(text: &str) -> Result<User, StartFailure> {
    let found = match text.parse() {
        Ok(number) => return Ok(account_of(Uid::from_raw(number))),
        Err(_) => User::from_name(text),
    };
    let call = format!("look up user {text}");
    match found {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(failure(
            call,
            "there is no such user".to_owned(),
            format!("create it (useradd --system {text}), or correct the key `user`"),
        )),
        Err(errno) => Err(failure(call, errno.desc().to_owned(), "see nsswitch.conf(5)".to_owned())),
    }
}

/// The account of a number; one without a name is as good as any.
fn account_of(uid: Uid) -> User {
    User::from_uid(uid).ok().flatten().unwrap_or_else(|| User {
        name: uid.to_string(),
        passwd: CString::default(),
        uid,
        gid: Gid::from_raw(uid.as_raw()),
        gecos: CString::default(),
        dir: "/".into(),
        shell: "/bin/sh".into(),
    })
}

fn group(text: &str) -> Result<Gid, StartFailure> {
    if let Ok(number) = text.parse() {
        return Ok(Gid::from_raw(number));
    }
    let call = format!("look up group {text}");
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(failure(
            call,
            "there is no such group".to_owned(),
            format!("create it (groupadd --system {text}), or correct the key `group` or `groups`"),
        )),
        Err(errno) => Err(failure(call, errno.desc().to_owned(), "see nsswitch.conf(5)".to_owned())),
    }
}

/// The name for a C library; one with a NUL byte is nobody's.
fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

fn failure(call: String, error: String, remedy: String) -> StartFailure {
    StartFailure { kind: StartFailureKind::User, call, errno: None, error, remedy }
}
