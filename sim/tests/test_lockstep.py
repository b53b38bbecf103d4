"""When a step of the pipeline is over: real pages, moved as the four processes move them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import pytest

from tickpath.common.pages import Fields, Hot, HotState, Page, create_hot_page
from tickpath.sim.lockstep import Lockstep

NOW = 5_000_000_000
COUNTERS = {
    "feed": ("DATAGRAMS", "MESSAGES", "TICKS", "TICKS_HELD_BY_PAUSE"),
    "signals": ("TICKS", "SIGNALS_NEW", "SIGNALS_CANCEL", "SIGNALS_UNANSWERED", "REPORTS"),
    "risk": ("SIGNALS", "TICKS", "REPORTS"),
    "exec": ("ORDERS_RECEIVED", "ORDERS_SENT", "CANCELS_SENT", "VENUE_MESSAGES", "JOURNAL_ENTRIES"),
}
CORE = ("approved", "cancels", "rejected", "ticks", "reports")


class Nothing(IntEnum):
    """No histograms."""

    NONE = 0


class Stages:
    """The pages of the four, in a folder of their own; `move` is what their loops do to them."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.pages: dict[str, Page] = {}
        for name in COUNTERS:
            self.start(name)

    def start(self, name: str) -> None:
        """Another life of a stage: a new page, and all its counters at some number that is not 0."""
        counters = IntEnum(f"{name}_counters", [(n, i) for i, n in enumerate(COUNTERS[name])])  # type: ignore[misc]
        core: Fields = {"core": ("<i8", (len(CORE),))} if name == "risk" else {}
        meta = {"core": list(CORE)} if name == "risk" else {}
        page = self.pages[name] = create_hot_page(self.run_dir, name, counters, Nothing, core, meta)
        page["counters"][:] = 100
        hot = page["hot"]
        hot[Hot.PID], hot[Hot.STATE], hot[Hot.CONNECTED], hot[Hot.LAST_TURN_NS] = os.getpid(), HotState.READY, 1, NOW

    def move(self, stage: str, **counts: int) -> None:
        """Counters of a stage grow; those of risk's core are live, its counters of the same name lag behind."""
        page = self.pages[stage]
        for name, n in counts.items():
            if stage == "risk" and name in CORE:
                page["core"][CORE.index(name)] += n
            else:
                page["counters"][page.meta["counters"].index(name)] += n

    def busy(self, stage: str, busy: int = 1) -> None:
        self.pages[stage]["hot"][Hot.BUSY] = busy


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Stages]:
    made = Stages(tmp_path)
    yield made
    for page in made.pages.values():
        page.close()


@pytest.fixture
def lockstep(stages: Stages) -> Lockstep:
    made = Lockstep(stages.run_dir)
    assert made.begin(NOW)
    return made


def test_a_step_goes_through_the_stages_one_by_one(stages: Stages, lockstep: Lockstep) -> None:
    """A datagram of 3 messages makes 2 ticks, 2 signals, 1 order and 1 cancel of another: each must have arrived."""
    steps: list[tuple[str, dict[str, int], str]] = [
        ("feed", {"messages": 3, "ticks": 2}, "feed has 0 of 3 messages"),
        ("signals", {"ticks": 2, "signals_new": 1, "signals_cancel": 1}, "signals has 0 of 2 ticks"),
        ("risk", {"ticks": 2}, "risk has 0 of 2 ticks"),
        ("risk", {"signals": 2, "approved": 1, "cancels": 1}, "risk has 0 of 2 signals"),
        ("exec", {"orders_received": 2, "orders_sent": 1, "cancels_sent": 1}, "exec has 0 of 2 orders"),
    ]
    for stage, counts, missing in steps:
        assert not lockstep.decided(3, 0)
        assert lockstep.waiting == missing
        stages.move(stage, **counts)
    assert not lockstep.decided(3, 0)
    assert not lockstep.decided(3, 1)
    assert lockstep.decided(3, 2)
    assert lockstep.waiting == ""


def test_a_step_that_nobody_trades_on_is_over_when_the_marks_have_arrived(stages: Stages, lockstep: Lockstep) -> None:
    assert lockstep.decided(0, 0)
    for stage, counts in (("feed", {"messages": 1, "ticks": 1}), ("signals", {"ticks": 1})):
        stages.move(stage, **counts)
        assert not lockstep.decided(1, 0)
    stages.move("risk", ticks=1)
    assert lockstep.decided(1, 0)
    assert lockstep.reported(0)


