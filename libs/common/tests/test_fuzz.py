"""Damaged input and the books; that damage would be seen; and that reading outside of a message would be, too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tickpath.common.kernels import book as bk
from tickpath.common.kernels.book import Book, Result
from tickpath.common.kernels.book_audit import Fault, audit

FUZZ = Path(__file__).parents[3] / "bench" / "fuzz.py"
INPUTS = 40_000


def fuzz(*arguments):
    return subprocess.run(
        [sys.executable, str(FUZZ), *arguments], capture_output=True, text=True, timeout=240, check=False
    )


def test_damaged_packets_frames_and_messages_neither_crash_nor_corrupt_a_book():
    """Other inputs every time; what fails names the seed with which it fails again."""
    done = fuzz("--count", str(INPUTS), "--json")
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    print("seed", result["seed"])  # noqa: T201 - for whoever has to find it again
    assert result["clean"], result
    assert done.returncode == 0
    assert result["inputs"] == INPUTS
    assert result["audits"] >= INPUTS // 16
    assert min(result["accepted"], result["refused"]) > INPUTS // 20
    never = [name for name, n in result["results"].items() if n == 0]
    assert never == []  # every outcome was met, or this proves little
    assert result["chunks_with_rows_that_grew"] > 0


def test_the_same_seed_makes_the_same_inputs():
    """So that what was found can be found again."""
    first, second = (json.loads(fuzz("--count", "2000", "--seed", "7", "--json").stdout) for _ in range(2))
    for result in (first, second):
        del result["seconds"]
    assert first == second


@pytest.mark.parametrize("arguments", [("--count", "0"), ("--seconds", "0"), ("--seed", "-1"), ("--count", "x")])
def test_arguments_that_make_no_sense_are_refused_by_name(arguments):
    """Exit status 2, and what is allowed."""
    done = fuzz(*arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr.splitlines()[-1]


OVERREAD = """
import sys
sys.path.insert(0, sys.argv[1])
from fuzz import guarded_region
from tickpath.common.kernels.book import Book, apply_one
book, region = Book.create(1, 8, 8), guarded_region()
book.locate[0] = 0
begin = len(region) - 36 + int(sys.argv[2])
region[begin:] = 0
region[begin] = ord("A")
apply_one(book, region, begin, 36)
"""


def test_one_byte_behind_a_message_ends_the_process():
    """A message that lies about its length by one byte: the guard page is there, and the fuzzer would see it."""
    for beyond, status in ((0, 0), (1, -11)):
        command = [sys.executable, "-c", OVERREAD, str(FUZZ.parent), str(beyond)]
        assert subprocess.run(command, timeout=120, check=False).returncode == status


def a_book():
    book = Book.create(2, 64, 64)
    for ref in range(1, 41):
        assert bk.add(book, ref % 2, 1, ref, 100 + ref, 5) == Result.OK
    return book


def _row(book, **values):
    for name, value in values.items():
        book.rows[0][name] = value


def _lose_an_order(book):
    slot = int(np.flatnonzero(book.orders["ref"])[0])
    empty = next(i for i in np.flatnonzero(book.orders["ref"] == 0) if abs(i - slot) > 4)
    book.orders[empty] = book.orders[slot]
    book.orders[slot]["ref"] = 0


def _first(book):
    return np.flatnonzero(book.orders["ref"])[0]


def _level(book):
    return int(book.rows[0]["start"])


DAMAGES = {
    "depth beyond the chunk": (Fault.ROW, lambda b: _row(b, depth=33)),
    "size that is no power of two": (Fault.ROW, lambda b: _row(b, size=24)),
    "a level in front of a better one": (
        Fault.UNSORTED,
        lambda b: b.levels["price_ticks"].__setitem__(_level(b), 999),
    ),
    "a chunk outside of the pool": (Fault.CHUNK, lambda b: _row(b, start=len(b.levels))),
    "two rows with one chunk": (Fault.CHUNK, lambda b: _row(b, start=int(b.rows[2]["start"]))),
    "a free chunk that a row has": (Fault.FREE_LIST, lambda b: b.free.__setitem__(5, _level(b) + 1)),
    "a free chunk that is lost": (Fault.LOST_CHUNK, lambda b: b.free.__setitem__(3, 0)),
    "an order of no price": (Fault.ORDER, lambda b: b.orders["price_ticks"].__setitem__(_first(b), 0)),
    "an order of a row that is not there": (Fault.ORDER, lambda b: b.orders["row"].__setitem__(_first(b), 4)),
    "an order where nobody looks": (Fault.UNREACHABLE, _lose_an_order),
    "an order without its level": (Fault.NO_LEVEL, lambda b: b.orders["price_ticks"].__setitem__(_first(b), 50)),
    "lots that nobody has": (Fault.SUM, lambda b: b.levels["lots"].__setitem__(_level(b), 6)),
    "orders that are not there": (Fault.SUM, lambda b: b.levels["orders"].__setitem__(_level(b), 2)),
    "a level without orders": (Fault.SUM, lambda b: (_row(b, depth=int(b.rows[0]["depth"]) + 1), _better(b))[0]),
    "a wrong number of orders": (Fault.COUNT, lambda b: b.stats.__setitem__(bk.ST_LIVE_ORDERS, 39)),
    "a wrong number of levels": (Fault.COUNT, lambda b: b.stats.__setitem__(bk.ST_LEVELS_TAKEN, 1)),
}


def _better(book):
    book.levels[_level(book) + int(book.rows[0]["depth"]) - 1] = (5000, 0, 0)


@pytest.mark.parametrize("name", DAMAGES)
def test_the_audit_finds_every_kind_of_damage(name):
    """A sound book has no fault; the same book with one thing wrong has that one."""
    fault, damage = DAMAGES[name]
    book = a_book()
    assert audit(book) is Fault.NONE
    damage(book)
    assert audit(book) is fault
