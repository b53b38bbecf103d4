"""Market data: messages per second from bytes to fields, to books, to tick records, and from a UDP socket.

One core, recorded data, warm. Rates are of the thread's own time (what other processes took of the core does not
count), best of the rounds, the ways in turns. A tape is closed with deletes of the orders that are left at its end:
so it can be applied again and again to the same book.

- *walk*: from length to length, the type of each message: the floor that the others are ratios of
- *decode*: walk, and every field that the book needs of each message, folded into one word
- *+ book*: `apply_blocks`, with the order table of the default configuration
- *+ ticks*: feed's `decode` over MoldUDP64 datagrams, as full as they go, and as the exchange packs them at the
  recorded pace
- *instruments*: the same messages for so many copies of the instrument, each with references of its own; the copies
  take turns message by message, which no market does: the worst case for the cache
- *one message*: p50 and p99 of batches of 64 messages, the clock read in the kernel, divided by 64
- *UDP*: a process on another core sends; one receiver only takes the datagrams (`recvmmsg`), the other makes ticks of
  them. The sender waits when 256 are under way, so nothing is lost; what is compared is the rate of messages. The
  aim is for datagrams as the exchange packs them; full ones are 27 times fewer, so there the kernel counts, not the
  system.

Left out: the loop around the kernel, links, and the path of crypto venues (``bench json_path``).

    tickpath bench feed [--json] [--quick] [--no-udp]
"""

from __future__ import annotations

import argparse
import io
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard
from numba import from_dtype, int64, types
from rich.console import Console
from rich.table import Table

from tickpath.cli.machine import describe_machine, machine
from tickpath.common.config import FeedConfig
from tickpath.common.instruments import make_table
from tickpath.common.jit import kernel
from tickpath.common.kernels.atomics import load_acquire, store_release
from tickpath.common.kernels.book import BOOK, Book, Result, apply_blocks
from tickpath.common.kernels.itch import LENGTHS, be16, be32, be48, be64, count_frames
from tickpath.common.kernels.net import MESSAGES, DatagramReceiver, receive_batch
from tickpath.common.kernels.waiting import monotonic_ns
from tickpath.common.protocols import itch50
from tickpath.common.records import TICK
from tickpath.common.udp import open_udp_socket
from tickpath.feed.kernels.decode import STATE, State, decode, make_state
from tickpath.feed.layout import Channel, Count, Line
from tickpath.sim.kernels import wire
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import DataFileError

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data"
FILES: Final = {
    "AAPL, best level": "lobster/AAPL_2012-06-21_34200000_57600000_message_1.csv.zst",
    "AAPL, 50 levels": "lobster/AAPL_2012-06-21_34200000_37800000_message_50.csv.zst",
    "AMZN, 5 levels": "lobster/AMZN_2012-06-21_34200000_57600000_message_5.csv.zst",
    "AAPL, ITCH": "itch/nasdaq_itch50_20200130_AAPL_first10000.itch",
}
MAIN: Final = "AAPL, best level"
DEEP: Final = "AAPL, 50 levels"
BURST: Final = "itch/nasdaq_itch50_20200130_head_69515.itch.zst"
INSTRUMENTS: Final = (1, 8, 64, 512, 4096, 8192)
DECODE_AIM, BOOK_AIM, UDP_AIM = 60.0, 15.0, 0.8  # M messages/s, M messages/s, of the bare loop
BATCH: Final = 64
IN_FLIGHT: Final = 256
DATAGRAM_BYTES: Final = 1400
GIVE_UP_NS: Final = 10_000_000_000

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_BYTES, _INTS = types.uint8[::1], types.int64[::1]
_TICKS = from_dtype(TICK)[::1]
_A, _F, _E, _C, _X, _D, _U, _P, _Q, _B, _S, _H, _OP_HALT = (ord(letter) for letter in "AFECXDUPQBSHh")
_LINE_A = int(Line.A)
_send = types.ExternalFunction("send", types.intp(types.int32, types.intp, types.uintp, types.int32))

# Words that the two processes of the UDP comparison share, each in a cache line of its own.
GO, RECEIVED = 0, 8


# --- compiled ------------------------------------------------------------------------------------------------------


@kernel(int64(_BYTES, int64, int64))
def walk(buf, at, n):
    """From length to length over `n` messages; their types, folded."""
    folded = 0
    for _ in range(n):
        length = be16(buf, at)
        folded ^= buf[at + 2]
        at += 2 + length
    return folded


