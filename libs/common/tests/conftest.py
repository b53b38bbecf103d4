"""Where the recorded data and the protocol sheets are: beside the repository, not in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3].parent / "shared"


#: Field, offset, length (0: variable), type, and what the sheet says about the values.
Row = tuple[str, int, int, str, str]


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"NOT CHECKED: {path} is not on this machine")
    return path


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], Path]:
    """Path of a recorded file by its name under shared/data; skips, with the reason, when it is absent."""
    return lambda name: _existing(SHARED / "data" / name)


@pytest.fixture(scope="session")
def sheet_tables() -> Callable[[str], dict[str, list[Row]]]:
    """Tables of a protocol sheet: rows by heading of the message."""

    def read(name: str) -> dict[str, list[Row]]:
        tables: dict[str, list[Row]] = {}
        section = ""
        for line in _existing(SHARED / "protocols" / name).read_text("utf-8").splitlines():
            if line.startswith("## "):
                section = line.removeprefix("## ").split(" ")[0]
            elif line.startswith("### `"):
                heading = f"{section} {line.removeprefix('### ')}"
                tables[heading] = []
            elif tables and (row := re.match(r"\| (\d+) \| (\d+|var) \| (\w+) \| (\S[^|]*?) *\|(.*)", line)):
                length = 0 if row[2] == "var" else int(row[2])
                tables[heading].append((row[3], int(row[1]), length, row[4], row[5]))
        return tables

    return read
