"""Making a tape of `MESSAGE` records."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tickpath.common.protocols.itch50 import SIZES
from tickpath.sim.sources.kernels import encode as kernels
from tickpath.sim.sources.tape import Tape

_SIZES: Final = np.array(SIZES, np.int64)


def tape_of(messages: npt.NDArray[np.void], symbols: dict[str, int], source: str, findings: dict[str, int]) -> Tape:
    """The tape of MESSAGE[n], whose times must not go back; its instruments are the rows of `symbols` (-> locate)."""
    padded = np.array([list(symbol.encode("ascii").ljust(8)) for symbol in symbols], np.uint8)
    counts = np.bincount(messages["kind"], minlength=256)
    data = np.empty(int(counts @ (_SIZES + 2)), np.uint8)
    offsets = np.empty(len(messages) + 1, np.int64)
    kernels.encode(messages, padded, np.array(list(symbols.values()), np.int64), _SIZES, data, offsets)
    return Tape(
        data=data,
        offsets=offsets,
        time_ns=messages["time_ns"].copy(),
        symbols=dict(symbols),
        source=source,
        counts={chr(kind): int(counts[kind]) for kind in np.nonzero(counts)[0]},
        findings={key: value for key, value in findings.items() if value},
    )
