"""The chain over a tape, against the offline exchange: of this alone the fused lane needs the exchange's code.

Live, nothing of this is imported, so that an image which trades holds no exchange.
"""

from __future__ import annotations

from numba import int64

from tickpath.cli.fused.kernels.chain import WORDS, advance, take_datagram
from tickpath.cli.fused.layout import Why
from tickpath.common.jit import kernel
from tickpath.common.kernels.memory import bytes_at
from tickpath.exec.kernels import session
from tickpath.exec.layout import Reg as ExecReg
from tickpath.feed.kernels.decode import STATE
from tickpath.sim.kernels.entry import N_BYTES, N_REPORTS
from tickpath.sim.kernels.matching import EXCH_NS
from tickpath.sim.kernels.offline import REPLAY, next_datagram, take_orders


@kernel(int64(WORDS, WORDS, WORDS, STATE, REPLAY))
def replay(w, risk_ctx, exec_ctx, feed, exchange):
    """The whole tape against the offline exchange, in the exchange's time; returns a `Why`, END at its end.

    The steps are those of the exchange's lockstep: a datagram, the orders that it causes, the reports of both.
    """
    desk = exchange.desk
    while True:
        now_ns = max(1, exchange.exchange.state[EXCH_NS])
        why = advance(w, risk_ctx, exec_ctx, now_ns)
        if why != Why.IDLE:
            return why
        if exec_ctx[ExecReg.SEND_TAIL] > 0:
            size = exec_ctx[ExecReg.SEND_TAIL]
            done = take_orders(exchange, exec_ctx[ExecReg.SEND], size, now_ns)
            send = bytes_at(exec_ctx[ExecReg.SEND], size)
            for i in range(size - done):  # no room for more answers until these are taken
                send[i] = send[done + i]
            exec_ctx[ExecReg.SEND_TAIL] = size - done
        if desk.words[N_BYTES] > 0:
            if exec_ctx[ExecReg.FILLED] == 0:
                exec_ctx[ExecReg.FILLED] = desk.words[N_BYTES]
            got = session.apply_received(exec_ctx, now_ns)
            if exec_ctx[ExecReg.FILLED] == 0:
                desk.words[N_BYTES] = 0
                desk.words[N_REPORTS] = 0
            if got == session.Leave.SESSION:
                return int64(Why.SESSION)
            continue
        n = next_datagram(exchange)
        if n <= 0:
            return int64(Why.END) if n == 0 else int64(Why.ROOM)
        now_ns = max(1, exchange.exchange.state[EXCH_NS])
        take_datagram(w, risk_ctx, feed, exchange.datagram, exchange.lengths, 0, 0, now_ns, now_ns)
