"""What both sides are given: the same recorded messages, as JSON lines and as datagrams; strategy, limits, symbol."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.protocols import itch50, moldudp64
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import Tape

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT.parent / "shared" / "data" / "lobster" / "AAPL_2012-06-21_34200000_37800000_message_50.csv.zst"
SYMBOL: Final = "AAPL"
#: As `tickpath.signals.strategies.ema_cross` has them by default.
STRATEGY: Final = {"fast": 5, "slow": 20, "volume_span": 20, "volume_factor": 1.0, "max_position_lots": 100}
STRATEGY_ID: Final = 1
SESSION: Final = moldudp64.session_id("PAPER")
SLOT_BYTES: Final = 2048  # of the socket's receive buffer, as in feed
_UNIT_BYTES: Final = 512  # longest datagram of one instant
_PRICE_UNIT: Final = 10_000  # of ITCH: 1/10000 dollar


@dataclass(frozen=True)
class Market:
    """A recorded hour twice: message for message the same.

    Unit i of the recording is one datagram, ``buffer[i, : lengths[i]]`` (MoldUDP64 with the messages of one instant),
    and the text ``lines[i]`` (one JSON object a line, the same messages).
    """

    buffer: npt.NDArray[np.uint8]  # uint8[n, bytes of the longest]
    lengths: npt.NDArray[np.int64]  # int64[n], bytes
    lines: tuple[bytes, ...]
    counts: npt.NDArray[np.int64]  # int64[n]: messages of each unit
    first_seq: npt.NDArray[np.int64]  # int64[n]: number of its first message
    tape: Tape

    def __len__(self) -> int:
        return len(self.lines)

    def packed(self, first: int, end: int) -> list[bytes]:
        """The messages of units `first` to ``end - 1`` in as few datagrams as hold them: an exchange in a hurry."""
        offsets = self.tape.offsets
        at = int(self.first_seq[first]) - 1
        last = int(self.first_seq[end - 1] + self.counts[end - 1]) - 1
        found = []
        while at < last:
            room = int(offsets[at]) + moldudp64.MAX_PACKET - moldudp64.HEADER_SIZE
            until = min(last, int(np.searchsorted(offsets, room, "right")) - 1)
            raw = bytes(self.tape.data[offsets[at] : offsets[until]])
            found.append(moldudp64.pack_header(SESSION, at + 1, until - at) + raw)
            at = until
        return found


def _as_json(seq: int, message: bytes) -> bytes:
    """One message as the JSON feed has it: prices in dollars, time in ns after midnight."""
    fields = itch50.decode(message)
    kind = fields["type"]
    out: dict[str, Any] = {"seq": seq, "type": kind, "ts": fields["timestamp"]}
    for name, there in (
        ("symbol", "stock"), ("ref", "order_ref"), ("side", "side"), ("shares", "shares"),
        ("shares", "executed_shares"), ("shares", "cancelled_shares"), ("match", "match_number"),
        ("event", "event_code"), ("state", "trading_state"),
    ):  # fmt: skip
        if there in fields:
            value = fields[there]
            out[name] = value.strip() if isinstance(value, str) else value
    if "price" in fields:
        out["price"] = fields["price"] / _PRICE_UNIT
    return json.dumps(out, separators=(",", ":")).encode() + b"\n"


def load_market(path: Path = FILE, messages: int = 1 << 30) -> Market:
    """The recorded file (about its first `messages`); raises `tickpath.sim.sources.tape.DataFileError`."""
    tape = load_tape([path])
    n = min(len(tape), messages)
    begins = [0]
    for i in range(1, n):
        size = moldudp64.HEADER_SIZE + int(tape.offsets[i + 1] - tape.offsets[begins[-1]])
        if tape.time_ns[i] != tape.time_ns[i - 1] or size > _UNIT_BYTES:
            begins.append(i)
    ends = [*begins[1:], n]
    buffer = np.zeros((len(begins), _UNIT_BYTES), np.uint8)
    lengths = np.zeros(len(begins), np.int64)
    lines = []
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        raw = moldudp64.pack_header(SESSION, begin + 1, end - begin)
        raw += bytes(tape.data[tape.offsets[begin] : tape.offsets[end]])
        buffer[row, : len(raw)] = np.frombuffer(raw, np.uint8)
        lengths[row] = len(raw)
        lines.append(b"".join(_as_json(i + 1, tape.message(i)) for i in range(begin, end)))
    counts = np.array(ends) - np.array(begins)
    return Market(buffer, lengths, tuple(lines), counts, np.array(begins) + 1, tape)


def shipped_limits() -> dict[str, Any]:
    """Section [risk] of tickpath.toml: ``limits`` of each instrument, and those over all of them."""
    found: dict[str, Any] = tomllib.loads((ROOT / "tickpath.toml").read_text("utf-8"))["risk"]
    return found
