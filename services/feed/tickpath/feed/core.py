"""feed without its link: the market data lines, the books, and the kernel that turns one into the other."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.config import Config
from tickpath.common.instruments import load_instruments
from tickpath.common.kernels.book import LEVEL
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.text import N_TEXT_COUNTS, TextCount
from tickpath.common.pages import Command, Control, Fields, Hot, HotPage, Page, add_note, write_text
from tickpath.common.process import StartError
from tickpath.common.records import TICK
from tickpath.common.taps import Tap
from tickpath.feed.depth import show_depth
from tickpath.feed.kernels.decode import Window, decode, make_state
from tickpath.feed.kernels.receive import LineReg
from tickpath.feed.layout import DEPTH_LEVELS, Channel, Count, DepthWord, Detail, Hop, Line, LineWord, Watch
from tickpath.feed.lines import SLOT_BYTES, Lines
from tickpath.feed.repair import Repair

_MIN_LINE: Final = len("A,1,1\n")
_MIN_BLOCK: Final = 2 + 12  # the shortest message that can make a tick is longer


class FeedPage(HotPage):
    """Feed's page."""

    name = "feed"
    counters = Count
    histograms = Hop

    @classmethod
    def extra_fields(cls, config: Config) -> Fields:
        """Channel, lines, and what is known of each instrument; ``depth`` is the book that somebody looks at."""
        n = len(load_instruments(config.instruments))
        return {
            "channel": ("<i8", (len(Channel),)),
            "lines": ("<i8", (len(Line), len(LineWord))),
            "marks": (TICK, (n,)),
            "halted": ("<i8", (n,)),
            "details": ("<i8", (n, len(Detail))),
            "suspect": ("<i8", (n,)),
            "text": ("<i8", (N_TEXT_COUNTS,)),
            "depth": (LEVEL, (2, DEPTH_LEVELS)),
            "depth_words": ("<i8", (len(DepthWord),)),
            "trouble": ("u1", (256,)),
        }

    @classmethod
    def extra_meta(cls, config: Config) -> dict[str, Any]:
        """What ``text`` counts."""
        del config
        return {"text": [member.name.lower() for member in TextCount]}


class FeedCore:
    """Lines, receive buffer, books, repair and ticks; `page` and `side` are the pages of the service."""

    def __init__(self, config: Config, page: Page, side: Page | None) -> None:
        """Raises StartError."""
        table = load_instruments(config.instruments)
        options = config.feed
        ratios = table.array["price_units_per_tick"] if options.source == "itch" else np.ones(len(table))
        odd = [s for s, ratio in zip(table.symbols, ratios, strict=True) if ratio != 1]
        if odd:
            msg = (
                f"{config.instruments}: tick_size must be the price_unit of the feed (0.0001 where that column is"
                f" missing); it is not for {odd[:5]}"
            )
            raise StartError(msg)
        self.counts: npt.NDArray[np.int64] = page["counters"]
        self.control: npt.NDArray[np.int64] = np.zeros(len(Control), dtype=np.int64)
        self._watch: npt.NDArray[np.int64] = np.zeros(len(Watch), dtype=np.int64)
        if side is not None:
            self.obey(side)
        self._page = page
        self.state = make_state(
            table, options.order_capacity, options.level_capacity, self.counts,
            page["channel"], page["marks"], page["halted"],
            details=page["details"], suspect=page["suspect"], lines=page["lines"],
            behind=page["hist"][Hop.LINE_A_BEHIND : Hop.LINE_B_BEHIND + 1],
            window=Window.create(options.window_datagrams, SLOT_BYTES), text_counters=page["text"],
        )  # fmt: skip
        self.lines = Lines(options, page["lines"], page["hist"][Hop.KERNEL_TO_RECV])
        self.counts[Count.RECEIVE_BUFFER_BYTES] = page["lines"][Line.A, LineWord.RECEIVE_BUFFER_BYTES]
        self.receiver = self.lines.receiver
        self.datagrams = Tap(config, "datagrams", int(page["hot"][Hot.EPOCH]))
        self.lines.words[LineReg.CAPTURE] = self.datagrams.address
        self.repair = Repair(options, self.state, self.lines)
        self.state.channel[Channel.TEXT] = options.source == "text"
        shortest = _MIN_LINE if options.source == "text" else _MIN_BLOCK
        self.ticks: npt.NDArray[Any] = np.zeros((options.batch + 1) * (SLOT_BYTES // shortest), dtype=TICK)
        self.hop: npt.NDArray[np.int64] = page["hist"][Hop.RECV_TO_DECODE]
        self._trouble = ""

    def warm_up(self) -> None:
        """The kernels are compiled by their import; run them once on nothing, touch the output."""
        decode(self.state, self.receiver.buffer, self.receiver.lengths, 0, 0, 0, Line.A, self.ticks)
        record(np.zeros_like(self.hop), 0)
        self.ticks[:] = self.ticks[:1]
        for note in self.lines.warnings():
            add_note(self._page, note)

    def follow(self, now: int, out: npt.NDArray[Any]) -> int:
        """Do what the state of the channel asks for; the ticks that come of it, TICK[..] in `out`.

        To be called while ``repair.wanted``, and again as long as it returns any.
        """
        self.repair.turn(now)
        n = 0
        if self.state.channel[Channel.HELD]:
            n = int(decode(self.state, self.receiver.buffer, self.receiver.lengths, 0, 0, now, Line.A, out))
        return n + self.repair.announcements(now, out[n:])

    def tend(self, now: int) -> None:
        """Silence, doubts, counters of the system, and the book that somebody looks at."""
        self.repair.tend(now)
        self.lines.tend()
        if self.state.channel[Channel.KNOWN_SEQ] <= self.state.channel[Channel.EXPECTED_SEQ]:
            self.lines.forget_answers()
        show_depth(self._page, self._watch, self.state.book, int(self.state.channel[Channel.EXPECTED_SEQ]))
        if self.repair.trouble != self._trouble:
            self._trouble = self.repair.trouble
            write_text(self._page, "trouble", self._trouble)

    def obey(self, side: Page) -> None:
        """Follow the side process that keeps this page."""
        self.control, self._watch = side["control"], side["watch"]

    def command(self, what: Command) -> None:
        """START: trust the books again after a gap, by an operator's decision."""
        if what == Command.START:
            self.repair.trust()

    def close(self) -> None:
        """Close the sockets."""
        self.repair.close()
        self.lines.close()
        self.datagrams.close()
