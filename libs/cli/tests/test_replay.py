"""Replay: tapes written by hand, played through the whole chain; every number of the report is known beforehand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.common.tests.shm_rig import blocks_grown
from tickpath.cli.export import run_export
from tickpath.cli.fused import replay as module
from tickpath.cli.fused.replay import Replay, ReplayError, Result, replay_files
from tickpath.common.config import Config, load_config
from tickpath.common.instruments import load_instruments
from tickpath.common.kernels.digest import fold, words_mask
from tickpath.common.protocols import itch50 as itch
from tickpath.common.records import ORDER, SIGNAL, TICK, Action, ExecEvent
from tickpath.exec.journal import read_journal
from tickpath.exec.layout import Counter as ExecCounter
from tickpath.feed.kernels.decode import decode, make_state
from tickpath.feed.layout import Channel, Count
from tickpath.signals.core import configured_strategies
from tickpath.signals.engine import Engine
from tickpath.signals.layout import Counter as SignalsCounter
from tickpath.sim.offline import OfflineExchange
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import DataFileError, write_instruments

ROOT = Path(__file__).resolve().parents[3]
CONDUCTOR = f"{Path(__file__).parent / 'conductor.py'}:conductor"
BUY, CANCEL, BUY_NOW, SELL_TWO, NOTHING = 1, 2, 4, 5, 9  # what the conductor does at a best bid of so many shares
CME = sorted((ROOT.parent / "shared" / "data" / "cme_mdp3").glob("*.pcapng*.zst"))
OPEN_NS = 34_200_000_000_000
MS = 1_000_000


def configure(**sections: Any) -> Config:
    strategies = {"strategies": [{"path": CONDUCTOR, "id": 1}]}
    return load_config(ROOT / "tickpath.toml", signals=strategies, **sections)


class Paper:
    """A recording in the making: ITCH messages, 20 ms apart."""

    def __init__(self, locate: int = 7, symbol: str = "ABC", begin_ns: int = OPEN_NS, first_ref: int = 1) -> None:
        self.locate, self.symbol = locate, symbol
        self.now_ns, self.ref = begin_ns, first_ref
        self.messages: list[tuple[int, bytes]] = []

    def add(self, side: str, shares: int, price: int) -> int:
        """An order of the market; its reference."""
        self.ref += 1
        self._write(itch.add_order(self.locate, self.now_ns, self.ref, side, shares, self.symbol, price))
        return self.ref

    def delete(self, ref: int) -> None:
        self._write(itch.order_delete(self.locate, self.now_ns, ref))

    def event(self, code: str) -> None:
        self._write(itch.system_event(self.now_ns, code))

    def _write(self, message: bytes) -> None:
        self.messages.append((self.now_ns, message))
        self.now_ns += 20 * MS

    def save(self, path: Path, *others: Paper) -> Path:
        """Write this and other papers, by time, as one file."""
        every = [item for paper in (self, *others) for item in paper.messages]
        every.sort(key=lambda item: item[0])
        path.write_bytes(b"".join(itch.frame(message) for _, message in every))
        return path


def trader() -> Paper:
    """ABC: three lots bought at 100.00, two sold at 99.05, one bid for at 99.10; it ends at 99.10 : 100.00."""
    paper = Paper()
    paper.add("S", 100, 1_000_000)
    paper.add("B", NOTHING, 990_000)
    paper.add("B", BUY_NOW, 990_100)
    paper.add("B", BUY_NOW, 990_200)
    paper.add("B", SELL_TWO, 990_500)
    paper.add("B", BUY_NOW, 990_600)
    paper.add("B", BUY, 991_000)
    return paper


def holder() -> Paper:
    """XYZ: one lot bought at 50.00; then nobody offers any more, and 49.50 is bid."""
    paper = Paper(9, "XYZ", OPEN_NS + MS, 1000)
    paper.add("B", NOTHING, 480_000)
    offer = paper.add("S", 100, 500_000)
    paper.add("B", BUY_NOW, 490_000)
    paper.add("B", NOTHING, 495_000)
    paper.delete(offer)
    return paper


def churner(orders: int, begin_ns: int = OPEN_NS) -> Paper:
    """So many orders that buy at the offer, each on a bid that comes and goes: two ticks, three journal entries."""
    paper = Paper(begin_ns=begin_ns)
    paper.add("S", 100_000, 1_000_000)
    paper.add("B", NOTHING, 990_000)
    for _ in range(orders):
        paper.delete(paper.add("B", BUY_NOW, 990_100))
    return paper


def played(config: Config, files: Sequence[Path]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return replay_files(config, files, Path(folder))


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Both symbols in one file."""
    return played(configure(), [trader().save(tmp_path_factory.mktemp("tape") / "both.itch", holder())])


