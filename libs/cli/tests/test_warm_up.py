"""Compiling ahead: what is compiled, when it is not needed, and what happens when it cannot be done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tickpath.cli.warm_up import (
    WarmUpError,
    cache_root,
    ensure_warm,
    fingerprint,
    kernel_modules,
    strategies_fingerprint,
)
from tickpath.common.config import CONFIG_ENV, Config, load_config

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def config() -> Config:
    return load_config(ROOT / "tickpath.toml")


def environment() -> dict[str, str]:
    return {**os.environ, CONFIG_ENV: str(ROOT / "tickpath.toml")}


def test_every_module_with_kernels_is_found_and_the_shared_ones_come_first() -> None:
    folders = kernel_modules("zmq-ipc")
    assert next(iter(folders)) == "tickpath.common.kernels"
    assert list(folders)[-1].startswith("tickpath.sim.")
    services = {name.split(".")[1] for name in folders}
    assert services == {"common", "feed", "signals", "risk", "exec", "sim"}
    with_kernels = {
        path.stem
        for path in ROOT.glob("*/*/tickpath/*/kernels/*.py")
        if any(line.startswith("@kernel(") for line in path.read_text().splitlines())
    }
    found = {name.rpartition(".")[2] for names in folders.values() for name in names}
    assert with_kernels - found == {"loop"}  # of the shm lane


def test_a_lane_compiles_its_own_loops_and_no_others() -> None:
    modules = {
        lane: {name for names in kernel_modules(lane).values() for name in names}
        for lane in ("zmq-ipc", "zmq-tcp", "shm", "fused")
    }
    assert modules["zmq-ipc"] == modules["zmq-tcp"]
    loops = {f"tickpath.{service}.kernels.loop" for service in ("feed", "signals", "risk", "exec")}
    assert modules["shm"] - modules["zmq-ipc"] == loops
    assert "tickpath.cli.fused.kernels.chain" in modules["fused"] - modules["zmq-ipc"]
    assert not modules["fused"] & loops
    every = {name for names in kernel_modules("zmq-ipc", "shm", "fused").values() for name in names}
    assert every == modules["shm"] | modules["fused"]


def test_the_cache_is_where_numba_will_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The launcher must not import the module that says so, because it imports Numba."""
    from tickpath.common import jit

    assert cache_root() == jit.cache_root()
    monkeypatch.setenv("TICKPATH_CACHE", str(tmp_path))
    assert cache_root() == jit.cache_root() == tmp_path


def test_a_changed_strategy_changes_the_fingerprint(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    item = config.signals.strategies[0].model_copy(update={"path": "mine.py:mine"})
    changed = config.model_copy(update={"signals": config.signals.model_copy(update={"strategies": (item,)})})
    file.write_text("one")
    first = strategies_fingerprint(changed, tmp_path)
    assert first == strategies_fingerprint(changed, tmp_path)
    assert first != strategies_fingerprint(config, tmp_path)
    file.write_text("two")
    assert first != strategies_fingerprint(changed, tmp_path)


def test_nothing_is_done_when_the_stamp_is_there(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TICKPATH_CACHE", str(tmp_path))
    strategies = strategies_fingerprint(config, ROOT)
    for lane in ("zmq-ipc", "shm"):
        (tmp_path / f"warm_{fingerprint(lane)}").touch()
        (tmp_path / f"warm_{fingerprint(lane)}_{strategies}").touch()
    said: list[str] = []
    assert ensure_warm(config, environment(), said.append) is False
    assert said == []
    assert ensure_warm(config, environment(), said.append, lanes=("zmq-ipc", "shm")) is False
    assert ensure_warm(config, environment(), said.append, lambda: True, lanes=("zmq-ipc", "fused")) is False
    assert not (tmp_path / f"warm_{fingerprint('fused')}").exists()


def test_a_changed_strategy_is_compiled_alone(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then only the modules of signals are looked at, in one process; afterwards nothing is left to do."""
    monkeypatch.setenv("TICKPATH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"warm_{fingerprint('zmq-ipc')}").touch()
    started: list[list[str]] = []

    class Started(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            started.append(command[3:])
            super().__init__([sys.executable, "-c", 'print(\'{"what": "strategy"}\')'], **options)

    monkeypatch.setattr(subprocess, "Popen", Started)
    said: list[str] = []
    assert ensure_warm(config, environment(), said.append) is True
    assert started == [kernel_modules("zmq-ipc")["tickpath.signals.kernels"]]
    assert said == [f"compiling strategy kernels 1/{len(started[0]) + 1} …"]
    assert ensure_warm(config, environment(), said.append) is False


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TICKPATH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WarmUpError, match="TICKPATH_CACHE"):
        ensure_warm(config, environment(), lambda _: None)


def test_an_interrupt_ends_it_without_a_stamp(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TICKPATH_CACHE", str(tmp_path))
    assert ensure_warm(config, environment(), lambda _: None, lambda: True) is False
    assert not list(tmp_path.glob("warm_*"))
