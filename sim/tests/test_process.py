"""The exchange as it is deployed: a side and a hot process, real sockets, real pages."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tickpath.common.pages import Page, hot_page_path
from tickpath.common.ports import free_ports
from tickpath.common.protocols import moldudp64 as mold
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.soupbintcp import ClientSession, SequencedData
from tickpath.common.records import format_cl_ord_id, pack_cl_ord_id
from tickpath.sim.layout import Counter, Histogram
from tickpath.sim.sources.generator import generate_tape
from tickpath.sim.sources.tape import write_instruments

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).parents[2]
WORD = "SECRET"


class Deployment:
    """Environment of one exchange in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.http, self.orders, self.snapshots = free_ports(3)
        (self.retransmissions,) = free_ports(1)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.settimeout(10)
        self.run_dir = folder / "run"
        tape = generate_tape(3, seconds=2, rate=2000)
        self.symbol = sorted(tape.symbols)[0]
        write_instruments(tape, folder / "instruments.csv")
        self.environment = {
            **os.environ,
            "TICKPATH_CONFIG": str(ROOT / "tickpath.toml"),
            "TICKPATH_RUN_DIR": str(self.run_dir),
            "TICKPATH_INSTRUMENTS": str(folder / "instruments.csv"),
            "TICKPATH_SIM__SEED": "3",
            "TICKPATH_SIM__GENERATE_SECONDS": "2",
            "TICKPATH_SIM__GENERATE_RATE": "2000",
            "TICKPATH_SIM__HTTP_PORT": str(self.http),
            "TICKPATH_FEED__PORT": str(self.udp.getsockname()[1]),
            "TICKPATH_FEED__RETRANSMISSION_PORT": str(self.retransmissions),
            "TICKPATH_FEED__SNAPSHOT_PORT": str(self.snapshots),
            "TICKPATH_EXEC__PORT": str(self.orders),
            "TICKPATH_EXEC__PASSWORD": WORD,
            "TICKPATH_ADMIN__TOKEN": WORD,
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self, **environment: str) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tickpath.sim"],
            env={**self.environment, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=10) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any = None, token: str = WORD) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}{path}",
            data=json.dumps(body).encode() if body is not None else b"",
            method="POST",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    def wait(self, until: Callable[[], Any], what: str) -> Any:
        give_up = time.monotonic() + 120  # the first start compiles
        while time.monotonic() < give_up:
            try:
                if found := until():
                    return found
            except (OSError, KeyError):
                pass
            assert self.process is None or self.process.poll() is None, f"it ended before {what}"
            time.sleep(0.02)
        raise AssertionError(f"{what} did not happen")

    def close(self) -> None:
        self.udp.close()
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.communicate()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.close()


def test_from_the_first_login_to_the_books_at_the_end(deployment: Deployment) -> None:
    """It plays from the first login, fills an order, measures it, shows its books, stops, and leaves nothing."""
    process = deployment.start()
    deployment.wait(lambda: deployment.get("/readyz")["ready"], "ready")
    assert deployment.get("/status")["market_data"] == "stopped"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        deployment.post("/control/stop", token="wrong")  # noqa: S106

    client = ClientSession("TICKPT", WORD)
    tcp = socket.create_connection(("127.0.0.1", deployment.orders))
    tcp.sendall(client.login(0))
    seen = 0
    while seen < 200:
        header, _ = mold.unpack(deployment.udp.recv(2048))
        seen = header.next_sequence - 1
    reports: list[Any] = []

    def read(until: str) -> None:
        while not reports or reports[-1].message.code != until:
            events = client.receive(tcp.recv(65536), 0)
            reports.extend(ouch.decode_outbound(e.data) for e in events if isinstance(e, SequencedData))

    read("S")
    order: dict[str, Any] = {
        "side": "B", "quantity": 10, "symbol": deployment.symbol, "time_in_force": "0", "display": "Y",
        "capacity": "P", "iso": "N", "cross_type": "N",
    }  # fmt: skip
    first = format_cl_ord_id(pack_cl_ord_id(1, 0, seen, 0))
    tcp.sendall(client.send(ouch.ENTER_ORDER.encode(**order, user_ref_num=1, price=100, cl_ord_id=first), 0))
    read("A")
    price = ouch.MAX_LIMIT_PRICE
    tcp.sendall(client.send(ouch.ENTER_ORDER.encode(**order, user_ref_num=2, price=price, cl_ord_id=b"X"), 0))
    read("E")

    page = Page.open(hot_page_path(deployment.run_dir, "sim"))
    filled = sum(report.fields["quantity"] for report in reports if report.message.code == "E")
    position = int(page["positions"][page.meta["symbols"].index(deployment.symbol)])
    assert position == filled > 0
    assert deployment.get("/positions")[deployment.symbol]["positions"] == filled
    assert page["hist"][Histogram.TICK_TO_ORDER][0] == 1
    assert page["counters"][Counter.UNMATCHED_CAUSES] == 1
    resting = deployment.get("/orders")
    assert [(o["user_ref"], o["price"], o["cl_ord_id"]) for o in resting if o["user_ref"] == 1] == [
        (1, "0.0100", first.decode())
    ]

    faults = deployment.post("/control/fault", {"drop_every": 2})
    assert faults["drop_every"] == 2
    deployment.wait(lambda: page["counters"][Counter.FAULTS_INJECTED] > 0, "a fault")
    deployment.post("/control/fault", {})
    with pytest.raises(urllib.error.HTTPError, match="422"):
        deployment.post("/control/fault", {"explode": 1})
    deployment.post("/control/stop")
    deployment.wait(lambda: deployment.get("/status")["market_data"] == "stopped", "stop")
    tcp.sendall(client.send(ouch.CANCEL_ORDER.encode(user_ref_num=1, quantity=0), 0))
    read("C")
    deployment.post("/control/start")
    deployment.wait(lambda: deployment.get("/status")["market_data"] == "playing", "start")

    tcp.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", deployment.orders))


