"""The service as it runs: side and hot process, the links, with the test in the place of feed, risk and exec."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tomlkit

from tickpath.common.clock import now_ns
from tickpath.common.config import CONFIG_ENV, Config, load_config
from tickpath.common.links import FanoutSender, LogReceiver, LogSender, RingLog, make_context
from tickpath.common.pages import Page, hot_page_path
from tickpath.common.ports import free_ports
from tickpath.common.records import REPORT, TICK, Action, ExecEvent, OrderState, RecordKind, TickFlag, pack_cl_ord_id
from tickpath.signals.layout import Counter

Records = npt.NDArray[np.void]
ROOT = Path(__file__).parents[3]
TOKEN = "of-the-test"  # noqa: S105 - of a service that lives as long as its test
PUPPET = Path(__file__).parent / "puppet.py"

CONFIG = """
run_dir = "{run_dir}"
[process]
nice = 0
lock_memory = false
[links]
heartbeat_ms = 20
log_ring = 16
[signals]
http_port = {port}
series_capacity = 16
{strategies}
"""


def write_config(folder: Path, strategies: str) -> Config:
    (folder / "instruments.csv").write_text(
        "symbol,tick_size,price_step_ticks,lot_size,multiplier,currency\n"
        "AAPL,0.0001,100,1,1,USD\nMSFT,0.0001,100,1,1,USD\n"
    )
    (port,) = free_ports(1)
    risk = tomlkit.parse((ROOT / "tickpath.toml").read_text("utf-8"))["risk"]
    text = CONFIG.format(run_dir=folder / "run", port=port, strategies=strategies)
    (folder / "tickpath.toml").write_text(text + tomlkit.dumps({"risk": risk}), "utf-8")
    return load_config(folder / "tickpath.toml")


class Pipeline:
    """What stands around the service: a feed, a risk that answers when told, an exec with its journal."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.context = make_context()
        links = config.links
        self.feed = FanoutSender(
            self.context, config.link_addresses("ticks"), RecordKind.TICK, "feed", time.time_ns(), links
        )
        self.risk = LogReceiver(self.context, config.link_addresses("signals"), RecordKind.SIGNAL, "risk", links)
        self.start_exec()
        env = {**os.environ, CONFIG_ENV: str(config.instruments.parent / "tickpath.toml")}
        env["TICKPATH_ADMIN__TOKEN"] = TOKEN
        self.process = subprocess.Popen([sys.executable, "-m", "tickpath.signals"], env=env)
        self.signals: list[Any] = []
        self.answering = True

    def start_exec(self) -> None:
        """A new life of exec, with an empty journal."""
        self.journal = RingLog(REPORT, 1024)
        self.exec = LogSender(
            self.context, self.config.link_addresses("reports"), RecordKind.REPORT, "exec", time.time_ns(),
            self.journal, self.config.links,
        )  # fmt: skip

    def turn(self) -> None:
        now = now_ns()
        self.feed.tend(now)
        self.feed.serve(now)
        self.exec.serve(now)
        for first, records in self.risk.receive(now):
            self.signals.extend(records.copy())
            if self.answering:
                self.risk.ack(first + len(records) - 1)
        self.risk.tend(now)

    def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Turn until the condition holds; fails after so many seconds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            assert self.process.poll() is None, "the service ended"
            self.turn()
            time.sleep(0.002)

    def get(self, path: str) -> Any:
        return httpx.get(f"http://127.0.0.1:{self.config.signals.http_port}{path}", timeout=5)

    def post(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self.config.signals.http_port}{path}"
        return httpx.post(url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5)

    def ready(self) -> bool:
        try:
            return bool(self.get("/readyz").status_code == 200)
        except httpx.TransportError:
            return False

    def tick(self, seq: int, what: int, much: int = 0) -> None:
        one = np.zeros(1, TICK)
        one["cause_seq"], one["volume_lots"], one["last_lots"] = seq, what, much
        one["bid_ticks"], one["ask_ticks"], one["flags"] = 1_000_000, 1_000_100, TickFlag.QUOTE
        self.feed.send(one, now_ns())

    def report(self, signal_record: Any, event: ExecEvent, state: OrderState, **fields: int) -> None:
        one = np.zeros(1, REPORT)
        for name in ("instrument", "strategy", "shard", "side", "qty_lots", "price_ticks", "cause_seq"):
            one[name] = signal_record[name]
        key = (int(signal_record[name]) for name in ("strategy", "shard", "cause_seq", "k"))
        one["cl_ord_id"] = pack_cl_ord_id(*key)
        one["event"], one["state"], one["seq"] = event, state, self.journal.next_seq
        for name, value in fields.items():
            one[name] = value
        self.exec.append(one)

    def counter(self, which: Counter) -> int:
        return int(Page.open(hot_page_path(self.config.run_dir, "signals"))["counters"][which])

    def owns(self) -> Any:
        return self.get("/strategies").json()[0]["owns"]

    def close(self) -> None:
        for link in (self.feed, self.risk, self.exec):
            link.close()
        self.context.destroy(linger=0)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    config = write_config(tmp_path, f'[[signals.strategies]]\npath = "{PUPPET}:puppet"\nid = 5\n')
    made = Pipeline(config)
    yield made
    made.close()


