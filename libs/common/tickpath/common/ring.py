"""Rings: records from one process to others through shared memory, without a lock and without a system call.

One writer, up to eight named readers with cursors of their own, one file in a tmpfs that all of them map. This module
makes and opens them and is all that a Python program needs; compiled loops use the same ring through its `address`
and `tickpath.common.kernels.ring`. Guide and example: docs/ring.md.

Layout: words of 8 bytes, little-endian, signed. Each group of words begins on a line of 128 bytes of its own.

| word | field | written by | meaning |
| --- | --- | --- | --- |
| 0 | MAGIC | creator | ``TICKRING`` |
| 1 | VERSION | creator | of this layout, 1 |
| 2 | RETIRED | writer | 1: replaced by another file; read what is left, then open again |
| 3 | RECORD_BYTES | creator | multiple of 8 |
| 4 | CAPACITY | creator | records, a power of two |
| 5 | KIND | creator | what the records are, the users' number |
| 6 | MODE | creator | RingMode |
| 7 | REQUIRED | creator | slots 0 to REQUIRED - 1 are those of the required readers |
| 16 | CLAIMED | writer | last number whose place may be being overwritten |
| 32 | PUBLISHED | writer | last number that can be read |
| 48 | LOG_END | writer | LOG: number of the next entry of the log behind the ring |
| 49 | LOG_EPOCH | writer | LOG: epoch of that log, not 0; another one means that numbers begin anew |
| 64 | EPOCH | writer | life of the writer, from 1 |
| 65 | WRITER_PID | writer | |
| 66 | WRITER_BELL | writer | its bell, -1: it does not want to be woken |
| 67 | SLOTS | readers, locked | slots that were ever used |
| 68 | GRANTED | writer | LOG: last request that was granted |
| 69 | WANTS_ROOM | writer | 1: wake it when a required reader acknowledges |
| 80 | WRITER_BEAT_NS | writer | CLOCK_MONOTONIC when it last said that it is alive |
| 81 | SLOWEST | writer | what `slowest` was when it last looked |
| 96 + 32 i | slot i | reader i | as follows, i < 8 |
| + 0 | NAME | reader, locked | 16 bytes |
| + 2 | PID | reader | |
| + 3 | EPOCH | reader | life of the reader, from 1; 0: never attached |
| + 4 | BELL | reader | its bell, -1: it does not want to be woken |
| + 5 | WANT | reader | LOG: number from which to begin again |
| + 6 | WANT_LOG_EPOCH | reader | LOG: in the log with this epoch |
| + 7 | REQUEST | reader | LOG: how often it asked |
| + 16 | ACKED | reader (writer in `grant`) | last number that it is done with |
| + 17 | BEAT_NS | reader | CLOCK_MONOTONIC when it last said that it is alive |

From byte 4096 on come the records, number s at place ``s & (CAPACITY - 1)``. Who is alive is known to the kernel of
the host: the writer and each reader hold a lock on a byte of the file (open file description locks), which end with
the process, however it ends. The hot path never touches them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from tickpath.common.kernels import ring as kernels
from tickpath.common.kernels import waiting
from tickpath.common.kernels.ring import DATA_OFFSET, MAX_READERS, Head, RingMode, Slot
from tickpath.common.kernels.waiting import BELL_BYTES, BELLS, Wait

__all__ = [
    "BELLS", "DATA_OFFSET", "MAX_READERS", "SPIN_NS", "Bells", "Head", "RingError", "RingMode", "RingObserver",
    "RingReader", "RingWriter", "Slot", "WaitStrategy", "Waiter", "choose_wait",
]  # fmt: skip

Records = npt.NDArray[Any]

_MAGIC: Final = int.from_bytes(b"TICKRING", "little")
_VERSION: Final = 1
_NAME_BYTES: Final = 16
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux
_SETUP, _WRITER, _FIRST_READER = 0, 1, 2  # bytes that are locked
_SLICE_NS: Final = 50_000_000  # longest sleep in compiled code, so that Python sees its signals


class RingError(Exception):
    """A ring cannot be made, opened or used like this; says what was found and what is allowed."""


class WaitStrategy(StrEnum):
    """What a loop does while there is nothing to do."""

    SPIN = "spin"  # look again at once: the lowest latency, and a core of its own
    YIELD = "yield"  # let others run, then look again: still all of a core if nobody else wants it
    BLOCK = "block"  # sleep until a bell rings
    ADAPTIVE = "adaptive"  # asked for: whatever the cores allow; as a result: spin for SPIN_NS, then sleep


#: How long an adaptive loop spins before it sleeps: about what a hop costs that has to wake somebody (``tickpath
#: bench hop``), so that guessing wrong never costs much more than twice the better guess.
SPIN_NS: Final = 5_000

_CODES: Final = {
    WaitStrategy.SPIN: waiting.SPIN,
    WaitStrategy.YIELD: waiting.YIELD,
    WaitStrategy.BLOCK: waiting.BLOCK,
    WaitStrategy.ADAPTIVE: waiting.ADAPTIVE,
}


def choose_wait(asked: str, spinners: int, cores: int) -> tuple[WaitStrategy, str]:
    """(strategy to use, note for the user or ""), for `spinners` processes that share `cores`.

    `cores` is what the processes really have, ``len(os.sched_getaffinity(0))``. Spinning loops that share a core keep
    each other from running, so where there are not enough, spinning is refused with a note.
    """
    strategy = WaitStrategy(asked)
    if strategy is WaitStrategy.SPIN and cores < spinners:
        return WaitStrategy.BLOCK, (
            f"wait strategy spin was asked for, but {spinners} processes would spin on {cores} core(s) and starve "
            f"each other; using block. Give them {spinners} cores, or ask for adaptive."
        )
    if strategy is not WaitStrategy.ADAPTIVE:
        return strategy, ""
    if cores > spinners:
        return WaitStrategy.SPIN, f"adaptive: spinning, {spinners} process(es) on {cores} cores"
    if cores == 1:
        return WaitStrategy.BLOCK, "adaptive: sleeping, there is one core"
    return WaitStrategy.ADAPTIVE, (
        f"adaptive: spinning for {SPIN_NS // 1000} µs, then sleeping; {spinners} process(es) on {cores} cores"
    )


def wait_at_socket(strategy: WaitStrategy) -> tuple[int, bool]:
    """For a loop that waits at a socket and not at a bell: (ns to look before it sleeps, -1: it never does; whether
    it gives the core away between two looks).
    """
    never = strategy in (WaitStrategy.SPIN, WaitStrategy.YIELD)
    spin_ns = -1 if never else SPIN_NS if strategy is WaitStrategy.ADAPTIVE else 0
    return spin_ns, strategy is WaitStrategy.YIELD


class Bells:
    """The file ``bells`` of a folder: 64 lines on which processes sleep (`tickpath.common.kernels.waiting`).

    Each process that wants to be woken has a number from 0 to 63 of its own, given by whoever arranges them.
    `address` is what kernels call ``bells``. Made when it is not there, by whoever comes first. Raises RingError.
    """

    def __init__(self, folder: Path) -> None:
        size = BELLS * BELL_BYTES
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / "bells", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            msg = f"cannot open the bells in {folder}: {error.strerror}"
            raise RingError(msg) from None
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self.words = np.frombuffer(self._memory, dtype=np.int64)
        self.address = int(self.words.ctypes.data)

    def line(self, bell: int) -> int:
        """Address of the line of a bell, 0 for -1. Raises RingError when there is no such bell."""
        if not -1 <= bell < BELLS:
            msg = f"there is no bell {bell}; allowed are 0 to {BELLS - 1}, and -1 for none"
            raise RingError(msg)
        return self.address + bell * BELL_BYTES if bell >= 0 else 0


class Waiter:
    """How one process waits; `address` goes to the kernel ``pause``. `words` int64[8] are named by `Wait`."""

    def __init__(self, strategy: WaitStrategy, bells: Bells | None = None, bell: int = -1) -> None:
        self.strategy = strategy
        self._bells = bells
        self.words = np.zeros(len(Wait), dtype=np.int64)
        self.words[Wait.STRATEGY] = _CODES[strategy]
        self.words[Wait.SPIN_NS] = SPIN_NS
        if bells is not None and bell >= 0:
            self.words[Wait.BELL] = bells.line(bell)
            bells.words[bell * BELL_BYTES // 8 + 1] = 0  # a predecessor may have been killed in its sleep
        self.address = int(self.words.ctypes.data)

    def pause(self, worked: bool, timeout_ns: int) -> None:
        """End of a turn, see the kernel ``pause``."""
        waiting.pause(self.address, int(worked), timeout_ns)


class _File:
    """A mapped ring file and the locks that this opener holds on it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Raises FileNotFoundError, and RingError when it is not a ring."""
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
        try:
            size = os.fstat(self.descriptor).st_size
            if size < DATA_OFFSET:
                msg = f"{path} is not a ring: it has {size} bytes"
                raise RingError(msg)
            access = mmap.PROT_READ if read_only else mmap.PROT_READ | mmap.PROT_WRITE
            self.memory = mmap.mmap(self.descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=access)
            self.head = np.frombuffer(self.memory, dtype=np.int64, count=DATA_OFFSET // 8)
            self.address = int(self.head.ctypes.data)
            if self[Head.MAGIC] != _MAGIC:
                msg = f"{path} is not a ring: it does not begin with TICKRING"
                raise RingError(msg)
            if self[Head.VERSION] == _VERSION and size != self._size():
                msg = f"{path} is damaged: it has {size} bytes, its header says {self._size()}"
                raise RingError(msg)
        except BaseException:
            os.close(self.descriptor)
            raise

    def _size(self) -> int:
        return DATA_OFFSET + self[Head.RECORD_BYTES] * self[Head.CAPACITY]

    def __getitem__(self, word: int) -> int:
        return int(self.head[word])

    def __setitem__(self, word: int, value: int) -> None:
        self.head[word] = value

    def slot(self, slot: int, word: Slot) -> int:
        """Index of a word of a slot."""
        return Head.FIRST_SLOT + slot * Slot.SIZE + word

    def name_of(self, slot: int) -> str:
        """Name of the reader of a slot, "" if it is free."""
        at = self.slot(slot, Slot.NAME)
        return self.head[at : at + 2].tobytes().rstrip(b"\0").decode(errors="replace")

    def set_name(self, slot: int, name: str) -> None:
        """Give a slot to a reader."""
        at = self.slot(slot, Slot.NAME)
        self.head[at : at + 2] = np.frombuffer(_name_bytes(name), dtype=np.int64)

    def lock(self, byte: int, *, wait: bool = False) -> bool:
        """Take a lock; False when another opener has it and this should not wait."""
        command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
        try:
            fcntl.fcntl(self.descriptor, command, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def is_locked(self, byte: int) -> bool:
        """Whether another opener holds a lock."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        return bool(_FLOCK.unpack(fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)

    def unlock(self, byte: int) -> None:
        """Give a lock back."""
        fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))

    def is_current(self) -> bool:
        """Whether this file still is what the path names."""
        try:
            return self.path.stat().st_ino == os.fstat(self.descriptor).st_ino
        except FileNotFoundError:
            return False

    def records(self, dtype: np.dtype[Any]) -> Records:
        """The places of all records, one array."""
        return np.frombuffer(self.memory, dtype=dtype, count=self[Head.CAPACITY], offset=DATA_OFFSET)

    def close(self) -> None:
        """End the locks; the mapping ends with the last view of it."""
        if self.descriptor >= 0:
            # The mapping holds a duplicate of the descriptor, with which the locks would live on.
            everything = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, everything)
            os.close(self.descriptor)
            self.descriptor = -1


