"""exec's loop over rings: orders from their ring to the venue, the journal into the rings of reports."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

import numba
from numba import int64, types

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.atomics import load_acquire, load_relaxed, stack_words, store_relaxed, store_release
from tickpath.common.kernels.memory import orders_at
from tickpath.common.kernels.ring import ack, publish, published, readable, record_at, room, set_log
from tickpath.common.kernels.waiting import Wait, monotonic_ns, pause, ring_bell
from tickpath.common.pages import Hot
from tickpath.common.records import REPORT
from tickpath.exec.kernels import session
from tickpath.exec.kernels.ouch import accept
from tickpath.exec.layout import Reg


class Word(IntEnum):
    """The words of the loop, int64[len(Word) + 1]; `Reg` are those of the kernels that it calls."""

    # ring of orders: address (0: not there), our slot, next number
    ORDERS_RING = auto()
    ORDERS_SLOT = auto()
    ORDERS_NEXT = auto()
    ACKED = auto()  # last order that was acknowledged
    RISK_REPORTS = auto()  # the two rings that ship the journal
    SIGNALS_REPORTS = auto()
    LOG_EPOCH = auto()  # of the journal
    LOG_END = auto()  # what the rings say of its length
    BELLS = auto()
    WAITER = auto()
    RISK_BELL = auto()
    VENUE_FD = auto()  # -1 while the gateway has it for itself
    SYNC = auto()  # 1: nothing leaves before the journal is on disk, which is Python's to do
    SYNCED_SEQ = auto()  # entries before this one are
    HELD = auto()  # 1: the journal has no room; Python tries again
    EPOLL = auto()  # of the watcher
    ARMED = auto()  # 1: the watcher will ring our bell when the venue has something
    STOP = auto()  # 1: the watcher is to end
    TURNS = auto()
    HOT = auto()


class Why(IntEnum):
    """Why the loop returned."""

    IDLE = 0  # nothing came in the time that it was given
    TIME = 1
    JOURNAL = 2  # the journal's segment is full
    SYNC = 3  # the journal has to be written to disk, then the send buffer to the socket
    SEND = 4  # bytes wait in the send buffer for Python
    FLUSH = 5  # the socket did not take everything
    SESSION = 6  # the venue said something that the gateway has to deal with
    QUERY = 7  # ... the answer to an Account Query
    VENUE = 8  # the socket is the gateway's at the moment, and there is something
    REPORTS = 9  # journal entries of an older segment have to be shipped


_REPORT_BYTES: Final = REPORT.itemsize
_BATCH: Final = 64  # orders that leave in one packet at most
_EPOLL_CTL_MOD: Final = 3
_EPOLLIN_ONESHOT: Final = 0x4000_0001
_WATCH_MS: Final = 100

_epoll_ctl = types.ExternalFunction("epoll_ctl", types.int32(types.int32, types.int32, types.int32, types.intp))
_epoll_wait = types.ExternalFunction("epoll_wait", types.int32(types.int32, types.intp, types.int32, types.int32))


@inlined
def _orders(w, ctx, n, now_ns):
    """Journal and encode the next `n` orders where they are; how many there was room for."""
    store_release(w[Word.HOT], Hot.BUSY, 1)
    done = accept(ctx, orders_at(record_at(w[Word.ORDERS_RING], w[Word.ORDERS_NEXT]), n), now_ns)
    w[Word.ORDERS_NEXT] += done
    return done


@inlined
def _ship(w, ctx, ring, end):
    """The journal up to `end` into a ring of reports, as far as it has room. False: it begins in an older segment."""
    first = published(ring) + 1
    if first >= end:
        return True
    begin = ctx[Reg.SEGMENT_FIRST]
    if first < begin:
        return room(ring) == 0
    publish(ring, w[Word.BELLS], ctx[Reg.SEGMENT] + (first - begin) * _REPORT_BYTES, end - first)
    return True


@inlined
def _tell(w, ctx):
    """Acknowledge what is in the journal, and ship the journal. False when an older segment has to be shipped.

    The rings say first how long the journal is: who sees an order acknowledged can then know whether it has seen the
    order's report. And reports come last, because they wake risk, which is to find the acknowledgement.
    """
    end = w[Word.SYNCED_SEQ] if w[Word.SYNC] else ctx[Reg.NEXT_SEQ]
    if end != w[Word.LOG_END]:
        w[Word.LOG_END] = end
        set_log(w[Word.RISK_REPORTS], w[Word.LOG_EPOCH], end)
        set_log(w[Word.SIGNALS_REPORTS], w[Word.LOG_EPOCH], end)
    if w[Word.ORDERS_NEXT] - 1 > w[Word.ACKED]:
        w[Word.ACKED] = w[Word.ORDERS_NEXT] - 1
        ack(w[Word.ORDERS_RING], w[Word.BELLS], w[Word.ORDERS_SLOT], w[Word.ACKED])
        if published(w[Word.RISK_REPORTS]) + 1 >= end:  # nothing new in the journal: a repeated order, a late cancel
            ring_bell(w[Word.BELLS], w[Word.RISK_BELL])
    shipped = _ship(w, ctx, w[Word.RISK_REPORTS], end)
    return _ship(w, ctx, w[Word.SIGNALS_REPORTS], end) and shipped


@inlined
def _arm(w, fd):
    """Have our bell rung when there is something at `fd`, or is already."""
    event = stack_words(2)  # struct epoll_event: u32 events, then the data; packed on x86 only
    store_relaxed(event, 0, _EPOLLIN_ONESHOT)
    store_relaxed(event, 1, 0)
    store_release(w, Word.ARMED, 1)
    _epoll_ctl(numba.int32(w[Word.EPOLL]), _EPOLL_CTL_MOD, numba.int32(fd), event)


@kernel(int64(int64, int64, int64))
def watch(w, bells, bell):
    """The watcher's thread: ring `bell` when there is something at the venue's socket, once for each `_arm`.

    `w`: address of the words. A loop can sleep on a futex or on sockets, and not on both. Its orders come by futex,
    because that is the shorter way; so the socket, from which reports come, has a thread that sleeps there. It costs
    a wake-up per rest of the loop, and nothing while the loop is busy.
    """
    events = stack_words(2)
    while load_acquire(w, Word.STOP) == 0:
        if _epoll_wait(numba.int32(load_acquire(w, Word.EPOLL)), events, 1, _WATCH_MS) > 0:
            store_release(w, Word.ARMED, 0)
            ring_bell(bells, bell)
    return 0


@kernel(int64(numba.int64[::1], numba.int64[::1], int64, int64))
def loop(w, ctx, gateway_fd, until_ns):
    """Work until `until_ns`, or until a sleep has ended and nothing had come; returns a `Why`.

    `w`: int64[len(Word) + 1], `ctx`: the context block of exec's kernels, `gateway_fd`: `Gateway.fileno`. An order is
    acknowledged when it is in the journal and was given to the socket.
    """
    worked = int64(Why.IDLE)
    slept = False
    while True:
        n = int64(0)
        done = int64(0)
        if w[Word.ORDERS_RING] and not w[Word.HELD]:
            n = min(readable(w[Word.ORDERS_RING], w[Word.ORDERS_NEXT]), _BATCH)
        now_ns = monotonic_ns()
        if n:
            done = _orders(w, ctx, n, now_ns)
        if w[Word.SYNC] and ctx[Reg.NEXT_SEQ] > w[Word.SYNCED_SEQ]:
            return int64(Why.SYNC)
        if done and ctx[Reg.SEND_TAIL] > ctx[Reg.SENT]:
            if w[Word.VENUE_FD] < 0:
                return int64(Why.SEND)
            if session.flush(ctx, w[Word.VENUE_FD], now_ns) == session.Leave.FLUSH:
                return int64(Why.FLUSH)
        if not _tell(w, ctx):
            return int64(Why.REPORTS)
        if done < n:
            return int64(Why.JOURNAL)
        w[Word.TURNS] += 1
        if w[Word.VENUE_FD] >= 0:
            # While orders come the venue is listened to now and then; else at every turn.
            if n == 0 or w[Word.TURNS] & 7 == 0:
                before = ctx[Reg.HEARD_NS]
                store_release(w[Word.HOT], Hot.BUSY, 1)
                got = session.receive(ctx, w[Word.VENUE_FD], now_ns)
                if got == session.Leave.SESSION:
                    return int64(Why.SESSION)
                if got == session.Leave.QUERY:
                    return int64(Why.QUERY)
                n += ctx[Reg.HEARD_NS] != before
        elif load_acquire(w, Word.ARMED) == 0:
            _arm(w, gateway_fd)
            return int64(Why.VENUE)
        if n:
            worked = int64(Why.TIME)
        else:
            store_release(w[Word.HOT], Hot.BUSY, 0)
        if now_ns >= until_ns or (slept and n == 0):
            return worked
        waiter = w[Word.WAITER]
        sleeps = load_relaxed(waiter, Wait.SLEEPS)
        if n == 0 and load_relaxed(waiter, Wait.ANNOUNCED) and load_acquire(w, Word.ARMED) == 0:
            _arm(w, gateway_fd)
        pause(waiter, n, until_ns - now_ns)
        slept = load_relaxed(waiter, Wait.SLEEPS) != sleeps
