"""The service as it runs: both processes, a real Redis, and the test in the place of feed, signals and exec."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from tickpath.cli.redis_server import RedisServer
from tickpath.common.clock import now_ns
from tickpath.common.config import CONFIG_ENV, Config, load_config
from tickpath.common.links import FanoutSender, LogReceiver, LogSender, RingLog, make_context
from tickpath.common.pages import Hot, Page, hot_page_path
from tickpath.common.ports import free_ports
from tickpath.common.records import (
    ORDER,
    REPORT,
    SIGNAL,
    TICK,
    Action,
    ExecEvent,
    OrderState,
    RecordKind,
    Side,
    TickFlag,
)
from tickpath.risk.state import Core

pytestmark = pytest.mark.pipeline

Records = npt.NDArray[np.void]
TOKEN = "s3cret"  # noqa: S105 - of this test
CONFIG = """
run_dir = "{folder}/run"
[redis]
url = "{redis}"
sync_ms = 20
timeout_ms = 200
[process]
nice = 0
lock_memory = false
[links]
heartbeat_ms = 50
log_ring = 64
[[signals.strategies]]
path = "x:ema"
id = 1
[risk]
http_port = {port}
order_capacity = 1024
order_rate = "unlimited"
control_lease_ms = 400
cancel_repeat_ms = 100
[risk.limits]
max_order_qty_lots = 1000
max_order_notional = 1000000
collar_aggressive_bps = 500
collar_passive_bps = 2000
max_spread_bps = 1000
max_long_lots = {max_long}
max_short_lots = 5000
max_data_age_ms = 60000
order_rate = "unlimited"
order_rate_window_ms = 1000
"""


def write_config(folder: Path, redis: str, max_long: Any = 5000) -> Config:
    (folder / "instruments.csv").write_text(
        "symbol,tick_size,price_step_ticks,lot_size,multiplier,currency\n"
        "AAPL,0.0001,100,1,1,USD\nMSFT,0.0001,100,1,1,USD\n"
    )
    (port,) = free_ports(1)
    text = CONFIG.format(folder=folder, redis=redis, port=port, max_long=max_long)
    (folder / "tickpath.toml").write_text(text, "utf-8")
    return load_config(folder / "tickpath.toml")


def start(config: Config, **options: Any) -> subprocess.Popen[Any]:
    env = {**os.environ, CONFIG_ENV: str(config.instruments.parent / "tickpath.toml"), "TICKPATH_ADMIN__TOKEN": TOKEN}
    return subprocess.Popen([sys.executable, "-m", "tickpath.risk"], env=env, **options)


class DayLog:
    """The journal of a day, in memory: everything can be read again from entry 1, whoever acknowledged it."""

    oldest_seq = 1

    def __init__(self) -> None:
        self.entries = np.zeros(0, dtype=REPORT)

    @property
    def next_seq(self) -> int:
        return len(self.entries) + 1

    def read(self, first_seq: int, most: int) -> Records:
        return self.entries[first_seq - 1 : first_seq - 1 + most]


class Neighbours:
    """Feed, signals and exec as risk sees them; exec journals and acknowledges only while `answering`."""

    def __init__(self, config: Config, redis: RedisServer) -> None:
        self.config, self.redis = config, redis
        self.context = make_context()
        links, epoch = config.links, time.time_ns()
        self.feed = FanoutSender(self.context, config.link_addresses("ticks"), RecordKind.TICK, "feed", epoch, links)
        self.signals = LogSender(
            self.context, config.link_addresses("signals"), RecordKind.SIGNAL, "signals", epoch,
            RingLog(SIGNAL, 1024), links, required=("risk",),
        )  # fmt: skip
        self.orders = LogReceiver(self.context, config.link_addresses("orders"), RecordKind.ORDER, "exec", links)
        self.new_journal()
        self.answering = True
        self.received: list[Records] = []
        self.seen: set[int] = set()
        self.cause = 0
        self.process = start(config)

    def new_journal(self) -> None:
        """Exec begins a new, empty journal."""
        self.day = DayLog()
        self.reports: LogSender = LogSender(
            self.context, self.config.link_addresses("reports"), RecordKind.REPORT, "exec", time.time_ns(),
            self.day, self.config.links,
        )  # fmt: skip

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for link in (self.feed, self.signals, self.orders, self.reports):
            link.close()
        self.context.destroy(linger=0)

    # -- the loop ------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Play the neighbours until `condition` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            now = now_ns()
            self.feed.tend(now)
            self.feed.serve(now)
            self.signals.serve(now)
            self.reports.serve(now)
            for _, records in self.orders.receive(now):
                self.received += [records[i : i + 1].copy() for i in range(len(records))]
                for i in range(len(records)):
                    self.journal(records[i : i + 1])
            if self.answering and self.orders.expected_seq > 1:
                self.orders.ack(self.orders.expected_seq - 1)
            self.orders.tend(now)
            assert self.process.poll() is None, f"risk ended with status {self.process.returncode}"
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.001)

    def journal(self, order: Records) -> None:
        """As exec does: a NEW that is not in the journal yet is journaled before it is sent."""
        cl_ord_id = int(order["cl_ord_id"][0])
        if order["action"][0] == Action.NEW and cl_ord_id not in self.seen:
            self.seen.add(cl_ord_id)
            self.report(order, ExecEvent.SEND, OrderState.PENDING_NEW)

    def report(self, order: Records, event: ExecEvent, state: OrderState, **fields: Any) -> None:
        report = np.zeros(1, dtype=REPORT)
        for name in set(ORDER.names or ()) & set(REPORT.names or ()) - {"pad"}:
            report[name] = order[name]
        report["seq"], report["event"], report["state"] = self.day.next_seq, event, state
        report["leaves_lots"] = order["qty_lots"]
        for name, value in fields.items():
            report[name] = value
        self.day.entries = np.concatenate([self.day.entries, report])
        self.reports.pump(now_ns())

    # -- requests ------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """Wait until risk is ready and has marks."""
        self.until(lambda: self.get("/readyz", quiet=True).get("ready"))
        ticks = np.zeros(2, dtype=TICK)
        ticks["instrument"], ticks["flags"], ticks["recv_ns"] = [0, 1], TickFlag.QUOTE, now_ns()
        ticks["bid_ticks"], ticks["ask_ticks"] = 999_900, 1_000_100
        before = self.counter("ticks")
        self.feed.send(ticks, now_ns())
        self.until(lambda: self.counter("ticks") >= before + 2)

    def signal(self, qty: int = 10, side: int = Side.BUY, action: Action = Action.NEW, **fields: Any) -> Records:
        """Send one signal with a new cause, when risk hears exec (which is silent while the test talks HTTP)."""
        self.until(self.known)
        self.cause += 1
        record = np.zeros(1, dtype=SIGNAL)
        values = {
            "cause_seq": self.cause, "recv_ns": now_ns(), "signalled_ns": now_ns(), "price_ticks": 1_000_000,
            "qty_lots": qty, "bid_ticks": 999_900, "ask_ticks": 1_000_100, "strategy": 1, "action": action,
            "side": side,
        }  # fmt: skip
        for name, value in (values | fields).items():
            record[name] = value
        assert self.signals.append(record) == 1
        self.signals.pump(now_ns())
        return record

    def order(self, **fields: Any) -> Records:
        """Send a signal and wait for its order."""
        self.signal(**fields)

        def mine() -> list[Records]:
            return [o for o in self.received if o["action"] == Action.NEW and o["cause_seq"] == self.cause]

        self.until(mine)
        return mine()[0]

    def refused(self, **fields: Any) -> dict[str, Any]:
        """Send a signal and wait for its refusal, as the admin API tells it."""
        before = self.counter("orders_rejected")
        self.signal(**fields)
        self.until(lambda: self.counter("orders_rejected") > before)
        last: dict[str, Any] = self.get("/rejects", n=1)["last"][0]
        return last

    # -- what people see -----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config.risk.http_port}"

    def get(self, path: str, *, quiet: bool = False, **params: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = httpx.get(self.url + path, params=params, timeout=5).json()
        except httpx.HTTPError:
            if not quiet:
                raise
            return {}
        return answer

    def post(self, path: str, token: str | None = TOKEN, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.post(self.url + path, json={"who": "me", "reason": "test", **body}, headers=headers, timeout=5)

    def counter(self, name: str) -> int:
        page = Page.open(hot_page_path(self.config.run_dir, "risk"))
        return int(page["counters"][page.meta["counters"].index(name)])

    def position(self, symbol: str = "AAPL") -> tuple[int, ...]:
        figures = self.get("/positions")["positions"].get(symbol, {})
        return tuple(figures.get(name, 0) for name in ("position_lots", "open_buy_lots", "open_sell_lots"))

    def known(self) -> bool:
        return bool(Page.open(hot_page_path(self.config.run_dir, "risk"))["core"][Core.READY])

    def hot_pid(self) -> int:
        return int(Page.open(hot_page_path(self.config.run_dir, "risk"))["hot"][Hot.PID])


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", port=None, unix_socket=tmp_path / "r") as server:
        yield server


@pytest.fixture
def neighbours(tmp_path: Path, redis_server: RedisServer) -> Iterator[Neighbours]:
    around = Neighbours(write_config(tmp_path, redis_server.url), redis_server)
    try:
        around.ready()
        yield around
    finally:
        around.close()


def test_signals_become_orders_and_are_acknowledged_when_exec_has_them(neighbours: Neighbours) -> None:
    around = neighbours
    around.answering = False
    signal_ = around.signal(qty=10)
    around.until(lambda: around.received)
    (order,) = around.received
    for name in ("cause_seq", "price_ticks", "qty_lots", "signalled_ns", "recv_ns"):
        assert order[name] == signal_[name]
    assert around.signals.acked_seq == 0, "exec has not acknowledged the order"
    around.answering = True
    around.until(lambda: around.signals.acked_seq == 1)
    refusal = around.refused(qty=1001)
    assert (refusal["reason"], refusal["symbol"], refusal["qty_lots"]) == ("MAX_ORDER_QTY", "AAPL", 1001)
    around.until(lambda: around.signals.acked_seq == 2)
    around.report(order, ExecEvent.FILL, OrderState.FILLED, last_lots=10, last_ticks=1_000_000, leaves_lots=0)
    around.until(lambda: around.position() == (10, 0, 0))
    status = around.get("/status")
    assert status["risk_rejects"] == {"MAX_ORDER_QTY": 1}
    assert status["hops_us"]["signal_to_approve"]["count"] == 1
    metrics = httpx.get(around.url + "/metrics").text
    assert 'tickpath_risk_rejects_total{reason="MAX_ORDER_QTY"} 1.0' in metrics
    assert 'tickpath_risk_position_lots{symbol="AAPL"} 10.0' in metrics


def test_limits_and_kill_switches_over_http_hold_from_the_next_order_on(neighbours: Neighbours) -> None:
    around = neighbours
    assert around.post("/control/limits", scope="SYMBOL:AAPL", limits={"max_order_qty_lots": 5}).status_code == 200
    assert around.refused(qty=6)["reason"] == "MAX_ORDER_QTY"
    own = around.order(qty=5)
    other = around.order(qty=6, instrument=1)
    shown = around.get("/limits/AAPL")
    assert (shown["limits"]["max_order_qty_lots"], shown["own"]) == ("5", ["max_order_qty_lots"])
    assert around.get("/limits")["limits"]["SYMBOL:AAPL"] == {"max_order_qty_lots": "5"}

    wrong = around.post("/control/limits", scope="SYMBOL", name="*", limits={"order_rate": -1, "hope": 1})
    assert wrong.status_code == 422
    assert len(wrong.json()["detail"]["faults"]) == 2
    assert around.post("/control/kill", token=None, scope="GLOBAL").status_code == 401
    assert around.post("/control/kill", token=TOKEN[1:], scope="GLOBAL").status_code == 401
    assert around.post("/control/kill", scope="SYMBOL:ZZZ").status_code == 422
    assert around.post("/control/kill", scope="GLOBAL", who="").status_code == 422
    assert httpx.get(around.url + "/limits/ZZZ").status_code == 422

    n = len(around.received)
    answer = around.post("/control/kill", scope="SYMBOL", name="AAPL", state="HALTED").json()
    assert (answer["scope"], answer["state"], answer["stored"]) == ("SYMBOL:AAPL", "HALTED", True)
    assert around.refused(qty=1)["reason"] == "KILL_SWITCH_SYMBOL"
    around.until(lambda: len(around.received) >= n + 2)  # and again, until the order is over
    assert {int(o["cl_ord_id"][0]) for o in around.received[n:]} == {int(own["cl_ord_id"][0])}
    assert all(o["action"] == Action.CANCEL for o in around.received[n:])
    assert around.position() == (0, 5, 0), "only the venue's word releases"
    around.report(own, ExecEvent.CANCELLED, OrderState.CANCELLED, last_lots=5, leaves_lots=0)
    around.until(lambda: around.position() == (0, 0, 0))
    assert around.get("/kill")["states"]["SYMBOL:AAPL"]["state"] == "HALTED"
    assert around.post("/control/rearm", scope="SYMBOL:AAPL").json()["state"] == "ACTIVE"
    assert around.order(qty=1)["qty_lots"] == 1
    assert around.position("MSFT") == (0, int(other["qty_lots"][0]), 0)
    assert [line["what"] for line in around.get("/audit", n=3)["changes"]] == ["rearm", "kill", "limits"]


def test_without_redis_nothing_new_leaves_and_cancels_do(neighbours: Neighbours) -> None:
    around = neighbours
    order = around.order(qty=5)
    around.redis.stop()
    around.until(lambda: around.get("/kill")["lease_left_ms"] < 0)
    assert around.refused(qty=1)["reason"] == "KILL_SWITCH_GLOBAL"
    assert not around.get("/readyz")["ready"]
    n = len(around.received)
    around.signal(action=Action.CANCEL, side=0)
    around.until(lambda: len(around.received) > n)
    assert around.received[-1]["cl_ord_id"] == order["cl_ord_id"]
    assert around.post("/control/limits", scope="SYMBOL:AAPL", limits={"order_rate": 1}).status_code == 503
    killed = around.post("/control/kill", scope="STRATEGY:ema")
    assert (killed.status_code, killed.json()["stored"]) == (200, False)
    around.redis.start()
    around.until(lambda: around.get("/readyz")["ready"])
    assert around.refused(qty=1)["reason"] == "KILL_SWITCH_STRATEGY"
    assert around.order(qty=1, strategy=2)["strategy"] == 2


def test_a_killed_hot_process_comes_back_with_the_journal_and_doubles_nothing(neighbours: Neighbours) -> None:
    around = neighbours
    first = around.order(qty=10)
    around.report(first, ExecEvent.FILL, OrderState.PARTIALLY_FILLED, last_lots=4, last_ticks=1_000_000)
    around.until(lambda: around.position() == (4, 6, 0))
    around.answering = False  # the next order is journaled, but its acknowledgement never reaches risk
    second = around.order(qty=3, side=Side.SELL)
    pid = around.hot_pid()
    os.kill(pid, signal.SIGKILL)
    around.until(lambda: around.hot_pid() != pid)
    around.answering = True
    around.ready()
    around.until(lambda: around.position() == (4, 6, 3))
    around.until(lambda: around.signals.acked_seq == 2)
    around.until(lambda: around.counter("signals_repeated") >= 1)
    new = [int(o["cl_ord_id"][0]) for o in around.received if o["action"] == Action.NEW]
    assert new == [int(first["cl_ord_id"][0]), int(second["cl_ord_id"][0])]
    assert around.order(qty=1)["qty_lots"] == 1


def test_another_journal_is_another_day(neighbours: Neighbours) -> None:
    around = neighbours
    order = around.order(qty=10)
    around.report(order, ExecEvent.FILL, OrderState.FILLED, last_lots=10, last_ticks=1_000_000)
    around.until(lambda: around.position() == (10, 0, 0))
    around.reports.close()
    around.new_journal()
    around.until(lambda: around.counter("report_epochs") == 2)
    around.until(lambda: around.get("/positions") == {"known": True, "positions": {}})
    assert around.order(qty=2)["qty_lots"] == 2
    around.until(lambda: around.position() == (0, 2, 0))


def test_pause_refuses_new_orders_and_a_stop_ends_both_processes(neighbours: Neighbours) -> None:
    around = neighbours
    order = around.order(qty=1)
    assert around.post("/control/pause").status_code == 200
    assert around.refused(qty=1)["reason"] == "KILL_SWITCH_GLOBAL"
    n = len(around.received)
    around.signal(action=Action.CANCEL, side=0)
    around.until(lambda: len(around.received) > n)
    assert around.received[-1]["cl_ord_id"] == order["cl_ord_id"]
    around.post("/control/resume")
    assert around.order(qty=1)["qty_lots"] == 1
    pid = around.hot_pid()
    around.process.terminate()
    assert around.process.wait(20) == 0
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("max_long", "redis_url", "said"),
    [
        (5000, "unix:///nowhere/r.sock", "cannot use Redis at unix:///nowhere/r.sock"),
        (2**60, "", "risk.limits.max_long_lots = 1152921504606846976: out of range; allowed is 0 to"),
    ],
)
def test_what_stops_the_start_is_said_without_a_traceback(
    tmp_path: Path, redis_server: RedisServer, max_long: int, redis_url: str, said: str
) -> None:
    config = write_config(tmp_path, redis_url or redis_server.url, max_long)
    process = start(config, stderr=subprocess.PIPE, text=True)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3
    assert said in stderr
    assert "Traceback" not in stderr
