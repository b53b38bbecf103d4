"""Lines of text from a real socket become ticks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common.tests.shm_rig import free_port, make_config, make_stage, reader_of
from services.feed.tests.test_decode import table_of
from tickpath.common.clock import now_ns
from tickpath.common.kernels.text import TextCount
from tickpath.common.pages import create_side_page
from tickpath.common.records import NO_PRICE_TICKS, RecordKind, TickFlag
from tickpath.common.ring import RingReader
from tickpath.feed.layout import Channel, ChannelState
from tickpath.feed.service import FeedService
from tickpath.feed.shm import Feed

Rig = tuple[Feed, RingReader, socket.socket]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    feed = {"source": "text", "port": free_port(), "order_capacity": 1 << 14, "level_capacity": 64}
    config = make_config(tmp_path, table_of("MSFT", "AAPL"), feed=feed)
    side = create_side_page(config.run_dir, "feed", FeedService.side_fields(config))
    stage: Feed = make_stage(Feed, config, side)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("127.0.0.1", config.feed.port))
    yield stage, reader_of(config, "ticks", "test", RecordKind.TICK), sender
    sender.close()
    stage.close()


def test_each_line_is_a_print_with_a_number_of_its_own(rig: Rig) -> None:
    stage, reader, sender = rig
    sender.send(b"AAPL,150.25,100,09:30:00.5\nMSFT,99.5,7\nNONE,1,1\n")
    sender.send(b"AAPL,150.26,50;AAPL,x,50")
    while stage.run(now_ns() + 1_000_000):
        pass
    stage.tend(now_ns())
    ticks, _ = reader.read()
    assert ticks["cause_seq"].tolist() == [1, 2, 3]
    assert ticks["instrument"].tolist() == [1, 0, 1]
    assert ticks["last_ticks"].tolist() == [1_502_500, 995_000, 1_502_600]
    assert ticks["volume_lots"].tolist() == [100, 7, 150]
    assert ticks["exch_ns"][0] == 34_200_500_000_000
    assert (ticks["flags"] == TickFlag.TRADE).all()
    assert (ticks["bid_ticks"] == NO_PRICE_TICKS).all()
    assert (ticks["recv_ns"] > 0).all()
    counts = dict(zip(stage.page.meta["text"], stage.page["text"].tolist(), strict=True))
    assert (counts["ticks"], counts["unknown_symbol"], counts["bad_price"]) == (3, 1, 1)
    assert stage.page["channel"][Channel.STATE] == ChannelState.LIVE


def test_a_datagram_of_the_shortest_lines_has_room(rig: Rig) -> None:
    stage, reader, sender = rig
    for _ in range(3):
        sender.send(b"AAPL,1,1\n" * 150)
    while stage.run(now_ns() + 1_000_000):
        pass
    ticks, missed = reader.read()
    assert (len(ticks), missed) == (450, 0)
    assert stage.page["text"][TextCount.NO_ROOM] == 0
