"""``tickpath export``: recordings and exec's journal as tables that other programs read.

| columns | from | |
| --- | --- | --- |
| `seq` | | number of the record in its stream |
| `time` | the stamp of the recording | UTC; of a journal there is none |
| `symbol` | `instrument` | dictionary |
| ``*_ticks`` | as it is | null where there is no price |
| `price`, ``*_price`` | ``*_ticks`` | the decimal price, as the nearest float64 |
| ``*_lots`` | as it is | |
| `qty`, ``*_qty`` | ``*_lots`` | shares, contracts or coins, as the nearest float64 |
| `action`, `side`, `tif`, `state`, `event` | their numbers | names, dictionary |
| `flags`, `flag_names` | `flags` | the bits, and their names with ``|`` between, dictionary |
| `cl_ord_id`, `cl_ord_id_text` | `cl_ord_id` | the number, and the text that the venue sees |
| all others | as they are | |
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from tickpath.cli.control import ControlError, InputError
from tickpath.cli.tap import ENUMS, STREAMS
from tickpath.common.config import FeedConfig, load_config
from tickpath.common.instruments import InstrumentTable, load_instruments, rows_of
from tickpath.common.recording import TIME_FIELDS, Recording, RecordingError, as_capture, as_lines
from tickpath.common.records import NO_PRICE_TICKS, ORDER, REPORT, Action, ExecEvent, TickFlag
from tickpath.exec.journal import JournalError, read_journal

FORMATS: Final = ("parquet", "csv", "pcap", "tsjson")

Records = npt.NDArray[Any]

_ROW_GROUP: Final = 1 << 17
_DROPPED: Final = ("pad", "crc")
_BASE32: Final = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUV", np.uint8)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: numbers; or, with `names`, indices into those."""

    values: npt.NDArray[Any]
    names: tuple[str, ...] | None = None
    valid: npt.NDArray[np.bool_] | None = None  # None: all are
    is_time: bool = False  # ns since 1970, UTC

    def items(self) -> list[Any]:
        """As Python objects; None where there is nothing."""
        if self.is_time:
            return [np.datetime_as_string(item) + "Z" for item in self.values.astype("datetime64[ns]")]
        values: list[Any] = self.values.tolist()
        if self.names is not None:
            values = [self.names[value] for value in values]
        if self.valid is not None:
            values = [value if valid else None for value, valid in zip(values, self.valid.tolist(), strict=True)]
        return values


class Table:
    """Turns the records of one stream into columns."""

    def __init__(self, stream: str, table: InstrumentTable) -> None:
        self.stream = stream
        self._symbols = (*table.symbols, "")  # the last for what is not in the table
        ticks = [(tick_e8, 10**8) for tick_e8 in table.array["tick_e8"].tolist()]
        lots = [Decimal(lot_size).as_integer_ratio() for lot_size, _, _ in table.texts]
        self._tick, self._lot = (np.array([*ratios, (0, 1)], np.float64) for ratios in (ticks, lots))

    def columns(self, records: Records, seqs: npt.NDArray[np.int64], unix_offset_ns: int | None) -> dict[str, Column]:
        """The columns of some records, in the order of the stream's fields."""
        found = {"seq": Column(seqs)}
        if unix_offset_ns is not None:
            found["time"] = Column(records[TIME_FIELDS[self.stream]] + unix_offset_ns, is_time=True)
        instruments = records["instrument"].astype(np.int64)
        of = np.where(
            (instruments < 0) | (instruments >= len(self._symbols) - 1), len(self._symbols) - 1, instruments
        )
        found["symbol"] = Column(of, names=self._symbols)
        for name in records.dtype.names or ():
            if name not in _DROPPED and name not in found:
                found |= self._columns_of(name, np.ascontiguousarray(records[name]), of)
        return found

    def _columns_of(self, name: str, values: npt.NDArray[Any], of: npt.NDArray[np.int64]) -> dict[str, Column]:
        if name.endswith("_ticks"):
            valid = values != NO_PRICE_TICKS
            shown = name.removesuffix("_ticks")
            prices = _scaled(np.where(valid, values, 0), self._tick[of])
            shown = "price" if shown == "price" else f"{shown}_price"
            return {name: Column(values, valid=valid), shown: Column(prices, valid=valid)}
        if name.endswith("_lots"):
            shown = name.removesuffix("_lots")
            shown = "qty" if shown == "qty" else f"{shown}_qty"
            return {name: Column(values), shown: Column(_scaled(values, self._lot[of]))}
        if name == "flags":
            bits, index = np.unique(values, return_inverse=True)
            texts = tuple("|".join(flag.name or "" for flag in TickFlag if int(bit) & flag) for bit in bits)
            return {name: Column(values), "flag_names": Column(index, names=texts)}
        if name == "cl_ord_id":
            return {name: Column(values), "cl_ord_id_text": _texts(values)}
        if name in ENUMS:
            return {name: _named(values, ENUMS[name])}
        return {name: Column(values)}


