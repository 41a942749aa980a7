#!/bin/sh
# A container without an engine: a root of bind mounts, read-only, in namespaces of its own.
#
#   unshare --mount --net --propagation private sh container.sh \
#       EMPTY_FOLDER UID GID TMPFS_OPTIONS WORKDIR [SOURCE TARGET ro|rw]... -- COMMAND...
#
# The environment is the command's. There is no network but loopback, and no process but the
# command: what is exec'd here keeps the process id.
set -eu
root=$1 uid=$2 gid=$3 tmpfs=$4 workdir=$5
shift 5
ip link set lo up
mount -t tmpfs -o mode=755 root "$root"
mkdir "$root/tmp"
mount -t tmpfs -o "$tmpfs,noexec,nosuid,nodev" tmp "$root/tmp" # as Docker mounts a tmpfs
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then
        mkdir -p "$root$2"
    else
        mkdir -p "$(dirname "$root$2")"
        : >"$root$2"
    fi
    mount --bind "$1" "$root$2"
    [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
    shift 3
done
shift
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid "$uid" --regid "$gid" --clear-groups \
    --no-new-privs --inh-caps=-all --bounding-set=-all env --chdir="$workdir" "$@"
