"""Recordings: what passed through a system, in files of compressed segments. Without Numba.

A recording is a folder of segment files ``<stream>-<number>.rec.zst``; ``.rec.zst.part`` while one is being written.
A segment is an ordinary zstd file: ``zstd -dc`` gives its packed records back to back. What must be known of them
stands in skippable frames between, which every zstd decoder passes over:

| frame | bytes | content |
| --- | --- | --- |
| header | skippable | JSON: format, version, stream, number, dtype, packed, epoch, clock, instruments, tickpath |
| block | skippable | JSON: first_seq, records, missed, first_ns, last_ns, frame_bytes |
| its records | zstd | with zstd's checksum; not there when `records` is 0 |
| .. | | more blocks |
| end | skippable | JSON: records, missed, blocks; only a finished segment has it |

A skippable frame is u32 0x184D2A54, u32 size, then the CRC-32 of the JSON (u32), then the JSON; all little-endian.

`missed`: records that were overwritten before the recorder came to them, directly before `first_seq`: a gap is part
of the recording. `first_ns`, `last_ns`: `TIME_FIELDS` of the first and the last record, CLOCK_MONOTONIC; `clock` has
one moment of it as Unix time. `packed` is true for datagrams: a record is cut behind the end of its message.
A recorder that was killed leaves a ``.part`` that is read up to its last whole block.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from tickpath.common.instruments import InstrumentTable, make_table, rows_of
from tickpath.common.records import DATAGRAM, DATAGRAM_BYTES

SUFFIX: Final = ".rec.zst"
PART_SUFFIX: Final = ".rec.zst.part"
BLOCK_BYTES: Final = 1 << 20  # of records, before compression, that make a block

#: The stamp by which the records of a stream are located in time.
TIME_FIELDS: Final[Mapping[str, str]] = {
    "ticks": "decoded_ns", "signals": "signalled_ns", "orders": "approved_ns", "reports": "recv_ns",
    "datagrams": "recv_ns", "frames": "recv_ns",
}  # fmt: skip

Records = npt.NDArray[Any]

_FORMAT: Final = "tickpath recording"
_VERSION: Final = 1
_SKIPPABLE: Final = struct.Struct("<III")  # magic, size of what follows, crc of the JSON
_MAGIC: Final = 0x184D2A54
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_LEVEL: Final = 3
_DATA_AT: Final = DATAGRAM.itemsize - DATAGRAM_BYTES
_PCAP_HEADER: Final = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 228)
_MOST_UDP_BYTES: Final = 65_507
_LOOPBACK: Final = 0x7F000001
_UDP: Final = 17
_HEAD: Final = struct.Struct("<qihh")  # of a packed datagram: DATAGRAM without its data


class RecordingError(Exception):
    """A recording cannot be written or read; says which file, where in it, why, and what is left."""


def _meta_frame(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return _SKIPPABLE.pack(_MAGIC, len(text) + 4, zlib.crc32(text)) + text


def pack(records: Records) -> bytes:
    """Records as they stand in a segment: datagrams without what is behind their end, others as they are."""
    if records.dtype != DATAGRAM:
        return records.tobytes()
    used = _DATA_AT + np.clip(records["length"].astype(np.int64) - records["part"].astype(np.int64) * DATAGRAM_BYTES,
                              0, DATAGRAM_BYTES)  # fmt: skip
    rows = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), DATAGRAM.itemsize)
    return bytes(rows[np.arange(DATAGRAM.itemsize) < used[:, None]])


def unpack(data: bytes, dtype: np.dtype[Any], n: int) -> Records:
    """Inverse of `pack`, `n` records. Raises ValueError when `data` has another size."""
    if dtype != DATAGRAM:
        records: Records = np.frombuffer(data, dtype)
        if len(records) != n:
            msg = f"{len(records)} records, expected {n}"
            raise ValueError(msg)
        return records
    records = np.zeros(n, DATAGRAM)
    rows = records.view(np.uint8).reshape(n, DATAGRAM.itemsize)
    source = np.frombuffer(data, np.uint8)
    at = 0
    for row in rows:
        if at + _DATA_AT > len(data):
            break
        _, length, _, part = _HEAD.unpack_from(data, at)
        used = _DATA_AT + min(max(length - part * DATAGRAM_BYTES, 0), DATAGRAM_BYTES)
        chunk = source[at : at + used]
        row[: len(chunk)] = chunk
        at += used
    if at != len(data):
        msg = f"the datagrams of a block take {at} bytes, it has {len(data)}"
        raise ValueError(msg)
    return records


class Block(NamedTuple):
    """Records that follow each other without a gap; `missed` were lost directly before them."""

    first_seq: int
    missed: int
    records: Records


@dataclass(slots=True)
class _Totals:
    records: int = 0
    missed: int = 0
    blocks: int = 0


class StreamWriter:
    """Writes one stream of a recording; a segment that has `segment_bytes` is finished and another one begun.

    Statistics, over all segments: `records`, `missed`, `bytes_written`. Raises RecordingError when the disk does not
    take it; what was written before stays readable.
    """

    def __init__(
        self,
        folder: Path,
        stream: str,
        dtype: np.dtype[Any],
        table: InstrumentTable,
        *,
        epoch: int,
        segment_bytes: int = 64 << 20,
    ) -> None:
        self.stream, self.dtype = stream, dtype
        self.records = self.missed = self.bytes_written = self.segments = 0
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._header = {
            "format": _FORMAT,
            "version": _VERSION,
            "stream": stream,
            "dtype": [list(item) for item in dtype.descr],
            "packed": dtype == DATAGRAM,
            "epoch": epoch,
            "instruments": rows_of(table),
            "tickpath": _version(),
        }
        self._file: Any = None
        self._path = folder
        self._size = 0
        self._totals = _Totals()

    def begin_epoch(self, epoch: int) -> None:
        """The stream begins anew: its numbers have nothing to do with those before. Another segment begins."""
        self.close()
        self._header["epoch"] = epoch

    def write(self, records: Records, first_seq: int, missed: int = 0) -> None:
        """Append records of the stream's dtype, of which the first is number `first_seq`; `missed` before it."""
        if not len(records) and not missed:
            return
        if self._file is None:
            self._begin()
        info = {"first_seq": first_seq, "records": len(records), "missed": missed, "frame_bytes": 0}
        frame = b""
        if len(records):
            frame = self._compressor.compress(pack(records))
            stamps = records[TIME_FIELDS[self.stream]]
            info |= {"first_ns": int(stamps[0]), "last_ns": int(stamps[-1]), "frame_bytes": len(frame)}
        self._append(_meta_frame({"block": info}) + frame)
        for totals in (self, self._totals):
            totals.records += len(records)
            totals.missed += missed
        self._totals.blocks += 1
        if self._size >= self._segment_bytes:
            self.close()

    def _begin(self) -> None:
        self.segments += 1
        self._path = self._folder / f"{self.stream}-{self.segments:05d}{PART_SUFFIX}"
        try:
            self._file = self._path.open("xb", buffering=0)
        except OSError as error:
            raise self._fault(error) from None
        self._size, self._totals = 0, _Totals()
        clock = {"monotonic_ns": time.monotonic_ns(), "unix_ns": time.time_ns()}
        self._append(_meta_frame({**self._header, "number": self.segments, "clock": clock}))

    def _append(self, data: bytes) -> None:
        """All of it or nothing."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self._file.truncate(self._size)
            self._file.close()
            self._file = None
            raise self._fault(error) from None
        self._size += len(data)
        self.bytes_written += len(data)

    def _fault(self, error: OSError) -> RecordingError:
        return RecordingError(
            f"cannot write {self._path}: {error.strerror}; {self.records:,} records of {self.stream} are recorded and"
            " readable. Free space there, or record to another folder (--out)"
        )

    def close(self) -> None:
        """Finish the segment; it gets its name when it is on disk."""
        if self._file is None:
            return
        totals = self._totals
        self._append(
            _meta_frame({"end": {"records": totals.records, "missed": totals.missed, "blocks": totals.blocks}})
        )
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name.removesuffix(".part")))
        except OSError as error:
            raise self._fault(error) from None
        finally:
            self._file = None


def _version() -> str:
    try:
        return version("tickpath-common")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, slots=True)
class _BlockAt:
    """Where a block is."""

    first_seq: int
    records: int
    missed: int
    frame_at: int
    frame_bytes: int
    first_ns: int = 0
    last_ns: int = 0


@dataclass(slots=True)
class Segment:
    """One segment file, its index read and checked; records are decompressed when they are asked for.

    `is_complete`: it was finished; else it ends with its last whole block, and `torn_bytes` follow that.
    """

    path: Path
    header: dict[str, Any]
    is_complete: bool = False
    torn_bytes: int = 0
    _blocks: list[_BlockAt] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> Segment:
        """Read the index. Raises RecordingError: no segment, damaged, of another version."""
        try:
            with path.open("rb") as file:
                return cls._read_index(path, file)
        except OSError as error:
            msg = f"cannot read {path}: {error.strerror}"
            raise RecordingError(msg) from None

    @classmethod
    def _read_index(cls, path: Path, file: Any) -> Segment:
        size = os.fstat(file.fileno()).st_size
        header = _read_meta(path, file, 0, size)
        if header is None or header.get("format") != _FORMAT:
            msg = f"{path} is not a segment of a recording: it does not begin with the header of one"
            raise RecordingError(msg)
        if header["version"] != _VERSION:
            msg = f"{path} is of version {header['version']}, this program reads {_VERSION}"
            raise RecordingError(msg)
        segment = cls(path, header)
        while (at := file.tell()) < size:
            meta = _read_meta(path, file, at, size)
            if meta is not None and "end" in meta:
                segment.is_complete = True
                break
            end = file.tell() + meta["block"]["frame_bytes"] if meta is not None else size + 1
            if end > size:  # the writer did not come to the end of it
                segment.torn_bytes = size - at
                break
            assert meta is not None  # noqa: S101 - else `end` is beyond the file
            segment._blocks.append(_BlockAt(frame_at=file.tell(), **meta["block"]))
            file.seek(end)
        if not segment.is_complete and path.name.endswith(SUFFIX):
            msg = f"{path} is damaged: it ends at byte {size - segment.torn_bytes} without the mark of a finished one"
            raise RecordingError(msg)
        return segment

    @property
    def stream(self) -> str:
        """Which stream is in it."""
        return str(self.header["stream"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the records, as they were when it was written."""
        return np.dtype([(name, kind, *map(tuple, shape)) for name, kind, *shape in self.header["dtype"]])

    @property
    def records(self) -> int:
        """How many are in it."""
        return sum(block.records for block in self._blocks)

    @property
    def first_seq(self) -> int:
        """Number of the first one that is in it, or is missed; 1 without any."""
        return self._blocks[0].first_seq - self._blocks[0].missed if self._blocks else 1

    @property
    def missed(self) -> int:
        """How many are not, because the recorder was too slow for them."""
        return sum(block.missed for block in self._blocks)

    @property
    def time_ns(self) -> tuple[int, int]:
        """Stamps of the first and the last record; (0, 0) without any."""
        there = [block for block in self._blocks if block.records]
        return (there[0].first_ns, there[-1].last_ns) if there else (0, 0)

    @property
    def unix_offset_ns(self) -> int:
        """To be added to a stamp of CLOCK_MONOTONIC to have Unix time."""
        clock = self.header["clock"]
        return int(clock["unix_ns"] - clock["monotonic_ns"])

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """(number of the first one missed, how many) of every gap."""
        return [(block.first_seq - block.missed, block.missed) for block in self._blocks if block.missed]

    def instruments(self) -> InstrumentTable:
        """The instrument table of the system that was recorded."""
        return make_table([tuple(row) for row in self.header["instruments"]])

    def blocks(self) -> Iterator[Block]:
        """The records, in order. Raises RecordingError when what is on disk does not match its checksum."""
        dtype, decompressor = self.dtype, zstandard.ZstdDecompressor()
        with self.path.open("rb") as file:
            for block in self._blocks:
                file.seek(block.frame_at)
                try:
                    data = decompressor.decompress(file.read(block.frame_bytes)) if block.frame_bytes else b""
                    records = unpack(data, dtype, block.records)
                except (zstandard.ZstdError, ValueError) as error:
                    msg = (
                        f"{self.path}: the block at byte {block.frame_at}, records {block.first_seq} to"
                        f" {block.first_seq + block.records - 1}, is damaged ({error}); what is before it is good"
                    )
                    raise RecordingError(msg) from None
                yield Block(block.first_seq, block.missed, records)


