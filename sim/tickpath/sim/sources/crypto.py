"""Recordings of crypto venues (``.tsjson``), played through the codecs of the live feeds into a tape.

A line is the receive time in nanoseconds since 1970 UTC, a space, and a WebSocket frame as it was received; a
depth snapshot of Binance's HTTP interface is a line too. Several files play as one: their lines are put in order of
time, so the file of the next day goes on with the book of the day before.

The tape is what `tickpath.common.crypto.kernels.l2` makes of the frames, at the receive times, in ns after midnight
UTC of the first line. The units of each symbol are found in a first pass (`Market.units`). A recording of Binance
without any snapshot begins with an empty book that fills up with what changes, and says so in its findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from tickpath.common.crypto.binance import BinanceSpot
from tickpath.common.crypto.codec import Codec
from tickpath.common.crypto.market import Batch, Market, quote_of
from tickpath.common.crypto.venues import VENUES, recognise
from tickpath.sim.sources.files import read_data
from tickpath.sim.sources.recording import has_frames, read_frames
from tickpath.sim.sources.tape import DataFileError, Tape, Terms

_NS_PER_HOUR: Final = 3_600_000_000_000
_NS_PER_DAY: Final = 24 * _NS_PER_HOUR
_BATCH: Final = 1 << 14  # messages
_SAMPLE: Final = 2000  # frames in which the venue must be recognised
_FIRST_NS: Final = 1_000_000_000_000_000_000  # 2001: smaller numbers are no nanoseconds since 1970
_LAST_NS: Final = 1 << 62


class Recording(NamedTuple):
    """The frames of one venue in order of time."""

    venue: str
    times_ns: list[int]  # since 1970 UTC
    frames: list[bytes]
    findings: Counter[str]

    def play(self, codec: Codec) -> Iterator[Batch]:
        """All frames through a codec, at their times; what its market has told, in batches."""
        market = codec.market
        # A session across midnight UTC is moved by whole hours, so that it fits into a day.
        begin = self.times_ns[0] // _NS_PER_DAY * _NS_PER_DAY + self.findings["hours_shifted"] * _NS_PER_HOUR
        for time_ns, frame in zip(self.times_ns, self.frames, strict=True):
            market.time_ns = time_ns - begin
            codec.receive(frame)
            if market.waiting > _BATCH and (batch := market.take()) is not None:
                yield batch
        if (batch := market.take()) is not None:
            yield batch

    def codec(self, market: Market) -> Codec:
        """A codec for these frames."""
        kind = VENUES[self.venue].codec
        if issubclass(kind, BinanceSpot):
            return kind(market, recorded=True, snapshots="ws_no_snapshot" not in self.findings)
        return kind(market, recorded=True)


def read_recording(paths: Sequence[Path]) -> Recording:
    """The frames of files of one venue. Raises DataFileError."""
    times: list[int] = []
    frames: list[bytes] = []
    findings: Counter[str] = Counter()
    venue = ""
    for path in paths:
        first = len(frames)
        data = read_frames(path) if has_frames(path) else read_data(path)
        for line in data.tobytes().splitlines():
            stamp, _, frame = line.partition(b" ")
            if frame and stamp.isdigit() and len(stamp) == len(str(_FIRST_NS)) and _FIRST_NS <= int(stamp) < _LAST_NS:
                times.append(int(stamp))
                frames.append(frame)
            else:
                findings["ws_bad_lines"] += 1
        if first == len(frames):
            msg = f"{path}: no line of it is a time in ns since 1970, a space and a frame; {_ALLOWED}"
            raise DataFileError(msg)
        found = recognise(frames[first : first + _SAMPLE])
        if found is None:
            msg = f"{path}: its first {_SAMPLE} frames are of none of {', '.join(VENUES)}; {_ALLOWED}"
            raise DataFileError(msg)
        if venue not in ("", found):
            msg = f"{path} is of {found}, the files before it of {venue}; play the recordings of one venue at a time"
            raise DataFileError(msg)
        venue = found
    findings["times_back"] = int(np.count_nonzero(np.diff(times) < 0))
    order = np.argsort(times, kind="stable").tolist()
    if order != list(range(len(order))):
        times, frames = [times[i] for i in order], [frames[i] for i in order]
    if issubclass(VENUES[venue].codec, BinanceSpot) and not any(b'"lastUpdateId"' in frame for frame in frames):
        findings["ws_no_snapshot"] = 1
    over = times[-1] - times[0] // _NS_PER_DAY * _NS_PER_DAY - _NS_PER_DAY
    if over >= 0 and times[-1] - times[0] < _NS_PER_DAY - _NS_PER_HOUR:
        findings["hours_shifted"] = over // _NS_PER_HOUR + 1
    return Recording(venue, times, frames, findings)


_ALLOWED: Final = "allowed are recordings of WebSocket frames of crypto venues, plain or compressed with zstd or gzip"


def load_recordings(paths: Sequence[Path]) -> Tape:
    """The tape of recordings of one venue. Raises DataFileError."""
    recording = read_recording(paths)
    terms = find_terms(recording)

    def begin(market: Market, number: int) -> None:
        tick, lot = terms[market.names[number]][:3:2]
        market.tell(number, Decimal(tick), Decimal(lot))

    market = Market(begin)
    codec = recording.codec(market)
    batch = _join(list(recording.play(codec)))
    kinds = batch.data[batch.offsets[:-1] + 2]
    counts = np.bincount(kinds, minlength=256)
    told = Counter(market.counts())
    del told["levels_set"]
    findings = recording.findings + Counter({f"ws_{key}": n for key, n in (codec.faults + told).items()})
    names = " + ".join(path.name for path in paths)
    return Tape(
        data=batch.data,
        offsets=batch.offsets,
        time_ns=batch.time_ns,
        symbols={short: number + 1 for number, short in enumerate(market.shorts)},
        source=f"{recording.venue} {names}" + _renamed(market),
        counts={chr(kind): int(counts[kind]) for kind in np.nonzero(counts)[0]},
        findings=dict(findings),
        terms={market.shorts[market.numbers[name]]: terms[name] for name in market.names},
    )


def find_terms(recording: Recording) -> dict[str, Terms]:
    """Terms of each symbol of a recording, by its name at the venue. Raises DataFileError when there is none."""
    market = Market(Market.rehearse)
    for _ in recording.play(recording.codec(market)):
        pass
    if not market.names:
        msg = f"there is no book and no trade of any symbol in these frames of {recording.venue}"
        raise DataFileError(msg)
    return {
        name: make_terms(recording.venue, name, *market.units(number), market.largest(number)[0])
        for number, name in enumerate(market.names)
    }


def make_terms(
    venue: str, name: str, tick: Decimal, lot: Decimal, price: Decimal, contract: Decimal | None = None
) -> Terms:
    """Terms of a symbol. A COIN-M contract is worth a fixed number of dollars (`contract`; 100 of Bitcoin, 10 of all
    others), whatever the `price`: the multiplier is what a dollar of the price is worth at this price.
    """
    multiplier = lot
    if venue == "binance-coinm":
        dollars = contract or Decimal(100 if name.startswith("BTC") else 10)
        multiplier = (lot * dollars / max(price, tick)).quantize(Decimal(1).scaleb(-8) / tick)
    return Terms(f"{tick.normalize():f}", 1, f"{lot.normalize():f}", f"{multiplier.normalize():f}", quote_of(name))


def _join(batches: list[Batch]) -> Batch:
    starts = np.cumsum([0] + [len(batch.data) for batch in batches])
    offsets = [batch.offsets[:-1] + start for batch, start in zip(batches, starts[:-1], strict=True)]
    return Batch(
        np.concatenate([batch.data for batch in batches]),
        np.concatenate([*offsets, starts[-1:]]),
        np.concatenate([batch.time_ns for batch in batches]),
    )


def _renamed(market: Market) -> str:
    """What the symbols are called here, where it is not their name."""
    changed = [f"{name} as {short}" for name, short in zip(market.names, market.shorts, strict=True) if name != short]
    return f" ({', '.join(changed)})" if changed else ""
