"""``tickpath up``, ``down`` and ``warm-up``."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from tickpath.cli import runs
from tickpath.cli.control import ControlError, Endpoint
from tickpath.cli.launcher import EXIT_FAULT, Interrupted, Launcher, LaunchError, Options, StopRequest
from tickpath.cli.warm_up import WarmUpError, cache_root, ensure_warm
from tickpath.common.config import Lane, load_config

_LOOK_S: Final = 1.0
_DOWN_S: Final = 60.0


def run_up(
    config: Path | None,
    run_dir: Path | None,
    port_base: int | None,
    *,
    with_sim: bool,
    lane: str = "",
    live: Mapping[str, Any] | None = None,
    say: Callable[[str], None],
) -> int:
    """Start and stay until asked to stop.

    With the simulated exchange the journal is as short-lived as the exchange's books: without `run_dir` a fresh
    folder is used and removed. Against a venue the folder is the configuration's and the journal stays in it.
    `live` are settings of section ``sim``: the live market that the exchange plays.
    """
    stop = StopRequest()
    if run_dir is None and not with_sim:
        run_dir = load_config(config).run_dir
    sections: dict[str, Any] = {"links": {"lane": lane}} if lane else {}
    if live:
        sections["sim"] = dict(live)
    options = Options("up", config, sections, run_dir, port_base, with_sim, own_redis=False)
    try:
        with Launcher(options, say, stop) as system:
            system.start()
            host = system.config.admin.host
            ports = {name: system.config.http_port(name) for name in reversed(system.names)}
            where = ", ".join(f"{name} {port}" for name, port in ports.items())
            say(f"up on {system.run_dir}; endpoints on {host}: {where}; Ctrl-C stops it")
            watched = [Watched(Endpoint(host, port, name)) for name, port in ports.items()]
            while True:
                for one in watched:
                    for news in one.look():
                        say(news)
                stop.wait(_LOOK_S)
                system.check()
    except Interrupted:
        say("stopped")
    return 0 if stop.signal == signal.SIGTERM else stop.exit_status


class Watched:
    """What one service says of itself, for people: only what is new."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._said: tuple[str, ...] = ()
        self._restarts = 0

    def look(self) -> Iterator[str]:
        """Sentences about what has changed since the last look; at first, about what is not as it should be."""
        name = self._endpoint.name
        try:
            _, answer = self._endpoint.request("GET", "/readyz")
        except ControlError as error:
            answer = {"why": [str(error)]}
        restarts = answer.get("restarts", self._restarts)
        if restarts > self._restarts:
            yield f"{name}: its hot process died and is started again ({restarts} so far)"
        self._restarts = restarts
        said = (*answer["why"], *answer.get("warnings", ()))
        if said != self._said:
            yield f"{name}: {'; '.join(said) or 'all is well again'}"
        self._said = said


def run_down(run_dir: Path | None, say: Callable[[str], None]) -> int:
    """Ask the launcher of a system to stop and wait until it has."""
    run = runs.find_run(run_dir)
    say(f"stopping {run.command} {run.pid} on {run.run_dir}")
    try:
        os.kill(run.pid, signal.SIGTERM)
    except PermissionError:
        msg = f"process {run.pid} belongs to another user"
        raise LaunchError(msg, EXIT_FAULT) from None
    until = time.monotonic() + _DOWN_S
    while runs.read_note(Path(run.run_dir)) is not None:
        if time.monotonic() > until:
            msg = f"{run.command} {run.pid} has not stopped within {_DOWN_S:.0f} s"
            raise LaunchError(msg, EXIT_FAULT)
        time.sleep(0.05)
    return 0


def run_warm_up(config: Path | None, say: Callable[[str], None], *, force: bool) -> int:
    """Compile all kernels of all lanes now."""
    began = time.monotonic()
    environment = dict(os.environ)
    if config is not None:
        environment["TICKPATH_CONFIG"] = str(config.absolute())
    with contextlib.suppress(KeyboardInterrupt):
        try:
            done = ensure_warm(load_config(config), environment, say, lanes=get_args(Lane), force=force)
        except WarmUpError as error:
            raise LaunchError(str(error)) from None
        took = f"compiled in {time.monotonic() - began:.1f} s" if done else "compiled already"
        say(f"all kernels are {took}; they are kept in {cache_root()}")
        return 0
    return 130
