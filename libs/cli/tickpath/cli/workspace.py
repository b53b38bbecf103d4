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
from typing import Final, NamedTuple

#: What is checked, relative to the root.
SOURCES: Final = ("libs", "services", "sim", "bench", "tests", "deploy", "host-tuning")

#: Tests across services, which take longest, then those of the packages.
GROUPS: Final = ("tests", "libs", "services", "sim")

_LOOK_S: Final = 0.2


class WorkspaceError(Exception):
    """This is not a clone of the project, or it has no such file."""


def root() -> Path:
    """Root of the clone that this package runs from. Raises WorkspaceError when it is installed elsewhere."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "requirements.lock").is_file() and (folder / "libs" / "cli").is_dir():
            return folder
    msg = "this command needs a clone of the project, and tickpath runs from an installed package"
    raise WorkspaceError(msg)


class _Result(NamedTuple):
    name: str
    status: int
    seconds: float


class _Check:
    """A command that goes on beside others; what it says is kept."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the check
        self._began = time.monotonic()
        self._process = subprocess.Popen(command, cwd=folder, stdout=self._said, stderr=self._said)

    def has_ended(self) -> bool:
        """Whether `end` would not wait."""
        return self._process.poll() is not None

    def end(self, *, kill: bool = False) -> _Result:
        """Wait for it, or stop it, and print what it said."""
        if kill:
            self._process.terminate()
        status = self._process.wait()
        seconds = time.monotonic() - self._began
        with self._said as said:
            said.seek(0)
            sys.stdout.write(said.read())
            sys.stdout.flush()
        return _Result(self.name, status, seconds)


def run_checks(pytest_arguments: Sequence[str], say: Callable[[str], None]) -> int:
    """Ruff, its formatter, mypy and pytest, all of them whatever fails; 0 when all pass.

    Without a path or a marker among the arguments, all kernels are compiled first; then the tests of the packages and
    those across services, which start whole systems and mostly wait, run beside each other, one group per core.
    """
    folder = root()
    present = [name for name in SOURCES if (folder / name).is_dir()]
    typed = [
        str(path.relative_to(folder))
        for path in sorted(folder.glob("*/**/tickpath"))
        if path.is_dir() and ".venv" not in path.parts
    ]
    python = [sys.executable, "-m"]
    whole = all(argument.startswith("--durations") for argument in pytest_arguments)
    checks = {
        "ruff check": [*python, "ruff", "check", *present],
        "ruff format": [*python, "ruff", "format", "--check", *present],
    }
    if whole:
        checks["compile all kernels"] = [*python, "tickpath.cli", "warm-up"]
    else:
        checks["pytest"] = [*python, "pytest", *pytest_arguments]
    say("mypy goes on beside the others; what it says comes at the end")
    mypy = _Check("mypy, beside the others", [*python, "mypy", *typed], folder)
    results: list[_Result] = []
    for name, command in checks.items():
        say(f"{name} …")
        began = time.monotonic()
        status = subprocess.run(command, cwd=folder, check=False).returncode
        results.append(_Result(name, status, time.monotonic() - began))
        if status < 0:  # ended by a signal, which the user sent to all of us
            break
    stopped = results[-1].status < 0
    if whole and not stopped:
        pytest = [*python, "pytest", "-p", "no:cacheprovider", *pytest_arguments]
        groups = {f"pytest {name}": [*pytest, name] for name in GROUPS}
        results += _beside_each_other(groups, folder, say)
        stopped = any(result.status < 0 for result in results)
    results.append(mypy.end(kill=stopped))
    for result in results:
        verdict = "passed" if result.status == 0 else f"FAILED ({result.status})"
        say(f"{verdict}: {result.name}, {result.seconds:.1f} s")
    return 1 if stopped or any(result.status for result in results) else 0


def _beside_each_other(commands: dict[str, list[str]], folder: Path, say: Callable[[str], None]) -> list[_Result]:
    """Run them, one per core at a time; each says all that it has to say when it ends. A signal ends them all."""
    waiting = list(commands.items())
    running: list[_Check] = []
    results: list[_Result] = []
    try:
        while waiting or running:
            while waiting and len(running) < len(os.sched_getaffinity(0)):
                name, command = waiting.pop(0)
                say(f"{name} …")
                running.append(_Check(name, command, folder))
            time.sleep(_LOOK_S)
            for check in [check for check in running if check.has_ended()]:
                running.remove(check)
                results.append(check.end())
                if results[-1].status < 0:
                    waiting.clear()
                    results += [running.pop().end(kill=True) for _ in range(len(running))]
                    break
    except KeyboardInterrupt:
        for check in running:
            check.end(kill=True)
        raise
    return results


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