@kernel(int64(_BYTES, int64, int64))
def fields(buf, at, n):
    """The fields of `n` messages that a book needs, folded; each message is checked as the book checks it."""
    folded = 0
    for _ in range(n):
        length = be16(buf, at)
        m = at + 2
        at = m + length
        kind = int64(buf[m]) if length > 0 else 0
        size = LENGTHS[kind]
        if size == 0 or length < size:
            continue
        folded ^= kind ^ be16(buf, m + 1) ^ be48(buf, m + 5)
        if kind in (_A, _F):
            folded ^= be64(buf, m + 11) ^ buf[m + 19] ^ be32(buf, m + 20) ^ be32(buf, m + 32)
        elif kind == _D:
            folded ^= be64(buf, m + 11)
        elif kind == _E:
            folded ^= be64(buf, m + 11) ^ be32(buf, m + 19) ^ be64(buf, m + 23)
        elif kind == _X:
            folded ^= be64(buf, m + 11) ^ be32(buf, m + 19)
        elif kind == _U:
            folded ^= be64(buf, m + 11) ^ be64(buf, m + 19) ^ be32(buf, m + 27) ^ be32(buf, m + 31)
        elif kind == _C:
            folded ^= be64(buf, m + 11) ^ be32(buf, m + 19) ^ be64(buf, m + 23) ^ buf[m + 31] ^ be32(buf, m + 32)
        elif kind == _P:
            folded ^= be64(buf, m + 11) ^ buf[m + 19] ^ be32(buf, m + 20) ^ be32(buf, m + 32) ^ be64(buf, m + 36)
        elif kind == _Q:
            folded ^= be64(buf, m + 11) ^ be32(buf, m + 27) ^ be64(buf, m + 31) ^ buf[m + 39]
        elif kind == _B:
            folded ^= be64(buf, m + 11)
        elif kind == _S:
            folded ^= buf[m + 11]
        elif kind == _H:
            folded ^= buf[m + 19]
        elif kind == _OP_HALT:
            folded ^= buf[m + 20]
    return folded


@kernel(types.void(BOOK, _BYTES, _INTS))
def time_batches(book, buf, spent):
    """The book, `BATCH` messages at a time; ns of each batch to `spent`, with what the clock costs."""
    at = 0
    for i in range(len(spent)):
        begin = monotonic_ns()
        at = apply_blocks(book, buf, at, BATCH)
        spent[i] = monotonic_ns() - begin


@kernel(int64(STATE, types.uint8[:, ::1], _INTS, int64, int64, _TICKS))
def decode_batch(state, buffer, lengths, n, now_ns, out):
    """Feed's kernel for `n` datagrams: the one place that knows its arguments."""
    return decode(state, buffer, lengths, 0, n, now_ns, _LINE_A, out)


@kernel(int64(STATE, _BYTES, _INTS, _INTS, _TICKS))
def ticks(state, data, starts, lengths, out):
    """One datagram after the other, as on a quiet market; the number of ticks."""
    n = 0
    for i in range(len(starts) - 1):
        at, end = starts[i], starts[i + 1]
        lengths[0] = end - at
        n += decode_batch(state, data[at:end].reshape((1, end - at)), lengths, 1, 1, out)
    return n


@kernel(types.void(STATE, _BYTES, _INTS, _INTS, _TICKS, _INTS))
def time_datagrams(state, data, starts, lengths, out, spent):
    """As `ticks`; ns of each datagram to `spent`."""
    for i in range(len(starts) - 1):
        at, end = starts[i], starts[i + 1]
        lengths[0] = end - at
        begin = monotonic_ns()
        decode_batch(state, data[at:end].reshape((1, end - at)), lengths, 1, 1, out)
        spent[i] = monotonic_ns() - begin


@kernel(types.void(_BYTES, int64, int64, int64))
def put_u64(buf, at, size, value):
    """The lowest `size` bytes of a value, big-endian."""
    for i in range(size):
        buf[at + i] = value >> 8 * (size - 1 - i) & 0xFF


@kernel(types.void(_BYTES, _INTS, int64))
def advance(data, starts, n):
    """Number the messages of all datagrams `n` further on."""
    for i in range(len(starts) - 1):
        put_u64(data, starts[i] + 10, 8, be64(data, starts[i] + 10) + n)


