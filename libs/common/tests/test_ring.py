"""Rings: numbers, wrap, back-pressure, beginning again, takeover, and death of either side at any moment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.runtime import _nrt_python, rtsys

from tickpath.common.kernels import ring as kernels
from tickpath.common.kernels import waiting
from tickpath.common.ring import (
    SPIN_NS,
    Bells,
    Head,
    RingError,
    RingReader,
    RingWriter,
    Slot,
    Waiter,
    WaitStrategy,
    choose_wait,
)

RECORD = np.dtype([("number", "<i8"), ("twice", "<i8"), ("thrice", "<i8")])
OTHER = np.dtype([("number", "<i8")])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: on a disk, each killed process would leave pages to write back."""
    root = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="ring-", dir=root if root.is_dir() else None))
    yield path
    shutil.rmtree(path)


def numbered(first: int, n: int) -> Any:
    """Records `first`, `first` + 1, ..: each can be told from any other, and from two halves."""
    records = np.zeros(n, dtype=RECORD)
    records["number"] = np.arange(first, first + n)
    records["twice"], records["thrice"] = 2 * records["number"], 3 * records["number"]
    return records


def numbers(records: Any) -> list[int]:
    """Their numbers, after a look whether they are whole."""
    assert (records["twice"] == 2 * records["number"]).all()
    assert (records["thrice"] == 3 * records["number"]).all()
    return [int(number) for number in records["number"]]


