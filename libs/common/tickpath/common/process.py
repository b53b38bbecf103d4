"""What a hot process asks of the operating system. Everything asked is read back; nothing is taken on trust."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.pages import Hot

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_PR_SET_PDEATHSIG: Final = 1


@dataclass(slots=True)
class Setup:
    """What was asked, what is in force, and what the difference means."""

    cores: tuple[int, ...] = ()
    nice: int = 0
    locked_bytes: int = 0
    notes: list[str] = field(default_factory=list)


#: Exit status of a process that could not start because of something its user can mend.
EXIT_USAGE: Final = 3


class StartError(Exception):
    """A process cannot start; the message says what is wrong, where, and what is allowed."""


class AlreadyRunningError(Exception):
    """Another process of this name runs on the same run_dir."""


def claim(run_dir: Path, name: str, wait_s: float = 0.0) -> int:
    """Make sure that there is one process of this name on `run_dir`; returns the descriptor that holds the claim.

    Waits up to `wait_s` for an earlier one that is on its way out. Raises AlreadyRunningError.

    The kernel lets go of the claim when the process dies, however it dies. Without it a second ``bind`` on an
    ``ipc://`` path would silently take the name over from the first process.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < until:
                time.sleep(0.02)
                continue
            os.close(descriptor)
            msg = f"a process {name!r} runs on {run_dir} already; stop it, or choose another run_dir"
            raise AlreadyRunningError(msg) from None
        return descriptor


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent process ends, so that no hot process is left behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def widen() -> None:
    """Use every core of the cpuset again, whatever the parent process was kept to; threads inherit this."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def renice(setup: Setup, nice: int) -> None:
    """Set the niceness of this thread, and of those that it starts from now on, as far as the system lets us."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        setup.notes.append(f"nice {nice} refused ({error.strerror}); needs CAP_SYS_NICE")
    setup.nice = os.getpriority(os.PRIO_PROCESS, 0)


def pin(setup: Setup, cores: tuple[int, ...]) -> None:
    """Keep this thread, and those that it starts from now on, to `cores`; empty: to all that it has."""
    if cores:
        try:
            os.sched_setaffinity(0, cores)
        except OSError as error:
            allowed = sorted(os.sched_getaffinity(0))
            setup.notes.append(f"cores {list(cores)} refused ({error.strerror}); allowed here are {allowed}")
    setup.cores = tuple(sorted(os.sched_getaffinity(0)))


def lock_memory(setup: Setup) -> None:
    """Keep every page of this process in memory, present and future; pre-faults all that is mapped."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        reason = os.strerror(ctypes.get_errno())
        setup.notes.append(f"mlockall refused ({reason}); needs CAP_IPC_LOCK or ulimit -l unlimited")
    setup.locked_bytes = status_bytes("VmLck")


def status_bytes(key: str) -> int:
    """A memory figure of /proc/self/status (``VmRSS``, ``VmLck``) in bytes; 0 when there is none."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


class GarbageWatch:
    """Collector policy of a hot process: frozen after warm-up, off while trading, young collections when idle.

    Every collection is timed and counted in the page, whoever caused it.
    """

    def __init__(self, hot: npt.NDArray[np.int64]) -> None:
        self._hot = hot
        self._began_ns = 0

    def _on_gc(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._began_ns = time.monotonic_ns()
            return
        pause = time.monotonic_ns() - self._began_ns
        self._hot[Hot.GC_COUNT] += 1
        self._hot[Hot.GC_PAUSE_NS] += pause
        self._hot[Hot.GC_PAUSE_MAX_NS] = max(int(self._hot[Hot.GC_PAUSE_MAX_NS]), pause)

    def freeze(self) -> None:
        """Collect everything once, keep what is left out of all later collections, and switch the collector off."""
        gc.collect()
        gc.freeze()
        gc.disable()
        gc.callbacks.append(self._on_gc)

    def idle(self) -> None:
        """Collect the young generation: called only when there is nothing to do."""
        gc.collect(0)

    def thaw(self) -> None:
        """Undo `freeze`."""
        with contextlib.suppress(ValueError):
            gc.callbacks.remove(self._on_gc)
        gc.unfreeze()
        gc.enable()


class UsageWatch:
    """Faults, preemptions, memory and processor time of this process, written to the page about once a second."""

    def __init__(self, hot: npt.NDArray[np.int64]) -> None:
        self._hot = hot
        self._base = resource.getrusage(resource.RUSAGE_SELF)
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._page_size = os.sysconf("SC_PAGE_SIZE")

    def rebase(self) -> None:
        """Count from now on: warm-up is over."""
        self._base = resource.getrusage(resource.RUSAGE_SELF)
        self.update()
        self._hot[Hot.RSS_READY_BYTES] = self._hot[Hot.RSS_BYTES]

    def update(self) -> None:
        """Read from the system, write to the page."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        hot, base = self._hot, self._base
        hot[Hot.MINOR_FAULTS] = usage.ru_minflt - base.ru_minflt
        hot[Hot.MAJOR_FAULTS] = usage.ru_majflt - base.ru_majflt
        hot[Hot.INVOLUNTARY_SWITCHES] = usage.ru_nivcsw - base.ru_nivcsw
        hot[Hot.CPU_NS] = int((usage.ru_utime + usage.ru_stime) * 1e9)
        hot[Hot.RSS_BYTES] = int(os.pread(self._statm, 128, 0).split()[1]) * self._page_size

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._statm)
