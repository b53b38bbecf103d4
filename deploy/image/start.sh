#!/bin/sh
# Entry point of the images: the compiled kernels where they can be used, the capabilities where they are needed,
# then the service.
#
# Numba reads its cache only from a folder that it may write to, and the root file system is read-only: so the cache
# that the image brings is copied (a few megabytes) to the tmpfs /tmp.
set -eu

TICKPATH_CACHE=/tmp/tickpath-cache
export TICKPATH_CACHE
mkdir -p "$TICKPATH_CACHE"
cp -Rp /opt/tickpath/app/cache/. "$TICKPATH_CACHE"
# For which CPU the kernels were compiled, if not for that of the building machine.
# shellcheck source=/dev/null
. /opt/tickpath/app/cpu.env

take='/opt/tickpath/bin/setpriv --inh-caps +ipc_lock,+sys_nice --ambient-caps +ipc_lock,+sys_nice --'
if $take true 2>/dev/null; then
    exec $take "$@"
fi
echo "tickpath: no locked memory and no raised priority: the container has not the capabilities IPC_LOCK and SYS_NICE" \
    "(cap_add), or was started with no-new-privileges" >&2
exec "$@"
