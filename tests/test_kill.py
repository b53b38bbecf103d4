"""Every hot process is killed under load, in each lane with several: nothing is lost, doubled or left unexplained."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from os import kill
from pathlib import Path

import numpy as np
import pytest

from tickpath.cli.control import Endpoint
from tickpath.cli.launcher import Launcher, Options, StopRequest
from tickpath.cli.watch import Sample, Watch
from tickpath.common.config import SERVICES
from tickpath.common.instruments import load_instruments
from tickpath.common.pages import Hot, HotState
from tickpath.common.records import FIRST_TERMINAL_STATE, ExecEvent
from tickpath.exec.journal import positions_from, read_journal
from tickpath.exec.lifecycle import Refusal

pytestmark = pytest.mark.pipeline

CONFIG = Path(__file__).resolve().parents[1] / "tickpath.toml"
SIM = {"start": "command", "speed": 1.0, "generate_seconds": 6.0}


class Pipeline:
    """A running system under load, and what its pages say."""

    def __init__(self, system: Launcher) -> None:
        self.system = system
        self.table = load_instruments(system.config.instruments)
        self.watch = Watch(system.run_dir, (*SERVICES, "sim"), lambda: self.table)
        self.exchange = Endpoint(system.config.admin.host, system.config.http_port("sim"), "sim", system.token)

    def until(self, what: str, condition: Callable[[Sample], bool], seconds: float = 90.0) -> Sample:
        """The first sample that fulfils a condition."""
        end = time.monotonic() + seconds
        while not condition(sample := self.watch.sample()):
            assert time.monotonic() < end, what
            self.system.check()
            time.sleep(0.05)
        return sample

    def kill(self, name: str) -> None:
        """Kill a hot process without warning; its side process starts another one, which joins the others."""
        pid = self.watch.sample().services[name].hot[Hot.PID]
        kill(pid, signal.SIGKILL)

        def joined(sample: Sample) -> bool:
            hot = sample.services[name].hot
            return hot[Hot.PID] != pid and hot[Hot.STATE] == HotState.READY and bool(hot[Hot.CONNECTED])

        self.until(f"{name} is not back", joined)

    def trades(self) -> None:
        """More orders are accepted, and more lots filled."""
        before = self.watch.sample()

        def traded(sample: Sample) -> bool:
            return all(sample.count("sim", c) > before.count("sim", c) for c in ("accepted", "fills"))

        self.until("no more orders", traded)

    def settle(self) -> Sample:
        """Stop the exchange's market, let exec take back what is open; what everybody knows then."""
        self.exchange.ask("POST", "/control/stop")
        self.until("not answered", lambda s: not (
            s.count("signals", "signals_unanswered") or s.count("risk", "orders_unanswered")
        ))  # fmt: skip
        self.system.end("exec", within_s=self.system.drain_s)
        entries = len(read_journal(self.system.config.journal_dir()))
        end = time.monotonic() + 10
        while (sample := self.watch.sample()).risk_core["next_report"] <= entries:
            assert time.monotonic() < end, "risk has not seen the whole journal"
            time.sleep(0.05)
        return sample


@contextlib.contextmanager
def running(lane: str) -> Iterator[Pipeline]:
    """A system in this lane; its exchange waits for ``start``."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    options = Options(
        "demo",
        CONFIG,
        {"sim": SIM, "links": {"lane": lane}, "exec": {"journal_dir": "journal"}},
        port_base=0,
    )
    try:
        with Launcher(options, print, StopRequest()) as system:
            system.start()
            yield Pipeline(system)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture(params=["zmq-ipc", "shm"])
def pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    with running(request.param) as system:
        yield system


def test_any_hot_process_may_be_killed(pipeline: Pipeline) -> None:
    """Each of the three that trade comes back and trades; feed comes back and publishes, suspect after its gap."""
    pipeline.exchange.ask("POST", "/control/start")
    pipeline.trades()
    for name in ("signals", "risk", "exec"):
        pipeline.kill(name)
        pipeline.trades()
    pipeline.kill("feed")
    before = pipeline.watch.sample()
    pipeline.until(
        "no more ticks",
        lambda s: (
            s.count("signals", "ticks") > before.count("signals", "ticks")
            and s.risk_core["ticks"] > before.risk_core["ticks"]
        ),
    )
    assert_all_agree(pipeline, pipeline.settle())


def assert_all_agree(pipeline: Pipeline, sample: Sample) -> None:
    """Journal, risk and exchange know the same orders, fills and positions; nothing is open, nothing doubled."""
    journal = read_journal(pipeline.system.config.journal_dir())
    sent = journal[journal["event"] == ExecEvent.SEND]["cl_ord_id"]
    fills = journal[journal["event"] == ExecEvent.FILL]
    lost = (journal["event"] == ExecEvent.NOT_SENT) & (journal["reason"] == Refusal.NEVER_ARRIVED)
    assert len(np.unique(sent)) == len(sent) == sample.count("sim", "orders_received") + lost.sum()
    assert sample.count("sim", "open_orders") == 0
    accepted = np.unique(journal[journal["event"] == ExecEvent.ACKNOWLEDGED]["cl_ord_id"])
    assert len(accepted) == sample.count("sim", "accepted")
    assert len(fills) == sample.count("sim", "fills")
    assert int(fills["last_lots"].sum()) == sample.count("sim", "filled_lots")
    _, last = np.unique(journal["cl_ord_id"][::-1], return_index=True)
    assert (journal["state"][::-1][last] >= FIRST_TERMINAL_STATE).all()

    symbols = pipeline.table.symbols
    held = {symbols[i]: lots for i, lots in positions_from(journal).items() if lots}
    assert sample.positions["risk"] == sample.positions["exchange"] == held
    for alarm in ("overflow", "alarms", "report_gaps", "ticks_refused"):
        assert sample.risk_core[alarm] == 0, alarm
    for service, alarms in {
        "exec": ("bad_requests", "illegal_transitions", "overfills", "unknown_refs", "mismatches"),
        "sim": ("malformed", "unmatched_causes"),
    }.items():
        for alarm in alarms:
            assert sample.count(service, alarm) == 0, alarm
