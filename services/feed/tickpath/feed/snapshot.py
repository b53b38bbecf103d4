"""The client of the snapshot server: logs in over SoupBinTCP and loads the books that it sends."""

from __future__ import annotations

import errno
import os
import socket
from enum import Enum
from typing import Final

import numpy as np

from tickpath.common.config import FeedConfig
from tickpath.common.kernels.book import clear
from tickpath.common.protocols.soupbintcp import encode_login_request
from tickpath.feed.kernels import snapshot as kernels
from tickpath.feed.kernels.decode import State
from tickpath.feed.layout import Channel

_BUFFER_BYTES: Final = 1 << 20
_ACCEPTED, _REJECTED = b"A", b"J"
_ACCEPTED_BYTES: Final = 33


class Progress(Enum):
    """Where a snapshot stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    LOADING = "loading"  # logged in: the old books are gone
    DONE = "done"
    FAILED = "failed"


class Snapshot:
    """One snapshot after the other; never waits. `why` tells of the last failure."""

    def __init__(self, options: FeedConfig, state: State) -> None:
        self._options = options
        self._state = state
        self._socket: socket.socket | None = None
        self._data = np.zeros(_BUFFER_BYTES, dtype=np.uint8)
        self._view = memoryview(self._data)  # type: ignore[arg-type]
        self._size = 0
        self._began_ns = 0
        self._asked = False
        self.progress = Progress.IDLE
        self.why = ""
        self.cleared = False  # the old books are gone

    @property
    def active(self) -> bool:
        """Whether one is under way."""
        return self.progress in (Progress.CONNECTING, Progress.LOADING)

    def start(self, now: int) -> None:
        """Begin; FAILED at once when that is impossible."""
        self._began_ns, self._size, self._asked, self.why = now, 0, False, ""
        self.cleared = False
        self._state.channel[Channel.SNAPSHOT_SEQ] = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self.progress = Progress.CONNECTING
        error = self._socket.connect_ex((self._options.snapshot_host, self._options.snapshot_port))
        if error not in (0, errno.EINPROGRESS):
            self._fail(os.strerror(error))

    def turn(self, now: int) -> Progress:
        """Do what can be done without waiting."""
        if self.active and now - self._began_ns > self._options.snapshot_timeout_ms * 1_000_000:
            self._fail(f"no end after {self._options.snapshot_timeout_ms} ms (feed.snapshot_timeout_ms)")
        if self.active and self._socket is not None:
            try:
                self._step(self._socket)
            except BlockingIOError:
                pass
            except OSError as error:
                self._fail(error.strerror or str(error))
        return self.progress

    def _step(self, connection: socket.socket) -> None:
        if not self._asked:
            connection.send(encode_login_request(self._options.snapshot_username, ""))
            self._asked = True
        n = connection.recv_into(self._view[self._size :])
        if n == 0:
            self._fail("the server closed the connection before the end")
            return
        self._size += n
        if self.progress is Progress.CONNECTING and not self._accepted():
            return
        done = int(kernels.load(self._state, self._data, self._size))
        if done == kernels.MALFORMED or (done == 0 and self._size == _BUFFER_BYTES):
            self._fail("what came is no snapshot")
            return
        self._data[: self._size - done] = self._data[done : self._size].copy()
        self._size -= done
        if self._state.channel[Channel.SNAPSHOT_SEQ]:
            self._close(Progress.DONE)

    def _accepted(self) -> bool:
        """Whether the answer to the login is there and good; then the books are cleared."""
        if self._size >= 3 and self._view[2:3] == _REJECTED:
            self._fail("the login was refused (feed.snapshot_username)")
        if self._size < _ACCEPTED_BYTES or self.progress is Progress.FAILED:
            return False
        if self._view[2:3] != _ACCEPTED:
            self._fail("the answer to the login is no SoupBinTCP")
            return False
        self._data[: self._size - _ACCEPTED_BYTES] = self._data[_ACCEPTED_BYTES : self._size].copy()
        self._size -= _ACCEPTED_BYTES
        clear(self._state.book)
        self._state.halted[:] = 0
        self.progress, self.cleared = Progress.LOADING, True
        return True

    def _fail(self, why: str) -> None:
        self.why = f"snapshot server {self._options.snapshot_host}:{self._options.snapshot_port}: {why}"
        self._close(Progress.FAILED)

    def _close(self, progress: Progress) -> None:
        self.progress = progress
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Let go of the connection."""
        self._close(Progress.IDLE)
