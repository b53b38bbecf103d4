"""The journal: every order before it is sent and every report, checksummed, append-only. It is the truth.

A journal is a folder, one per trading day, of segment files ``<number of the first entry>.journal``:

| offset | size | field |
| --- | --- | --- |
| 0 | 8 | magic ``TICKJRNL`` |
| 8 | 4 | u32 version |
| 12 | 4 | u32 size of an entry |
| 16 | 8 | i64 number of the first entry |
| 24 | 8 | i64 entries in a segment |
| 32 | 8 | i64 trading day, YYYYMMDD |
| 40 | 8 | i64 when the journal was begun, Unix time in ns: its epoch, the same in all segments |
| 48 | 4 | u32 CRC-32 of the bytes before |
| 4096 | | the entries: `tickpath.common.records.REPORT`, numbered from 1 without gaps; zeros behind the last one |

A segment is allocated and mapped before it is needed, so an append is a store into the page cache: it survives the
death of the process at any instruction. What survives the death of the *host* is a matter of `fsync`: ``none``
(the kernel writes back within some 30 s), ``interval`` (every `SYNC_INTERVAL_NS`), ``always`` (before an order is
sent and before a report is published; costs a disk write each).

Opening verifies every entry. A torn last entry is cut off and reported: its order was not sent, because bytes leave
only after the whole entry stands. Anything wrong before the last entry stops with `JournalError`.

``venue.json`` beside the segments names the venue's session and the first entry that belongs to it.

This module reads without Numba; the kernels write the entries of the present segment.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tickpath.common.records import REPORT, ExecEvent, Side

Reports = npt.NDArray[np.void]
Fsync = Literal["none", "interval", "always"]

MAGIC: Final = b"TICKJRNL"
VERSION: Final = 1
HEADER_BYTES: Final = 4096
SUFFIX: Final = ".journal"
SYNC_INTERVAL_NS: Final = 50_000_000

_HEADER: Final = struct.Struct("<8sIIqqqqI")
_ENTRY: Final = REPORT.itemsize
_CRC_AT: Final = _ENTRY - 4
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; older kernels refuse it and we touch the pages


class JournalError(Exception):
    """The journal cannot be used; says which file, entry and offset, and what to do."""


@dataclass(frozen=True, slots=True)
class Header:
    """First bytes of a segment."""

    first_seq: int
    entries: int
    trading_day: int
    created_ns: int

    def pack(self) -> bytes:
        """The header without its padding."""
        raw = _HEADER.pack(MAGIC, VERSION, _ENTRY, self.first_seq, self.entries, self.trading_day, self.created_ns, 0)
        return raw[:-4] + zlib.crc32(raw[:-4]).to_bytes(4, "little")

    @classmethod
    def read(cls, path: Path) -> Header:
        """Raises JournalError."""
        try:
            with path.open("rb") as file:
                raw = file.read(_HEADER.size)
        except OSError as error:
            msg = f"cannot read the journal {path}: {error.strerror}"
            raise JournalError(msg) from None
        if len(raw) < _HEADER.size or raw[:8] != MAGIC:
            msg = f"{path} is not a segment of a journal: it does not begin with {MAGIC.decode()}"
            raise JournalError(msg)
        _, version, entry, first_seq, entries, day, created_ns, crc = _HEADER.unpack(raw)
        if zlib.crc32(raw[:-4]) != crc:
            msg = f"{path}: the header (offset 0 to {_HEADER.size}) does not match its checksum; {_ADVICE}"
            raise JournalError(msg)
        if version != VERSION or entry != _ENTRY:
            msg = (
                f"{path} is of version {version} with entries of {entry} bytes, this program has version {VERSION} "
                f"with {_ENTRY}; run the release that wrote it, or begin the day with an empty journal_dir"
            )
            raise JournalError(msg)
        return cls(first_seq, entries, day, created_ns)


_ADVICE: Final = (
    "restore the file from a copy, or move the folder away, bring positions and open orders into line with the venue "
    "by hand and begin with an empty one"
)


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _path_of(folder: Path, first_seq: int) -> Path:
    return folder / f"{first_seq:012d}{SUFFIX}"


def _load(path: Path, entries: int) -> bytearray:
    """The entries of a segment; what a file that was cut short lacks reads as zeros."""
    data = bytearray(entries * _ENTRY)
    try:
        with path.open("rb") as file:
            file.seek(HEADER_BYTES)
            raw = file.read(len(data))
    except OSError as error:
        msg = f"cannot read the journal {path}: {error.strerror}"
        raise JournalError(msg) from None
    data[: len(raw)] = raw
    return data


def _good_entries(data: bytearray | bytes, first_seq: int) -> int:
    """How many entries from the beginning on have the right number and checksum."""
    entries = np.frombuffer(data, dtype=REPORT)
    expected = np.arange(first_seq, first_seq + len(entries), dtype=np.int64)
    numbered = int(np.argmin(np.append(entries["seq"] == expected, False)))
    crcs = entries["crc"][:numbered].tolist()
    view = memoryview(data)
    crc32 = zlib.crc32
    for index, crc in enumerate(crcs):
        at = index * _ENTRY
        if crc32(view[at : at + _CRC_AT]) != crc:
            return index
    return numbered


@dataclass(frozen=True, slots=True)
class _Scan:
    """What verification found in one folder."""

    headers: list[tuple[Path, Header]]
    next_seq: int
    torn_bytes: int  # of an unfinished entry number next_seq


def _scan(folder: Path) -> Iterator[tuple[Reports, _Scan | None]]:
    """Verify a journal segment by segment: (good entries, None) for each, and at last (nothing, result)."""
    headers = [(path, Header.read(path)) for path in _segments(folder)]
    next_seq = 1
    torn_bytes = 0
    ended = False
    for index, (path, header) in enumerate(headers):
        first = headers[0][1]
        if (header.trading_day, header.created_ns, header.entries) != (
            first.trading_day, first.created_ns, first.entries,
        ):  # fmt: skip
            msg = f"{path} and {headers[0][0]} belong to different journals; {_ADVICE}"
            raise JournalError(msg)
        if header.first_seq != 1 + index * header.entries:
            msg = f"{folder}: the segment that begins with entry {1 + index * header.entries} is missing; {_ADVICE}"
            raise JournalError(msg)
        data = _load(path, header.entries)
        good = 0 if ended else _good_entries(data, header.first_seq)
        rest = np.frombuffer(data, dtype=np.uint8)[good * _ENTRY :]
        used = int(rest.nonzero()[0][-1]) + 1 if rest.any() else 0
        if used > (0 if ended else _ENTRY):
            bad = next_seq if ended else header.first_seq + good
            where, offset = (path, HEADER_BYTES + good * _ENTRY) if not ended else _place(headers, bad)
            msg = (
                f"{where}: entry {bad} at offset {offset} does not match its checksum or number, and entries follow "
                f"it: entries 1 to {bad - 1} are good; {_ADVICE}"
            )
            raise JournalError(msg)
        if not ended:
            next_seq = header.first_seq + good
            if good < header.entries:
                ended, torn_bytes = True, used
        if good:
            yield np.frombuffer(data, dtype=REPORT)[:good], None
    yield np.zeros(0, dtype=REPORT), _Scan(headers, next_seq, torn_bytes)


def _place(headers: list[tuple[Path, Header]], seq: int) -> tuple[Path, int]:
    """File and offset of an entry."""
    index = (seq - 1) // headers[0][1].entries
    path, header = headers[min(index, len(headers) - 1)]
    return path, HEADER_BYTES + (seq - header.first_seq) * _ENTRY


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder survive the death of the host."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Segment:
    """One mapped segment file."""

    def __init__(self, path: Path, header: Header, *, writable: bool) -> None:
        self.path = path
        self.header = header
        self._fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        size = HEADER_BYTES + header.entries * _ENTRY
        try:
            if writable:
                os.posix_fallocate(self._fd, 0, size)
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._memory = mmap.mmap(self._fd, size, access=access)
        except (OSError, ValueError):
            os.close(self._fd)
            raise
        if writable:
            self._populate()
        self.entries: Reports = np.frombuffer(self._memory, dtype=REPORT, count=header.entries, offset=HEADER_BYTES)

    def _populate(self) -> None:
        """Fault every page in now, so that an append never waits for one."""
        with contextlib.suppress(OSError):
            self._memory.madvise(_MADV_POPULATE_WRITE)
            return
        pages = np.frombuffer(self._memory, dtype=np.uint8)[::4096]
        pages |= 0

    @classmethod
    def create(cls, folder: Path, header: Header, fsync: Fsync) -> _Segment:
        """Allocate a segment; it gets its name when it is complete. Raises OSError (disk full)."""
        path = _path_of(folder, header.first_seq)
        temporary = path.with_suffix(".new")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.posix_fallocate(fd, 0, HEADER_BYTES + header.entries * _ENTRY)
            os.pwrite(fd, header.pack(), 0)
            if fsync != "none":
                os.fsync(fd)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        temporary.replace(path)
        if fsync != "none":
            _sync_folder(folder)
        return cls(path, header, writable=True)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        """The mapping goes when the last view of it does."""
        self.entries = np.zeros(0, dtype=REPORT)
        os.close(self._fd)


class Journal:
    """The journal of one trading day, open for appending by kernels and for reading any entry by its number.

    A kernel stores entries into `present` and the owner then calls `publish`. It is the log of the reports link:
    `next_seq` is what was published: kernels may have appended more.
    """

    def __init__(self, folder: Path, scan: _Scan, segment: _Segment, fsync: Fsync) -> None:
        self.folder = folder
        self.fsync: Final = fsync
        self.torn_bytes: Final = scan.torn_bytes
        self.errors = 0
        self.next_seq = scan.next_seq
        self.oldest_seq: Final = 1
        self._present = segment
        self._spare: _Segment | None = None
        self._old: _Segment | None = None  # the segment that was last read from, if not the present one
        self._synced_ns = 0
        self._synced_seq = scan.next_seq

    @classmethod
    def open(cls, folder: Path, trading_day: int, *, entries: int = 1 << 16, fsync: Fsync = "none") -> Journal:
        """Open the journal of a day, verifying every entry, or begin it. Raises JournalError.

        `entries` per segment is for a new journal; an existing one keeps its own.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob("*.new"):
                left.unlink()
            scan = next(result for _, result in _scan(folder) if result is not None)
            if not scan.headers:
                header = Header(1, entries, trading_day, time.time_ns())
                return cls(folder, scan, _Segment.create(folder, header, fsync), fsync)
            header = scan.headers[0][1]
            if header.trading_day != trading_day:
                msg = (
                    f"{folder} is the journal of {header.trading_day}, not of {trading_day}; use another journal_dir"
                )
                raise JournalError(msg)
            index = (scan.next_seq - 1) // header.entries
            if index == len(scan.headers):  # the last segment is exactly full
                last = Header(scan.next_seq, header.entries, trading_day, header.created_ns)
                return cls(folder, scan, _Segment.create(folder, last, fsync), fsync)
            journal = cls(folder, scan, _Segment(*scan.headers[index], writable=True), fsync)
            if scan.torn_bytes:
                journal.present[scan.next_seq - journal.first_seq] = np.zeros((), dtype=REPORT)
            if index + 1 < len(scan.headers):
                journal._spare = _Segment(*scan.headers[index + 1], writable=True)
        except OSError as error:
            msg = f"cannot write the journal in {folder}: {error.strerror}; free space there or set exec.journal_dir"
            raise JournalError(msg) from None
        return journal

    @property
    def present(self) -> Reports:
        """Entries of the present segment, REPORT[n]; the first one is number `first_seq`."""
        return self._present.entries

    @property
    def first_seq(self) -> int:
        """Number of the first entry of the present segment."""
        return self._present.header.first_seq

    @property
    def segment_entries(self) -> int:
        """Entries in a segment."""
        return self._present.header.entries

    @property
    def room(self) -> int:
        """Entries that still fit the present segment."""
        return self.first_seq + self.segment_entries - self.next_seq

    @property
    def has_spare(self) -> bool:
        """Whether the next segment is there already."""
        return self._spare is not None

    @property
    def epoch(self) -> int:
        """When the journal was begun, Unix time in ns: tells its numbers from those of any other journal."""
        return self._present.header.created_ns

    @property
    def trading_day(self) -> int:
        """YYYYMMDD."""
        return self._present.header.trading_day

    def prepare(self) -> bool:
        """Make the next segment, if it is not there; False (and counted) when the disk does not give it."""
        if self._spare is None:
            header = self._present.header
            following = Header(
                header.first_seq + header.entries, header.entries, header.trading_day, header.created_ns
            )
            try:
                self._spare = _Segment.create(self.folder, following, self.fsync)
            except OSError:
                self.errors += 1
                return False
        return True

    def roll(self) -> bool:
        """Go on to the next segment, the present one being full; False when there is none to be had."""
        if not self.prepare() or self._spare is None:
            return False
        if self.fsync != "none":
            self._present.sync()
        self._present.close()
        self._present, self._spare = self._spare, None
        return True

    def publish(self, next_seq: int) -> None:
        """Entries before `next_seq` are complete: readable from now on, on disk first if `fsync` is ``always``."""
        if self.fsync == "always" and next_seq != self._synced_seq:
            self._present.sync()
            self._synced_seq = next_seq
        self.next_seq = next_seq

    def tend(self, now_ns: int) -> None:
        """Write to disk when the interval is over (`fsync` ``interval``)."""
        if self.fsync == "interval" and now_ns - self._synced_ns >= SYNC_INTERVAL_NS:
            self._synced_ns = now_ns
            if self._synced_seq != self.next_seq:
                self._synced_seq = self.next_seq
                self._present.sync()

    def read(self, first_seq: int, most: int) -> Reports:
        """Up to `most` entries from `first_seq` on, a view: fewer at the end of a segment and of the journal.

        Raises IndexError for a number below 1.
        """
        if first_seq < 1:
            msg = f"there is no entry {first_seq}: they are numbered from 1"
            raise IndexError(msg)
        segment = self._present
        if first_seq < segment.header.first_seq:
            segment = self._older(first_seq)
        start = first_seq - segment.header.first_seq
        n = max(0, min(most, self.next_seq - first_seq, segment.header.entries - start))
        return segment.entries[start : start + n]

    def _older(self, seq: int) -> _Segment:
        header = self._present.header
        first = seq - (seq - 1) % header.entries
        if self._old is None or self._old.header.first_seq != first:
            if self._old is not None:
                self._old.close()
            path = _path_of(self.folder, first)
            self._old = _Segment(path, Header.read(path), writable=False)
        return self._old

    def venue_session(self) -> tuple[str, int]:
        """(session of the venue, first entry that belongs to it); ("", 1) before the first login."""
        try:
            content = json.loads((self.folder / "venue.json").read_text("utf-8"))
            return str(content["session"]), int(content["from_entry"])
        except FileNotFoundError:
            return "", 1
        except (OSError, ValueError, KeyError, TypeError):
            msg = f"{self.folder / 'venue.json'} cannot be read; {_ADVICE}"
            raise JournalError(msg) from None

    def set_venue_session(self, session: str) -> None:
        """Entries from the next one on belong to this session of the venue. Raises OSError."""
        path = self.folder / "venue.json"
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"session": session, "from_entry": self.next_seq}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(self.folder)

    def close(self) -> None:
        """Write everything to disk and let the files go."""
        for segment in (self._present, self._spare, self._old):
            if segment is not None:
                if segment is self._present:
                    segment.sync()
                segment.close()
        self._spare = self._old = None


