"""Prometheus metrics of a service, read from its pages at each scrape: no metric costs the hot path anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tickpath.common.histogram import BUCKET_UPPER_NS, BUCKETS, SUM, Hist
from tickpath.common.pages import Hot, HotState, Page

#: Upper bounds of the exported histogram buckets, nanoseconds.
_BOUNDS_NS: Final = tuple(
    int(base * 10**exponent) for exponent in range(3, 10) for base in (1, 2, 5) if base * 10**exponent <= 10**9
)

_GAUGES: Final = {
    Hot.STATE: ("state", "state of the hot process: " + ", ".join(f"{s.value} {s.name.lower()}" for s in HotState)),
    Hot.CONNECTED: ("connected", "1 when every peer of the hot process is there"),
    Hot.RSS_BYTES: ("resident_memory_bytes", "resident memory of the hot process"),
    Hot.RSS_READY_BYTES: ("resident_memory_ready_bytes", "the same at the moment when it became ready"),
    Hot.LOCKED_BYTES: ("locked_memory_bytes", "memory of the hot process that cannot be paged out"),
    Hot.GC_PAUSE_MAX_NS: ("gc_pause_max_ns", "longest collection of the hot process since it was ready"),
}
_COUNTERS: Final = {
    Hot.TURNS: ("loop_turns", "turns of the hot loop"),
    Hot.GC_COUNT: ("gc_collections", "collections of the hot process since it was ready"),
    Hot.GC_PAUSE_NS: ("gc_pause_ns", "time spent in them"),
    Hot.MAJOR_FAULTS: ("major_faults", "page faults that read from disk since it was ready"),
    Hot.MINOR_FAULTS: ("minor_faults", "page faults since it was ready"),
    Hot.INVOLUNTARY_SWITCHES: ("involuntary_switches", "preemptions since it was ready"),
    Hot.COMPILATIONS: ("compilations", "JIT compilations since it was ready"),
    Hot.CORE_WAIT_NS: ("core_wait_ns", "time in which the hot loop was runnable and had no core, since it was ready"),
    Hot.CPU_NS: ("cpu_ns", "processor time of the hot process"),
}


class PageCollector(Collector):
    """Turns a hot page into metrics ``tickpath_<service>_...``; `extra` yields what a service adds."""

    def __init__(
        self, service: str, page: Callable[[], Page | None], extra: Callable[[], Iterable[Metric]] | None = None
    ) -> None:
        self._prefix = f"tickpath_{service}"
        self._page = page
        self._extra = extra

    def collect(self) -> Iterator[Metric]:
        """Read the page once."""
        page = self._page()
        yield GaugeMetricFamily(f"{self._prefix}_up", "1 when the hot process has a page", float(page is not None))
        if page is not None:
            hot = page["hot"]
            for index, (name, text) in _GAUGES.items():
                yield GaugeMetricFamily(f"{self._prefix}_{name}", text, float(hot[index]))
            for index, (name, text) in _COUNTERS.items():
                yield CounterMetricFamily(f"{self._prefix}_{name}", text, float(hot[index]))
            for name, value in zip(page.meta["counters"], page["counters"].tolist(), strict=False):
                yield CounterMetricFamily(f"{self._prefix}_{name}", f"{name.replace('_', ' ')}", float(value))
            for name, hist in zip(page.meta["histograms"], page["hist"].copy(), strict=False):
                yield _histogram(f"{self._prefix}_{name}_seconds", name.replace("_", " "), hist)
        if self._extra is not None:
            yield from self._extra()


def _histogram(name: str, text: str, hist: Hist) -> HistogramMetricFamily:
    cumulative = np.cumsum(hist[BUCKETS:])
    buckets = []
    for bound in _BOUNDS_NS:
        index = int(np.searchsorted(BUCKET_UPPER_NS, bound, side="right")) - 1
        buckets.append((repr(bound / 1e9), float(cumulative[index])))
    buckets.append(("+Inf", float(cumulative[-1])))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=float(hist[SUM]) / 1e9)
