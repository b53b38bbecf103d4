"""What a journal survives, what it refuses, and how it says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.exec.tests.conftest import DAY, Desk, accepted, executed, new_order
from tickpath.common.records import REPORT, ExecEvent, Side
from tickpath.exec.journal import (
    HEADER_BYTES,
    Journal,
    JournalError,
    JournalTail,
    positions_from,
    read_journal,
)
from tickpath.exec.layout import Counter, Reg
from tickpath.exec.lifecycle import Refusal

ENTRY = REPORT.itemsize
ROOT = Path(__file__).parents[3]


def write_day(folder: Path, n: int, **options: int) -> np.ndarray:
    """A closed journal of `n` entries; returns them."""
    desk = Desk(folder, capacity=4096, **options)
    for number in range(1, n + 1):
        desk.accept(new_order(number))
    entries = np.concatenate([desk.journal.read(seq, 1) for seq in range(1, n + 1)])
    desk.close()
    return entries


def segment(folder: Path, index: int = 0) -> Path:
    return sorted(folder.glob("*.journal"))[index]


def test_what_was_appended_is_read_back_by_number_and_as_a_whole(tmp_path: Path) -> None:
    entries = write_day(tmp_path, 10)
    assert entries["seq"].tolist() == list(range(1, 11))
    assert np.array_equal(read_journal(tmp_path), entries)


def test_entries_are_in_the_file_before_the_bytes_are_in_the_send_buffer_of_anyone(tmp_path: Path) -> None:
    """Another process sees the SEND entry of an order as soon as accept has returned, without any sync or close."""
    desk = Desk(tmp_path)
    raw = desk.accept(new_order(1))
    assert raw
    entries = read_journal(tmp_path)
    assert entries["event"].tolist() == [ExecEvent.SEND]
    desk.close()


@pytest.mark.parametrize("how", ["zeros", "cut"])
def test_torn_at_every_byte_of_the_last_entry(tmp_path: Path, how: str) -> None:
    """Whatever part of the last entry reached the file, exactly the entries before it are left, and it is said."""
    write_day(tmp_path, 3)
    path = segment(tmp_path)
    whole = path.read_bytes()
    start = HEADER_BYTES + 2 * ENTRY
    for kept in range(ENTRY):
        torn = whole[: start + kept] + (bytes(len(whole) - start - kept) if how == "zeros" else b"")
        if torn.ljust(len(whole), b"\0") == whole:
            continue  # the bytes that are missing were zeros
        path.write_bytes(torn)
        assert len(read_journal(tmp_path)) == 2
        journal = Journal.open(tmp_path, DAY)
        left = torn[start : start + kept].rstrip(b"\0")
        assert (journal.next_seq, journal.torn_bytes) == (3, len(left))
        journal.close()
        assert len(read_journal(tmp_path)) == 2
        assert not any(path.read_bytes()[start:]), "what was torn is gone from the file"


def test_a_journal_goes_on_behind_a_torn_entry(tmp_path: Path) -> None:
    write_day(tmp_path, 3)
    path = segment(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: HEADER_BYTES + 2 * ENTRY + 100].ljust(len(whole), b"\0"))
    desk = Desk(tmp_path)
    assert desk.orders.counters[Counter.JOURNAL_TORN_BYTES] > 0
    desk.accept(new_order(9))
    desk.close()
    assert read_journal(tmp_path)["cause_seq"].tolist() == [1, 2, 9]


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(0, 4 * ENTRY * 8 - 1))
def test_any_flipped_bit_before_the_last_entry_stops_with_the_place(
    bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    write_day(folder, 5)
    path = segment(folder)
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    number = 1 + bit // 8 // ENTRY
    offset = HEADER_BYTES + (number - 1) * ENTRY
    with pytest.raises(JournalError, match=f"{path.name}.*entry {number} at offset {offset} .*restore the file"):
        Journal.open(folder, DAY)


def test_a_flipped_bit_in_the_header_stops(tmp_path: Path) -> None:
    write_day(tmp_path, 1)
    path = segment(tmp_path)
    for at in range(52):
        data = bytearray(path.read_bytes())
        data[at] ^= 4
        path.write_bytes(data)
        with pytest.raises(JournalError, match=path.name):
            Journal.open(tmp_path, DAY)
        data[at] ^= 4
        path.write_bytes(data)


def test_segments_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    """Entries run on over the end of a segment, one at a time and in batches, and all of them can be read."""
    desk = Desk(tmp_path, capacity=4096, entries=16)
    desk.accept(*[new_order(number) for number in range(1, 16)])
    desk.accept(*[new_order(number) for number in range(16, 70)])
    assert [desk.journal.read(seq, 1)[0]["seq"] for seq in (1, 16, 17, 69)] == [1, 16, 17, 69]
    assert len(desk.journal.read(10, 100)) == 7, "up to the end of a segment"
    assert len(desk.journal.read(70, 100)) == 0
    desk.close()
    assert read_journal(tmp_path)["seq"].tolist() == list(range(1, 70))


@pytest.mark.parametrize("n", [15, 16, 17, 32])
def test_opening_goes_on_wherever_the_last_entry_was(tmp_path: Path, n: int) -> None:
    write_day(tmp_path, n, entries=16)
    desk = Desk(tmp_path, capacity=4096)
    desk.accept(new_order(n + 1))
    desk.close()
    assert len(read_journal(tmp_path)) == n + 1


def test_a_missing_segment_stops(tmp_path: Path) -> None:
    write_day(tmp_path, 40, entries=16)
    segment(tmp_path, 1).unlink()
    with pytest.raises(JournalError, match="begins with entry 17 is missing"):
        Journal.open(tmp_path, DAY)


def test_the_journal_of_another_day_is_not_continued(tmp_path: Path) -> None:
    write_day(tmp_path, 1)
    with pytest.raises(JournalError, match=f"journal of {DAY}, not of {DAY + 1}"):
        Journal.open(tmp_path, DAY + 1)


def test_a_file_that_is_not_a_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "000000000001.journal").write_bytes(b"hello")
    with pytest.raises(JournalError, match="is not a segment of a journal"):
        Journal.open(tmp_path, DAY)


def test_a_folder_that_cannot_be_written_is_an_error_for_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"set exec\.journal_dir"):
        Journal.open(tmp_path / "file" / "journal", DAY)


def fill_the_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no segment can be allocated."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)


def test_disk_full_refuses_new_orders_and_keeps_room_for_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders are refused while there is still room for all that the venue may say about those that are out."""
    desk = Desk(tmp_path, entries=256)
    fill_the_disk(desk, monkeypatch)
    sent = 0
    for number in range(1, 120):
        sent += len(desk.accept(new_order(number))) > 0
    assert 0 < sent < 119
    entries = desk.journal.read(1, 256)
    refused = entries[entries["event"] == ExecEvent.NOT_SENT]
    assert set(refused["reason"].tolist()) == {Refusal.JOURNAL_FULL}
    for ref in range(1, sent + 1):
        desk.receive(accepted(ref), executed(ref, 100))
    assert desk.orders.open_count == 0
    assert desk.orders.counters[Counter.JOURNAL_ERRORS] > 0
    desk.close()