def newest_day(journal_dir: Path) -> Path:
    """Folder of the newest trading day under `journal_dir` (or that folder itself). Raises JournalError."""
    if _segments(journal_dir):
        return journal_dir
    days = sorted(folder for folder in journal_dir.glob("*") if folder.is_dir() and _segments(folder))
    if not days:
        msg = f"there is no journal in {journal_dir}"
        raise JournalError(msg)
    return days[-1]


def read_journal(path: Path) -> Reports:
    """All entries of a day's journal, verified; `path` is its folder or the journal_dir above. Raises JournalError.

    Entries that are being written at the same moment are left out.
    """
    folder = newest_day(path)
    for attempts_left in (2, 1, 0):
        try:
            return np.concatenate([entries for entries, _ in _scan(folder)])
        except JournalError:
            # Entries written while the file was being copied look like a fault before the end: look again.
            if not attempts_left:
                raise
    return np.zeros(0, dtype=REPORT)


def positions_from(reports: Reports) -> dict[int, int]:
    """Instrument → signed position in lots: the sum of all fills (a broken trade is a negative one)."""
    fills = reports[reports["event"] == ExecEvent.FILL]
    signed = np.where(fills["side"] == Side.BUY, fills["last_lots"], -fills["last_lots"])
    result: dict[int, int] = {}
    for instrument in np.unique(fills["instrument"]).tolist():
        result[instrument] = int(signed[fills["instrument"] == instrument].sum())
    return result


