"""A lock-free ring in shared memory, for compiled loops: one writer, up to eight readers, numbered records.

A ring is an address: that of the mapped file, int64. `tickpath.common.ring` makes and maps it, and has its layout.
Records have sequence numbers from 1; number s is kept at place ``s & (capacity - 1)``. Nothing here allocates, waits
or fails; whoever calls keeps the mapping alive.

**Nothing torn is ever read.** Two words say what the writer is at: `claimed`, the last number whose place it may be
overwriting, and `published`, the last that can be read.

    writer: claimed := s      | release fence | copy the record in | published := s (release)
    reader: published (acquire) | copy the record out | acquire fence | claimed

The writer's fence keeps `claimed` before the first byte of the copy; the reader's keeps the last byte of its copy
before its look at `claimed`. So a reader that has copied even one byte of record s + capacity out of the place of
record s also sees a `claimed` of at least s + capacity, and throws the copy away. Release and acquire on `published`
do the same for the other direction: whoever sees the number sees the record. Neither argument needs x86.

`claimed` never goes back when a writer dies between claiming and publishing: the places that it may have spoilt stay
given up, and the next life goes on behind `published`.
"""

from __future__ import annotations

from enum import IntEnum

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.atomics import (
    copy_bytes,
    fence_acquire,
    fence_release,
    fence_seq_cst,
    load_acquire,
    load_relaxed,
    move_bytes,
    store_relaxed,
    store_release,
)
from tickpath.common.kernels.waiting import monotonic_ns, pause, ring_bell, wake_sleeper

MAX_READERS = 8
DATA_OFFSET = 4096  # of the records in the file


class Head(IntEnum):
    """Words of the header, int64; lines are 128 bytes because processors fetch pairs of 64."""

    MAGIC = 0
    VERSION = 1
    RETIRED = 2
    RECORD_BYTES = 3
    CAPACITY = 4
    KIND = 5
    MODE = 6
    REQUIRED = 7
    CLAIMED = 16
    PUBLISHED = 32
    LOG_END = 48
    LOG_EPOCH = 49
    EPOCH = 64
    WRITER_PID = 65
    WRITER_BELL = 66
    SLOTS = 67
    GRANTED = 68
    WANTS_ROOM = 69
    WRITER_BEAT_NS = 80
    SLOWEST = 81
    FIRST_SLOT = 96


class Slot(IntEnum):
    """Words of a reader's slot, counted from its beginning."""

    NAME = 0  # 16 bytes
    PID = 2
    EPOCH = 3
    BELL = 4
    WANT = 5
    WANT_LOG_EPOCH = 6
    REQUEST = 7
    ACKED = 16
    BEAT_NS = 17
    SIZE = 32


class RingMode(IntEnum):
    """Whom the writer waits for."""

    FAN_OUT = 0  # nobody: a reader that is too slow is told how much it missed
    LOSSLESS = 1  # the slowest of the required readers
    LOG = 2  # its only reader, which may ask to begin again anywhere in the log that is shipped through the ring


FAN_OUT, LOSSLESS, LOG = 0, 1, 2

_RECORD_BYTES, _CAPACITY, _MODE = int(Head.RECORD_BYTES), int(Head.CAPACITY), int(Head.MODE)
_REQUIRED, _CLAIMED, _PUBLISHED = int(Head.REQUIRED), int(Head.CLAIMED), int(Head.PUBLISHED)
_LOG_END, _LOG_EPOCH, _GRANTED = int(Head.LOG_END), int(Head.LOG_EPOCH), int(Head.GRANTED)
_WRITER_BELL, _SLOTS, _WANTS_ROOM = int(Head.WRITER_BELL), int(Head.SLOTS), int(Head.WANTS_ROOM)
_WRITER_BEAT, _SLOWEST, _RETIRED = int(Head.WRITER_BEAT_NS), int(Head.SLOWEST), int(Head.RETIRED)
_FIRST_SLOT, _SLOT_WORDS = int(Head.FIRST_SLOT), int(Slot.SIZE)
_BELL, _WANT, _WANT_LOG_EPOCH = int(Slot.BELL), int(Slot.WANT), int(Slot.WANT_LOG_EPOCH)
_REQUEST, _ACKED, _BEAT = int(Slot.REQUEST), int(Slot.ACKED), int(Slot.BEAT_NS)


@inlined
def _slot(ring, slot):
    return ring + 8 * (_FIRST_SLOT + _SLOT_WORDS * slot)


