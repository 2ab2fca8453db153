//! Makes plans: users, files, folders and cgroups turned into what the keeper needs for a start.
//!
//! All of it may block, on a directory server or a hung file system, so it happens on a thread of its own. The queue
//! to it holds one job for each service; a job that does not fit fails and is retried like any failed start.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::TrySendError;

use defib_core::model::{
    Draft, Leftovers, ServiceName, ServiceSpec, StartFailure, StartFailureKind, TakenPort,
};
use tokio::sync::mpsc;

use super::held::{self, Held, Opened, Recent};
use super::holders::{self, Household};
use super::output::folder::Folder;
use super::output::pipe::{self, Pipes, Plumbing};
use super::sockets::{self, Namespace, States, Wanted};
use super::{failure, identity, needs, queue};
use crate::config::env_file;
use crate::keeper::plan::{Identity, Plan, SERVICE_VARIABLE};

/// More than two plans at a time for each of 4096 services cannot be wanted.
const QUEUE: usize = 8192;

/// Where programs are searched when the environment of a service has no `PATH` of its own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to plan.
#[derive(Debug)]
pub enum Job {
    /// A plan.
    Plan {
        /// The service.
        spec: Arc<ServiceSpec>,
        /// Its slot, and which draft it is.
        of: (u32, Draft),
        /// The pipes that there are for its output.
        plumbing: Option<Plumbing>,
        /// The sockets that are open for it.
        held: Vec<Held>,
    },
    /// Nobody is at these paths any more: the sockets there have been closed.
    Remove(Vec<PathBuf>),
    /// The service is gone: so is what was made for it.
    Forget(ServiceName),
}

/// What came of a job.
#[derive(Debug)]
pub struct Planned {
    /// The service.
    pub service: ServiceName,
    /// Its slot, and which draft it is. A slot is not used again, so it tells this service from another one that has
    /// come back under the same name.
    pub of: (u32, Draft),
    /// The plan, or the obstacle.
    pub result: Result<Provision, StartFailure>,
    /// The ports of the service on which others listen.
    pub taken: Vec<TakenPort>,
}

/// What the keeper gets for a start.
#[derive(Debug)]
pub struct Provision {
    /// The sealed plan.
    pub plan: OwnedFd,
    /// Whether output is to be kept.
    pub capture: bool,
    /// New pipes for it, if those that there are do not fit.
    pub pipes: Option<Pipes>,
    /// The cgroup of the service, where there are cgroups.
    pub cgroup: Option<OwnedFd>,
    /// Its sockets.
    pub sockets: Opened,
    /// What makes it share its ports with what is held of them.
    pub guard: Vec<OwnedFd>,
}

/// The way to the planner's thread.
#[derive(Debug)]
pub struct Planner {
    jobs: queue::Sender<Job>,
    results: mpsc::Sender<Planned>,
}

impl Planner {
    /// Starts the thread. It ends when the planner is dropped.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn start(workshop: Workshop) -> io::Result<(Self, mpsc::Receiver<Planned>)> {
        let (jobs, waiting) = queue::bounded(QUEUE);
        let (results, done) = mpsc::channel(QUEUE);
        let out = results.clone();
        std::thread::Builder::new()
            .name("defib-planner".into())
            .spawn(move || workshop.run(&waiting, &out))?;
        Ok((Self { jobs, results }, done))
    }

    /// Asks for a plan. Never waits.
    pub fn ask(&self, job: Job) {
        // A cgroup that is not removed costs little, and goes with the daemon.
        let refused = match self.jobs.try_send(job) {
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
            Ok(()) => return,
        };
        if let Job::Plan { spec, of, .. } = refused {
            let failure = StartFailure {
                kind: StartFailureKind::Fork,
                call: "plan".to_owned(),
                errno: None,
                error: format!("{QUEUE} plans are waiting already"),
                remedy: "a file system or a directory server that hangs holds up every start".to_owned(),
            };
            let service = spec.name.clone();
            let planned = Planned { service, of, result: Err(failure), taken: Vec::new() };
            // Both queues full: the start hangs until an operator stops it, and so does the machine.
            self.results.try_send(planned).ok();
        }
    }
}

/// What plans are made of besides the specification.
#[derive(Debug)]
pub struct Workshop {
    /// The processes of the services, and their cgroups, if there are any.
    pub household: Household,
    /// The locale of the services.
    pub lang: String,
    /// The daemon's effective user.
    pub euid: u32,
    /// Where pipes get names.
    pub output: Option<Arc<Folder>>,
}

