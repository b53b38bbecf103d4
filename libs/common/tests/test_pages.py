"""Pages: what one process writes, another one sees, without knowing the writer's code."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickpath.common.pages import (
    Command,
    Control,
    Hot,
    Page,
    PageError,
    SeqLock,
    command,
    commands,
    create_hot_page,
    create_side_page,
    read_text,
    write_text,
)
from tickpath.common.records import TICK


class Count(IntEnum):
    ORDERS = 0
    REJECTS = 1


class Hop(IntEnum):
    WIRE = 0


def test_a_reader_finds_names_types_and_values_from_the_header_alone(tmp_path: Path) -> None:
    page = create_hot_page(tmp_path, "feed", Count, Hop, {"marks": (TICK, (3,)), "grid": ("<i4", (2, 5))})
    page["marks"][2]["bid_ticks"] = 42
    page["counters"][Count.REJECTS] = 7
    code = (
        "import sys; from pathlib import Path; from tickpath.common.pages import Page\n"
        "page = Page.open(Path(sys.argv[1]))\n"
        "bid = int(page['marks'][2]['bid_ticks'])\n"
        "print(page.meta['counters'], page['counters'].tolist(), bid, page['grid'].shape)"
    )
    seen = subprocess.run([sys.executable, "-c", code, str(page.path)], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "['orders', 'rejects'] [0, 7] 42 (2, 5)"


def test_a_reader_cannot_write_and_every_field_has_its_own_cache_line(tmp_path: Path) -> None:
    page = create_side_page(tmp_path, "risk", {"a": ("<i8", (1,)), "b": ("<i8", (1,))})
    reader = Page.open(page.path)
    with pytest.raises(ValueError, match="read-only"):
        reader["a"][0] = 1
    starts = [reader[name].ctypes.data for name in reader.names()]
    assert all(start % 64 == 0 for start in starts)
    assert len(set(starts)) == len(starts)


def test_a_new_page_does_not_disturb_who_has_the_old_one_open(tmp_path: Path) -> None:
    old = create_side_page(tmp_path, "risk")
    old["control"][Control.PAUSED] = 1
    new = create_side_page(tmp_path, "risk")
    assert old["control"][Control.PAUSED] == 1
    assert new["control"][Control.PAUSED] == 0


def test_what_is_not_a_page_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="No such file"):
        Page.open(tmp_path / "none")
    for content in (b"", b"short", b"x" * 4096, b"TICKPAGE" + b"\1" * 100):
        path = tmp_path / "bad"
        path.write_bytes(content)
        with pytest.raises(PageError, match="bad"):
            Page.open(path)


def test_a_group_is_marked_as_being_written(tmp_path: Path) -> None:
    page = create_side_page(tmp_path, "risk")
    lock = SeqLock(page["control"], Control.VERSION)
    assert lock.version == 0
    with lock:
        assert lock.version % 2 == 1
    assert lock.version == 2


def test_a_command_has_a_number_that_the_hot_process_answers_with(tmp_path: Path) -> None:
    page = create_side_page(tmp_path, "exec")
    assert command(page, Command.CANCEL_ALL) == 1
    assert command(page, Command.DRAIN) == 2
    assert page["control"][Control.COMMAND_SEQ] == 2


def test_no_command_is_lost_that_comes_right_behind_another_one(tmp_path: Path) -> None:
    """The hot process looks every 25 ms: it finds all kinds that were given meanwhile, in the order of their last."""
    page = create_side_page(tmp_path, "exec")
    for what in (Command.START, Command.CANCEL_ALL, Command.STOP, Command.START):
        command(page, what)
    control = page["control"]
    assert commands(control, 0) == [(2, Command.CANCEL_ALL), (3, Command.STOP), (4, Command.START)]
    assert commands(control, 3) == [(4, Command.START)]
    assert commands(control, 4) == []


class LookedAtTooEarly:
    """A control page whose process is given two commands just after it has looked for the first of them."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def __getitem__(self, word: int) -> int:
        value = int(self._page["control"][word])
        if word == Command.DRAIN and value == 0:
            command(self._page, Command.DRAIN)
            command(self._page, Command.CANCEL_ALL)
        return value


def test_no_command_is_passed_over_that_comes_during_a_look(tmp_path: Path) -> None:
    page = create_side_page(tmp_path, "exec")
    command(page, Command.START)
    looked: Any = LookedAtTooEarly(page)
    assert commands(looked, 0) == [(1, Command.START)]
    assert commands(page["control"], 1) == [(2, Command.DRAIN), (3, Command.CANCEL_ALL)]


def test_commands_of_many_threads_have_numbers_of_their_own(tmp_path: Path) -> None:
    page = create_side_page(tmp_path, "exec")
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: command(page, Command.CANCEL_ALL), range(2000)))
    assert sorted(numbers) == list(range(1, 2001))


def test_texts_are_cut_to_their_field(tmp_path: Path) -> None:
    page = create_hot_page(tmp_path, "feed", Count, Hop, {"error": ("u1", (16,))})
    write_text(page, "error", "port in use: 26400")
    assert read_text(page, "error") == "port in use: 26"
    write_text(page, "error", "")
    assert read_text(page, "error") == ""
    assert len(page["hot"]) == len(Hot)
    assert page["hot"].dtype == np.int64
