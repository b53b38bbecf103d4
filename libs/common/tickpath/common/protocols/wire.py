"""What all binary protocols here share: message layouts as tables, and whose fault an error is.

A `Layout` is the table of one message: field after field, big-endian, without padding. From it come the size, the
offset of every field (templates and kernels use these), an encoder and a decoder. Kinds of fields:

| kind | bytes | Python value |
| --- | --- | --- |
| ``char`` | 1 | str of one character |
| ``alphaN`` | N | str (or bytes, to encode) without the padding, which is spaces on the right |
| ``u8 u16 u32 u48 u64`` | 1 2 4 6 8 | int |
| ``i32`` | 4 | int |

Text is taken as Latin-1, so that any byte survives a round trip.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

Buffer = bytes | bytearray | memoryview


class ProtocolError(Exception):
    """A rule of a protocol was broken."""


class LocalProtocolError(ProtocolError):
    """Our own fault: what we asked for cannot be sent (now, or ever)."""


class RemoteProtocolError(ProtocolError):
    """The peer's fault: what it sent cannot be understood."""


@lru_cache(maxsize=65536)
def alpha(text: str | bytes, size: int) -> bytes:
    """`text` as an alpha field of `size` bytes. Raises LocalProtocolError when it does not fit."""
    try:
        raw = text if isinstance(text, bytes) else text.encode("latin-1")
    except (UnicodeEncodeError, AttributeError) as error:
        msg = f"{text!r} holds characters that a field of the wire cannot"
        raise LocalProtocolError(msg) from error
    if len(raw) > size:
        msg = f"{text!r} is longer than the {size} bytes of its field"
        raise LocalProtocolError(msg)
    return raw.ljust(size)


def text(raw: bytes) -> str:
    """Value of an alpha field: its text without the padding."""
    return raw.decode("latin-1").rstrip(" ")


def _char(value: str) -> int:
    raw = ord(value)  # TypeError unless it is one character
    if raw > 255:
        raise ValueError(value)
    return raw


def _u48(value: int) -> bytes:
    return value.to_bytes(6, "big")


_NUMBERS: Final = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i32": "i"}


def _same(value: Any) -> Any:
    return value


def _codec(kind: str) -> tuple[str, Callable[[Any], Any], Callable[[Any], Any]]:
    """(struct format, value to struct, struct to value) of a kind."""
    if kind == "char":
        return "B", _char, chr
    if kind == "u48":
        return "6s", _u48, lambda raw: int.from_bytes(raw, "big")
    if kind.startswith("alpha"):
        size = int(kind[5:])
        return f"{size}s", lambda value: alpha(value, size), text
    return _NUMBERS[kind], _same, _same


class Layout:
    """Table of one message: ``code`` (its type letter), ``name``, ``size`` in bytes and ``offset`` by field name.

    `fields` are (name, kind) pairs from the first byte after the type letter on; the letter itself is at offset 0.
    """

    def __init__(self, code: str, name: str, fields: Sequence[tuple[str, str]]) -> None:
        self.code: Final = code
        self.name: Final = name
        self.kinds: Final = dict(fields)
        codecs = [_codec(kind) for _, kind in fields]
        self._struct: Final = struct.Struct(">B" + "".join(form for form, _, _ in codecs))
        self._writers: Final = [(field, write) for (field, _), (_, write, _) in zip(fields, codecs, strict=True)]
        self._readers: Final = [(field, read) for (field, _), (_, _, read) in zip(fields, codecs, strict=True)]
        self.size: Final = self._struct.size
        self.offset: Final[dict[str, int]] = {}
        at = 1
        for (field, _), (form, _, _) in zip(fields, codecs, strict=True):
            self.offset[field] = at
            at += struct.calcsize(">" + form)

    def __repr__(self) -> str:
        return f"<Layout {self.code} {self.name}, {self.size} bytes>"

    def encode(self, **values: Any) -> bytes:
        """The message, with every field given by name. Raises LocalProtocolError."""
        try:
            raw = [write(values[field]) for field, write in self._writers]
            if len(values) == len(raw):
                return self._struct.pack(ord(self.code), *raw)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, struct.error):
            pass
        raise LocalProtocolError(self._complaint(values))

    def _complaint(self, values: dict[str, Any]) -> str:
        """What is wrong with the values of `encode`, all faults at once."""
        faults = [f"{field} is missing" for field, _ in self._writers if field not in values]
        faults += [f"{field} is not a field of it" for field in values if field not in self.kinds]
        for field, write in self._writers:
            if field in values:
                try:
                    struct.pack(">" + _codec(self.kinds[field])[0], write(values[field]))
                except LocalProtocolError as error:
                    faults.append(f"{field}: {error}")
                except (TypeError, ValueError, OverflowError, AttributeError, struct.error):
                    faults.append(f"{field}={values[field]!r} is no {self.kinds[field]}")
        return f"{self.name} ({self.code}): " + "; ".join(faults)

    def decode(self, data: Buffer) -> dict[str, Any]:
        """Fields by name from the first `size` bytes. Raises RemoteProtocolError when there are fewer."""
        if len(data) < self.size:
            msg = f"{self.name} ({self.code}) has {self.size} bytes, got {len(data)}"
            raise RemoteProtocolError(msg)
        _, *raw = self._struct.unpack_from(data)
        return {field: read(value) for (field, read), value in zip(self._readers, raw, strict=True)}
