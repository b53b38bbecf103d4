#!/bin/sh
# Run while the images are built: one service into /opt/tickpath/venv, with its kernels compiled.
#
# usage: install.sh SERVICE WHEEL_DIR     the cache goes to /opt/tickpath/cache, the CPU it is for to /opt/tickpath/cpu.env
# KERNEL_CPU, if not empty, is the CPU to compile for (see docs/deployment.md); else it is that of the building machine.
# It is not called NUMBA_CPU_NAME, because Numba takes an empty one for a CPU of its own.
set -eu

venv=/opt/tickpath/venv
"$venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-cache-dir --no-index --no-deps "$2"/*.whl

if [ -n "${KERNEL_CPU:-}" ]; then
    printf 'NUMBA_CPU_NAME=%s\nNUMBA_CPU_FEATURES=\nexport NUMBA_CPU_NAME NUMBA_CPU_FEATURES\n' "$KERNEL_CPU"
fi >/opt/tickpath/cpu.env
# shellcheck source=/dev/null
. /opt/tickpath/cpu.env

# Numba notes the time of each source to the nanosecond, an image keeps whole seconds: make them whole before, not after.
find "$venv"/lib/python3*/site-packages/tickpath -name '*.py' -exec touch -d '2000-01-01T00:00:00Z' {} +
"$venv/bin/python" -m compileall -q -f "$venv"/lib/python3*/site-packages/tickpath

TICKPATH_CACHE=/opt/tickpath/cache "$venv/bin/python" - "tickpath.$1" <<'PYTHON'
import importlib, pkgutil, sys

# Kernels are compiled when their module is imported.
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
PYTHON
chmod -R a+rX /opt/tickpath/cache
