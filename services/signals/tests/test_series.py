"""The ring per instrument, written by the kernel and read by people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.instruments import InstrumentTable
from tickpath.common.records import SIGNAL
from tickpath.signals.engine import Engine
from tickpath.signals.layout import POINT, plan_tables


@pytest.fixture(scope="module")
def engine(two_instruments: InstrumentTable) -> Engine:
    return Engine([], two_instruments, capacity=16)


@settings(deadline=None, max_examples=30)
@given(n_ticks=st.integers(0, 70), n=st.integers(0, 20))
def test_the_last_points_are_the_last_ticks_in_their_order_at_every_position_of_the_ring(
    engine: Engine, random_ticks: Callable[..., Any], n_ticks: int, n: int
) -> None:
    ticks = random_ticks(n_ticks, seed=n_ticks)
    engine.reset()
    engine.run(ticks, np.zeros(1, SIGNAL), 0)
    for instrument in range(2):
        mine = ticks[ticks["instrument"] == instrument]
        assert engine.series.count(instrument) == len(mine)
        for points, most in ((engine.series.view(instrument, n), 16), (engine.series.last(instrument, n), 15)):
            wanted = mine[max(0, len(mine) - min(n, most)) :]
            assert len(points) == len(wanted)
            for name in POINT.names or ():
                np.testing.assert_array_equal(points[name], wanted[name])


def test_a_view_is_not_a_copy_and_a_copy_is_not_a_view(engine: Engine, random_ticks: Callable[..., Any]) -> None:
    engine.reset()
    engine.run(random_ticks(40, seed=1, n_instruments=1), np.zeros(1, SIGNAL), 0)
    view, copy = engine.series.view(0, 16), engine.series.last(0, 16)
    assert np.shares_memory(view, engine.memory.bytes)
    assert not np.shares_memory(copy, engine.memory.bytes)


def test_a_reader_leaves_out_what_the_writer_went_over_while_it_copied(
    engine: Engine, random_ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is simulated by a count that grows between the two looks at it."""
    engine.reset()
    engine.run(random_ticks(40, seed=1, n_instruments=1), np.zeros(1, SIGNAL), 0)
    looks = iter([40, 40, 43])
    series = type(engine.series)(engine.memory["counts"], engine.memory["points"])
    monkeypatch.setattr(series, "count", lambda _: next(looks))
    np.testing.assert_array_equal(series.last(0, 16), engine.series.view(0, 12))


@pytest.mark.parametrize("capacity", [0, 1, 3, 1000])
def test_a_capacity_that_is_no_power_of_two_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        plan_tables(1, capacity, 0)
