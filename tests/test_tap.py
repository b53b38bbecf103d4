"""``tap``, ``record`` and ``book`` beside a running system: what they show is what passed, and it runs as ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_demo import Command, eventually
from tickpath.common.instruments import load_instruments
from tickpath.common.kernels.digest import add_to_digest, words_mask
from tickpath.common.pages import Hot
from tickpath.common.recording import Recording
from tickpath.common.records import ORDER, SIGNAL, Action, ExecEvent
from tickpath.sim.sources.load import load_tape

ROOT = Path(__file__).resolve().parents[1]

TAPS = ("ticks", "signals", "orders", "datagrams")
SYMBOL = load_instruments(ROOT / "instruments.csv").symbols[0]

pytestmark = pytest.mark.pipeline


def beside(run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command that looks at the system on `run_dir`."""
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "tickpath.cli", *arguments, "--run-dir", str(run_dir)],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "150"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What it has printed, when it has ended."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def interrupted(process: subprocess.Popen[str]) -> None:
    """Ctrl-C in the midst of what a command shows ends it, with the status that shells expect and no traceback."""
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), err  # 130 for a shell, both of them
    assert "Traceback" not in err


def digest(records: Any, dtype: np.dtype[Any]) -> str:
    """Of a stream of decisions, as its stage makes it: of every field but the time stamps."""
    hot = np.zeros(len(Hot), np.int64)
    words = np.ascontiguousarray(records).view(np.int64).reshape(len(records), -1)
    add_to_digest(hot, words, len(records), words_mask(dtype))
    return f"{int(hot[Hot.DIGEST]) & (1 << 64) - 1:016x}"


def test_what_is_recorded_beside_a_demo_is_what_its_report_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stream, to the last record, after looking with every command; a recorder does not end it either."""
    monkeypatch.setenv("TICKPATH_TAPS__CAPTURE", "true")
    monkeypatch.setenv("TICKPATH_TAPS__CAPTURE_DATAGRAMS", str(1 << 16))  # a busy machine starts a recorder late
    out = tmp_path / "recording"
    with Command("demo", "--seconds", "200", "--rate", "4000", "--json", "--port-base", "0") as demo:
        demo.wait_for("sim is ready")
        run_dir = demo.run_dir()
        assert eventually(lambda: len(list(run_dir.glob("tap.*.ring"))) == len(TAPS))
        recorder = beside(run_dir, "record", "--out", str(out), "--streams", ",".join((*TAPS, "reports")), "--json")
        look = beside(run_dir, "tap", "orders", "--count", "3", "--json", "--since-start")
        demo.wait_for("first tick")
        (book,) = lines(beside(run_dir, "book", SYMBOL, "--levels", "3", "--once", "--json"))
        shown = lines(look)
        interrupted(beside(run_dir, "tap", "ticks", "--json"))
        assert recorder.stderr is not None
        assert any("recording " in line for line in recorder.stderr)
        demo.process.send_signal(signal.SIGINT)  # whoever looks has seen what he wanted: however long that took
        status, said, complaints = demo.end()
        assert status == 130, complaints
        (recorded,) = lines(recorder)
        assert demo.left(run_dir) == []
    assert [(found["stream"], found["seq"]) for found in shown] == [("orders", 1), ("orders", 2), ("orders", 3)]
    assert book["symbol"] == SYMBOL
    assert len(book["bids"]) <= 3
    report = json.loads(said)
    counts = {stream: found["records"] for stream, found in recorded["streams"].items()}
    assert all(found["missed"] == 0 for found in recorded["streams"].values())
    recording = Recording(out)
    records = {stream: recording.records(stream) for stream in recording.streams}
    assert {stream: len(found) for stream, found in records.items()} == counts
    assert all(segment.is_complete for segments in recording.streams.values() for segment in segments)
    assert counts["ticks"] == report["ticks"]
    assert counts["signals"] == report["signals"]
    assert digest(records["signals"], SIGNAL) == report["digests"]["signals"]
    assert digest(records["orders"], ORDER) == report["digests"]["orders"]
    assert int((records["reports"]["event"] == ExecEvent.SEND).sum()) == report["orders"]["sent"] > 0
    sent = records["orders"]["cl_ord_id"][records["orders"]["action"] == Action.NEW]
    assert set(records["reports"]["cl_ord_id"][records["reports"]["event"] == ExecEvent.SEND]) == set(sent)
    assert len(load_tape([out])) == report["market_data"]["received"]
