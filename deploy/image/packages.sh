#!/bin/sh
# Run while the images are built: the virtual environment /opt/tickpath/venv with what the services depend on.
#
# usage: packages.sh BUILD_DIR, which holds wheelhouse/ (requirements.lock and, for a build without a network, wheels) and projects/*.toml
# Every wheel is checked against the hashes of the lock first; what is then installed is what the projects depend on
# (and not the linters and test tools that the lock also lists), from exactly these wheels.
set -eu

build=$1
wheels=$build/wheels

python3 - <<'PYTHON' || exit 1
import sys

if sys.version_info < (3, 11):
    sys.exit(f"BASE_IMAGE has Python {sys.version.split()[0]}; needed is an image with python3 >= 3.11 and its venv module")
PYTHON

python3 -m venv /opt/tickpath/venv
set --
if ls "$build"/wheelhouse/*.whl >/dev/null 2>&1; then
    echo "packages: from wheelhouse/, without a network"
    set -- --no-index --find-links "$build/wheelhouse"
fi
pip() {
    /opt/tickpath/venv/bin/python -m pip --quiet --disable-pip-version-check --no-cache-dir "$@"
}
pip download "$@" --require-hashes --dest "$wheels" -r "$build/wheelhouse/requirements.lock"
/opt/tickpath/venv/bin/python - "$build"/projects/*.toml >"$build/dependencies.txt" <<'PYTHON'
import sys, tomllib

for path in sys.argv[1:]:
    with open(path, "rb") as file:
        for requirement in tomllib.load(file)["project"]["dependencies"]:
            if not requirement.startswith("tickpath-"):
                print(requirement)
PYTHON
pip install --no-index --find-links "$wheels" -r "$build/dependencies.txt"
/opt/tickpath/venv/bin/python - <<'PYTHON'
import sysconfig
from pathlib import Path

prefix = sysconfig.get_preferred_scheme("prefix")  # where `pip install --prefix` puts packages
app = sysconfig.get_path("purelib", prefix, vars={"base": "/opt/tickpath/app"})
Path(sysconfig.get_path("purelib"), "tickpath.pth").write_text(f"{app}\n", "utf-8")
PYTHON
