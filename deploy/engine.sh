#!/bin/bash
# Starts and stops a container engine of its own, for a machine where none runs (CI, a build machine without systemd).
#
# usage: deploy/engine.sh start DIR    prints the DOCKER_HOST to use; images and containers are kept under DIR
#        deploy/engine.sh stop DIR     stops that engine, by its process id, and removes DIR
#
# Needs root and Debian's docker.io. The containers of this project use the host's network only, so the engine is told
# to leave firewall and bridges alone; the storage driver is the engine's choice (overlay2 where the file system can).
set -euo pipefail

command=${1:-} dir=${2:-}
if [[ ! $command =~ ^(start|stop)$ || -z $dir ]]; then
    sed -n '4,5s/^# //p' "$0" >&2
    exit 2
fi
socket=$dir/docker.sock

case $command in
start)
    mkdir -p "$dir"
    if ! mountpoint -q /sys/fs/cgroup; then
        echo "engine.sh: /sys/fs/cgroup is not mounted; without control groups there are no containers" >&2
        exit 1
    fi
    setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" --host "unix://$socket" \
        --iptables=false --ip6tables=false --bridge=none >"$dir/dockerd.log" 2>&1 </dev/null &
    for _ in $(seq 120); do
        if docker --host "unix://$socket" version >/dev/null 2>&1; then
            echo "unix://$socket"
            exit 0
        fi
        if ! kill -0 $! 2>/dev/null; then
            break
        fi
        sleep 0.5
    done
    echo "engine.sh: dockerd does not answer; the end of $dir/dockerd.log:" >&2
    tail -n 20 "$dir/dockerd.log" >&2
    exit 1
    ;;
stop)
    if [[ -s $dir/dockerd.pid ]]; then
        pid=$(<"$dir/dockerd.pid")
        if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == dockerd ]]; then
            kill "$pid"
            for _ in $(seq 120); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.5
            done
        fi
    fi
    # dockerd leaves the host's network namespace mounted here.
    awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/self/mounts | sort -r | xargs -r umount
    rm -rf "$dir"
    ;;
esac