def test_no_room_at_all_takes_no_order_and_reads_nothing_from_the_venue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes out unjournaled; what the venue says waits and is taken when there is room again."""
    desk = Desk(tmp_path, entries=256)
    desk.accept(new_order(1))
    with monkeypatch.context() as patch:
        fill_the_disk(desk, patch)
        for number in range(2, 400):
            if desk.orders.accept(new_order(number), 1) == 0:
                break
        assert desk.ctx[Reg.NEXT_SEQ] == 257
        desk.take_sent()
        assert desk.orders.accept(new_order(500), 1) == 0
        assert desk.take_sent() == b""
        desk.receive(accepted(1))
        assert desk.ctx[Reg.VENUE_NEXT] == 1
    assert desk.orders.accept(new_order(500), 1) == 1
    desk.gateway._process(1)
    assert desk.ctx[Reg.VENUE_NEXT] == 2
    desk.close()


def test_a_kill_while_appending_leaves_a_readable_journal(tmp_path: Path) -> None:
    """SIGKILL in the middle of appends, again and again: the journal opens, and goes on where it was."""
    before = 0
    for round_ in range(3):
        child = subprocess.Popen(
            [sys.executable, "services/exec/tests/append_forever.py", str(tmp_path / str(round_))],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == b"begun\n"
            tail = JournalTail(tmp_path / str(round_))
            while not len(tail.poll()):
                assert child.poll() is None
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        entries = read_journal(tmp_path / str(round_))
        before = len(entries)
        assert before > 0
        assert entries["seq"].tolist() == list(range(1, before + 1))
        desk = Desk(tmp_path / str(round_), capacity=1 << 18, day_orders=1 << 18)
        assert desk.orders.open_count == before
        order = new_order(10_000_000)
        desk.accept(order)  # sent, or refused where a slow machine has let the child fill the segment
        assert desk.journal.read(before + 1, 1)["cl_ord_id"] == order["cl_ord_id"]
        desk.close()


def test_a_follower_sees_complete_entries_in_order_across_segments(tmp_path: Path) -> None:
    tail = JournalTail(tmp_path)
    assert len(tail.poll()) == 0, "there is no journal yet"
    desk = Desk(tmp_path, capacity=4096, entries=16)
    seen: list[int] = []
    for number in range(1, 50):
        desk.accept(new_order(number))
        seen += tail.poll()["seq"].tolist()
    while len(new := tail.poll()):
        seen += new["seq"].tolist()
    assert seen == list(range(1, 50))
    assert tail.entry(33)["seq"] == 33
    desk.close()


def test_positions_are_the_sum_of_fills_by_side(desk: Desk) -> None:
    desk.accept(new_order(1), new_order(2, side=Side.SELL, instrument=1), new_order(3))
    desk.receive(executed(1, 30), executed(2, 100, price=20_000), executed(1, 20), executed(3, 100))
    reports = read_journal(desk.journal.folder)
    assert positions_from(reports) == {0: 150, 1: -100}


@pytest.mark.parametrize("fsync", ["none", "interval", "always"])
def test_every_fsync_policy_writes_the_same_journal(tmp_path: Path, fsync: str) -> None:
    desk = Desk(tmp_path, fsync=fsync)
    desk.accept(new_order(1))
    desk.orders.tend(10**12)
    desk.close()
    assert len(read_journal(tmp_path)) == 1
