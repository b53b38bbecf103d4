"""The chain over a tape, against the offline exchange: of this alone the fused lane needs the exchange's code.

Live, nothing of this is imported, so that an image which trades holds no exchange.
"""

from __future__ import annotations

from numba import int64

from tickpath.cli.fused.kernels.ahead import AHEAD, next_step, take_step
from tickpath.cli.fused.kernels.chain import WORDS, advance, take_ticks
from tickpath.cli.fused.layout import Reg, Why
from tickpath.common.jit import kernel
from tickpath.common.kernels.memory import bytes_at
from tickpath.exec.kernels import session
from tickpath.exec.layout import Reg as ExecReg
from tickpath.sim.kernels.entry import ANSWERS, N_BYTES, N_REPORTS
from tickpath.sim.kernels.matching import EXCH_NS
from tickpath.sim.kernels.offline import REPLAY, play_until, take_orders


@kernel(int64(WORDS, WORDS, WORDS, AHEAD, REPLAY))
def replay(w, risk_ctx, exec_ctx, ahead, exchange):
    """The whole tape against the offline exchange, in the exchange's time; returns a `Why`, END at its end.

    The steps are those of the exchange's lockstep: a datagram, the orders that it causes, the reports of both. The
    ticks of each come from the thread in `decode_ahead`.
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
        if desk.words[N_REPORTS] > ANSWERS:
            return int64(Why.ROOM)
        n = 0
        while n == 0 and desk.words[N_BYTES] == 0:  # the chain has nothing to do at most steps
            block, step = next_step(ahead)
            if block < 0:
                return int64(Why.END)
            play_until(exchange, ahead.lasts[block, step])
            first = ahead.ends[block, step - 1] if step > 0 else 0
            n = ahead.ends[block, step] - first
            take_step(ahead)
            if n > 0:
                now_ns = max(1, exchange.exchange.state[EXCH_NS])
                ticks = ahead.ticks[block, first : first + n]
                for k in range(n):
                    ticks[k].recv_ns = now_ns
                w[Reg.TICKS] = ticks.ctypes.data
                take_ticks(w, risk_ctx, n, now_ns, now_ns)