@kernel(int64(_BYTES, int64, int64, _BYTES))
def deal(buf, n, copies, out):
    """The first `n` messages once for each of the locates 1 to `copies`, in turns, with references of their own.

    Returns the bytes written.
    """
    at = to = 0
    for _ in range(n):
        length = be16(buf, at)
        kind = buf[at + 2]
        for copy in range(copies):
            for i in range(2 + length):
                out[to + i] = buf[at + i]
            put_u64(out, to + 3, 2, copy + 1)
            if kind in (_A, _F, _E, _C, _X, _D, _U):
                put_u64(out, to + 13, 8, be64(buf, at + 13) * copies + copy)
            if kind == _U:
                put_u64(out, to + 21, 8, be64(buf, at + 21) * copies + copy)
            to += 2 + length
        at += 2 + length
    return to


@kernel(types.void(_INTS, int64))
def store_go(words, number):
    """Begin round `number`."""
    store_release(words, GO, number)


@kernel(int64(int64, _BYTES, _INTS, _INTS, int64, int64))
def blast(fd, data, starts, words, number, in_flight):
    """When round `number` begins, send all datagrams, never more than `in_flight` ahead; how many were sent."""
    until = monotonic_ns() + GIVE_UP_NS
    turns = 0
    while load_acquire(words, GO) != number:
        turns += 1
        if turns & 0xFFFF == 0 and monotonic_ns() > until:
            return -1
    until = monotonic_ns() + GIVE_UP_NS
    for i in range(len(starts) - 1):
        while i - load_acquire(words, RECEIVED) >= in_flight:
            turns += 1
            if turns & 0xFFFF == 0 and monotonic_ns() > until:
                return i
        if _send(fd, data.ctypes.data + starts[i], starts[i + 1] - starts[i], 0) < 0:
            return i
    return len(starts) - 1


@kernel(int64(int64, MESSAGES, _INTS, _INTS, int64))
def receive_bare(fd, messages, lengths, words, total):
    """Take `total` datagrams, and do nothing with them; how many came."""
    until = monotonic_ns() + GIVE_UP_NS
    got = turns = 0
    while got < total:
        n = receive_batch(fd, messages, lengths)
        if n < 0:
            return n
        got += n
        store_release(words, RECEIVED, got)
        turns += 1
        if turns & 0xFFFF == 0 and monotonic_ns() > until:
            return got
    return got


@kernel(int64(int64, MESSAGES, _INTS, _INTS, int64, STATE, types.uint8[:, ::1], _TICKS))
def receive_ticks(fd, messages, lengths, words, total, state, buffer, out):
    """Take `total` datagrams, and make ticks of them; how many came."""
    until = monotonic_ns() + GIVE_UP_NS
    got = turns = 0
    while got < total:
        n = receive_batch(fd, messages, lengths)
        if n < 0:
            return n
        if n > 0:
            decode_batch(state, buffer, lengths, n, monotonic_ns(), out)
            got += n
            store_release(words, RECEIVED, got)
        turns += 1
        if turns & 0xFFFF == 0 and monotonic_ns() > until:
            return got
    return got


# --- the data ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """Messages of one instrument that leave its book empty."""

    symbol: str
    locate: int
    data: Bytes  # a u16 length before each message
    offsets: Ints  # int64[n + 1]
    time_ns: Ints  # int64[n]

    def __len__(self) -> int:
        return len(self.time_ns)


def new_book(n_instruments: int, orders: int, levels: int) -> Book:
    """A book with locate i + 1 for instrument i, in memory that has been touched."""
    book = Book.create(n_instruments, orders, levels)
    book.locate[1 : n_instruments + 1] = np.arange(n_instruments)
    for array in book:
        array[...] = array.copy()
    return book


