"""The compose deployment for real: built, started, traded with, restricted, stopped; in each lane, by both composes.

Needs a container engine, takes minutes and uses the default ports, so it runs only when TICKPATH_TEST_COMPOSE is set
(`.ci/run` does). The engine is where DOCKER_HOST says; TICKPATH_BASE_IMAGE, TICKPATH_REDIS_IMAGE and a filled
wheelhouse/ make it a build without a registry. The tests are one story, told once per lane in the order of the file.

Both `docker compose` (v2) and `docker-compose` (1.29) have to be there. Where only one is, TICKPATH_COMPOSE names it,
and it does everything.
"""

from __future__ import annotations

import json
import os
import secrets
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
#: What each container waits for, and how long compose lets it take to stop.
AFTER = {
    "redis": [],
    "feed": ["redis"],
    "signals": ["feed"],
    "risk": ["redis", "signals"],
    "exec": ["risk"],
    "sim": [],
}
GRACE_S = {"redis": 10, "feed": 20, "signals": 20, "risk": 20, "exec": 30, "sim": 30}
OURS = "com.docker.compose.project=tickpath-test"
UP_S = 240.0
V1, V2 = "docker-compose", "docker compose"
#: Which compose runs which lane: each lane with both would double the time, and no compose knows anything of lanes.
STORIES = {"zmq-ipc": V2, "shm": V1, "fused": V2}

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("TICKPATH_TEST_COMPOSE"),
        reason="builds and runs the containers: set TICKPATH_TEST_COMPOSE=1 where an engine runs (.ci/run does)",
    ),
    pytest.mark.timeout(1500),
]


class Deployment:
    """The compose project of these tests; `lane` as in TICKPATH_LANE, `settings` are more of the environment."""

    def __init__(self, compose: str, lane: str, **settings: str) -> None:
        self.lane = lane
        self.token = secrets.token_urlsafe(16)
        words = (os.environ.get("TICKPATH_COMPOSE") or compose).split()
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
        """From nothing, without old volumes, to where every service is ready; `events` are what the engine saw."""
        self.compose("down", "--volumes", check=False)
        shown = '{{.Action}} {{index .Actor.Attributes "com.docker.compose.service"}}'
        seen = ("--filter", "event=start", "--filter", "event=health_status", "--format", shown)
        command = ["docker", "events", "--since", str(int(time.time())), "--filter", f"label={OURS}", *seen]
        watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            self.compose("up", "-d", "--no-build")
            self.wait_until_ready()
        finally:
            watch.terminate()
            self.events = watch.communicate()[0].splitlines()

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
        listed = docker("ps", "--all", "--quiet", "--filter", f"label={OURS}",
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
    """The images of all services; one alone first, because they share their base.

    By one compose for all: the other may send files in another form, in which the engine's cache does not know them.
    """
    deployment = Deployment(V1, "")
    deployment.compose("build", "feed")
    deployment.compose("build", "--parallel")


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


@pytest.fixture(scope="module", params=STORIES, ids=lambda lane: f"{lane} by {STORIES[lane]}")
def system(
    images: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The deployment in one lane, up with the simulated exchange; taken down with its volumes at the end.

    In the lane fused the exchange plays recorded data.
    """
    lane: str = request.param
    settings = play_recorded(tmp_path_factory.mktemp("recorded")) if lane == "fused" else {}
    deployment = Deployment(STORIES[lane], lane, **settings)
    try:
        deployment.up()
        yield deployment
    finally:
        deployment.down()


def test_start_is_by_health(system: Deployment) -> None:
    """A container is started when those that it needs are healthy."""
    for service, needed in AFTER.items():
        before = system.events[: system.events.index(f"start {service}")]
        assert {f"health_status: healthy {other}" for other in needed} <= set(before), service


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
    assert found["Config"]["StopTimeout"] == GRACE_S[service]
    assert {mount["Destination"] for mount in found["Mounts"] if mount["RW"]} == (
        {"/run/tickpath", "/var/lib/tickpath"} if service == "exec" else {"/run/tickpath"}
    )


@pytest.mark.parametrize("service", PORTS)
def test_hot_process_has_what_the_capabilities_are_for(system: Deployment, service: str) -> None:
    """A process of an ordinary user got its priority and its locked memory, read back from the kernel."""
    status = system.json(service)
    assert "refused" not in status["notes"]
    if system.lane == "zmq-ipc":  # where nothing is to be said of how a loop waits
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


def test_lane_is_the_one_that_was_asked_for(system: Deployment) -> None:
    """One hot process in each container, or in fused one for all four; there the recorded table is in use."""
    for service in PORTS:
        assert system.json(service, "/config")["links"]["lane"] == system.lane
    loops = {system.json(service)["epoch"] for service in PORTS if service != "sim"}
    assert len(loops) == (1 if system.lane == "fused" else 4)
    if system.lane == "fused":
        assert system.json("feed", "/instruments/AMZN")


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
    switch(system, "kill")
    wait_for("no open order at the exchange", lambda: system.counter("sim", "open_orders") == 0)
    assert stays(lambda: orders_at_exchange(system))
    assert system.json("risk", "/rejects")["counts"]
    switch(system, "rearm")
    again = orders_at_exchange(system)
    wait_for("orders again", lambda: orders_at_exchange(system) > again)


def test_exec_can_be_started_again(system: Deployment) -> None:
    """It cancels what is open, replays its journal, and trading goes on."""
    system.compose("restart", "exec")
    system.wait_until_ready()
    if system.lane == "fused":  # it was a restart of feed, too
        assert system.post("feed", "/control/trust-books")[0] == 200
    again = orders_at_exchange(system)
    wait_for("orders again", lambda: orders_at_exchange(system) > again)


def test_stop_leaves_no_order_in_the_market(system: Deployment) -> None:
    """Stopped as `down` does it, exec cancels what is open, hears that it is gone, and ends; so do the others.

    Each of them ends by itself and says that all is well, so its grace period was long enough.
    """
    system.compose("stop", "exec")
    assert system.counter("sim", "open_orders") == 0
    assert system.counter("sim", "accepted_lots") == sum(
        system.counter("sim", name) for name in ("filled_lots", "cancelled_lots", "open_lots")
    )
    system.compose("stop")
    for service in ("redis", *PORTS):
        state = system.inspect(service)["State"]
        assert (service, state["Running"], state["ExitCode"]) == (service, False, 0)
    system.compose("down")
    assert [service for service in ("redis", *PORTS) if system.container(service)] == []
