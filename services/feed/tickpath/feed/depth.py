"""The book that somebody looks at: asked for through the side page, copied by the hot process when it has time.

The side process writes an instrument and a new number into ``watch`` of its page; the hot process copies the best
levels of that book into its own page and answers with the number. A look costs nothing but that copy.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from tickpath.common.kernels.book import Book
from tickpath.common.pages import Page
from tickpath.common.records import Side
from tickpath.feed.layout import DEPTH_LEVELS, DepthWord, Watch


def show_depth(page: Page, watch: npt.NDArray[Any], book: Book, next_seq: int) -> None:
    """Answer the request in `watch`, if it is a new one."""
    words = page["depth_words"]
    asked = int(watch[Watch.NUMBER])
    if asked == words[DepthWord.ANSWERED]:
        return
    instrument = int(watch[Watch.INSTRUMENT])
    for row, side in enumerate(Side):
        levels = book.side(instrument, side, DEPTH_LEVELS)
        page["depth"][row, : len(levels)] = levels
        words[DepthWord.BIDS + row] = len(levels)
    words[DepthWord.NEXT_SEQ] = next_seq
    words[DepthWord.ANSWERED] = asked
