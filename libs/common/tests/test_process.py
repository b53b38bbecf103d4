"""What a process asks of the system is read back, and a name belongs to one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tickpath.common.pages import Hot
from tickpath.common.process import AlreadyRunningError, GarbageWatch, Setup, UsageWatch, claim, pin, renice


def test_a_name_is_claimed_once_and_free_again_when_its_holder_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tickpath.common.process import claim\n"
        "claim(Path(sys.argv[1]), 'feed.hot'); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunningError, match=r"a process 'feed.hot' runs on .* already"):
            claim(tmp_path, "feed.hot")
        os.close(claim(tmp_path, "signals.hot"))
        threading.Timer(0.2, holder.kill).start()
        os.close(claim(tmp_path, "feed.hot", wait_s=30))


def test_cores_that_are_not_there_are_refused_with_those_that_are() -> None:
    setup = Setup()
    pin(setup, (4095,))
    assert setup.cores == tuple(sorted(os.sched_getaffinity(0)))
    assert "allowed here are" in setup.notes[0]


def test_niceness_is_read_back_whatever_the_system_allowed() -> None:
    setup = Setup()
    before = os.getpriority(os.PRIO_PROCESS, 0)
    renice(setup, before)
    assert setup.nice == before
    assert setup.notes == []


def test_collections_and_usage_are_counted_in_the_page() -> None:
    hot = np.zeros(len(Hot), dtype=np.int64)
    garbage, usage = GarbageWatch(hot), UsageWatch(hot)
    try:
        garbage.freeze()
        usage.rebase()
        garbage.idle()
        garbage.idle()
        time.sleep(0)
        usage.update()
    finally:
        garbage.thaw()
        usage.close()
    assert hot[Hot.GC_COUNT] == 2
    assert hot[Hot.GC_PAUSE_NS] >= hot[Hot.GC_PAUSE_MAX_NS] > 0
    assert hot[Hot.RSS_BYTES] > 1_000_000
    assert hot[Hot.RSS_READY_BYTES] > 1_000_000