@inlined
def _agreed(ring):
    """Of a LOG: its reader has asked to begin somewhere in the present log, and was granted it.

    Both sides look at this before they touch records, so that between request and grant neither does.
    """
    reader = _slot(ring, 0)
    return load_acquire(ring, _GRANTED) == load_acquire(reader, _REQUEST) and load_acquire(
        reader, _WANT_LOG_EPOCH
    ) == load_acquire(ring, _LOG_EPOCH)


@kernel("int64(int64, int64)")
def record_at(ring, seq):
    """Address of record `seq`."""
    capacity = load_relaxed(ring, _CAPACITY)
    return ring + DATA_OFFSET + (seq & (capacity - 1)) * load_relaxed(ring, _RECORD_BYTES)


@kernel("int64(int64)")
def published(ring):
    """Number of the last record that can be read; 0 before the first."""
    return load_acquire(ring, _PUBLISHED)


# ---- the writer's side


@kernel("int64(int64)")
def slowest(ring):
    """Number up to which all required readers have acknowledged; of a FAN_OUT ring: the last published."""
    required = load_relaxed(ring, _REQUIRED)
    found = load_relaxed(ring, _PUBLISHED)
    for slot in range(min(required, MAX_READERS)):
        # Acquire: what the reader read before it acknowledged stays before our next write into that place.
        found = min(found, load_acquire(_slot(ring, slot), _ACKED))
    return found


@inlined
def _free(ring):
    behind = slowest(ring)
    store_relaxed(ring, _SLOWEST, behind)  # saves the look at the readers' lines until this much is used up
    return load_relaxed(ring, _CAPACITY) - (load_relaxed(ring, _PUBLISHED) - behind)


@kernel("int64(int64)")
def room(ring):
    """How many records `publish` would accept now."""
    mode = load_relaxed(ring, _MODE)
    if mode == FAN_OUT:
        return load_relaxed(ring, _CAPACITY)
    if mode == LOG and not _agreed(ring):
        return 0
    return max(0, _free(ring))


@kernel("int64(int64, int64)")
def claim(ring, n):
    """First step of publishing: make the next places, at most `n`, the writer's; how many, 0 when it is full.

    The records belong at `record_at` of ``published + 1`` and on; then `commit`. A writer with a bell that gets fewer
    than it wants is woken when a required reader acknowledges.
    """
    mode = load_relaxed(ring, _MODE)
    capacity = load_relaxed(ring, _CAPACITY)
    last = load_relaxed(ring, _PUBLISHED)
    accepted = min(n, capacity)
    if mode != FAN_OUT:
        if mode == LOG and not _agreed(ring):
            return 0
        if load_relaxed(ring, _WANTS_ROOM):
            store_relaxed(ring, _WANTS_ROOM, 0)
        if capacity - (last - load_relaxed(ring, _SLOWEST)) < accepted:
            free = _free(ring)
            if free < n and load_relaxed(ring, _WRITER_BELL) >= 0:
                # As with bells: the wish, a full fence, a second look. `ack` stores, fences and reads the wish.
                store_relaxed(ring, _WANTS_ROOM, 1)
                fence_seq_cst()
                free = _free(ring)
            accepted = min(accepted, free)
    if accepted <= 0:
        return 0
    store_relaxed(ring, _CLAIMED, max(load_relaxed(ring, _CLAIMED), last + accepted))
    fence_release()
    return accepted


@kernel("void(int64, int64, int64)")
def fill(ring, source, n):
    """Second step of publishing: copy `n` records from address `source` into the places that were claimed."""
    size = load_relaxed(ring, _RECORD_BYTES)
    first = load_relaxed(ring, _PUBLISHED) + 1
    capacity = load_relaxed(ring, _CAPACITY)
    straight = min(n, capacity - (first & (capacity - 1)))
    copy_bytes(record_at(ring, first), source, straight * size)
    if n > straight:
        copy_bytes(ring + DATA_OFFSET, source + straight * size, (n - straight) * size)


@kernel("void(int64, int64, int64)")
def commit(ring, bells, n):
    """Last step of publishing: let readers see the `n` records that were claimed and filled, and wake who sleeps."""
    store_release(ring, _PUBLISHED, load_relaxed(ring, _PUBLISHED) + n)
    fenced = False
    for slot in range(min(load_relaxed(ring, _SLOTS), MAX_READERS)):
        bell = load_relaxed(_slot(ring, slot), _BELL)
        if bell >= 0:
            if not fenced:
                fence_seq_cst()
                fenced = True
            wake_sleeper(bells, bell)


