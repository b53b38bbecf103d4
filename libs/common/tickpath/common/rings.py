"""The links as rings, one for each, and the bell on which a service sleeps.

| ring | kind | writer | readers |
| --- | --- | --- | --- |
| ``ticks.ring`` | fan-out | feed | signals; risk, which no bell wakes for marks |
| ``signals.ring`` | lossless | signals | risk |
| ``orders.ring`` | lossless | risk | exec |
| ``reports.signals.ring``, ``reports.risk.ring`` | log: exec's journal | exec | signals, risk |

In the shm lane they are in the run_dir, and what one service writes the next one reads. In the ZeroMQ lanes each
service has a folder of its own there, and at the other end of each ring is its bridge (`tickpath.common.bridge`).

A writer makes its ring when it starts. Processes start in any order, so whoever reads one opens it when it is there
(`Input.tend`), and again when it was replaced. That both ends are alive is known from their beats.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tickpath.common.config import SERVICES, Config
from tickpath.common.kernels import ring as kernels
from tickpath.common.kernels.ring import Head, Slot
from tickpath.common.pages import Page, add_note
from tickpath.common.process import StartError
from tickpath.common.records import DTYPES, RecordKind
from tickpath.common.ring import Bells, RingError, RingReader, RingWriter, Waiter, WaitStrategy, choose_wait

__all__ = ["BELLS", "Input", "LogInput", "Rings", "choose_strategy", "rings_folder"]

#: Line of each service in the file of bells.
BELLS: Final = {name: number for number, name in enumerate(SERVICES)}

Records = npt.NDArray[np.void]

_BEATS: Final = 10  # as in the ZeroMQ lane: away after so many heartbeats without a sign


def _word(ring: int, word: int) -> int:
    return ctypes.c_int64.from_address(ring + 8 * word).value


def choose_strategy(config: Config) -> tuple[WaitStrategy, str]:
    """(how the four loops wait, note for people or ""), by what is asked for and the cores that they really have."""
    pinned = [getattr(config.cores, name) for name in SERVICES]
    cores = len(os.sched_getaffinity(0))
    if all(pinned):  # each process sees its own cores only
        everybody = {core for name in type(config.cores).model_fields for core in getattr(config.cores, name)}
        own = {of[0] for of in pinned}
        cores = len(everybody) if len(own) == len(pinned) else len(own)
    return choose_wait(config.process.wait, len(SERVICES), cores)


def rings_folder(config: Config, name: str) -> Path:
    """Where the rings of a service are: in the shm lane all in one place, for they are shared."""
    return config.run_dir if config.links.lane == "shm" else config.run_dir / f"{name}.rings"


class Rings:
    """The rings of one service's process; `name` is that of the service. `bells` and `waiter` are addresses."""

    def __init__(self, config: Config, name: str) -> None:
        """Raises StartError."""
        self.config, self.name, self.folder = config, name, rings_folder(config, name)
        # Between sockets there is no choice: the bridge waits at its sockets, and the loop never does.
        shared = config.links.lane == "shm"
        self.strategy, self.note = choose_strategy(config) if shared else (WaitStrategy.YIELD, "")
        try:
            self._bells = Bells(self.folder)
        except RingError as error:
            raise StartError(str(error)) from None
        self._waiter = Waiter(self.strategy, self._bells, BELLS[name])
        self.bells, self.waiter = self._bells.address, self._waiter.address

    def writer(self, link: str, kind: RecordKind, required: str = "", *, log: bool = False) -> RingWriter:
        """The ring of a link that this service writes; `required`: its reader, or fan-out. Raises StartError."""
        links = self.config.links
        try:
            return RingWriter(
                self.folder / f"{link}.ring", DTYPES[kind], links.log_ring if required else links.tick_ring,
                kind=int(kind), required=(required,) if required else (), log=log,
                bell=BELLS[self.name] if required else -1,
            )  # fmt: skip
        except RingError as error:
            raise StartError(str(error)) from None

    def is_read(self, writer: RingWriter, now_ns: int) -> bool:
        """Whether the required reader of a ring was alive a moment ago."""
        return self.recent(_word(writer.address, Head.FIRST_SLOT + Slot.BEAT_NS), now_ns)

    def recent(self, beat_ns: int, now_ns: int) -> bool:
        """Whether a beat says that its process is there."""
        return beat_ns > 0 and now_ns - beat_ns < _BEATS * self.config.links.heartbeat_ms * 1_000_000

    def say(self, page: Page) -> None:
        """Put the note into the page, once it is READY, behind those of the process; for people."""
        if self.note:
            add_note(page, self.note)
            self.note = ""


