"""Pages: memory-mapped files through which the hot and the side process of a service see each other.

A page has exactly one writer. Values are 8-byte aligned integers, so a single one is never torn; a reader that
needs a consistent *group* uses a version word (`SeqLock`). Readers need no knowledge of the writer's code: the
header carries the layout as JSON.

| offset | size | field |
| --- | --- | --- |
| 0 | 8 | magic ``TICKPAGE`` |
| 8 | 4 | u32 version of this header |
| 12 | 4 | u32 length of the JSON |
| 16 | 8 | u64 size of the file |
| 24 | n | JSON: ``{"fields": {name: [dtype, shape, offset]}, "meta": {...}}`` |
| .. | | the fields, each on a cache line (64 bytes) of its own, in the order of the JSON |
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.histogram import HIST_SIZE

if TYPE_CHECKING:
    from tickpath.common.config import Config

_MAGIC: Final = b"TICKPAGE"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIIQ")
_LINE: Final = 64

_commanding = threading.Lock()  # endpoints of a side process run in threads

Fields = Mapping[str, tuple[Any, tuple[int, ...]]]


class PageError(Exception):
    """A page is missing, not finished, or not a page."""


class FromZero(IntEnum):
    """Names of words, counters or histograms, numbered from 0 by ``auto()``."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[int]) -> int:
        return count


class HotState(IntEnum):
    """Where a hot process is in its life."""

    STARTING = 0
    WARMING = 1  # compiling, pre-faulting, connecting
    READY = 2  # trading
    DRAINING = 3  # finishing what is open, taking nothing new
    STOPPED = 4
    FAILED = 5  # see meta/ERROR text of the page


class Hot(IntEnum):
    """Indices into the ``hot`` array of a hot page: written by the hot process, read by everybody."""

    STATE = 0  # HotState
    PID = 1
    EPOCH = 2
    STARTED_NS = 3  # CLOCK_MONOTONIC
    READY_NS = 4
    TURNS = 5  # turns of the loop
    LAST_TURN_NS = 6
    LAST_WORK_NS = 7
    GC_COUNT = 8  # collections since ready
    GC_PAUSE_NS = 9  # their sum
    GC_PAUSE_MAX_NS = 10
    MINOR_FAULTS = 11  # since ready
    MAJOR_FAULTS = 12
    INVOLUNTARY_SWITCHES = 13
    RSS_BYTES = 14
    CPU_NS = 15  # user + system time of the process since it began
    CORES_MASK = 16  # read back from the scheduler
    NICE = 17
    LOCKED_BYTES = 18  # read back from the kernel after mlockall
    COMMAND_SEEN = 19  # last Control.COMMAND_SEQ acted on
    CONNECTED = 20  # 1 when every peer that this stage needs is there
    RSS_READY_BYTES = 21  # resident memory when it became ready
    DIGEST = 22  # of the stream of decisions, see kernels/digest.py
    DIGESTED = 23  # records in it
    PAUSES = 24  # rows ever written to the ring ``pauses``
    COMPILATIONS = 25  # by the JIT compiler since ready: 0, or something was not warmed up
    COMPILE_NS = 26  # time spent in them
    CORE_WAIT_NS = 27  # the loop's thread was runnable and had no core, since ready
    BUSY = 28  # 1 from before input is taken until everything that followed from it is written: see sim's lockstep


class Control(IntEnum):
    """Indices into the ``control`` array of a side page: written by the side process, read by the hot one."""

    COMMAND_SEQ = 0  # number of the last command
    PAUSED = 1  # 1: take no new work
    LEASE_UNTIL_NS = 2  # CLOCK_MONOTONIC until which the side process answers for the shared state
    VERSION = 3  # of the side page's groups: odd while being written
    SIDE_PID = 4
    SIDE_GC_COUNT = 5  # collections of the side process since it started
    # Number of the last command of each kind: none is lost that comes before the one before it was seen.
    DRAIN = 6
    CANCEL_ALL = 7
    START = 8
    STOP = 9


class Command(IntEnum):
    """Commands from the side process to the hot one. Given twice they say nothing new."""

    DRAIN = Control.DRAIN  # finish, then exit
    CANCEL_ALL = Control.CANCEL_ALL
    START = Control.START  # simulated exchange: begin to play; feed: trust the books
    STOP = Control.STOP  # simulated exchange: stop playing


class PauseKind(IntEnum):
    """What stopped a hot loop."""

    COLLECTION = 1  # the garbage collector ran
    COMPILATION = 2  # the JIT compiler ran
    MAJOR_FAULT = 3  # memory had to be read from disk
    PREEMPTION = 4  # the core was taken away: involuntary context switch
    CORE_WAIT = 5  # woken up, and no core was free for some time


