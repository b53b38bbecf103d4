"""CRC-32 (IEEE 802.3, the one of zlib) inside kernels: eight table look-ups for eight bytes."""

from __future__ import annotations

import numpy as np

from tickpath.common.jit import kernel

_POLYNOMIAL = 0xEDB88320


def _tables():
    tables = np.zeros((8, 256), dtype=np.int64)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ _POLYNOMIAL * (crc & 1)
        tables[0, byte] = crc
    for k in range(1, 8):
        tables[k] = tables[k - 1] >> 8 ^ tables[0, tables[k - 1] & 0xFF]
    return tables


_T = _tables()


@kernel("int64(uint8[::1], int64, int64)")
def crc32(data, start, stop):
    """CRC-32 of ``data[start:stop]``, equal to ``zlib.crc32``; the caller keeps start and stop in bounds."""
    crc = 0xFFFFFFFF
    at = start
    while at + 8 <= stop:
        crc = (
            _T[7, (crc ^ data[at]) & 0xFF]
            ^ _T[6, (crc >> 8 ^ data[at + 1]) & 0xFF]
            ^ _T[5, (crc >> 16 ^ data[at + 2]) & 0xFF]
            ^ _T[4, (crc >> 24 ^ data[at + 3]) & 0xFF]
            ^ _T[3, data[at + 4]]
            ^ _T[2, data[at + 5]]
            ^ _T[1, data[at + 6]]
            ^ _T[0, data[at + 7]]
        )
        at += 8
    while at < stop:
        crc = _T[0, (crc ^ data[at]) & 0xFF] ^ crc >> 8
        at += 1
    return crc ^ 0xFFFFFFFF
