"""The orders of a trading day: pool, indexes and journal behind one object, with the kernels as its methods.

Everything here is a function of the journal: opening one replays it and gives the same pool, the same indexes and
the same next UserRefNum, byte for byte.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common import histogram
from tickpath.common.jit import direct
from tickpath.common.records import FIRST_TERMINAL_STATE, REPORT, ExecEvent, OrderState
from tickpath.exec.journal import Journal, JournalError, Reports
from tickpath.exec.kernels import orders as pool_kernels
from tickpath.exec.kernels import ouch
from tickpath.exec.kernels.orders import ENTRIES_PER_OPEN, ENTRIES_RESERVED
from tickpath.exec.layout import Counter, Hop, Reg, Sweep
from tickpath.exec.lifecycle import Refusal

Words = npt.NDArray[np.int64]

#: Orders that a trading day may have, refused ones included.
DAY_ORDERS: Final = 1 << 20

_accept = direct(ouch.accept)


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.ctypes.data)


class Orders:
    """Order pool of REPORT[capacity] (the last report of each open order), its indexes, and the journal.

    `instruments` is INSTRUMENT[n]; `counters` and `hist` are the arrays of the hot page (int64[Counter] and
    int64[Hop, HIST_SIZE]). Raises JournalError when the journal does not fit the capacities.
    """

    def __init__(
        self,
        journal: Journal,
        instruments: npt.NDArray[np.void],
        counters: Words | None = None,
        hist: Words | None = None,
        *,
        capacity: int = 1 << 16,
        day_orders: int = DAY_ORDERS,
    ) -> None:
        self.journal = journal
        self.counters = np.zeros(len(Counter), dtype=np.int64) if counters is None else counters
        self.hist = histogram.empty(len(Hop)) if hist is None else hist
        self.pool: Reports = np.zeros(capacity + 1, dtype=REPORT)
        self.free: Words = np.arange(capacity - 1, -1, -1, dtype=np.int64)
        self.cancel_ns: Words = np.zeros(capacity + 1, dtype=np.int64)
        ids = 1 << max(4, (2 * day_orders - 1).bit_length())
        self.ids: Words = np.zeros((ids, 2), dtype=np.int64)
        self.refs: Words = np.zeros(day_orders + 1, dtype=np.int64)
        self.factors: Words = np.column_stack((instruments["price_units_per_tick"], instruments["lot_size"]))
        self.factors = np.ascontiguousarray(self.factors, dtype=np.int64)
        for array in (self.pool, self.cancel_ns, self.ids, self.refs):
            array.view(np.uint8).fill(0)  # memory that was never written is not there yet
        self.ctx: Words = np.zeros(len(Reg), dtype=np.int64)
        ctx = self.ctx
        ctx[Reg.POOL], ctx[Reg.POOL_CAPACITY] = _address(self.pool), capacity
        ctx[Reg.FREE], ctx[Reg.FREE_COUNT] = _address(self.free), capacity
        ctx[Reg.CANCEL_NS] = _address(self.cancel_ns)
        ctx[Reg.IDS], ctx[Reg.IDS_MASK] = _address(self.ids), ids - 1
        ctx[Reg.REFS], ctx[Reg.REFS_CAPACITY], ctx[Reg.NEXT_REF] = _address(self.refs), len(self.refs), 1
        ctx[Reg.COUNTERS], ctx[Reg.HISTS] = _address(self.counters), _address(self.hist)
        ctx[Reg.FACTORS], ctx[Reg.INSTRUMENTS] = _address(self.factors), len(self.factors)
        ctx[Reg.REFUSE] = Refusal.NOT_CONNECTED
        ctx[Reg.VENUE_NEXT] = 1
        self.counters[Counter.JOURNAL_TORN_BYTES] = journal.torn_bytes
        self._replay()
        self._bind_segment()

    def _replay(self) -> None:
        session_from = self.journal.venue_session()[1]
        seq = 1
        while len(entries := self.journal.read(seq, 4096)):
            done = pool_kernels.replay(self.ctx, _address(entries), len(entries))
            if done < len(entries):
                msg = (
                    f"{self.journal.folder}: entry {seq + done} does not fit: raise exec.order_capacity (now "
                    f"{self.ctx[Reg.POOL_CAPACITY]}); a day may have {len(self.refs) - 1} orders"
                )
                raise JournalError(msg)
            of_session = entries["venue_seq"][entries["seq"] >= session_from]
            if len(of_session):
                self.ctx[Reg.VENUE_NEXT] = max(int(self.ctx[Reg.VENUE_NEXT]), int(of_session.max()) + 1)
            seq += len(entries)
        self.ctx[Reg.NEXT_SEQ] = seq

    def _bind_segment(self) -> None:
        journal = self.journal
        self.ctx[Reg.SEGMENT] = _address(journal.present)
        self.ctx[Reg.SEGMENT_FIRST] = journal.first_seq
        self.ctx[Reg.SEGMENT_ENTRIES] = journal.segment_entries
        self._note_spare()

    def _note_spare(self) -> None:
        self.ctx[Reg.SPARE_ENTRIES] = self.journal.segment_entries if self.journal.has_spare else 0
        self.counters[Counter.JOURNAL_ERRORS] = self.journal.errors

    def _roll(self) -> bool:
        self.journal.publish(int(self.ctx[Reg.NEXT_SEQ]))
        if not self.journal.roll():
            self._note_spare()
            return False
        self.counters[Counter.JOURNAL_SEGMENTS] += 1
        self._bind_segment()
        self._keep_spare()
        return True

    def publish(self) -> None:
        """Make known what kernels have appended to the journal; on disk when this returns, if so configured."""
        journal = self.journal
        next_seq = int(self.ctx[Reg.NEXT_SEQ])
        if next_seq != journal.next_seq:
            journal.publish(next_seq)
            self._keep_spare()

    def _keep_spare(self) -> None:
        """Make the next segment before orders would be refused; `tend` does it earlier, when there is time."""
        journal = self.journal
        if not journal.has_spare:
            reserved = ENTRIES_RESERVED + ENTRIES_PER_OPEN * (self.open_count + 1)
            if journal.room < max(journal.segment_entries // 8, 2 * reserved):
                self.prepare_segment()

    def prepare_segment(self) -> bool:
        """Make the journal's next segment, if it is not there; False when the disk does not give it."""
        made = self.journal.has_spare or self.journal.prepare()
        self._note_spare()
        return made

    # What the gateway does with orders.

    def accept(self, orders: npt.NDArray[np.void], now_ns: int) -> int:
        """Journal and encode ORDER[n] (see `kernels.ouch.accept`).

        Returns how many were dealt with: less than all only when the journal has no room at all. The entries are
        published, and on disk if so configured, when this returns: only then may the bytes be sent.
        """
        done = int(_accept(self.ctx, orders, now_ns))
        while done < len(orders) and self._roll():
            done += int(_accept(self.ctx, orders[done:], now_ns))
        self.publish()
        return done

    def decode(self, start: int, end: int, now_ns: int) -> int:
        """Apply received packets (see `kernels.ouch.decode`), making room in the journal as needed."""
        at = int(ouch.decode(self.ctx, start, end, now_ns))
        self.publish()
        return at

    def roll(self) -> bool:
        """Begin the journal's next segment after a kernel said that the present one is full."""
        return self._roll()

    def sweep(self, what: Sweep, argument: int, now_ns: int) -> bool:
        """Do something to every open order; False when the journal has no room: call again later to go on."""
        done = bool(ouch.sweep(self.ctx, what, argument, now_ns))
        while not done and self._roll():
            done = bool(ouch.sweep(self.ctx, what, argument, now_ns))
        self.publish()
        return done

    def revive(self, ref: int) -> None:
        """Take a finished order back into the pool, from the journal."""
        final = self.journal.read(-int(self.refs[ref]), 1)
        pool_kernels.revive(self.ctx, _address(final))

    def break_trade(self, ref: int, match_number: int, reason: int, venue_seq: int, now_ns: int) -> bool:
        """Take a trade back: journaled as a FILL of negative lots. False when no such trade is in the journal.

        The lots do not become open again. Raises JournalError when there is no room to journal it.
        """
        if self.ctx[Reg.NEXT_SEQ] >= self.ctx[Reg.SEGMENT_FIRST] + self.ctx[Reg.SEGMENT_ENTRIES] and not self._roll():
            msg = f"{self.journal.folder}: no room to journal a broken trade"
            raise JournalError(msg)
        trade = self._trade(ref, match_number)
        if trade is None:
            return False
        if self.refs[ref] < 0:
            self.revive(ref)
        pool_kernels.break_trade(
            self.ctx, int(self.refs[ref]) - 1, int(trade["last_lots"]), int(trade["last_ticks"]), match_number,
            reason, venue_seq, now_ns,
        )  # fmt: skip
        self.publish()
        return True

    def _trade(self, ref: int, match_number: int) -> Any:
        found = None
        seq = 1
        while len(entries := self.journal.read(seq, 4096)):
            mine = (entries["user_ref"] == ref) & (entries["match_number"] == match_number)
            for entry in entries[mine & (entries["event"] == ExecEvent.FILL)]:
                found = entry.copy() if entry["last_lots"] > 0 else None  # a negative one took it back already
            seq += len(entries)
        return found

    def set_refusal(self, refusal: Refusal | None) -> None:
        """Refuse all new orders with this reason from now on; None: take them."""
        self.ctx[Reg.REFUSE] = 0 if refusal is None else refusal

    @property
    def open_count(self) -> int:
        """Orders that are not terminal."""
        return int(self.ctx[Reg.OPEN])

    def open_orders(self) -> Reports:
        """The last report of every open order, a copy."""
        used = self.pool[: int(self.ctx[Reg.HIGH])]
        state = used["state"]
        live: Reports = used[(state != OrderState.NONE) & (state < FIRST_TERMINAL_STATE)]
        return live

    def tend(self, now_ns: int) -> None:
        """Keep the next segment ready and write to disk at intervals; call it when there is time."""
        if not self.journal.has_spare:
            self.prepare_segment()
        self.journal.tend(now_ns)
