"""``tickpath tap``: one stream of a running system, decoded, as it passes; nobody notices that it is watched.

`Source` is also what `tickpath record` reads from.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.cli import runs
from tickpath.cli.control import ControlError, InputError, System
from tickpath.common.config import load_config
from tickpath.common.instruments import InstrumentError, InstrumentTable, load_instruments
from tickpath.common.recording import TIME_FIELDS
from tickpath.common.records import (
    NO_PRICE_TICKS,
    REPORT,
    Action,
    ExecEvent,
    OrderState,
    Side,
    TickFlag,
    Tif,
    format_cl_ord_id,
)
from tickpath.exec.journal import JournalError, JournalTail, newest_day

Records = npt.NDArray[Any]

#: Streams of decoded records, in the order in which a tick meets them.
STREAMS: Final = ("ticks", "signals", "orders", "reports")

_POLL_S: Final = 0.02
ENUMS: Final = {"action": Action, "side": Side, "tif": Tif, "state": OrderState, "event": ExecEvent}
_HIDDEN: Final = ("pad", "crc", "instrument", "cl_ord_id", "flags")


class Source:
    """The records of one stream of a running system, from the oldest that is still there or from now on.

    `next_seq` is the number of the record that comes next, `missed` how many were lost to this reader, `lives` how
    often the numbers may have begun anew. A full ring loses its oldest record with every new one: those that go
    before the first reading are not missed, it begins behind them. Raises ControlError when the stream cannot be
    seen, with what to do.
    """

    def __init__(self, place: Place, stream: str, *, from_oldest: bool) -> None:
        self.stream = stream
        self.dtype = REPORT
        self._place = place
        self._tail: JournalTail | None = None
        self._lives = 1
        self._is_at_oldest = from_oldest
        self._before_oldest = 0  # overwritten before the first reading
        if stream == "reports":
            self._follow_journal()
            if not from_oldest:
                while len(self.read()[0]):
                    pass
            return
        from tickpath.common.ring import RingError  # noqa: PLC0415 - needs Numba
        from tickpath.common.taps import observe  # noqa: PLC0415

        try:
            self._ring = observe(place.run_dir, stream, from_oldest=from_oldest)
        except RingError as error:
            key = "enabled" if stream in STREAMS else "capture"
            msg = (
                f"{error}. They are shown when [taps] {key} = true is in the configuration, or "
                f"TICKPATH_TAPS__{key.upper()}=true in the environment, of the system when it starts"
            )
            raise ControlError(msg) from None
        self.dtype = self._ring.dtype

    def _follow_journal(self) -> None:
        try:
            folder = newest_day(self._place.journal_dir)
        except JournalError:
            return  # not begun yet
        if self._tail is None or folder != self._tail.folder:
            self._lives += self._tail is not None
            self._tail = JournalTail(folder)

    @property
    def next_seq(self) -> int:
        """Number of the record that comes next."""
        if self.stream == "reports":
            return self._tail.next_seq if self._tail is not None else 1
        return self._ring.next_seq

    @property
    def published(self) -> int:
        """Number of the last record that is there; of the journal, which does not say, no end."""
        return sys.maxsize if self.stream == "reports" else self._ring.published

    @property
    def missed(self) -> int:
        """Records that were overwritten before they were read; the journal keeps all."""
        return 0 if self.stream == "reports" else self._ring.missed - self._before_oldest

    @property
    def lives(self) -> int:
        """Files that were followed so far."""
        return self._lives if self.stream == "reports" else self._ring.lives

    @property
    def epoch(self) -> int:
        """Tells the numbers of one life of the stream from those of another."""
        return self._lives if self.stream == "reports" else self._ring.epoch

    def read(self, most: int = 4096) -> tuple[Records, int]:
        """(the next records, number of those before them that are lost). Raises ControlError."""
        if self.stream != "reports":
            records, missed = self._ring.read(most)
            if self._is_at_oldest:
                self._is_at_oldest = bool(missed) and not len(records)
                self._before_oldest += missed
                missed = 0
            return records, missed
        if self._tail is None:
            self._follow_journal()
        if self._tail is None:
            return np.zeros(0, REPORT), 0
        try:
            entries = self._tail.poll(most)
        except JournalError as error:
            raise ControlError(str(error)) from None
        if not len(entries):
            self._follow_journal()  # of the next day
        return entries, 0


class Place:
    """Where the streams of a running system are: run_dir, journal, instrument table."""

    def __init__(self, system: System) -> None:
        self.run_dir = system.run_dir
        if not self.run_dir.is_dir():
            msg = f"no system runs on {self.run_dir}: there is no such folder"
            raise ControlError(msg)
        self._is_launched = runs.is_alive(self.run_dir)
        self.journal_dir = self.run_dir / "journal"
        instruments = self.run_dir / "instruments.csv"
        try:
            config = system["exec"].ask("GET", "/config")
            ours = Path(config["run_dir"]).resolve() == self.run_dir.resolve()
        except ControlError:
            ours = False
        if ours:
            self.journal_dir = self.run_dir / config["exec"]["journal_dir"]
            instruments = Path(config["instruments"])
        elif not instruments.exists():
            instruments = load_config().instruments
        try:
            self.table = load_instruments(instruments)
        except InstrumentError as error:
            msg = f"the instruments of the system are not known: {error}"
            raise ControlError(msg) from None

    def is_gone(self) -> bool:
        """Whether the system has ended: its launcher has, or its folder is not there any more."""
        return not self.run_dir.is_dir() or (self._is_launched and not runs.is_alive(self.run_dir))


def unknown_symbol(symbol: str, table: InstrumentTable) -> InputError:
    """That there is no such instrument; names some that there are."""
    names = ", ".join(table.symbols[:5])
    return InputError(f"no instrument {symbol!r}; there are {len(table)} in the table, such as {names}")


def decode(stream: str, record: Any, table: InstrumentTable) -> dict[str, Any]:
    """A record for programs: prices as decimal strings (None: there is none), names for numbers, ``_ns`` as it is."""
    instrument = int(record["instrument"])
    known = 0 <= instrument < len(table)
    found: dict[str, Any] = {"symbol": table.symbols[instrument] if known else f"#{instrument}"}
    for name in record.dtype.names:
        if name in _HIDDEN:
            continue
        value = record[name].item()
        if name.endswith("_ticks"):
            there = known and value != NO_PRICE_TICKS
            found[name.removesuffix("_ticks")] = price_text(table, instrument, value) if there else None
        elif name in ENUMS:
            enum = ENUMS[name]
            found[name] = enum(value).name if value in list(enum) else value
        else:
            found[name] = value
    if "cl_ord_id" in record.dtype.names:
        found["cl_ord_id"] = format_cl_ord_id(int(record["cl_ord_id"])).decode()
    if "flags" in record.dtype.names:
        found["flags"] = [flag.name for flag in TickFlag if int(record["flags"]) & flag]
    return found


def price_text(table: InstrumentTable, instrument: int, ticks: int) -> str:
    """A price with as many decimals as the instrument's tick has."""
    decimals = -int(table.price(instrument, 1).normalize().as_tuple().exponent)
    return f"{table.price(instrument, ticks):.{max(0, decimals)}f}"


