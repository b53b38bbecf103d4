"""The JSON path: recorded Binance frames as bytes -> level changes in a book, beside the `json` module and dicts.

All sides get the same frames, one by one, in the same order, in one process. They take turns slice by slice (500
frames), and of each slice the fastest of the rounds counts on every side, so that what else the machine does hits
none of them more than the others. Timed is the way from the bytes of a frame to the changed book:

- *tickpath*: the codec as the live feed runs it (sequence checks included), exact prices, levels in order, and (told)
  the ITCH messages that the exchange plays.
- *json + dict*: `json.loads`, then for each level ``book[price] = quantity`` or ``del``, with `Decimal` quantities
  to tell 0 from the rest, in two dicts: no sequence check, no order, no best price.
- *json + dict, float*: the same with ``float`` in place of `Decimal`; not exact.

First the frames that change levels (depth) are timed, then those with the trades among them. Left out: the socket,
the reading of the file, and frames of bookTicker, which the live feed does not subscribe to.

    tickpath bench json_path [FILE] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from tickpath.common.crypto.binance import BinanceSpot
from tickpath.common.crypto.market import ASK, BID, Market
from tickpath.sim.sources.crypto import Recording, find_terms, read_recording
from tickpath.sim.sources.tape import DataFileError, Terms

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT.parent / "shared/data/binance/usdm_btcusdt_20240808.tsjson.zst"
ROUNDS = 5
SLICE = 500
AIM = 3.0
STREAMS = (("depth",), ("depth", "trade"))


def chosen(recording: Recording, streams: Sequence[str]) -> tuple[list[bytes], list[bytes]]:
    """What comes up to the snapshot and the snapshot itself, untimed; then the frames of the streams."""
    marks = tuple(f"@{stream}".encode() for stream in streams)
    wanted = [i for i, frame in enumerate(recording.frames) if any(mark in frame[:60] for mark in marks)]
    begin = next((i for i, frame in enumerate(recording.frames) if b'"lastUpdateId"' in frame[:40]), -1) + 1
    return recording.frames[:begin], [recording.frames[i] for i in wanted if i >= begin]


class Codec:
    """The codec of the live feed; `told`: with the messages for the exchange."""

    def __init__(self, recording: Recording, terms: dict[str, Terms], first: list[bytes], *, told: bool) -> None:
        def begin(market: Market, number: int) -> None:
            if told:
                one = terms[market.names[number]]
                market.tell(number, Decimal(one.tick_size), Decimal(one.lot_size))

        self.told = told
        self.market = Market(begin)
        self.codec = recording.codec(self.market)
        for frame in first:
            self.codec.receive(frame)
        self.market.take()

    def before(self) -> list[dict[str, str]]:
        """Bids and asks as the venue writes them."""
        price, qty = self.market.written(0)
        return [
            {f"{one.price:.{price}f}": f"{one.qty:.{qty}f}" for one in self.market.side(0, side)}
            for side in (BID, ASK)
        ]

    def play(self, frames: list[bytes]) -> None:
        """Frames into the book."""
        receive = self.codec.receive
        if self.told:
            take = self.market.take
            for frame in frames:
                receive(frame)
                take()
        else:
            for frame in frames:
                receive(frame)


class Dicts:
    """`json.loads` and two dicts; `number` makes a quantity of its text."""

    def __init__(self, before: list[dict[str, str]], number: Callable[[str], Any]) -> None:
        self.bids, self.asks = ({price: number(qty) for price, qty in side.items()} for side in before)
        self.number = number
        self.traded = number("0")

    def play(self, frames: list[bytes]) -> None:
        """Frames into the book."""
        number, sides = self.number, (("b", self.bids), ("a", self.asks))
        for frame in frames:
            event = json.loads(frame)["data"]
            kind = event.get("e")
            if kind == "depthUpdate":
                for key, book in sides:
                    for price, text in event[key]:
                        qty = number(text)
                        if qty:
                            book[price] = qty
                        else:
                            book.pop(price, None)
            elif kind == "trade":
                self.traded += number(event["q"])


def measure(recording: Recording, streams: Sequence[str], rounds: int) -> dict[str, Any]:
    """All sides, by turns. Raises DataFileError."""
    first, frames = chosen(recording, streams)
    slices = [frames[i : i + SLICE] for i in range(0, len(frames), SLICE)]
    if not slices:
        msg = f"there are no frames of the streams {', '.join(streams)}"
        raise DataFileError(msg)
    terms = find_terms(recording._replace(times_ns=recording.times_ns[:5000], frames=recording.frames[:5000]))
    best: dict[str, list[float]] = {}
    for _ in range(rounds):
        plain = Codec(recording, terms, first, told=False)
        before = plain.before()
        exact = Dicts(before, Decimal)
        sides: dict[str, Codec | Dicts] = {
            "tickpath": plain,
            "tickpath, told as ITCH": Codec(recording, terms, first, told=True),
            "json + dict": exact,
            "json + dict, float": Dicts(before, float),
        }
        gc.collect()
        for i, part in enumerate(slices):
            for name, side in sides.items():
                start = time.perf_counter()
                side.play(part)
                spent = time.perf_counter() - start
                times = best.setdefault(name, [float("inf")] * len(slices))
                times[i] = min(times[i], spent)
        faults = plain.codec.faults
        if faults["gaps"] or faults["malformed"]:
            msg = f"the recording has gaps or malformed frames: {dict(faults)}"
            raise DataFileError(msg)
        # Both sides must have done the same work.
        if {Decimal(price): qty for price, qty in exact.bids.items()} != dict(plain.market.side(0, BID)):
            msg = "the books of the two sides differ"
            raise DataFileError(msg)
    total = {name: sum(times) for name, times in best.items()}
    size = sum(map(len, frames))
    return {
        "frames": len(frames),
        "bytes": size,
        "levels": plain.market.counts()["levels_set"],
        "rounds": rounds,
        "us_per_frame": {name: 1e6 * seconds / len(frames) for name, seconds in total.items()},
        "mb_per_s": {name: size / seconds / 1e6 for name, seconds in total.items()},
        "ratio": total["json + dict"] / total["tickpath"],
        "ratio_told": total["json + dict"] / total["tickpath, told as ITCH"],
        "ratio_to_float": total["json + dict, float"] / total["tickpath"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="tickpath bench json_path", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=RECORDED, help="a recording of Binance (.tsjson)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    try:
        recording = read_recording([options.file])
        if not isinstance(recording.codec(Market()), BinanceSpot):
            parser.error(f"{options.file} is of {recording.venue}; this measures frames of Binance")
        found = {",".join(streams): measure(recording, streams, options.rounds) for streams in STREAMS}
    except DataFileError as error:
        parser.error(str(error))
    if options.json:
        sys.stdout.write(json.dumps({"file": options.file.name, **found}) + "\n")
        return 0
    for streams, one in found.items():
        print(f"{options.file.name}, {streams}: {one['frames']} frames, {one['bytes']} bytes, {one['levels']} levels")  # noqa: T201
        for name, value in one["us_per_frame"].items():
            print(f"  {name:24} {value:7.2f} us per frame  {one['mb_per_s'][name]:7.1f} MB/s")  # noqa: T201
        aim = f" (aim: {AIM:g})" if streams == "depth" else ""
        print(  # noqa: T201
            f"  json + dict takes {one['ratio']:.2f} times as long{aim};"
            f" {one['ratio_told']:.2f} with the ITCH messages, {one['ratio_to_float']:.2f} against inexact floats"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
