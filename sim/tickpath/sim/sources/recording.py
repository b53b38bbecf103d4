"""Recordings (`tickpath record`) as data: the messages of MoldUDP64 in datagrams, each once; the frames of a venue.

Datagrams are read as the capture that they are: everything that `tickpath.sim.sources.pcap` says of lines, copies,
order and what is missing holds here too. How the instruments are traded comes from the recording's own table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from tickpath.common.recording import Recording, RecordingError, as_capture, as_lines, is_recording
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
        raise _fault(error) from None
    from tickpath.sim.sources.pcap import read_capture, read_packets  # noqa: PLC0415 - its kernels take seconds to compile

    data = np.frombuffer(bytearray(capture), np.uint8)
    messages, findings = read_capture(path, data, *read_packets(path, data))
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


def has_frames(path: Path) -> bool:
    """Whether a path is a recording with frames of a venue, and without the datagrams that were made of them."""
    if not is_recording(path):
        return False
    try:
        streams = Recording(path).streams
    except RecordingError as error:
        raise _fault(error) from None
    return "frames" in streams and "datagrams" not in streams


def read_frames(path: Path) -> Bytes:
    """The frames of a recording as lines, see `tickpath.sim.sources.crypto`. Raises DataFileError."""
    try:
        return np.frombuffer(bytearray(b"".join(as_lines(Recording(path)))), np.uint8)
    except RecordingError as error:
        raise _fault(error) from None


def _fault(error: RecordingError) -> DataFileError:
    return DataFileError(
        f"{error}. Only recorded datagrams and frames can be played: [taps] capture = true, then `tickpath record`"
    )
