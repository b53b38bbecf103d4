"""Atomics, clock, futex and poll from compiled code, against what the system itself says."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tickpath.common.jit import kernel
from tickpath.common.kernels import atomics, waiting


@kernel("UniTuple(int64, 4)(int64[::1])")
def _change(words):
    before = atomics.fetch_add(words, 0, 5)
    swapped = atomics.swap(words, 1, -7)
    done = atomics.compare_exchange(words, 2, 30, 33)
    refused = atomics.compare_exchange(words, 3, 30, 33)
    return before, swapped, done, refused


@kernel("int64(int64[::1], int64)")
def _copy_by_address(words, n):
    at = atomics.address_of(words)
    for i in range(n):
        atomics.store_release(at, n + i, atomics.load_acquire(words, i) * 2)
        atomics.fence_acquire()
        atomics.fence_release()
        atomics.fence_seq_cst()
        atomics.store_relaxed(words, i, atomics.load_relaxed(at, n + i) + 1)
    atomics.move_bytes(at + 8, at, 16)
    return at


@kernel("int64(int64, int64)")
def _add(address, n):
    for _ in range(n):
        atomics.fetch_add(address, 0, 1)
    return 0


def test_read_modify_write_returns_what_was_there() -> None:
    words = np.array([10, 20, 30, 40], dtype=np.int64)
    assert _change(words) == (10, 20, 30, 40)
    assert words.tolist() == [15, -7, 33, 40]


def test_an_array_element_and_its_address_are_the_same_word() -> None:
    words = np.array([1, 2, 3, 0, 0, 0], dtype=np.int64)
    assert _copy_by_address(words, 3) == words.ctypes.data
    assert words.tolist() == [3, 3, 5, 2, 4, 6]


def test_threads_without_the_gil_lose_no_addition() -> None:
    from threading import Thread

    word = np.zeros(1, dtype=np.int64)
    threads = [Thread(target=_add, args=(word.ctypes.data, 200_000)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert word[0] == 600_000


def test_the_clock_is_that_of_python() -> None:
    before = time.monotonic_ns()
    now = waiting.monotonic_ns()
    assert before <= now <= time.monotonic_ns()


def test_a_futex_does_not_sleep_on_another_value_and_ends_with_its_time() -> None:
    word = np.array([(7 << 32) | 5], dtype=np.int64)
    address = word.ctypes.data
    assert waiting.futex_wait(address, 4, -1) == -errno.EAGAIN
    assert waiting.futex_wait(address, 5, 1_000_000) == -errno.ETIMEDOUT
    word[0] = -1
    assert waiting.futex_wait(address, -1, 1_000_000) == -errno.ETIMEDOUT, "the low half, as the kernel compares it"
    assert waiting.futex_wake(address, 1) == 0
    assert waiting.futex_wait(address + 1, 0, 0) == -errno.EINVAL


def test_descriptors_that_can_be_read_or_were_closed_are_reported() -> None:
    (first, to_first), (second, to_second) = os.pipe(), os.pipe()
    assert waiting.wait_fds(first, second, 1000) == 0
    os.write(to_second, b"x")
    assert waiting.wait_fds(first, second, -1) == 2
    os.close(to_first)
    assert waiting.wait_fds(first, second, -1) == 3
    assert waiting.wait_fds(first, -1, -1) == 1
    assert waiting.wait_fds(-1, -1, 1000) == 0
    for descriptor in (first, second, to_second):
        os.close(descriptor)


@pytest.mark.parametrize("module", ["atomics", "waiting", "ring"])
def test_a_second_process_takes_the_kernels_from_the_cache(module: str) -> None:
    code = (
        f"import tickpath.common.kernels.{module} as m\n"
        "found = [f.stats for f in vars(m).values() if getattr(f, 'signatures', None)]\n"
        "print(sum(sum(s.cache_misses.values()) for s in found))"
    )
    for _ in range(2):
        seen = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "0"
