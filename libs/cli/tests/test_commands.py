"""The commands as a user types them: help, mistakes, and what they import."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tickpath.cli.demo import DemoOptions, left_out
from tickpath.cli.show import print_limits, rearmed

ROOT = Path(__file__).resolve().parents[3]


def tickpath(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command for real."""
    return subprocess.run(
        [sys.executable, "-m", "tickpath.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "150", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_every_command() -> None:
    out = tickpath("--help").stdout
    for command in (
        "demo",
        "up",
        "down",
        "status",
        "top",
        "limits",
        "kill",
        "bench",
        "test",
        "warm-up",
        "instruments",
    ):
        assert command in out


def test_the_command_line_imports_nothing_heavy() -> None:
    """Start-up is part of speed: compiler, web server and HTTP client are for other processes."""
    code = "import sys, tickpath.cli.main, tickpath.cli.demo, tickpath.cli.up, tickpath.cli.show; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numba", "llvmlite", "fastapi", "uvicorn", "httpx", "redis", "zmq"} & set(out) == set()


MISTAKES = {
    "no such command": (["fly"], 2, "fly"),
    "no such option": (["demo", "--fast"], 2, "--fast"),
    "seconds is not a number": (["demo", "--seconds", "soon"], 2, "valid number"),
    "seconds is negative": (["demo", "--seconds", "-1"], 2, "--seconds"),
    "speed is not a speed": (["demo", "--speed", "fast"], 2, "max"),
    "speed is zero": (["demo", "--speed", "0"], 2, "above 0"),
    "rate and speed": (["demo", "--speed", "8", "--rate", "100"], 2, "exclude"),
    "page in a folder that is not there": (["demo", "--html", "nowhere/page.html"], 2, "nowhere/page.html"),
    "logs into a folder that cannot be made": (
        ["demo", "--keep", "/proc/nowhere/logs"],
        2,
        "--keep /proc/nowhere/logs",
    ),
    "logs into a file": (["demo", "--keep", "README.md"], 2, "allowed is a folder"),
    "data that is not there": (["demo", "--data", "nowhere.itch"], 2, "nowhere.itch: there is no such file"),
    "configuration is missing": (["demo", "--config", "nowhere.toml"], 2, "nowhere.toml"),
    "limits without a value": (["limits", "set", "AAPL", "max_order_qty_lots"], 2, "field=value"),
    "export of nothing": (["export"], 2, "--journal"),
    "no such format": (["export", "recording", "--format", "xml"], 2, "parquet"),
    "table of a file that is not there": (["instruments", "nowhere.itch"], 2, "nowhere.itch"),
    "no such bench": (["bench", "nothing-of-this-name"], 2, "there is no bench"),
}


@pytest.mark.parametrize(("arguments", "status", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_clear_message_and_an_exit_status(arguments: list[str], status: int, said: str) -> None:
    done = tickpath(*arguments)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TICKPATH_CORES__FEED", "[4095]", "cores.feed = [4095]: allowed are the cores that there are"),
        ("TICKPATH_EXEC__HOST", "not an ip", "exec.host = 'not an ip': allowed is an IPv4 or IPv6 address"),
        ("TICKPATH_ADMIN__HOST", "192.0.2.1", "admin.host = '192.0.2.1': "),
    ],
)
@pytest.mark.parametrize("command", ["demo", "up"])
def test_a_value_that_cannot_be_used_is_refused_before_anything_starts(
    command: str, variable: str, value: str, said: str
) -> None:
    done = tickpath(command, "--port-base", "0", **{variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "is ready" not in done.stderr


def test_of_several_mistakes_each_line_stands_under_the_first() -> None:
    done = tickpath("demo", TICKPATH_FEED__PORT="0", TICKPATH_EXEC__PORT="0", TICKPATH_RISK__ORDER_RATE="many")
    first, *others = done.stderr.splitlines()
    assert first.startswith("tickpath: TICKPATH_")
    assert len(others) == 2
    assert all(line.startswith(" " * len("tickpath: ") + "TICKPATH_") for line in others)


def test_version() -> None:
    done = tickpath("--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "tickpath", "")
    assert done.stdout.split()[1].count(".") == 2


@pytest.mark.parametrize(
    ("seconds", "speed", "rate", "said"),
    [
        (6, 8.0, 0, "292 minutes of data, of which 48 s play at 8x; --rate N or --speed max play more"),
        (20, 60.0, 0, "292 minutes of data, of which 20 minutes play at 60x; --rate N or --speed max play more"),
        (20, 600.0, 0, None),
        (6, "max", 0, None),
        (6, 1.0, 100, None),
    ],
)
def test_a_demo_says_when_it_plays_only_the_beginning_of_its_data(
    seconds: float, speed: float | str, rate: float, said: str | None
) -> None:
    options = DemoOptions(seconds, (Path("a.itch"),), speed, rate, 1, False, None, None)
    assert left_out({"seconds": 292 * 60.0}, options) == said
    assert left_out({}, options) is None


def test_a_wrong_key_in_the_configuration_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tickpath.toml"
    file.write_text((ROOT / "tickpath.toml").read_text().replace("port = 26400", "port = 99999\nprot = 1"))
    done = tickpath("demo", "--config", str(file))
    assert done.returncode == 2
    for part in ("feed.port", "99999", "feed.prot", "there is no such key", str(file)):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("command", "status"), [("status", 1), ("limits list", 1), ("kill list", 1), ("top", 1)])
def test_commands_say_clearly_that_nothing_answers(command: str, status: int, tmp_path: Path) -> None:
    """--config names the system: nobody listens on these ports."""
    file = tmp_path / "tickpath.toml"
    text = (ROOT / "tickpath.toml").read_text()
    for port in (8101, 8102, 8103, 8104, 8105):
        text = text.replace(f"http_port = {port}", f"http_port = {port - 8100}")  # 1 to 5: nobody serves there
    file.write_text(text)
    done = tickpath(*command.split(), "--config", str(file))
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert "not reachable" in done.stdout or "does not answer" in done.stderr or "no pages" in done.stderr


def test_status_as_json_says_which_services_are_not_reachable(tmp_path: Path) -> None:
    file = tmp_path / "tickpath.toml"
    text = (ROOT / "tickpath.toml").read_text()
    for port in (8101, 8102, 8103, 8104, 8105):
        text = text.replace(f"http_port = {port}", f"http_port = {port - 8100}")
    file.write_text(text)
    done = tickpath("status", "--json", "--config", str(file))
    found = json.loads(done.stdout)
    assert set(found) == {"feed", "signals", "risk", "exec", "sim"}
    assert all("does not answer" in service["unreachable"] for service in found.values())


def test_a_run_dir_on_which_nothing_runs_is_refused(tmp_path: Path) -> None:
    for command in ("status", "down", "top"):
        done = tickpath(command, "--run-dir", str(tmp_path / "nothing"))
        assert done.returncode == 2
        assert "no launcher runs" in done.stderr
    assert not (tmp_path / "nothing").exists()


SCOPES = {
    "GLOBAL": dict.fromkeys(("max_open_orders", "order_rate", "order_rate_window_ms"), "10000"),
    **{
        scope: {field.replace("-", "_"): "unlimited" for field in (
            "max-order-qty-lots", "max-order-notional", "collar-aggressive-bps", "collar-passive-bps",
            "max-spread-bps", "max-long-lots", "max-short-lots", "max-data-age-ms", "order-rate",
        )}
        for scope in ("SYMBOL:*", "SYMBOL:AAPL")
    },
}  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 110, 200])
def test_limits_can_be_read_on_a_terminal_of_any_width(width: int) -> None:
    out = io.StringIO()
    print_limits(SCOPES, Console(file=out, width=width))
    text = out.getvalue()
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for limits in SCOPES.values():
        assert all(word in text for field in limits for word in field.split("_"))
    assert text.count("unlimited") == 18


def test_rearming_says_whether_anything_was_tripped() -> None:
    halted = {"state": "HALTED", "reason": "drill", "who": "me", "at": ""}
    active = {**halted, "state": "ACTIVE"}
    assert rearmed("GLOBAL", {"GLOBAL": halted}, "why") == "GLOBAL is ACTIVE again: why"
    assert rearmed("GLOBAL", {}, "why") == "GLOBAL was not tripped; it is ACTIVE"
    assert rearmed("GLOBAL", {"GLOBAL": active}, "why") == "GLOBAL was not tripped; it is ACTIVE"
    assert rearmed("GLOBAL", {"SYMBOL:AAPL": halted}, "why").endswith("it is ACTIVE (SYMBOL:AAPL is HALTED)")


def test_bench_without_a_name_lists_what_is_there() -> None:
    done = tickpath("bench")
    assert done.returncode == 0
    files = {path.stem for path in (ROOT / "bench").glob("*.py") if not path.stem.startswith("_")}
    assert {line.split()[0] for line in done.stdout.splitlines()} == files
