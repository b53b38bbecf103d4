"""Time as the pipeline knows it: nanoseconds of CLOCK_MONOTONIC, the same for all processes of a host."""

from __future__ import annotations

from time import monotonic_ns as now_ns

__all__ = ["now_ns"]
