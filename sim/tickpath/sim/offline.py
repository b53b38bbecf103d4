"""The exchange for replay: the same tape, book, matching and answers as live; no sockets, no clock, no Python.

A compiled loop gets ``OfflineExchange(...).replay`` (type `REPLAY`), and calls from `tickpath.sim.kernels.offline`

- ``next_datagram(replay) -> n`` puts the next MoldUDP64 datagram into ``replay.datagram`` (uint8[1, size], its bytes
  are ``replay.lengths[0]``), applies its n messages to the book and appends the reports of resting orders that they
  fill. 0: the tape is through; -1: nothing was done, because reports have to be taken first.
- ``take_orders(replay, address, size, arrived_ns) -> done`` works on the SoupBinTCP packets in the `size` bytes at an
  address and appends the answers; `done` of the bytes need not come again.
- ``end_of_day(replay)``, after the last datagram, appends the report that the live exchange sends at the end of its
  tape.

in this order, as the live exchange does at ``sim.speed = "step"``: a datagram, then what the pipeline sent because of
it, then the reports of both to the client:

    while next_datagram(replay) > 0:
        ...                       # feed decodes replay.datagram[0, : replay.lengths[0]]; signals, risk, exec
        take_orders(replay, send_address, send_bytes, now)
        ...                       # exec reads replay.desk.reports[: replay.desk.words[N_BYTES]]
        replay.desk.words[N_REPORTS] = replay.desk.words[N_BYTES] = 0

Reports are complete SoupBinTCP packets ``S``, back to back from the first byte of ``replay.desk.reports`` on, so that
exec may read them where they are: ``replay.desk.reports.ctypes.data`` is their address. The first one, there from the
beginning, is the start of the day, which a client finds in its log when it logs in. All three functions are inlined
into their caller, which must be compiled for `REPLAY` (or get it as one of its arguments).

What a datagram holds is a function of the tape alone: see `tickpath.sim.kernels.wire.pack_step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.protocols.moldudp64 import session_id
from tickpath.sim.kernels import entry, matching, wire
from tickpath.sim.kernels import offline as kernels
from tickpath.sim.kernels.entry import N_BYTES, N_REPORTS, Desk
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.kernels.offline import REPLAY, Replay
from tickpath.sim.layout import ORDER_CAPACITY
from tickpath.sim.sources.tape import Tape, datagram_size

__all__ = ["REPLAY", "OfflineExchange", "exchange_for"]

_MIN_BOOK_ORDERS: Final = 1024
_MOST_MESSAGES: Final = 65507 // 13  # of a datagram


def exchange_for(
    tape: Tape, symbols: Sequence[str], *, order_capacity: int, level_capacity: int, **memory: Any
) -> tuple[Exchange, Mapping[str, int]]:
    """An exchange sized for `tape`, and the stock locates of those of `symbols` that are in it.

    Prices of orders must be multiples of the step in the tape's terms, or follow Nasdaq's rule where it has none. The
    books have room for every order of the tape, but at most for `order_capacity`, and for `level_capacity` prices a
    side. `memory` goes to `Exchange.create`.
    """
    listed = {symbol: tape.symbols[symbol] for symbol in symbols if symbol in tape.symbols}
    adds = tape.counts.get("A", 0) + tape.counts.get("F", 0)
    room = max(_MIN_BOOK_ORDERS, min(adds, order_capacity))
    exchange = Exchange.create(len(symbols), room, level_capacity, **memory)
    for row, symbol in enumerate(symbols):
        if symbol in tape.terms:
            exchange.price_steps[row] = tape.terms[symbol].price_step_ticks
    return exchange, listed


class OfflineExchange:
    """Everything that ``replay`` needs, made once; and its three functions for callers in Python."""

    def __init__(
        self,
        tape: Tape,
        symbols: Sequence[str],
        *,
        session: str = "TICKPATH01",
        datagram_bytes: int = 1400,
        order_capacity: int = 1 << 20,
        level_capacity: int = 4096,
    ) -> None:
        """Instrument i is ``symbols[i]``. For answers identical to the live exchange's, give it the same settings:
        ``sim.session``, ``sim.datagram_bytes``, ``feed.order_capacity``, ``feed.level_capacity``.
        """
        exchange, listed = exchange_for(tape, symbols, order_capacity=order_capacity, level_capacity=level_capacity)
        for instrument, symbol in enumerate(symbols):
            if symbol in listed:
                exchange.book.locate[listed[symbol]] = instrument
        exchange.state[matching.EXCH_NS] = int(tape.time_ns[0]) if len(tape) else 0
        # A datagram completes at most all live orders, and fills a part of two for each of its messages.
        answers = ORDER_CAPACITY + 2 * _MOST_MESSAGES + 2 * entry.ANSWERS
        desk = Desk.create(exchange, symbols, listed, answers=answers)
        size = datagram_size(tape, datagram_bytes)
        plan = np.zeros(wire.PLAN_SIZE, np.int64)
        plan[wire.NEXT_SEQ], plan[wire.DATAGRAM_BYTES] = 1, size
        flat = np.zeros(size, np.uint8)
        self.listed: Final = listed
        self.replay: Final = Replay(
            exchange, desk, tape.data, tape.offsets, tape.time_ns,
            np.frombuffer(session_id(session), np.uint8).copy(), plan, np.zeros((1, 4), np.int64),
            flat, flat.reshape(1, size), np.zeros(1, np.int64), np.zeros(1, np.int64),
        )  # fmt: skip
        entry.event(exchange, desk, 0, ord("S"))

    def next_datagram(self) -> bytes:
        """The next datagram, applied to the book; nothing when the tape is through.

        Raises BufferError when reports have to be taken first.
        """
        n = int(kernels.next_datagram_once(self.replay))
        if n < 0:
            msg = f"{int(self.replay.desk.words[N_REPORTS])} reports wait: take them before the next datagram"
            raise BufferError(msg)
        return self.replay.flat[: self.replay.lengths[0]].tobytes() if n else b""

    def take_orders(self, packets: npt.NDArray[np.uint8], arrived_ns: int = 0) -> int:
        """Work on SoupBinTCP packets; returns the number of bytes that are done."""
        return int(kernels.take_orders_once(self.replay, packets.ctypes.data, len(packets), arrived_ns))

    def end_of_day(self) -> None:
        """Close, and tell the client."""
        kernels.end_of_day_once(self.replay)

    def take_reports(self) -> bytes:
        """All reports that wait, as SoupBinTCP packets."""
        words = self.replay.desk.words
        taken = self.replay.desk.reports[: words[N_BYTES]].tobytes()
        words[[N_REPORTS, N_BYTES]] = 0
        return taken
