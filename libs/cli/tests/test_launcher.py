"""The launcher's parts without its processes: placement, ports, environment, folders."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tickpath.cli import runs
from tickpath.cli.launcher import (
    Launcher,
    LaunchError,
    Options,
    StopRequest,
    _last_lines,
    _merge,
    _to_environment,
    place,
)
from tickpath.common.config import PROCESSES, ConfigError, load_config
from tickpath.common.ports import free_ports

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A root of runs of this test's own; short, because sockets lie in it."""
    folder = Path(f"/tmp/tp-{os.getpid()}-{time.monotonic_ns() % 10**6}")
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(runs, "run_root", lambda: folder)
    yield folder
    for path in folder.rglob("*"):
        if not path.is_dir() or path.is_symlink():
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 8, 64])
def test_every_process_is_placed_on_cores_that_exist(n: int) -> None:
    cores = list(range(10, 10 + n))
    chosen = place(cores)
    assert set(chosen) == {*PROCESSES, "side", "io"}
    assert all(set(found) <= set(cores) for found in chosen.values())


@pytest.mark.parametrize("n", [6, 8, 64])
def test_with_six_cores_each_hot_process_has_one_for_itself(n: int) -> None:
    chosen = place(list(range(n)))
    hot = [chosen[name] for name in PROCESSES]
    assert sorted(core for found in hot for core in found) == list(range(5))
    assert not {core for found in hot for core in found} & set(chosen["side"]) | set(chosen["io"]) - set(range(5, n))


@pytest.mark.parametrize("n", [1, 2])
def test_with_two_cores_nothing_is_pinned(n: int) -> None:
    assert not any(place(list(range(n))).values())


