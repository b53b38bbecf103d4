"""One hop from process to process: rings in shared memory beside a futex, a pipe and ZeroMQ.

What is timed: two processes hand a record of 128 bytes to each other, one at a time. The sender reads CLOCK_MONOTONIC
into the record just before it sends, the receiver reads it again as soon as it has the record; both directions
count. So copying, waking up and two reads of the clock (60 ns) are inside. Everything is compiled code, ZeroMQ and
the pipe too (blocking calls, one message per record), so what is compared is the way, not the language. What is left
out: batches, which every way gains from, and load on the machine. The two processes have a core each: left to itself,
the scheduler at times puts both on one, where waking costs less and spinning everything.

"bare futex" is the least that a sleeping hop can cost: a store and a wake on one side, a wait on the other, nothing
else. The ways take turns in short rounds, so that a noisy machine is noisy to all. ``tickpath bench hop [--json]``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from numba import types
from rich.console import Console
from rich.table import Table

import tickpath.common.kernels.zeromq  # noqa: F401 - it tells the compiler where zmq_send and zmq_recv are
from tickpath.cli.machine import describe_machine, machine
from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.atomics import fetch_add, load_acquire, load_relaxed, store_release
from tickpath.common.kernels.ring import ack, publish, readable, record_at
from tickpath.common.kernels.waiting import futex_wait, futex_wake, monotonic_ns, pause
from tickpath.common.ring import RingReader, RingWriter, Waiter, WaitStrategy

WORDS = 16
SIZE = 8 * WORDS
ROUNDS = 20
ROUND_TRIPS = 400
GIVE_UP_NS = 10_000_000_000  # the other process is gone
SPIN_TARGET_US = 0.3
BLOCK_TARGET_RATIO = 1.3

_read = types.ExternalFunction("read", types.intp(types.int32, types.intp, types.uint64))
_write = types.ExternalFunction("write", types.intp(types.int32, types.intp, types.uint64))
_zmq_recv = types.ExternalFunction("zmq_recv", types.int32(types.intp, types.intp, types.uint64, types.int32))
_zmq_send = types.ExternalFunction("zmq_send", types.int32(types.intp, types.intp, types.uint64, types.int32))


@inlined
def _receive_ring(ring, waiter, bells, seq):
    """Stamp of record `seq`, 0 when none came."""
    turns = 0
    until = 0
    while True:
        n = readable(ring, seq)
        pause(waiter, n, GIVE_UP_NS)
        if n > 0:
            stamp = load_relaxed(record_at(ring, seq), 0)
            ack(ring, bells, 0, seq)
            return stamp
        turns += 1
        if turns & 0xFFFFF == 0:
            now = monotonic_ns()
            until = until if until else now + GIVE_UP_NS
            if now > until:
                return 0


@kernel("int64(int64, int64, int64, int64, int64, int64, int64[::1], int64[::1])")
def hop_ring(out, inward, bells, waiter, first_seq, serves, record, hops):
    """Hand the record around; `serves`: this process begins. Nanoseconds of each arrival to `hops`; how many."""
    for i in range(len(hops)):
        if serves:
            record[0] = monotonic_ns()
            publish(out, bells, record.ctypes.data, 1)
        stamp = _receive_ring(inward, waiter, bells, first_seq + i)
        hops[i] = monotonic_ns() - stamp
        if stamp == 0:
            return i
        if not serves:
            record[0] = monotonic_ns()
            publish(out, bells, record.ctypes.data, 1)
    return len(hops)


@kernel("int64(int64, int64, int64, int64, int64[::1])")
def hop_futex(out, inward, first, serves, hops):
    """The same with two lines of shared words: 0 the futex, 1 the stamp."""
    for i in range(len(hops)):
        if serves:
            store_release(out, 1, monotonic_ns())
            fetch_add(out, 0, 1)
            futex_wake(out, 1)
        while load_acquire(inward, 0) == first + i:
            if futex_wait(inward, first + i, GIVE_UP_NS) == -110:
                return i
        hops[i] = monotonic_ns() - load_relaxed(inward, 1)
        if not serves:
            store_release(out, 1, monotonic_ns())
            fetch_add(out, 0, 1)
            futex_wake(out, 1)
    return len(hops)


@kernel("int64(int64, int64, int64, int64[::1], int64[::1])")
def hop_pipe(out, inward, serves, record, hops):
    """The same with two pipes."""
    for i in range(len(hops)):
        if serves:
            record[0] = monotonic_ns()
            _write(out, record.ctypes.data, SIZE)
        if _read(inward, record.ctypes.data, SIZE) != SIZE:
            return i
        hops[i] = monotonic_ns() - record[0]
        if not serves:
            record[0] = monotonic_ns()
            _write(out, record.ctypes.data, SIZE)
    return len(hops)


@kernel("int64(int64, int64, int64[::1], int64[::1])")
def hop_zeromq(socket, serves, record, hops):
    """The same with a PAIR of ZeroMQ sockets."""
    for i in range(len(hops)):
        if serves:
            record[0] = monotonic_ns()
            _zmq_send(socket, record.ctypes.data, SIZE, 0)
        if _zmq_recv(socket, record.ctypes.data, SIZE, 0) != SIZE:
            return i
        hops[i] = monotonic_ns() - record[0]
        if not serves:
            record[0] = monotonic_ns()
            _zmq_send(socket, record.ctypes.data, SIZE, 0)
    return len(hops)


Way = Callable[[Any], int]
WAYS = (
    "shm spin", "shm yield", "shm adaptive", "shm block", "bare futex", "pipe", "ZeroMQ ipc", "ZeroMQ tcp",
)  # fmt: skip


def _ways(folder: Path, me: int, shared: Any, pipes: tuple[tuple[int, int], tuple[int, int]]) -> dict[str, Way]:
    """Each way as a function that fills an array with hops, for process `me`, 0 or 1. `shared` int64[512]."""
    record = np.zeros(WORDS, dtype=np.int64)
    ways: dict[str, Way] = {}

    def ring_way(strategy: WaitStrategy) -> Way:
        bell = me if strategy in (WaitStrategy.BLOCK, WaitStrategy.ADAPTIVE) else -1
        names = (f"{strategy}.0", f"{strategy}.1")
        dtype = np.dtype((np.void, SIZE))
        writer = RingWriter(folder / names[me], dtype, 64, required=["other"])
        _meet(shared, me)
        reader = RingReader(folder / names[1 - me], "other", dtype, bell=bell)
        _meet(shared, me)
        waiter = Waiter(strategy, writer._bells, bell)
        bells = writer._bells.address

        def run(hops: Any) -> int:
            n: int = hop_ring(
                writer.address, reader.address, bells, waiter.address, reader.next_seq, me == 0, record, hops
            )
            reader.next_seq += n
            return n

        return run

    for strategy in (WaitStrategy.SPIN, WaitStrategy.YIELD, WaitStrategy.ADAPTIVE, WaitStrategy.BLOCK):
        ways[f"shm {strategy}"] = ring_way(strategy)

    out, inward = (int(shared[16 * (1 + side) :].ctypes.data) for side in (me, 1 - me))
    rounds = itertools.count()  # the other process may already have added to the word
    ways["bare futex"] = lambda hops: hop_futex(out, inward, next(rounds) * ROUND_TRIPS, me == 0, hops)
    ways["pipe"] = lambda hops: hop_pipe(pipes[me][1], pipes[1 - me][0], me == 0, record, hops)

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for name, address in (("ipc", f"ipc://{folder}/pair"), ("tcp", "tcp://127.0.0.1")):
        socket = context.socket(zmq.PAIR)
        socket.linger, socket.rcvtimeo = 0, GIVE_UP_NS // 1_000_000
        if me == 0 and name == "tcp":
            shared[48] = socket.bind_to_random_port(address)
        elif me == 0:
            socket.bind(address)
        _meet(shared, me)
        if me == 1:
            socket.connect(f"{address}:{shared[48]}" if name == "tcp" else address)
        ways[f"ZeroMQ {name}"] = lambda hops, socket=socket: hop_zeromq(socket.underlying, me == 0, record, hops)
    return ways


def _meet(shared: Any, me: int) -> None:
    """Both processes have come to this place."""
    at = int(shared[64:].ctypes.data)
    shared[64 + 16 * me] += 1
    futex_wake(at + 128 * me, 1)
    mine = int(shared[64 + 16 * me])
    for _ in range(100):
        theirs = int(shared[64 + 16 * (1 - me)])
        if theirs >= mine:
            return
        futex_wait(at + 128 * (1 - me), theirs, 100_000_000)
    sys.exit("bench hop: the other process did not come")


def _play(me: int, folder: Path, shared: Any, pipes: Any, hops: Any, rounds: int) -> None:
    """All ways in turn, `rounds` times; hops int64[2, way, round, trip]."""
    os.close(pipes[me][0])
    os.close(pipes[1 - me][1])
    ways = _ways(folder, me, shared, pipes)
    # Only now: the threads that ZeroMQ has started meanwhile may run anywhere.
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[me]})
    for turn in range(-1, rounds):  # the first warms up
        for index, name in enumerate(WAYS):
            _meet(shared, me)
            into = hops[me, index, max(turn, 0)]
            done = ways[name](into)
            if done != len(into):
                sys.exit(f"bench hop: {name} stopped after {done} of {len(into)}")


def measure(rounds: int) -> dict[str, Any]:
    """Run everything; the result as the JSON has it."""
    about = machine()  # before one core of it is ours
    shape = (2, len(WAYS), rounds, ROUND_TRIPS)
    hops = np.frombuffer(mmap.mmap(-1, 8 * int(np.prod(shape))), dtype=np.int64).reshape(shape)
    shared = np.frombuffer(mmap.mmap(-1, 4096), dtype=np.int64)
    pipes = (os.pipe(), os.pipe())
    memory = Path("/dev/shm")  # noqa: S108 - a tmpfs, as the run_dir of a deployment is
    folder = Path(tempfile.mkdtemp(prefix="tickpath-hop-", dir=memory if memory.is_dir() else None))
    child = os.fork()
    try:
        if child == 0:
            status = 1
            try:
                _play(1, folder, shared, pipes, hops, rounds)
                status = 0
            finally:
                os._exit(status)
        _play(0, folder, shared, pipes, hops, rounds)
    finally:
        if child:
            shutil.rmtree(folder, ignore_errors=True)
    if os.waitpid(child, 0)[1]:
        sys.exit("bench hop: the other process failed")
    found = {}
    for index, name in enumerate(WAYS):
        values = hops[:, index].reshape(-1) / 1000
        p50, p90, p99 = np.percentile(values, [50, 90, 99])
        found[name] = {"p50": round(p50, 3), "p90": round(p90, 3), "p99": round(p99, 3), "count": len(values)}
    spin, ratio = found["shm spin"]["p50"], found["shm block"]["p50"] / found["bare futex"]["p50"]
    return {
        "machine": about,
        "hop_us": found,
        "shm_spin_p50_us": spin,
        "shm_spin_target_us": SPIN_TARGET_US,
        "shm_block_to_bare_futex": round(ratio, 2),
        "shm_block_target": BLOCK_TARGET_RATIO,
        "reached": bool(spin <= SPIN_TARGET_US and ratio <= BLOCK_TARGET_RATIO),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """A table for people."""
    console.print(describe_machine(result["machine"]))
    table = Table(title=f"One hop of {SIZE} bytes, µs", title_justify="left")
    for column in ("", "p50", "p90", "p99", "to bare futex", "hops"):
        table.add_column(column, justify="right" if column else "left")
    base = result["hop_us"]["bare futex"]["p50"]
    for name, row in result["hop_us"].items():
        figures = [f"{row[q]:,.2f}" for q in ("p50", "p90", "p99")]
        table.add_row(name, *figures, f"{row['p50'] / base:.3g}", f"{row['count']:,}")
    console.print(table)
    console.print(
        f"shm spin p50 {result['shm_spin_p50_us']} µs (target {SPIN_TARGET_US}); "
        f"shm block to bare futex {result['shm_block_to_bare_futex']} (target {BLOCK_TARGET_RATIO})"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="tickpath bench hop", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a claim")
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        print("bench hop: one core; two processes that spin need two", file=sys.stderr)  # noqa: T201
        return 3
    result = measure(4 if arguments.quick else ROUNDS)
    if arguments.json:
        print(json.dumps(result))  # noqa: T201
    else:
        show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
