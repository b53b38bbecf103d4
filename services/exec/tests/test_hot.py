"""exec in the ZeroMQ lane: the stage in this process, and a venue on a real socket; the test is risk and signals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from libs.common.tests.shm_rig import make_config
from services.exec.tests.conftest import TABLE, Venue, new_order
from tickpath.common.clock import now_ns
from tickpath.common.links import LogReceiver, LogSender, RingLog
from tickpath.common.pages import Hot
from tickpath.common.records import ORDER, RecordKind
from tickpath.exec.hot import Exec
from tickpath.exec.layout import GatewayState


class Rig:
    """The stage, and the other ends of its links."""

    def __init__(self, folder: Path, venue: Venue, context: zmq.Context[Any]) -> None:
        self.venue, self.context = venue, context
        sizes = {"order_capacity": 1024, "journal_segment_entries": 1024, "reconnect_ms": 5}
        self.config = make_config(
            folder, TABLE, exec={"port": venue.port, **sizes}, process={"lock_memory": False},
            links={"lane": "zmq-ipc", "heartbeat_ms": 20},
        )  # fmt: skip
        addresses, links = self.config.link_addresses, self.config.links
        self.config.run_dir.mkdir(parents=True, exist_ok=True)
        self.risk = LogSender(
            context, addresses("orders"), RecordKind.ORDER, "risk", 1, RingLog(ORDER, 64), links, ("exec",)
        )
        self.readers = {
            name: LogReceiver(context, addresses("reports"), RecordKind.REPORT, name, links)
            for name in ("risk", "signals")
        }
        self.seqs: dict[str, list[int]] = {name: [] for name in self.readers}
        self.life = 0
        self.start()

    def start(self) -> None:
        """A life of exec."""
        self.life += 1
        page = Exec.create_page(self.config)
        page["hot"][Hot.EPOCH] = self.life
        self.stage = Exec(self.config, self.context, page, None)
        self.stage.warm_up()
        self.until(lambda: self.stage.gateway.state == GatewayState.READY and self.stage.connected(now_ns()))

    def others(self) -> None:
        """A turn of the venue, of risk and of signals."""
        now = now_ns()
        self.venue.turn()
        self.risk.serve(now)
        for name, reader in self.readers.items():
            for first, records in reader.receive(now):
                self.seqs[name] += records["seq"].tolist()
                reader.ack(first + len(records) - 1)
            reader.tend(now)

    def until(self, condition: Callable[[], bool]) -> None:
        """Turn until something is so."""
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            self.others()
            self.stage.run(now_ns())
            self.stage.tend(now_ns())
            time.sleep(0.0005)

    def close(self) -> None:
        self.stage.close()
        self.risk.close()
        for reader in self.readers.values():
            reader.close()


@pytest.fixture
def rig(tmp_path: Path, venue: Venue) -> Iterator[Rig]:
    with zmq.Context() as context:
        made = Rig(tmp_path, venue, context)
        yield made
        made.close()


def test_an_order_goes_out_and_the_journal_to_both_consumers(rig: Rig) -> None:
    assert rig.risk.send(new_order(1), now_ns()) == 1
    rig.until(lambda: len(rig.seqs["risk"]) >= 2 and len(rig.seqs["signals"]) >= 2)  # sent, acknowledged by the venue
    assert rig.seqs["risk"] == list(range(1, len(rig.seqs["risk"]) + 1))
    rig.until(lambda: rig.risk.acked_seq == 1)


def test_an_acknowledgement_follows_the_entry_of_its_order_whether_that_was_published_or_not(rig: Rig) -> None:
    """The loop appends to the journal; what Python knows of it is older."""
    journal = rig.stage.orders.journal
    before = journal.next_seq
    rig.risk.send(new_order(1), now_ns())
    while rig.stage.words[rig.stage.input._at + 2] < 2:
        rig.others()
        rig.stage.run(now_ns())
    assert journal.next_seq == before
    rig.stage.bridge.tend(now_ns() + 1_000_000_000)
    end = time.monotonic() + 30
    while rig.risk.acked_seq < 1:
        assert time.monotonic() < end
        rig.risk.serve(now_ns())
    assert rig.risk.follows >= (journal.epoch, before)


def test_a_restart_leaves_nothing_to_acknowledge_to_consumers_that_have_everything(rig: Rig) -> None:
    """Else a stop would wait for acknowledgements of the whole day."""
    rig.risk.send(new_order(1), now_ns())
    rig.until(lambda: min(len(seqs) for seqs in rig.seqs.values()) >= 2)
    rig.stage.close()
    rig.start()
    rig.until(
        lambda: rig.stage._unacked(now_ns()) == 0 and rig.stage.rings.is_read(rig.stage.reports["risk"], now_ns())
    )
    entries = rig.stage.orders.journal.next_seq - 1
    for name, reader in rig.readers.items():
        assert rig.seqs[name] == list(range(1, entries + 1))
        assert reader.epochs == 1
