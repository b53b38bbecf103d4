"""Recorded datagrams (`tickpath record --streams datagrams`): the messages of MoldUDP64 in them, each once.

Read as the capture that they are: everything that `tickpath.sim.sources.pcap` says of lines, copies, order and what
is missing holds here too. How the instruments are traded comes from the recording's own table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from tickpath.common.recording import Recording, RecordingError, as_capture
from tickpath.sim.sources.pcap import read_capture
from tickpath.sim.sources.tape import Bytes, DataFileError, Terms

_PORT: Final = 26400  # of the first line in a capture; any would do


def read_recording(path: Path) -> tuple[Bytes, dict[str, int], dict[str, Terms]]:
    """(messages, each behind its u16 length; findings; terms by symbol) of a folder or segment.

    Raises DataFileError: no recording, damaged, without datagrams or without MoldUDP64 in them.
    """
    try:
        recording = Recording(path)
        offset_ns = recording.segments("datagrams")[0].unix_offset_ns
        capture = b"".join(as_capture(recording.messages(), offset_ns, _PORT))
        missed = recording.missed("datagrams")
        table = recording.instruments()
    except RecordingError as error:
        msg = f"{error}. Only recorded datagrams can be played: [taps] capture = true, then `tickpath record`"
        raise DataFileError(msg) from None
    messages, findings = read_capture(path, np.frombuffer(bytearray(capture), np.uint8))
    terms = {}
    for index, symbol in enumerate(table.symbols):
        lot_size, multiplier, _ = table.texts[index]
        terms[symbol] = Terms(
            tick_size=f"{table.price(index, 1).normalize():f}",
            price_step_ticks=int(table.array["price_step_ticks"][index]),
            lot_size=lot_size,
            multiplier=multiplier,
            currency=table.currencies[index],
        )
    return messages, findings | {"missed_datagrams": missed}, terms
