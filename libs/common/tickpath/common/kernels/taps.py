"""Taps, for compiled loops: a copy of what passes, into a ring that nobody is waited for. 0 in place of a ring: off.

`tickpath.common.taps` makes the rings. Cost: one copy per record, and for each call two stores with a fence that is
none on x86.
"""

from __future__ import annotations

import numba

from tickpath.common.jit import kernel
from tickpath.common.kernels.atomics import address_of, copy_bytes, load_relaxed, store_relaxed
from tickpath.common.kernels.ring import Head, claim, commit, publish, published, record_at
from tickpath.common.records import DATAGRAM, DATAGRAM_BYTES

_RECORD_BYTES = int(Head.RECORD_BYTES)
_DATA_AT = DATAGRAM.itemsize - DATAGRAM_BYTES


@kernel("void(int64, int64, int64)")
def tap(ring, source, n):
    """Show `n` records from address `source`; `ring`: of a `Tap`, 0: nobody can look."""
    if ring == 0:
        return
    done = 0
    while done < n:  # once, unless the ring is smaller than the batch; a fan-out ring always takes some
        done += publish(ring, 0, source + done * load_relaxed(ring, _RECORD_BYTES), n - done)


@kernel("void(int64, int64, int64, int64, int64)")
def capture_message(ring, source, length, recv_ns, line):
    """Show a message of `length` bytes at address `source`, in as many records as it takes; `ring` as for `tap`."""
    if ring == 0:
        return
    done = 0
    part = 0
    while part == 0 or done < length:
        claim(ring, 1)
        record = record_at(ring, published(ring) + 1)
        n = min(length - done, DATAGRAM_BYTES)
        store_relaxed(record, 0, recv_ns)
        store_relaxed(record, 1, length | (line & 0xFFFF) << 32 | (part & 0x7FFF) << 48)
        copy_bytes(record + _DATA_AT, source + done, n)
        commit(ring, 0, 1)
        done += n
        part += 1


@kernel(numba.void(numba.int64, numba.uint8[:, ::1], numba.int64[::1], *[numba.int64] * 4))
def capture(ring, buffer, lengths, first, end, recv_ns, line):
    """Show datagrams [first, end) of a `DatagramReceiver`'s `buffer` and `lengths`; `ring` as for `tap`.

    Of one that was cut off (its length is negative) what there is of it.
    """
    if ring == 0:
        return
    for i in range(first, end):
        length = min(abs(lengths[i]), buffer.shape[1])
        capture_message(ring, address_of(buffer) + i * buffer.shape[1], length, recv_ns, line)
