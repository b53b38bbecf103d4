"""``python -m tickpath.cli.fused.replay FOLDER FILE...``: the whole chain over recorded data, no sockets, no clock.

The same kernels as live, the simulated exchange's own matching, the journal and the report. FOLDER, which is empty,
takes the journal and the instrument table. Time is the exchange's, so there are no latencies to report.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tickpath.cli.figures import counted
from tickpath.cli.fused.chain import Chain
from tickpath.cli.fused.kernels.ahead import Ahead, decode_ahead
from tickpath.cli.fused.kernels.replay import replay
from tickpath.cli.fused.layout import Why
from tickpath.cli.report import Evidence, find_problems, make_report
from tickpath.common import histogram
from tickpath.common.config import Config, ConfigError, config_path, load_config
from tickpath.common.instruments import InstrumentTable, load_instruments
from tickpath.common.pages import Control, Hot
from tickpath.common.records import NO_PRICE_TICKS, ORDER, TICK, ExecEvent, Side
from tickpath.exec.gateway import order_templates
from tickpath.exec.journal import Journal, positions_from
from tickpath.exec.layout import Counter as ExecCounter
from tickpath.exec.layout import Hop as ExecHop
from tickpath.exec.layout import Reg as ExecReg
from tickpath.exec.layout import Sweep
from tickpath.exec.orders import Orders
from tickpath.feed.kernels.decode import make_state
from tickpath.feed.layout import Channel, Count
from tickpath.risk.layout import Counter as RiskCounter
from tickpath.risk.layout import Hop as RiskHop
from tickpath.risk.limits import FIRST_SYMBOL_ROW, LimitError
from tickpath.risk.reasons import Reason
from tickpath.risk.state import CORE_REASONS, Core, RiskState
from tickpath.risk.store import Shared
from tickpath.risk.sync import default_limits, names_of, rows_of
from tickpath.signals.core import configured_strategies
from tickpath.signals.engine import Engine
from tickpath.signals.layout import Counter as SignalsCounter
from tickpath.signals.strategy import StrategyError
from tickpath.sim.kernels.matching import EXCH_NS
from tickpath.sim.layout import Counter as SimCounter
from tickpath.sim.offline import OfflineExchange
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import DataFileError, Tape, write_instruments

_SEND_BYTES: Final = 1 << 22
_OUT_SPARE: Final = 1024
_FOREVER: Final = 1 << 62


class ReplayError(Exception):
    """The replay cannot run or cannot go on; says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a replay found."""

    report: dict[str, Any]
    problems: list[str]
    positions: Mapping[str, int]  # symbol -> lots at the end by the journal, no zeros
    journal: Any  # REPORT[n]


class Replay:
    """One pass over a tape: build, `run`, `result`."""

    def __init__(self, config: Config, tape: Tape, table: InstrumentTable, folder: Path) -> None:
        """`folder` takes the journal. Raises ReplayError, StrategyError, LimitError."""
        self.config, self.tape, self.table = config, tape, table
        n = len(table)
        options = config.feed
        self.feed_counters = np.zeros(len(Count), np.int64)
        self.marks = np.zeros(n, TICK)
        feed = make_state(
            table, options.order_capacity, options.level_capacity, self.feed_counters,
            np.zeros(len(Channel), np.int64), self.marks, np.zeros(n, np.int64),
        )  # fmt: skip
        engine = Engine(
            configured_strategies(config, config_path().resolve().parent), table, config.signals.series_capacity
        )
        control = np.zeros(len(Control), np.int64)
        control[Control.LEASE_UNTIL_NS] = _FOREVER
        capacity = config.risk.order_capacity
        limits = rows_of(Shared(limits=default_limits(config.risk)), names_of(table, config.signals.strategies), {})
        risk = RiskState(
            limits, capacity, control, np.zeros(capacity + _OUT_SPARE, ORDER), histogram.empty(len(RiskHop)),
            cancel_repeat_ns=config.risk.cancel_repeat_ms * 1_000_000,
        )  # fmt: skip
        risk.core[Core.READY] = 1
        journal = Journal.open(folder, 1, entries=config.exec.journal_segment_entries)
        self.exec_counters = np.zeros(len(ExecCounter), np.int64)
        self.exec_hist = histogram.empty(len(ExecHop))
        orders = Orders(journal, table.array, self.exec_counters, self.exec_hist, capacity=config.exec.order_capacity)
        self.exchange = OfflineExchange(
            tape, table.symbols, datagram_bytes=config.sim.datagram_bytes,
            order_capacity=options.order_capacity, level_capacity=options.level_capacity,
        )  # fmt: skip
        self._connect(orders)
        self.risk_counters = np.zeros(len(RiskCounter), np.int64)
        self.chain = Chain(
            feed, engine, risk, orders,
            feed_hist=histogram.empty(1)[0], risk_counters=self.risk_counters,
            controls={"feed": np.zeros(len(Control), np.int64), "risk": control},
        )  # fmt: skip
        self.ahead = Ahead.create(len(self.chain.ticks))
        self.seconds = 0.0

    def _connect(self, orders: Orders) -> None:
        """Let exec write to and read from the exchange's memory, as it does to a socket's buffers."""
        self._send = np.zeros(_SEND_BYTES, np.uint8)
        self._templates = order_templates(self.table)
        reports, ctx = self.exchange.replay.desk.reports, orders.ctx
        ctx[ExecReg.SEND], ctx[ExecReg.SEND_SIZE] = self._send.ctypes.data, _SEND_BYTES
        ctx[ExecReg.RECEIVE], ctx[ExecReg.RECEIVE_SIZE] = reports.ctypes.data, len(reports)
        ctx[ExecReg.TEMPLATES], ctx[ExecReg.INSTRUMENTS] = self._templates.ctypes.data, len(self.table)
        ctx[ExecReg.CONNECTED] = 1
        orders.set_refusal(None)
        orders.prepare_segment()

    def run(self) -> None:
        """Play the tape to its end, then take back what is open. Raises ReplayError."""
        decoder = threading.Thread(target=decode_ahead, args=(self.ahead, self.chain.feed, self.exchange.replay))
        began = time.perf_counter()
        decoder.start()
        try:
            self._play()
        finally:
            self.ahead.stop()
            decoder.join()
        self.seconds = time.perf_counter() - began
        orders = self.chain.orders
        while orders.open_count:
            open_before = orders.open_count
            orders.sweep(Sweep.CANCEL_ALL, 0, self._now())
            orders.sweep(Sweep.REPEAT_CANCELS, _FOREVER, self._now())
            self._play()
            if orders.open_count == open_before:
                break
        self.exchange.end_of_day()
        self._play()
        orders.publish()

    def _now(self) -> int:
        return int(self.exchange.replay.exchange.state[EXCH_NS])

    def _play(self) -> None:
        chain = self.chain
        while True:
            why = Why(replay(chain.words, chain.risk.context, chain.orders.ctx, self.ahead, self.exchange.replay))
            if why is Why.END:
                return
            if not chain.settle(why, self._now()):
                msg = f"the chain stopped at {self._now()} ns of the exchange's day: {why.name}"
                raise ReplayError(msg)
            chain.orders.prepare_segment()  # nobody tends the journal here

    def result(self) -> Result:
        """The report, in the form of `tickpath demo`, with the P&L and the speed."""
        journal = self.chain.orders.journal
        entries = [journal.read(1, 1)[:0]]
        seq = 1
        while len(part := journal.read(seq, 1 << 16)):
            entries.append(part)
            seq += len(part)
        reports = np.concatenate(entries)
        evidence = self._evidence(reports)
        report, problems = make_report(evidence), find_problems(evidence)
        n = int(self.feed_counters[Count.MESSAGES])
        report["messages_per_s"] = round(n / self.seconds) if self.seconds else 0
        report["pnl"] = self._profit(reports)
        return Result(report, problems, evidence.positions["journal"], reports)

    def _evidence(self, reports: Any) -> Evidence:
        chain, symbols = self.chain, self.table.symbols
        exchange = self.exchange.replay.exchange
        core = chain.risk.core

        def named(enum: Any, counters: Any) -> dict[str, int]:
            return {member.name.lower(): int(counters[member]) for member in enum}

        sim = named(SimCounter, exchange.counters)
        sim["messages_sent"] = len(self.tape)
        risk = named(RiskCounter, self.risk_counters)
        digests = {"signals": chain.hots["signals"], "orders": chain.hots["risk"]}
        held = chain.risk.live["position_lots"][FIRST_SYMBOL_ROW:]
        return Evidence(
            seconds=self.seconds,
            source=f"{self.tape.source}: {len(self.tape)} messages, {counted(len(self.tape.symbols), 'symbol')}",
            counters={
                "feed": named(Count, self.feed_counters),
                "signals": named(SignalsCounter, chain.engine.counters),
                "risk": risk,
                "exec": named(ExecCounter, self.exec_counters),
                "sim": sim,
            },
            risk_core={member.name.lower(): int(core[member]) for member in Core},
            risk_reasons={reason.name: int(k) for reason in Reason if (k := core[CORE_REASONS + reason]) and reason},
            journal=reports,
            positions={
                "risk": {symbols[i]: int(lots) for i, lots in enumerate(held) if lots},
                "journal": {symbols[i]: lots for i, lots in positions_from(reports).items() if lots},
                "exchange": {symbols[i]: int(lots) for i, lots in enumerate(exchange.positions) if lots},
            },
            lane="replay",
            digests={name: f"{int(hot[Hot.DIGEST]) & (1 << 64) - 1:016x}" for name, hot in digests.items()},
        )

    def _profit(self, reports: Any) -> dict[str, Any]:
        """Cash of all fills plus the position at the last mid price, before fees, in the instruments' currency."""
        fills = reports[reports["event"] == ExecEvent.FILL]
        total, by_symbol = 0.0, {}
        for i, symbol in enumerate(self.table.symbols):
            mine = fills[fills["instrument"] == i]
            if not len(mine):
                continue
            item = self.table.array[i]
            per_tick = int(item["tick_value_e8"]) / 1e8
            signed = np.where(mine["side"] == Side.BUY, mine["last_lots"], -mine["last_lots"])
            position = int(signed.sum())
            mark = self.marks[i]
            sides = [int(mark[k]) for k in ("bid_ticks", "ask_ticks") if mark[k] != NO_PRICE_TICKS]
            mid = sum(sides) / len(sides) if sides else 0.0
            cash = -float((signed * mine["last_ticks"]).sum()) * per_tick
            value = cash + position * mid * per_tick
            by_symbol[symbol] = {
                "fills": len(mine), "volume_lots": int(mine["last_lots"].sum()), "position_lots": position,
                "mark": round(mid * per_tick, 6), "profit": round(value, 2),
            }  # fmt: skip
            total += value
        return {"profit": round(total, 2), "by_symbol": by_symbol}


def replay_files(config: Config, files: Sequence[Path], folder: Path) -> Result:
    """Replay recorded files as one tape; journal and instrument table are left in `folder`.

    Raises ReplayError, DataFileError, StrategyError, LimitError.
    """
    tape = load_tape(list(files))
    if not tape.symbols:
        msg = f"{tape.source}: there is no order or trade of any symbol in it, so there is nothing to trade on"
        raise DataFileError(msg)
    write_instruments(tape, folder / "instruments.csv")
    replay = Replay(config, tape, load_instruments(folder / "instruments.csv"), folder / "journal")
    replay.run()
    result = replay.result()
    replay.chain.orders.journal.close()
    return result


def main(arguments: Sequence[str]) -> int:
    """Replay, print one JSON object with the report, what is not ok, and the positions."""
    folder, *files = map(Path, arguments)
    try:
        result = replay_files(load_config(), files, folder)
    except (ConfigError, DataFileError, ReplayError, StrategyError, LimitError) as error:
        sys.stdout.write(json.dumps({"fault": str(error)}) + "\n")
        return 2
    said = {"report": result.report, "problems": result.problems, "positions": result.positions}
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