class Input:
    """A ring that another process writes, and three words of a loop: [at] its address, [at + 1] our slot, [at + 2]
    the number that comes next, which the loop moves on. The address is 0 while there is no ring.

    A fan-out ring is read from its oldest record on, by every life of the reader; `joined_behind` is how many were
    gone by then. A lossless ring goes on behind what was acknowledged.
    """

    def __init__(
        self, rings: Rings, link: str, kind: RecordKind, words: npt.NDArray[np.int64], at: int, *, wake: bool = True
    ) -> None:
        self._rings, self._kind = rings, kind
        self._path = rings.folder / f"{link}.ring"
        self._bell = BELLS[rings.name] if wake else -1
        self._words, self._at = words, at
        self._reader: RingReader | None = None
        self.joined_behind = 0

    @property
    def ring(self) -> int:
        """Address, 0 while there is none."""
        return int(self._words[self._at])

    @property
    def next_seq(self) -> int:
        """Number of the record that comes next."""
        return int(self._words[self._at + 2])

    def tend(self, now_ns: int) -> None:
        """Open the ring when it is there, or another one is; beat."""
        if self._reader is None:
            self._open()
        elif kernels.retired(self.ring) and not kernels.readable(self.ring, self.next_seq):
            self._reader.next_seq = self.next_seq
            with contextlib.suppress(RingError):  # not replaced yet
                self._reader.reopen()
                self._bind(self._reader)
        if self._reader is not None:
            kernels.beat_reader(self.ring, self._reader.slot, now_ns)

    def _open(self) -> None:
        # Without a ring its writer is not there yet. What else can be wrong its writer mends by replacing the file.
        with contextlib.suppress(RingError):
            reader = RingReader(
                self._path, self._rings.name, DTYPES[self._kind], kind=int(self._kind), bell=self._bell,
                from_oldest=True,
            )  # fmt: skip
            if not reader.required:
                reader.next_seq = min(int(kernels.first_intact(reader.address)), reader.published + 1)
                self.joined_behind = reader.next_seq - 1
            self._bind(reader)

    def _bind(self, reader: RingReader) -> None:
        self._reader = reader
        # A log that is shipped through another file now goes on where it was; every other reader knows its place.
        next_seq = max(self.next_seq, reader.next_seq)
        self._words[self._at : self._at + 3] = reader.address, reader.slot, next_seq

    def waiting(self) -> Records:
        """Of a lossless ring: the records that the loop has not taken, where they are, up to the wrap; read-only."""
        if self._reader is None:
            return np.zeros(0, dtype=DTYPES[self._kind])
        self._reader.next_seq = self.next_seq
        return self._reader.read_in_place()

    def took(self, n: int) -> None:
        """The first `n` of those are dealt with."""
        self._words[self._at + 2] += n

    def connected(self, now_ns: int) -> bool:
        """Whether the writer was alive a moment ago."""
        return self.ring > 0 and self._rings.recent(_word(self.ring, Head.WRITER_BEAT_NS), now_ns)

    def close(self) -> None:
        """Leave the ring to the next life; the loop must not run any more."""
        if self._reader is not None:
            self._words[self._at] = 0
            self._reader.close()
            self._reader = None


class LogInput(Input):
    """A ring that ships a log, from its first entry on for every life of the reader.

    `caught_up`: everything that was in the log is read; holds until there is another log. `epochs`: logs seen.
    """

    def __init__(self, rings: Rings, link: str, kind: RecordKind, words: npt.NDArray[np.int64], at: int) -> None:
        super().__init__(rings, link, kind, words, at)
        self.caught_up = False
        self.epochs = 0
        self.epoch = 0  # of the log that is read

    def begins_anew(self) -> bool:
        """To be asked after `tend`: True when another log begins, of which nothing is read yet.

        The loop cannot read from the ring before this was asked, nor until the writer has granted it.
        """
        reader = self._reader
        if reader is None or not (epoch := int(kernels.log_epoch_of(self.ring))):
            return False
        if epoch == self.epoch and not reader.must_begin_again:
            return False
        another = epoch != self.epoch
        want = 1 if another else self.next_seq
        self.epoch = epoch
        kernels.begin_again(self.ring, self._rings.bells, want, epoch)
        self._words[self._at + 2] = want
        if another:
            self.caught_up = False
            self.epochs += 1
        return another

    def look(self) -> bool:
        """Whether it is caught up by now."""
        reader = self._reader
        if reader is not None and self.epoch and not reader.waits_for_grant and not reader.must_begin_again:
            self.caught_up = self.caught_up or self.next_seq >= int(kernels.log_end(self.ring))
        return self.caught_up