def test_fills_positions_and_profit_are_those_of_the_tape_to_the_cent(traded: Result) -> None:
    report = traded.report
    assert traded.problems == []
    assert report["ok"]
    assert report["lane"] == "replay"
    assert report["market_data"] == {"sent": 12, "received": 12, "lost": 0, "repaired": 0}
    assert report["signals"] == 6
    assert report["orders"] == {
        "sent": 6, "acknowledged": 6, "filled": 5, "cancelled": 1, "rejected_by_venue": 0,
        "fills": 5, "filled_lots": 6,
    }  # fmt: skip
    abc = -3 * 100.00 + 2 * 99.05 + 1 * (99.10 + 100.00) / 2
    xyz = -50.00 + 49.50  # there is no offer: the bid is the mark
    assert report["pnl"] == {
        "profit": round(abc + xyz, 2),
        "by_symbol": {
            "ABC": {"fills": 4, "volume_lots": 5, "position_lots": 1, "mark": 99.55, "profit": round(abc, 2)},
            "XYZ": {"fills": 1, "volume_lots": 1, "position_lots": 1, "mark": 49.5, "profit": round(xyz, 2)},
        },
    }
    assert report["positions_match"]
    assert report["duplicates"] == 0


def test_what_is_open_at_the_end_is_taken_back(traded: Result) -> None:
    last = traded.journal[-1]
    assert (last["event"], last["price_ticks"], last["leaves_lots"]) == (ExecEvent.CANCELLED, 991_000, 0)
    assert traded.journal["seq"].tolist() == list(range(1, len(traded.journal) + 1))


def words_of(records: np.ndarray) -> Any:
    return np.ascontiguousarray(records).view(np.int64).reshape(len(records), -1)


def shown(digest: int) -> str:
    return f"{int(digest) & (1 << 64) - 1:016x}"


def test_the_digest_of_the_orders_is_that_of_the_orders_in_the_journal(traded: Result) -> None:
    sent = traded.journal[traded.journal["event"] == ExecEvent.SEND]
    orders = np.zeros(len(sent), ORDER)
    for name in (
        "cl_ord_id",
        "cause_seq",
        "price_ticks",
        "qty_lots",
        "instrument",
        "strategy",
        "shard",
        "side",
        "tif",
    ):
        orders[name] = sent[name]
    orders["k"], orders["action"] = sent["cl_ord_id"] & 0xFF, Action.NEW
    assert shown(fold(0, words_of(orders), len(orders), words_mask(ORDER))) == traded.report["digests"]["orders"]
    orders["price_ticks"][2] += 1
    assert shown(fold(0, words_of(orders), len(orders), words_mask(ORDER))) != traded.report["digests"]["orders"]


