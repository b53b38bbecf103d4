"""Time, sleep and wake-up inside compiled loops: clock, futex, poll, and the one way in which all loops wait.

**Bells.** A process that has several inputs sleeps on one futex, its bell: a line of 64 bytes in a file of 64 lines
that all processes map. Zeroes are a valid state, so the file needs no initialisation.

| word | field | written by |
| --- | --- | --- |
| 0 | counter; its low 32 bits are the futex | whoever wakes the process up |
| 1 | sleeping: 1 from the announcement until it is awake | the process itself |

**Why no wake-up is lost.** The producer publishes, then a full fence, then reads `sleeping` (`ring_bell`). The
consumer reads the counter, stores `sleeping`, then a full fence, then looks at its inputs once more, and only then
sleeps, if the counter is still what it was (`pause`). Of two full fences one is the first. If the consumer's is, the
producer reads `sleeping` = 1, adds to the counter and wakes: a consumer that is not asleep yet finds another counter
and does not sleep. If the producer's is, the consumer's second look sees what was published.

A producer that is killed between publishing and waking leaves a sleeper behind: every sleep has a time limit.
"""

from __future__ import annotations

import platform
from enum import IntEnum

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.atomics import (
    fence_seq_cst,
    fetch_add,
    load_acquire,
    load_relaxed,
    stack_words,
    store_relaxed,
)

# Numbers of system calls belong to the machine; both tables are Linux's own.
_SYS_FUTEX = 98 if platform.machine() in ("aarch64", "riscv64") else 202
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_EVERYBODY = (1 << 31) - 1
_CLOCK_MONOTONIC = 1
_POLLIN = 1
_EINTR, _ETIMEDOUT = 4, 110
_SECOND_NS = 1_000_000_000

_errno = types.ExternalFunction("__errno_location", types.CPointer(types.int32)())
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_ppoll = types.ExternalFunction("ppoll", types.int32(types.intp, types.uint64, types.intp, types.intp))
_syscall = types.ExternalFunction(
    "syscall", types.intp(types.intp, types.intp, types.intp, types.intp, types.intp, types.intp, types.intp)
)

BELLS = 64  # lines of the file
BELL_BYTES = 64
_COUNTER, _SLEEPING = 0, 1


class Wait(IntEnum):
    """Words of a waiter, int64[8] of the process that waits."""

    STRATEGY = 0  # SPIN, YIELD, BLOCK or ADAPTIVE
    SPIN_NS = 1  # ADAPTIVE: how long to spin before sleeping
    BELL = 2  # address of the line to sleep on; 0: none, then it yields where it would sleep
    IDLE_SINCE_NS = 3  # 0: there was work in the last turn
    ANNOUNCED = 4  # 1: `sleeping` is set, and the next turn without work sleeps
    HEARD = 5  # counter of the bell when the sleep was announced
    SLEEPS = 6  # how often it has slept
    TIMED_OUT = 7  # how many of these sleeps no bell has ended


SPIN, YIELD, BLOCK, ADAPTIVE = 0, 1, 2, 3

_STRATEGY, _SPIN_NS, _BELL = int(Wait.STRATEGY), int(Wait.SPIN_NS), int(Wait.BELL)
_IDLE_SINCE, _ANNOUNCED, _HEARD = int(Wait.IDLE_SINCE_NS), int(Wait.ANNOUNCED), int(Wait.HEARD)
_SLEEPS, _TIMED_OUT = int(Wait.SLEEPS), int(Wait.TIMED_OUT)
_HINT_YIELD = 1  # of ARM's HINT instruction


@intrinsic
def cpu_pause(typing_context):
    """Tell the core that this is a spinning loop; nothing on machines that have no such instruction."""

    def generate(context, builder, signature, arguments):
        # By their names in LLVM; inline assembly would need an assembler, which Numba does not start.
        if platform.machine() == "x86_64":
            hint = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, hint, "llvm.x86.sse2.pause"), [])
        elif platform.machine() == "aarch64":
            hint = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            function = cgutils.get_or_insert_function(builder.module, hint, "llvm.aarch64.hint")
            builder.call(function, [ir.Constant(ir.IntType(32), _HINT_YIELD)])
        return context.get_dummy_value()

    return types.void(), generate


@kernel("int64()")
def monotonic_ns():
    """CLOCK_MONOTONIC in nanoseconds."""
    now = stack_words(2)  # struct timespec
    _clock_gettime(_CLOCK_MONOTONIC, now)
    return load_relaxed(now, 0) * _SECOND_NS + load_relaxed(now, 1)


@kernel("int64()")
def sched_yield():
    """Let another process have the core, if one wants it; 0."""
    return _sched_yield()