def _scaled(values: npt.NDArray[np.int64], ratios: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """values * ratios[:, 0] / ratios[:, 1]; the nearest float64 as long as the product is below 2**53."""
    scaled: npt.NDArray[np.float64] = values.astype(np.float64) * ratios[:, 0] / ratios[:, 1]
    return scaled


def _named(values: npt.NDArray[Any], enum: type[IntEnum]) -> Column:
    present, index = np.unique(values, return_inverse=True)
    known = {int(member): member.name for member in enum}
    return Column(index, names=tuple(known.get(int(value), str(int(value)) if value else "") for value in present))


def _texts(ids: npt.NDArray[np.int64]) -> Column:
    """The 14 characters of each client order id, see `tickpath.common.records.format_cl_ord_id`."""
    present, index = np.unique(ids, return_inverse=True)
    digits = _BASE32[(present[:, None] >> (5 * np.arange(12, -1, -1))) & 31]
    return Column(index, names=tuple("T" + row.tobytes().decode("ascii") for row in digits))


class _Sink(Protocol):
    def write(self, columns: Mapping[str, Column]) -> None: ...

    def close(self) -> None: ...


class _Csv:
    """Plain text: the first line names the columns, an empty field is a null."""

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        del about
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._begun = False

    def write(self, columns: Mapping[str, Column]) -> None:
        if not self._begun:
            self._begun = True
            self._writer.writerow(columns)
        self._writer.writerows(zip(*(column.items() for column in columns.values()), strict=True))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Through pyarrow; compressed with zstd, what is known of the recording in the file's metadata."""

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        try:
            self._pa: Any = importlib.import_module("pyarrow")  # an extra, and large
            self._parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            msg = "Parquet needs pyarrow: pip install 'tickpath-cli[export]'; --format csv needs nothing"
            raise ControlError(msg) from None
        self._path, self._about = path, about
        self._writer: Any = None

    def _array(self, column: Column) -> Any:
        pa = self._pa
        mask = None if column.valid is None else ~column.valid
        if column.names is not None:
            return pa.DictionaryArray.from_arrays(pa.array(column.values.astype(np.int32)), pa.array(column.names))
        if column.is_time:
            return pa.array(column.values.astype("datetime64[ns]"), pa.timestamp("ns", tz="UTC"))
        return pa.array(column.values, mask=mask)

    def write(self, columns: Mapping[str, Column]) -> None:
        table = self._pa.table({name: self._array(column) for name, column in columns.items()})
        if self._writer is None:
            schema = table.schema.with_metadata(dict(self._about))
            self._writer = self._parquet.ParquetWriter(self._path, schema, compression="zstd")
        self._writer.write_table(table.replace_schema_metadata(dict(self._about)), row_group_size=_ROW_GROUP)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


_SINKS: Final[Mapping[str, Callable[[Path, Mapping[str, str]], _Sink]]] = {"parquet": _Parquet, "csv": _Csv}

#: Records that go into a file together: (records, their numbers, what makes their stamps Unix time).
Batch = tuple[Records, npt.NDArray[np.int64], int | None]


def run_export(
    recording: Path | None,
    journal: Path | None,
    out: Path,
    file_format: str,
    instruments: Path | None,
    config: Path | None,
    say: Callable[[str], None],
) -> int:
    """Write one file per stream into `out`, which is made when there is something to put in.

    The instruments of a journal are those of `instruments`, of the table beside the journal, or of the configuration.
    Raises ControlError, InputError.
    """
    if file_format not in FORMATS:
        msg = f"--format {file_format}: allowed are {', '.join(FORMATS)}"
        raise InputError(msg)
    try:
        if journal is not None:
            beside = journal.parent / "instruments.csv"
            instruments = instruments or (beside if beside.is_file() else load_config(config).instruments)
            table = load_instruments(instruments)
            if file_format not in _SINKS:
                msg = f"--format {file_format}: a journal has reports and orders only"
                raise InputError(msg)
            return _export_journal(journal, table, out, file_format, say)
        assert recording is not None  # noqa: S101 - the caller has seen to it
        found = Recording(recording)
        if file_format not in _SINKS:
            return (_export_capture if file_format == "pcap" else _export_frames)(found, out, say)
        return _export_recording(found, out, file_format, say)
    except (RecordingError, JournalError) as error:
        raise InputError(str(error)) from None
    except OSError as error:
        msg = f"cannot write into {out}: {error.strerror or error}"
        raise ControlError(msg) from None


def _export_recording(recording: Recording, out: Path, file_format: str, say: Callable[[str], None]) -> int:
    streams = [stream for stream in STREAMS if stream in recording.streams]
    if not streams:
        msg = f"{recording.path} has {' and '.join(recording.streams)} only; --format pcap or tsjson writes those"
        raise InputError(msg)
    out.mkdir(parents=True, exist_ok=True)
    for stream in streams:
        segments = recording.segments(stream)
        about = {
            "tickpath": str(segments[0].header["tickpath"]),
            "stream": stream,
            "first_seq": str(segments[0].first_seq),
            "missed": str(recording.missed(stream)),
            "gaps": json.dumps([gap for segment in segments for gap in segment.gaps]),
            "instruments": json.dumps(segments[0].header["instruments"]),
        }
        path = out / f"{stream}.{file_format}"
        written = _write(path, file_format, about, Table(stream, segments[0].instruments()), _of(recording, stream))
        first, missed = segments[0].first_seq, recording.missed(stream)
        said = f"{path}: {written:,} {stream}"
        if first > 1:
            said += f" from number {first:,} on, the oldest that was kept when the recording began"
        say(said + (f"; {missed:,} were missed by the recorder" if missed else ""))
        for segment in segments:
            if not segment.is_complete:
                say(f"{segment.path} was not finished: it was read up to its last whole block")
    return 0


def _of(recording: Recording, stream: str) -> Iterator[Batch]:
    for segment in recording.segments(stream):
        yield np.zeros(0, segment.dtype), np.zeros(0, np.int64), segment.unix_offset_ns
        for block in segment.blocks():
            seqs = np.arange(block.first_seq, block.first_seq + len(block.records), dtype=np.int64)
            yield block.records, seqs, segment.unix_offset_ns


def _export_journal(
    journal: Path, table: InstrumentTable, out: Path, file_format: str, say: Callable[[str], None]
) -> int:
    reports = read_journal(journal)
    out.mkdir(parents=True, exist_ok=True)
    about = {"stream": "reports", "missed": "0", "instruments": json.dumps(rows_of(table))}
    path = out / f"reports.{file_format}"
    written = _write(path, file_format, about, Table("reports", table), [(reports, reports["seq"], None)])
    say(f"{path}: {written:,} reports")
    orders, seqs = orders_of(reports)
    path = out / f"orders.{file_format}"
    written = _write(path, file_format, {**about, "stream": "orders"}, Table("orders", table), [(orders, seqs, None)])
    say(f"{path}: {written:,} orders")
    return 0


def orders_of(reports: Records) -> tuple[Records, npt.NDArray[np.int64]]:
    """(what exec sent, as ORDER; number of the journal entry of each): a SEND is a NEW, a CANCEL_SENT a CANCEL."""
    sent = reports[(reports["event"] == ExecEvent.SEND) | (reports["event"] == ExecEvent.CANCEL_SENT)]
    orders = np.zeros(len(sent), ORDER)
    for name in ORDER.names or ():
        if name in (REPORT.names or ()):
            orders[name] = sent[name]
    orders["action"] = np.where(sent["event"] == ExecEvent.SEND, Action.NEW, Action.CANCEL)
    orders["k"] = sent["cl_ord_id"] & 0xFF
    orders["pad"] = 0
    return orders, sent["seq"].astype(np.int64)


def _write(path: Path, file_format: str, about: Mapping[str, str], table: Table, batches: Iterable[Batch]) -> int:
    """Write a file, under its name when it is whole; the number of records."""
    temporary = path.with_name(f".{path.name}.part")
    written = 0
    manager: AbstractContextManager[_Sink] = closing(_SINKS[file_format](temporary, about))
    try:
        with manager as sink:
            for records, seqs, offset_ns in _grouped(batches):
                sink.write(table.columns(records, seqs, offset_ns))
                written += len(records)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return written


def _grouped(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Larger batches: a row group of Parquet is worth while from some 100,000 rows on."""
    kept: list[Batch] = []
    for batch in batches:
        if kept and (batch[2] != kept[0][2] or sum(len(records) for records, _, _ in kept) >= _ROW_GROUP):
            yield _joined(kept)
            kept = []
        kept.append(batch)
    if kept:
        yield _joined(kept)


def _joined(kept: list[Batch]) -> Batch:
    records, seqs, offsets = zip(*kept, strict=True)
    return np.concatenate(records), np.concatenate(seqs), offsets[0]


def _export_capture(recording: Recording, out: Path, say: Callable[[str], None]) -> int:
    path = out / "datagrams.pcap"
    offset_ns = recording.segments("datagrams")[0].unix_offset_ns
    out.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for piece in as_capture(recording.messages(), offset_ns, FeedConfig().port):
            file.write(piece)
    say(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def _export_frames(recording: Recording, out: Path, say: Callable[[str], None]) -> int:
    path = out / "frames.tsjson"
    recording.segments("frames")
    out.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for line in as_lines(recording):
            file.write(line)
    say(f"{path}: {path.stat().st_size:,} bytes")
    return 0
