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
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tickpath.common.pages import Hot, Page, PauseKind

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)

#: Variable in which whoever starts a process tells it his own number.
PARENT_ENV: Final = "_TICKPATH_PARENT"

_UPDATE_NS: Final = 1_000_000_000
_IDLE_GC_NS: Final = 10_000_000_000
#: A wait for a core between two readings that is long enough for a row of its own, ns.
CORE_WAIT_LOGGED_NS: Final = 200_000


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


def die_with_parent(parent: int = 0) -> None:
    """Ask the kernel for SIGTERM when the parent process ends, so that no process is left behind.

    `parent` is its number; 0: what `PARENT_ENV` says, if anybody has set that. Without it the kernel would never tell
    of a parent that has ended already; with it this process ends as well, at once.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    parent = parent or int(os.environ.get(PARENT_ENV, "0"))
    if parent and os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)


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


class PauseLog:
    """Writer of the ring ``pauses`` of a hot page: what stopped the loop, and when. Never called for a tick."""

    def __init__(self, hot: npt.NDArray[np.int64], ring: npt.NDArray[np.void]) -> None:
        self._hot = hot
        self._ring = ring

    def add(self, kind: PauseKind, begin_ns: int, end_ns: int, count: int, lost_ns: int) -> None:
        """Append a row, see `pages.PAUSE`; the count of rows goes up when the row is complete."""
        written = int(self._hot[Hot.PAUSES])
        self._ring[written % len(self._ring)] = (kind, begin_ns, end_ns, count, lost_ns)
        self._hot[Hot.PAUSES] = written + 1


class GarbageWatch:
    """Collector policy of a hot process: frozen after warm-up, off while trading, young collections when idle.

    Every collection is timed and counted in the page, whoever caused it.
    """

    def __init__(self, hot: npt.NDArray[np.int64], log: PauseLog) -> None:
        self._hot = hot
        self._log = log
        self._began_ns = 0

    def _on_gc(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._began_ns = time.monotonic_ns()
            return
        ended_ns = time.monotonic_ns()
        pause = ended_ns - self._began_ns
        self._hot[Hot.GC_COUNT] += 1
        self._hot[Hot.GC_PAUSE_NS] += pause
        self._hot[Hot.GC_PAUSE_MAX_NS] = max(int(self._hot[Hot.GC_PAUSE_MAX_NS]), pause)
        self._log.add(PauseKind.COLLECTION, self._began_ns, ended_ns, 1, pause)

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


class CompileWatch:
    """Compilations of Numba after READY. There should be none: kernels have explicit signatures and are warm."""

    def __init__(self, hot: npt.NDArray[np.int64], log: PauseLog) -> None:
        # Side processes use this module too, and must not pay for the compiler.
        from numba.core import event  # noqa: PLC0415

        watch = self

        class Listener(event.Listener):
            def on_start(self, _event: Any) -> None:
                watch._on_start()

            def on_end(self, _event: Any) -> None:
                watch._on_end()

        self._hot = hot
        self._log = log
        self._event = event
        self._listener = Listener()
        self._depth = 0
        self._began_ns = 0

    def _on_start(self) -> None:
        if self._depth == 0:
            self._began_ns = time.monotonic_ns()
        self._depth += 1

    def _on_end(self) -> None:
        # What a kernel calls is compiled inside of its own compilation: the outermost one is the pause.
        self._depth -= 1
        if self._depth == 0:
            ended_ns = time.monotonic_ns()
            pause = ended_ns - self._began_ns
            self._hot[Hot.COMPILATIONS] += 1
            self._hot[Hot.COMPILE_NS] += pause
            self._log.add(PauseKind.COMPILATION, self._began_ns, ended_ns, 1, pause)

    def listen(self) -> None:
        """Count from now on."""
        self._event.register("numba:compile", self._listener)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Stop counting."""
        with contextlib.suppress(ValueError):
            self._event.unregister("numba:compile", self._listener)  # type: ignore[no-untyped-call]


class _Reading(NamedTuple):
    """What the system says of one thread."""

    at_ns: int
    major_faults: int
    switches: int  # involuntary
    waited_ns: int  # runnable, without a core