def test_the_digest_of_the_signals_is_that_of_decoder_and_strategies_by_themselves(
    traded: Result, tmp_path: Path
) -> None:
    """Datagram by datagram from Python; the conductor looks at ticks alone, so no report is needed."""
    config, tape = configure(), load_tape([trader().save(tmp_path / "both.itch", holder())])
    write_instruments(tape, tmp_path / "instruments.csv")
    table = load_instruments(tmp_path / "instruments.csv")
    exchange = OfflineExchange(tape, table.symbols)
    feed = make_state(
        table, 1024, 64, np.zeros(len(Count), np.int64), np.zeros(len(Channel), np.int64),
        np.zeros(len(table), TICK), np.zeros(len(table), np.int64),
    )  # fmt: skip
    engine = Engine(configured_strategies(config, ROOT), table, config.signals.series_capacity)
    ticks, signals = np.zeros(256, TICK), np.zeros(256, SIGNAL)
    digest = 0
    while exchange.next_datagram():
        n = decode(feed, exchange.replay.datagram, exchange.replay.lengths, 0, 1, 1, 0, ticks)
        done, made = engine.run(ticks[:n], signals, 1)
        assert done == n
        digest = fold(digest, words_of(signals), made, words_mask(SIGNAL))
    assert shown(digest) == traded.report["digests"]["signals"]


def test_several_files_play_as_one(traded: Result, tmp_path: Path) -> None:
    files = [trader().save(tmp_path / "abc.itch"), holder().save(tmp_path / "xyz.itch")]
    report = played(configure(), files).report
    for what in ("market_data", "ticks", "signals", "orders", "pnl", "digests"):
        assert report[what] == traded.report[what]
    assert "abc.itch" in report["source"]
    assert "xyz.itch" in report["source"]


@pytest.mark.parametrize("path", CME or [Path("none")], ids=lambda path: path.name)
def test_a_recorded_capture_of_cme_plays_through_the_whole_chain(path: Path) -> None:
    """Books of levels, crossed before the open: all of it arrives, and what is ordered on it ends."""
    if not CME:
        pytest.skip(f"the recorded market data is not here: {ROOT.parent / 'shared' / 'data'}")
    result = played(load_config(ROOT / "tickpath.toml"), [path])
    report = result.report
    assert (result.problems, report["ok"]) == ([], True)
    assert (report["market_data"]["lost"], report["market_data"]["received"]) == (0, len(load_tape([path])))
    assert report["ticks"] > 0


def test_cancels_of_the_strategy_reach_the_exchange(tmp_path: Path) -> None:
    paper = Paper()
    paper.add("S", 100, 1_000_000)
    paper.add("B", NOTHING, 990_000)
    for price in (990_100, 990_200):
        paper.add("B", BUY, price)
    paper.add("B", CANCEL, 990_300)
    result = played(configure(), [paper.save(tmp_path / "c.itch")])
    assert result.problems == []
    assert result.report["orders"]["cancelled"] == 2
    cancelled = result.journal[result.journal["event"] == ExecEvent.CANCELLED]
    assert set(result.journal["event"][-4:].tolist()) == {ExecEvent.CANCEL_SENT, ExecEvent.CANCELLED}
    assert cancelled["cum_lots"].tolist() == [0, 0]
    assert result.report["pnl"] == {"profit": 0, "by_symbol": {}}


def test_a_resting_order_is_filled_by_the_market_that_comes_to_it(tmp_path: Path) -> None:
    """Our bid stands behind one share of the same price; three are sold there."""
    paper = Paper()
    paper.add("S", 100, 1_000_000)
    paper.add("B", NOTHING, 990_000)
    first = paper.add("B", BUY, 991_000)
    paper.delete(first)
    paper.add("S", 3, 991_000)
    report = played(configure(), [paper.save(tmp_path / "r.itch")]).report
    assert report["orders"]["filled"] == 1
    assert report["pnl"]["by_symbol"]["ABC"]["position_lots"] == 1


def test_small_segments_of_the_journal_change_nothing(tmp_path: Path) -> None:
    """1,800 entries in segments of 1,024: nothing is refused because nobody had made the next one."""
    path = churner(600).save(tmp_path / "many.itch")
    large, small = (
        played(configure(exec={"journal_segment_entries": entries}), [path]) for entries in (1 << 16, 1024)
    )
    assert large.report["orders"]["filled"] == 600
    for what in ("orders", "pnl", "digests", "risk_rejects", "ok"):
        assert small.report[what] == large.report[what]
    for name in ("event", "cl_ord_id", "cum_lots", "venue_seq"):
        assert small.journal[name].tolist() == large.journal[name].tolist()


