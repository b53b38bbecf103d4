"""How figures are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


def microseconds(value: float) -> str:
    """As people read it: no tenths where nobody cares."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


#: Of `summary_us`: how many values it takes for each to mean something.
VALUES_NEEDED: Final = {"p50": 1, "p90": 10, "p99": 100, "p99_9": 1000, "max": 1}


def quantile(found: Mapping[str, float], name: str) -> str:
    """A quantile of `summary_us` in microseconds; a dash where there are too few values for it."""
    return microseconds(found[name]) if found["count"] >= VALUES_NEEDED[name] else "–"  # noqa: RUF001 - a dash


def counted(n: int, noun: str) -> str:
    """A number of things: 1 position, 2 positions."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
