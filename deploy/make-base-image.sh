#!/bin/sh
# Makes the two images that a build without a registry starts from, with debootstrap, and loads them into the engine:
#   tickpath-base    Debian bookworm with python3 and its venv module         (TICKPATH_BASE_IMAGE for docker compose)
#   tickpath-redis   the same with redis-server, for user 999 and /data       (TICKPATH_REDIS_IMAGE)
#
# usage: deploy/make-base-image.sh      as root; needs debootstrap and a running engine (DOCKER_HOST, if it is not the
#                                       usual one). DEBIAN_MIRROR=URL: else the mirror of this machine's own apt.
set -eu

suite=bookworm

die() {
    echo "make-base-image: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || die "debootstrap needs root"
command -v debootstrap >/dev/null || die "debootstrap is not installed (apt-get install debootstrap)"
docker version >/dev/null 2>&1 || die "no engine answers at ${DOCKER_HOST:-the usual socket}; start dockerd or set DOCKER_HOST"

# shellcheck disable=SC2016 # apt expands these
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' \
    2>/dev/null | awk -v suite="$suite" '$2 == suite && $3 == "main" { print $1; exit }')}
[ -n "$mirror" ] || die "this machine's apt knows no mirror of Debian $suite (apt-get update?); set DEBIAN_MIRROR=URL"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

load() { # image name; the root file system becomes its only layer
    chroot "$root" apt-get clean
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/tmp/*
    tar -C "$root" --one-file-system --numeric-owner -c . | docker import - "$1" >/dev/null
    echo "make-base-image: $1" >&2
}

echo "make-base-image: Debian $suite into $root (about a minute)" >&2
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$root" "$mirror" >"$work/log" 2>&1 ||
    die "debootstrap failed: $(tail -n 5 "$work/log")"
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
load tickpath-base:$suite

# The same user number and data folder as in the public Redis image.
chroot "$root" groupadd --system --gid 999 redis
chroot "$root" useradd --system --uid 999 --gid 999 --home-dir /data --no-create-home --shell /usr/sbin/nologin redis
install -d -o 999 -g 999 "$root/data"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # nothing is started in here
chmod 755 "$root/usr/sbin/policy-rc.d"
# A name server for apt, for this one step.
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || :
{
    chroot "$root" apt-get update &&
        DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y --no-install-recommends redis-server
} >"$work/log" 2>&1 </dev/null || die "installing redis-server failed: $(tail -n 5 "$work/log")"
load tickpath-redis:$suite
