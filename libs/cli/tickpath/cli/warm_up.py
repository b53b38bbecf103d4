"""Compiling every kernel once, in one process, before five processes would do it at the same time.

`ensure_warm` is for the launcher and imports no Numba: a stamp in the cache says that the kernels of exactly these
sources were compiled on this kind of processor. ``python -m tickpath.cli.warm_up`` does the work and reports it line
by line.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tickpath
from tickpath.common.config import CONFIG_ENV, Config, ConfigError, load_config

_MARK = "@kernel("


class WarmUpError(Exception):
    """The kernels could not be compiled; the message says why."""


def cache_root() -> Path:
    """Folder of the compiled kernels; the same as `tickpath.common.jit.cache_root`, which needs Numba."""
    root = os.environ.get("TICKPATH_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "tickpath"


def kernel_modules() -> list[str]:
    """Names of all modules that hold kernels; those that others build on come first."""
    found = []
    for folder in map(Path, tickpath.__path__):
        for path in sorted(folder.rglob("*.py")):
            name = "tickpath." + ".".join(path.relative_to(folder).with_suffix("").parts)
            if ".kernels." in name and any(line.startswith(_MARK) for line in path.read_text("utf-8").splitlines()):
                found.append(name)
    return sorted(found, key=lambda name: (not name.startswith("tickpath.common."), name))


def fingerprint(config: Config) -> str:
    """What the machine code depends on: sources, strategies, compiler, interpreter, processor."""
    digest = hashlib.sha256(f"{sys.version} {version('numba')} {version('numpy')} {_processor()}".encode())
    for folder in sorted(map(Path, tickpath.__path__)):
        if (folder / "cli").is_dir():
            continue
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    for strategy in config.signals.strategies:
        digest.update(f"{strategy.path} {strategy.id}".encode())
        file = Path(strategy.path.rpartition(":")[0])
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    return " ".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags"))))


def ensure_warm(
    config: Config,
    environment: dict[str, str],
    say: Callable[[str], None],
    interrupted: Callable[[], bool] = lambda: False,
    *,
    force: bool = False,
) -> bool:
    """Compile what is not in the cache, with progress; False when everything was there. Raises WarmUpError."""
    stamp = cache_root() / f"warm_{fingerprint(config)}"
    if stamp.exists() and not force:
        return False
    command = [sys.executable, "-m", "tickpath.cli.warm_up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment) as child:
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        fault = None
        for line in child.stdout:
            step = json.loads(line)
            if "fault" in step:
                fault = step["fault"]
            elif not interrupted():
                say(f"compiling {step['what']} kernels {step['number']}/{step['of']} …")
            if interrupted():
                child.terminate()
    if interrupted():
        return False
    if child.returncode != 0:
        raise WarmUpError(fault or f"compiling the kernels ended with status {child.returncode}; see above")
    stamp.touch()
    return True


def main() -> int:
    """Import every module that holds kernels in turn, then the configured strategies; one JSON line for each."""
    try:
        config = load_config(Path(os.environ[CONFIG_ENV]) if CONFIG_ENV in os.environ else None)
    except ConfigError as error:
        _tell(fault=str(error))
        return 1
    names = kernel_modules()
    of = len(names) + bool(config.signals.strategies)
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names, start=1):
            _tell(what=name.split(".")[1], number=number, of=of)
            importlib.import_module(name)
        if config.signals.strategies:
            _tell(what="strategy", number=of, of=of)
            _compile_strategies(config)
    except OSError as error:
        said = f"cannot keep compiled kernels in {cache_root()}: {error.strerror}"
        _tell(fault=f"{said}; TICKPATH_CACHE names another folder")
        return 1
    return 0


def _compile_strategies(config: Config) -> None:
    """As the signals service will; what is wrong with a strategy is for that service to say."""
    from tickpath.signals.engine import Running, compile_strategies  # noqa: PLC0415 - Numba, only in this process
    from tickpath.signals.strategy import StrategyError, load_strategy  # noqa: PLC0415

    try:
        compile_strategies([Running(load_strategy(item.path), item.id) for item in config.signals.strategies])
    except StrategyError as error:
        print(error, file=sys.stderr)  # noqa: T201 - this module is a command of its own


def _tell(**step: Any) -> None:
    print(json.dumps(step), flush=True)  # noqa: T201 - the protocol with `ensure_warm`


if __name__ == "__main__":
    sys.exit(main())
