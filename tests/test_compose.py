"""The compose deployment for real: built, started, traded with, restricted, stopped; then again in the other lanes.

Needs a container engine, takes minutes and uses the default ports, so it runs only when TICKPATH_TEST_COMPOSE is set
(`.ci/run` does). The engine is where DOCKER_HOST says; TICKPATH_BASE_IMAGE, TICKPATH_REDIS_IMAGE and a filled
wheelhouse/ make it a build without a registry. The tests are one story and run in the order of the file.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RECORDED = ROOT.parent / "shared" / "data" / "lobster" / "AMZN_2012-06-21_34200000_57600000_message_5.csv.zst"
PORTS = {"feed": 8101, "signals": 8102, "risk": 8103, "exec": 8104, "sim": 8105}
UP_S = 240.0
CACHE, BROUGHT = "/tmp/tickpath-cache", "/opt/tickpath/app/cache"  # in use, and in the image

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("TICKPATH_TEST_COMPOSE"),
        reason="builds and runs the containers: set TICKPATH_TEST_COMPOSE=1 where an engine runs (.ci/run does)",
    ),
    pytest.mark.timeout(1500),
]


class Deployment:
    """The compose project of these tests; `lane` as in TICKPATH_LANE, `settings` are more of the environment."""

    def __init__(self, lane: str, **settings: str) -> None:
        self.lane = lane
        self.token = secrets.token_urlsafe(16)
        v1 = shutil.which("docker-compose")
        words = os.environ.get("TICKPATH_COMPOSE", "").split() or ([v1] if v1 else ["docker", "compose"])
        self._compose = [*words, "--project-name", "tickpath-test", "--profile", "sim"]
        self._environment = {
            **os.environ, **settings,
            "TICKPATH_ADMIN__TOKEN": self.token, "TICKPATH_LANE": lane, "TICKPATH_HEALTH_INTERVAL": "2s",
        }  # fmt: skip

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Output of a compose command; its own words on stderr are shown when it fails."""
        done = subprocess.run(
            [*self._compose, *arguments], cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            pytest.fail(f"compose {' '.join(arguments)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def up(self) -> None:
        """From nothing, without old volumes, to where every service is ready."""
        self.compose("down", "--volumes", check=False)
        self.compose("up", "-d", "--no-build")
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return once every service says that it is."""
        for service in PORTS:
            wait_for(f"{service} is ready", lambda s=service: self.get(s, "/readyz")[0] == 200, UP_S)  # type: ignore[misc]

    def down(self) -> None:
        """Nothing of it is left."""
        print(self.compose("logs", "--tail", "60", check=False))  # noqa: T201 - pytest shows it when a test fails
        self.compose("down", "--volumes", check=False)

    def container(self, service: str) -> str:
        """Id of the container of a service, running or not."""
        listed = docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project=tickpath-test",
                        "--filter", f"label=com.docker.compose.service={service}")  # fmt: skip
        return listed.strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine says of a container."""
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def get(self, service: str, path: str) -> tuple[int, str]:
        """(HTTP status, body)."""
        return _request(urllib.request.Request(f"http://127.0.0.1:{PORTS[service]}{path}"))

    def post(
        self, service: str, path: str, body: dict[str, Any] | None = None, authorization: str | None = ""
    ) -> tuple[int, str]:
        """(HTTP status, body); with the right token unless another header, or None, is given."""
        request = urllib.request.Request(f"http://127.0.0.1:{PORTS[service]}{path}", json.dumps(body or {}).encode())
        request.add_header("Content-Type", "application/json")
        if authorization is not None:
            request.add_header("Authorization", authorization or f"Bearer {self.token}")
        return _request(request)

    def json(self, service: str, path: str = "/status") -> Any:
        """JSON of an endpoint that must answer with 200."""
        status, body = self.get(service, path)
        assert status == 200, f"{service} {path}: {status} {body}"
        return json.loads(body)

    def counter(self, service: str, name: str) -> int:
        """A counter of a service's hot page."""
        counters = {key.lower(): value for key, value in self.json(service)["counters"].items()}
        return int(counters[name])


def docker(*arguments: str) -> str:
    """Output of a docker command that must succeed."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def _request(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310 - http, on this machine
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return once `condition` holds; fail with `what` when it does not within `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


def orders_at_exchange(system: Deployment) -> int:
    """Orders that the exchange has received so far."""
    return system.counter("sim", "orders_received")


def switch(system: Deployment, action: str) -> None:
    """`action` is kill or rearm: of everything."""
    status, answer = system.post("risk", f"/control/{action}", {"scope": "GLOBAL", "who": "test", "reason": "drill"})
    assert status == 200, answer


def trip_and_rearm(system: Deployment) -> None:
    """Tripped, nothing new reaches the exchange and nothing stays open there; re-armed, orders flow again."""
    switch(system, "kill")
    wait_for("no open order at the exchange", lambda: system.counter("sim", "open_orders") == 0)
    assert stays(lambda: orders_at_exchange(system))
    assert system.json("risk", "/rejects")["counts"]
    switch(system, "rearm")
    again = orders_at_exchange(system)
    wait_for("orders again", lambda: orders_at_exchange(system) > again)


def stop(system: Deployment) -> None:
    """Stop exec, which leaves no order and no lot behind at the exchange, then the others; nobody complains."""
    system.compose("stop", "exec")
    assert system.counter("sim", "open_orders") == 0
    assert system.counter("sim", "accepted_lots") == sum(
        system.counter("sim", name) for name in ("filled_lots", "cancelled_lots", "open_lots")
    )
    system.compose("stop")
    for service in ("redis", *PORTS):
        state = system.inspect(service)["State"]
        assert (service, state["Running"], state["ExitCode"]) == (service, False, 0)


def stays(value: Callable[[], int], seconds: float = 2.0) -> bool:
    """Whether a number stays as it is for a while."""
    before = value()
    time.sleep(seconds)
    return value() == before


def kernels(system: Deployment, service: str, folder: str) -> str:
    """Names of the compiled kernels in a folder of a container."""
    command = f"find {folder} -name '*.nbc' | sort | xargs -n 1 basename"
    return docker("exec", system.container(service), "sh", "-c", command)


@pytest.fixture(scope="module")
def images() -> None:
    """The images of all services; one alone first, because they share their base."""
    deployment = Deployment("")
    deployment.compose("build", "feed")
    deployment.compose("build", "--parallel")


@pytest.fixture(scope="module")
def system(images: None) -> Iterator[Deployment]:
    """The deployment in the default lane, up with the simulated exchange; taken down with its volumes at the end."""
    deployment = Deployment("")
    try:
        deployment.up()
        yield deployment
    finally:
        deployment.down()


def play_recorded(folder: Path) -> dict[str, str]:
    """Settings that have the exchange play a recorded file (docs/deployment.md); the table goes to `folder`."""
    if not RECORDED.is_file():
        pytest.fail(f"{RECORDED} is not there: the deployment is to play recorded data too")
    table = folder / "recorded.csv"
    subprocess.run([ROOT / "tickpath", "instruments", RECORDED, "--out", table], check=True)
    return {
        "TICKPATH_DATA_DIR": str(RECORDED.parent),
        "TICKPATH_SIM__DATA": json.dumps([f"/data/{RECORDED.name}"]),
        "TICKPATH_SIM__SPEED": "100",
        "TICKPATH_INSTRUMENTS_FILE": str(table),
    }


@pytest.fixture
def in_lane(images: None, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """The same in the lane of the parameter, fused with recorded data.

    It comes when `system` has been stopped: the ports are the same.
    """
    deployment = Deployment(request.param, **(play_recorded(tmp_path) if request.param == "fused" else {}))
    try:
        deployment.up()
        yield deployment
    finally:
        deployment.down()


@pytest.mark.parametrize("service", PORTS)
def test_containers_may_do_no_more_than_they_need(system: Deployment, service: str) -> None:
    """The engine runs each service as the compose file promises."""
    found = system.inspect(service)
    host = found["HostConfig"]
    assert found["Config"]["User"] == "10001:10001"
    assert host["ReadonlyRootfs"] is True
    assert host["Init"] is True
    assert host["NetworkMode"] == "host"
    assert host["IpcMode"] != "host"
    assert host["Privileged"] is False
    assert [cap.upper() for cap in host["CapDrop"]] == ["ALL"]
    assert {cap.removeprefix("CAP_") for cap in host["CapAdd"]} == {"IPC_LOCK", "SYS_NICE"}
    assert host["CpusetCpus"] == "0,1"
    assert {mount["Destination"] for mount in found["Mounts"] if mount["RW"]} == (
        {"/run/tickpath", "/var/lib/tickpath"} if service == "exec" else {"/run/tickpath"}
    )


@pytest.mark.parametrize("service", PORTS)
def test_hot_process_has_what_the_capabilities_are_for(system: Deployment, service: str) -> None:
    """A process of an ordinary user got its priority and its locked memory, read back from the kernel."""
    status = system.json(service)
    assert status["notes"] == ""
    assert status["process"]["nice"] == -10
    assert status["process"]["locked_mb"] > 1


@pytest.mark.parametrize("service", PORTS)
def test_kernels_come_compiled_with_the_image(system: Deployment, service: str) -> None:
    """No kernel was compiled at the start: the cache in use holds exactly the files that the image brings."""
    assert (
        kernels(system, service, "/tmp/tickpath-cache") == kernels(system, service, "/opt/tickpath/app/cache") != ""
    )


@pytest.mark.parametrize("service", PORTS)
def test_endpoints_answer(system: Deployment, service: str) -> None:
    """Every endpoint of every service answers; control needs the token."""
    for path in ("/healthz", "/readyz", "/status", "/config", "/openapi.json"):
        assert json.loads(system.get(service, path)[1]), path
        assert system.get(service, path)[0] == 200, path
    status, text = system.get(service, "/metrics")
    assert status == 200
    assert "\n# TYPE tickpath_" in f"\n{text}"
    assert system.get(service, "/docs")[0] == 200
    assert system.token not in system.get(service, "/config")[1]
    assert system.post(service, "/control/pause", authorization=None)[0] == 401
    assert system.post(service, "/control/pause", authorization="Bearer wrong")[0] == 401
    assert system.json(service)["paused"] is False
    assert system.post(service, "/control/resume")[0] == 200


def test_health_reaches_the_engine(system: Deployment) -> None:
    """The engine's own health check says healthy for Redis and each service."""
    for service in ("redis", *PORTS):
        wait_for(
            f"{service} is healthy",
            lambda s=service: system.inspect(s)["State"]["Health"]["Status"] == "healthy",  # type: ignore[misc]
        )


def test_orders_flow(system: Deployment) -> None:
    """Market data of the exchange makes orders that it acknowledges; none is sent twice, nothing is lost."""
    wait_for("orders at the exchange", lambda: orders_at_exchange(system) > 100, 60)
    assert system.counter("sim", "duplicates") == 0
    assert system.counter("exec", "orders_acknowledged") > 0
    assert system.counter("exec", "mismatches") == 0


def test_limits_can_be_changed_while_trading(system: Deployment) -> None:
    """A smaller limit holds for the next order, and the old one again after it is put back."""
    before = system.json("risk", "/limits")["limits"]["SYMBOL:*"]["max_order_qty_lots"]
    change = {"scope": "SYMBOL:*", "who": "test", "reason": "test"}

    status, answer = system.post("risk", "/control/limits", {**change, "limits": {"max_order_qty_lots": 0}})
    assert status == 200, answer
    wait_for(
        "refusals for MAX_ORDER_QTY", lambda: system.json("risk", "/rejects")["counts"].get("MAX_ORDER_QTY", 0) > 0
    )
    wait_for("no more orders", lambda: stays(lambda: orders_at_exchange(system)))

    status, answer = system.post("risk", "/control/limits", {**change, "limits": {"max_order_qty_lots": before}})
    assert status == 200, answer
    again = orders_at_exchange(system)
    wait_for("orders again", lambda: orders_at_exchange(system) > again)


def test_kill_switch_stops_orders(system: Deployment) -> None:
    """Tripped, nothing new reaches the exchange and nothing stays open there; re-armed, orders flow again."""
    trip_and_rearm(system)


def test_stop_leaves_no_order_in_the_market(system: Deployment) -> None:
    """Stopped as `down` does it, exec cancels what is open, hears that it is gone, and ends; so do the others."""
    stop(system)
    system.compose("down")
    assert [service for service in ("redis", *PORTS) if system.container(service)] == []


@pytest.mark.parametrize("in_lane", ["shm", "fused"], indirect=True)
def test_the_same_images_trade_in_every_lane(in_lane: Deployment) -> None:
    """Orders flow, the kill switch stops them, exec can be started again, a stop leaves no order in the market."""
    assert in_lane.json("exec", "/config")["links"]["lane"] == in_lane.lane
    for service in PORTS:
        assert in_lane.json(service)["process"]["locked_mb"] > 1
        assert kernels(in_lane, service, "/tmp/tickpath-cache") == kernels(
            in_lane, service, "/opt/tickpath/app/cache"
        )
    if in_lane.lane == "fused":
        assert in_lane.json("feed", "/instruments/AMZN")
    loops = {in_lane.json(service)["epoch"] for service in PORTS if service != "sim"}
    assert len(loops) == (1 if in_lane.lane == "fused" else 4)

    wait_for("orders at the exchange", lambda: orders_at_exchange(in_lane) > 100, 60)
    assert in_lane.counter("sim", "duplicates") == 0
    assert in_lane.counter("exec", "orders_acknowledged") > 0
    trip_and_rearm(in_lane)
    in_lane.compose("restart", "exec")
    in_lane.wait_until_ready()
    stop(in_lane)
