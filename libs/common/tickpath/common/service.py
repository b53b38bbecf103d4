"""The side process of a service: HTTP, logs and slow stores around a hot process that it starts and watches.

Three phases, the same for every service: start (configuration, side page, `Service.set_up`, hot process), serve
(uvicorn; `Service.background`), stop. SIGTERM is passed on to the hot process, which drains; a second one ends both
at once. A hot process that dies is started again, with a growing pause; one that says that its configuration is
wrong (exit status 3) is not.

Nothing here may import Numba: a side process is light, and its start is part of the service's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, ClassVar

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client.core import Metric

from tickpath.common.admin import make_app, why_unhealthy
from tickpath.common.clock import now_ns
from tickpath.common.config import SERVICES, Config, ConfigError, load_config
from tickpath.common.pages import Control, Fields, Hot, HotState, Page, PageError, create_side_page, hot_page_path
from tickpath.common.process import EXIT_USAGE, PARENT_ENV, AlreadyRunningError, StartError, claim, die_with_parent

_MAX_RESTARTS = 20
_CANCEL_S = 0.5
_HTTP_END_S = 2  # for answers that are under way


class Service:
    """Base of a service's side process. Subclasses set `name` and override what they add."""

    name: ClassVar[str]

    def __init__(self, config: Config) -> None:
        self.config = config
        self.version = version("tickpath-common")
        self.log = structlog.get_logger(self.name)
        self.side: Page  # made by `run`, once it is certain that no other process has this name
        self.restarts = 0
        self.draining = False
        self._page: Page | None = None
        self._page_inode = 0
        self._hot: subprocess.Popen[bytes] | None = None
        self._hot_since_ns = 0
        self._stops = 0

    # What a service overrides.

    @classmethod
    def side_fields(cls, config: Config) -> Fields:
        """Arrays of the side page beyond ``control``."""
        del config
        return {}

    def set_up(self) -> None:
        """Before the hot process starts. Raises StartError."""

    def add_routes(self, app: FastAPI, guard: Any) -> None:
        """Endpoints of this service; every POST takes ``dependencies=[guard]``."""

    def status(self) -> dict[str, Any]:
        """What this service adds to /status."""
        return {}

    def metrics(self) -> Iterable[Metric]:
        """What this service adds to /metrics."""
        return ()

    def not_ready(self) -> list[str]:
        """Reasons of this service not to be ready; empty when it is."""
        return []

    def warnings(self) -> list[str]:
        """What a person should know although the service is ready."""
        return []

    async def background(self) -> None:
        """Runs beside HTTP until the service stops."""

    # The skeleton.

    def page(self) -> Page | None:
        """The hot page of the present hot process, None before there is one."""
        if self._hot is None:
            return self._page_of_others()
        if self._page is None:
            with contextlib.suppress(PageError):
                page = Page.open(hot_page_path(self.config.run_dir, self.name))
                hot = page["hot"]
                # In a container that is started again the new process may well have the number of the old one.
                if hot[Hot.PID] == self._hot.pid and hot[Hot.STARTED_NS] >= self._hot_since_ns:
                    self._page = page
        return self._page

    def _page_of_others(self) -> Page | None:
        """The page that a hot process of another service keeps for this one; a new one when that has restarted."""
        path = hot_page_path(self.config.run_dir, self.name)
        with contextlib.suppress(PageError, OSError):
            inode = path.stat().st_ino
            if self._page is None or inode != self._page_inode:
                self._page, self._page_inode = Page.open(path), inode
        return self._page

    def why_unhealthy(self) -> str | None:
        """Why /healthz says no, None if it does not.

        A service whose loop is in the process of another one answers for its side process alone: starting that
        again would mend nothing, and who is to start behind it must not wait for what only he can start.
        """
        return why_unhealthy(self.page()) if self._hot_module() else None

    def why_not_ready(self) -> list[str]:
        """All reasons why /readyz says no."""
        page = self.page()
        fault = why_unhealthy(page)
        if page is None or fault:
            return [fault or "no page"]
        faults = []
        state = HotState(int(page["hot"][Hot.STATE]))
        if state != HotState.READY:
            faults.append(f"the hot process is {state.name}")
        elif not page["hot"][Hot.CONNECTED]:
            faults.append("a peer is missing")
        if self.side["control"][Control.PAUSED]:
            faults.append("paused")
        return faults + self.not_ready()

    def run(self) -> int:
        """Life of the side process; returns its exit status."""
        die_with_parent()
        try:
            claimed = claim(self.config.run_dir, f"{self.name}.side")
            listener = self._listen()
            self.side = create_side_page(self.config.run_dir, self.name, self.side_fields(self.config))
            self.side["control"][Control.SIDE_PID] = os.getpid()
            self.set_up()
        except (AlreadyRunningError, StartError, ConfigError) as error:
            print(f"{self.name}: {error}", file=sys.stderr)  # noqa: T201 - the user's mistake, said plainly
            return EXIT_USAGE
        if self.config.cores.side:
            try:
                os.sched_setaffinity(0, self.config.cores.side)
            except OSError as error:
                there = sorted(os.sched_getaffinity(0))
                self.log.warning("cores.side refused", cores=self.config.cores.side, why=error.strerror, there=there)
        try:
            with asyncio.Runner(loop_factory=_uvloop) as runner:
                return runner.run(self._serve(listener))
        finally:
            os.close(claimed)

    def _listen(self) -> socket.socket:
        host, port = self.config.admin.host, self.config.http_port(self.name)
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            msg = f"cannot serve HTTP on {host}:{port}: {error.strerror}; choose another {self.name}.http_port"
            raise StartError(msg) from None
        return listener

    def _start_hot(self) -> None:
        self._page = None
        module = self._hot_module()
        if module is None:
            self.log.info("no hot process here: in the fused lane it is started by exec")
            return
        self._hot_since_ns = now_ns()
        environment = {**os.environ, PARENT_ENV: str(os.getpid())}
        self._hot = subprocess.Popen([sys.executable, "-m", module], env=environment)
        self.log.info("hot process started", pid=self._hot.pid, module=module)

    def _hot_module(self) -> str | None:
        """What runs the hot loop of this service in the lane of the configuration; None: another service does."""
        lane = self.config.links.lane
        if lane == "shm" and self.name in SERVICES:
            return f"tickpath.{self.name}.shm"
        if lane == "fused" and self.name in SERVICES:
            return "tickpath.cli.fused.hot" if self.name == "exec" else None
        return f"tickpath.{self.name}.hot"

    async def _serve(self, listener: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        http_config = uvicorn.Config(
            make_app(self), log_config=None, lifespan="off", access_log=False, timeout_graceful_shutdown=_HTTP_END_S
        )
        server = _Server(http_config)
        self._start_hot()
        http = asyncio.create_task(server.serve(sockets=[listener]))
        background = asyncio.create_task(self._background())
        status = await self._watch()
        server.should_exit = True
        await cancel(background)
        await http
        return status

    async def _background(self) -> None:
        try:
            await self.background()
        except asyncio.CancelledError:
            raise
        except Exception:
            # Without its background work (risk: the control lease) the hot process fails closed by itself; what
            # went wrong must be seen.
            self.log.exception("background work ended")
            self._on_signal()

    def _on_signal(self) -> None:
        self._stops += 1
        self.draining = True
        if self._hot is not None and self._hot.poll() is None:
            self._hot.send_signal(signal.SIGTERM)

    async def _watch(self) -> int:
        pause_s = 0.2
        while True:
            self.side["control"][Control.SIDE_GC_COUNT] = sum(of["collections"] for of in gc.get_stats())
            status = self._hot.poll() if self._hot is not None else 0 if self.draining else None
            if status is None:
                await asyncio.sleep(0.05)
                continue
            if self.draining or status == 0:
                self.log.info("hot process ended", status=status)
                return 0 if status == 0 else 1
            if status == EXIT_USAGE or self.restarts >= _MAX_RESTARTS:
                self.log.error("hot process cannot run", status=status, restarts=self.restarts)
                return EXIT_USAGE if status == EXIT_USAGE else 1
            self.restarts += 1
            self.log.error(
                "hot process died; starting it again", status=status, restarts=self.restarts, wait_s=pause_s
            )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)
            if not self.draining:
                self._start_hot()


async def cancel(task: asyncio.Task[None]) -> None:
    """End a task, however often its libraries take the cancellation for a time-out of their own and go on."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_S)


class _Server(uvicorn.Server):
    """Signals are handled in one place, by the service."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - only where a loop is run

    return uvloop.new_event_loop()


def configure_logging() -> None:
    """Structured logs on stderr: readable on a terminal, JSON lines elsewhere."""
    pretty = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def main(service_type: type[Service]) -> int:
    """Entry point of ``python -m tickpath.<service>``."""
    configure_logging()
    try:
        config = load_config()
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the user's mistake, said plainly
        return EXIT_USAGE
    return service_type(config).run()
