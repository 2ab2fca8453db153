//! s6: `s6-svscan` and one `s6-supervise` for each service. It restarts at once what was ready for more than a second,
//! and anything else after a second; so the victims say that they are ready, on descriptor 3.

use std::process::Command;

use anyhow::ensure;

use super::{Peer, debian, scan};
use crate::bench::stage::Setup;
use crate::workspace::is_root;

/// Debian's s6 looks for its other programs and libraries in /usr only. So it gets a view of the file system in which
/// they are there; the victims, which are static or find their libraries where they always were, do not notice.
const ENTER: &str = r#"
set -e
root=$1 folder=$2
printf 'include /etc/ld.so.conf\n%s\n' "$root"/usr/lib/*-linux-gnu* > "$folder/ld.so.conf"
/sbin/ldconfig -X -C "$folder/ld.so.cache" -f "$folder/ld.so.conf"
mount --bind "$folder/ld.so.cache" /etc/ld.so.cache
mount -t overlay overlay -o "lowerdir=$root/usr/bin:/usr/bin" /usr/bin
# 500 services are its default limit.
exec s6-svscan -c "$3" "$folder/services"
"#;

pub(super) const PEER: Peer = Peer {
    name: "s6",
    prepare: |programs| {
        ensure!(is_root(), "its files are mounted where it looks for them, which needs root");
        debian::unpack(programs, "s6")
    },
    setup: |stage| {
        scan::folder(stage, &[("notification-fd", "3\n")])?;
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "--propagation=private", "/bin/sh", "-c", ENTER, "sh"]);
        shell.arg(debian::root(stage.programs)).arg(stage.folder);
        shell.arg((stage.services.len() + 10).to_string()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Ok(Setup::new(shell))
    },
};