def clock_text(ns: int) -> str:
    """Nanoseconds after midnight as a time of day."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:09}"


def line_of(stream: str, seq: int, found: dict[str, Any]) -> str:
    """A decoded record for people, one line; `found` is changed."""
    head = f"{clock_text(found['exch_ns'])}  {seq:>9}  {found['symbol']:<8}"
    if stream == "ticks":
        bid, ask = (_quote(found, side) for side in ("bid", "ask"))
        last = f"  {found['last_lots']:,} @ {found['last']}" if found["last"] is not None else ""
        others = [flag for flag in found["flags"] if flag not in ("QUOTE", "TRADE")]
        return f"{head}  {bid:>20} | {ask:<20}{last}  {' '.join(others)}".rstrip()
    is_cancel = found.get("action") == Action.CANCEL.name  # of a signal: no order is named, and 0 is both sides
    names = ("action", "side") if is_cancel else ("event", "action", "side", "tif")
    what = " ".join(str(found[name]) for name in names if found.get(name))
    lots = "" if is_cancel and stream == "signals" else f"{found['qty_lots']:,} @ {found['price']}"
    if stream == "signals":
        return f"{head}  {what:<16}  {lots:<20}  strategy {found['strategy']}  {_after(found, 'signalled_ns')}"
    if stream == "orders":
        return f"{head}  {what:<16}  {lots:<20}  {found['cl_ord_id']}  {_after(found, 'approved_ns')}"
    fill = f"  last {found['last_lots']:,} @ {found['last']}" if found["event"] == "FILL" else ""
    state = f"{found['state']}  leaves {found['leaves_lots']:,}"
    return f"{head}  {what:<24}  {lots:<20}  {found['cl_ord_id']}  {state}{fill}"


def _quote(found: dict[str, Any], side: str) -> str:
    price, lots = found[side], found[f"{side}_lots"]
    if price is None:
        return "-"
    return f"{lots:,} x {price}" if side == "bid" else f"{price} x {lots:,}"


def _after(found: dict[str, Any], stamp: str) -> str:
    """How long after its datagram this was decided."""
    return f"+{(found[stamp] - found['recv_ns']) / 1000:,.1f} µs" if found["recv_ns"] else ""


def show_tap(
    system: System,
    stream: str,
    *,
    symbol: str | None,
    count: int | None,
    as_json: bool,
    since_start: bool,
    say: Callable[[str], None],
) -> int:
    """Print records as they come until `count` or the end of the system. Raises KeyboardInterrupt, ControlError."""
    if stream not in STREAMS:
        msg = f"{stream!r} is no stream; there are {', '.join(STREAMS)}"
        raise InputError(msg)
    place = Place(system)
    table = place.table
    if symbol is not None and symbol not in table.ids:
        raise unknown_symbol(symbol, table)
    source = Source(place, stream, from_oldest=since_start)
    wanted = None if symbol is None else table.id_of(symbol)
    offset_ns = time.time_ns() - time.monotonic_ns()
    shown = 0
    with contextlib.suppress(BrokenPipeError):
        for first, records, missed in _batches(source, place):
            if since_start and not shown and first > 1:
                say(f"{first - 1:,} {stream} before these are not kept any more")
                since_start = False
            if missed:
                say(f"missed {missed:,} {stream} before number {first}: they came faster than they could be shown")
            for index in range(len(records)) if wanted is None else np.nonzero(records["instrument"] == wanted)[0]:
                found = decode(stream, records[index], table)
                if as_json:
                    stamp = datetime.fromtimestamp((found[TIME_FIELDS[stream]] + offset_ns) / 1e9, UTC).isoformat()
                    text = json.dumps({"stream": stream, "seq": first + int(index), "time": stamp, **found})
                else:
                    text = line_of(stream, first + int(index), found)
                sys.stdout.write(text + "\n")
                shown += 1
                if shown == count:
                    sys.stdout.flush()
                    return 0
            sys.stdout.flush()
    if source.missed:
        say(f"missed {source.missed:,} {stream} in all")
    return 0


def _batches(source: Source, place: Place) -> Iterator[tuple[int, Records, int]]:
    """(number of the first, records, missed before them) until the system has ended."""
    while True:
        gone = place.is_gone()
        records, missed = source.read(256)
        if len(records) or missed:
            yield source.next_seq - len(records), records, missed
        elif gone:
            return
        else:
            time.sleep(_POLL_S)