def test_reports_are_waited_for_in_the_journal_and_at_both_of_its_readers(stages: Stages, lockstep: Lockstep) -> None:
    stages.move("exec", journal_entries=1)
    assert not lockstep.reported(2)
    stages.move("exec", venue_messages=2, journal_entries=2)
    assert not lockstep.reported(2)
    stages.move("signals", reports=3)
    assert not lockstep.reported(2)
    assert lockstep.waiting == "risk has 0 of 3 reports"
    stages.move("risk", reports=3)
    assert lockstep.reported(2)


def test_a_refusal_is_waited_for_until_the_strategy_can_know_of_it(stages: Stages, lockstep: Lockstep) -> None:
    """Signals that were approved are known by their reports; the count of those unanswered is not asked for then."""
    assert lockstep.reported(0)
    stages.move("risk", rejected=1)
    assert not lockstep.reported(0)
    assert lockstep.waiting == "signals has 100 of 0 unanswered signals"
    stages.move("signals", signals_unanswered=-100)
    assert lockstep.reported(0)
    stages.move("signals", signals_unanswered=5)
    assert lockstep.reported(0)


@pytest.mark.parametrize("stage", list(COUNTERS))
def test_who_is_busy_has_not_finished_whatever_its_counters_say(
    stages: Stages, lockstep: Lockstep, stage: str
) -> None:
    stages.busy(stage)
    assert not lockstep.decided(0, 0)
    assert lockstep.waiting == f"{stage} is busy, or not READY"
    stages.busy(stage, 0)
    assert lockstep.decided(0, 0)


def test_ticks_that_a_pause_holds_back_are_not_waited_for(stages: Stages, lockstep: Lockstep) -> None:
    stages.move("feed", messages=2, ticks=2, ticks_held_by_pause=2)
    assert lockstep.decided(2, 0)


def test_a_cancel_that_exec_repeats_is_no_reason_to_wait(lockstep: Lockstep) -> None:
    assert lockstep.decided(0, 1)


@pytest.mark.parametrize(
    ("field", "value"), [(Hot.STATE, HotState.WARMING), (Hot.CONNECTED, 0), (Hot.LAST_TURN_NS, NOW - 2_000_000_000)]
)
def test_a_run_begins_when_all_are_ready_connected_and_alive(stages: Stages, field: Hot, value: int) -> None:
    hot = stages.pages["risk"]["hot"]
    good, hot[field] = int(hot[field]), value
    lockstep = Lockstep(stages.run_dir)
    assert not lockstep.begin(NOW)
    assert lockstep.waiting.startswith("risk is ")
    hot[field] = good
    assert lockstep.begin(NOW)


def test_a_page_that_does_not_show_what_is_needed_is_named(stages: Stages) -> None:
    create_hot_page(stages.run_dir, "risk", Nothing, Nothing)
    page = Page.open(stages.run_dir / "risk.hot.page", writable=True)
    page["hot"][:] = stages.pages["risk"]["hot"]
    lockstep = Lockstep(stages.run_dir)
    assert not lockstep.begin(NOW)
    assert lockstep.waiting == "risk does not show ticks, signals, approved, cancels, rejected, reports in its page"


def test_a_missing_page_is_not_quiet_and_is_found_when_it_comes(stages: Stages) -> None:
    (stages.run_dir / "exec.hot.page").unlink()
    lockstep = Lockstep(stages.run_dir)
    assert not lockstep.begin(NOW)
    assert not lockstep.decided(0, 0)
    stages.start("exec")
    lockstep.refresh()
    assert lockstep.begin(NOW)
    assert lockstep.decided(0, 0)


def test_another_process_in_the_middle_of_a_run_is_noticed_and_said(stages: Stages, lockstep: Lockstep) -> None:
    stages.move("feed", messages=1)
    assert lockstep.decided(1, 0)
    stages.start("feed")
    lockstep.refresh()
    assert not lockstep.decided(1, 0)
    assert "feed was started anew" in lockstep.waiting.replace("feed has 0 of 1 messages: it", "feed")


@pytest.mark.parametrize("state", [HotState.DRAINING, HotState.STOPPED, HotState.FAILED])
def test_a_stage_on_its_way_out_ends_the_run(stages: Stages, lockstep: Lockstep, state: HotState) -> None:
    assert not lockstep.over
    stages.pages["exec"]["hot"][Hot.STATE] = state
    assert lockstep.over
    assert not lockstep.decided(0, 0)
