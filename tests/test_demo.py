"""``tickpath demo`` and ``up`` for real: the whole pipeline as processes, from the command line, and what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from tickpath.cli.runs import is_alive

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
ITCH = DATA / "itch" / "nasdaq_itch50_20200130_AAPL_first10000.itch"
LOBSTER = [
    DATA / "lobster" / "AMZN_2012-06-21_34200000_57600000_message_5.csv.zst",
    DATA / "lobster" / "AAPL_2012-06-21_34200000_57600000_message_1.csv.zst",
]

pytestmark = pytest.mark.pipeline

needs_data = pytest.mark.skipif(not ITCH.is_file(), reason=f"SKIPPED: no recorded market data in {DATA}")


class Command:
    """A running ``tickpath``; everything that it starts, directly or not, carries a mark in its environment."""

    def __init__(self, *arguments: str) -> None:
        self.mark = f"TICKPATH_TEST={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tickpath.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, name: value, "NO_COLOR": "1", "COLUMNS": "150"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever went wrong in a test, nothing goes on behind its back."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.communicate(timeout=60)

    def run_dir(self) -> Path:
        """The folder of its system, while it runs."""
        for note in (path / "launcher.json" for path in run_dirs()):
            if note.is_file() and json.loads(note.read_text())["pid"] == self.process.pid:
                return note.parent
        raise AssertionError("it has left no note")

    def left(self, run_dir: Path | None = None) -> list[str]:
        """Command lines of the processes that this command started and that still run.

        Redis writes its title over its environment, but it works in the folder of the system.
        """
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = self.mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                inside = run_dir is not None and str((folder / "cwd").readlink()).startswith(str(run_dir))
                if marked or inside:
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def wait_for(self, text: str) -> str:
        """The first line on stderr with this text."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if text in line:
                return line
        raise AssertionError(f"ended without {text!r}: {''.join(self.said)}")

    def end(self) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) when it is over."""
        out, err = self.process.communicate(timeout=240)
        return self.process.returncode, out, "".join(self.said) + err


def run(*arguments: str) -> tuple[int, str, str, list[str]]:
    """(exit status, stdout, stderr, what still runs) of a command that ends by itself."""
    with Command(*arguments) as command:
        status, out, err = command.end()
        return status, out, err, command.left()


def eventually(condition: Callable[[], Any]) -> bool:
    """Whether it comes true within some seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.1)
    return False


def run_dirs() -> set[Path]:
    """Folders of systems of this user."""
    roots = [Path("/dev/shm"), Path("/tmp")]
    return {path for root in roots for path in (root / f"tickpath-{os.getuid()}").glob("*")}


def abandoned() -> set[Path]:
    """Folders of systems that nobody runs; others may be at work on this machine."""
    return {path for path in run_dirs() if not is_alive(path) and path.exists()}


def assert_is_whole(report: dict[str, Any]) -> None:
    """Every promise of the report that does not depend on the market."""
    assert report["ok"] is True
    assert report["lane"] == "zmq-ipc"
    data, orders = report["market_data"], report["orders"]
    assert data["sent"] == data["received"] > 0
    assert data["lost"] == 0
    assert report["positions_match"] is True
    assert report["duplicates"] == 0
    assert 0 < report["ticks"] <= data["received"]
    assert orders["sent"] == orders["acknowledged"] + orders["rejected_by_venue"]
    assert orders["sent"] == orders["filled"] + orders["cancelled"] + orders["rejected_by_venue"]
    hops = report["hops_us"]
    assert set(hops) >= {"recv_to_decode", "decode_to_signal", "signal_to_approve", "approve_to_send", "send_to_ack"}
    for found in (report["tick_to_order_us"], *hops.values()):
        assert found["p50"] <= found["p90"] <= found["p99"] <= found["p99_9"] <= found["max"]
    assert report["tick_to_order_us"]["count"] == orders["sent"]
    names = {f"{name}.{kind}" for name in ("feed", "signals", "risk", "exec", "sim") for kind in ("hot", "side")}
    assert set(report["processes"]) == names
    for found in report["processes"].values():
        assert set(found) == {"cpu_percent", "rss_mb", "rss_growth_mb", "gc_pauses", "cores"}
        assert found["rss_mb"] > 0
        assert found["cores"]


def test_a_generated_market_goes_through_the_pipeline_and_nothing_is_left() -> None:
    before = abandoned()
    status, out, err, left = run("demo", "--seconds", "5", "--json", "--port-base", "0")
    assert status == 0, err
    assert len(out.splitlines()) == 1
    report = json.loads(out)
    assert_is_whole(report)
    assert report["orders"]["sent"] > 0
    assert report["orders"]["filled"] > 0
    assert "first tick" in err
    assert left == []
    assert abandoned() <= before


@needs_data
def test_two_recorded_lobster_files_play_together() -> None:
    files = [argument for path in LOBSTER for argument in ("--data", str(path))]
    status, out, err, left = run("demo", "--seconds", "5", "--speed", "60", "--json", "--port-base", "0", *files)
    assert status == 0, err
    report = json.loads(out)
    assert_is_whole(report)
    assert "2 symbols" in report["source"]
    assert report["orders"]["sent"] > 0
    assert left == []


