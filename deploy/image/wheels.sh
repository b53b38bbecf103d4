#!/bin/sh
# Run while the images are built: wheels of the workspace's packages that one image holds.
#
# usage: wheels.sh BUILD_DIR, which holds wheels/ (from packages.sh) and source/*; the wheels go to BUILD_DIR/dist
set -eu

exec /opt/tickpath/venv/bin/python -m pip --quiet --disable-pip-version-check wheel --no-cache-dir \
    --no-index --find-links "$1/wheels" --no-deps --wheel-dir "$1/dist" "$1"/source/*