@kernel("int64(int64, int64, int64)")
def futex_wait(address, expected_low32, timeout_ns):
    """Sleep while the low half of the word at `address` is `expected_low32`, at most `timeout_ns`; negative: forever.

    0 when woken, else -errno: -EAGAIN (the word is another), -ETIMEDOUT, -EINTR. Works between processes.
    """
    limit = stack_words(2)
    store_relaxed(limit, 0, timeout_ns // _SECOND_NS)
    store_relaxed(limit, 1, timeout_ns % _SECOND_NS)
    if timeout_ns < 0:
        limit = 0
    if _syscall(_SYS_FUTEX, address, _FUTEX_WAIT, expected_low32 & 0xFFFFFFFF, limit, 0, 0) < 0:
        return -numba.int64(_errno()[0])
    return 0


@kernel("int64(int64, int64)")
def futex_wake(address, n):
    """Wake at most `n` that sleep on the word at `address`; how many, or -errno."""
    woken = _syscall(_SYS_FUTEX, address, _FUTEX_WAKE, n, 0, 0, 0)
    return woken if woken >= 0 else -numba.int64(_errno()[0])


@kernel("int64(int64, int64, int64)")
def wait_fds(first, second, timeout_ns):
    """Wait until one of two descriptors (-1: none) can be read, was closed or failed; negative time: forever.

    1 for the first, 2 for the second, 3 for both; 0 after the time or a signal; or -errno.
    """
    polled = stack_words(2)  # two struct pollfd: i32 descriptor, i16 events, i16 what happened
    store_relaxed(polled, 0, (first & 0xFFFFFFFF) | _POLLIN << 32)
    store_relaxed(polled, 1, (second & 0xFFFFFFFF) | _POLLIN << 32)
    limit = stack_words(2)
    store_relaxed(limit, 0, timeout_ns // _SECOND_NS)
    store_relaxed(limit, 1, timeout_ns % _SECOND_NS)
    if timeout_ns < 0:
        limit = 0
    if _ppoll(polled, 2, limit, 0) < 0:
        error = numba.int64(_errno()[0])
        return 0 if error == _EINTR else -error
    return ((load_relaxed(polled, 0) >> 48) != 0) | ((load_relaxed(polled, 1) >> 48) != 0) << 1


@kernel("void(int64, int64)")
def wake_sleeper(bells, index):
    """`ring_bell` without its fence, for whoever has made one since it published."""
    if bells == 0 or index < 0 or index >= BELLS:
        return
    line = bells + index * BELL_BYTES
    if load_relaxed(line, _SLEEPING):
        fetch_add(line, _COUNTER, 1)
        futex_wake(line, _EVERYBODY)


@kernel("void(int64, int64)")
def ring_bell(bells, index):
    """After something was published: wake the process of this bell, if it sleeps.

    `bells` is the address of the file; an `index` of -1, or `bells` 0, means that there is nobody to wake.
    """
    fence_seq_cst()  # what was published is visible before `sleeping` is read; see the top of this module
    wake_sleeper(bells, index)


@inlined
def _awake(waiter, line):
    store_relaxed(line, _SLEEPING, 0)
    store_relaxed(waiter, _ANNOUNCED, 0)


@kernel("void(int64, int64, int64)")
def pause(waiter, worked, timeout_ns):
    """End of a turn of a loop: wait as the waiter at this address (see `Wait`) is set, unless the turn `worked`.

    A turn must look at *all* inputs. Where it would sleep, the first turn without work only announces the sleep and
    returns; so the second look at the inputs is simply the next turn, and if that finds nothing either, this sleeps,
    until the bell rings or `timeout_ns` are over.
    """
    line = load_relaxed(waiter, _BELL)
    announced = load_relaxed(waiter, _ANNOUNCED)
    if worked:
        store_relaxed(waiter, _IDLE_SINCE, 0)
        if announced:
            _awake(waiter, line)
        return
    strategy = load_relaxed(waiter, _STRATEGY)
    if strategy == SPIN:
        cpu_pause()
        return
    if strategy == YIELD or line == 0:
        sched_yield()
        return
    if announced:
        store_relaxed(waiter, _SLEEPS, load_relaxed(waiter, _SLEEPS) + 1)
        if futex_wait(line, load_relaxed(waiter, _HEARD), timeout_ns) == -_ETIMEDOUT:
            store_relaxed(waiter, _TIMED_OUT, load_relaxed(waiter, _TIMED_OUT) + 1)
        _awake(waiter, line)
        store_relaxed(waiter, _IDLE_SINCE, 0)
        return
    if strategy == ADAPTIVE:
        now = monotonic_ns()
        since = load_relaxed(waiter, _IDLE_SINCE)
        if since == 0:
            store_relaxed(waiter, _IDLE_SINCE, now)
            since = now
        if now - since < load_relaxed(waiter, _SPIN_NS):
            cpu_pause()
            return
    store_relaxed(waiter, _HEARD, load_acquire(line, _COUNTER))
    store_relaxed(line, _SLEEPING, 1)
    fence_seq_cst()  # the announcement is visible before the inputs are looked at once more
    store_relaxed(waiter, _ANNOUNCED, 1)
