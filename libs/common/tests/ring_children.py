"""Processes that use a ring until they are killed, and what was seen of them: started by test_ring.py.

    python ring_children.py kill FOLDER fan-out|lossless|log KILLS SEED    kill writer and reader at random moments
    python ring_children.py wake FOLDER HANDOVERS SEED                     writer and reader that sleep
    python ring_children.py ball FOLDER HANDOVERS SEED                     two processes that hand one record around

Prints one JSON object. Children are forked from this process, which has loaded the kernels and runs one thread, so
that a new life takes milliseconds.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

import numpy as np

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.atomics import load_relaxed, store_relaxed
from tickpath.common.kernels.ring import (
    ack,
    copy_out,
    log_epoch_of,
    publish,
    published,
    readable,
    record_at,
    wait_for_records,
    wait_for_room,
)
from tickpath.common.kernels.waiting import Wait, cpu_pause, sched_yield
from tickpath.common.ring import Bells, RingReader, RingWriter, Waiter, WaitStrategy

WORDS = 16
RECORD = np.dtype((np.void, 8 * WORDS))
CAPACITY = 64
BATCH = 24
_MIX = 0x1E3779B97F4A7C15
_SIZE = 8 * WORDS
_SPIN_NS = int(Wait.SPIN_NS)


class Seen(IntEnum):
    """Words that outlive the children."""

    BAD = 0  # records that were torn or not the ones asked for
    READ = 1
    MISSED = 2
    BACK = 3  # times that a reader asked to begin again
    NEXT = 4  # what the reader wants next
    SENT = 5


@inlined
def _random(state):
    """The next number of a generator whose state is the word at this address."""
    x = load_relaxed(state, 0) * 6364136223846793005 + 1442695040888963407
    store_relaxed(state, 0, x)
    return (x >> 33) & 0x3FFFFFFF


@inlined
def _write(target, seq):
    for word in range(WORDS):
        store_relaxed(target, word, seq * _MIX + word)


@inlined
def _wrong(source, seq):
    for word in range(WORDS):
        if load_relaxed(source, word) != seq * _MIX + word:
            return 1
    return 0


@kernel("int64(int64, int64, int64, int64, int64)")
def write_numbers(ring, scratch, state, turns, end):
    """Publish records made from their numbers, in batches of random size; how many. None from `end` on."""
    sent = 0
    for _ in range(turns):
        seq = published(ring) + 1
        n = min(1 + _random(state) % BATCH, end - seq)
        for i in range(n):
            _write(scratch + i * _SIZE, seq + i)
        accepted = publish(ring, 0, scratch, n)
        if accepted < n or _random(state) & 3 == 0:
            sched_yield()
        sent += accepted
    return sent


@kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64)")
def check_numbers(ring, slot, next_seq, scratch, state, seen, in_place, turns):
    """Read and check; the number that comes next."""
    for _ in range(turns):
        most = 1 + _random(state) % (2 * BATCH)
        if in_place:
            n = min(readable(ring, next_seq), most)
            source = record_at(ring, next_seq)
        else:
            n, missed = copy_out(ring, next_seq, scratch, most)
            next_seq += missed
            source = scratch
            store_relaxed(seen, 2, load_relaxed(seen, 2) + missed)
        for i in range(n):
            store_relaxed(seen, 0, load_relaxed(seen, 0) + _wrong(source + i * _SIZE, next_seq + i))
        next_seq += n
        store_relaxed(seen, 1, load_relaxed(seen, 1) + n)
        if n == 0:
            sched_yield()
        if n == 0 or _random(state) & 3:
            ack(ring, 0, slot, next_seq - 1)
    return next_seq


@kernel("int64(int64, int64, int64, int64, int64, int64)")
def hand_over(ring, bells, waiter, scratch, state, n):
    """Publish one record at a time with random pauses, sleeping while the ring is full; how many."""
    for sent in range(n):
        while publish(ring, bells, scratch, 1) == 0:
            if wait_for_room(ring, waiter, 10_000_000_000) == 0:
                return sent
        for _ in range(_random(state) % 64 if _random(state) & 7 else 4000):
            cpu_pause()
    return n


@kernel("int64(int64, int64, int64, int64, int64, int64)")
def take_over(ring, bells, waiter, slot, state, n):
    """Read one record at a time with random pauses, sleeping while there is none; how many."""
    for got in range(n):
        if wait_for_records(ring, got + 1, waiter, 10_000_000_000) == 0:
            return got
        ack(ring, bells, slot, got + 1)
        for _ in range(_random(state) % 64 if _random(state) & 7 else 4000):
            cpu_pause()
    return n


@kernel("int64(int64, int64, int64, int64, int64, int64, int64)")
def play(to_other, from_other, bells, waiter, scratch, state, n):
    """Hand a record to the other process when it has handed one to us; how often it did.

    Only one of the two has something to do at a time, so that a wake-up that is lost is not made good by the next.
    Spinning for a random moment before sleeping, and working for another, makes publishing meet announcing.
    """
    for got in range(n):
        store_relaxed(waiter, _SPIN_NS, _random(state) & 1023)
        if wait_for_records(from_other, got + 1, waiter, 10_000_000_000) == 0:
            return got
        ack(from_other, bells, 0, got + 1)
        for _ in range(_random(state) & 31):
            cpu_pause()
        publish(to_other, bells, scratch, 1)
    return n


class Children:
    """Forked processes by name."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}

    def start(self, name: str, work: Callable[[], object]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - a child must not run on in the code of its parent
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
                os._exit(1)
            os._exit(0)
        self.pids[name] = pid

    def kill(self, name: str) -> int:
        """Kill and wait; the status with which it ended."""
        pid = self.pids.pop(name)
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]


