#!/bin/sh
# Run while the images are built: one service into /opt/tickpath/venv, and its compiled kernels into /opt/tickpath/cache.
#
# usage: install.sh SERVICE WHEEL_DIR
# KERNEL_CPU, if not empty, is the CPU to compile for (docs/deployment.md); else it is that of the building machine.
# (It is not called NUMBA_CPU_NAME, because Numba takes an empty one for the name of a CPU.)
set -eu

venv=/opt/tickpath/venv
cache=/tmp/tickpath-cache # where start.sh puts it: the place of a source is part of how its machine code is found

"$venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-cache-dir --no-index --no-deps "$2"/*.whl
rm -f "$venv/bin/tickpath" # of exec: the command line runs on the host, what it depends on is not here

if [ -n "${KERNEL_CPU:-}" ]; then
    printf 'NUMBA_CPU_NAME=%s\nNUMBA_CPU_FEATURES=\nexport NUMBA_CPU_NAME NUMBA_CPU_FEATURES\n' "$KERNEL_CPU"
fi >/opt/tickpath/cpu.env
# shellcheck source=/dev/null
. /opt/tickpath/cpu.env

# Numba notes the time of each source to the nanosecond, an image keeps whole seconds: they are made whole first. The
# second run is for sources that the first one wrote.
whole_seconds() {
    find "$1" -name '*.py' -exec touch -d '2000-01-01T00:00:00Z' {} +
}
whole_seconds "$venv"/lib/python3*/site-packages/tickpath
"$venv/bin/python" -m compileall -q -f "$venv"/lib/python3*/site-packages/tickpath
export TICKPATH_CACHE="$cache"
mkdir -p "$cache"
"$venv/bin/python" /opt/tickpath/deploy/compile.py "$1"
if [ -n "$(find "$cache" -name '*.py')" ]; then
    whole_seconds "$cache"
    "$venv/bin/python" /opt/tickpath/deploy/compile.py "$1"
fi
find "$cache" -name __pycache__ -exec rm -r {} +
mv "$cache" /opt/tickpath/cache
chmod -R a+rX /opt/tickpath/cache