@needs_data
def test_a_recorded_itch_file_plays_at_a_rate_of_its_own_and_the_report_is_for_people() -> None:
    status, out, err, left = run("demo", "--seconds", "3", "--rate", "2000", "--port-base", "0", "--data", str(ITCH))
    assert status == 0, err
    for part in ("ITCH 5.0", "market data sent", "tick to order", "Processes", "feed.hot", "ok:"):
        assert part in out
    assert left == []


def cut(path: Path) -> bytes:
    return ITCH.read_bytes()[:5000]


BAD_FILES: dict[str, tuple[Callable[[Path], bytes] | None, str]] = {
    "missing.itch": (None, "there is no such file"),
    "empty.itch": (lambda _: b"", "the file is empty"),
    "truncated.itch": (cut, "truncated"),
    "text.itch": (lambda _: b"this is not market data\n" * 100, "not ITCH 5.0"),
    "damaged.itch.zst": (lambda _: b"\x28\xb5\x2f\xfd" + b"\0" * 100, "damaged"),
    "letters.csv": (lambda _: b"a,b,c,d,e,f\n" * 10, "letters.csv"),
}


@needs_data
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_data_file_is_one_clear_message(name: str, tmp_path: Path) -> None:
    make, said = BAD_FILES[name]
    if make is not None:
        (tmp_path / name).write_bytes(make(tmp_path))
    before = abandoned()
    status, out, err, left = run("demo", "--json", "--port-base", "0", "--data", str(tmp_path / name))
    assert status == 2, err
    assert out == ""
    assert said in err
    assert name in err
    assert "Traceback" not in err
    assert left == []
    assert abandoned() <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_reports_what_ran_and_stops_cleanly(number: signal.Signals) -> None:
    before = abandoned()
    with Command("demo", "--seconds", "600", "--json", "--port-base", "0") as command:
        command.wait_for("first tick")
        run_dir = command.run_dir()
        assert len(command.left(run_dir)) == 12  # launcher, Redis, five side and five hot processes
        command.process.send_signal(number)
        status, out, err = command.end()
        assert status == 128 + number
        assert_is_whole(json.loads(out))
        assert "Traceback" not in err
        assert command.left(run_dir) == []
    assert abandoned() <= before


def test_nothing_goes_on_when_the_launcher_is_killed() -> None:
    with Command("demo", "--seconds", "600", "--port-base", "0") as command:
        command.wait_for("first tick")
        run_dir = command.run_dir()
        command.process.kill()
        command.end()
        assert eventually(lambda: not command.left(run_dir)), command.left(run_dir)


def ask(run_dir: str, *arguments: str) -> tuple[int, Any, str]:
    """(exit status, JSON, stderr) of a command about the system on `run_dir`."""
    status, out, err, _ = run(*arguments, "--run-dir", run_dir, "--json")
    return status, json.loads(out) if out else None, err


def test_a_system_is_controlled_from_another_command_and_stopped_by_down() -> None:
    with Command("up", "--port-base", "0") as system:
        run_dir = system.wait_for("up on ").split("up on ")[1].split(";")[0]

        status, found, err = ask(run_dir, "status")
        assert status == 0, err
        assert {name: item["state"] for name, item in found.items()} == dict.fromkeys(found, "READY")

        status, found, err = ask(run_dir, "limits", "set", "BABAB", "max_order_qty_lots=50")
        assert status == 0, err
        _, found, _ = ask(run_dir, "limits", "list")
        assert found["limits"]["SYMBOL:BABAB"]["max_order_qty_lots"] == "50"

        status, found, err = ask(run_dir, "kill", "trip", "--reason", "drill")
        assert (status, found["state"]) == (0, "HALTED"), err
        system.wait_for("risk: kill switch GLOBAL is HALTED: drill")
        _, found, _ = ask(run_dir, "kill", "list")
        assert found["states"]["GLOBAL"]["reason"] == "drill"
        assert ask(run_dir, "kill", "rearm")[1]["state"] == "ACTIVE"

        for arguments, said in ((["NOSUCH"], "NOSUCH"), (["--token", "wrong"], "token")):
            status, found, err = ask(run_dir, "kill", "trip", *arguments)
            assert (status, found) == (1, None)
            assert said in err

        # The exchange dies and comes back with another session: nothing of that may look as if all were well.
        os.kill(ask(run_dir, "status")[1]["sim"]["pid"], signal.SIGKILL)
        system.wait_for("sim: its hot process died and is started again (1 so far)")
        system.wait_for("feed: the market data channel is stale: datagrams of another session come")
        found = ask(run_dir, "status")[1]
        assert "another session" in found["feed"]["not_ready"][0]
        assert found["sim"]["restarts"] == 1

        status, _, err, _ = run("down", "--run-dir", run_dir)
        assert status == 0, err
        assert system.end()[0] == 0
        assert system.left() == []
        assert not Path(run_dir).exists()