def _name_bytes(name: str) -> bytes:
    data = name.encode()
    if not data or len(data) > _NAME_BYTES or b"\0" in data:
        msg = f"the name of a reader has 1 to {_NAME_BYTES} bytes; {name!r} has {len(data)}"
        raise RingError(msg)
    return data.ljust(_NAME_BYTES, b"\0")


def _mode_name(mode: int) -> str:
    return RingMode(mode).name if mode in tuple(RingMode) else str(mode)


class _Geometry:
    """What a writer wants its ring to be."""

    def __init__(self, dtype: np.dtype[Any], capacity: int, kind: int, required: Sequence[str], log: bool) -> None:
        if capacity < 2 or capacity & (capacity - 1):
            msg = f"the capacity of a ring is a power of two, at least 2; it is {capacity}"
            raise RingError(msg)
        if dtype.itemsize % 8 or not dtype.itemsize:
            msg = f"records of a ring have a multiple of 8 bytes; {dtype} has {dtype.itemsize}"
            raise RingError(msg)
        if len(required) > MAX_READERS or len(set(required)) != len(required):
            msg = f"a ring has at most {MAX_READERS} readers with different names, required are {list(required)}"
            raise RingError(msg)
        if log and len(required) != 1:
            msg = f"a ring that ships a log has exactly one reader, required are {list(required)}"
            raise RingError(msg)
        for name in required:
            _name_bytes(name)
        self.required = tuple(required)
        self.words = {
            Head.RECORD_BYTES: dtype.itemsize,
            Head.CAPACITY: capacity,
            Head.KIND: kind,
            Head.MODE: RingMode.LOG if log else RingMode.LOSSLESS if required else RingMode.FAN_OUT,
            Head.REQUIRED: len(required),
        }

    def differences(self, file: _File) -> str:
        """What of an existing ring is otherwise, in words; "" if nothing."""
        if file[Head.VERSION] != _VERSION:
            return f"layout version {file[Head.VERSION]}, expected {_VERSION}"
        found = [
            f"{word.name.lower()} {file[word]}, expected {value}"
            for word, value in self.words.items()
            if file[word] != value
        ]
        names = tuple(file.name_of(slot) for slot in range(min(file[Head.REQUIRED], MAX_READERS)))
        if names != self.required:
            found.append(f"required readers {list(names)}, expected {list(self.required)}")
        return "; ".join(found)

    def write(self, path: Path) -> Path:
        """Make a complete ring in a temporary file beside `path`; its name."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            msg = f"cannot make a ring at {path}: {error.strerror}"
            raise RingError(msg) from None
        size = DATA_OFFSET + self.words[Head.CAPACITY] * self.words[Head.RECORD_BYTES]
        try:
            os.posix_fallocate(descriptor, 0, size)  # a tmpfs that is full says so here, not with SIGBUS later
            head = np.zeros(DATA_OFFSET // 8, dtype=np.int64)
            head[Head.MAGIC], head[Head.VERSION] = _MAGIC, _VERSION
            for word, value in self.words.items():
                head[word] = value
            head[Head.SLOTS] = len(self.required)
            head[Head.WRITER_BELL] = -1
            for slot in range(MAX_READERS):
                head[Head.FIRST_SLOT + slot * Slot.SIZE + Slot.BELL] = -1
            os.pwrite(descriptor, head.tobytes(), 0)
        except OSError as error:
            temporary.unlink()
            msg = f"cannot make a ring of {size} bytes at {path}: {error.strerror}"
            raise RingError(msg) from None
        finally:
            os.close(descriptor)
        file = _File(temporary)
        for slot, name in enumerate(self.required):
            file.set_name(slot, name)
        file.close()
        return temporary


def _open_or_create(path: Path, geometry: _Geometry) -> _File:
    while True:
        try:
            return _File(path)
        except FileNotFoundError:
            temporary = geometry.write(path)
            try:
                os.link(temporary, path)  # unlike a rename, does not replace what another process made meanwhile
            except FileExistsError:
                pass
            finally:
                temporary.unlink()


def _replace(old: _File, geometry: _Geometry, bells: Bells) -> None:
    """Put a new ring in the place of `old`; unread records of a lossless ring move over, numbers go on."""
    temporary = geometry.write(old.path)
    try:
        new = _File(temporary)
        if old[Head.VERSION] == _VERSION:
            _carry_over(old, new)
        new.close()
        old[Head.RETIRED] = 1
        temporary.replace(old.path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for slot in range(min(old[Head.SLOTS], MAX_READERS)):
        waiting.ring_bell(bells.address, old[old.slot(slot, Slot.BELL)])


def _carry_over(old: _File, new: _File) -> None:
    last = old[Head.PUBLISHED]
    new[Head.EPOCH] = old[Head.EPOCH]
    if new[Head.MODE] == RingMode.LOG or old[Head.MODE] == RingMode.LOG:
        return  # the log behind it has everything
    new[Head.PUBLISHED] = new[Head.CLAIMED] = last
    before = {old.name_of(slot): old[old.slot(slot, Slot.ACKED)] for slot in range(old[Head.REQUIRED])}
    acked = [before.get(new.name_of(slot), last) for slot in range(new[Head.REQUIRED])]
    for slot, seq in enumerate(acked):
        new[new.slot(slot, Slot.ACKED)] = seq
    unread = last - min(acked, default=last)
    if not unread:
        return
    same = all(old[word] == new[word] for word in (Head.RECORD_BYTES, Head.KIND))
    if not same or unread > new[Head.CAPACITY]:
        why = f"there is room for {new[Head.CAPACITY]}" if same else "their format is another"
        msg = (
            f"{old.path}: the ring cannot be replaced by one of another geometry: {unread} records are not "
            f"read yet, and {why}. Let {', '.join(before)} finish first, or remove the file and lose them."
        )
        raise RingError(msg)
    raw = np.dtype((np.void, old[Head.RECORD_BYTES]))
    seqs = np.arange(last - unread + 1, last + 1)
    new.records(raw)[seqs & (new[Head.CAPACITY] - 1)] = old.records(raw)[seqs & (old[Head.CAPACITY] - 1)]


def _check(file: _File, dtype: np.dtype[Any], kind: int) -> None:
    """Raises RingError when a ring is not what its reader expects."""
    geometry = (
        ("layout version", file[Head.VERSION], _VERSION),
        ("record bytes", file[Head.RECORD_BYTES], dtype.itemsize),
        ("kind", file[Head.KIND], kind),
    )
    wrong = [f"{what} {found}, expected {expected}" for what, found, expected in geometry if found != expected]
    if wrong:
        msg = f"{file.path} is a ring of another geometry: {'; '.join(wrong)}"
        raise RingError(msg)


class _End:
    """What both ends of a ring have."""

    _file: _File
    _bells: Bells
    _waiter: Waiter

    @property
    def address(self) -> int:
        """What kernels call ``ring``; valid as long as this object."""
        return self._file.address

    @property
    def capacity(self) -> int:
        """Places for records."""
        return self._file[Head.CAPACITY]

    @property
    def published(self) -> int:
        """Number of the last record that can be read; 0 before the first."""
        return int(kernels.published(self.address))

    def statistics(self) -> dict[str, Any]:
        """State of the ring, for people and metrics: who is there, and how many records each reader is behind."""
        file, last = self._file, self.published
        readers = {}
        for slot in range(min(file[Head.SLOTS], MAX_READERS)):
            words = {word: file[file.slot(slot, word)] for word in (Slot.PID, Slot.EPOCH, Slot.ACKED, Slot.BEAT_NS)}
            readers[file.name_of(slot)] = {
                "pid": words[Slot.PID],
                "epoch": words[Slot.EPOCH],
                "acked": words[Slot.ACKED],
                "behind": last - words[Slot.ACKED],
                "beat_ns": words[Slot.BEAT_NS],
                "required": slot < file[Head.REQUIRED],
            }
        return {
            "mode": _mode_name(file[Head.MODE]).lower(),
            "capacity": self.capacity,
            "published": last,
            "epoch": file[Head.EPOCH],
            "writer_pid": file[Head.WRITER_PID],
            "writer_beat_ns": file[Head.WRITER_BEAT_NS],
            "readers": readers,
        }

    def close(self) -> None:
        """Leave the ring to the next life. Kernels must not use `address` any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RingWriter(_End):
    """The one writer of a ring; makes the file, or takes over the one that its predecessor left.

    - `dtype` of the records, a multiple of 8 bytes; `capacity` a power of two; `kind`: their kind, any number.
    - `required`: names of readers that nothing may be lost for. None: fan-out, the writer waits for nobody.
    - `log`: the ring ships a log to its one required reader, which may ask to begin again (`tend`).
    - `bell` (0 to 63): where this process sleeps while the ring is full or its reader quiet; -1: it never does.

    A file of another geometry is replaced; numbers and unread records of a lossless ring are carried over.
    Raises RingError: bad geometry, another live writer, no space, unread records that do not fit into the new file.
    """

    def __init__(
        self,
        path: Path,
        dtype: npt.DTypeLike,
        capacity: int,
        *,
        kind: int = 0,
        required: Sequence[str] = (),
        log: bool = False,
        bell: int = -1,
        wait: WaitStrategy = WaitStrategy.BLOCK,
    ) -> None:
        self.dtype = np.dtype(dtype)
        geometry = _Geometry(self.dtype, capacity, kind, required, log)
        self._bells = Bells(path.parent)
        self._bells.line(bell)
        while True:
            file = _open_or_create(path, geometry)
            try:
                file.lock(_SETUP, wait=True)
                if file.is_current():
                    if not file.lock(_WRITER):
                        pid = file[Head.WRITER_PID]
                        msg = f"{path} has a live writer already, process {pid}; a ring has one writer"
                        raise RingError(msg)
                    if not file[Head.RETIRED] and not geometry.differences(file):
                        break
                    _replace(file, geometry, self._bells)
            except BaseException:
                file.close()
                raise
            file.close()
        self._file = file
        self._waiter = Waiter(wait, self._bells, bell)
        file[Head.WRITER_PID] = os.getpid()
        file[Head.WRITER_BELL] = bell
        file[Head.WANTS_ROOM] = 0
        file[Head.EPOCH] += 1
        file[Head.SLOWEST] = kernels.slowest(file.address)
        kernels.beat(file.address, time.monotonic_ns())
        file.unlock(_SETUP)

    @property
    def epoch(self) -> int:
        """Which life of the writer this is, from 1."""
        return self._file[Head.EPOCH]

    @property
    def room(self) -> int:
        """How many records `publish` would accept now."""
        return int(kernels.room(self.address))

    def publish(self, records: Records) -> int:
        """Append records of the ring's dtype, one dimension; how many were accepted, from the first on.

        Fewer than given: the ring is full (`wait` for room), which a fan-out ring never is.
        """
        if records.dtype != self.dtype or records.ndim != 1:
            msg = f"the records of this ring are {self.dtype}[n], not {records.dtype} with {records.ndim} dimensions"
            raise RingError(msg)
        records = np.ascontiguousarray(records)
        source, done = records.ctypes.data, 0
        while done < len(records):
            at = source + done * self.dtype.itemsize
            accepted = int(kernels.publish(self.address, self._bells.address, at, len(records) - done))
            if not accepted:
                break
            done += accepted
        return done

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is room, or the reader of a log asks to begin again; False after the time."""
        until = time.monotonic_ns() + int(timeout_s * 1e9)
        while True:
            left = until - time.monotonic_ns()
            if kernels.wait_for_room(self.address, self._waiter.address, min(left, _SLICE_NS)):
                return True
            if left <= 0:
                return False

    def set_log(self, log_epoch: int, end_seq: int) -> None:
        """Of a log: say which one is behind the ring (not 0), and the number that its next entry will have."""
        kernels.set_log(self.address, log_epoch, end_seq)

    def tend(self) -> int:
        """Beat, and let the reader of a log begin again if it asked; the number of the record to publish next."""
        kernels.beat(self.address, time.monotonic_ns())
        kernels.grant(self.address, self._bells.address)
        return self.published + 1


class RingReader(_End):
    """A named reader of a ring. The next of the same name goes on behind what this one has acknowledged.

    - `dtype` and `kind` as the writer gave them; another geometry is refused.
    - `bell` (0 to 63): where this process sleeps until the writer publishes; -1: it never sleeps.
    - `from_oldest`: a reader that was never here begins with the oldest record that is left, else with the next new
      one. Required readers always begin with the first.

    `next_seq` is the number that comes next; a reader of a fan-out ring may set it. Raises RingError: no ring (yet),
    another geometry, a live reader of this name, no free slot.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        dtype: npt.DTypeLike,
        *,
        kind: int = 0,
        bell: int = -1,
        wait: WaitStrategy = WaitStrategy.BLOCK,
        from_oldest: bool = False,
    ) -> None:
        self.path, self.name, self.dtype, self.kind, self.bell = path, name, np.dtype(dtype), kind, bell
        _name_bytes(name)
        self._bells = Bells(path.parent)
        self._bells.line(bell)
        self._waiter = Waiter(wait, self._bells, bell)
        self.missed = 0  # records in all that were overwritten before they were read
        self._attach(from_oldest)

    def _attach(self, from_oldest: bool) -> None:
        while True:
            try:
                file = _File(self.path)
            except FileNotFoundError:
                msg = f"there is no ring at {self.path}; its writer makes it"
                raise RingError(msg) from None
            try:
                _check(file, self.dtype, self.kind)
                file.lock(_SETUP, wait=True)
                if file.is_current():
                    if file[Head.RETIRED]:
                        msg = f"{self.path} was given up by its writer and not replaced yet; try again"
                        raise RingError(msg)
                    self.slot = self._take_slot(file)
                    break
            except BaseException:
                file.close()
                raise
            file.close()
        new = file[file.slot(self.slot, Slot.EPOCH)] == 0
        if new and self.slot >= file[Head.REQUIRED]:
            last = kernels.published(file.address)
            oldest = min(kernels.first_intact(file.address), last + 1)
            file[file.slot(self.slot, Slot.ACKED)] = oldest - 1 if from_oldest else last
        file[file.slot(self.slot, Slot.PID)] = os.getpid()
        file[file.slot(self.slot, Slot.BELL)] = self.bell
        file[file.slot(self.slot, Slot.EPOCH)] += 1
        kernels.beat_reader(file.address, self.slot, time.monotonic_ns())
        file.unlock(_SETUP)
        self._file = file
        self._records = file.records(self.dtype)
        self._records.flags.writeable = False
        # A predecessor may have asked to begin again and not lived to see it granted.
        asked = file[file.slot(self.slot, Slot.REQUEST)] != file[Head.GRANTED] and file[Head.MODE] == RingMode.LOG
        self.next_seq = file[file.slot(self.slot, Slot.WANT)] if asked else self.acked + 1

    def _take_slot(self, file: _File) -> int:
        """Slot of this name, else a free one, else that of a reader that is gone. Called with the setup lock held."""
        names = [file.name_of(slot) for slot in range(MAX_READERS)]
        if self.name in names:
            slot = names.index(self.name)
            if not file.lock(_FIRST_READER + slot):
                pid = file[file.slot(slot, Slot.PID)]
                msg = f"{self.path} has a live reader {self.name!r} already, process {pid}"
                raise RingError(msg)
            return slot
        if file[Head.MODE] == RingMode.LOG:
            msg = f"{self.path} ships a log to {names[0]!r} and has no other reader; {self.name!r} cannot read it"
            raise RingError(msg)
        optional = range(file[Head.REQUIRED], MAX_READERS)
        for slot in sorted(optional, key=lambda slot: names[slot] != ""):
            if file.lock(_FIRST_READER + slot):
                for word in range(Slot.SIZE):
                    file[file.slot(slot, Slot.NAME) + word] = 0
                file[file.slot(slot, Slot.BELL)] = -1
                file.set_name(slot, self.name)
                file[Head.SLOTS] = max(file[Head.SLOTS], slot + 1)
                return slot
        msg = f"{self.path} has no slot left for {self.name!r}: {', '.join(names)} read it"
        raise RingError(msg)

    def reopen(self) -> None:
        """Open the file that has replaced a retired one; the position stays."""
        next_seq, acked = self.next_seq, self.acked
        self.close()
        self._attach(from_oldest=True)
        if self._file[Head.MODE] != RingMode.LOG:
            self.next_seq = max(self.next_seq, next_seq)
            self.ack(max(self.acked, acked))

    @property
    def acked(self) -> int:
        """Number up to which this reader is done."""
        return int(kernels.acked(self.address, self.slot))

    @property
    def required(self) -> bool:
        """Whether the writer waits for this reader."""
        return self.slot < self._file[Head.REQUIRED]

    @property
    def retired(self) -> bool:
        """The writer has replaced the file, and nothing is left to read in this one: `reopen`."""
        return bool(kernels.retired(self.address)) and not kernels.readable(self.address, self.next_seq)

    def read(self, most: int = 4096) -> tuple[Records, int]:
        """(copies of the next records, at most `most`; number of those before them that were overwritten unread).

        Acknowledge with `ack`; until then a successor of this name would read them again.
        """
        records = np.empty(min(most, self.capacity), dtype=self.dtype)
        n, missed = kernels.copy_out(self.address, self.next_seq, records.ctypes.data, len(records))
        self.next_seq += missed + n
        self.missed += missed
        return records[:n], int(missed)

    def read_in_place(self, most: int = 1 << 62) -> Records:
        """The next records where they are, read-only, up to the wrap; valid until `ack`. For required readers."""
        if not self.required:
            msg = f"{self.name!r} is not a required reader of {self.path}, nothing keeps records in place: use read()"
            raise RingError(msg)
        n = min(most, int(kernels.readable(self.address, self.next_seq)))
        at = self.next_seq & (self.capacity - 1)
        self.next_seq += n
        return self._records[at : at + n]

    def ack(self, seq: int | None = None) -> None:
        """Done with everything up to `seq`, default all that was read. Says also that this reader is alive.

        After `begin_again` there is nothing to acknowledge until it is granted. Raises RingError for another number.
        """
        kernels.beat_reader(self.address, self.slot, time.monotonic_ns())
        if self.waits_for_grant:
            return
        seq = self.next_seq - 1 if seq is None else seq
        if not self.acked <= seq < self.next_seq:
            msg = f"cannot acknowledge {seq}: acknowledged are {self.acked}, read were {self.next_seq - 1}"
            raise RingError(msg)
        kernels.ack(self.address, self._bells.address, self.slot, seq)

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is something to read, or the file is retired; False after the time."""
        until = time.monotonic_ns() + int(timeout_s * 1e9)
        while True:
            left = until - time.monotonic_ns()
            if kernels.wait_for_records(self.address, self.next_seq, self._waiter.address, min(left, _SLICE_NS)):
                return True
            if left <= 0:
                return False

    def begin_again(self, want_seq: int) -> None:
        """Of a log: ask for everything from `want_seq` on. Nothing can be read until the writer has granted it.

        The number is one of the present log: when another has come since, `must_begin_again` is True and this request
        is never granted. Raises RingError: no log, or the writer has not said yet which one it ships.
        """
        if self._file[Head.MODE] != RingMode.LOG or want_seq < 1:
            msg = f"cannot begin again at {want_seq} in {self.path}: that takes a log, and a number from 1 on"
            raise RingError(msg)
        log_epoch = kernels.log_epoch_of(self.address)
        if not log_epoch:
            msg = f"cannot begin again in {self.path} yet: its writer has not said which log it ships (`set_log`)"
            raise RingError(msg)
        kernels.begin_again(self.address, self._bells.address, want_seq, log_epoch)
        self.next_seq = want_seq

    @property
    def must_begin_again(self) -> bool:
        """Of a log: its numbers have begun anew, or this reader never said where to begin."""
        return self._file[Head.MODE] == RingMode.LOG and bool(kernels.must_begin_again(self.address))

    @property
    def waits_for_grant(self) -> bool:
        """Of a log: the last `begin_again` has not been granted yet."""
        file = self._file
        return file[Head.MODE] == RingMode.LOG and file[file.slot(self.slot, Slot.REQUEST)] != file[Head.GRANTED]

    @property
    def caught_up(self) -> bool:
        """Everything that is published, and of a log everything that is behind the ring, was read."""
        end = kernels.log_end(self.address) if self._file[Head.MODE] == RingMode.LOG else self.published + 1
        return bool(self.next_seq >= end)


class RingObserver:
    """Looks at a ring without taking part: no slot, no lock, not one byte written, so that nobody can be slowed.

    Of a fan-out or a lossless ring, with any number of observers beside its readers. `dtype` and `kind` as for a
    reader. It begins with the next record, or `from_oldest` with the oldest that is left. `next_seq` is the number
    that comes next; `missed` how many were overwritten before they were read; `lives` counts the files that it has
    followed: numbers go on in a file that took another's place, and begin anew where the file had been removed.
    Raises RingError: no ring (yet), another geometry.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, *, kind: int = 0, from_oldest: bool = False) -> None:
        self.path, self.dtype, self.kind = path, np.dtype(dtype), kind
        self.missed = 0
        self.lives = 1
        self._file = self._open()
        last = kernels.published(self._file.address)
        self.next_seq = int(min(kernels.first_intact(self._file.address), last + 1) if from_oldest else last + 1)

    def _open(self) -> _File:
        try:
            file = _File(self.path, read_only=True)
        except OSError as error:
            msg = f"cannot look at the ring {self.path}: {error.strerror}; its writer makes it"
            raise RingError(msg) from None
        try:
            _check(file, self.dtype, self.kind)
            if file[Head.MODE] == RingMode.LOG:
                msg = f"{self.path} ships a log to its reader; what is behind it is to be read there"
                raise RingError(msg)
        except RingError:
            file.close()
            raise
        return file

    @property
    def published(self) -> int:
        """Number of the last record that can be read; 0 before the first."""
        return int(kernels.published(self._file.address))

    @property
    def epoch(self) -> int:
        """Of the life of the writer: what it says (`set_log`), else which life of a writer it is, from 1."""
        return self._file[Head.LOG_EPOCH] or self._file[Head.EPOCH]

    @property
    def is_written(self) -> bool:
        """Whether the writer is alive."""
        return self._file.is_locked(_WRITER)

    def read(self, most: int = 4096) -> tuple[Records, int]:
        """(copies of the next records, at most `most`; number of those before them that were overwritten unread)."""
        records = np.empty(most, dtype=self.dtype)
        n, missed = kernels.copy_out(self._file.address, self.next_seq, records.ctypes.data, most)
        self.next_seq += int(missed + n)
        self.missed += int(missed)
        if not n + missed:
            self._follow()
        return records[:n], int(missed)

    def _follow(self) -> None:
        """Go on in the file that took the place of this one, if there is one."""
        if self._file.is_current():
            return
        try:
            new = self._open()
        except RingError:
            return  # nothing there (yet), or something else now
        if not self._file[Head.RETIRED]:
            self.next_seq = 1
        self._file.close()
        self._file = new
        self.lives += 1

    def close(self) -> None:
        """Look no more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
