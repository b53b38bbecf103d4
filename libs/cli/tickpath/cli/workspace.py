"""Commands for who works on the project itself: its checks and its measurements. They need a clone of it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

#: What is checked, relative to the root.
SOURCES: Final = ("libs", "services", "sim", "bench", "tests", "deploy", "host-tuning")


class WorkspaceError(Exception):
    """This is not a clone of the project, or it has no such file."""


def root() -> Path:
    """Root of the clone that this package runs from. Raises WorkspaceError when it is installed elsewhere."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "requirements.lock").is_file() and (folder / "libs" / "cli").is_dir():
            return folder
    msg = "this command needs a clone of the project, and tickpath runs from an installed package"
    raise WorkspaceError(msg)


def run_checks(pytest_arguments: Sequence[str], say: Callable[[str], None]) -> int:
    """Ruff, its formatter, mypy and pytest in turn, all of them whatever fails; 0 when all pass."""
    folder = root()
    present = [name for name in SOURCES if (folder / name).is_dir()]
    typed = [
        str(path.relative_to(folder))
        for path in sorted(folder.glob("*/**/tickpath"))
        if path.is_dir() and ".venv" not in path.parts
    ]
    python = [sys.executable, "-m"]
    checks = {
        "ruff check": [*python, "ruff", "check", *present],
        "ruff format": [*python, "ruff", "format", "--check", *present],
        "pytest": [*python, "pytest", *pytest_arguments],
    }
    results: list[tuple[str, int, float]] = []
    with tempfile.TemporaryFile("w+") as said:
        say("mypy goes on beside the others; what it says comes at the end")
        begun = time.monotonic()
        types = subprocess.Popen([*python, "mypy", *typed], cwd=folder, stdout=said, stderr=said)
        for name, command in checks.items():
            say(f"{name} …")
            began = time.monotonic()
            status = subprocess.run(command, cwd=folder, check=False).returncode
            results.append((name, status, time.monotonic() - began))
            if status < 0:  # ended by a signal, which the user sent to all of us
                types.kill()
                break
        results.append(("mypy, beside the others", types.wait(), time.monotonic() - begun))
        said.seek(0)
        sys.stdout.write(said.read())
    for name, status, seconds in results:
        say(f"{'passed' if status == 0 else f'FAILED ({status})'}: {name}, {seconds:.1f} s")
    return 0 if all(status == 0 for _, status, _ in results) and len(results) == len(checks) + 1 else 1


def benches() -> dict[str, str]:
    """Name and first line of the docstring of each file in bench/."""
    found = {}
    for path in sorted((root() / "bench").glob("*.py")):
        if not path.stem.startswith("_"):
            text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            found[path.stem] = text.partition("\n")[0]
    return found


def run_bench(name: str, arguments: Sequence[str]) -> None:
    """Become bench/NAME.py. Raises WorkspaceError."""
    there = benches()
    if name not in there:
        msg = f"there is no bench {name!r}; there are {', '.join(there) or 'none'}"
        raise WorkspaceError(msg)
    os.execv(sys.executable, [sys.executable, str(root() / "bench" / f"{name}.py"), *arguments])  # noqa: S606 - no shell is wanted
