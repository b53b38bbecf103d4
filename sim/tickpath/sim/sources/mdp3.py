"""Captures of CME's MDP 3.0 (SBE): both feeds arbitrated, books of price levels told as ITCH 5.0.

| message | becomes |
| --- | --- |
| 32, 46 MDIncrementalRefreshBook, a level | an order for each level: A, X where only the size falls, U, D |
| the same, implied levels | nothing; they are counted |
| 42, 48 MDIncrementalRefreshTradeSummary | P with the whole size, for the side that the aggressor is not on |
| 4 ChannelReset, a book reset, packets that no feed brought | D of all levels of the books concerned |
| 27, 29, 41, 54, 55, 56 instrument definitions | the symbol |
| all others | nothing; they are counted |

*Channels.* Lines (address and port) that have brought the same messages under the same MsgSeqNum are feeds of one
channel. Each number of a channel is played once, the copy that is first in the file, in the order of the numbers.
Channels are merged by SendingTime, which is also the time of what is told, in ns after midnight UTC.

*Levels* are places in a book of limited depth: a new level moves those from its place on down, the last falls out;
one that goes moves up what is below it. A capture begins in the middle and has no snapshot, so nothing is known of a
level until it is named: one that changes without having been announced is added then. The depth is in no message
either: it is the smallest of CME's depths (3, 5, 10) that has all the places that the capture names of an instrument.

Prices have 7 decimals on the wire (9 in 46 and 48) and are not scaled by the contract's display factor. The tick is
0.01 or finer where prices need it, the step what all prices have in common; the multiplier is 1, the currency USD.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tickpath.sim.sources.encode import after_midnight, find_terms, tape_of
from tickpath.sim.sources.kernels import mdp3 as kernels
from tickpath.sim.sources.kernels.encode import MESSAGE
from tickpath.sim.sources.kernels.pcap import ADDRESS, PAYLOAD_AT, PORT, TIME
from tickpath.sim.sources.pcap import line_name
from tickpath.sim.sources.tape import Bytes, DataFileError, Ints, Tape, Terms

_ALLOWED: Final = (
    "allowed: captures of CME MDP 3.0 with incremental refreshes by price (templates 32 and 42, or 46 and 48)"
)
_DECIMALS: Final = 9  # of prices from here on
_WANTED_DECIMALS: Final = 2
_SCALE: Final = 100  # from the wire's 7 decimals
_LARGEST_PRICE: Final = 2**31 * 10**_DECIMALS  # no tick is larger than 1
_MAX_TICKS: Final = 2**31 - 1
_DEPTHS: Final = (3, 5, 10)
_N_LOCATES: Final = 1 << 16
_SYMBOL: Final = re.compile(r"[!-~]{1,8}")
#: Templates of instrument definitions, and where in their root block Symbol (char[20]) and SecurityID (i32) are.
_DEFINITIONS: Final = (27, 29, 41, 54, 55, 56)
_SYMBOL_AT, _SECURITY_AT, _ROOT_AT = 35, 55, 10
#: Templates that are told.
_TOLD: Final = (kernels.CHANNEL_RESET, kernels.BOOK, kernels.TRADES, kernels.BOOK_9, kernels.TRADES_9, *_DEFINITIONS)


class Feed(NamedTuple):
    """What came on one multicast line."""

    channel: int
    packets: int
    first_seq: int
    last_seq: int
    gaps: int  # places where numbers are missing on this line
    missing: int  # how many
    first_copies: int  # packets that no other line had brought before, in the order of the file


@dataclass(frozen=True, slots=True)
class Mdp3:
    """The packets of a capture, each once, and what is in them."""

    feeds: dict[str, Feed]  # by address:port
    packets: Ints  # int64[n, PACKET_COLUMNS]: the first copy of each, in the order in which they are played
    lags_ns: Ints  # int64[copies]: capture time of each later copy after the first
    messages: Ints  # int64[m, MESSAGE_COLUMNS] (see `kernels.messages`)
    entries: npt.NDArray[np.void]  # ENTRY[k]: levels, trades and resets
    findings: dict[str, int]

    @property
    def templates(self) -> dict[int, int]:
        """Messages by template id."""
        return Counter(self.messages[:, kernels.TEMPLATE].tolist())

    @property
    def schemas(self) -> set[tuple[int, int]]:
        """(schema id, version) of all messages."""
        return {(schema, version) for schema, version in self.messages[:, [kernels.SCHEMA, kernels.VERSION]].tolist()}


def has_mdp3(data: Bytes, packets: Ints) -> bool:
    """Whether one of the packets of a capture carries MDP 3.0."""
    return bool(_found(data, packets).any())


def load_mdp3(path: Path, data: Bytes, packets: Ints, findings: dict[str, int], locate: int) -> Tape:
    """Tape of a capture with the bytes `data`, as `pcap.read_packets` has read it. Raises DataFileError."""
    return encode_mdp3(path, data, read_mdp3(data, packets, findings), locate)[0]


def read_mdp3(data: Bytes, packets: Ints, findings: dict[str, int]) -> Mdp3:
    """The packets of all feeds, arbitrated. `findings` are those of `pcap.read_packets`."""
    is_mdp3 = _found(data, packets)
    ours = packets[is_mdp3]
    findings = findings | {"other_packets": findings["other_packets"] - len(ours)}
    first, channels, gaps, lags_ns, feeds = _arbitrate(data, ours, findings)
    kept = np.ascontiguousarray(ours[first])
    messages = np.empty((kernels.messages(data, kept, np.empty((0, kernels.MESSAGE_COLUMNS), np.int64)), 5), np.int64)
    kernels.messages(data, kept, messages)
    damaged = np.zeros(1, np.int64)
    n = kernels.decode(data, kept, channels, gaps, messages, np.empty(0, kernels.ENTRY), damaged)
    entries = np.zeros(n, kernels.ENTRY)
    kernels.decode(data, kept, channels, gaps, messages, entries, damaged)
    findings["damaged_messages"] = int(damaged[0])
    findings["other_templates"] = int((~np.isin(messages[:, kernels.TEMPLATE], _TOLD)).sum())
    return Mdp3(feeds, kept, lags_ns, messages, entries, findings)


def encode_mdp3(path: Path, data: Bytes, capture: Mdp3, locate: int) -> tuple[Tape, Ints]:
    """The tape, and int64[entries]: how many of its messages are sent after each entry. Raises DataFileError."""
    entries, findings = capture.entries, dict(capture.findings)
    is_played = np.isin(entries["kind"], (kernels.BID, kernels.OFFER, kernels.TRADED))
    if not is_played.any():
        named = ", ".join(f"{n} of template {template}" for template, n in sorted(capture.templates.items()))
        msg = f"{path}: there is no book and no trade in its messages of CME MDP 3.0: {named}; {_ALLOWED}"
        raise DataFileError(msg)
    ids, firsts = np.unique(entries["security"][is_played], return_index=True)
    if locate + len(ids) > _N_LOCATES:
        msg = f"{path}: there are {len(ids)} instruments in it; allowed are at most {_N_LOCATES - locate}"
        raise DataFileError(msg)
    instruments = np.searchsorted(ids, entries["security"]).clip(0, len(ids) - 1)
    instruments[ids[instruments] != entries["security"]] = -1
    symbols = _symbols(ids.tolist(), _definitions(data, capture.messages), findings)
    prices, has_price = _prices(entries)
    terms: dict[str, Terms] = {}
    ticks = np.zeros(len(entries), np.int64)
    for i, symbol in enumerate(symbols):
        own = has_price & (instruments == i)
        unit, terms[symbol] = find_terms(path, symbol, prices[own], _DECIMALS, _WANTED_DECIMALS)
        ticks[own] = prices[own] // unit
    ticks[ticks > _MAX_TICKS] = 0
    times, findings["hours_shifted"] = after_midnight(path, entries["sent_ns"])
    messages, entry_ends, made = _tell(
        entries, instruments, times, ticks, entries["channel"][is_played][firsts].astype(np.int64), locate << 40
    )
    findings |= {
        "records": int((entries["security"] != kernels.NO_SECURITY).sum()),
        "times_back": int(made[kernels.TIMES_BACK]),
        "bad_records": int(made[kernels.BAD]),
        "implied_levels": int(made[kernels.IMPLIED]),
        "unannounced_levels": int(made[kernels.UNANNOUNCED]),
        "unknown_levels": int(made[kernels.UNKNOWN]),
        "moved_levels": int(made[kernels.MOVED]),
        "stale_levels": int(made[kernels.STALE]),
        "unchanged_levels": int(made[kernels.UNCHANGED]),
        "cleared_books": int(made[kernels.CLEARED]),
        "corrected_trades": int(made[kernels.CORRECTIONS]),
    }
    locates = {symbol: locate + i for i, symbol in enumerate(symbols)}
    return tape_of(messages, locates, f"CME MDP 3.0 {path.name}", findings, terms), entry_ends


def _found(data: Bytes, packets: Ints) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(packets), np.bool_)
    kernels.find_packets(data, packets, found)
    return found


def _arbitrate(
    data: Bytes, packets: Ints, findings: dict[str, int]
) -> tuple[Ints, Ints, Ints, Ints, dict[str, Feed]]:
    """Rows of the first copies, in order; their channel; 1 where packets are missing before; lags; and the feeds."""
    seqs, sent_ns = _number(data, packets, 0, 4), _number(data, packets, 4, 8)
    names, line = np.unique(packets[:, [ADDRESS, PORT]], axis=0, return_inverse=True)
    digests = np.empty(len(packets), np.int64)
    kernels.digest(data, packets, digests)
    channel_of = _channels(line, seqs, digests, len(names))
    by_number = np.lexsort((seqs, channel_of[line]))  # stable: of copies, the first stays first
    is_first = np.ones(len(by_number), np.bool_)
    is_first[1:] = (np.diff(seqs[by_number]) != 0) | (np.diff(channel_of[line][by_number]) != 0)
    first = by_number[is_first]
    copies, copied = by_number[~is_first], first[np.cumsum(is_first) - 1][~is_first]
    channels = channel_of[line][first]
    steps = np.diff(seqs[first]) * (np.diff(channels) == 0)
    gaps = np.concatenate([[0], steps > 1]).astype(np.int64)
    latest = np.empty_like(first)
    played_ns = np.empty_like(first)
    for channel in np.unique(channels):
        own = channels == channel
        latest[own] = np.maximum.accumulate(first[own])
        played_ns[own] = np.maximum.accumulate(sent_ns[first][own])
    findings |= {
        "repeated_packets": len(copies),
        "differing_packets": kernels.count_differing(data, packets, copied, copies),
        "reordered_packets": int((first < latest).sum()),
        "gaps": int(gaps.sum()),
        "missing_packets": int((steps[steps > 1] - 1).sum()),
    }
    feeds = {}
    for i, (address, port) in enumerate(names.tolist()):
        own = np.unique(seqs[line == i])
        steps = np.diff(own)
        feeds[line_name(address, port)] = Feed(
            channel=int(channel_of[i]),
            packets=int((line == i).sum()),
            first_seq=int(own[0]),
            last_seq=int(own[-1]),
            gaps=int((steps > 1).sum()),
            missing=int((steps - 1).sum()),
            first_copies=int((line[first] == i).sum()),
        )
    played = np.argsort(played_ns, kind="stable")
    lags_ns = packets[copies, TIME] - packets[copied, TIME]
    return first[played], channels[played], gaps[played], lags_ns, feeds


def _channels(line: Ints, seqs: Ints, digests: Ints, n_lines: int) -> Ints:
    """int64[n_lines]: channel of each line; those that share a packet have the same."""
    order = np.lexsort((digests, seqs))
    same = (np.diff(seqs[order]) == 0) & (np.diff(digests[order]) == 0) & (digests[order][1:] != 0)
    pairs = np.stack([line[order][:-1][same], line[order][1:][same]], axis=1)
    channels = np.arange(n_lines)
    for one, other in np.unique(pairs, axis=0):
        channels[channels == channels[other]] = channels[one]
    return channels


def _number(data: Bytes, packets: Ints, offset: int, size: int) -> Ints:
    """A little-endian number in the header of each packet."""
    places = packets[:, PAYLOAD_AT, None] + offset + np.arange(size)
    numbers: Ints = np.ascontiguousarray(data[places]).view("<i8" if size == 8 else "<u4")[:, 0].astype(np.int64)
    return numbers


def _prices(entries: npt.NDArray[np.void]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Price of each entry in 1e-9, and whether it brings it into a book or prints it, and can be played."""
    is_level = np.isin(entries["kind"], (kernels.BID, kernels.OFFER)) & np.isin(
        entries["action"], (kernels.NEW, kernels.CHANGE, kernels.OVERLAY)
    )
    is_trade = (entries["kind"] == kernels.TRADED) & (entries["action"] == kernels.NEW)
    scale = np.where(np.isin(entries["template"], (kernels.BOOK, kernels.TRADES)), _SCALE, 1)
    has_price = (is_level | is_trade) & (entries["price"] > 0) & (entries["price"] <= _LARGEST_PRICE // scale)
    return np.where(has_price, entries["price"], 0) * scale, has_price


def _definitions(data: Bytes, messages: Ints) -> dict[int, str]:
    """Symbols by security id, of the definitions in a capture."""
    symbols = {}
    for row in messages[np.isin(messages[:, kernels.TEMPLATE], _DEFINITIONS)]:
        root = int(row[kernels.AT]) + _ROOT_AT
        block = int.from_bytes(data[root - 8 : root - 6].tobytes(), "little")
        if block >= _SECURITY_AT + 4:
            security = int.from_bytes(data[root + _SECURITY_AT :][:4].tobytes(), "little", signed=True)
            symbols[security] = (
                data[root + _SYMBOL_AT : root + _SECURITY_AT].tobytes().split(b"\0")[0].decode("latin-1")
            )
    return symbols


def _symbols(ids: list[int], defined: dict[int, str], findings: dict[str, int]) -> list[str]:
    """A symbol of 1 to 8 characters for each security: its own, where one is defined and fits, else its id."""
    names = [defined.get(one, "") for one in ids]
    good = [bool(_SYMBOL.fullmatch(name)) and not name.isdigit() and names.count(name) == 1 for name in names]
    findings["renamed_symbols"] = good.count(False)
    return [name if is_good else _short(one) for name, is_good, one in zip(names, good, ids, strict=True)]


def _short(security: int) -> str:
    """The id, in base 36 behind a mark where it is too long (CME's are not)."""
    return str(security) if 0 <= security < 10**8 else "#" + np.base_repr(security & 0xFFFFFFFF, 36)


def _tell(
    entries: npt.NDArray[np.void], instruments: Ints, times: Ints, ticks: Ints, channels: Ints, base: int
) -> tuple[npt.NDArray[np.void], Ints, Ints]:
    """(MESSAGE[...], entry_ends, made) of `kernels.tell`, with as much room as it takes."""
    deepest = np.zeros(len(channels), np.int64)
    of_book = np.isin(entries["kind"], (kernels.BID, kernels.OFFER))
    np.maximum.at(deepest, instruments[of_book], entries["level"][of_book])
    depths = [next((depth for depth in _DEPTHS if depth >= level), level) for level in deepest.tolist()]
    begins = np.concatenate([[0], np.cumsum(2 * np.array(depths, np.int64))])
    messages = np.empty(2 * len(entries) + 2 * len(channels) + 2, MESSAGE)
    entry_ends, made = np.empty(len(entries), np.int64), np.zeros(kernels.MADE_COLUMNS, np.int64)
    while True:
        made[:] = 0
        levels = np.zeros((int(begins[-1]), kernels.LEVEL_COLUMNS), np.int64)
        kernels.tell(entries, instruments, times, ticks, channels, begins, levels, base, messages, entry_ends, made)
        needed = int(made[kernels.MESSAGES])
        if needed <= len(messages):
            return messages[:needed], entry_ends, made
        messages = np.empty(needed, MESSAGE)
