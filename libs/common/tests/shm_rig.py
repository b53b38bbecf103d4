"""One stage of the shm lane inside a test: its loop is called by hand, the other ends of its rings are the test's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from tickpath.common.config import Config, load_config
from tickpath.common.instruments import InstrumentTable, save_instruments
from tickpath.common.pages import Page, create_hot_page
from tickpath.common.ports import free_ports
from tickpath.common.records import DTYPES, RecordKind
from tickpath.common.ring import RingReader, RingWriter

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    """A port that nobody has at the moment."""
    return free_ports(1)[0]


def make_config(folder: Path, table: InstrumentTable, **sections: Any) -> Config:
    """The configuration of the repository with small rings, a run_dir in `folder` and these sections instead.

    Nobody repairs market data unless a section says so.
    """
    save_instruments(table, folder / "instruments.csv")
    links = {"lane": "shm", "tick_ring": 1024, "log_ring": 64, "heartbeat_ms": 10_000, **sections.pop("links", {})}
    feed = {"retransmission_port": None, "snapshot_port": None, **sections.pop("feed", {})}
    return load_config(
        ROOT / "tickpath.toml",
        run_dir=folder / "run",
        instruments=folder / "instruments.csv",
        links=links,
        feed=feed,
        **sections,
    )


def make_stage(stage_type: Any, config: Config, side: Page | None = None) -> Any:
    """A warm stage with its page; no Redis, no HTTP, no process of its own."""
    texts = {"error": ("u1", (1024,)), "notes": ("u1", (1024,))}
    page = create_hot_page(
        config.run_dir, stage_type.name, stage_type.counters, stage_type.histograms,
        {**texts, **stage_type.extra_fields(config)}, stage_type.extra_meta(config),
    )  # fmt: skip
    with zmq.Context() as context:
        stage = stage_type(config, context, page, side)
    stage.warm_up()
    return stage


def writer_of(config: Config, link: str, kind: RecordKind, required: str = "", *, log: bool = False) -> RingWriter:
    """The other end of a ring that the stage reads."""
    capacity = config.links.log_ring if required else config.links.tick_ring
    return RingWriter(
        config.run_dir / f"{link}.ring", DTYPES[kind], capacity, kind=int(kind),
        required=(required,) if required else (), log=log,
    )  # fmt: skip


def reader_of(config: Config, link: str, name: str, kind: RecordKind) -> RingReader:
    """The other end of a ring that the stage writes."""
    return RingReader(config.run_dir / f"{link}.ring", name, DTYPES[kind], kind=int(kind), from_oldest=True)


def blocks_grown(call: Callable[[], object]) -> int:
    """By how many blocks of Python's allocator a call leaves it larger."""
    before = sys.getallocatedblocks()
    call()
    return sys.getallocatedblocks() - before
