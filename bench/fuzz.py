"""Damaged market data against the framing walks and the books: never a crash, never a book that is silently wrong.

Every input is a MoldUDP64 packet, the frames of a file, a single message, or nothing but random bytes. It is made of
recorded messages and some made-up ones of every type (only those where ``../shared/data`` is absent), most of them
given references, prices and sizes that meet in the book, then cut, flipped and overwritten at random. It goes where
market data goes: `check_packet` or `count_frames`, then `apply_blocks`; single messages to `apply_message`. Each
input ends at the last byte before a page that nobody may touch: reading one byte more ends the process. After every
burst of inputs the whole book is counted again from its parts (`tickpath.common.kernels.book_audit`). The books are
small, so that they are full, and grow and shrink, all the time.

Chunk i of 10,000 inputs is made from seed + i alone: what is found comes again with ``--seed N --count 10000``.

    tickpath bench fuzz [--count N | --seconds S] [--seed N] [--json]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.book import (
    BOOK,
    MIN_CHUNK,
    ST_LEVELS_TAKEN,
    ST_MAX_LEVELS_TAKEN,
    ST_RESULTS,
    Book,
    Result,
    apply_blocks,
    apply_message,
    clear,
)
from tickpath.common.kernels.book_audit import Fault, audit_into, audit_memory
from tickpath.common.kernels.itch import check_packet, count_frames
from tickpath.common.protocols import itch50

ROOT = Path(__file__).resolve().parents[1]
RECORDED: Final = (
    "itch/nasdaq_itch50_20200130_AAPL_first10000.itch",
    "itch/nasdaq_itch50_20190730_0400_orders500.itch",
)
CHUNK: Final = 10_000
BURST: Final = 16
#: n_instruments, order_capacity, level_capacity of the books, in turns.
BOOKS: Final = ((1, 16, 4), (2, 64, 32), (4, 128, 1024), (3, 500, 100), (8, 1024, 1024))
_PAGE: Final = mmap.PAGESIZE
_REGION: Final = 4 * _PAGE
_LONGEST: Final = 1400

_BYTES, _INTS = types.uint8[::1], types.int64[::1]
_A, _F, _E, _C, _X, _D, _U = (ord(letter) for letter in "AFECXDU")
_NONE = int(Fault.NONE)

# Words of ``found``.
DONE, AUDITS, ACCEPTED, REFUSED = range(4)


@inlined
def _below(rng, n):
    """0 to n - 1, xorshift64."""
    x = rng[0]
    x ^= x << 13
    x ^= x >> 7 & (1 << 57) - 1
    x ^= x << 17
    rng[0] = x
    return (x >> 8 & (1 << 48) - 1) % n


@inlined
def _put(buf, at, size, value):
    for i in range(size):
        buf[at + i] = value >> 8 * (size - 1 - i) & 0xFF


@inlined
def _message(rng, corpus, offsets, buf, at, instruments, refs):
    """A recorded message, three times of four with fields that meet others in the book; its bytes."""
    pick = _below(rng, len(offsets) - 1)
    size = offsets[pick + 1] - offsets[pick]
    for i in range(size):
        buf[at + i] = corpus[offsets[pick] + i]
    kind = buf[at]
    if _below(rng, 4) == 0 or size < 19 or kind not in (_A, _F, _E, _C, _X, _D, _U):
        return size
    ref = 1 + _below(rng, refs)
    _put(buf, at + 1, 2, 1 + (ref if _below(rng, 8) else _below(rng, refs)) % instruments)
    _put(buf, at + 11, 8, ref)
    # A price range that grows and shrinks rows: narrow for a while, then wide.
    spread = 4 if rng[1] & 1 else 600
    if kind in (_A, _F):
        _put(buf, at + 20, 4, 1 + _below(rng, 50))
        _put(buf, at + 32, 4, 1000 + _below(rng, spread))
    elif kind == _U:
        _put(buf, at + 19, 8, (ref + instruments * _below(rng, refs)) % (instruments * refs) + 1)
        _put(buf, at + 27, 4, 1 + _below(rng, 50))
        _put(buf, at + 31, 4, 1000 + _below(rng, spread))
    elif kind != _D:
        _put(buf, at + 19, 4, 1 + _below(rng, 60))
    return size


@inlined
def _damage(rng, buf, size):
    """Up to three faults in the first `size` bytes; what is left of them."""
    for _ in range(_below(rng, 4)):
        if size == 0:
            break
        at = _below(rng, size)
        what = _below(rng, 6)
        if what == 0:
            buf[at] ^= 1 << _below(rng, 8)
        elif what == 1:
            buf[at] = _below(rng, 256)
        elif what == 2:
            size = at
        elif what == 3:
            for i in range(at, min(size, at + 1 + _below(rng, 16))):
                buf[i] = _below(rng, 256)
        elif what == 4:
            for i in range(at, size - 1):  # a byte is missing
                buf[i] = buf[i + 1]
            size -= 1
        elif at + 1 < size:
            _put(buf, at, 2, _below(rng, 64))
    return size


@kernel(
    types.int64(
        BOOK, _BYTES, _BYTES, _INTS, _BYTES, _INTS, types.int64, types.int64, types.int64[:, ::1], _BYTES, _INTS
    )
)
def fuzz_chunk(book, region, corpus, offsets, scratch, rng, n, refs, sums, taken, found):
    """`n` inputs; the first Fault, else 0. `found` counts, see its words."""
    instruments = len(book.rows) // 2
    for number in range(n):
        if number % 512 == 0:
            rng[1] += 1
        kind = _below(rng, 8)
        size = 0
        if kind == 0:
            size = _below(rng, _LONGEST)
            for i in range(size):
                scratch[i] = _below(rng, 256)
        elif kind == 1:
            size = _message(rng, corpus, offsets, scratch, 0, instruments, refs)
        else:
            size = 20 if kind < 5 else 0
            messages = 1 + _below(rng, 24)
            for i in range(size):
                scratch[i] = 48 + i
            for _ in range(messages):
                length = _message(rng, corpus, offsets, scratch, size + 2, instruments, refs)
                _put(scratch, size, 2, length)
                size += 2 + length
            if kind < 5:
                _put(scratch, 18, 2, messages)
        if _below(rng, 3) == 0:
            size = _damage(rng, scratch, size)
        begin = len(region) - size
        for i in range(size):
            region[begin + i] = scratch[i]
        accepted = True
        if kind == 1:
            apply_message(book, region, begin, size)
        elif kind in (0, 2, 3, 4):
            count = check_packet(region, begin, size)
            accepted = count >= 0
            if 0 < count < 0xFFFF:
                apply_blocks(book, region, begin + 20, count)
        if kind in (0, 5, 6, 7):
            count = count_frames(region, begin, size)
            accepted = count >= 0
            if count > 0:
                apply_blocks(book, region, begin, count)
        found[DONE] += 1
        found[ACCEPTED if accepted else REFUSED] += 1
        if number % BURST == BURST - 1 or number == n - 1:
            found[AUDITS] += 1
            fault = audit_into(book, sums, taken)
            if fault != _NONE:
                return fault
    return _NONE


def guarded_region() -> npt.NDArray[np.uint8]:
    """uint8[_REGION] with a page before and one behind that nobody can touch. It is never given back."""
    whole = mmap.mmap(-1, _REGION + 2 * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(whole))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (address, address + _PAGE + _REGION):
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE), 0):
            sys.exit(f"bench fuzz: mprotect: errno {ctypes.get_errno()}")
    return np.frombuffer(whole, np.uint8)[_PAGE : _PAGE + _REGION]


def made_up() -> list[bytes]:
    """One message of every type, with zeros in what is not needed, and the common ones several times."""
    plain = [bytes([kind]) + bytes(size - 1) for kind, size in enumerate(itch50.SIZES) if size]
    orders = [
        itch50.add_order(1, 1, 1, "B", 100, "ABC", 1000),
        itch50.add_order(1, 1, 2, "S", 100, "ABC", 1001),
        itch50.order_executed(1, 1, 1, 10, 1),
        itch50.order_cancel(1, 1, 1, 10),
        itch50.order_delete(1, 1, 1),
        itch50.order_replace(1, 1, 1, 2, 100, 1000),
    ]
    return [*plain, *8 * orders[:2], *4 * orders[2:]]


def make_corpus() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], str]:
    """Messages back to back, where each begins (and the end), and what they are, for people."""
    messages = made_up()
    about = f"{len(messages)} made-up messages of every type"
    for name in RECORDED:
        path = ROOT.parent / "shared/data" / name
        if path.is_file():
            raw = path.read_bytes()
            at = 0
            while at < len(raw):
                length = int.from_bytes(raw[at : at + 2], "big")
                messages.append(raw[at + 2 : at + 2 + length])
                at += 2 + length
            about += f", {path.name}"
    offsets = np.cumsum([0, *(len(message) for message in messages)], dtype=np.int64)
    return np.frombuffer(b"".join(messages), np.uint8).copy(), offsets, about


def work(count: int, seconds: float, seed: int) -> None:
    """The inputs, in this process. One line of JSON for each chunk before it begins, one with the result."""
    corpus, offsets, about = make_corpus()
    region, scratch = guarded_region(), np.zeros(8192, np.uint8)
    books = [Book.create(*sizes) for sizes in BOOKS]
    memory = [audit_memory(book) for book in books]
    for book in books:
        n = len(book.rows) // 2
        book.locate[1 : n + 1] = np.arange(n)
    found, rng = np.zeros(4, np.int64), np.zeros(2, np.int64)
    results = np.zeros(len(Result), np.int64)
    grown = 0
    until = time.monotonic() + seconds
    chunk = 0
    while found[DONE] < count and time.monotonic() < until:
        print(json.dumps({"chunk_seed": seed + chunk}), flush=True)  # noqa: T201
        which = (seed + chunk) % len(books)
        book = books[which]
        clear(book)
        book.stats[ST_RESULTS : ST_RESULTS + len(Result)] = 0
        book.stats[ST_MAX_LEVELS_TAKEN] = book.stats[ST_LEVELS_TAKEN]
        rng[:] = (seed + chunk + 1) * 0x9E3779B97F4A7C1 & (1 << 62) - 1, 0
        n = int(min(CHUNK, count - found[DONE]))
        fault = fuzz_chunk(book, region, corpus, offsets, scratch, rng, n, 2 * BOOKS[which][1], *memory[which], found)
        results += book.stats[ST_RESULTS : ST_RESULTS + len(Result)]
        grown += int(book.stats[ST_MAX_LEVELS_TAKEN] > len(book.rows) * MIN_CHUNK)
        if fault:
            break
        chunk += 1
    else:
        fault = 0
    result = {
        "inputs": int(found[DONE]),
        "accepted": int(found[ACCEPTED]),
        "refused": int(found[REFUSED]),
        "audits": int(found[AUDITS]),
        "messages": int(results.sum()),
        "results": {result.name: int(results[result]) for result in Result},
        "chunks": chunk,
        "chunks_with_rows_that_grew": grown,
        "corpus": about,
        "fault": Fault(fault).name,
    }
    print(json.dumps(result), flush=True)  # noqa: T201


def run(count: int, seconds: float, seed: int) -> dict[str, Any]:
    """The inputs, in a process of their own: the result, with ``crash`` naming a signal that ended it."""
    command = [sys.executable, __file__, "--worker", "--seed", str(seed), "--count", str(count)]
    if seconds != float("inf"):
        command += ["--seconds", str(seconds)]
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None  # noqa: S101 - for mypy
        last: dict[str, Any] = {}
        at_seed = seed
        for line in worker.stdout:
            last = json.loads(line)
            at_seed = last.get("chunk_seed", at_seed)
    crash = signal.Signals(-worker.returncode).name if worker.returncode < 0 else None
    if worker.returncode > 0:
        sys.exit("bench fuzz: the worker failed; what it says is above")
    result = last if "inputs" in last else {"fault": "NONE"}
    clean = crash is None and result["fault"] == "NONE"
    return {
        "clean": clean,
        "seed": seed,
        "crash": crash,
        "at_seed": None if clean else at_seed,
        "seconds": round(time.monotonic() - begin, 1),
        **result,
    }


def show(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"seed {result['seed']}"]
    if "inputs" in result:
        lines += [
            f"{result['inputs']:,} inputs ({result['accepted']:,} accepted, {result['refused']:,} refused whole),"
            f" {result['messages']:,} messages, {result['audits']:,} audits in {result['seconds']} s",
            f"made of {result['corpus']}",
            "results: " + ", ".join(f"{name} {n:,}" for name, n in result["results"].items()),
        ]
    if result["clean"]:
        lines.append("no crash, no read out of bounds, every book was the sum of its parts")
    else:
        what = result["crash"] or f"the book is wrong: {result['fault']}"
        lines.append(f"FOUND: {what}; again with --seed {result['at_seed']} --count {CHUNK}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Fuzz and report; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="tickpath bench fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, help="inputs; 3,000,000 unless --seconds is given")
    parser.add_argument("--seconds", type=float, help="for so long")
    parser.add_argument("--seed", type=int, help="of the first chunk; another one each time unless given")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if (given.count is not None and given.count < 1) or (given.seconds is not None and given.seconds <= 0):
        parser.error("--count must be at least 1, --seconds above 0")
    if given.seed is not None and not 0 <= given.seed < 1 << 32:
        parser.error("--seed must be 0 to 2**32 - 1")
    seed = given.seed if given.seed is not None else secrets.randbelow(1 << 32)
    seconds = given.seconds if given.seconds is not None else float("inf")
    count = given.count if given.count is not None else 3_000_000 if given.seconds is None else 1 << 62
    if given.worker:
        work(count, seconds, seed)
        return 0
    result = run(count, seconds, seed)
    sys.stdout.write(json.dumps(result) + "\n" if given.json else show(result))
    return 0 if result["clean"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