def closed(stream: Stream, n: int) -> Stream:
    """The first `n` messages, and deletes of the orders that are open then."""
    book = Book.create(1, 1 << 20, 1 << 14)
    book.locate[stream.locate] = 0
    end = apply_blocks(book, stream.data, 0, n)
    if set(book.results()) != {Result.OK}:
        sys.exit(f"bench feed: the messages of {stream.symbol} contradict each other: {book.results()}")
    refs = np.sort(book.orders["ref"][book.orders["ref"] != 0]).tolist()
    at_ns = int(stream.time_ns[n - 1])
    tail = b"".join(itch50.frame(itch50.order_delete(stream.locate, at_ns, ref)) for ref in refs)
    data = np.concatenate([stream.data[:end], np.frombuffer(tail, np.uint8)])
    ends = end + (len(tail) // max(1, len(refs))) * np.arange(1, len(refs) + 1)
    offsets = np.concatenate([stream.offsets[: n + 1], ends]).astype(np.int64)
    times = np.concatenate([stream.time_ns[:n], np.full(len(refs), at_ns)]).astype(np.int64)
    return Stream(stream.symbol, stream.locate, data, offsets, times)


def load(name: str) -> Stream:
    """A recorded file. Raises DataFileError."""
    tape = load_tape([DATA / FILES[name]])
    ((symbol, locate),) = tape.symbols.items()
    return Stream(symbol, locate, tape.data, tape.offsets, tape.time_ns)


def datagrams(stream: Stream, paced: bool) -> tuple[Bytes, Ints]:
    """The stream packed: bytes, and where each datagram begins. `paced`: as the exchange does it at recorded pace."""
    size = max(DATAGRAM_BYTES, 20 + int(np.diff(stream.offsets).max()))
    plan = np.zeros(wire.PLAN_SIZE, np.int64)
    plan[wire.NEXT_SEQ], plan[wire.UNTIL_INDEX], plan[wire.DATAGRAM_BYTES] = 1, len(stream), size
    plan[wire.UNTIL_TIME] = 2**62
    buffer, packets = np.zeros(size, np.uint8), np.zeros((1, 4), np.int64)
    session = np.frombuffer(b"TICKPATH01", np.uint8).copy()
    pack = wire.pack_step if paced else wire.pack
    data, starts = bytearray(), [0]
    while pack(stream.data, stream.offsets, stream.time_ns, session, plan, buffer, packets):
        data += buffer[: packets[0, wire.LENGTH]].tobytes()
        starts.append(len(data))
    return np.frombuffer(data, np.uint8), np.array(starts, np.int64)


def feed_state(stream: Stream, options: FeedConfig) -> State:
    """Feed's state for one instrument, in memory that has been touched."""
    table = make_table([(stream.symbol, "0.0001", 100, 1, 1, "USD")])
    counters, channel = np.zeros(len(Count), np.int64), np.zeros(len(Channel), np.int64)
    state = make_state(
        table, options.order_capacity, options.level_capacity, counters, channel, np.zeros(1, TICK),
        np.zeros(1, np.int64),
    )  # fmt: skip
    for array in state.book:
        array[...] = array.copy()
    return state


# --- measuring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """Something to time: what it does with how many messages, and what comes after it that is not timed."""

    run: Callable[[], object]
    messages: int
    after: Callable[[], object] = int


def rates(ways: dict[str, Way], rounds: int, least: int = 150_000) -> dict[str, dict[str, float]]:
    """Best and median ns per message, and M messages/s of the best, of each way, `least` messages in a round."""
    took = np.zeros((len(ways), rounds + 1))
    for turn in range(rounds + 1):
        for row, way in enumerate(ways.values()):
            passes = max(1, least // way.messages)
            spent = 0
            for _ in range(passes):
                begin = time.thread_time_ns()
                way.run()
                spent += time.thread_time_ns() - begin
                way.after()
            took[row, turn] = spent / way.messages / passes
    found = {}
    for name, values in zip(ways, took[:, 1:], strict=True):  # the first round warms up
        best, middle = float(values.min()), float(np.median(values))
        found[name] = {"ns": round(best, 2), "median_ns": round(middle, 2), "rate": round(1e3 / best, 1)}
    return found


class Ticker:
    """Feed's kernel over the datagrams of a stream, again and again: the numbers go on."""

    def __init__(self, stream: Stream, paced: bool) -> None:
        options = FeedConfig()
        self.n = len(stream)
        self.flat, self.starts = datagrams(stream, paced)
        self.lengths, self.out = np.zeros(1, np.int64), np.zeros(8192, TICK)
        self.state = feed_state(stream, options)

    def run(self) -> int:
        """One pass; the ticks."""
        return int(ticks(self.state, self.flat, self.starts, self.lengths, self.out))

    def next(self) -> None:
        """Make the datagrams those that follow."""
        advance(self.flat, self.starts, self.n)

    def check(self) -> None:
        """Stop when a message was not taken."""
        counters = self.state.counters
        if counters[Count.MESSAGES] % self.n or counters[Count.GAPS] or counters[Count.MESSAGES_DUPLICATE]:
            sys.exit("bench feed: feed's kernel did not take every message once: this measures something else")


def check_book(book: Book) -> None:
    """Stop when a message did not fit."""
    if book.live_orders or set(book.results()) != {Result.OK}:
        sys.exit(f"bench feed: the book went wrong, this measures something else: {book.results()}")


def measure_kernels(streams: dict[str, Stream], rounds: int) -> dict[str, Any]:
    """Walk, decode, book and ticks of each file."""
    options, result = FeedConfig(), {}
    for name, stream in streams.items():
        n, data = len(stream), stream.data
        book = new_book(1, options.order_capacity, options.level_capacity)
        book.locate[stream.locate] = 0
        full, paced = Ticker(stream, False), Ticker(stream, True)
        ways = {
            "walk": Way(lambda data=data, n=n: walk(data, 0, n), n),
            "decode": Way(lambda data=data, n=n: fields(data, 0, n), n),
            "book": Way(lambda book=book, data=data, n=n: apply_blocks(book, data, 0, n), n),
            "ticks": Way(full.run, n, full.next),
            "ticks, paced": Way(paced.run, n, paced.next),
        }
        found: dict[str, Any] = rates(ways, rounds)
        check_book(book)
        for ticker in (full, paced):
            ticker.check()
        found["messages"] = n
        found["messages_per_datagram"] = {
            "full": round(n / (len(full.starts) - 1), 1),
            "paced": round(n / (len(paced.starts) - 1), 1),
        }
        result[name] = found
    return result


def measure_burst(rounds: int) -> dict[str, Any]:
    """The directory of a whole day: no orders, 8,915 symbols, none of them ours, then all of them ours."""
    with zstandard.open(io.BytesIO((DATA / BURST).read_bytes())) as file:
        data = np.frombuffer(file.read(), np.uint8).copy()
    n = count_frames(data, 0, len(data))
    foreign, ours = new_book(1, 1024, 8), new_book(9000, 1024, 8)
    foreign.locate[:] = -1
    ways = {
        "walk": Way(lambda: walk(data, 0, n), n),
        "decode": Way(lambda: fields(data, 0, n), n),
        "book, none ours": Way(lambda: apply_blocks(foreign, data, 0, n), n),
        "book, all ours": Way(lambda: apply_blocks(ours, data, 0, n), n),
    }
    return {**rates(ways, rounds), "messages": n}


def measure_instruments(stream: Stream, rounds: int, total: int) -> list[dict[str, Any]]:
    """Decode and book for more and more instruments; about `total` messages each time."""
    rows = []
    for copies in INSTRUMENTS:
        part = closed(stream, min(len(stream.time_ns), max(1, total // copies)))
        dealt = np.zeros(len(part.data) * copies, np.uint8)
        deal(part.data, len(part), copies, dealt)
        n = len(part) * copies
        book = new_book(copies, 1 << 21, 2048)
        ways = {
            "decode": Way(lambda dealt=dealt, n=n: fields(dealt, 0, n), n),
            "book": Way(lambda book=book, dealt=dealt, n=n: apply_blocks(book, dealt, 0, n), n),
        }
        found: dict[str, Any] = rates(ways, rounds)
        check_book(book)
        bytes_ = sum(array.nbytes for array in book)
        rows.append({"instruments": copies, "messages": n, **found, "book_mib": round(bytes_ / 2**20, 1)})
    return rows


def measure_single(stream: Stream, rounds: int) -> dict[str, dict[str, float]]:
    """p50, p99 and the largest per message, of batches of messages and of datagrams."""
    options = FeedConfig()
    book = new_book(1, options.order_capacity, options.level_capacity)
    book.locate[stream.locate] = 0
    whole = len(stream) // BATCH
    spent = np.zeros((rounds + 1, whole), np.int64)
    rest = int(stream.offsets[whole * BATCH])
    for turn in range(rounds + 1):
        time_batches(book, stream.data, spent[turn])
        apply_blocks(book, stream.data, rest, len(stream) - whole * BATCH)
    check_book(book)
    ticker = Ticker(stream, False)
    counts = np.array([int.from_bytes(ticker.flat[at + 18 : at + 20].tobytes(), "big") for at in ticker.starts[:-1]])
    taken = np.zeros((rounds + 1, len(counts)), np.int64)
    for turn in range(rounds + 1):
        time_datagrams(ticker.state, ticker.flat, ticker.starts, ticker.lengths, ticker.out, taken[turn])
        ticker.next()
    ticker.check()

    def quantiles(values: Any) -> dict[str, float]:
        p50, p99, most = np.percentile(values, [50, 99, 100])
        return {"p50_ns": round(p50, 1), "p99_ns": round(p99, 1), "max_ns": round(most, 1)}

    return {
        f"book, {BATCH} messages": quantiles(spent[1:] / BATCH),
        "ticks, a full datagram": quantiles(taken[1:] / counts),
    }


def measure_udp(stream: Stream, rounds: int) -> dict[str, Any]:
    """A sender on another core, both receivers in turns, full datagrams and those of the recorded pace."""
    options = FeedConfig(host="127.0.0.1", port=1)
    sock, granted = open_udp_socket("127.0.0.1", 0, options.rcvbuf_bytes)
    in_flight = max(8, min(IN_FLIGHT, granted // 4096))
    words = np.frombuffer(mmap.mmap(-1, 4096), np.int64)
    tickers = {"full datagrams": Ticker(stream, False), "recorded pace": Ticker(stream, True)}
    order = [(packing, way) for packing in tickers for way in ("bare", "ticks")]
    cores = sorted(os.sched_getaffinity(0))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.sched_setaffinity(0, {cores[1]})
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                out.connect(sock.getsockname())
                number = 0
                for _ in range(rounds + 1):
                    for packing, way in order:
                        number += 1
                        ticker = tickers[packing]
                        if blast(out.fileno(), ticker.flat, ticker.starts, words, number, in_flight) < 0:
                            return {}  # the finally ends this process
                        if way == "ticks":
                            ticker.next()
            status = 0
        finally:
            os._exit(status)
    os.sched_setaffinity(0, {cores[0]})
    receivers = {packing: DatagramReceiver(sock.fileno(), options.batch, 2048) for packing in tickers}
    took = np.zeros((rounds + 1, len(order)))
    try:
        number = 0
        for turn in range(rounds + 1):
            for column, (packing, way) in enumerate(order):
                number += 1
                ticker, receiver = tickers[packing], receivers[packing]
                total = len(ticker.starts) - 1
                words[RECEIVED] = 0
                arguments = (sock.fileno(), receiver.messages, receiver.lengths, words, total)
                begin = time.perf_counter_ns()
                store_go(words, number)
                if way == "bare":
                    got = receive_bare(*arguments)
                else:
                    got = receive_ticks(*arguments, ticker.state, receiver.buffer, ticker.out)
                took[turn, column] = time.perf_counter_ns() - begin
                if got != total:
                    sys.exit(f"bench feed: {got} of {total} datagrams came over UDP")
    finally:
        sock.close()
        os.sched_setaffinity(0, set(cores))
        os.waitpid(child, 0)
    result: dict[str, Any] = {"in_flight": in_flight, "receive_buffer_bytes": granted}
    for packing, ticker in tickers.items():
        ticker.check()
        bare, made = (took[1:, order.index((packing, way))] for way in ("bare", "ticks"))
        result[packing] = {
            "messages_per_datagram": round(len(stream) / (len(ticker.starts) - 1), 1),
            "bare_rate": round(1e3 * len(stream) / bare.min(), 2),
            "ticks_rate": round(1e3 * len(stream) / made.min(), 2),
            "ratio": round(float(np.median(bare / made)), 3),
        }
    return result


def measure(quick: bool, with_udp: bool) -> dict[str, Any]:
    """Everything; the result as the JSON has it. Raises DataFileError."""
    about = machine()  # before one core of it is ours
    rounds = 3 if quick else 15
    loaded = {name: load(name) for name in FILES}
    streams = {name: closed(stream, len(stream)) for name, stream in loaded.items()}
    result: dict[str, Any] = {"machine": about, "files": measure_kernels(streams, rounds)}
    result["directory"] = measure_burst(rounds)
    result["instruments"] = measure_instruments(loaded[DEEP], max(2, rounds // 3), 400_000 if quick else 2_000_000)
    result["one_message"] = measure_single(streams[MAIN], rounds)
    two = with_udp and len(os.sched_getaffinity(0)) > 1
    result["udp"] = measure_udp(streams[MAIN], max(2, rounds // 3)) if two else None
    files = result["files"].values()
    result["aims"] = {
        "decode": {"aim": DECODE_AIM, "found": min(found["decode"]["rate"] for found in files)},
        "book": {"aim": BOOK_AIM, "found": min(found["book"]["rate"] for found in files)},
    }
    if two:
        result["aims"]["udp"] = {"aim": UDP_AIM, "found": result["udp"]["recorded pace"]["ratio"]}
    for aim in result["aims"].values():
        aim["reached"] = aim["found"] >= aim["aim"]
    return result


# --- for people ----------------------------------------------------------------------------------------------------


def show(result: dict[str, Any], console: Console) -> None:
    """The tables."""
    console.print(describe_machine(result["machine"]))
    ways = ("walk", "decode", "book", "ticks", "ticks, paced")
    table = Table(title="M messages/s, one core (in brackets: times the walk)", title_justify="left")
    table.add_column("")
    for column in ("messages", *ways):
        table.add_column(column, justify="right")
    for name, found in result["files"].items():
        floor = found["walk"]["ns"]
        cells = [f"{found[way]['rate']:.1f} ({found[way]['ns'] / floor:.1f})" for way in ways]
        table.add_row(name, f"{found['messages']:,}", *cells)
    console.print(table)
    burst = result["directory"]
    rates_ = ", ".join(f"{way} {found['rate']:.1f}" for way, found in burst.items() if way != "messages")
    console.print(f"Directory of a day, {burst['messages']:,} messages, M messages/s: {rates_}")
    table = Table(title="As instruments grow, ns per message", title_justify="left")
    for column in ("instruments", "messages", "decode", "decode + book", "M messages/s", "book MiB"):
        table.add_column(column, justify="right")
    for row in result["instruments"]:
        figures = [f"{row['instruments']:,}", f"{row['messages']:,}", f"{row['decode']['ns']:.1f}"]
        table.add_row(*figures, f"{row['book']['ns']:.1f}", f"{row['book']['rate']:.1f}", f"{row['book_mib']:.0f}")
    console.print(table)
    table = Table(title="One message, ns", title_justify="left")
    for column in ("timed in batches of", "p50", "p99", "max"):
        table.add_column(column, justify="right" if column[0] in "pm" else "left")
    for name, row in result["one_message"].items():
        table.add_row(name, *(f"{row[q]:,.1f}" for q in ("p50_ns", "p99_ns", "max_ns")))
    console.print(table)
    if result["udp"] is None:
        console.print("UDP: left out; it takes two cores")
    else:
        table = Table(title="UDP, M messages/s", title_justify="left")
        for column in ("", "messages/datagram", "bare recvmmsg", "to ticks", "ratio"):
            table.add_column(column, justify="right" if column else "left")
        for packing in ("full datagrams", "recorded pace"):
            row = result["udp"][packing]
            cells = [f"{row['messages_per_datagram']}", f"{row['bare_rate']:.2f}", f"{row['ticks_rate']:.2f}"]
            table.add_row(packing, *cells, f"{row['ratio']:.2f}")
        console.print(table)
    units = {
        "decode": "M messages/s with the slowest file",
        "book": "M messages/s with the slowest file",
        "udp": "of the bare loop at the recorded pace",
    }
    for name, aim in result["aims"].items():
        state = "reached" if aim["reached"] else "not reached"
        console.print(f"{name}: {aim['found']} {units[name]} (aim {aim['aim']:g}: {state})")


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="tickpath bench feed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a claim")
    parser.add_argument("--no-udp", action="store_true", help="without the comparison that takes two cores")
    given = parser.parse_args(arguments)
    missing = [name for name in (*FILES.values(), BURST) if not (DATA / name).is_file()]
    if missing:
        sys.stderr.write(f"bench feed: the recorded data is not here: {DATA}/{missing[0]}\n")
        return 2
    try:
        result = measure(given.quick, not given.no_udp)
    except DataFileError as error:
        sys.stderr.write(f"bench feed: {error}\n")
        return 2
    if given.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