@pytest.mark.parametrize("n", [3, 4, 5])
def test_between_the_exchange_is_kept_away_from_the_pipeline(n: int) -> None:
    chosen = place(list(range(n)))
    assert chosen["sim"] == chosen["side"] == (0,)
    assert all(len(chosen[name]) == 1 and 0 not in chosen[name] for name in ("feed", "signals", "risk", "exec"))


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(7)
    assert len(set(ports)) == 7
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_sections_reach_the_services_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the launcher overrides is what a service reads back, lists and words included."""
    sections = _merge(
        {"sim": {"speed": "max", "data": ["/a b.itch"], "seed": 3}, "run_dir": "/tmp/x"},
        {"sim": {"seed": 4}, "cores": {"feed": [1], "sim": []}, "feed": {"port": 30001}},
    )
    for name, value in _to_environment(sections).items():
        monkeypatch.setenv(name, value)
    config = load_config(ROOT / "tickpath.toml")
    assert (config.sim.speed, config.sim.data, config.sim.seed) == ("max", (Path("/a b.itch"),), 4)
    assert (config.cores.feed, config.cores.sim, config.feed.port) == ((1,), (), 30001)
    assert config.run_dir == Path("/tmp/x")


def launcher(**options: object) -> Launcher:
    stop = StopRequest.__new__(StopRequest)  # without the signal handlers
    stop.asked = stop.signal = 0
    options = {"command": "demo", "config": ROOT / "tickpath.toml", **options}
    return Launcher(Options(**options), lambda _: None, stop)  # type: ignore[arg-type]


def test_a_port_in_use_is_named_with_its_key_and_the_way_out(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sections = {"signals": {"http_port": port}}
        with pytest.raises(LaunchError) as error, launcher(sections=sections) as system:
            system.start()
    for part in ("signals.http_port", str(port), "--port-base", "TICKPATH_SIGNALS__HTTP_PORT"):
        assert part in str(error.value)


@pytest.mark.parametrize("sections", [{"cores": {"feed": [4095]}}, {"links": {"io_cores": [0, 4095]}}])
def test_a_core_that_is_not_there_is_refused_with_those_that_are(
    root: Path, sections: dict[str, dict[str, list[int]]]
) -> None:
    ((section, wanted),) = sections.items()
    ((key, cores),) = wanted.items()
    with pytest.raises(LaunchError) as error, launcher(sections=sections) as system:
        system.start()
    there = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    assert str(error.value) == f"{section}.{key} = {cores}: allowed are the cores that there are, {there}"
    assert error.value.status == 2


@pytest.mark.parametrize("port_base", [None, 0, 20000])
@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_cannot_be_bound_is_named_with_its_key(root: Path, host: str, port_base: int | None) -> None:
    """Not as a port in use, and not as a traceback."""
    sections = {"admin": {"host": host}}
    with pytest.raises(LaunchError) as error, launcher(sections=sections, port_base=port_base) as system:
        system.start()
    assert str(error.value).startswith(f"admin.host = {host!r}: ")
    assert "allowed is an address of this machine" in str(error.value)
    assert error.value.status == 2


def test_what_a_command_overrides_does_not_hide_a_mistake(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "tickpath.toml"
    file.write_text((ROOT / "tickpath.toml").read_text().replace('host = "127.0.0.1"', 'host = "not an ip"'))
    sections = {"exec": {"host": "127.0.0.1"}, "feed": {"host": "127.0.0.1"}, "admin": {"host": "127.0.0.1"}}
    with pytest.raises(ConfigError) as error, launcher(sections=sections, config=file) as system:
        system.start()
    for key in ("admin.host", "feed.host", "exec.host"):
        assert f"{key} = 'not an ip'" in str(error.value)


def test_data_is_looked_at_before_ports_and_kernels(root: Path, tmp_path: Path) -> None:
    """With a port base that is refused: the file is named all the same."""
    missing = tmp_path / "missing.itch"
    with pytest.raises(LaunchError, match=r"missing\.itch: there is no such file") as error:
        launcher(data=(missing,), port_base=1).start()
    assert error.value.status == 2


LOGGED = '{"pid": 7, "module": "m", "event": "hot process started", "level": "info"}'
FAILED = '{"status": 3, "restarts": 0, "event": "hot process cannot run", "level": "error"}'


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        ([LOGGED, "signals: strategy dip (d.py, line 4): no", FAILED], "  signals: strategy dip (d.py, line 4): no"),
        ([LOGGED, FAILED], "  hot process cannot run"),
        ([LOGGED, '{"event": "ended", "level": "error", "exception": "a\\nb"}'], "  ended\n  a\n  b"),
        ([LOGGED], f"  {LOGGED}"),
        (["1", "2"], "  1\n  2"),
        ([], ""),
    ],
)
def test_of_a_log_people_see_what_went_wrong(tmp_path: Path, log: list[str], shown: str) -> None:
    """Not the records around it."""
    file = tmp_path / "signals.log"
    file.write_text("".join(f"{line}\n" for line in log))
    assert _last_lines(file) == shown


def test_nothing_is_left_of_a_start_that_failed(root: Path) -> None:
    with pytest.raises(LaunchError), launcher(port_base=70000) as system:
        system.start()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("base", [1, 1023, 65530])
def test_a_port_base_out_of_range_is_refused(root: Path, base: int) -> None:
    with pytest.raises(LaunchError, match="1024"), launcher(port_base=base) as system:
        system.start()


def test_a_run_dir_too_long_for_sockets_is_refused_before_anything_starts(root: Path, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    with pytest.raises(LaunchError, match="too long"), launcher(run_dir=long) as system:
        system.start()


def test_the_note_and_the_token_are_for_the_user_alone(root: Path) -> None:
    run_dir, claimed = runs.make_run_dir()
    run = runs.Run(os.getpid(), "demo", str(run_dir), "c", "127.0.0.1", {"feed": 1}, str(run_dir / "token"), True)
    runs.write_note(run, "secret")
    for name in ("token", runs.NOTE):
        assert stat.S_IMODE((run_dir / name).stat().st_mode) == 0o600
    found = runs.find_run()
    assert found == run
    assert found.token() == "secret"
    assert "secret" not in (run_dir / runs.NOTE).read_text()
    os.close(claimed)


def test_a_run_whose_launcher_is_dead_is_not_found_and_is_swept_by_the_next(root: Path) -> None:
    dead, claimed = runs.make_run_dir()
    run = runs.Run(1, "demo", str(dead), "c", "127.0.0.1", {}, str(dead / "token"), True)
    runs.write_note(run, "secret")
    os.close(claimed)  # what the kernel does when the launcher dies
    with pytest.raises(runs.RunError, match="no system of yours"):
        runs.find_run()
    long_ago = time.time() - 3600
    os.utime(dead, (long_ago, long_ago))
    fresh, claimed = runs.make_run_dir()
    assert not dead.exists()
    assert fresh.exists()
    os.close(claimed)


def test_a_living_run_is_never_swept(root: Path) -> None:
    living, claimed = runs.make_run_dir()
    long_ago = time.time() - 3600
    os.utime(living, (long_ago, long_ago))
    _, other = runs.make_run_dir()
    assert living.exists()
    os.close(claimed)
    os.close(other)


def test_a_folder_of_the_user_is_found_and_can_be_used_once(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    claimed = runs.claim_run_dir(own)
    run = runs.Run(os.getpid(), "up", str(own), "c", "127.0.0.1", {}, str(own / "token"), True)
    runs.write_note(run, "secret")
    assert runs.find_run() == run
    assert runs.find_run(own) == run
    with pytest.raises(runs.RunError, match="already"):
        runs.claim_run_dir(own)
    os.close(claimed)


def test_a_root_that_others_may_read_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runs, "_TMPFS", tmp_path)
    monkeypatch.setattr(runs, "_MIN_FREE_BYTES", 0)
    (tmp_path / f"tickpath-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(runs.RunError, match="0700"):
        runs.run_root()


def test_a_broken_note_is_no_run(root: Path) -> None:
    run_dir, claimed = runs.make_run_dir()
    (run_dir / runs.NOTE).write_text(json.dumps({"pid": 1}))
    assert runs.read_note(run_dir) is None
    os.close(claimed)
