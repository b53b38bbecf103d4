"""Taps: what is shown is seen whole and in order, what was missed is known exactly, and looking has no effect."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickpath.common.config import Config, load_config
from tickpath.common.kernels import taps as kernels
from tickpath.common.process import StartError
from tickpath.common.records import DATAGRAM, DATAGRAM_BYTES, SIGNAL, TICK, RecordKind
from tickpath.common.ring import RingError, RingObserver, RingReader, RingWriter
from tickpath.common.taps import Tap, observe, tap_path

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A run_dir in memory where there is one."""
    root = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="taps-", dir=root if root.is_dir() else None))
    yield path
    shutil.rmtree(path)


def make_config(run_dir: Path, lane: str = "zmq-ipc", **taps: Any) -> Config:
    return load_config(ROOT / "tickpath.toml", run_dir=run_dir, links={"lane": lane}, taps=taps)


def numbered(first: int, n: int) -> Any:
    """Ticks of which every half shows whether the other half belongs to it."""
    ticks = np.zeros(n, TICK)
    ticks["cause_seq"] = ticks["volume_lots"] = np.arange(first, first + n)
    return ticks


def numbers(ticks: Any) -> list[int]:
    assert (ticks["cause_seq"] == ticks["volume_lots"]).all(), "a torn record"
    found: list[int] = ticks["cause_seq"].tolist()
    return found


def test_two_observers_see_every_record_in_order_across_the_wrap(folder: Path) -> None:
    """Also in batches that are larger than the ring: there the oldest are gone, and counted."""
    tap = Tap(make_config(folder, records=16), "ticks", 7)
    early, late = observe(folder, "ticks"), observe(folder, "ticks")
    got = []
    for first in range(1, 100, 9):
        tap.put(numbered(first, 9))
        records, missed = early.read()
        assert missed == 0
        got += numbers(records)
    assert got == list(range(1, 100))
    records, missed = late.read()
    assert (numbers(records), missed) == (list(range(84, 100)), 83)
    batch = numbered(100, 40)
    tap.put_at(batch.ctypes.data, len(batch))
    records, missed = early.read()
    assert (numbers(records), missed, early.missed) == (list(range(124, 140)), 24, 24)
    assert early.next_seq == 140
    tap.close()


def test_records_are_whole_while_the_writer_laps_the_observer(folder: Path) -> None:
    """The writer does not wait: what was read and what was missed are together what was written."""
    tap = Tap(make_config(folder, records=64), "ticks", 1)
    observer = observe(folder, "ticks")
    batches = [numbered(first, 23) for first in range(1, 23 * 4000, 23)]

    def write() -> None:
        for batch in batches:
            tap.put(batch)

    writer = threading.Thread(target=write)
    writer.start()
    read, last = 0, 0
    while writer.is_alive() or observer.next_seq <= observer.published:
        records, missed = observer.read(50)
        found = numbers(records)
        assert found == list(range(last + 1 + missed, last + 1 + missed + len(found)))
        read, last = read + len(found), last + missed + len(found)
    writer.join()
    assert read + observer.missed == last == 23 * 4000
    tap.close()


def test_looking_changes_no_byte_of_the_ring(folder: Path) -> None:
    """Neither of a tap nor of a link: no slot, no cursor, no time."""
    with RingWriter(folder / "signals.ring", SIGNAL, 8, kind=RecordKind.SIGNAL, required=("risk",)) as link:
        link.publish(np.zeros(5, SIGNAL))
        before = (folder / "signals.ring").read_bytes()
        with observe(folder, "signals", from_oldest=True) as observer:
            assert len(observer.read()[0]) == 5
            assert observer.is_written
        assert (folder / "signals.ring").read_bytes() == before
    assert not observe(folder, "signals").is_written


def test_nobody_waits_for_an_observer_of_a_lossless_link(folder: Path) -> None:
    """Its required reader alone makes room; the observer that did not look meanwhile has missed the rest."""
    with RingWriter(folder / "signals.ring", SIGNAL, 8, kind=RecordKind.SIGNAL, required=("risk",)) as link:
        observer = observe(folder, "signals")
        with RingReader(folder / "signals.ring", "risk", SIGNAL, kind=RecordKind.SIGNAL) as risk:
            for _ in range(10):
                assert link.publish(np.zeros(8, SIGNAL)) == 8
                while len(risk.read_in_place()):  # up to the wrap
                    pass
                risk.ack()
        records, missed = observer.read()
        assert (len(records), missed) == (8, 72)


