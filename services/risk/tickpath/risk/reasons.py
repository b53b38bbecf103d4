"""Why an order is refused: one closed list of codes, with what each means and how FIX names it.

The numbers are part of the contract (reject records, metrics, the journal of rejects) and never change their
meaning. Codes of controls that are not built yet are in the list already. `docs/risk-reasons.md` is written from
this module: ``python -m tickpath.risk.reasons > docs/risk-reasons.md``.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Final, NamedTuple


class Reason(IntEnum):
    """Code of a decision; 0 lets the order pass."""

    PASS = 0
    # form and bounds
    MALFORMED = 1
    INVALID_QTY = 2
    INVALID_PRICE = 3
    INVALID_TICK = 4
    INVALID_LOT = 5
    EXPIRED = 6
    # trading state
    KILL_SWITCH_GLOBAL = 10
    KILL_SWITCH_ACCOUNT = 11
    KILL_SWITCH_STRATEGY = 12
    KILL_SWITCH_SYMBOL = 13
    REDUCE_ONLY = 14
    # identity and permission
    UNKNOWN_ACCOUNT = 20
    UNKNOWN_SYMBOL = 21
    NOT_PERMITTED = 22
    ORDER_TYPE_NOT_PERMITTED = 23
    CONFIG_VERSION_MISMATCH = 24
    RESTRICTED = 25
    # ids and repetition
    ALREADY_DECIDED = 30
    DUPLICATE_ID = 31
    DUPLICATE_ORDER = 32
    REPEATED_EXECUTION = 33
    REPLACE_PENDING = 34
    # session
    SESSION_CLOSED = 40
    HALTED_INSTRUMENT = 41
    TOO_LATE = 42
    # market data
    MARKET_DATA_STALE = 50
    MARKET_DATA_INVALID = 51
    REFERENCE_PRICE_UNAVAILABLE = 52
    FX_RATE_UNAVAILABLE = 53
    MARK_UNAVAILABLE = 54
    # one order
    MAX_ORDER_QTY = 60
    MAX_ORDER_NOTIONAL = 61
    PRICE_COLLAR_HIGH = 62
    PRICE_COLLAR_LOW = 63
    # what is open already
    MAX_OPEN_ORDERS = 70
    SELF_TRADE = 71
    SHORT_NOT_ALLOWED = 72
    LOCATE_REQUIRED = 73
    SHORT_PRICE_TEST = 74
    POSITION_UNKNOWN = 75
    POSITION_LIMIT = 76
    GROSS_EXPOSURE = 77
    NET_EXPOSURE = 78
    # money
    INSUFFICIENT_BUYING_POWER = 80
    BALANCE_UNAVAILABLE = 81
    DAILY_LOSS = 82
    DRAWDOWN = 83
    CREDIT_LEASE_EXHAUSTED = 84
    # rates
    ORDER_RATE = 90
    MESSAGE_RATE = 91
    INGRESS_RATE = 92


#: Room for one counter per code, with codes to spare.
N_REASONS: Final = 128


class Meaning(NamedTuple):
    """What a code says to people and to FIX."""

    text: str
    fix_103: int  # OrdRejReason
    retry: str


_NO = "no"
_PERSON = "no, needs a person"
_SMALLER = "smaller"
_LATER = "after a change"
_DATA = "when data return"
_BACK_OFF = "yes, back off"

MEANINGS: Final[dict[Reason, Meaning]] = {
    Reason.PASS: Meaning("the order goes to the venue", 0, "-"),
    Reason.MALFORMED: Meaning("strategy, shard, sequence, action, side or time in force is out of range", 99, _NO),
    Reason.INVALID_QTY: Meaning("quantity is not between 1 and 2147483647 lots", 13, _NO),
    Reason.INVALID_PRICE: Meaning("price is not between 1 and 2147483647 ticks", 18, _NO),
    Reason.INVALID_TICK: Meaning("price is not a multiple of the instrument's price step", 18, _NO),
    Reason.INVALID_LOT: Meaning("quantity is not a multiple of the instrument's quantity step", 13, _NO),
    Reason.EXPIRED: Meaning("the order's time of expiry has come", 4, "next phase"),
    Reason.KILL_SWITCH_GLOBAL: Meaning(
        "everything is HALTED, or the side process did not renew the control lease in time", 21, _PERSON
    ),
    Reason.KILL_SWITCH_ACCOUNT: Meaning("the account is HALTED", 21, _PERSON),
    Reason.KILL_SWITCH_STRATEGY: Meaning("the strategy is HALTED", 21, _PERSON),
    Reason.KILL_SWITCH_SYMBOL: Meaning("the instrument is HALTED", 21, _PERSON),
    Reason.REDUCE_ONLY: Meaning("REDUCING, and the order could enlarge or flip the position", 21, _PERSON),
    Reason.UNKNOWN_ACCOUNT: Meaning("no such account", 15, _NO),
    Reason.UNKNOWN_SYMBOL: Meaning("no such instrument", 1, _NO),
    Reason.NOT_PERMITTED: Meaning("the strategy may not trade the instrument", 0, _NO),
    Reason.ORDER_TYPE_NOT_PERMITTED: Meaning("the order type is not admitted here or now", 11, _NO),
    Reason.CONFIG_VERSION_MISMATCH: Meaning(
        "the order was built with another configuration", 99, "after reconciliation"
    ),
    Reason.RESTRICTED: Meaning("the instrument is on the restricted list", 0, _NO),
    Reason.ALREADY_DECIDED: Meaning(
        "a signal at or below the watermark came again: the first decision stands, nothing is sent", 6, _NO
    ),
    Reason.DUPLICATE_ID: Meaning("the id was used before, for another order", 6, _NO),
    Reason.DUPLICATE_ORDER: Meaning("the same order was accepted too often in a short time", 6, _NO),
    Reason.REPEATED_EXECUTION: Meaning("the strategy repeated itself too often without a person", 21, _PERSON),
    Reason.REPLACE_PENDING: Meaning("a replace of the order is in flight", 99, "after it is confirmed"),
    Reason.SESSION_CLOSED: Meaning("the venue's session is closed", 2, "next phase"),
    Reason.HALTED_INSTRUMENT: Meaning("the venue does not trade the instrument now", 2, "next phase"),
    Reason.TOO_LATE: Meaning("the venue's cut-off for such orders has passed", 4, "next phase"),
    Reason.MARKET_DATA_STALE: Meaning("the causing tick is older than allowed", 19, _DATA),
    Reason.MARKET_DATA_INVALID: Meaning(
        "the book is suspect, locked, crossed or out of bounds, or the tick is from the future", 19, _DATA
    ),
    Reason.REFERENCE_PRICE_UNAVAILABLE: Meaning(
        "no tick was seen, a side of the book that the check needs is empty, or the spread is too wide", 19, _DATA
    ),
    Reason.FX_RATE_UNAVAILABLE: Meaning("no fresh conversion rate", 19, _DATA),
    Reason.MARK_UNAVAILABLE: Meaning("a position has no mark", 19, _DATA),
    Reason.MAX_ORDER_QTY: Meaning("more lots than one order may have", 26, _SMALLER),
    Reason.MAX_ORDER_NOTIONAL: Meaning("more money than one order may be worth", 27, _SMALLER),
    Reason.PRICE_COLLAR_HIGH: Meaning("price is too far above the reference", 16, "other price"),
    Reason.PRICE_COLLAR_LOW: Meaning("price is too far below the reference", 16, "other price"),
    Reason.MAX_OPEN_ORDERS: Meaning("too many orders are open, or the order table is full", 3, _LATER),
    Reason.SELF_TRADE: Meaning("the order would meet an own order", 99, "after own cancel"),
    Reason.SHORT_NOT_ALLOWED: Meaning("the account may not sell short", 22, _NO),
    Reason.LOCATE_REQUIRED: Meaning("short sale without a locate", 23, _NO),
    Reason.SHORT_PRICE_TEST: Meaning("short sale at or below the best bid while the test is on", 22, _NO),
    Reason.POSITION_UNKNOWN: Meaning(
        "the journal was not replayed yet, or it held more open orders than the table", 99, "after reconciliation"
    ),
    Reason.POSITION_LIMIT: Meaning("the position could pass its limit if every open order fills", 3, _LATER),
    Reason.GROSS_EXPOSURE: Meaning("gross exposure could pass its limit", 3, _LATER),
    Reason.NET_EXPOSURE: Meaning("net exposure could pass its limit", 3, _LATER),
    Reason.INSUFFICIENT_BUYING_POWER: Meaning("the order costs more than is free", 25, _BACK_OFF),
    Reason.BALANCE_UNAVAILABLE: Meaning("the balance is unknown or old", 25, _BACK_OFF),
    Reason.DAILY_LOSS: Meaning("the day's loss reached its limit", 21, _PERSON),
    Reason.DRAWDOWN: Meaning("the fall from the day's peak reached its limit", 21, _PERSON),
    Reason.CREDIT_LEASE_EXHAUSTED: Meaning("the leased budget is used up", 25, _BACK_OFF),
    Reason.ORDER_RATE: Meaning("too many orders in the window", 99, _BACK_OFF),
    Reason.MESSAGE_RATE: Meaning("too many messages in the window", 99, _BACK_OFF),
    Reason.INGRESS_RATE: Meaning("too many attempts in the window", 99, _BACK_OFF),
}


def reasons_page() -> str:
    """The text of ``docs/risk-reasons.md``."""
    lines = [
        "# Reasons of risk",
        "",
        "Written from `tickpath.risk.reasons` by `python -m tickpath.risk.reasons > docs/risk-reasons.md`;",
        "a test compares them. FIX 103 is the OrdRejReason that a FIX gateway would send. *built* says whether a",
        "control gives this reason today; the other codes are kept for the controls that come later.",
        "",
        "| code | reason | meaning | FIX 103 | retry | built |",
        "| ---: | --- | --- | ---: | --- | --- |",
    ]
    for reason, (text, fix_103, retry) in MEANINGS.items():
        built = "yes" if reason in BUILT else "later"
        lines.append(f"| {reason.value} | `{reason.name}` | {text} | {fix_103} | {retry} | {built} |")
    return "\n".join(lines) + "\n"


#: Codes that the controls of today give; a test finds each of them in an executed decision.
BUILT: Final = frozenset(
    {
        Reason.PASS,
        Reason.MALFORMED,
        Reason.INVALID_QTY,
        Reason.INVALID_PRICE,
        Reason.INVALID_TICK,
        Reason.INVALID_LOT,
        Reason.KILL_SWITCH_GLOBAL,
        Reason.KILL_SWITCH_ACCOUNT,
        Reason.KILL_SWITCH_STRATEGY,
        Reason.KILL_SWITCH_SYMBOL,
        Reason.REDUCE_ONLY,
        Reason.UNKNOWN_SYMBOL,
        Reason.ALREADY_DECIDED,
        Reason.DUPLICATE_ID,
        Reason.HALTED_INSTRUMENT,
        Reason.MARKET_DATA_STALE,
        Reason.MARKET_DATA_INVALID,
        Reason.REFERENCE_PRICE_UNAVAILABLE,
        Reason.MAX_ORDER_QTY,
        Reason.MAX_ORDER_NOTIONAL,
        Reason.PRICE_COLLAR_HIGH,
        Reason.PRICE_COLLAR_LOW,
        Reason.MAX_OPEN_ORDERS,
        Reason.POSITION_UNKNOWN,
        Reason.POSITION_LIMIT,
        Reason.ORDER_RATE,
    }
)


if __name__ == "__main__":
    sys.stdout.write(reasons_page())