impl Workshop {
    fn run(&self, jobs: &queue::Receiver<Job>, results: &mpsc::Sender<Planned>) {
        let mut recent = Recent::default();
        while let Ok(job) = jobs.recv() {
            let (spec, of, plumbing, held) = match job {
                Job::Plan { spec, of, plumbing, held } => (spec, of, plumbing, held),
                Job::Remove(paths) => {
                    paths.iter().for_each(|path| held::remove(path));
                    continue;
                }
                Job::Forget(service) => {
                    self.forget(&service);
                    continue;
                }
            };
            let (slot, _) = of;
            let result = self.plan(&spec, plumbing, &recent.with(slot, held));
            if let Ok(provision) = &result {
                recent.note(slot, &provision.sockets.sockets);
            }
            let taken = match &result {
                Ok(provision) => self.taken(&spec, &held::inodes(&provision.sockets.sockets)),
                Err(_) => Vec::new(),
            };
            let planned = Planned { service: spec.name.clone(), of, result, taken };
            if results.blocking_send(planned).is_err() {
                return;
            }
        }
    }

    fn forget(&self, service: &ServiceName) {
        if let Some(Err(error)) = self.household.cgroups.as_ref().map(|cgroups| cgroups.forget(service)) {
            // Leftovers that were to be kept live on in it.
            tracing::debug!(%service, %error, "its cgroup is not removed");
        }
    }

    fn plan(
        &self,
        spec: &ServiceSpec,
        plumbing: Option<Plumbing>,
        held: &[Held],
    ) -> Result<Provision, StartFailure> {
        let launch = &spec.launch;
        needs::check(&launch.needs_files)?;
        let account = identity::resolve(launch)?;
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), PATH.to_owned()),
            ("HOME".to_owned(), account.home.to_string_lossy().into_owned()),
            ("USER".to_owned(), account.name.clone()),
            ("LOGNAME".to_owned(), account.name),
            ("SHELL".to_owned(), account.shell.to_string_lossy().into_owned()),
            ("LANG".to_owned(), self.lang.clone()),
        ]);
        env.extend(needs::inherited(&launch.inherit_env));
        if let Some(path) = &launch.env_file {
            env.extend(self.env_file(path)?);
        }
        env.extend(launch.env.clone());
        env.insert(SERVICE_VARIABLE.to_owned(), spec.name.to_string());
        env.extend(socket_variables(spec));

        let pipes = self.pipes(spec, account.identity.as_ref(), plumbing)?;
        let program = find_program(launch.command.first().map_or("", String::as_str), &env, &launch.cwd)?;
        let cgroup = self.cgroup(&spec.name)?;
        // Last of all: where something else is wrong, nobody is let in.
        let sockets = held::open(&launch.sockets, held)?;
        let plan = Plan {
            program: program.as_os_str().as_bytes().to_vec(),
            args: launch.command.iter().map(|arg| arg.clone().into_bytes()).collect(),
            env: env.iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect(),
            cwd: launch.cwd.as_os_str().as_bytes().to_vec(),
            identity: account.identity,
            umask: launch.umask,
            end_leftovers: spec.leftovers == Leftovers::Kill,
            sockets: launch.sockets.len() as u32,
        };
        let plan = plan.seal().map_err(|error| {
            let remedy = "defib is out of memory or file descriptors".to_owned();
            failure::of_call(StartFailureKind::Fork, "memfd_create".to_owned(), &error, remedy)
        })?;
        let guard = guard(spec, cgroup.as_ref());
        Ok(Provision { plan, capture: spec.log.capture, pipes, cgroup, sockets, guard })
    }

    /// The ports of a service on which processes listen that are not its own: not those of an earlier life. In
    /// defib's own network namespace; whether the service will have another is not known before it runs. `passed` are the
    /// sockets that it will be given.
    fn taken(&self, spec: &ServiceSpec, passed: &BTreeSet<u64>) -> Vec<TakenPort> {
        let wanted = spec.wanted_ports();
        if wanted.is_empty() {
            return Vec::new();
        }
        let look = Wanted { states: States::LISTEN, ports: Some(&wanted) };
        let add = |found: &mut Vec<_>, socket: sockets::Socket| found.push((socket.port, socket.inode));
        let mut listening = sockets::snapshot(Namespace::Own, look, add).unwrap_or_else(|error| {
            tracing::debug!(service = %spec.name, %error, "who listens on its ports is not known");
            Vec::new()
        });
        listening.retain(|(_, socket)| !passed.contains(socket));
        let sockets: BTreeSet<u64> = listening.iter().map(|(_, socket)| *socket).collect();
        let own = self.household.held(&spec.name, None, &[], &sockets);
        // What the keeper holds of them is no stranger's.
        let keeper = if spec.launch.hold_ports.is_empty() {
            BTreeSet::new()
        } else {
            holders::sockets_of(self.household.keeper)
        };
        let is_own = |socket: u64| own.has(socket) || keeper.contains(&socket);
        let others: BTreeMap<u16, u64> =
            listening.into_iter().filter(|(_, socket)| !is_own(*socket)).collect();
        let mut holders = holders::holders_of(&others.values().copied().collect());
        others.into_iter().map(|(port, socket)| TakenPort { port, holder: holders.remove(&socket) }).collect()
    }

    fn env_file(&self, path: &Path) -> Result<env_file::Variables, StartFailure> {
        env_file::load(path, self.euid).map_err(|unusable| StartFailure {
            kind: StartFailureKind::User,
            call: format!("read env_file {}", path.display()),
            errno: None,
            error: unusable.to_string(),
            remedy: "correct the file, or the key `env_file`".to_owned(),
        })
    }

    /// Pipes, unless there are some that fit.
    fn pipes(
        &self,
        spec: &ServiceSpec,
        identity: Option<&Identity>,
        present: Option<Plumbing>,
    ) -> Result<Option<Pipes>, StartFailure> {
        let owner = identity.map_or(self.euid, |identity| identity.uid);
        let wanted = Plumbing { streams: spec.log.streams, owner };
        if !spec.log.capture || present == Some(wanted) {
            return Ok(None);
        }
        let group = identity.map_or_else(|| rustix::process::getegid().as_raw(), |identity| identity.gid);
        let names = self.output.as_deref().map(|folder| (folder, &spec.name));
        pipe::make(wanted, group, names).map(Some).map_err(|error| {
            let place = self.output.as_ref().map_or_else(String::new, |folder| {
                format!(", or {} cannot be written", folder.path().display())
            });
            let remedy = format!("defib is out of memory or file descriptors, or `/proc` is missing{place}");
            failure::of_call(
                StartFailureKind::Output,
                "make a pipe for the output".to_owned(),
                &error,
                remedy,
            )
        })
    }

    fn cgroup(&self, service: &ServiceName) -> Result<Option<OwnedFd>, StartFailure> {
        let Some(cgroups) = &self.household.cgroups else { return Ok(None) };
        cgroups.service(service).map(Some).map_err(|error| StartFailure {
            kind: StartFailureKind::Cgroup,
            call: format!("make the cgroup of {service}"),
            errno: None,
            error: error.to_string(),
            remedy: "defib's part of the cgroup tree must be writable for it (Delegate=yes)".to_owned(),
        })
    }
}

