"""Taps: what passes through the hot processes, for whoever wants to look, without effect on them.

| stream | records | where it is seen |
| --- | --- | --- |
| ``ticks``, ``signals``, ``orders`` | of their dtypes | shm lane: the link's own ring; else ``tap.<stream>.ring`` |
| ``datagrams`` | DATAGRAM: packets of the market data lines | ``tap.datagrams.ring``, with ``taps.capture`` |
| ``frames`` | DATAGRAM: what a live crypto venue says | ``tap.frames.ring``, with ``taps.capture`` |
| ``reports`` | REPORT | exec's journal (`tickpath.exec.journal.JournalTail`): no ring, nothing is ever missed |

A tap is a fan-out ring without readers: its writer copies, and neither waits nor wakes. Who looks is an observer
(`RingObserver`), of whom the writer does not know; one that is too slow is told exactly how many records it missed.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tickpath.common.config import Config
from tickpath.common.jit import direct
from tickpath.common.kernels import taps as kernels
from tickpath.common.process import StartError
from tickpath.common.records import DATAGRAM, ORDER, REPORT, SIGNAL, TICK, RecordKind
from tickpath.common.ring import RingError, RingObserver, RingWriter

__all__ = ["STREAMS", "Stream", "Tap", "observe", "tap_path"]

_tap = direct(kernels.tap)
_capture_message = direct(kernels.capture_message)


class Stream(NamedTuple):
    """What the records of a stream are: dtype, and kind of its ring."""

    dtype: np.dtype[Any]
    kind: int


STREAMS: Final = MappingProxyType(
    {
        "ticks": Stream(TICK, RecordKind.TICK),
        "signals": Stream(SIGNAL, RecordKind.SIGNAL),
        "orders": Stream(ORDER, RecordKind.ORDER),
        "reports": Stream(REPORT, RecordKind.REPORT),
        "datagrams": Stream(DATAGRAM, ord("D")),
        "frames": Stream(DATAGRAM, ord("F")),
    }
)


def tap_path(run_dir: Path, stream: str) -> Path:
    """Where the tap of a stream is."""
    return run_dir / f"tap.{stream}.ring"


class Tap:
    """The tap of one stream, written by the hot process that makes the stream; `address` for kernels, 0: it is off.

    Off are the streams of records without ``taps.enabled`` and in the shm lane, where the links are rings already;
    and what comes from the network without ``taps.capture``. `epoch`: this life of the producer (``Hot.EPOCH``).
    Raises StartError when the ring cannot be made.
    """

    def __init__(self, config: Config, stream: str, epoch: int) -> None:
        self.address = 0
        self._ring: RingWriter | None = None
        self.dtype, kind = STREAMS[stream]
        raw = self.dtype == DATAGRAM
        if not (config.taps.capture if raw else config.taps.enabled and config.links.lane != "shm"):
            return
        capacity = config.taps.capture_datagrams if raw else config.taps.records
        try:
            self._ring = RingWriter(tap_path(config.run_dir, stream), self.dtype, capacity, kind=kind)
        except RingError as error:
            msg = f"{error} (taps.{'capture_datagrams' if raw else 'records'})"
            raise StartError(msg) from None
        self._ring.set_log(epoch, 0)
        self.address = self._ring.address

    def put(self, records: npt.NDArray[Any]) -> None:
        """Show records of the stream's dtype, contiguous, one dimension."""
        if self.address:
            _tap(self.address, records.ctypes.data, len(records))

    def put_at(self, source: int, n: int) -> None:
        """Show `n` records from an address on: for arrays that stay where they are."""
        if self.address:
            _tap(self.address, source, n)

    def put_message(self, message: bytes | npt.NDArray[np.uint8], recv_ns: int, line: int = 0) -> None:
        """Of ``datagrams`` and ``frames``: show a message as it came from the network."""
        if self.address:
            data = np.frombuffer(message, np.uint8)
            _capture_message(self.address, data.ctypes.data if len(data) else 0, len(data), recv_ns, line)

    def close(self) -> None:
        """Leave the ring to the next life; kernels must not use `address` any more."""
        self.address = 0
        if self._ring is not None:
            self._ring.close()
            self._ring = None


def observe(run_dir: Path, stream: str, *, from_oldest: bool = False) -> RingObserver:
    """An observer of a stream of the system on `run_dir`, whatever lane it runs. Raises RingError: nobody makes it.

    Of several rings that an earlier lane may have left: the one that is written.
    """
    dtype, kind = STREAMS[stream]
    paths = [path for path in (tap_path(run_dir, stream), run_dir / f"{stream}.ring") if path.exists()]
    found = [RingObserver(path, dtype, kind=kind, from_oldest=from_oldest) for path in paths]
    if not found:
        msg = f"{stream} cannot be seen: there is no ring of them in {run_dir}"
        raise RingError(msg)
    found.sort(key=lambda observer: observer.is_written)
    for other in found[:-1]:
        other.close()
    return found[-1]