@pytest.mark.pipeline
def test_the_life_of_the_service(pipeline: Pipeline) -> None:
    """Ready, signals, reports, series, back-pressure, another life of exec, pause, drain: one start for all of it."""
    pipeline.until(pipeline.ready, seconds=180)  # the first time ever it compiles

    pipeline.tick(1, what=1)
    pipeline.until(lambda: len(pipeline.signals) == 1)
    first = pipeline.signals[0]
    assert (first["cause_seq"], first["action"], first["strategy"]) == (1, Action.NEW, 5)
    assert first["signalled_ns"] > 0

    pipeline.report(first, ExecEvent.ACKNOWLEDGED, OrderState.NEW, leaves_lots=10)
    pipeline.report(first, ExecEvent.FILL, OrderState.PARTIALLY_FILLED, leaves_lots=7, last_lots=3)
    expected = {"position_lots": 3, "open_buy_lots": 7, "open_sell_lots": 0, "open_orders": 1}
    pipeline.until(lambda: pipeline.owns() == {"AAPL": expected})

    series = pipeline.get("/series/AAPL?n=5").json()
    assert (series["count"], series["capacity"]) == (1, 16)
    assert Decimal(series["points"][0]["bid"]) == 100
    assert Decimal(series["points"][0]["last"]) == 0
    assert series["points"][0]["flags"] == ["QUOTE"]
    assert pipeline.get("/series/GOOG").status_code == 404
    assert pipeline.get("/series/AAPL?n=0").status_code == 422
    (described,) = pipeline.get("/strategies").json()
    assert described["params"]["lots"] == {"value": 10, "default": 10, "least": 1, "most": 1000, "about": ""}
    assert described["state_bytes"] == 40

    # Risk does not answer: the log of 16 fills up, ticks wait, and when it answers nothing is lost.
    pipeline.answering = False
    for seq in range(2, 8):
        pipeline.tick(seq, what=5, much=3)
    pipeline.until(lambda: pipeline.counter(Counter.BACK_PRESSURE) > 0)
    sent = len(pipeline.signals)
    assert sent < 1 + 6 * 3
    pipeline.answering = True
    pipeline.risk.ack(pipeline.risk.expected_seq - 1)
    pipeline.until(lambda: pipeline.counter(Counter.TICKS) == 7)
    pipeline.until(lambda: pipeline.counter(Counter.SIGNALS_UNANSWERED) == 0)
    new = pipeline.counter(Counter.SIGNALS_NEW)
    assert new + pipeline.counter(Counter.INTENTS_NO_ROOM) == 1 + 6 * 3
    pipeline.until(lambda: len(pipeline.signals) == new)
    causes = [(int(s["cause_seq"]), int(s["k"])) for s in pipeline.signals]
    assert causes == sorted(set(causes))

    # Paused, a strategy sees the tick and sends nothing new; resumed, it does.
    assert pipeline.post("/control/pause").is_success
    pipeline.tick(8, what=2)
    pipeline.until(lambda: pipeline.counter(Counter.INTENTS_MUTED) == 1)
    assert pipeline.post("/control/resume").is_success
    pipeline.tick(9, what=2)
    pipeline.until(lambda: len(pipeline.signals) == new + 1)
    assert pipeline.signals[-1]["cause_seq"] == 9

    # Exec begins another life with another journal: what the strategies own is rebuilt from it.
    pipeline.exec.close()
    pipeline.start_exec()
    pipeline.report(first, ExecEvent.FILL, OrderState.FILLED, leaves_lots=0, last_lots=9)
    pipeline.until(lambda: pipeline.owns().get("AAPL", {}).get("position_lots") == 9)
    assert pipeline.counter(Counter.REPORT_EPOCHS) == 2

    pipeline.process.send_signal(signal.SIGTERM)
    assert pipeline.process.wait(20) == 0


@pytest.mark.parametrize(
    ("strategies", "why"),
    [
        ('[[signals.strategies]]\npath = "nowhere.py:x"\nid = 1', "id 1: strategy 'nowhere.py:x': cannot read"),
        (
            f'[[signals.strategies]]\npath = "{PUPPET}:puppet"\nid = 1\nparams = {{ lot = 5 }}\n'
            f'[[signals.strategies]]\npath = "{PUPPET}:nobody"\nid = 2',
            "id 1: strategy puppet (puppet.py, line 7): there is no parameter 'lot'; there are lots, factor, loud",
        ),
        (
            f'[[signals.strategies]]\npath = "{PUPPET}:puppet"\nid = 1\ninstruments = ["X"]',
            "there is no instrument X",
        ),
    ],
)
def test_a_wrong_strategy_stops_the_start_with_status_3_and_without_a_traceback(
    tmp_path: Path, strategies: str, why: str
) -> None:
    config = write_config(tmp_path, strategies)
    env = {**os.environ, CONFIG_ENV: str(config.instruments.parent / "tickpath.toml")}
    done = subprocess.run(
        [sys.executable, "-m", "tickpath.signals"], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 3
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    if "nobody" in strategies:
        assert "id 2: strategy" in done.stderr
