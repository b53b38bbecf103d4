"""Compiling every kernel once, before five processes would do it at the same time.

`ensure_warm` is for the launcher and imports no Numba: a stamp in the cache says that the kernels of exactly these
sources were compiled on this kind of processor, and another one the same of the configured strategies, so that a
changed strategy is compiled alone. ``python -m tickpath.cli.warm_up MODULE...`` does a part of the work
and reports it line by line; as many of them run at once as there are cores.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tickpath
from tickpath.common.config import CONFIG_ENV, Config, ConfigError, config_path, load_config

_MARK = "@kernel("
_WITH_STRATEGIES = "tickpath.signals."  # whose kernels are there, compiles them


class WarmUpError(Exception):
    """The kernels could not be compiled; the message says why."""


def cache_root() -> Path:
    """Folder of the compiled kernels; the same as `tickpath.common.jit.cache_root`, which needs Numba."""
    root = os.environ.get("TICKPATH_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "tickpath"


#: Kernels that only one lane has: part of the module's name, and the lane. The others are of all lanes.
_OF_LANE = ((".kernels.loop", "shm"), (".cli.fused.", "fused"))


def kernel_modules(*lanes: str) -> dict[str, list[str]]:
    """Modules that hold kernels of some lanes, by the folder that they are in; those that others build on come first.

    A folder is the unit of work. The exchange's come last: they need the most of what is compiled before.
    """
    found: dict[str, list[str]] = {}
    for folder in map(Path, tickpath.__path__):
        for path in sorted(folder.rglob("*.py")):
            name = "tickpath." + ".".join(path.relative_to(folder).with_suffix("").parts)
            if any(part in name and of_lane not in lanes for part, of_lane in _OF_LANE):
                continue
            if ".kernels." in name and any(line.startswith(_MARK) for line in path.read_text("utf-8").splitlines()):
                found.setdefault(name.rpartition(".")[0], []).append(name)
    order = ("common", "risk", "exec", "signals", "feed", "sim")
    return dict(sorted(found.items(), key=lambda item: (_place(item[0], order), item[0].count("."), item[0])))


def _place(name: str, order: Sequence[str]) -> int:
    service = name.split(".")[1]
    return order.index(service) if service in order else len(order)


def fingerprint(lane: str) -> str:
    """What the machine code of a lane depends on: sources, compiler, interpreter, processor."""
    digest = hashlib.sha256(f"{lane} {sys.version} {version('numba')} {version('numpy')} {_processor()}".encode())
    for folder in sorted(map(Path, tickpath.__path__)):
        for path in sorted(folder.rglob("*.py")):
            of = path.relative_to(folder).parts
            if of[0] == "cli" and of[1] != "fused":  # the command line has no other kernels
                continue
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def strategies_fingerprint(config: Config, base: Path) -> str:
    """What the machine code of the strategies depends on beyond `fingerprint`; their files are relative to `base`."""
    digest = hashlib.sha256()
    for strategy in config.signals.strategies:
        digest.update(f"{strategy.path} {strategy.id}".encode())
        file = base / strategy.path.rpartition(":")[0]
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
    environment: Mapping[str, str],
    say: Callable[[str], None],
    interrupted: Callable[[], bool] = lambda: False,
    *,
    lanes: Sequence[str] = (),
    force: bool = False,
) -> bool:
    """Compile what is not in the cache, with progress; False when everything was there. Raises WarmUpError.

    Without `lanes` for that of the configuration.
    """
    lanes = lanes or (config.links.lane,)
    file = environment.get(CONFIG_ENV)
    base = config_path(Path(file) if file else None).resolve().parent
    stamps = [cache_root() / f"warm_{fingerprint(lane)}" for lane in lanes]
    of_strategies = [Path(f"{stamp}_{strategies_fingerprint(config, base)}") for stamp in stamps]
    folders = kernel_modules(*lanes)
    if not force and all(stamp.exists() for stamp in stamps):
        if all(stamp.exists() for stamp in of_strategies):
            return False
        folders = {folder: names for folder, names in folders.items() if folder.startswith(_WITH_STRATEGIES)}
    of = sum(map(len, folders.values())) + bool(config.signals.strategies)
    children: list[subprocess.Popen[bytes]] = []
    number = itertools.count(1)

    def work(folder: str) -> None:
        if interrupted():
            return
        command = [sys.executable, "-m", "tickpath.cli.warm_up", *folders[folder]]
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=dict(environment), start_new_session=True
        )
        children.append(child)
        fault = None
        with child:
            assert child.stdout is not None  # noqa: S101 - it is a pipe
            for line in child.stdout:
                step = json.loads(line)
                fault = step.get("fault", fault)
                if "what" in step and not interrupted():
                    say(f"compiling {step['what']} kernels {next(number)}/{of} …")
        if child.returncode != 0 and not interrupted():
            raise WarmUpError(fault or f"compiling {folder} ended with status {child.returncode}; see above")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        futures = [pool.submit(work, folder) for folder in folders]
        while wait(futures, timeout=0.1).not_done:
            if interrupted():
                for child in children:
                    child.kill()
    for future in futures:
        future.result()
    if interrupted():
        return False
    for stamp in (*stamps, *of_strategies):
        stamp.touch()
    return True


def main(names: Sequence[str]) -> int:
    """Import these modules in turn, and after those of signals the configured strategies; one JSON line for each."""
    try:
        config = load_config()
        cache_root().mkdir(parents=True, exist_ok=True)
        for name in names:
            _tell(what=name.split(".")[1])
            importlib.import_module(name)
        if config.signals.strategies and any(name.startswith(_WITH_STRATEGIES) for name in names):
            _tell(what="strategy")
            _compile_strategies(config)
    except ConfigError as error:
        _tell(fault=str(error))
        return 1
    except OSError as error:
        said = f"cannot keep compiled kernels in {cache_root()}: {error.strerror}"
        _tell(fault=f"{said}; TICKPATH_CACHE names another folder")
        return 1
    return 0


def _compile_strategies(config: Config) -> None:
    """As the signals service will; what is wrong with a strategy is for that service to say."""
    from tickpath.signals.core import configured_strategies  # noqa: PLC0415
    from tickpath.signals.engine import compile_strategies  # noqa: PLC0415 - Numba, only in this process
    from tickpath.signals.strategy import StrategyError  # noqa: PLC0415

    with contextlib.suppress(StrategyError):
        compile_strategies(configured_strategies(config, config_path().resolve().parent))


def _tell(**step: Any) -> None:
    print(json.dumps(step), flush=True)  # noqa: T201 - the protocol with `ensure_warm`


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
