#!/bin/busybox sh
# The first program of a guest. Each step is framed by two lines that begin with the mark, on a line of their own
# whatever the step has written; the host reads them from the console. What follows below is appended by the host.
/bin/busybox mkdir -p /proc /sys /tmp /run /root /usr
# What the payload has brought stays.
/bin/busybox --install -s /bin 2> /dev/null
export PATH=/bin HOME=/root
ln -s /bin /usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
for controller in memory pids; do echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control; done
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up

mark() { echo; echo "@defib-kernels@ $* $(cut -d' ' -f1 /proc/uptime)"; }
step() {
    name=$1; shift
    mark begin "$name"
    "$@" < /dev/null 2>&1
    mark end "$name" $?
}

for module in inet_diag tcp_diag udp_diag veth; do
    if [ -f "/modules/$module.ko" ]; then insmod "/modules/$module.ko"; fi
done
mark boot "$(uname -r)"