def test_a_tape_may_begin_at_midnight(tmp_path: Path) -> None:
    report = played(configure(), [churner(2, begin_ns=0).save(tmp_path / "m.itch")]).report
    assert report["orders"]["filled"] == 2


def test_after_the_close_nothing_more_is_sent(tmp_path: Path) -> None:
    """After the end of system hours every tick says that nothing trades: no strategy gets as far as an order."""
    paper = churner(2)
    paper.event("E")
    paper.add("B", BUY_NOW, 990_200)
    result = played(configure(), [paper.save(tmp_path / "close.itch")])
    assert (result.report["signals"], result.report["orders"]["sent"]) == (2, 2)
    assert result.journal[-1]["event"] == ExecEvent.FILL


def make_replay(paper: Paper, folder: Path) -> Replay:
    tape = load_tape([paper.save(folder / "tape.itch")])
    write_instruments(tape, folder / "instruments.csv")
    return Replay(configure(), tape, load_instruments(folder / "instruments.csv"), folder / "journal")


def test_the_loop_allocates_nothing_per_message(tmp_path: Path) -> None:
    grown = []
    for orders in (60, 60, 600):
        folder = tmp_path / f"{len(grown)}"
        folder.mkdir()
        replay = make_replay(churner(orders), folder)
        grown.append(blocks_grown(replay.run))
        assert replay.exec_counters[ExecCounter.ORDERS_FILLED] == orders
        replay.chain.orders.journal.close()
    assert grown[2] - grown[1] < 50  # a block a message would be 1,080 of them, one an order 540


def test_more_ticks_than_a_block_holds_come_in_the_same_order(tmp_path: Path) -> None:
    """100 steps of 30 ticks each: a block of the decoder ends after 1,024 ticks, long before its 64 steps."""
    paper = Paper()
    for step in range(100):
        for _ in range(30):
            paper.add("B", NOTHING, 900_000 + 100 * step)
            paper.now_ns -= 20 * MS
        paper.now_ns += 20 * MS
    replay = make_replay(paper, tmp_path)
    replay.run()
    assert replay.feed_counters[Count.TICKS] == replay.chain.engine.counters[SignalsCounter.TICKS] == 3000
    assert replay.feed_counters[Count.DATAGRAMS] == 100
    last = replay.chain.engine.series.last(0, 900)
    assert last["bid_ticks"].tolist() == [900_000 + 100 * step for step in range(70, 100) for _ in range(30)]
    assert last["bid_lots"].tolist() == [NOTHING * k for _ in range(30) for k in range(1, 31)]
    replay.chain.orders.journal.close()


