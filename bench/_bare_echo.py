"""The bare echo: what the operating system costs when one compiled loop does nothing with the data.

    exchange ─UDP─▶ echo ─TCP─▶ exchange

One process, no Python between the datagram and the order: `recvmmsg`, a look whether the datagram holds one of
`causes` (the messages on which the pipeline sent orders in the run before), and the order, made beforehand, is sent.
No decoding, books, strategy, checks or journal. It waits for input exactly as the fused lane does.

Run by bench/lanes.py: ``_bare_echo.py RUN_DIR MARKET_DATA_PORT ORDER_PORT CORES CAUSES_FILE SYMBOL SPIN_NS``.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from pathlib import Path

import numba
import numpy as np
from numba import int32, int64, types

from tickpath.common import process, udp
from tickpath.common.jit import kernel
from tickpath.common.kernels.itch import be16, be64
from tickpath.common.kernels.net import MESSAGES, DatagramReceiver, receive_batch
from tickpath.common.kernels.waiting import cpu_pause, monotonic_ns, wait_fds
from tickpath.common.protocols import ouch50, soupbintcp
from tickpath.common.records import format_cl_ord_id, pack_cl_ord_id

_SLOT_BYTES = 2048
_DONTWAIT_NOSIGNAL = 0x40 | 0x4000
_END_OF_SESSION = 0xFFFF
ENTER_BYTES = 50  # an Enter Order in its packet

_send = types.ExternalFunction("send", types.intp(types.int32, types.intp, types.uintp, types.int32))
_recv = types.ExternalFunction("recv", types.intp(types.int32, types.intp, types.uintp, types.int32))


@kernel(
    int64(
        int64, int64, numba.uint8[:, ::1], MESSAGES, int64[::1], int64[::1], numba.uint8[:, ::1], int64[::1], int64,
        int64, numba.uint8[::1],
    )
)  # fmt: skip
def echo(market, venue, buffer, messages, lengths, causes, orders, state, spin_ns, until_ns, scratch):
    """Until `until_ns`; -1 when the venue is gone. `state`: next cause, datagrams with messages, bytes received."""
    worked_ns = monotonic_ns()
    flat = buffer.reshape(buffer.size)
    while True:
        n = receive_batch(market, messages, lengths)
        for i in range(n):
            at = i * buffer.shape[1]
            count = be16(flat, at + 18)
            if count == _END_OF_SESSION:
                continue
            if count:
                state[1] += 1
            first = be64(flat, at + 10)
            past = first + count
            while state[0] < len(causes) and causes[state[0]] < past:
                if causes[state[0]] >= first:
                    _send(int32(venue), orders[state[0]].ctypes.data, orders.shape[1], _DONTWAIT_NOSIGNAL)
                state[0] += 1
        now = monotonic_ns()
        if n > 0:
            worked_ns = now
            continue
        got = _recv(int32(venue), scratch.ctypes.data, len(scratch), 0x40)
        if got == 0:
            return -1
        state[2] += max(got, 0)
        if now >= until_ns:
            return 0
        if spin_ns < 0 or now - worked_ns < spin_ns:
            cpu_pause()
        else:
            wait_fds(market, venue, until_ns - now)


def main() -> None:
    """Echo; SIGTERM ends it."""
    run_dir, market_data_port, order_port, cores, causes_file, symbol, spin_ns = sys.argv[1:8]
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    process.die_with_parent()
    process.widen()
    setup = process.Setup()
    process.renice(setup, -10)
    process.pin(setup, tuple(int(core) for core in cores.split(",") if core))
    causes = np.load(causes_file)
    packets = []
    for number, cause in enumerate(causes.tolist(), start=1):
        cl_ord_id = format_cl_ord_id(pack_cl_ord_id(1, 0, cause, 0)).decode()
        message = ouch50.ENTER_ORDER.encode(
            user_ref_num=number, side="B", quantity=1, symbol=symbol, price=1, time_in_force="3", display="Y",
            capacity="P", iso="N", cross_type="N", cl_ord_id=cl_ord_id,
        )  # fmt: skip
        packets.append(soupbintcp.packet(ord("U"), message))
    orders = np.frombuffer(b"".join(packets), np.uint8).reshape(len(causes), ENTER_BYTES).copy()
    market, _ = udp.open_udp_socket("127.0.0.1", int(market_data_port), 32 << 20)
    receiver = DatagramReceiver(market.fileno(), 64, _SLOT_BYTES)
    venue = socket.create_connection(("127.0.0.1", int(order_port)))
    venue.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    venue.sendall(soupbintcp.encode_login_request("BARE", "", sequence=0))
    state, scratch = np.zeros(3, np.int64), np.zeros(1 << 16, np.uint8)
    process.lock_memory(setup)
    gc.collect()
    gc.freeze()
    gc.disable()
    Path(run_dir, "bare.echo").touch()
    while True:
        done = echo(
            market.fileno(), venue.fileno(), receiver.buffer, receiver.messages, receiver.lengths, causes, orders,
            state, int(spin_ns), monotonic_ns() + 500_000_000, scratch,
        )  # fmt: skip
        if done < 0:
            return
        venue.send(soupbintcp.packet(ord("R")))
        Path(run_dir, "bare.received").write_text(str(int(state[1])), "ascii")


if __name__ == "__main__":
    main()
