"""The real processes: side and hot, a venue on a socket, risk's end of the links, signals and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import zmq

from services.exec.tests.conftest import TABLE, Venue, executed, new_order
from tickpath.common.clock import now_ns
from tickpath.common.config import Config, load_config
from tickpath.common.instruments import save_instruments
from tickpath.common.links import LogReceiver, LogSender, RingLog
from tickpath.common.pages import Hot, Page, hot_page_path
from tickpath.common.ports import free_ports
from tickpath.common.records import ORDER, REPORT, ExecEvent, OrderState, RecordKind
from tickpath.exec.journal import read_journal

ROOT = Path(__file__).parents[3]
TOKEN = "a token for tests"  # noqa: S105 - it protects nothing


def free_port() -> int:
    return free_ports(1)[0]


class Running:
    """exec as an operator starts it, with risk's end of its links and a venue in this process."""

    def __init__(self, folder: Path, venue: Venue) -> None:
        self.venue = venue
        self.http_port = free_port()
        save_instruments(TABLE, folder / "instruments.csv")
        text = (ROOT / "tickpath.toml").read_text("utf-8")
        (folder / "tickpath.toml").write_text(text, "utf-8")
        self.environment = {
            **os.environ,
            "TICKPATH_CONFIG": str(folder / "tickpath.toml"),
            "TICKPATH_RUN_DIR": str(folder / "run"),
            "TICKPATH_ADMIN__TOKEN": TOKEN,
            "TICKPATH_EXEC__HTTP_PORT": str(self.http_port),
            "TICKPATH_EXEC__PORT": str(venue.port),
            "TICKPATH_EXEC__RECONNECT_MS": "5",
            "TICKPATH_EXEC__ORDER_CAPACITY": "1024",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            self.config: Config = load_config()
        self.journal_dir = self.config.journal_dir()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.log = RingLog(ORDER, 1024)
        self.orders = LogSender(
            self.context, self.config.link_addresses("orders"), RecordKind.ORDER, "risk", 1, self.log,
            self.config.links, ("exec",),
        )  # fmt: skip
        self.reports = LogReceiver(
            self.context, self.config.link_addresses("reports"), RecordKind.REPORT, "risk", self.config.links
        )
        self.received = np.zeros(0, dtype=REPORT)
        self.side = subprocess.Popen([sys.executable, "-m", "tickpath.exec"], env=self.environment, cwd=ROOT)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.http_port}", timeout=5)

    def turn(self) -> None:
        """The venue's and risk's part of a millisecond."""
        self.venue.turn()
        self.orders.serve(now_ns())
        for _, records in self.reports.receive(now_ns()):
            self.received = np.concatenate((self.received, records))
        if self.reports.expected_seq > 1:
            self.reports.ack(self.reports.expected_seq - 1)
        self.reports.tend(now_ns())
        time.sleep(0.001)

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the condition never held"
            self.turn()

    def get(self, path: str) -> httpx.Response | None:
        try:
            return self.http.get(path)
        except httpx.TransportError:
            return None

    def is_ready(self) -> bool:
        answer = self.get("/readyz")
        return answer is not None and answer.status_code == 200

    def send(self, *numbers: int) -> None:
        for number in numbers:
            assert self.orders.append(new_order(number)) == 1

    def has(self, number: int, event: ExecEvent) -> bool:
        mine = self.received[self.received["cl_ord_id"] == new_order(number)["cl_ord_id"][0]]
        return bool((mine["event"] == event).any())

    def hot_pid(self) -> int:
        return int(Page.open(hot_page_path(self.config.run_dir, "exec"))["hot"][Hot.PID])

    def close(self) -> None:
        self.http.close()
        if self.side.poll() is None:
            self.side.kill()
            self.side.wait()
        self.orders.close()
        self.reports.close()
        self.context.destroy(linger=0)


@pytest.fixture
def running(tmp_path: Path, venue: Venue) -> Iterator[Running]:
    made = Running(tmp_path, venue)
    yield made
    made.close()