def span(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


# ---- reading and writing


def test_every_reader_gets_every_record_in_order_across_the_wrap(folder: Path) -> None:
    with (
        RingWriter(folder / "r", RECORD, 8) as writer,
        RingReader(folder / "r", "a", RECORD) as a,
        RingReader(folder / "r", "b", RECORD) as b,
    ):
        got: dict[str, list[int]] = {"a": [], "b": []}
        for first in range(1, 100, 5):
            assert writer.publish(numbered(first, 5)) == 5
            for reader in (a, b):
                records, missed = reader.read(3)
                assert missed == 0
                more, missed = reader.read()
                assert missed == 0
                got[reader.name] += numbers(records) + numbers(more)
        assert got["a"] == got["b"] == span(1, 100)
        assert a.caught_up


def test_a_reader_that_is_lapped_knows_exactly_how_many_it_missed(folder: Path) -> None:
    with RingWriter(folder / "r", RECORD, 8) as writer, RingReader(folder / "r", "slow", RECORD) as reader:
        writer.publish(numbered(1, 3))
        assert numbers(reader.read(1)[0]) == [1]
        writer.publish(numbered(4, 17))
        records, missed = reader.read()
        assert (missed, numbers(records)) == (11, span(13, 20))
        assert reader.missed == 11
        assert reader.read()[1] == 0


def test_a_fan_out_reader_begins_with_what_is_new_or_with_the_oldest_that_is_left(folder: Path) -> None:
    with RingWriter(folder / "r", RECORD, 8) as writer:
        writer.publish(numbered(1, 11))
        with (
            RingReader(folder / "r", "new", RECORD) as new,
            RingReader(folder / "r", "old", RECORD, from_oldest=True) as old,
        ):
            assert len(new.read()[0]) == 0
            records, missed = old.read()
            assert (numbers(records), missed) == (span(4, 11), 0)


def test_a_lossless_ring_keeps_what_its_slowest_required_reader_needs(folder: Path) -> None:
    with RingWriter(folder / "r", RECORD, 8, required=["a", "b"]) as writer:
        assert writer.publish(numbered(1, 20)) == 8, "nothing may be overwritten before a reader has ever been there"
        assert writer.publish(numbered(9, 1)) == 0
        with RingReader(folder / "r", "a", RECORD) as a, RingReader(folder / "r", "b", RECORD) as b:
            assert numbers(a.read_in_place()) == span(1, 7)
            a.ack()
            assert writer.room == 0
            assert numbers(b.read(3)[0]) == span(1, 3)
            assert writer.room == 0, "reading is not acknowledging"
            b.ack(2)
            assert writer.publish(numbered(9, 20)) == 2
            assert numbers(a.read_in_place()) == [8, 9, 10]
            assert numbers(b.read()[0]) == span(4, 10)
            assert writer.statistics()["readers"]["b"]["behind"] == 8


def test_records_in_place_are_those_of_the_ring_and_cannot_be_written(folder: Path) -> None:
    with (
        RingWriter(folder / "r", RECORD, 8, required=["a"]) as writer,
        RingReader(folder / "r", "a", RECORD) as reader,
        RingReader(folder / "r", "guest", RECORD) as guest,
    ):
        writer.publish(numbered(1, 4))
        records = reader.read_in_place(2)
        assert records.ctypes.data == kernels.record_at(reader.address, 1)
        with pytest.raises(ValueError, match="read-only"):
            records["number"][0] = 5
        with pytest.raises(RingError, match=r"'guest' is not a required reader .* use read"):
            guest.read_in_place()
        with pytest.raises(RingError, match="cannot acknowledge 3: acknowledged are 0, read were 2"):
            reader.ack(3)
        reader.ack(2)
        with pytest.raises(RingError, match="cannot acknowledge 1: acknowledged are 2"):
            reader.ack(1)


@settings(max_examples=60, deadline=None)
@given(
    required=st.booleans(),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.integers(0, 21)),
            st.tuples(st.just("read"), st.integers(0, 12)),
            st.tuples(st.just("in place"), st.integers(0, 12)),
            st.tuples(st.just("ack"), st.integers(0, 12)),
            st.tuples(st.just("writer dies"), st.integers(0, 8)),
            st.tuples(st.just("reader dies"), st.just(0)),
        ),
        max_size=40,
    ),
)
def test_cursors_follow_a_model_of_plain_numbers(required: bool, steps: list[tuple[str, int]]) -> None:
    """Whatever both sides do and whenever they die, numbers are those of a model with four integers."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "r"
        names = ("me",) if required else ()
        writer = RingWriter(path, RECORD, 8, required=names)
        reader = RingReader(path, "me", RECORD)
        published = claimed = acked = 0
        following = 1
        for step, n in steps:
            if step == "publish":
                accepted = min(n, 8 - (published - acked)) if required else n
                assert writer.publish(numbered(published + 1, n)) == accepted
                published += accepted
                claimed = max(claimed, published)
            elif step == "read" or (step == "in place" and not required):
                first = min(max(following, claimed - 7), published + 1)
                count = min(n, published - first + 1)
                records, missed = reader.read(n)
                assert (numbers(records), missed) == (span(first, first + count - 1), first - following)
                following = first + count
            elif step == "in place":
                count = min(n, published - following + 1, 8 - following % 8)
                assert numbers(reader.read_in_place(n)) == span(following, following + count - 1)
                following += count
            elif step == "ack":
                acked = min(following - 1, acked + n)
                reader.ack(acked)
            elif step == "writer dies":
                got = kernels.claim(writer.address, n)  # and was overwriting them
                claimed = max(claimed, published + got)
                writer.close()
                writer = RingWriter(path, RECORD, 8, required=names)
            else:
                reader.close()
                reader = RingReader(path, "me", RECORD)
                following = acked + 1
            assert reader.next_seq == following
            assert writer.published == published
        reader.close()
        writer.close()


# ---- a log behind the ring


def shipped(writer: RingWriter, end: int) -> None:
    """What the writer of a log does in each turn, with a log of the numbers before `end`."""
    following = writer.tend()
    writer.publish(numbered(following, max(0, end - following)))


def test_a_reader_of_a_log_begins_again_anywhere_and_reads_nothing_before_it_is_granted(folder: Path) -> None:
    with (
        RingWriter(folder / "r", RECORD, 8, required=["me"], log=True) as writer,
        RingReader(folder / "r", "me", RECORD) as reader,
    ):
        writer.set_log(5, 31)
        shipped(writer, 31)
        assert writer.published == 0, "nobody has said where to begin"
        assert reader.must_begin_again
        reader.begin_again(20)
        assert reader.waits_for_grant and not reader.must_begin_again
        shipped(writer, 31)
        assert numbers(reader.read(4)[0]) == span(20, 23)
        reader.ack()
        reader.begin_again(3)
        assert len(reader.read()[0]) == len(reader.read_in_place()) == 0
        reader.ack()
        assert reader.acked == 23, "between request and grant the cursor is the writer's"
        got: list[int] = []
        while not reader.caught_up:
            shipped(writer, 31)
            got += numbers(reader.read()[0])
            reader.ack()
        assert got == span(3, 30)


def test_a_log_that_begins_anew_stops_until_its_reader_has_asked(folder: Path) -> None:
    with (
        RingWriter(folder / "r", RECORD, 8, required=["me"], log=True) as writer,
        RingReader(folder / "r", "me", RECORD) as reader,
    ):
        assert not reader.must_begin_again
        with pytest.raises(RingError, match="has not said which log it ships"):
            reader.begin_again(1)
        writer.set_log(5, 11)
        assert reader.must_begin_again
        reader.begin_again(1)
        shipped(writer, 11)
        assert numbers(reader.read(2)[0]) == [1, 2]
        reader.begin_again(9)  # of the log with epoch 5
        writer.set_log(6, 4)
        shipped(writer, 4)
        assert reader.waits_for_grant and reader.must_begin_again
        assert len(reader.read()[0]) == 0
        reader.begin_again(1)
        shipped(writer, 4)
        assert numbers(reader.read()[0]) == [1, 2, 3]
        assert reader.caught_up


@pytest.mark.parametrize("steps", range(6))
def test_a_writer_killed_while_it_grants_is_followed_by_one_that_grants(folder: Path, steps: int) -> None:
    """The words of `grant` are stored one by one, up to each of them in turn."""
    path = folder / "r"
    writer = RingWriter(path, RECORD, 8, required=["me"], log=True)
    with RingReader(path, "me", RECORD) as reader:
        writer.set_log(5, 31)
        reader.begin_again(17)
        shipped(writer, 31)
        reader.read()
        reader.begin_again(6)
        head = np.frombuffer(writer._file.memory, dtype=np.int64, count=512)
        slot = int(Head.FIRST_SLOT)
        words = [slot + Slot.ACKED, Head.SLOWEST, Head.CLAIMED, Head.PUBLISHED]
        for word in words[:steps]:
            head[word] = 5
        if steps == 5:
            head[Head.GRANTED] = head[slot + Slot.REQUEST]
        writer.close()
        assert len(reader.read()[0]) == 0
    with RingReader(path, "me", RECORD) as reader, RingWriter(path, RECORD, 8, required=["me"], log=True) as writer:
        assert reader.next_seq == 6
        shipped(writer, 31)
        assert numbers(reader.read()[0]) == span(6, 13)


# ---- lives of writers and readers


@pytest.mark.parametrize("required", [(), ("me",)])
@pytest.mark.parametrize("copied_bytes", [0, 1, 30, 71, 72])
def test_a_writer_killed_between_claim_and_commit_leaves_nothing_torn(
    folder: Path, required: tuple[str, ...], copied_bytes: int
) -> None:
    """Three places are claimed, and so much of the three records is written when the process ends."""
    path = folder / "r"
    writer = RingWriter(path, RECORD, 8, required=required)
    with RingReader(path, "me", RECORD) as reader:
        writer.publish(numbered(1, 8))
        if required:
            reader.read(4)
            reader.ack()
            reader.next_seq = 5
        assert kernels.claim(writer.address, 3) == 3
        source = numbered(9, 3).tobytes()
        at = kernels.record_at(writer.address, 9) - writer.address
        writer._file.memory[at : at + copied_bytes] = source[:copied_bytes]
        writer.close()
        with RingWriter(path, RECORD, 8, required=required) as successor:
            assert (successor.epoch, successor.published) == (2, 8)
            records, missed = reader.read()
            expected = (span(5, 8), 0) if required else (span(4, 8), 3)
            assert (numbers(records), missed) == expected
            reader.ack()
            assert successor.publish(numbered(9, 6)) == 6
            records, missed = reader.read()
            assert (numbers(records), missed) == (span(9, 14), 0)


def test_a_reader_that_copies_while_the_place_is_overwritten_throws_the_copy_away(folder: Path) -> None:
    """The writer is stopped behind each of its steps, and a reader looks."""
    with RingWriter(folder / "r", RECORD, 4) as writer:
        writer.publish(numbered(1, 4))
        with RingReader(folder / "r", "me", RECORD, from_oldest=True) as reader:
            assert numbers(reader.read(1)[0]) == [1]
            assert kernels.first_intact(writer.address) == 1
            assert kernels.claim(writer.address, 2) == 2
            assert kernels.first_intact(writer.address) == 3
            more = numbered(5, 2)
            kernels.fill(writer.address, more.ctypes.data, 2)
            records, missed = reader.read(1)
            assert (numbers(records), missed) == ([3], 1)
            kernels.commit(writer.address, 0, 2)
            assert numbers(reader.read()[0]) == [4, 5, 6]


def test_numbers_and_unread_records_go_on_in_the_next_life_of_both(folder: Path) -> None:
    path = folder / "r"
    with RingWriter(path, RECORD, 8, required=["me"]) as writer:
        writer.publish(numbered(1, 6))
    with RingReader(path, "me", RECORD) as reader:
        assert numbers(reader.read(4)[0]) == span(1, 4)
        reader.ack(3)
    with RingReader(path, "me", RECORD) as reader, RingWriter(path, RECORD, 8, required=["me"]) as writer:
        assert (writer.epoch, writer.published, writer.room) == (2, 6, 5)
        assert writer.publish(numbered(7, 9)) == 5
        assert numbers(reader.read()[0]) == span(4, 11)
        assert writer.statistics()["readers"]["me"]["epoch"] == 2


def test_a_ring_has_one_live_writer_and_one_live_reader_of_a_name(folder: Path) -> None:
    path = folder / "r"
    with RingWriter(path, RECORD, 8), RingReader(path, "me", RECORD):
        with pytest.raises(RingError, match=f"has a live writer already, process {os.getpid()}"):
            RingWriter(path, RECORD, 8)
        with pytest.raises(RingError, match=f"has a live reader 'me' already, process {os.getpid()}"):
            RingReader(path, "me", RECORD)
    RingWriter(path, RECORD, 8).close()


def test_the_slot_of_a_reader_that_is_gone_is_given_away_and_that_of_a_live_one_is_not(folder: Path) -> None:
    path = folder / "r"
    with RingWriter(path, RECORD, 8, required=["required"]) as writer:
        live = [RingReader(path, f"live {i}", RECORD) for i in range(6)]
        RingReader(path, "gone", RECORD).close()
        with RingReader(path, "new", RECORD) as reader:
            assert set(writer.statistics()["readers"]) == {"required", "new", *(f"live {i}" for i in range(6))}
            writer.publish(numbered(1, 2))
            assert numbers(reader.read()[0]) == [1, 2]
            with pytest.raises(RingError, match=r"no slot left for 'one more': required, live 0, .*new"):
                RingReader(path, "one more", RECORD)
        for reader in live:
            reader.close()


def _children(*arguments: str) -> dict[str, int]:
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("ring_children.py")), *arguments]
    # One thread: a process with more must not fork.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mode", ["fan-out", "lossless", "log"])
def test_nothing_is_torn_lost_or_stuck_when_either_side_is_killed_at_random_moments(folder: Path, mode: str) -> None:
    """Each record is made from its number, so that half of it, an old one or a repeated one is seen."""
    found = _children("kill", str(folder), mode, "25", "3")
    assert found["bad"] == found["stuck"] == found["unexpected"] == 0, found
    assert found["kills"] == 27
    assert found["read"] > 1000
    assert mode == "fan-out" or found["missed"] == 0
    assert mode != "log" or found["back"] > 0


@pytest.mark.parametrize(
    ("how", "n"),
    [
        ("wake", 20_000),  # a ring of four places: the writer sleeps when it is full, the reader when it is empty
        ("ball", 60_000),  # one record goes around, nobody else would wake whose wake-up was lost
    ],
)
def test_no_wake_up_is_lost_between_two_processes_that_sleep(folder: Path, how: str, n: int) -> None:
    """docs/ring.md names the run with millions of hand-overs."""
    found = _children(how, str(folder), str(n), "11")
    assert found["done_0"] == found["done_1"] == n, found
    assert found["timed_out"] == found["unexpected"] == 0, found
    assert found["sleeps_0"] > 0
    assert found["sleeps_1"] > 0


def test_the_example_of_the_guide_runs_as_it_is_printed(folder: Path) -> None:
    guide = Path(__file__).parents[3] / "docs" / "ring.md"
    found = re.search(r"```python\n(.*?)```", guide.read_text("utf-8"), re.DOTALL)
    assert found is not None
    code = found[1].replace("/dev/shm/quotes/ring", str(folder / "made" / "ring"))
    seen = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (seen.stdout, seen.stderr) == ("[100 101 102] 0\n", "")


# ---- geometry


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 12}, "a power of two, at least 2; it is 12"),
        ({"capacity": 1}, "a power of two, at least 2; it is 1"),
        ({"dtype": np.dtype("<i4")}, "a multiple of 8 bytes; int32 has 4"),
        ({"required": ["a", "a"]}, "at most 8 readers with different names"),
        ({"required": ["n" * 17]}, "1 to 16 bytes; 'n+' has 17"),
        ({"required": [""]}, "1 to 16 bytes; '' has 0"),
        ({"log": True}, "exactly one reader"),
        ({"bell": 64}, "no bell 64; allowed are 0 to 63"),
    ],
)
def test_a_ring_that_cannot_be_is_refused_with_what_is_allowed(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    wanted: dict[str, Any] = {"dtype": RECORD, "capacity": 8, **options}
    with pytest.raises(RingError, match=message):
        RingWriter(folder / "r", **wanted)
    assert not (folder / "r").exists()


def test_a_reader_is_told_what_was_found_and_what_was_expected(folder: Path) -> None:
    path = folder / "r"
    with pytest.raises(RingError, match=f"no ring at {re.escape(str(path))}; its writer makes it"):
        RingReader(path, "me", RECORD)
    with (
        RingWriter(path, RECORD, 8, kind=3),
        pytest.raises(RingError, match="another geometry: record bytes 24, expected 8; kind 3, expected 4"),
    ):
        RingReader(path, "me", OTHER, kind=4)
    path.write_bytes(bytes(5000))
    with pytest.raises(RingError, match="does not begin with TICKRING"):
        RingReader(path, "me", RECORD)
    path.write_bytes(b"TICKRING")
    with pytest.raises(RingError, match="is not a ring: it has 8 bytes"):
        RingWriter(path, RECORD, 8)


def test_a_file_that_was_cut_off_is_not_mapped(folder: Path) -> None:
    path = folder / "r"
    RingWriter(path, RECORD, 8).close()
    os.truncate(path, 4096 + 8 * 24 - 1)
    with pytest.raises(RingError, match="it has 4287 bytes, its header says 4288"):
        RingReader(path, "me", RECORD)


def test_a_writer_with_another_capacity_takes_unread_records_along_and_readers_reopen(folder: Path) -> None:
    path = folder / "r"
    with RingWriter(path, RECORD, 8, required=["me"]) as writer:
        writer.publish(numbered(1, 5))
    with RingReader(path, "me", RECORD) as reader:
        assert numbers(reader.read(2)[0]) == [1, 2]
        reader.ack()
        with RingWriter(path, RECORD, 16, required=["me"]) as writer:
            assert (writer.epoch, writer.published, writer.capacity, writer.room) == (2, 5, 16, 13)
            assert reader.wait(1.0)
            assert not reader.retired, "something is left in the old file"
            assert numbers(reader.read()[0]) == [3, 4, 5]
            reader.ack()
            assert reader.retired
            reader.reopen()
            assert writer.room == 16
            writer.publish(numbered(6, 2))
            assert numbers(reader.read()[0]) == [6, 7]


def test_unread_records_are_never_dropped_silently_with_the_file(folder: Path) -> None:
    path = folder / "r"
    with RingWriter(path, RECORD, 8, required=["me"]) as writer:
        writer.publish(numbered(1, 5))
    with pytest.raises(RingError, match="5 records are not read yet, and there is room for 4"):
        RingWriter(path, RECORD, 4, required=["me"])
    with pytest.raises(RingError, match="5 records are not read yet, and their format is another"):
        RingWriter(path, OTHER, 8, required=["me"])
    with RingReader(path, "me", RECORD) as reader:
        assert numbers(reader.read()[0]) == span(1, 5)
        reader.ack()
    with RingWriter(path, OTHER, 8, required=["me"]) as writer:
        assert (writer.published, writer.room) == (5, 8)
    assert sorted(child.name for child in folder.iterdir()) == ["bells", "r"]


# ---- waiting


@pytest.mark.parametrize(
    ("asked", "spinners", "cores", "strategy", "note"),
    [
        ("spin", 4, 4, "spin", ""),
        ("spin", 4, 2, "block", "4 processes would spin on 2 core"),
        ("yield", 4, 1, "yield", ""),
        ("block", 4, 8, "block", ""),
        ("adaptive", 1, 2, "spin", "spinning"),
        ("adaptive", 4, 4, "adaptive", "then sleeping; 4 process"),
        ("adaptive", 4, 1, "block", "one core"),
    ],
)
def test_the_wait_strategy_follows_from_the_cores(
    asked: str, spinners: int, cores: int, strategy: str, note: str
) -> None:
    found, said = choose_wait(asked, spinners, cores)
    assert found == strategy
    assert note in said
    assert bool(note) == bool(said)


def test_an_unknown_wait_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="'sometimes' is not a valid WaitStrategy"):
        choose_wait("sometimes", 1, 1)


@pytest.mark.parametrize("strategy", list(WaitStrategy))
def test_waiting_ends_with_a_record_with_room_and_with_the_time(folder: Path, strategy: WaitStrategy) -> None:
    path = folder / "r"
    with (
        RingWriter(path, RECORD, 2, required=["me"], bell=0, wait=strategy) as writer,
        RingReader(path, "me", RECORD, bell=1, wait=strategy) as reader,
    ):
        assert not reader.wait(0.002)
        assert writer.wait(0.002)
        writer.publish(numbered(1, 2))
        assert reader.wait(0.002)
        assert not writer.wait(0.002)
        reader.read()
        reader.ack()
        assert writer.wait(0.002)


def test_a_sleeper_is_announced_before_it_sleeps_and_cleared_when_there_is_work(folder: Path) -> None:
    """The first turn without work announces, the second sleeps unless the bell rang in between."""
    bells = Bells(folder)
    waiter = Waiter(WaitStrategy.BLOCK, bells, 3)
    counter, sleeping = 3 * 8, 3 * 8 + 1
    long_ns = 60_000_000_000
    waiter.pause(False, long_ns)
    assert bells.words[sleeping] == 1
    waiting.ring_bell(bells.address, 3)
    assert bells.words[counter] == 1
    waiter.pause(False, long_ns)  # would be a minute if the wake-up were lost
    assert bells.words[sleeping] == 0
    waiting.ring_bell(bells.address, 3)
    assert bells.words[counter] == 1, "nobody sleeps, nobody is woken"
    waiter.pause(False, long_ns)
    waiter.pause(True, long_ns)
    assert bells.words[sleeping] == 0
    assert (waiter.words[waiting.Wait.SLEEPS], waiter.words[waiting.Wait.TIMED_OUT]) == (1, 0)
    assert waiter.words[waiting.Wait.SPIN_NS] == SPIN_NS


def test_a_predecessor_killed_in_its_sleep_leaves_no_flag_behind(folder: Path) -> None:
    bells = Bells(folder)
    bells.words[8 + 1] = 1
    Waiter(WaitStrategy.BLOCK, Bells(folder), 1)
    assert bells.words[8 + 1] == 0


def test_publishing_and_reading_allocate_nothing(folder: Path) -> None:
    """Neither Python objects that stay nor memory of the compiler's runtime."""
    path = folder / "r"
    with RingWriter(path, RECORD, 8, required=["me"]) as writer, RingReader(path, "me", RECORD, bell=0) as reader:
        source, target = numbered(1, 3), numbered(1, 3)
        ring, bells, at, to = writer.address, reader._bells.address, source.ctypes.data, target.ctypes.data
        following = 1

        def turns(n: int) -> None:
            nonlocal following
            for _ in range(n):
                assert kernels.publish(ring, bells, at, 3) == 3
                assert kernels.copy_out(ring, following, to, 3) == (3, 0)
                following += 3
                kernels.ack(ring, bells, 0, following - 1)

        turns(100)
        _nrt_python.memsys_enable_stats()
        try:
            before, allocated = sys.getallocatedblocks(), rtsys.get_allocation_stats().alloc
            turns(2000)
            assert sys.getallocatedblocks() - before < 20
            assert rtsys.get_allocation_stats().alloc == allocated
        finally:
            _nrt_python.memsys_disable_stats()
