#!/bin/sh
# Fetches the wheels of requirements.lock into a folder, checked by hash, so that ./tickpath (TICKPATH_WHEELHOUSE=DIR)
# and the images (DIR is wheelhouse/ in the repository) can be made without a network.
#
# usage: deploy/make-wheelhouse.sh [DIR]      default: wheelhouse/ in the repository
# The wheels are for this machine and the minor version of the Python that runs this: TICKPATH_PYTHON, else that of
# .venv, else python3. Run it once more with another one to add its wheels; what is there is not fetched again.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
target=${1:-$root/wheelhouse}
python=${TICKPATH_PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() {
    "$python" -m pip -qq --disable-pip-version-check download --exists-action i --only-binary :all: \
        --find-links "$target" --dest "$target" --require-hashes -r "$@"
}

mkdir -p "$target"
fetch "$root/requirements.lock" || {
    echo "make-wheelhouse: $python could not fetch what requirements.lock lists, for the reason above. Needed is a" \
        "Python >= 3.11 with pip, and a package index that it reaches." >&2
    exit 1
}

# The image's Python may have another patch version, on which the lock makes some packages depend: those that do not
# apply to this Python are added, each by itself, if there is a wheel that fits.
awk -v dir="$work" '
    /^[A-Za-z0-9]/ { marked = / ; /; file = sprintf("%s/%03d.txt", dir, ++n); sub(/ ; [^\\]*/, " ") }
    marked         { print > file }
' "$root/requirements.lock"
for extra in "$work"/*.txt; do
    fetch "$extra" --no-deps 2>/dev/null || :
done
set -- "$target"/*.whl
echo "make-wheelhouse: $# wheels in $target" >&2