class JournalTail:
    """Follows a journal that another process writes: each `poll` gives the entries that are new and complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.next_seq = 1
        self._entries = 0

    def poll(self, most: int = 1024) -> Reports:
        """New entries in order, REPORT[n], at most `most` and not beyond one segment. Raises JournalError."""
        if self._entries == 0:
            path = _path_of(self.folder, 1)
            if not path.exists():
                return np.zeros(0, dtype=REPORT)
            self._entries = Header.read(path).entries
        index = (self.next_seq - 1) % self._entries
        path = _path_of(self.folder, self.next_seq - index)
        n = min(most, self._entries - index)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(HEADER_BYTES + index * _ENTRY)
            raw = file.read(n * _ENTRY)
            raw = raw[: len(raw) // _ENTRY * _ENTRY]
            good = _good_entries(raw, self.next_seq)
            self.next_seq += good
            entries: Reports = np.frombuffer(raw, dtype=REPORT)[:good]
            return entries
        return np.zeros(0, dtype=REPORT)

    def entry(self, seq: int) -> Any:
        """One entry that `poll` has given before. Raises JournalError."""
        first = seq - (seq - 1) % self._entries
        with _path_of(self.folder, first).open("rb") as file:
            file.seek(HEADER_BYTES + (seq - first) * _ENTRY)
            raw = file.read(_ENTRY)
        if len(raw) < _ENTRY or _good_entries(raw, seq) != 1:
            msg = f"{_path_of(self.folder, first)}: entry {seq} is not readable"
            raise JournalError(msg)
        return np.frombuffer(raw, dtype=REPORT)[0]
