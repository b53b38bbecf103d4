"""The links of the shm lane: rings that come late, are replaced, or begin anew, and how the loops wait."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.common.tests.shm_rig import make_config, reader_of, writer_of
from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.instruments import make_table
from tickpath.common.pages import Page, read_text, write_text
from tickpath.common.process import StartError
from tickpath.common.records import REPORT, SIGNAL, TICK, RecordKind
from tickpath.common.ring import WaitStrategy
from tickpath.common.rings import Input, LogInput, Rings, choose_strategy

TABLE = make_table([("A", "0.01", 1, 1, 1, "USD")])


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path, TABLE)


def words() -> np.ndarray:
    return np.zeros(8, np.int64)


def numbered(dtype: np.dtype[Any], first: int, n: int) -> np.ndarray:
    """Records whose causes count on from `first`."""
    records = np.zeros(n, dtype)
    records["cause_seq"] = np.arange(first, first + n)
    return records


def test_a_ring_is_opened_when_its_writer_has_made_it(config: Config) -> None:
    rings, w = Rings(config, "risk"), words()
    found = Input(rings, "signals", RecordKind.SIGNAL, w, 2)
    found.tend(now_ns())
    assert (found.ring, found.connected(now_ns())) == (0, False)
    assert len(found.waiting()) == 0
    with writer_of(config, "signals", RecordKind.SIGNAL, "risk") as writer:
        writer.publish(numbered(SIGNAL, 1, 3))
        found.tend(now_ns())
        assert (w[2] > 0, w[4]) == (True, 1)
        assert found.connected(now_ns())
        assert found.waiting()["cause_seq"].tolist() == [1, 2, 3]
        found.took(2)
        assert found.waiting()["cause_seq"].tolist() == [3]
        found.close()
        assert found.ring == 0


def test_a_fan_out_is_read_from_its_oldest_record_by_every_life(config: Config) -> None:
    with writer_of(config, "ticks", RecordKind.TICK) as writer:
        for first in (1, 801):
            writer.publish(numbered(TICK, first, 800))
        for _ in range(2):
            w = words()
            found = Input(Rings(config, "signals"), "ticks", RecordKind.TICK, w, 0)
            found.tend(now_ns())
            assert found.joined_behind == found.next_seq - 1 == 1600 - 1024
            found.close()


def test_a_replaced_ring_is_opened_in_its_place_once_the_old_one_is_read(config: Config) -> None:
    w = words()
    found = Input(Rings(config, "risk"), "signals", RecordKind.SIGNAL, w, 0)
    with writer_of(config, "signals", RecordKind.SIGNAL, "risk") as writer:
        writer.publish(numbered(SIGNAL, 1, 3))
        found.tend(now_ns())
        old = found.ring
    larger = config.model_copy(update={"links": config.links.model_copy(update={"log_ring": 128})})
    with writer_of(larger, "signals", RecordKind.SIGNAL, "risk") as writer:
        found.tend(now_ns())
        assert found.ring == old
        found.took(len(found.waiting()))
        found.tend(now_ns())
        assert found.ring != old
        writer.publish(numbered(SIGNAL, 4, 1))
        assert found.waiting()["cause_seq"].tolist() == [4]
        found.close()


def test_a_log_begins_at_its_first_entry_and_only_another_log_begins_again(config: Config) -> None:
    w = words()
    found = LogInput(Rings(config, "risk"), "reports.risk", RecordKind.REPORT, w, 0)
    assert not found.begins_anew()
    with writer_of(config, "reports.risk", RecordKind.REPORT, "risk", log=True) as writer:
        found.tend(now_ns())
        assert not found.begins_anew()  # the writer has not said which log
        writer.set_log(7, 3)
        assert found.begins_anew()
        assert not found.look()
        assert writer.tend() == 1
        assert not found.look()
        writer.publish(numbered(REPORT, 1, 2))
        found.took(2)
        assert found.look()
        writer.set_log(7, 4)
        assert (found.begins_anew(), found.look(), found.epochs) == (False, True, 1)
        writer.set_log(8, 1)
        assert (found.begins_anew(), found.look(), found.epochs) == (True, False, 2)
        assert (writer.tend(), found.next_seq, found.look()) == (1, 1, True)
    found.close()


def test_a_log_goes_on_where_it_was_when_its_ring_is_replaced(config: Config) -> None:
    w = words()
    found = LogInput(Rings(config, "risk"), "reports.risk", RecordKind.REPORT, w, 0)
    larger = config.model_copy(update={"links": config.links.model_copy(update={"log_ring": 128})})
    for settings, seq, another in ((config, 1, True), (larger, 2, False)):
        with writer_of(settings, "reports.risk", RecordKind.REPORT, "risk", log=True) as writer:
            writer.set_log(7, seq + 1)
            found.tend(now_ns())
            assert found.begins_anew() == another
            assert writer.tend() == seq
            writer.publish(numbered(REPORT, seq, 1))
            assert found.waiting()["cause_seq"].tolist() == [seq]
            found.took(1)
            assert found.look()
    assert found.epochs == 1
    found.close()


def test_a_ring_that_cannot_be_made_is_said_plainly(config: Config) -> None:
    rings = Rings(config, "signals")
    with rings.writer("signals", RecordKind.SIGNAL, "risk"), pytest.raises(StartError, match="has a live writer"):
        rings.writer("signals", RecordKind.SIGNAL, "risk")


def test_who_reads_a_ring_is_known_by_its_beat(config: Config) -> None:
    rings = Rings(config, "signals")
    with rings.writer("signals", RecordKind.SIGNAL, "risk") as writer:
        assert not rings.is_read(writer, now_ns())
        with reader_of(config, "signals", "risk", RecordKind.SIGNAL):
            assert rings.is_read(writer, now_ns())
            assert not rings.is_read(writer, now_ns() + 3600 * 10**9)


@pytest.mark.parametrize(
    ("asked", "cores", "available", "strategy", "said"),
    [
        ("spin", {}, 2, WaitStrategy.BLOCK, "not|starve"),
        ("spin", {}, 4, WaitStrategy.SPIN, ""),
        ("adaptive", {}, 2, WaitStrategy.ADAPTIVE, "then sleeping"),
        ("adaptive", {}, 8, WaitStrategy.SPIN, "spinning"),
        # Each process sees its own core only; together they have as many as the configuration gives them.
        ("spin", {"feed": (1,), "signals": (2,), "risk": (3,), "exec": (4,)}, 1, WaitStrategy.SPIN, ""),
        ("spin", {"feed": (1,), "signals": (2,), "risk": (3,), "exec": (1,)}, 1, WaitStrategy.BLOCK, "3 core"),
        ("adaptive", {"feed": (1,), "signals": (2,), "risk": (3,), "exec": (4,), "side": (0,)}, 1,
         WaitStrategy.SPIN, ""),
    ],
)  # fmt: skip
def test_loops_spin_only_where_each_has_a_core(
    config: Config, monkeypatch: pytest.MonkeyPatch, asked: str, cores: Any, available: int, strategy: str, said: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(available)))
    chosen = config.model_copy(
        update={
            "process": config.process.model_copy(update={"wait": asked}),
            "cores": config.cores.model_copy(update=cores),
        }
    )
    found, note = choose_strategy(chosen)
    assert found == strategy
    assert any(part in note for part in said.split("|"))


def test_the_note_stands_behind_those_of_the_process_once(config: Config, tmp_path: Path) -> None:
    rings = Rings(config, "feed")
    rings.note = "adaptive: sleeping, there is one core"
    page = Page.create(tmp_path / "page", {"notes": ("u1", (1024,))})
    write_text(page, "notes", "nice refused")
    rings.say(page)
    rings.say(page)
    assert read_text(page, "notes") == "nice refused; adaptive: sleeping, there is one core"
