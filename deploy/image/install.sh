#!/bin/sh
# Run while the images are built: packages of the workspace, and their compiled kernels, into /opt/tickpath/app. What is
# there already (of the packages that these build on) is kept, and not compiled again.
#
# usage: install.sh NAME [GUEST]...      each a folder of /build/source; the kernels of NAME are compiled (compile.py)
# KERNEL_CPU, if not empty, is the CPU to compile for (docs/deployment.md); else it is that of the building machine.
# (It is not called NUMBA_CPU_NAME, because Numba takes an empty one for the name of a CPU.)
set -eu

python=/opt/tickpath/venv/bin/python
app=/opt/tickpath/app
cache=/tmp/tickpath-cache # where start.sh puts it: the place of a source is part of how its machine code is found

name=$1
for source; do
    set -- "$@" "/build/source/$source"
    shift
done
"$python" -m pip --quiet --disable-pip-version-check install --no-cache-dir \
    --no-index --find-links /build/wheels --no-deps --prefix "$app" "$@"
rm -rf /opt/tickpath/app/bin # the command line runs on the host, what it depends on is not here

if [ -n "${KERNEL_CPU:-}" ]; then
    printf 'NUMBA_CPU_NAME=%s\nNUMBA_CPU_FEATURES=\nexport NUMBA_CPU_NAME NUMBA_CPU_FEATURES\n' "$KERNEL_CPU"
fi >"$app/cpu.env"
# shellcheck source=/dev/null
. "$app/cpu.env"

# Numba notes the time of each source to the nanosecond, an image keeps whole seconds: they are made whole first. The
# second run is for sources that the first one wrote.
whole_seconds() {
    find "$1" -name '*.py' -exec touch -d '2000-01-01T00:00:00Z' {} +
}
whole_seconds "$app"/lib
"$python" -m compileall -q -f "$app"/lib
export TICKPATH_CACHE="$cache"
mkdir -p "$app/cache"
mv "$app/cache" "$cache"
"$python" /build/compile.py "$name"
if [ -n "$(find "$cache" -name '*.py')" ]; then
    whole_seconds "$cache"
    "$python" /build/compile.py "$name"
fi
find "$cache" -name __pycache__ -exec rm -r {} +
mv "$cache" "$app/cache"
chmod -R a+rX "$app"