def _read_meta(path: Path, file: Any, at: int, size: int) -> dict[str, Any] | None:
    """The JSON of the skippable frame at `at`; None when the file ends in it. Raises RecordingError."""
    raw = file.read(_SKIPPABLE.size)
    if len(raw) < _SKIPPABLE.size:
        return None
    magic, length, crc = _SKIPPABLE.unpack(raw)
    if magic == _MAGIC and file.tell() + length - 4 > size:
        return None
    text = file.read(length - 4) if magic == _MAGIC else b""
    if magic != _MAGIC or zlib.crc32(text) != crc:
        if at == 0:
            return None
        msg = f"{path} is damaged at byte {at}: no frame of a recording, or its checksum does not match"
        raise RecordingError(msg)
    content: dict[str, Any] = json.loads(text)
    return content


class Recording:
    """A recording: all segments of a folder, or one segment file. Raises RecordingError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = sorted((*path.glob(f"*{SUFFIX}"), *path.glob(f"*{PART_SUFFIX}"))) if path.is_dir() else [path]
        if not files:
            msg = f"{path} is not a recording: there is no *{SUFFIX} in it (`tickpath record --out {path}` makes one)"
            raise RecordingError(msg)
        segments = [Segment.open(file) for file in files]
        #: Segments by stream, in their order.
        self.streams: dict[str, list[Segment]] = {
            stream: sorted(of_stream, key=lambda segment: int(segment.header["number"]))
            for stream, of_stream in itertools.groupby(
                sorted(segments, key=lambda segment: segment.stream), key=lambda segment: segment.stream
            )
        }

    def segments(self, stream: str) -> list[Segment]:
        """Segments of a stream. Raises RecordingError when it was not recorded."""
        if stream not in self.streams:
            msg = f"{self.path} has no {stream}; it has {', '.join(self.streams)}"
            raise RecordingError(msg)
        return self.streams[stream]

    def blocks(self, stream: str) -> Iterator[Block]:
        """All records of a stream, in order."""
        for segment in self.segments(stream):
            yield from segment.blocks()

    def records(self, stream: str) -> Records:
        """All records of a stream in one array; for what fits into memory."""
        segments = self.segments(stream)
        return np.concatenate([np.zeros(0, segments[0].dtype), *(block.records for block in self.blocks(stream))])

    def missed(self, stream: str) -> int:
        """How many records of a stream are missing."""
        return sum(segment.missed for segment in self.segments(stream))

    def instruments(self) -> InstrumentTable:
        """The instrument table of the system that was recorded."""
        return next(iter(self.streams.values()))[0].instruments()

    def messages(self, stream: str = "datagrams") -> Iterator[tuple[int, int, bytes]]:
        """(recv_ns, line, bytes) of every recorded datagram or frame; without those of which a part is missing."""
        parts: list[bytes] = []
        for block in self.blocks(stream):
            if block.missed:
                parts = []
            for record in block.records:
                recv_ns, length, line, part = (int(record[name]) for name in ("recv_ns", "length", "line", "part"))
                if part == 0:
                    parts = []
                elif len(parts) != part:
                    continue
                parts.append(record["data"][: min(length - part * DATAGRAM_BYTES, DATAGRAM_BYTES)].tobytes())
                if (part + 1) * DATAGRAM_BYTES >= length:
                    yield recv_ns, line, b"".join(parts)


def as_capture(messages: Iterable[tuple[int, int, bytes]], unix_offset_ns: int, port: int) -> Iterator[bytes]:
    """A pcap file of datagrams (nanoseconds, link type IPv4), piece by piece; line n is UDP to 127.0.0.1, `port` + n.

    `messages` as `Recording.messages` gives them. Longer ones than a datagram can have are left out. Layouts: the
    IETF's draft of pcap, RFC 791 (IPv4), RFC 768 (UDP; without checksum).
    """
    yield _PCAP_HEADER
    for recv_ns, line, data in messages:
        if len(data) > _MOST_UDP_BYTES:
            continue
        seconds, ns = divmod(recv_ns + unix_offset_ns, 1_000_000_000)
        size = 28 + len(data)
        ip = struct.pack(">BBHHHBBHII", 0x45, 0, size, 0, 0, 1, _UDP, 0, _LOOPBACK, _LOOPBACK)
        words = sum(struct.unpack(">10H", ip))
        checksum = ~((words & 0xFFFF) + (words >> 16)) & 0xFFFF
        ip = ip[:10] + checksum.to_bytes(2, "big") + ip[12:]
        udp = struct.pack(">HHHH", port, (port + line) & 0xFFFF, 8 + len(data), 0)
        yield struct.pack("<IIII", seconds, ns, size, size) + ip + udp + data


def as_lines(recording: Recording) -> Iterator[bytes]:
    """Recorded frames as lines: the time in ns since 1970, a space, the frame (``.tsjson``)."""
    offset_ns = recording.segments("frames")[0].unix_offset_ns
    for recv_ns, _, frame in recording.messages("frames"):
        yield b"%d %s\n" % (recv_ns + offset_ns, frame.replace(b"\n", b" "))


def is_recording(path: Path) -> bool:
    """Whether a path looks like a recording: a folder with segments, or a segment."""
    if path.is_dir():
        return any(path.glob(f"*{SUFFIX}")) or any(path.glob(f"*{PART_SUFFIX}"))
    return path.name.endswith((SUFFIX, PART_SUFFIX))