def _writer(path: Path, mode: str, seed: int, seen: np.ndarray) -> NoReturn:
    required = () if mode == "fan-out" else ("reader",)
    ring = RingWriter(path, RECORD, CAPACITY, required=required, log=mode == "log")
    scratch = np.zeros(BATCH * WORDS, dtype=np.int64)
    state = np.array([seed], dtype=np.int64)
    while True:
        end = 1 << 40
        if mode == "log":
            end = int(seen[Seen.NEXT]) + 10_000
            ring.set_log(77, end)
            ring.tend()
        seen[Seen.SENT] += write_numbers(ring.address, scratch.ctypes.data, state.ctypes.data, 200, end)


def _reader(path: Path, mode: str, seed: int, seen: np.ndarray) -> NoReturn:
    ring = RingReader(path, "reader", RECORD, from_oldest=True)
    scratch = np.zeros(2 * BATCH * WORDS, dtype=np.int64)
    state = np.array([seed], dtype=np.int64)
    choose = random.Random(seed)
    in_place = mode != "fan-out"
    while True:
        # There may be no log yet; and what waits for a grant may be for the log before this one.
        may_ask = mode == "log" and log_epoch_of(ring.address) != 0
        if may_ask and (ring.must_begin_again or (not ring.waits_for_grant and choose.random() < 0.05)):
            ring.begin_again(choose.randint(1, max(1, ring.next_seq)))
            seen[Seen.BACK] += 1
        ring.next_seq = check_numbers(
            ring.address, ring.slot, ring.next_seq, scratch.ctypes.data, state.ctypes.data,
            seen.ctypes.data, in_place, 20,
        )  # fmt: skip
        seen[Seen.NEXT] = ring.next_seq


def kill_campaign(folder: Path, mode: str, kills: int, seed: int) -> dict[str, int]:
    """Kill writer and reader at random moments; what the readers saw, and the ways in which children ended."""
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    seen = np.frombuffer(shared, dtype=np.int64)
    path, choose, children = folder / mode, random.Random(seed), Children()
    RingWriter(path, RECORD, CAPACITY, required=() if mode == "fan-out" else ("reader",), log=mode == "log").close()
    roles = {"writer": _writer, "reader": _reader}

    def live(name: str) -> None:
        children.start(name, lambda: roles[name](path, mode, choose.getrandbits(40), seen))

    def progress() -> bool:
        """Whether records still get through, more than the ring held."""
        enough, until = int(seen[Seen.READ]) + 2 * CAPACITY, time.monotonic() + 20
        while time.monotonic() < until:
            if seen[Seen.READ] >= enough:
                return True
            time.sleep(0.001)
        return False

    stuck = unexpected = 0
    for name in roles:
        live(name)
    for _ in range(kills):
        time.sleep(choose.random() * 0.02)
        stuck += not progress()
        name = choose.choice(list(roles))
        unexpected += children.kill(name) != signal.SIGKILL
        live(name)
    stuck += not progress()
    for name in roles:
        unexpected += children.kill(name) != signal.SIGKILL
    return {
        **{word.name.lower(): int(seen[word]) for word in Seen}, "stuck": stuck, "unexpected": unexpected,
        "kills": kills + 2,
    }  # fmt: skip


def wake_campaign(folder: Path, ball: bool, n: int, seed: int) -> dict[str, int]:
    """`n` hand-overs between two processes that sleep; how many arrived, and sleeps that no bell has ended."""
    seen = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), dtype=np.int64)
    ends = [
        (
            RingWriter(folder / f"{name}", RECORD, 4, required=("reader",), bell=bell),
            RingReader(folder / f"{name}", "reader", RECORD, bell=1 - bell),
        )
        for bell, name in enumerate(("there", "back"))
    ]
    (there, there_reader), (back, _) = ends
    bells, scratch = Bells(folder), np.zeros(WORDS, dtype=np.int64)
    at, data = bells.address, scratch.ctypes.data

    def child(bell: int) -> None:
        waiter = Waiter(WaitStrategy.ADAPTIVE if ball else WaitStrategy.BLOCK, bells, bell)
        waiter.words[Wait.SPIN_NS] = 0
        state = np.array([seed + bell], dtype=np.int64)
        me, chance = waiter.address, state.ctypes.data
        if ball:
            out, inward = (there, back) if bell == 0 else (back, there)
            done = play(out.address, inward.address, at, me, data, chance, n)
        elif bell == 0:
            done = hand_over(there.address, at, me, data, chance, n)
        else:
            done = take_over(there.address, at, me, there_reader.slot, chance, n)
        seen[8 * bell : 8 * bell + 3] = done, waiter.words[Wait.SLEEPS], waiter.words[Wait.TIMED_OUT]

    if ball:
        publish(back.address, at, data, 1)  # process 0 has it first
    children = Children()
    for bell in (0, 1):
        children.start(str(bell), lambda bell=bell: child(bell))
    ended = [os.waitpid(pid, 0)[1] for pid in children.pids.values()]
    return {
        "done_0": int(seen[0]), "done_1": int(seen[8]), "sleeps_0": int(seen[1]), "sleeps_1": int(seen[9]),
        "timed_out": int(seen[2] + seen[10]), "unexpected": sum(ended),
    }  # fmt: skip


def main() -> None:
    """See the top."""
    what, folder, *arguments = sys.argv[1:]
    if what == "kill":
        result = kill_campaign(Path(folder), arguments[0], int(arguments[1]), int(arguments[2]))
    else:
        result = wake_campaign(Path(folder), what == "ball", int(arguments[0]), int(arguments[1]))
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main()
