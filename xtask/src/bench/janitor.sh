# Puts away what a bench leaves, however it ends: `janitor.sh FOLDER CGROUP...`. Whoever starts it holds its standard
# input; when that ends, all processes of the cgroups are killed, and cgroups and folder removed. It runs in a process
# group of its own, so that Ctrl-C on the bench does not reach it.
trap '' INT TERM HUP
cat > /dev/null
folder=$1
shift
# An empty name would be part of every argument.
case $folder in /*/defib-bench-?*) ;; *) echo "janitor: $folder is no folder of a bench" >&2; exit 2 ;; esac
# Every process that names the folder in its arguments, or is in it: the folder's name is random. It is also what finds
# them where there is no cgroup that could be killed. The searchers themselves are not there yet when the list is made.
sweep() {
    found=$(
        grep -lsaF "$folder" /proc/[0-9]*/cmdline
        find /proc -maxdepth 2 -name cwd -lname "$folder*" 2> /dev/null
    )
    for file in $found; do
        process=${file#/proc/}
        process=${process%/*}
        [ "$process" != $$ ] && kill -KILL "$process" 2> /dev/null && left=1
    done
}
# What a bench has mounted there, and may have frozen.
grep -o " $folder/[^ ]*" /proc/mounts | while read -r mount; do
    fsfreeze --unfreeze "$mount" 2> /dev/null
    umount --lazy "$mount"
done
tries=0 left=1
while [ "$left" = 1 ] && [ $tries -lt 100 ]; do
    left=0 tries=$((tries + 1))
    for group; do
        [ -e "$group/cgroup.kill" ] && echo 1 > "$group/cgroup.kill"
    done
    sweep
    for group; do
        [ -d "$group" ] && find "$group" -depth -type d -exec rmdir {} + 2> /dev/null
        [ -d "$group" ] && left=1
    done
    [ "$left" = 1 ] && sleep 0.1
done
rm -rf --one-file-system "$folder"
