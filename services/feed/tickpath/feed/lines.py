"""The sockets of a market data channel: lines A and B, and the one that missing messages are asked for with."""

from __future__ import annotations

import select
import socket
import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from tickpath.common.config import FeedConfig
from tickpath.common.histogram import HIST_SIZE
from tickpath.common.kernels.net import DatagramReceiver
from tickpath.common.process import StartError
from tickpath.common.udp import UdpError, open_udp_socket
from tickpath.feed.kernels.receive import N_LINES, N_WORDS, LineReg
from tickpath.feed.layout import Line, LineWord

SLOT_BYTES: Final = 2048
_SO_TIMESTAMPNS: Final = 35
_SO_BUSY_POLL: Final = 46
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8  # index of the dropped datagrams in what SO_MEMINFO gives
_LATE_ANSWERS: Final = 4096  # most that are dropped at once
_REPAIR_BUFFER_BYTES: Final = 4 << 20

Words = npt.NDArray[np.int64]


class Lines:
    """Rows ``line * batch`` to ``(line + 1) * batch - 1`` of the receiver belong to a line.

    `words` are for compiled loops. `stats` is ``lines`` of feed's page, `waits` its histogram of the system's stamps.
    """

    def __init__(self, options: FeedConfig, stats: Words, waits: Words) -> None:
        """Raises StartError."""
        self.options = options
        self.stats = stats
        self.sockets: dict[Line, socket.socket] = {}
        self.words: Words = np.zeros(N_WORDS, dtype=np.int64)
        self.words[:N_LINES] = -1
        self.words[LineReg.BATCH] = options.batch
        self.receiver = DatagramReceiver(-1, options.batch * len(Line), SLOT_BYTES)
        self._waits_words = np.zeros(HIST_SIZE + 2, dtype=np.int64)
        self._waits = waits
        try:
            self._open(Line.A, options.host, options.port, options.interface, "feed.host, feed.port")
            if options.line_b_port is not None:
                self._open(
                    Line.B, options.line_b_host, options.line_b_port, options.line_b_interface,
                    "feed.line_b_host, feed.line_b_port",
                )  # fmt: skip
            if options.retransmission_port is not None:
                self._connect(options.retransmission_host, options.retransmission_port)
        except StartError:
            self.close()
            raise
        if options.kernel_stamps:
            self.receiver.ask_for_stamps()
            self.words[LineReg.WAITS] = self._waits_words.ctypes.data
        self._epoll: select.epoll | None = None
        self.words[LineReg.WAIT_FD] = self.sockets[Line.A].fileno()
        if len(self.sockets) > 1:
            self._epoll = select.epoll()
            for one in self.sockets.values():
                self._epoll.register(one.fileno(), select.EPOLLIN)
            self.words[LineReg.WAIT_FD] = self._epoll.fileno()

    def _open(self, line: Line, host: str, port: int, interface: str, keys: str) -> None:
        try:
            opened, granted = open_udp_socket(host, port, self.options.rcvbuf_bytes, interface=interface)
        except UdpError as error:
            msg = f"{error} ({keys})"
            raise StartError(msg) from None
        self._keep(line, opened)
        self.stats[line, LineWord.RECEIVE_BUFFER_BYTES] = granted

    def _keep(self, line: Line, opened: socket.socket) -> None:
        self.sockets[line] = opened
        self.words[LineReg.FDS + line] = opened.fileno()
        try:
            if self.options.kernel_stamps:
                opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            if self.options.busy_poll_us:
                opened.setsockopt(socket.SOL_SOCKET, _SO_BUSY_POLL, self.options.busy_poll_us)
        except OSError as error:
            msg = (
                f"feed.busy_poll_us = {self.options.busy_poll_us}: {error.strerror};"
                " above net.core.busy_read it needs CAP_NET_ADMIN"
            )
            raise StartError(msg) from None

    def _connect(self, host: str, port: int) -> None:
        """The socket of requests: the answers come back to it, and from nobody else."""
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            asking.setblocking(False)
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _REPAIR_BUFFER_BYTES)
            asking.connect((host, port))
        except OSError as error:
            asking.close()
            msg = f"cannot ask {host}:{port} for missing messages: {error} (feed.retransmission_host, _port)"
            raise StartError(msg) from None
        self._keep(Line.REPAIR, asking)

    def warnings(self) -> list[str]:
        """What the system did not grant."""
        wanted = self.options.rcvbuf_bytes  # the system counts double what it is asked for
        granted = {line: int(self.stats[line, LineWord.RECEIVE_BUFFER_BYTES]) // 2 for line in self.sockets}
        return [
            f"line {line.name}: the receive buffer has {size} bytes and not {wanted} (feed.rcvbuf_bytes):"
            " raise net.core.rmem_max or give CAP_NET_ADMIN"
            for line, size in granted.items()
            if 0 < size < wanted
        ]

    def ask(self, request: bytes) -> bool:
        """Send a request for missing messages; False when it cannot be sent now."""
        try:
            return self.sockets[Line.REPAIR].send(request) == len(request)
        except (OSError, KeyError):  # nobody listens there, or no room: the next attempt comes by itself
            return False

    def forget_answers(self) -> None:
        """Nothing is missing: what still comes on requests is late, or an error of the last one.

        The loops read it only while something is missing, and would not sleep as long as it is there.
        """
        asking = self.sockets.get(Line.REPAIR)
        for _ in range(_LATE_ANSWERS if asking is not None else 0):
            try:
                asking.recv(1)  # type: ignore[union-attr]
            except BlockingIOError:
                return
            except OSError:  # nobody listens there
                continue

    def tend(self) -> None:
        """Read what the system counts, and move the waits to the page."""
        for line, one in self.sockets.items():
            info = one.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
            drops = struct.unpack_from("=I", info, 4 * _MEMINFO_DROPS)[0] if len(info) == 36 else 0
            self.stats[line, LineWord.KERNEL_DROPS] = drops
        if self.words[LineReg.WAITS]:
            self._waits[:] = self._waits_words[:HIST_SIZE]

    def close(self) -> None:
        """Close the sockets."""
        for one in self.sockets.values():
            one.close()