#: A row of the ring ``pauses`` of a hot page. Collections and compilations are stamped themselves. Of the other
#: kinds the system only says how many there were since the last reading: the interval is that between two readings.
PAUSE: Final = np.dtype(
    [
        ("kind", "<i8"),  # PauseKind; 0: never written
        ("begin_ns", "<i8"),  # CLOCK_MONOTONIC
        ("end_ns", "<i8"),
        ("count", "<i8"),  # events in [begin_ns, end_ns]
        ("lost_ns", "<i8"),  # how long the loop stood still within the interval; 0: the system does not say
    ]
)
N_PAUSES: Final = 16_384  # 640 KB; a loop that is always short of a core writes 200 rows a second


def read_pauses(page: Page) -> tuple[npt.NDArray[np.void], int]:
    """The pauses of a hot page, PAUSE[n] in the order of their ends, and how many older ones are overwritten.

    The process may go on writing meanwhile: the row that it might be writing is left out. A page without the ring
    has no pauses.
    """
    if "pauses" not in page:
        return np.zeros(0, dtype=PAUSE), 0
    ring, hot = page["pauses"], page["hot"]
    written = int(hot[Hot.PAUSES])
    copy = ring.copy()
    overwritten = max(0, int(hot[Hot.PAUSES]) - len(ring) + 1)
    rows = copy[np.arange(overwritten, max(overwritten, written)) % len(ring)]
    return rows[rows["kind"] > 0], overwritten


class Page:
    """A memory-mapped set of named arrays; `page["name"]` is a live view."""

    def __init__(self, path: Path, memory: mmap.mmap, fields: dict[str, Any], meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self._memory = memory
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        for name, (dtype, shape, offset) in fields.items():
            count = int(np.prod(shape, dtype=np.int64))
            view = np.frombuffer(memory, dtype=_dtype_from_json(dtype), count=count, offset=offset)
            self._arrays[name] = view.reshape(shape)

    @classmethod
    def create(cls, path: Path, fields: Fields, meta: Mapping[str, Any] | None = None) -> Page:
        """Make a zeroed page; whoever has an older page of this name open keeps that one.

        The file appears under its name only when it is complete, so a reader never sees half a header.
        """
        offsets: dict[str, Any] = {}
        # The offsets stand in the JSON whose length they depend on: leave room for the digits.
        sizes = {n: int(np.dtype(d).itemsize * np.prod(s, dtype=np.int64)) for n, (d, s) in fields.items()}
        draft = {n: [_dtype_to_json(np.dtype(d)), list(s), 10**15] for n, (d, s) in fields.items()}
        room = len(json.dumps({"fields": draft, "meta": dict(meta or {})}).encode())
        at = _align(_HEADER.size + room)
        for name, (dtype, shape) in fields.items():
            offsets[name] = [_dtype_to_json(np.dtype(dtype)), list(shape), at]
            at = _align(at + sizes[name])
        text = json.dumps({"fields": offsets, "meta": dict(meta or {})}).encode().ljust(room)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, at)
            memory = mmap.mmap(descriptor, at)
        finally:
            os.close(descriptor)
        memory[: _HEADER.size] = _HEADER.pack(_MAGIC, _VERSION, len(text), at)
        memory[_HEADER.size : _HEADER.size + len(text)] = text
        temporary.replace(path)
        return cls(path, memory, offsets, dict(meta or {}))

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Page:
        """Map an existing page. Raises PageError when there is none or it is not one."""
        try:
            descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        except OSError as error:
            msg = f"no page at {path}: {error.strerror}"
            raise PageError(msg) from None
        try:
            size = os.fstat(descriptor).st_size
            if size < _HEADER.size:
                msg = f"{path} is not a page: it has {size} bytes"
                raise PageError(msg)
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            memory = mmap.mmap(descriptor, size, access=access)
        finally:
            os.close(descriptor)
        magic, version, length, stated = _HEADER.unpack_from(memory)
        if magic != _MAGIC or version != _VERSION or stated != size:
            msg = f"{path} is not a page of version {_VERSION}"
            raise PageError(msg)
        layout = json.loads(memory[_HEADER.size : _HEADER.size + length])
        return cls(path, memory, layout["fields"], layout["meta"])

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self) -> list[str]:
        """Names of the arrays, in the order of the file."""
        return list(self._arrays)

    def close(self) -> None:
        """Let go of the mapping as soon as the last view of it is gone."""
        self._arrays.clear()


def _align(offset: int) -> int:
    return (offset + _LINE - 1) // _LINE * _LINE


def _dtype_to_json(dtype: np.dtype[Any]) -> Any:
    return dtype.str if dtype.fields is None else [list(item) for item in dtype.descr]


