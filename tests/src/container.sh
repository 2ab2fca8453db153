# Makes the file system of a container, $root, on $disk: of $lower, with a layer of $size above it of which nothing stays.
# For a mount namespace of its own, so that whatever ends that unmounts everything.
set -e
# Where systemd-nspawn would leave folders.
mkdir -p /run/systemd "$disk"
mount -t tmpfs defib-systemd /run/systemd
mount -t tmpfs -o "size=$size" defib-systemd "$disk"
mkdir "$disk/up" "$disk/work" "$disk/root"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$disk/up,workdir=$disk/work" "$disk/root"
root=$disk/root
rm -f "$root/etc/machine-id"
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
# Of all that this system starts, only the journal.
for unit in "$root"/etc/systemd/system/*.wants/* "$root"/lib/systemd/system/*.wants/*; do
    case $unit in *journald*) ;; *) rm -rf "$unit" ;; esac
done