class UsageWatch:
    """Faults, preemptions, memory and processor time, asked of the operating system.

    `update` writes the totals of the process to the page; `note` logs what the calling thread, which is the loop,
    has lost since the last reading. Both count from `rebase` on.
    """

    def __init__(self, hot: npt.NDArray[np.int64], log: PauseLog) -> None:
        self._hot = hot
        self._log = log
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        # Time on a core, time runnable without one, both ns, and time slices; not in every kernel.
        self._schedstat = -1
        with contextlib.suppress(OSError):
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._page_size = os.sysconf("SC_PAGE_SIZE")
        self.rebase()

    def rebase(self) -> None:
        """Count from now on: warm-up is over."""
        self._base = resource.getrusage(resource.RUSAGE_SELF)
        self._read = self._reading()
        self._waited_base_ns = self._read.waited_ns
        self.update()
        self._hot[Hot.RSS_READY_BYTES] = self._hot[Hot.RSS_BYTES]

    def update(self) -> None:
        """Read the totals of the process, write them to the page."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        hot, base = self._hot, self._base
        hot[Hot.MINOR_FAULTS] = usage.ru_minflt - base.ru_minflt
        hot[Hot.MAJOR_FAULTS] = usage.ru_majflt - base.ru_majflt
        hot[Hot.INVOLUNTARY_SWITCHES] = usage.ru_nivcsw - base.ru_nivcsw
        hot[Hot.CPU_NS] = int((usage.ru_utime + usage.ru_stime) * 1e9)
        hot[Hot.RSS_BYTES] = int(os.pread(self._statm, 128, 0).split()[1]) * self._page_size

    def _reading(self) -> _Reading:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        waited_ns = int(os.pread(self._schedstat, 128, 0).split()[1]) if self._schedstat >= 0 else 0
        return _Reading(time.monotonic_ns(), usage.ru_majflt, usage.ru_nivcsw, waited_ns)

    def note(self) -> None:
        """Log what stopped this thread since the last reading; costs about 3 µs."""
        last, self._read = self._read, self._reading()
        at_ns, now_ns = last.at_ns, self._read.at_ns
        waited_ns = self._read.waited_ns - last.waited_ns
        self._hot[Hot.CORE_WAIT_NS] = self._read.waited_ns - self._waited_base_ns
        if faults := self._read.major_faults - last.major_faults:
            self._log.add(PauseKind.MAJOR_FAULT, at_ns, now_ns, faults, 0)
        if switches := self._read.switches - last.switches:
            self._log.add(PauseKind.PREEMPTION, at_ns, now_ns, switches, waited_ns)
        elif waited_ns >= CORE_WAIT_LOGGED_NS:
            self._log.add(PauseKind.CORE_WAIT, at_ns, now_ns, 1, waited_ns)

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._statm)
        if self._schedstat >= 0:
            os.close(self._schedstat)


class Watch:
    """Everything that can stop the loop of a hot process, by one name: to be called where no tick is delayed."""

    def __init__(self, page: Page) -> None:
        hot = page["hot"]
        log = PauseLog(hot, page["pauses"])
        self.garbage = GarbageWatch(hot, log)
        self.compiler = CompileWatch(hot, log)
        self.usage = UsageWatch(hot, log)
        self._updated_ns = self._collected_ns = 0

    def ready(self) -> None:
        """Warm-up is over: collect, freeze, switch the collector off, count from now on."""
        self.garbage.freeze()
        self.compiler.listen()
        self.usage.rebase()

    def note(self) -> None:
        """Log what the loop's thread has lost since the last reading; 3 µs. The shorter ago, the more it explains."""
        self.usage.note()

    def tend(self, now_ns: int, *, idle: bool) -> None:
        """Log pauses; once a second update the totals; every 10 s, when `idle`, collect the young generation."""
        self.usage.note()
        if now_ns - self._updated_ns >= _UPDATE_NS:
            self._updated_ns = now_ns
            self.usage.update()
        if idle and now_ns - self._collected_ns >= _IDLE_GC_NS:
            self._collected_ns = now_ns
            self.garbage.idle()

    def close(self) -> None:
        """A last reading; everything is as before `ready`."""
        self.usage.note()
        self.usage.update()
        self.usage.close()
        self.compiler.close()
        self.garbage.thaw()
