"""The acceptor of both sides: reads orders (FIX text or OUCH 5.0), stamps their arrival, answers each with a fill.

A process of its own that never sleeps, so that the stamp is the moment when the bytes are there and not when an idle
core woke up: ``venue.py STAMPS_FILE`` prints its port and runs until its standard input is closed. The protocol of a
connection is told by its first byte. STAMPS_FILE is int64[2, 1 + STAMPS]: for each protocol how many orders have
arrived, then their times (CLOCK_MONOTONIC, ns; order i at ``i % STAMPS``).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

import numpy as np

from tickpath.common.process import die_with_parent
from tickpath.common.protocols import ouch50, soupbintcp

FIX: Final = 0
OUCH: Final = 1
STAMPS: Final = 1 << 16
ENTER_BYTES: Final = 50
_CHECKSUM: Final = b"\x0110="

_ACCEPTED: Final = soupbintcp.packet(
    soupbintcp.SEQUENCED,
    ouch50.ORDER_ACCEPTED.encode(
        appendage={}, timestamp=1, user_ref_num=0, side="B", quantity=0, symbol="AAPL", price=0, time_in_force="3",
        display="Y", order_reference_number=1, capacity="P", iso="N", cross_type="N", order_state="L", cl_ord_id=b"",
    ),
)  # fmt: skip
_EXECUTED: Final = soupbintcp.packet(
    soupbintcp.SEQUENCED,
    ouch50.ORDER_EXECUTED.encode(
        appendage={}, timestamp=1, user_ref_num=0, quantity=0, price=0, liquidity_flag="R", match_number=1
    ),
)
_U32: Final = struct.Struct(">I")
_REF_QTY_PRICE: Final = struct.Struct(">IIQ")


def answer_ouch(orders: bytes) -> bytes:
    """Accepted and Executed, in full at the limit, for every Enter Order packet in `orders`.

    Places in `_ACCEPTED` and `_EXECUTED` count from their packet's start, three bytes before the message.
    """
    out = bytearray((_ACCEPTED + _EXECUTED) * (len(orders) // ENTER_BYTES))
    at = 0
    for begin in range(0, len(orders), ENTER_BYTES):
        ref, quantity = _U32.unpack_from(orders, begin + 4)[0], _U32.unpack_from(orders, begin + 9)[0]
        price = _U32.unpack_from(orders, begin + 25)[0]
        _U32.pack_into(out, at + 12, ref)
        _U32.pack_into(out, at + 17, quantity)
        at += len(_ACCEPTED)
        _REF_QTY_PRICE.pack_into(out, at + 12, ref, quantity, price)
        at += len(_EXECUTED)
    return bytes(out)


def answer_fix(order: bytes) -> bytes:
    """Execution Report of a New Order Single: filled at the limit."""
    fields = dict(item.split(b"=", 1) for item in order.rstrip(b"\x01").split(b"\x01"))
    body = (
        b"35=8\x0149=VENUE\x0156=TICKPT\x0111=%b\x0139=2\x01150=F\x0155=%b\x0154=%b\x0132=%b\x0131=%b\x01151=0\x01"
        % (fields[b"11"], fields[b"55"], fields[b"54"], fields[b"38"], fields[b"44"])
    )
    raw = b"8=FIX.4.4\x019=%d\x01" % len(body) + body
    return raw + b"10=%03d\x01" % (sum(raw) % 256)


class _Connection:
    def __init__(self, raw: socket.socket, stamps: np.ndarray) -> None:
        self.socket = raw
        self.stamps = stamps
        self.buffer = b""

    def take(self) -> bool:
        """Read what is there, stamp and answer whole orders; False at the end."""
        data = self.socket.recv(1 << 18)
        now = time.monotonic_ns()
        if not data:
            return False
        self.buffer += data
        kind = FIX if self.buffer[:1] == b"8" else OUCH
        row = self.stamps[kind]
        if kind == OUCH:
            whole = len(self.buffer) // ENTER_BYTES
            orders, self.buffer = self.buffer[: whole * ENTER_BYTES], self.buffer[whole * ENTER_BYTES :]
            self._stamp(row, whole, now)
            answer = answer_ouch(orders)
        else:
            answer, n = b"", 0
            while (at := self.buffer.find(_CHECKSUM)) >= 0 and len(self.buffer) >= at + 8:
                order, self.buffer = self.buffer[: at + 8], self.buffer[at + 8 :]
                answer += answer_fix(order)
                n += 1
            self._stamp(row, n, now)
        if answer:
            self.socket.sendall(answer)
        return True

    @staticmethod
    def _stamp(row: np.ndarray, n: int, now_ns: int) -> None:
        count = int(row[0])
        for i in range(count, count + n):
            row[1 + i % STAMPS] = now_ns
        row[0] = count + n


def serve(path: Path) -> None:
    """Serve until standard input ends."""
    die_with_parent()
    stamps = np.memmap(path, np.int64, "r+", shape=(2, 1 + STAMPS))
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    events = select.epoll()
    events.register(listener.fileno(), select.EPOLLIN)
    events.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
    connections: dict[int, _Connection] = {}
    while True:
        for descriptor, _ in events.poll(0):
            if descriptor == listener.fileno():
                raw, _ = listener.accept()
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[raw.fileno()] = _Connection(raw, stamps)
                events.register(raw.fileno(), select.EPOLLIN)
            elif descriptor in connections:
                if not connections[descriptor].take():
                    events.unregister(descriptor)
                    connections.pop(descriptor).socket.close()
            else:
                return


class Venue:
    """The venue as a child process; a context manager."""

    def __init__(self, folder: Path) -> None:
        path = folder / "stamps"
        with path.open("wb") as file:
            file.truncate(2 * (1 + STAMPS) * 8)
        self.stamps = np.memmap(path, np.int64, "r", shape=(2, 1 + STAMPS))
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        self.address = ("127.0.0.1", int(self._process.stdout.readline()))

    def arrived(self, kind: int) -> int:
        """Orders that have arrived so far."""
        return int(self.stamps[kind, 0])

    def stamp_ns(self, kind: int, index: int) -> int:
        """When order `index` of a protocol arrived."""
        return int(self.stamps[kind, 1 + index % STAMPS])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - pipes
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    serve(Path(sys.argv[1]))
