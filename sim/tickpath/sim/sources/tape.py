"""The tape: a whole market in flat arrays, ready to be played, and what can be wrong with a file that should be one.

`tickpath.sim.sources.load` makes a tape of recorded files, `tickpath.sim.sources.generator` invents one. This
module does not import Numba.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tickpath.common.instruments import InstrumentError, Row, make_table, save_instruments

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


class Terms(NamedTuple):
    """How an instrument is traded: a row of the instrument table. A tape's price fields count in ticks of it, its
    quantities in lots. The default is Nasdaq's: 1/10000 dollar, orders in whole cents, one share."""

    tick_size: str = "0.0001"
    price_step_ticks: int = 100
    lot_size: str = "1"
    multiplier: str = "1"
    currency: str = "USD"


class DataFileError(Exception):
    """A data file cannot be played; the message says which, what is wrong with it, where, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Tape:
    """All messages of a market, in the order in which they are sent.

    Message i is ``data[offsets[i] + 2 : offsets[i + 1]]``; the two bytes before it are its length.
    """

    data: Bytes  # uint8[bytes]: ITCH 5.0 messages back to back, a big-endian u16 length before each
    offsets: Ints  # int64[n + 1]: byte at which the length of each message stands; the last is the end
    time_ns: Ints  # int64[n]: exchange time to send each message at, ns after midnight, never going back
    symbols: dict[str, int]  # symbol -> stock locate, of all symbols that have orders or trades
    source: str  # what this is, for people
    counts: dict[str, int]  # messages by type letter
    findings: dict[str, int] = field(default_factory=dict)  # what is odd about the data; see FINDINGS
    terms: dict[str, Terms] = field(default_factory=dict)  # of the symbols that are not traded on Nasdaq's

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def duration_ns(self) -> int:
        """Exchange time from the first message to the last."""
        return int(self.time_ns[-1] - self.time_ns[0]) if len(self) else 0

    def message(self, index: int) -> bytes:
        """One message without its length."""
        return bytes(self.data[self.offsets[index] + 2 : self.offsets[index + 1]])


#: Bytes of a datagram with the longest message that the exchange makes by itself (to clear a book), 25.
_MIN_DATAGRAM: Final = 20 + 2 + 25


def datagram_size(tape: Tape, wanted: int) -> int:
    """Bytes of the largest datagram: as `wanted`, or what the largest message of the tape needs."""
    largest = int(np.diff(tape.offsets).max()) if len(tape) else 0
    return max(wanted, 20 + largest, _MIN_DATAGRAM)


#: What can be found in a tape's `findings`; a key is missing where it is 0.
FINDINGS: Final[dict[str, str]] = {
    "unknown_types": "messages of a type that ITCH 5.0 does not have; they are kept",
    "capture_cut_off": "captures that end inside a packet; what is before that is played",
    "fragments": "captures: packets that are fragments of a datagram; they are left out",
    "cut_short_packets": "captures: packets that were not captured whole; they are left out",
    "other_packets": "captures: packets that are not UDP on IPv4, or not of the protocol that is played",
    "missed_datagrams": "recordings: datagrams that came faster than the recorder could take them",
    "short_messages": "captures: messages with fewer bytes than their type has; they are left out",
    "repeated_messages": "captures: copies of messages from another line or sent again; the first copy is played",
    "reordered_messages": "captures: messages that came after a later one; they are played in their place",
    "unnumbered_messages": "captures: messages of packets that all have the number 0; they are played as they came",
    "gaps": "captures: places where messages (CME: packets, on all feeds) are missing in the numbering",
    "missing_messages": "captures: messages missing there",
    "missing_packets": "CME: packets missing there; the books of their channel begin anew",
    "repeated_packets": "CME: copies of packets from the other feed; the first copy in the file is played",
    "differing_packets": "CME: copies with the number of a packet that was there before, and other bytes",
    "reordered_packets": "CME: packets that came after a later one; they are played in their place",
    "damaged_messages": "CME: messages whose entries are not within them; they are left out",
    "other_templates": "CME: messages of templates that are neither book nor trade (status, statistics, heartbeats)",
    "implied_levels": "CME: entries of implied books; they are left out",
    "unannounced_levels": "CME: changes of levels that nothing was known of; they are added",
    "unknown_levels": "CME: levels deleted that nothing was known of",
    "moved_levels": "CME: changes of a level with another price than it had; the newer counts",
    "stale_levels": "CME: levels deleted because a newer one at another place contradicts their price",
    "unchanged_levels": "CME: levels told again with the same price and size",
    "cleared_books": "CME: books emptied by a reset, or because packets are missing",
    "corrected_trades": "CME: trades changed or deleted afterwards; they stay as they were played",
    "times_back": "messages with an earlier time than the one before; they are sent at once after it",
    "end_marks": "frames of length 0 at the end of a file (end of session); they are left out",
    "locates_rewritten": "messages whose stock locate was changed because files were merged",
    "references_rewritten": "messages whose order references were changed because files were merged",
    "records": "market-by-order records of DBN files, rows of trade and quote files, book and trade entries of CME",
    "other_records": "DBN: records that are not market by order; they are left out",
    "cut_off_bytes": "DBN: bytes at the end that are no whole record; they are left out",
    "snapshot_records": "DBN: records that are the vendor's snapshot of the book, not events",
    "fills": "DBN: fills of resting orders; the trade is played, and the change of the book that follows",
    "ignored_records": "DBN: records that change nothing (status, the same price and size again)",
    "unknown_orders": "DBN: cancels of orders that were not added; nothing is played. Modifies of them add the order",
    "repeated_orders": "DBN: adds with the id of a live order, which they replace",
    "over_cancelled": "DBN: cancels of more than the order has; it is deleted",
    "bad_records": "records whose side, price or size cannot be played (no price, size 0, beyond 2**31 ticks)",
    "hours_shifted": "DBN, CME: hours taken off all times, so that a session across midnight UTC fits into a day",
    "renamed_symbols": "DBN, CME: instruments whose name is missing or does not fit; they have their id (DBN: hex)",
    "unchanged_quotes": "quotes equal to the one before of the same exchange and side; nothing is played",
    "stale_quotes": "quotes of other exchanges deleted because a newer quote of the other side would cross them",
    "crossed_quotes": "quotes whose own bid is not below their offer; they are played",
    "suspicious_records": "trades and quotes that the vendor marked as suspicious; they are played",
    "ws_bad_lines": "frames: lines that are no time and frame; they are left out",
    "ws_no_snapshot": "frames: a recording of Binance without a snapshot; its books fill up with what changes",
    "ws_malformed": "frames: text that is no JSON, or not what the venue sends",
    "ws_unknown": "frames: messages of a kind that is not known",
    "ws_foreign": "frames: messages of symbols that were not asked for",
    "ws_refused": "frames: error messages of the venue",
    "ws_gaps": "frames: places where the venue's numbers of book changes or messages jump",
    "ws_trade_gaps": "frames: places where the numbers of trades jump",
    "ws_resyncs": "frames: books thrown away because something was missing or wrong; empty until the next snapshot",
    "ws_checksums_wrong": "frames: books that did not have the checksum that the venue sent with them",
    "ws_before_snapshot": "frames: book changes that the snapshot contains already; they are left out",
    "ws_old": "frames: book changes older than the book; they are left out",
    "ws_old_snapshots": "frames: snapshots older than the first book change; they are left out",
    "ws_without_snapshot": "frames: book changes before the first snapshot; they are left out",
    "ws_kept_dropped": "frames: book changes given up because no snapshot came",
    "ws_crossed": "frames: times that a best bid was at or above the best offer",
    "ws_prices_hidden": "frames: levels and trades left out because their price does not fit",
    "ws_prices_rounded": "frames: prices rounded to ticks",
    "ws_quantities_rounded": "frames: quantities rounded to lots, at least one",
    "ws_quantities_cut": "frames: quantities larger than 2147483647 lots; that is what is played",
    "ws_digits_cut": "frames: numbers with more than 18 digits or 12 decimals",
    "events": "rows of LOBSTER message files",
    "announced_orders": "LOBSTER: synthetic orders added for size that the orderbook file shows and no event brought",
    "stale_orders": "LOBSTER: orders cancelled or reduced because they must have left the book unrecorded",
    "unknown_references": "LOBSTER: events that name an order not submitted in the file",
    "dropped_events": "LOBSTER: cancels and deletes of unknown orders, nothing to do for them (no orderbook file)",
    "named_orders_reduced": "LOBSTER: stale_orders that a later event names; they must have been reduced unrecorded",
}


def write_instruments(tape: Tape, path: Path) -> None:
    """Write the instrument table (CSV, see `tickpath.common.instruments`) of the tape's symbols, sorted by name.

    Raises DataFileError when the tape has no symbol or the file cannot be written.
    """
    rows: list[Row] = []
    for symbol in sorted(tape.symbols):
        terms = tape.terms.get(symbol, Terms())
        rows.append((symbol, *terms, terms.tick_size))
    try:
        save_instruments(make_table(rows), path)
    except InstrumentError as error:
        msg = f"no instrument table can be made of {tape.source}: {error}"
        raise DataFileError(msg) from None
    except OSError as error:
        msg = f"cannot write the instrument table {path}: {error.strerror}"
        raise DataFileError(msg) from None
