"""``tickpath profile`` for real: a flame graph of processes that trade, and the kernels over a small market."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_demo import Command, run
from tickpath.cli.profile import self_samples
from tickpath.sim.player import QUANTUM_NS
from tickpath.sim.sources.generator import generate_tape
from tickpath.sim.sources.tape import Tape

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.pipeline

TEXT = "{http://www.w3.org/2000/svg}text"
STAGES = [
    "sim: pack", "feed: decode", "feed: decode+book", "feed: decode+book+ticks",
    "signals: strategies", "signals: reports", "risk: marks", "risk: decide", "risk: reports",
    "exec: journal+encode", "exec: venue's replies", "histogram: record", "digest: fold",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_dir() -> Iterator[str]:
    """Folder of a system that trades with its exchange."""
    with Command("up", "--port-base", "0") as system:
        yield system.wait_for("up on ").split("up on ")[1].split(";")[0]


def profile(run_dir: str, target: str, out: Path, *arguments: str) -> dict[str, Any]:
    """JSON of `tickpath profile`, which must succeed."""
    status, said, err, left = run(
        "profile", target, "--seconds", "2", "--json", "--run-dir", run_dir, "--out", str(out), *arguments
    )
    assert status == 0, err
    assert left == []
    found: dict[str, Any] = json.loads(said)
    return found


@pytest.mark.parametrize(("target", "frame"), [("feed", "_loop"), ("sim", "Player."), ("exec.side", "Service.run")])
def test_a_flame_graph_of_a_process_has_its_functions(run_dir: str, tmp_path: Path, target: str, frame: str) -> None:
    found = profile(run_dir, target, tmp_path / "graph.svg")
    graph = (tmp_path / "graph.svg").read_text("utf-8")
    total, own = self_samples(graph)
    assert found["samples"] == total == sum(own.values()) > 0
    assert found["process"] == (target if "." in target else f"{target}.hot")
    assert 1 <= len(found["hottest"]) <= 3
    assert frame in graph
    assert str(ROOT) not in graph.partition('id="frames"')[0]  # a title for people, not a command line
    status, _, err, _ = run("status", "--json", "--run-dir", run_dir)
    assert status == 0, err  # nobody was harmed


def test_frames_of_native_code_are_in_a_native_flame_graph_or_it_is_said_why_not(
    run_dir: str, tmp_path: Path
) -> None:
    out = tmp_path / "graph.svg"
    status, said, err, _ = run(
        "profile", "feed", "--seconds", "2", "--native", "--run-dir", run_dir, "--out", str(out)
    )
    if status == 0:
        assert "(libc.so" in out.read_text("utf-8")
        assert str(out) in said
        assert len(said.splitlines()) <= 4
    else:
        assert "py-spy cannot profile feed.hot" in err
        assert "--native" in err


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="SKIPPED: takes root and setpriv")
def test_without_the_capability_it_says_which_one_is_missing(run_dir: str, tmp_path: Path) -> None:
    out = tmp_path / "graph.svg"
    done = subprocess.run(
        [
            "setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", sys.executable, "-m", "tickpath.cli",
            "profile", "risk", "--seconds", "1", "--run-dir", run_dir, "--out", str(out),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "SYS_PTRACE, which this process has not" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def datagrams_of(tape: Tape) -> int:
    """How many datagrams of 1400 bytes the tape takes, what is due within the quantum in one."""
    n = first = 0
    while first < len(tape):
        end = first
        while (
            end < len(tape)
            and tape.time_ns[end] <= tape.time_ns[first] + QUANTUM_NS
            and tape.offsets[end + 1] - tape.offsets[first] <= 1380
        ):
            end += 1
        n, first = n + 1, end
    return n


def test_every_kernel_is_timed_over_a_file_with_exact_counts(tmp_path: Path) -> None:
    tape = generate_tape(3, seconds=20, rate=2000, instruments=5)
    file, out = tmp_path / "small.itch", tmp_path / "stages.svg"
    file.write_bytes(tape.data.tobytes())
    status, said, err, _ = run("profile", "--stages", str(file), "--json", "--out", str(out))
    assert status == 0, err
    found = json.loads(said)
    assert found["messages"] == len(tape) == 40_000
    assert found["datagrams"] == datagrams_of(tape)
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert list(stages) == STAGES
    for name in STAGES[:4]:
        assert (stages[name]["calls"], stages[name]["records"]) == (found["datagrams"], len(tape))
    records = {name: stage["records"] for name, stage in stages.items()}
    assert len(tape) > records["signals: strategies"] == records["risk: marks"] == records["digest: fold"] > 0
    # Each order is journaled, and each reply of the venue makes one report: nothing else happens here.
    assert records["risk: decide"] >= records["exec: journal+encode"] > 0
    assert records["signals: reports"] == records["risk: reports"]
    assert records["risk: reports"] == records["exec: journal+encode"] + records["exec: venue's replies"]
    links = [stage["share"] for stage in found["stages"] if stage["share"] is not None]
    assert sum(links) == pytest.approx(1, abs=0.01)
    assert len(links) == 8
    shown = [text.text or "" for text in ET.parse(out).iter(TEXT)]  # noqa: S314 - ours
    assert set(STAGES) <= set(shown)
    assert any(found["machine"]["cpu"] in text for text in shown)