def test_a_stopped_process_that_looks_slows_nobody(folder: Path) -> None:
    """Stopped in the middle of reading; the writer's count goes on, and afterwards it knows what it has missed."""
    tap = Tap(make_config(folder, records=64), "ticks", 1)
    code = (
        "import sys; from pathlib import Path; from tickpath.common.taps import observe\n"
        "observer = observe(Path(sys.argv[1]), 'ticks'); print('there', flush=True)\n"
        "n = 0\n"
        "while observer.next_seq <= 10_000: n += len(observer.read()[0])\n"
        "print(n, observer.missed, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "there\n"
        tap.put(numbered(1, 10))
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        for first in range(11, 10_001, 10):
            tap.put(numbered(first, 10))
        assert observe(folder, "ticks").published == 10_000
        os.kill(child.pid, signal.SIGCONT)
        read, missed = map(int, child.communicate(timeout=60)[0].split())
    finally:
        child.kill()
        child.wait()
    assert read + missed == 10_000
    assert missed >= 10_000 - 10 - 64
    tap.close()


def test_the_taps_that_are_off_make_no_file(folder: Path) -> None:
    """Off by configuration; off because the link is a ring; and without capture."""
    for config, stream in (
        (make_config(folder, enabled=False), "ticks"),
        (make_config(folder, "shm"), "signals"),
        (make_config(folder), "datagrams"),
    ):
        tap = Tap(config, stream, 1)
        assert tap.address == 0
        tap.put(np.zeros(1, tap.dtype))
        tap.put_at(0, 1)
        tap.put_message(b"nobody sees this", 1)
        tap.close()
    assert list(folder.iterdir()) == []
    with pytest.raises(RingError, match="there is no ring"):
        observe(folder, "ticks")


def test_captured_datagrams_are_those_that_came(folder: Path) -> None:
    """Two of three in a receive buffer, one of them cut off by its slot."""
    tap = Tap(make_config(folder, capture=True, capture_datagrams=8), "datagrams", 1)
    observer = observe(folder, "datagrams")
    buffer = np.random.default_rng(5).integers(0, 256, (3, 100), np.uint8)
    kernels.capture(tap.address, buffer, np.array([30, 20, -150]), 1, 3, 77, 2)
    records, missed = observer.read()
    assert records.dtype == DATAGRAM
    assert missed == 0
    assert records["length"].tolist() == [20, 100]
    assert records["recv_ns"].tolist() == [77, 77]
    assert records["line"].tolist() == [2, 2]
    assert records["part"].tolist() == [0, 0]
    assert bytes(records["data"][0, :20]) == bytes(buffer[1, :20])
    assert bytes(records["data"][1, :100]) == bytes(buffer[2])
    tap.close()


@pytest.mark.parametrize("size", [0, 1, DATAGRAM_BYTES, DATAGRAM_BYTES + 1, 3 * DATAGRAM_BYTES])
def test_a_message_of_any_length_is_kept_in_parts(folder: Path, size: int) -> None:
    """A frame of a stream may be longer than any datagram."""
    tap = Tap(make_config(folder, capture=True), "datagrams", 1)
    observer = observe(folder, "datagrams")
    message = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    tap.put_message(message, 5, line=-1)
    records = observer.read()[0]
    assert records["part"].tolist() == list(range(max(1, -(-size // DATAGRAM_BYTES))))
    assert set(records["length"].tolist()) == {size}
    assert set(records["line"].tolist()) == {-1}
    assert b"".join(bytes(data) for data in records["data"])[:size] == message
    tap.close()


def test_an_observer_goes_on_when_the_writer_lives_again(folder: Path) -> None:
    """With the same ring, with a larger one, and with one that begins anew because the folder was cleaned."""
    config = make_config(folder, records=16)
    first = Tap(config, "ticks", 1)
    observer = observe(folder, "ticks")
    first.put(numbered(1, 3))
    first.close()
    assert not observer.is_written
    second = Tap(config, "ticks", 2)
    second.put(numbered(4, 2))
    assert numbers(observer.read()[0]) == [1, 2, 3, 4, 5]
    assert observer.is_written
    assert observer.epoch == 2
    second.close()
    third = Tap(make_config(folder, records=32), "ticks", 3)
    third.put(numbered(6, 2))
    assert numbers(observer.read()[0]) == []  # looks for the other file now
    assert numbers(observer.read()[0]) == [6, 7]
    third.close()
    tap_path(folder, "ticks").unlink()
    fourth = Tap(config, "ticks", 4)
    fourth.put(numbered(1, 2))
    observer.read()
    assert numbers(observer.read()[0]) == [1, 2]
    assert (observer.lives, observer.missed) == (3, 0)
    fourth.close()


def test_of_two_rings_the_one_that_is_written_is_observed(folder: Path) -> None:
    """An earlier run in another lane may have left the other one."""
    tap = Tap(make_config(folder), "signals", 1)
    with RingWriter(folder / "signals.ring", SIGNAL, 8, kind=RecordKind.SIGNAL, required=("risk",)) as link:
        tap.close()
        assert observe(folder, "signals").path == folder / "signals.ring"
        assert link.epoch == 1
    again = Tap(make_config(folder), "signals", 2)
    assert observe(folder, "signals").path == tap_path(folder, "signals")
    again.close()


def test_what_is_no_tap_is_refused_with_what_was_found(folder: Path) -> None:
    """Another geometry, a log, a file of something else, a place that cannot be written to."""
    with RingWriter(folder / "other", np.dtype([("x", "<i8")]), 8), pytest.raises(RingError, match="record bytes 8"):
        RingObserver(folder / "other", SIGNAL)
    with (
        RingWriter(folder / "log", SIGNAL, 8, required=("risk",), log=True),
        pytest.raises(RingError, match="ships a log"),
    ):
        RingObserver(folder / "log", SIGNAL)
    (folder / "text").write_bytes(b"x" * 5000)
    with pytest.raises(RingError, match="not a ring"):
        RingObserver(folder / "text", SIGNAL)
    (folder / "file").write_text("")
    with pytest.raises(StartError, match=r"taps\.records"):
        Tap(make_config(folder / "file"), "ticks", 1)