@kernel("int64(int64, int64, int64, int64)")
def publish(ring, bells, source, n):
    """Append `n` records from address `source`; how many were accepted: 0 when the ring is full.

    Fewer than `n` are accepted when a required reader is behind, and never more than the capacity. `bells`: address
    of the bells, 0 for none.
    """
    accepted = claim(ring, n)
    if accepted > 0:
        fill(ring, source, accepted)
        commit(ring, bells, accepted)
    return accepted


@kernel("void(int64, int64)")
def beat(ring, now_ns):
    """The writer is alive."""
    store_relaxed(ring, _WRITER_BEAT, now_ns)


@kernel("void(int64, int64, int64)")
def set_log(ring, log_epoch, end_seq):
    """Of a LOG: what is behind the ring. `end_seq` is the number that its next entry will have.

    With another `log_epoch` the numbers begin anew: nothing moves until the reader has asked to `begin_again`.
    """
    store_release(ring, _LOG_END, end_seq)
    if load_relaxed(ring, _LOG_EPOCH) != log_epoch:
        store_release(ring, _LOG_EPOCH, log_epoch)


@kernel("int64(int64)")
def wanted(ring):
    """Of a LOG: the number from which its reader asks to begin again, 0 when it does not."""
    reader = _slot(ring, 0)
    if load_relaxed(ring, _MODE) != LOG or load_acquire(reader, _REQUEST) == load_relaxed(ring, _GRANTED):
        return 0
    if load_relaxed(reader, _WANT_LOG_EPOCH) != load_relaxed(ring, _LOG_EPOCH):
        return 0  # it asks for the log before this one; it will see that and ask again
    return load_relaxed(reader, _WANT)


@kernel("int64(int64, int64)")
def grant(ring, bells):
    """Of a LOG: let the reader begin again as it asked; the number to publish next, 0 when it did not ask.

    Killed at any instruction of this, the request is still open and the next life of the writer grants it.
    """
    reader = _slot(ring, 0)
    request = load_acquire(reader, _REQUEST)  # before WANT: a later request that changes WANT is granted once more
    want = wanted(ring)
    if want <= 0:
        return 0
    # Between request and grant the reader neither reads nor acknowledges, so its cursor is ours to move: the reader
    # that comes after one which was killed here goes on at the right place.
    store_relaxed(reader, _ACKED, want - 1)
    store_relaxed(ring, _SLOWEST, want - 1)
    store_relaxed(ring, _CLAIMED, want - 1)
    store_relaxed(ring, _PUBLISHED, want - 1)
    store_release(ring, _GRANTED, request)
    ring_bell(bells, load_relaxed(reader, _BELL))
    return want


# ---- the readers' side


@kernel("int64(int64, int64)")
def readable(ring, next_seq):
    """How many records from `next_seq` on can be read in place, up to the wrap: they begin at `record_at`.

    A required reader may use them until it acknowledges them. Any other reader asks `first_intact` before (what lies
    before that is missed) and after (what lies before that may be torn, and nothing may have come of it).
    """
    if load_relaxed(ring, _MODE) == LOG and not _agreed(ring):
        return 0
    capacity = load_relaxed(ring, _CAPACITY)
    return max(0, min(load_acquire(ring, _PUBLISHED) - next_seq + 1, capacity - (next_seq & (capacity - 1))))


@kernel("int64(int64)")
def first_intact(ring):
    """Number of the oldest record that was not overwritten while the caller read it; 1 in the first round."""
    fence_acquire()  # all that the caller has read was read before the look at `claimed`
    return max(1, load_relaxed(ring, _CLAIMED) - load_relaxed(ring, _CAPACITY) + 1)


