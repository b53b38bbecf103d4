"""Bytes of data files, decompressed, and what they are."""

from __future__ import annotations

import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import zstandard

from tickpath.common.protocols.itch50 import SIZES
from tickpath.common.recording import is_recording
from tickpath.sim.sources.tape import Bytes, DataFileError

#: What data files may be, for complaints.
ALLOWED: Final = (
    "allowed: NASDAQ TotalView-ITCH 5.0 (a big-endian u16 length before each message), pcap and pcapng captures of it"
    " in MoldUDP64 or of CME MDP 3.0, LOBSTER message files (TICKER_date_start_end_message_levels.csv), Databento"
    " market by order (DBN), trades or quotes as CSV (equity_SYMBOL_date_trade.csv) and frames of crypto venues"
    " (.tsjson), each plain or compressed with zstd or gzip; and folders that `tickpath record` has written"
)


class Format(Enum):
    """What a data file is."""

    ITCH = auto()
    CAPTURE = auto()
    LOBSTER = auto()
    DBN = auto()
    EQUITY_TRADES = auto()
    EQUITY_QUOTES = auto()
    FX_QUOTES = auto()


#: First four bytes of pcap and pcapng files.
_CAPTURE_MAGICS: Final = (
    b"\xa1\xb2\xc3\xd4",
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x4d\x3c\xb2\xa1",
    b"\x0a\x0d\x0d\x0a",
)
#: What the name of a tick file says.
_TICK_NAMES: Final = {
    r"equity_[^_]+_.*trade": Format.EQUITY_TRADES,
    r"equity_[^_]+_.*quote": Format.EQUITY_QUOTES,
    r"(fx|forex)_[^_]+_.*quote": Format.FX_QUOTES,
}
#: What its first row looks like, where the name says nothing. LOBSTER files have numbers only.
_TICK_ROWS: Final = {
    rb"[\d.]+(,\d+){2},[A-Za-z]{1,4},[^,]*,[^,]*": Format.EQUITY_TRADES,
    rb"[\d.]+(,\d+){4},[A-Za-z]{1,4},[^,]*,[^,]*": Format.EQUITY_QUOTES,
    rb"[\d.]+,[\d.]+,[\d.]+": Format.FX_QUOTES,
}
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_CHUNK: Final = 1 << 20
_HEAD_BYTES: Final = 4096  # tell what a file is


def check_files(files: Sequence[Path]) -> None:
    """Look at their first bytes, without the readers, whose kernels may have to be compiled first.

    Raises DataFileError when one is not there, cannot be read, or is none of the kinds of data that play.
    """
    for path in files:
        if is_recording(path):
            continue
        with _opened(path) as file:
            head = _not_empty(path, _head(file))
        if not has_frames_name(path) and format_of(path, head) is Format.ITCH and (fault := not_itch(path, head)):
            msg = f"{path}: {fault}"
            raise DataFileError(msg)


def read_data(path: Path) -> Bytes:
    """The bytes of a file, decompressed when they are zstd or gzip, in an array that may be written to.

    Raises DataFileError when there is no such file, it is empty, cannot be read or is damaged as an archive.
    """
    with _opened(path) as file:
        magic = _magic(file)
        if magic == _ZSTD_MAGIC:
            data = _unzstd(file)
        elif magic[:2] == _GZIP_MAGIC:
            with gzip.open(file) as stream:
                data = _read_all(stream)
        else:
            data = np.fromfile(file, np.uint8)
    return _not_empty(path, data)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file for reading; what goes wrong with it inside becomes a DataFileError."""
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        msg = f"{path}: there is no such file; {ALLOWED}"
        raise DataFileError(msg) from None
    except IsADirectoryError:
        msg = f"{path} is a directory and not a recording; name the data files in it. {ALLOWED}"
        raise DataFileError(msg) from None
    except (zstandard.ZstdError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        msg = f"{path}: the compressed file is damaged or truncated ({error})"
        raise DataFileError(msg) from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise DataFileError(msg) from None


def _magic(file: BinaryIO) -> bytes:
    magic = file.read(4)
    file.seek(0)
    return magic


def _not_empty(path: Path, data: Bytes) -> Bytes:
    if len(data) == 0:
        msg = f"{path}: the file is empty; {ALLOWED}"
        raise DataFileError(msg)
    return data


def _head(file: BinaryIO) -> Bytes:
    """The first bytes, decompressed."""
    magic = _magic(file)
    if magic == _ZSTD_MAGIC:
        with zstandard.ZstdDecompressor().stream_reader(file, closefd=False) as stream:
            data = stream.read(_HEAD_BYTES)
    elif magic[:2] == _GZIP_MAGIC:
        with gzip.open(file) as stream:
            data = stream.read(_HEAD_BYTES)
    else:
        data = file.read(_HEAD_BYTES)
    return np.frombuffer(data, np.uint8)


def _read_all(stream: BinaryIO | gzip.GzipFile) -> Bytes:
    buffer = bytearray()
    while chunk := stream.read(_CHUNK):
        buffer += chunk
    return np.frombuffer(buffer, np.uint8)


def _unzstd(file: BinaryIO) -> Bytes:
    """All frames of a zstd file; the stream reader of the library would not notice that one is cut off."""
    buffer = bytearray()
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    chunk = file.read(_CHUNK)
    while chunk:
        buffer += frame.decompress(chunk)
        chunk = frame.unused_data if frame.eof else b""
        if frame.eof and (chunk := chunk or file.read(_CHUNK)):
            frame = decompressor.decompressobj()
        chunk = chunk or file.read(_CHUNK)
    if not frame.eof:
        msg = "it ends inside a frame"
        raise EOFError(msg)
    return np.frombuffer(buffer, np.uint8)


def format_of(path: Path, data: Bytes) -> Format:
    """The format of a file with the (decompressed) bytes `data`: by content where that is sure, else by name."""
    name = _plain_name(path)
    if data[:4].tobytes() in _CAPTURE_MAGICS:
        return Format.CAPTURE
    if data[:3].tobytes() == b"DBN":
        return Format.DBN
    if name.endswith(".itch") or not (name.endswith(".csv") or chr(data[0]).isdigit()):
        return Format.ITCH
    for pattern, kind in _TICK_NAMES.items():
        if re.fullmatch(pattern, name.removesuffix(".csv")):
            return kind
    row = data[:200].tobytes().split(b"\n")[0].strip()
    for shape, kind in _TICK_ROWS.items():
        if re.fullmatch(shape, row):
            return kind
    return Format.LOBSTER


def has_frames_name(path: Path) -> bool:
    """Whether a file holds frames of a WebSocket, by its name."""
    return _plain_name(path).endswith(".tsjson")


def _plain_name(path: Path) -> str:
    return path.name.lower().removesuffix(".zst").removesuffix(".gz")


def not_itch(path: Path, data: Bytes) -> str:
    """Why the (decompressed) data at `path` are no ITCH 5.0; empty when the first message has the size of its type.

    ITCH is what is left when nothing else fits, so only for a file of that name it is said what ITCH would need.
    """
    length, kind = int.from_bytes(data[:2].tobytes(), "big"), int(data[2]) if len(data) > 2 else 0
    if SIZES[kind] == length != 0:
        return ""
    if not _plain_name(path).endswith(".itch"):
        return f"this is none of the kinds of data that play; {ALLOWED}"
    of_type = f"type {chr(kind)!r} has {SIZES[kind]} bytes" if SIZES[kind] else f"{chr(kind)!r} is no message type"
    return f"this is not ITCH 5.0: the first message should have {length} bytes, and {of_type}; {ALLOWED}"