@pytest.mark.pipeline
def test_orders_in_reports_out_and_a_clean_end(running: Running) -> None:
    """Orders from risk reach the venue, reports reach risk in the journal's order, SIGTERM leaves nothing open."""
    running.until(running.is_ready)
    running.send(1, 2, 3)
    running.until(lambda: all(running.has(n, ExecEvent.ACKNOWLEDGED) for n in (1, 2, 3)))
    running.venue.say(executed(2, 40, match=5))
    running.until(lambda: running.has(2, ExecEvent.FILL))
    running.until(lambda: running.orders.acked_seq == 3)

    listed = running.http.get("/orders").json()["orders"]
    assert [order["state"] for order in listed] == ["NEW", "PARTIALLY_FILLED", "NEW"]
    assert running.http.get("/positions").json() == {"positions": {"AAPL": 40}}
    one = running.http.get(f"/orders/{listed[1]['venue_cl_ord_id']}").json()
    assert one == running.http.get(f"/orders/{listed[1]['cl_ord_id']}").json() == listed[1]
    assert (one["cum_lots"], one["price"], one["symbol"]) == (40, "1.00000000", "AAPL")
    assert running.http.get("/orders/12345").status_code == 404
    assert running.http.get("/orders/nonsense").status_code == 422
    status = running.http.get("/status").json()
    assert status["gateway"]["state"] == "READY"
    assert status["counters"]["orders_sent"] == 3
    assert "tickpath_exec_orders_sent_total 3.0" in running.http.get("/metrics").text

    assert running.http.post("/control/cancel-all").status_code == 401
    answer = running.http.post("/control/cancel-all", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.json()["cancelling"] == 3
    running.until(lambda: all(running.has(n, ExecEvent.CANCELLED) for n in (1, 2, 3)))

    running.send(4, 5)
    running.until(lambda: all(running.has(n, ExecEvent.ACKNOWLEDGED) for n in (4, 5)))
    running.side.send_signal(signal.SIGTERM)
    running.until(lambda: running.side.poll() is not None)
    assert running.side.returncode == 0
    assert running.has(4, ExecEvent.CANCELLED)
    assert running.has(5, ExecEvent.CANCELLED)
    journal = read_journal(running.journal_dir)
    assert np.array_equal(journal, running.received), "what was reported is what was journaled"


@pytest.mark.pipeline
def test_a_killed_hot_process_comes_back_and_nothing_is_lost_or_sent_twice(running: Running) -> None:
    running.until(running.is_ready)
    running.send(1, 2)
    running.until(lambda: running.has(2, ExecEvent.ACKNOWLEDGED))
    running.send(3, 4, 5, 6)
    before = running.hot_pid()
    running.until(lambda: len(running.venue.seen) > 2)
    os.kill(before, signal.SIGKILL)
    running.venue.say(executed(1, 100, match=9))
    running.until(lambda: running.hot_pid() != before)
    running.until(running.is_ready)
    running.until(lambda: running.has(1, ExecEvent.FILL))
    running.send(7)
    running.until(lambda: running.has(7, ExecEvent.ACKNOWLEDGED))
    running.until(lambda: running.orders.acked_seq == 7)

    entered = [m.fields["cl_ord_id"] for m in running.venue.seen if m.message.name == "enter_order"]
    assert len(entered) == len(set(entered)), "the venue saw no order twice"
    assert running.received["seq"].tolist() == list(range(1, len(running.received) + 1)), "no report lost or repeated"
    last = {int(r["cl_ord_id"]): OrderState(int(r["state"])) for r in running.received}
    assert len(last) == 7, "every order is accounted for"
    open_at_venue = {
        m.fields["cl_ord_id"] for m in running.venue.seen if m.fields["user_ref_num"] in running.venue.live
    }
    assert len(open_at_venue) - 1 == sum(state == OrderState.NEW for state in last.values())


@pytest.mark.pipeline
def test_a_damaged_journal_stops_the_start_with_its_place(running: Running) -> None:
    running.until(running.is_ready)
    running.send(1, 2)
    running.until(lambda: running.has(2, ExecEvent.ACKNOWLEDGED))
    running.side.kill()
    running.side.wait()
    path = next(running.journal_dir.rglob("*.journal"))
    data = bytearray(path.read_bytes())
    data[4096 + 100] ^= 1
    path.write_bytes(data)
    again = subprocess.run(
        [sys.executable, "-m", "tickpath.exec"], env=running.environment, cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert again.returncode == 3
    assert "entry 1 at offset 4096 does not match its checksum" in again.stderr
    assert "Traceback" not in again.stderr