@kernel("UniTuple(int64, 2)(int64, int64, int64, int64)")
def copy_out(ring, next_seq, target, most):
    """Copy records from `next_seq` on, at most `most`, to address `target`: (how many, how many were missed before).

    The first record copied is ``next_seq + missed``, the next one to ask for ``next_seq + missed + n``. Records are
    whole; those that were overwritten, before or during the copy, are missed.
    """
    if load_relaxed(ring, _MODE) == LOG and not _agreed(ring):
        return 0, 0
    capacity = load_relaxed(ring, _CAPACITY)
    size = load_relaxed(ring, _RECORD_BYTES)
    last = load_acquire(ring, _PUBLISHED)
    first = max(next_seq, first_intact(ring))
    n = min(last - first + 1, most)
    if n <= 0:
        # A writer that was killed may have spoilt places up to `claimed`: those records are missed already.
        return 0, max(0, min(first, last + 1) - next_seq)
    straight = min(n, capacity - (first & (capacity - 1)))
    copy_bytes(target, record_at(ring, first), straight * size)
    if n > straight:
        copy_bytes(target + straight * size, ring + DATA_OFFSET, (n - straight) * size)
    spoilt = min(n, max(0, first_intact(ring) - first))  # overwritten while we copied
    if spoilt > 0:
        move_bytes(target, target + spoilt * size, (n - spoilt) * size)
    return n - spoilt, first + spoilt - next_seq


@kernel("int64(int64, int64)")
def acked(ring, slot):
    """Number up to which this reader has acknowledged."""
    return load_acquire(_slot(ring, slot), _ACKED)


@kernel("void(int64, int64, int64, int64)")
def ack(ring, bells, slot, seq):
    """This reader is done with everything up to `seq`; wakes the writer if it waits for room."""
    store_release(_slot(ring, slot), _ACKED, seq)
    bell = load_relaxed(ring, _WRITER_BELL)
    if bell >= 0 and load_relaxed(ring, _MODE) != FAN_OUT:
        fence_seq_cst()
        if load_relaxed(ring, _WANTS_ROOM):
            wake_sleeper(bells, bell)


@kernel("void(int64, int64, int64)")
def beat_reader(ring, slot, now_ns):
    """This reader is alive."""
    store_relaxed(_slot(ring, slot), _BEAT, now_ns)


@kernel("void(int64, int64, int64, int64)")
def begin_again(ring, bells, want_seq, log_epoch):
    """Of a LOG, by its reader: ask for everything from `want_seq` on, of the log with this epoch (`log_epoch_of`).

    Until the writer grants it there is nothing to read; then the next number to read is `want_seq`.
    """
    reader = _slot(ring, 0)
    store_relaxed(reader, _WANT, want_seq)
    store_relaxed(reader, _WANT_LOG_EPOCH, log_epoch)
    store_release(reader, _REQUEST, load_relaxed(reader, _REQUEST) + 1)
    ring_bell(bells, load_relaxed(ring, _WRITER_BELL))


@kernel("int64(int64)")
def log_epoch_of(ring):
    """Epoch of the log behind the ring; 0 before the writer has said what it ships."""
    return load_acquire(ring, _LOG_EPOCH)


@kernel("int64(int64)")
def must_begin_again(ring):
    """1 when the reader of a LOG has to ask to `begin_again`: it never did, or the numbers have begun anew."""
    return load_acquire(_slot(ring, 0), _WANT_LOG_EPOCH) != load_acquire(ring, _LOG_EPOCH)


@kernel("int64(int64)")
def log_end(ring):
    """Number that the next entry of the log behind the ring will have; a reader that wants it next has caught up."""
    return load_acquire(ring, _LOG_END)


@kernel("int64(int64)")
def retired(ring):
    """1 when the writer has replaced the file: read what is left, then open it again."""
    return load_acquire(ring, _RETIRED)


# ---- waiting for one ring; a loop with several inputs calls `pause` itself


@kernel("int64(int64, int64, int64, int64)")
def wait_for_records(ring, next_seq, waiter, timeout_ns):
    """Wait until record `next_seq` can be read; 0 after `timeout_ns`. `waiter`: see `pause`."""
    until = monotonic_ns() + timeout_ns
    while True:
        there = readable(ring, next_seq) > 0 or retired(ring) != 0
        left = until - monotonic_ns()
        pause(waiter, there or left <= 0, left)
        if there or left <= 0:
            return there


@kernel("int64(int64, int64, int64)")
def wait_for_room(ring, waiter, timeout_ns):
    """Wait until `publish` would accept something; 0 after `timeout_ns`."""
    until = monotonic_ns() + timeout_ns
    while True:
        store_relaxed(ring, _WANTS_ROOM, 1)
        fence_seq_cst()
        there = room(ring) > 0 or wanted(ring) > 0
        left = until - monotonic_ns()
        pause(waiter, there or left <= 0, left)
        if there or left <= 0:
            store_relaxed(ring, _WANTS_ROOM, 0)
            return there
