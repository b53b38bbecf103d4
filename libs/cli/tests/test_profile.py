"""Profiling a service: which process is meant, what is said when it cannot be, and what a flame graph says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from enum import IntEnum
from pathlib import Path

import pytest

from libs.cli.tests.test_commands import tickpath
from tickpath.cli.control import System
from tickpath.cli.profile import ProfileError, find_process, run_profile, self_samples, split_target
from tickpath.cli.runs import RunError
from tickpath.common.pages import Hot, create_hot_page

GRAPH = """<svg version="1.1" xmlns="http://www.w3.org/2000/svg" xmlns:fg="http://github.com/jonhoo/inferno">
<svg id="frames">
<g><title>all (10 samples, 100%)</title><rect y="20" fg:x="0" fg:w="10"/></g>
<g><title>turn (hot.py:7) (9 samples, 90.00%)</title><rect y="36" fg:x="1" fg:w="9"/></g>
<g><title>send (links.py:1) (2 samples, 20.00%)</title><rect y="52" fg:x="1" fg:w="2"/></g>
<g><title>send (links.py:2) (3 samples, 30.00%)</title><rect y="52" fg:x="3" fg:w="3"/></g>
<g><title>poll (&lt;frozen (odd)&gt;) (1 samples, 10.00%)</title><rect y="36" fg:x="0" fg:w="1"/></g>
</svg></svg>"""


class Nothing(IntEnum):
    """A page without counters of its own."""

    NOTHING = 0


def system_on(run_dir: Path, pid: int, service: str = "feed") -> System:
    """A system whose hot page says that it is process `pid`; no endpoint listens."""
    page = create_hot_page(run_dir, service, Nothing, Nothing)
    page["hot"][Hot.PID] = pid
    return System("127.0.0.1", {service: 1}, None, run_dir, "the test")


def test_a_flame_graph_gives_the_samples_of_each_function_without_what_it_called() -> None:
    total, own = self_samples(GRAPH)
    assert total == 10
    assert own == {"send (links.py)": 5, "turn (hot.py)": 4, "poll (<frozen (odd)>)": 1}


def test_a_flame_graph_that_grows_upwards_gives_the_same() -> None:
    upwards = GRAPH.replace('y="20"', 'y="68"').replace('y="52"', 'y="9"')
    assert self_samples(upwards) == self_samples(GRAPH)


@pytest.mark.parametrize(
    ("target", "meant"), [("feed", ("feed", False)), ("sim.side", ("sim", True)), ("exec.hot", ("exec", False))]
)
def test_a_service_means_its_hot_process(target: str, meant: tuple[str, bool]) -> None:
    assert split_target(target) == meant


@pytest.mark.parametrize("target", ["", "feeds", "feed.", "feed.cold", "redis"])
def test_what_is_no_service_is_refused_with_those_there_are(target: str) -> None:
    with pytest.raises(RunError, match=r"feed, signals, risk, exec, sim.*SERVICE\.side"):
        split_target(target)


def test_a_process_that_has_ended_is_not_taken_for_another_one(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(ProfileError, match="has ended"):
        find_process(system_on(tmp_path, ended.pid), "feed")
    with pytest.raises(ProfileError, match="has ended"):  # it lives, and is no hot process
        find_process(system_on(tmp_path, os.getpid(), "risk"), "risk")


def test_a_service_that_does_not_run_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"feed does not run.*tickpath up.*--run-dir"):
        find_process(System("127.0.0.1", {"feed": 1}, None, tmp_path, "the test"), "feed")


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="SKIPPED: a pid namespace takes root and util-linux"
)
def test_a_process_of_a_container_is_found_by_the_number_that_it_has_there(tmp_path: Path) -> None:
    code = "import os; print(os.getpid(), flush=True); import sys; sys.stdin.read()"
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", code, "tickpath.feed.hot"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        inside = int(outer.stdout.readline())
        assert inside == 1
        system = system_on(tmp_path, inside)
        found = find_process(system, "feed")
        assert Path(f"/proc/{found}/stat").read_text().split()[3] == str(outer.pid)
        assert outer.stdin is not None
        outer.stdin.close()


@pytest.mark.parametrize(("ends", "said"), [(False, "was idle all the time"), (True, "has ended")])
def test_a_process_without_a_sample_says_why(tmp_path: Path, ends: bool, said: str) -> None:
    code = "import time; print(1, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, "tickpath.feed.hot"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

        def say(_: str) -> None:
            """The process was found and is about to be sampled. One that ends by itself may be sampled at its end."""
            if ends:
                process.kill()
                process.wait()

        try:
            assert process.stdout is not None
            process.stdout.readline()
            while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "S":
                time.sleep(0.01)
            system, out = system_on(tmp_path, process.pid), tmp_path / "graph.svg"
            with pytest.raises(ProfileError, match=said):
                run_profile(system, "feed", seconds=1, native=False, out=out, as_json=False, say=say)
        finally:
            process.kill()
    assert not out.exists()


MISTAKES = {
    "nothing named": (["profile"], 2, "feed, signals, risk, exec, sim, or --stages"),
    "no such service": (["profile", "exac"], 2, "there is no service 'exac'"),
    "no system there": (["profile", "feed", "--run-dir", "/nowhere"], 2, "no launcher runs a system on /nowhere"),
    "image without a folder": (["profile", "feed", "--out", "/nowhere/x.svg"], 2, "/nowhere/x.svg"),
    "too short": (["profile", "feed", "--seconds", "0"], 2, "--seconds"),
    "no recorded file": (["profile", "--stages", "nowhere.itch"], 2, "nowhere.itch"),
    "chart without a folder": (["profile", "--stages", "--out", "/nowhere/x.svg", __file__], 2, "nowhere"),
}


@pytest.mark.parametrize(("arguments", "status", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_clear_message(arguments: list[str], status: int, said: str) -> None:
    done = tickpath(*arguments)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