/// What makes a service share its ports with what is held of them. Where that cannot be, it runs without.
fn guard(spec: &ServiceSpec, cgroup: Option<&OwnedFd>) -> Vec<OwnedFd> {
    let ports = &spec.launch.hold_ports;
    if ports.is_empty() {
        return Vec::new();
    }
    held::share::guard(cgroup.map(AsFd::as_fd), ports).unwrap_or_else(|error| {
        tracing::warn!(service = %spec.name, %error, "hold_ports is without effect: its ports are not held");
        Vec::new()
    })
}

/// What sd_listen_fds(3) looks for; its third variable, the pid, is known only when there is one.
fn socket_variables(spec: &ServiceSpec) -> Vec<(String, String)> {
    let sockets = &spec.launch.sockets;
    if sockets.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> =
        sockets.iter().map(|socket| socket.name.as_deref().unwrap_or(spec.name.as_str())).collect();
    vec![("LISTEN_FDS".to_owned(), sockets.len().to_string()), ("LISTEN_FDNAMES".to_owned(), names.join(":"))]
}

/// The path of a program: as it is, from the working directory, or searched in `PATH`.
///
/// # Errors
/// If a name without a slash is in no folder of `PATH`.
pub fn find_program(name: &str, env: &BTreeMap<String, String>, cwd: &Path) -> Result<PathBuf, StartFailure> {
    if name.contains('/') {
        return Ok(cwd.join(name));
    }
    let path = env.get("PATH").map_or(PATH, String::as_str);
    let candidates = path.split(':').map(|folder| cwd.join(folder).join(name));
    let executable = |candidate: &PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(candidate).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    candidates.into_iter().find(executable).ok_or_else(|| StartFailure {
        kind: StartFailureKind::Exec,
        call: format!("find {}", OsStr::new(name).to_string_lossy()),
        errno: Some(libc::ENOENT),
        error: format!("no executable of that name in {path}"),
        remedy: "install the program, write its whole path, or set PATH in `env`".to_owned(),
    })
}