def test_the_decoder_ends_when_the_chain_cannot_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is far ahead by then, and waits for blocks that nobody gives back."""
    replay = make_replay(churner(1000), tmp_path)
    before = threading.active_count()

    def fail() -> None:
        while replay.feed_counters[Count.DATAGRAMS] < 1024:
            time.sleep(0.001)
        assert threading.active_count() == before + 1
        msg = "no more"
        raise ReplayError(msg)

    monkeypatch.setattr(replay, "_play", fail)
    with pytest.raises(ReplayError, match="no more"):
        replay.run()
    assert threading.active_count() == before
    assert replay.feed_counters[Count.DATAGRAMS] == 1024, "16 blocks of 64 steps"
    replay.chain.orders.journal.close()


# What cannot be replayed.


def nothing_to_trade(folder: Path) -> bytes:
    return b"".join(itch.frame(itch.system_event(i, "O")) for i in range(3))


BAD_FILES: dict[str, tuple[Callable[[Path], bytes] | None, str]] = {
    "missing.itch": (None, "there is no such file"),
    "empty.itch": (lambda _: b"", "the file is empty"),
    "truncated.itch": (lambda folder: trader().save(folder / "whole").read_bytes()[:-5], "truncated"),
    "text.itch": (lambda _: b"this is not market data\n" * 100, "not ITCH 5.0"),
    "text.txt": (lambda _: b"hello world\n", "none of the kinds of data that play"),
    "damaged.itch.zst": (lambda _: b"\x28\xb5\x2f\xfd" + b"\0" * 100, "damaged"),
    "letters.csv": (lambda _: b"a,b,c,d,e,f\n" * 10, "letters.csv"),
    "quiet.itch": (nothing_to_trade, "nothing to trade on"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_clear_fault(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, said = BAD_FILES[name]
    path = tmp_path / name
    if make is not None:
        path.write_bytes(make(tmp_path))
    with pytest.raises(DataFileError):
        played(configure(), [path])
    assert module.main([str(tmp_path), str(path)]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    fault = json.loads(line)["fault"]
    assert said in fault
    assert name in fault
    assert "\n" not in fault


STRATEGY = {"TICKPATH_SIGNALS__STRATEGIES": json.dumps([{"path": CONDUCTOR, "id": 1}])}


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tickpath.cli", "replay", *map(str, arguments)], cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120", **STRATEGY, **environment},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]


def test_the_command_prints_the_report_for_programs_and_for_people(traded: Result, tmp_path: Path) -> None:
    path = trader().save(tmp_path / "both.itch", holder())
    done = command(path, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for what in ("orders", "pnl", "digests", "ok"):
        assert report[what] == traded.report[what]
    done = command(path)
    assert done.returncode == 0, done.stderr
    for part in ("ABC", "XYZ", "99.5500", "-2.85", traded.report["digests"]["signals"], "2 positions match"):
        assert part in done.stdout
    for table in ("Latency", "Processes"):  # of a running system: there is nothing to put in
        assert table not in done.stdout


def test_the_journal_is_kept_and_exported(traded: Result, tmp_path: Path) -> None:
    path = trader().save(tmp_path / "both.itch", holder())
    keep = tmp_path / "kept"
    done = command(path, "--json", "--keep", keep)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(read_journal(keep / "journal")["event"], traded.journal["event"])
    assert run_export(None, keep / "journal", tmp_path / "out", "csv", None, None, lambda _: None) == 0
    assert "ABC" in (tmp_path / "out" / "orders.csv").read_text()
    done = command(path, "--json", "--keep", keep)
    assert done.returncode == 2
    assert "new or empty" in done.stderr


def test_a_file_that_cannot_be_played_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    """With an empty cache: whatever takes a kernel would fill it."""
    text = tmp_path / "text.txt"
    text.write_text("hello world")
    cache = tmp_path / "cache"
    for path in (tmp_path / "none.itch", text):
        done = command(path, TICKPATH_CACHE=str(cache))
        assert done.returncode == 2
        assert path.name in last_line(done.stderr)
    assert not cache.exists() or not any(cache.rglob("*.nbi"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_replay_ends_with_its_command(number: signal.Signals, tmp_path: Path) -> None:
    """However that is ended; quietly, and nothing is left when it could be taken away."""
    path = churner(1).save(tmp_path / "c.itch")
    command(path)  # so that nothing has to be compiled
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tickpath.cli", "replay", str(path)], cwd=ROOT, start_new_session=True,
        env={**os.environ, **STRATEGY, "TMPDIR": str(scratch)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        child = ""
        while not child and process.poll() is None:
            child = children.read_text().strip()
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)  # both have ended: nobody holds the other side of stderr
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
    assert b"Traceback" not in complaints  # of a broken pipe, for example
    if number == signal.SIGTERM:
        assert not Path(f"/proc/{child}").exists()
        assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "environment", "said"),
    [
        ("none.itch", {}, "there is no such file"),
        ("both.itch", {"TICKPATH_SIGNALS__STRATEGIES": '[{"path": "nowhere.py:nothing", "id": 1}]'}, "nowhere.py"),
    ],
)
def test_the_users_mistake_is_one_line_and_status_2(
    file: str, environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    trader().save(tmp_path / "both.itch", holder())
    done = command(tmp_path / file, "--json", **environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in last_line(done.stderr)
    assert "Traceback" not in done.stderr
