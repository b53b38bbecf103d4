"""The JSON path: recorded Binance frames as bytes -> level changes in a book, beside the `json` module and dicts.

Both sides get the same frames, in the same order, one by one, in one process; the sides take turns round by round, so
that whatever else the machine does hits both. Timed are all frames of the chosen streams, from the bytes of a frame
to the changed book:

- *tickpath*: the codec as the live feed runs it (sequence checks included), exact prices, levels in order, and (told)
  the ITCH messages that the exchange plays.
- *json + dict*: `json.loads`, then for each level ``book[price] = quantity`` or ``del``, with `Decimal` quantities
  to tell 0 from the rest, in two dicts: no sequence check, no order, no best price.
- *json + dict, float*: the same with ``float`` in place of `Decimal`; not exact.

Left out: the socket, and the reading of the file. Frames of bookTicker are only counted by the codec and only decoded
by the baseline; they are not among the default streams, because the live feed does not subscribe to them.

    tickpath bench json_path [FILE] [--rounds N] [--streams depth,trade,bookTicker] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from tickpath.common.crypto.binance import BinanceSpot
from tickpath.common.crypto.market import Market
from tickpath.sim.sources.crypto import Recording, find_terms, read_recording
from tickpath.sim.sources.tape import DataFileError

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT.parent / "shared/data/binance/usdm_btcusdt_20240808.tsjson.zst"
ROUNDS = 7
AIM = 3.0


def chosen(recording: Recording, streams: Sequence[str]) -> tuple[list[bytes], list[bytes]]:
    """What comes up to the snapshot and the snapshot itself, untimed; then the frames of the streams."""
    marks = tuple(f"@{stream}".encode() for stream in streams)
    wanted = [i for i, frame in enumerate(recording.frames) if any(mark in frame[:60] for mark in marks)]
    begin = next((i for i, frame in enumerate(recording.frames) if b'"lastUpdateId"' in frame[:40]), -1) + 1
    return recording.frames[:begin], [recording.frames[i] for i in wanted if i >= begin]


def codec_round(recording: Recording, first: list[bytes], frames: list[bytes], *, told: bool) -> tuple[float, Market]:
    """Seconds for the frames, and the market at the end."""
    terms = find_terms(recording._replace(times_ns=recording.times_ns[:5000], frames=recording.frames[:5000]))

    def begin(market: Market, number: int) -> None:
        if told:
            one = terms[market.names[number]]
            market.tell(number, Decimal(one.tick_size), Decimal(one.lot_size))

    market = Market(begin)
    codec = recording.codec(market)
    for frame in first:
        codec.receive(frame)
    market.take()
    receive, take = codec.receive, market.take
    start = time.perf_counter()
    if told:
        for frame in frames:
            receive(frame)
            take()
    else:
        for frame in frames:
            receive(frame)
    spent = time.perf_counter() - start
    if codec.faults["gaps"] or codec.faults["malformed"]:
        msg = f"the recording has gaps or malformed frames: {dict(codec.faults)}"
        raise DataFileError(msg)
    return spent, market


def dict_round(first: list[bytes], frames: list[bytes], number: Callable[[str], Any]) -> tuple[float, dict[str, Any]]:
    """Seconds for the frames, and the bids at the end."""
    bids: dict[str, Any] = {}
    asks: dict[str, Any] = {}
    traded = number("0")
    if first:
        whole = json.loads(first[-1])
        bids.update((price, number(qty)) for price, qty in whole["bids"])
        asks.update((price, number(qty)) for price, qty in whole["asks"])
    start = time.perf_counter()
    for frame in frames:
        event = json.loads(frame)["data"]
        kind = event.get("e")
        if kind == "depthUpdate":
            for key, book in (("b", bids), ("a", asks)):
                for price, text in event[key]:
                    qty = number(text)
                    if qty:
                        book[price] = qty
                    else:
                        book.pop(price, None)
        elif kind == "trade":
            traded += number(event["q"])
    return time.perf_counter() - start, bids


def measure(recording: Recording, streams: Sequence[str], rounds: int) -> dict[str, Any]:
    """All sides, by turns; medians. Raises DataFileError."""
    first, frames = chosen(recording, streams)
    if not frames:
        msg = f"there are no frames of the streams {', '.join(streams)}"
        raise DataFileError(msg)
    spent: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        gc.collect()
        seconds, market = codec_round(recording, first, frames, told=False)
        spent.setdefault("tickpath", []).append(seconds)
        spent.setdefault("tickpath, told as ITCH", []).append(codec_round(recording, first, frames, told=True)[0])
        seconds, bids = dict_round(first, frames, Decimal)
        spent.setdefault("json + dict", []).append(seconds)
        spent.setdefault("json + dict, float", []).append(dict_round(first, frames, float)[0])
        # Both sides must have done the same work.
        if first and {Decimal(price): qty for price, qty in bids.items()} != dict(market.side(0, 0)):
            msg = "the books of the two sides differ"
            raise DataFileError(msg)
    medians = {name: statistics.median(values[1:]) for name, values in spent.items()}  # the first round warms up
    ratios = [base / ours for base, ours in zip(spent["json + dict"][1:], spent["tickpath"][1:], strict=True)]
    return {
        "frames": len(frames),
        "bytes": sum(map(len, frames)),
        "levels": market.counts()["levels_set"],
        "us_per_frame": {name: 1e6 * seconds / len(frames) for name, seconds in medians.items()},
        "mb_per_s": {name: sum(map(len, frames)) / seconds / 1e6 for name, seconds in medians.items()},
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_told": medians["json + dict"] / medians["tickpath, told as ITCH"],
        "ratio_to_float": medians["json + dict, float"] / medians["tickpath"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="tickpath bench json_path", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=RECORDED, help="a recording of Binance (.tsjson)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--streams", default="depth,trade", help="with commas; bookTicker is the third")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    try:
        recording = read_recording([options.file])
        if not isinstance(recording.codec(Market()), BinanceSpot):
            parser.error(f"{options.file} is of {recording.venue}; this measures frames of Binance")
        found = measure(recording, options.streams.split(","), options.rounds)
    except DataFileError as error:
        parser.error(str(error))
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    print(f"{options.file.name}: {found['frames']} frames, {found['bytes']} bytes, {found['levels']} levels")  # noqa: T201
    for name, value in found["us_per_frame"].items():
        print(f"  {name:24} {value:7.2f} us per frame  {found['mb_per_s'][name]:7.1f} MB/s")  # noqa: T201
    print(  # noqa: T201
        f"  json + dict takes {found['ratio']:.2f} times as long (lowest of {options.rounds} rounds:"
        f" {found['ratio_lowest']:.2f}; aim: {AIM:g}); {found['ratio_told']:.2f} with the ITCH messages,"
        f" {found['ratio_to_float']:.2f} against inexact floats"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