def _dtype_from_json(described: Any) -> np.dtype[Any]:
    if isinstance(described, str):
        return np.dtype(described)
    return np.dtype([(item[0], item[1], *(tuple(x) for x in item[2:])) for item in described])


class SeqLock:
    """Consistent groups in a page with a single writer: the version word is odd while it writes."""

    def __init__(self, words: npt.NDArray[np.int64], index: int) -> None:
        self._words = words
        self._index = index

    def __enter__(self) -> None:
        self._words[self._index] += 1

    def __exit__(self, *_: object) -> None:
        self._words[self._index] += 1

    @property
    def version(self) -> int:
        """Present version; a reader copies only when it is even and unchanged after the copy."""
        return int(self._words[self._index])


def hot_page_path(run_dir: Path, name: str) -> Path:
    """Where the hot process of a service keeps its page."""
    return run_dir / f"{name}.hot.page"


def side_page_path(run_dir: Path, name: str) -> Path:
    """Where the side process of a service keeps its page."""
    return run_dir / f"{name}.side.page"


def create_hot_page(
    run_dir: Path,
    name: str,
    counters: type[IntEnum],
    histograms: type[IntEnum],
    extra: Fields | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Page:
    """Page of a hot process: ``hot``, ``counters``, ``hist``, ``pauses``, `extra`; both enums' names go to meta.

    Enum members are numbered from 0; their lower-case names become the names of the metrics.
    """
    fields: dict[str, tuple[Any, tuple[int, ...]]] = {
        "hot": ("<i8", (len(Hot),)),
        "counters": ("<i8", (max(1, len(counters)),)),
        "hist": ("<i8", (max(1, len(histograms)), HIST_SIZE)),
        "pauses": (PAUSE, (N_PAUSES,)),
    }
    fields.update(extra or {})
    described = {
        "service": name,
        "counters": [member.name.lower() for member in counters],
        "histograms": [member.name.lower() for member in histograms],
    }
    return Page.create(hot_page_path(run_dir, name), fields, {**described, **(meta or {})})


def create_side_page(run_dir: Path, name: str, extra: Fields | None = None) -> Page:
    """Page of a side process: ``control`` and `extra`."""
    return Page.create(
        side_page_path(run_dir, name),
        {"control": ("<i8", (len(Control),)), **(extra or {})},
        {"service": name},
    )


class HotPage:
    """What the hot page of a service holds, in every lane and whichever process keeps it."""

    name: ClassVar[str]
    counters: ClassVar[type[IntEnum]]
    histograms: ClassVar[type[IntEnum]]

    @classmethod
    def extra_fields(cls, config: Config) -> Fields:
        """Arrays beyond the common ones."""
        del config
        return {}

    @classmethod
    def extra_meta(cls, config: Config) -> dict[str, Any]:
        """What the header says beyond the names of counters and histograms, as JSON."""
        del config
        return {}

    @classmethod
    def create_page(cls, config: Config, **meta: Any) -> Page:
        """Make it; `meta` goes to the header."""
        fields = {"error": ("u1", (1024,)), "notes": ("u1", (1024,)), **cls.extra_fields(config)}
        header = {**cls.extra_meta(config), **meta}
        return create_hot_page(config.run_dir, cls.name, cls.counters, cls.histograms, fields, header)


def command(side: Page, what: Command) -> int:
    """Give the hot process a command; returns its number: ``Hot.COMMAND_SEEN`` reaches it when it is done."""
    control = side["control"]
    with _commanding:
        seq = int(control[Control.COMMAND_SEQ]) + 1
        control[what] = seq
        control[Control.COMMAND_SEQ] = seq
    return seq


def commands(control: npt.NDArray[np.int64], seen: int) -> list[tuple[int, Command]]:
    """Numbers and commands since number `seen`, in their order; of one that was given again, the last one only.

    What is given while this looks is left for the next look: the number of the last command, written after those of
    the kinds, is read before them. Else a kind that was looked at too early could be passed over for good.
    """
    last = int(control[Control.COMMAND_SEQ])
    given = sorted((int(control[what]), what) for what in Command)
    return [(seq, what) for seq, what in given if seen < seq <= last]


def write_text(page: Page, field: str, text: str) -> None:
    """Put a text into a byte array of a page, cut to its size."""
    data = text.encode()[: len(page[field]) - 1]
    page[field][:] = 0
    page[field][: len(data)] = list(data)


def add_note(page: Page, note: str) -> None:
    """Put something that people should know behind what stands in ``notes``."""
    write_text(page, "notes", "; ".join(filter(None, (read_text(page, "notes"), note))))


def read_text(page: Page, field: str) -> str:
    """Inverse of `write_text`."""
    return bytes(page[field]).rstrip(b"\0").decode(errors="replace")
