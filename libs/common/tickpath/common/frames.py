"""Frames: what one ZeroMQ message looks like.

Part 1, the topic: four ASCII bytes, the letter of the record kind and the first virtual shard of the stream in
decimal (``T000``), so that a subscriber chooses streams by prefix. Part 2: one msgpack array

| index | field | type |
| --- | --- | --- |
| 0 | version | int, records.SCHEMA_VERSION |
| 1 | kind | int, RecordKind |
| 2 | source | str, name of the producer |
| 3 | epoch | int, one per life of the producer, growing |
| 4 | first_seq | int, number of the first record in the stream, from 1; the next one to come when there is none |
| 5 | sent_ns | int, CLOCK_MONOTONIC |
| 6 | records | bin, the packed records back to back |

A consumer speaks to a producer with WANT, one msgpack array ``[version, consumer, epoch, next_seq, acked_seq,
window, rewind, follows_seq, follows_epoch]``: "I have everything before next_seq, you may forget everything up to
acked_seq, send at most window records beyond acked_seq; if rewind, begin again at next_seq". It is idempotent, and
the only message in that direction: subscription, credit, acknowledgement and request to resend in one. `follows_seq`
is the number of a report: who has all reports up to it, of the journal with `follows_epoch`, knows what became of all
that is acknowledged. 0: nothing is said of that.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from tickpath.common.records import DTYPES, SCHEMA_VERSION, RecordKind

TOPIC_SIZE: Final = 4


class FrameError(Exception):
    """A frame that is not one; `reason` is a short word for the counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Envelope(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Part 2 of a frame."""

    version: int
    kind: int
    source: str
    epoch: int
    first_seq: int
    sent_ns: int
    records: memoryview


class Want(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a consumer says to a producer."""

    version: int
    consumer: str
    epoch: int  # 0: not known yet
    next_seq: int
    acked_seq: int
    window: int
    rewind: bool
    follows_seq: int = 0
    follows_epoch: int = 0


_decode_envelope: Final = msgspec.msgpack.Decoder(Envelope).decode
_decode_want: Final = msgspec.msgpack.Decoder(Want).decode


def topic(kind: RecordKind, shard: int = 0) -> bytes:
    """Topic of a stream."""
    return b"%c%03d" % (kind, shard)


def header(kind: RecordKind, source: str, epoch: int) -> bytes:
    """Payload of a frame up to its records, with zeros for what changes from frame to frame.

    It ends with first_seq (9 bytes), sent_ns (9) and the head of the records (5), each of them a byte that says what
    comes and a big-endian integer: msgpack's longest forms, so that all of them stay where they are.
    """
    name = msgspec.msgpack.encode(source)
    if not 0xA0 <= name[0] <= 0xBF:
        msg = f"the name of a producer may have 31 bytes, {source!r} has {len(source.encode())}"
        raise ValueError(msg)
    uint64 = struct.Struct(">BQ")
    numbers = uint64.pack(0xCF, epoch) + 2 * uint64.pack(0xCF, 0)
    return bytes((0x97, SCHEMA_VERSION, kind)) + name + numbers + struct.pack(">BI", 0xC6, 0)


def decode(payload: bytes | memoryview, kind: RecordKind) -> tuple[Envelope, npt.NDArray[np.void]]:
    """Envelope and records (a read-only view into `payload`, no copy). Raises FrameError.

    Reasons: ``malformed``, ``version``, ``kind``, ``size``, ``sequence``.
    """
    try:
        envelope = _decode_envelope(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise FrameError("malformed") from None
    if envelope.version != SCHEMA_VERSION:
        raise FrameError("version")
    if envelope.kind != kind:
        raise FrameError("kind")
    dtype = DTYPES[kind]
    if len(envelope.records) % dtype.itemsize:
        raise FrameError("size")
    if envelope.first_seq < 1 or envelope.epoch < 1:
        raise FrameError("sequence")
    return envelope, np.frombuffer(envelope.records, dtype=dtype)


def decode_want(payload: bytes | memoryview) -> Want:
    """Raises FrameError (``malformed``, ``version``, ``sequence``)."""
    try:
        want = _decode_want(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise FrameError("malformed") from None
    if want.version != SCHEMA_VERSION:
        raise FrameError("version")
    if want.next_seq < 1 or not 0 <= want.acked_seq < want.next_seq or want.window < 0 or want.epoch < 0:
        raise FrameError("sequence")
    return want
