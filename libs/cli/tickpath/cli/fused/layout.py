"""What the fused lane's kernels and the Python around them share: one block of words."""

from __future__ import annotations

from enum import auto

from tickpath.common.pages import FromZero


class Reg(FromZero):
    """The words. Work that waits is a range [AT, END): whoever is called next goes on there."""

    TICK_AT = auto()
    TICK_END = auto()
    SIGNAL_AT = auto()
    SIGNAL_END = auto()
    ORDER_AT = auto()
    ORDER_END = auto()
    REPORT_NEXT = auto()  # number of the next journal entry for risk and the strategies
    # addresses
    TICKS = auto()  # TICK[..]: ticks of the present datagram
    TICK_ROOM = auto()
    SIGNALS = auto()  # SIGNAL[SIGNAL_ROOM]
    SIGNAL_ROOM = auto()
    ORDERS = auto()  # ORDER[..]: what risk's kernel writes
    RUN = auto()  # `run_at` of the compiled strategies
    MEMORY = auto()  # of the strategies
    MEMORY_BYTES = auto()
    SIGNALS_COUNTERS = auto()
    SIGNALS_HIST = auto()
    FEED_HOT = auto()  # ``hot`` of the page of feed
    SIGNALS_HOT = auto()
    EXEC_HOT = auto()
    RISK_COUNTERS = auto()
    RISK_HOT = auto()
    RISK_CORE = auto()
    RISK_CONTROL = auto()  # ``control`` of risk's side page
    RISK_DRAINING = auto()  # 1: refuse new orders
    FEED_COUNTERS = auto()
    FEED_HIST = auto()
    FEED_CONTROL = auto()
    TAP_TICKS = auto()  # rings of whoever wants to look, 0: nobody can
    TAP_SIGNALS = auto()
    TAP_ORDERS = auto()
    # sockets
    LINES = auto()  # address of the words of `tickpath.feed.kernels.receive`
    VENUE_FD = auto()  # -1 while the gateway has it for itself
    HOLD_SENDING = auto()  # 1: the journal has to be on disk first, so Python sends
    # waiting
    BATCHES = auto()  # receive calls that returned something
    WORKED_NS = auto()  # when datagrams last came
    SPIN_NS = auto()  # look so long before sleeping; -1: never sleep
    YIELD = auto()  # 1: give the core away between two looks


class Why(FromZero):
    """Why a compiled loop returned."""

    IDLE = auto()  # nothing came for the time that it was given
    TIME = auto()  # the time to tend is there
    LIMITS = auto()  # risk's limits have changed: they must be copied before the next decision
    JOURNAL = auto()  # the journal's segment is full
    SEND = auto()  # bytes wait in the send buffer for Python
    FLUSH = auto()  # the socket did not take everything
    SESSION = auto()  # the venue said something that the gateway has to deal with
    QUERY = auto()  # ... the answer to an Account Query
    REPORTS = auto()  # journal entries of an older segment have to be applied
    MARKET = auto()  # messages are missing, and it is time to do something about it
    ROOM = auto()  # replay: reports have to be taken first
    END = auto()  # replay: the tape is through