def test_what_is_lost_on_two_lines_is_had_again(deployment: Deployment) -> None:
    """Faults of the configuration lose packets of both lines; the server of messages and that of books have them."""
    line_b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line_b.bind(("127.0.0.1", 0))
    line_b.settimeout(10)
    process = deployment.start(
        TICKPATH_FEED__LINE_B_PORT=str(line_b.getsockname()[1]),
        TICKPATH_SIM__SESSION="TICKPATH01",
        TICKPATH_SIM__START="command",
        TICKPATH_SIM__LOOP="false",
        TICKPATH_SIM__FAULT_SEED="9",
        TICKPATH_SIM__LOSS_A="0.2",
        TICKPATH_SIM__LOSS_B="0.3",
    )
    deployment.wait(lambda: deployment.get("/readyz")["ready"], "ready")
    status = deployment.get("/status")
    assert (status["faults"]["seed"], status["faults"]["loss_a_ppm"], status["faults"]["loss_b_ppm"]) == (
        9, 200_000, 300_000,
    )  # fmt: skip
    assert status["line_b"] == f"127.0.0.1:{line_b.getsockname()[1]}"
    deployment.post("/control/start")
    got: dict[int, bytes] = {}

    def take(datagram: bytes) -> mold.Header:
        header, blocks = mold.unpack(datagram)
        got.update({header.sequence + k: bytes(block) for k, block in enumerate(blocks)})
        return header

    for line in (deployment.udp, line_b):
        while take(line.recv(2048)).n_messages != mold.END_OF_SESSION:
            pass
    tape = generate_tape(3, seconds=2, rate=2000)
    missing = set(range(1, len(tape) + 1)) - set(got)
    assert 0 < len(missing) < len(tape) / 4
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect(("127.0.0.1", deployment.retransmissions))
        asker.settimeout(10)
        while missing:
            asker.send(mold.request(b"TICKPATH01", min(missing), 1))
            take(asker.recv(2048))
            missing -= set(got)
    assert got == {n + 1: tape.message(n) for n in range(len(tape))}

    client = ClientSession("TICKPT", "")
    with socket.create_connection(("127.0.0.1", deployment.snapshots)) as tcp:
        tcp.sendall(client.login(0))
        messages: list[bytes] = []
        while data := tcp.recv(65536):
            messages += [e.data for e in client.receive(data, 0) if isinstance(e, SequencedData)]
    assert messages[-1] == b"G%20d" % (len(tape) + 1)
    counters = deployment.get("/status")["counters"]
    assert counters["line_a_lost"] > 0
    assert counters["line_b_lost"] > 0
    assert counters["retransmitted_messages"] == counters["retransmission_requests"] > 0
    assert counters["snapshots_complete"] == 1
    with urllib.request.urlopen(f"http://127.0.0.1:{deployment.http}/metrics", timeout=10) as answer:
        assert f"retransmitted_messages_total {float(counters['retransmitted_messages'])}" in answer.read().decode()
    assert deployment.post("/control/fault", {"loss_a_ppm": 1})["seed"] == 9
    with pytest.raises(urllib.error.HTTPError, match="422"):
        deployment.post("/control/fault", {"loss_a_ppm": 1_000_001})
    line_b.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TICKPATH_SIM__DATA": '["/nowhere/x.itch"]'}, "sim.data: there is no such file: /nowhere/x.itch"),
        ({"TICKPATH_INSTRUMENTS": "/nowhere/i.csv"}, "cannot read the instrument table /nowhere/i.csv"),
        ({"TICKPATH_FEED__HOST": "no.such.host.invalid"}, "feed.host = 'no.such.host.invalid'"),
        ({"TICKPATH_FEED__SNAPSHOT_HOST": "192.0.2.1"}, "cannot serve snapshots on 192.0.2.1:"),
        ({"TICKPATH_SIM__LOSS_A": "1.5"}, "TICKPATH_SIM__LOSS_A: sim.loss_a = '1.5'"),
    ],
)
def test_a_users_mistake_is_said_in_a_line_without_a_traceback(
    deployment: Deployment, environment: dict[str, str], message: str
) -> None:
    process = deployment.start(**environment)
    _, said = process.communicate(timeout=120)
    assert message in said
    assert "Traceback" not in said
    assert process.returncode == 3


def test_an_order_port_in_use_is_a_message_too(deployment: Deployment) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", deployment.orders))
        other.listen()
        process = deployment.start()
        _, said = process.communicate(timeout=120)
    assert f"cannot take orders on 127.0.0.1:{deployment.orders}" in said
    assert "Traceback" not in said
    assert process.returncode == 3


def test_the_side_process_does_not_import_numba() -> None:
    code = "import sys, tickpath.sim.service; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
