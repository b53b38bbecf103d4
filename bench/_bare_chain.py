"""The bare chain: what the operating system, Python and ZeroMQ cost when nothing is done with the data.

As many processes and ZeroMQ hops as the pipeline has, UDP in and TCP out, forwarding the bytes as they came::

    exchange ─UDP─▶ feed ═PUB/SUB═▶ signals ──PUSH/PULL──▶ risk ──PUSH/PULL──▶ exec ─TCP─▶ exchange
                      ╚═══════════PUB/SUB (marks)═══════════▲

No decoding, no books, no sequence, no acknowledgement, no journal. Every datagram goes over the fan-out to both of
its readers, as ticks do. ``signals`` passes on those datagrams that hold a message out of `causes`, the numbers of
the messages on which the pipeline sent orders in the run before, and ``exec`` sends one order of the same size for
each of them. All four are started with the niceness, the locked memory and the cores of the pipeline's hot processes.

Run by bench/pipeline.py: ``python bench/_bare_chain.py STAGE RUN_DIR MARKET_DATA_PORT ORDER_PORT CORES CAUSES_FILE
SYMBOL``.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import numpy as np
import zmq

from tickpath.common import process, udp
from tickpath.common.protocols import ouch50, soupbintcp
from tickpath.common.records import format_cl_ord_id, pack_cl_ord_id

_SPAN = struct.Struct(">QH")  # first number and count of a MoldUDP64 packet, at byte 10


def _begin(cores: tuple[int, ...]) -> zmq.Context[zmq.Socket[bytes]]:
    """The same start as a hot process of the pipeline."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # without waiting for peers that are gone
    process.die_with_parent()
    process.widen()
    setup = process.Setup()
    process.renice(setup, -10)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    context.socket(zmq.PAIR).close()  # starts the I/O thread: before this one is pinned, as the pipeline does
    process.pin(setup, cores)
    process.lock_memory(setup)
    gc.collect()
    gc.freeze()
    gc.disable()
    return context


def _connected(context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    if kind == zmq.SUB:
        made.setsockopt(zmq.SUBSCRIBE, b"")
    made.connect(address)
    return made


def feed(context: zmq.Context[zmq.Socket[bytes]], run_dir: str, port: int) -> None:
    """UDP to PUB, a datagram at a time."""
    receiver, _ = udp.open_udp_socket("127.0.0.1", port, 32 << 20)
    receiver.setblocking(True)
    pub = context.socket(zmq.PUB)
    pub.setsockopt(zmq.SNDHWM, 0)
    pub.bind(f"ipc://{run_dir}/bare.ticks")
    buffer = bytearray(2048)
    view = memoryview(buffer)
    Path(run_dir, "bare.feed").touch()
    while True:
        n = receiver.recv_into(buffer)
        pub.send(view[:n])


def signals(context: zmq.Context[zmq.Socket[bytes]], run_dir: str, causes: np.ndarray) -> None:
    """SUB to PUSH: the datagrams with a cause in them."""
    sub = _connected(context, zmq.SUB, f"ipc://{run_dir}/bare.ticks")
    push = context.socket(zmq.PUSH)
    push.bind(f"ipc://{run_dir}/bare.signals")
    wanted, at, end = causes.tolist(), 0, len(causes)
    Path(run_dir, "bare.signals.up").touch()
    while at < end:
        datagram = sub.recv()
        first, count = _SPAN.unpack_from(datagram, 10)
        past = first + count
        hit = False
        while at < end and wanted[at] < past:
            hit = hit or wanted[at] >= first
            at += 1
        if hit and count != 0xFFFF:
            push.send(datagram)
    while True:
        sub.recv()


def risk(context: zmq.Context[zmq.Socket[bytes]], run_dir: str) -> None:
    """PULL to PUSH, with the marks beside it."""
    sub = _connected(context, zmq.SUB, f"ipc://{run_dir}/bare.ticks")
    pull = _connected(context, zmq.PULL, f"ipc://{run_dir}/bare.signals")
    push = context.socket(zmq.PUSH)
    push.bind(f"ipc://{run_dir}/bare.orders")
    poller = zmq.Poller()
    poller.register(sub, zmq.POLLIN)
    poller.register(pull, zmq.POLLIN)
    Path(run_dir, "bare.risk").touch()
    while True:
        ready = dict(poller.poll())
        if pull in ready:
            push.send(pull.recv())
        if sub in ready:
            sub.recv()


def exec_(context: zmq.Context[zmq.Socket[bytes]], run_dir: str, port: int, causes: np.ndarray, symbol: str) -> None:
    """PULL to TCP: one Enter Order for each cause in the datagram."""
    pull = _connected(context, zmq.PULL, f"ipc://{run_dir}/bare.orders")
    orders = {}
    for number, cause in enumerate(causes.tolist(), start=1):
        cl_ord_id = format_cl_ord_id(pack_cl_ord_id(1, 0, cause, 0)).decode()
        message = ouch50.ENTER_ORDER.encode(
            user_ref_num=number, side="B", quantity=1, symbol=symbol, price=1, time_in_force="3", display="Y",
            capacity="P", iso="N", cross_type="N", cl_ord_id=cl_ord_id,
        )  # fmt: skip
        orders[cause] = soupbintcp.packet(ord("U"), message)
    session = socket.create_connection(("127.0.0.1", port))
    session.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session.sendall(soupbintcp.encode_login_request("BARE", "", sequence=0))
    session.setblocking(False)
    answers = selectors.DefaultSelector()
    answers.register(session, selectors.EVENT_READ)
    pull.setsockopt(zmq.RCVTIMEO, 500)
    Path(run_dir, "bare.exec").touch()
    said = time.monotonic()
    while True:
        try:
            datagram = pull.recv()
        except zmq.Again:
            datagram = b""
        if datagram:
            first, count = _SPAN.unpack_from(datagram, 10)
            for cause in range(first, first + count):
                if cause in orders:
                    session.send(orders[cause])
        if time.monotonic() - said > 0.5:
            said = time.monotonic()
            session.send(soupbintcp.packet(ord("R")))
            while answers.select(0):
                if not session.recv(1 << 16):
                    return


def main() -> None:
    """Start one stage; SIGTERM ends it."""
    stage, run_dir, market_data_port, order_port, cores, causes_file, symbol = sys.argv[1:8]
    context = _begin(tuple(int(core) for core in cores.split(",") if core))
    causes = np.load(causes_file)
    if stage == "feed":
        feed(context, run_dir, int(market_data_port))
    elif stage == "signals":
        signals(context, run_dir, causes)
    elif stage == "risk":
        risk(context, run_dir)
    else:
        exec_(context, run_dir, int(order_port), causes, symbol)


if __name__ == "__main__":
    main()
