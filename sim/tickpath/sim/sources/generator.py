"""A market that never was: a seeded tape of any length and rate."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickpath.sim.sources.encode import tape_of
from tickpath.sim.sources.kernels import market as kernels
from tickpath.sim.sources.kernels.encode import MESSAGE
from tickpath.sim.sources.tape import DataFileError, Ints, Tape

#: When the invented market opens: 09:30, ns after midnight.
OPENING_NS: Final = 34_200_000_000_000

#: Most messages of one tape: while it is made each takes about 90 bytes of memory.
MAX_MESSAGES: Final = 200_000_000
MAX_INSTRUMENTS: Final = 512

_LOWEST_DOLLARS, _HIGHEST_DOLLARS = 8.0, 900.0
_BAND: Final = 0.35  # prices stay within this fraction of the first one

# Of the event process; see `kernels.play`. In the long run base / (1 - children) plus the news makes the rate.
_DECAY: Final = 25.0
_CHILDREN: Final = 0.75
_NEWS_PER_SECOND: Final = 0.4
_BURST: Final = 5.0  # rate right after news, in units of the mean rate
_MESSAGES_PER_EVENT: Final = 1.07  # as it comes out; only the length of bursts depends on it

_CONSONANTS: Final = "BDFGKLMNPRSTVZ"
_VOWELS: Final = "AEIOU"


def _ticker(index: int) -> str:
    """An invented ticker of five letters that can be pronounced; different for every index below 68600."""
    index = index * 7919 % (14 * 5 * 14 * 5 * 14)
    letters = []
    for alphabet in (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS):
        index, digit = divmod(index, len(alphabet))
        letters.append(alphabet[digit])
    return "".join(letters)


def generate_tape(seed: int, *, seconds: float = 60.0, rate: float = 20_000.0, instruments: int = 24) -> Tape:
    """`seconds` of an invented market at `rate` messages per second on average: round(seconds x rate) messages.

    The same arguments give the same bytes (numpy's PCG64). Each instrument has an order book with price-time
    priority; orders arrive in bursts that excite themselves, a few instruments have most of the activity, prices
    ($8 to $900 at first) drift with momentum within 35 % of where they began, and spreads are one to a few cents.
    Every order reference resolves and no book is ever crossed or locked. It begins with S, R and H messages at
    09:30; the orders of the opening book follow at the mean rate. All messages of one event have its time.

    Raises DataFileError for arguments out of range, with what is allowed.
    """
    wanted = round(seconds * rate) if 0 < seconds < 86_400 and rate > 0 else 0
    least = 2 * instruments + 2
    faults = []
    if not 1 <= instruments <= MAX_INSTRUMENTS:
        faults.append(f"instruments is {instruments}, allowed are 1 to {MAX_INSTRUMENTS}")
    if seed < 0:
        faults.append(f"seed is {seed}, it must not be negative")
    if not OPENING_NS / 1e9 + seconds < 86_400 or seconds <= 0:
        faults.append(f"seconds is {seconds}, it must be above 0, and end before midnight (at most 52199)")
    elif not least <= wanted <= MAX_MESSAGES:
        faults.append(
            f"seconds x rate is {wanted} messages, allowed are {least} (what names the instruments) to {MAX_MESSAGES}"
        )
    if faults:
        raise DataFileError("no market can be generated: " + "; ".join(faults))

    rng = np.random.Generator(np.random.PCG64(seed))
    market, belief, levels = _instruments(rng, instruments, rate)
    n_slots = instruments * kernels.LIVE_MAX
    free = np.arange(-1, n_slots, dtype=np.int32)
    free[0] = n_slots
    opening = instruments * kernels.LIVE_OPENING / rate
    flow = np.array([_DECAY, _CHILDREN, _NEWS_PER_SECOND, (_BURST - 1.0) * rate / _MESSAGES_PER_EVENT, opening])
    messages = np.empty(wanted, MESSAGE)
    kernels.play(
        rng,
        np.zeros((n_slots, kernels.ORDER_COLUMNS), np.int64),
        np.full((levels, 2), -1, np.int32),
        market,
        np.zeros((instruments, kernels.LIVE_MAX), np.int32),
        free,
        belief,
        np.zeros(instruments),
        flow,
        wanted,
        messages,
        np.zeros(2, np.int64),
    )
    _stretch(messages["time_ns"], round(seconds * 1e9))
    symbols = [_ticker(index) for index in range(instruments)]
    source = f"generated market, seed {seed}: {instruments} instruments, {seconds:g} s at {rate:g} messages/s"
    return tape_of(messages, {symbol: index + 1 for index, symbol in enumerate(symbols)}, source, {})


def _instruments(rng: np.random.Generator, n: int, rate: float) -> tuple[Ints, np.ndarray, int]:
    """(market, belief, levels) as `kernels` describes them."""
    cents = np.round(100 * np.exp(rng.uniform(np.log(_LOWEST_DOLLARS), np.log(_HIGHEST_DOLLARS), n)))
    activity = np.minimum(rng.pareto(1.3, n) + 0.15, 12.0)
    news_share = _NEWS_PER_SECOND * (_BURST - 1.0) / (_DECAY * (1.0 - _CHILDREN))
    base = rate / _MESSAGES_PER_EVENT * (1.0 - _CHILDREN) * (1.0 - news_share)
    belief = np.zeros((n, kernels.BELIEF_COLUMNS))
    belief[:, kernels.FAIR] = cents + rng.random(n)
    belief[:, kernels.START] = cents
    belief[:, kernels.HALF_SPREAD] = np.clip(cents / 30_000, 0.6, 2.0)
    belief[:, kernels.VOLATILITY] = np.clip(np.sqrt(cents / 10_000), 0.3, 2.0)
    belief[:, kernels.BASE_RATE] = base * activity / activity.sum()
    lowest = np.floor(cents * (1 - _BAND)).astype(np.int64)
    highest = np.ceil(cents * (1 + _BAND)).astype(np.int64)
    width = highest - lowest + 3  # and a level that stays empty on either side
    market = np.zeros((n, kernels.MARKET_COLUMNS), np.int64)
    market[:, kernels.LOWEST] = lowest
    market[:, kernels.HIGHEST] = highest
    market[:, kernels.BID] = lowest - 1
    market[:, kernels.ASK] = highest + 1
    market[:, kernels.FLOOR] = np.cumsum(width) - width - lowest + 1
    return market, belief, int(width.sum())


def _stretch(time_ns: Ints, length_ns: int) -> None:
    """Scale times so that the last is `length_ns` after the opening: the process cannot promise when it is done."""
    scale = length_ns / max(int(time_ns[-1]), 1)
    time_ns[:] = OPENING_NS + np.minimum((time_ns * scale).astype(np.int64), length_ns)
