"""Redis, for real: limits and kill switches are shared, latched, and survive the loss of either side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tickpath.cli.redis_server import RedisServer
from tickpath.common.clock import now_ns
from tickpath.common.config import RedisConfig, RiskConfig, StrategyConfig
from tickpath.common.instruments import make_table
from tickpath.common.pages import Control, Page, create_side_page
from tickpath.risk.limits import FIRST_SYMBOL_ROW, LIMIT, LimitError, Scope, TradingState
from tickpath.risk.state import CORE_SIZE, LIVE, Core
from tickpath.risk.store import Store, StoreError, connect
from tickpath.risk.sync import Sync, default_limits, names_of

TABLE = make_table([("A", "0.0001", 100, 1, 1, "USD"), ("B", "0.0001", 100, 1, 1, "USD")])
ROWS = FIRST_SYMBOL_ROW + 2
DEFAULTS = default_limits(
    RiskConfig.model_validate(
        {
            "limits": {
                "max_order_qty_lots": 1000, "max_order_notional": 1_000_000, "collar_aggressive_bps": 500,
                "collar_passive_bps": 2000, "max_spread_bps": 1000, "max_long_lots": 5000, "max_short_lots": 5000,
                "max_data_age_ms": 50, "order_rate": 10, "order_rate_window_ms": 1000,
            },
            "order_rate": 100,
        }
    )
)  # fmt: skip
LEASE_MS = 60_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def db(server: RedisServer) -> Iterator[redis.Redis]:
    """The same store seen by an operator with redis-cli, empty at the beginning."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.flushall()
        yield client


class Side:
    """A Sync on a side page of its own, with the page of a hot process that stands still."""

    def __init__(self, folder: Path, url: str) -> None:
        self.page = create_side_page(folder, "risk", {"limits": (LIMIT, (ROWS,))})
        self.hot = Page.create(folder / "hot.page", {"live": (LIVE, (ROWS,)), "core": ("<i8", (CORE_SIZE,))})
        self.hot["core"][Core.READY] = 1
        self.config = RedisConfig(url=url, timeout_ms=300)
        names = names_of(TABLE, (StrategyConfig(path="x:ema", id=3),))
        self.sync = Sync(Store(connect(self.config), "t"), names, self.page, LEASE_MS, lambda: self.hot)

    def state(self, row: int = 0) -> TradingState:
        return TradingState(int(self.page["limits"]["state"][row]))

    @property
    def lease_ns(self) -> int:
        return int(self.page["control"][Control.LEASE_UNTIL_NS])

    @property
    def version(self) -> int:
        return int(self.page["control"][Control.VERSION])


Story = Callable[[Side], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path, server: RedisServer) -> Callable[..., Side]:
    """Runs a coroutine on a Sync that has started; `url` for a Redis of its own."""

    def run(story: Story, *, url: str = "", start: bool = True) -> Side:
        side = Side(tmp_path, url or server.url)

        async def all_of_it() -> None:
            try:
                if start:
                    await side.sync.start(DEFAULTS)
                await story(side)
            finally:
                await side.sync.store.close()

        asyncio.run(all_of_it())
        return side

    return run


async def nothing(side: Side) -> None:
    """A story without events."""


class TestStart:
    def test_an_empty_store_gets_the_limits_of_the_configuration(self, db: Any, play: Any) -> None:
        side = play(nothing)
        assert db.hget("t:risk:limits", "SYMBOL:*.max_long_lots") == "5000"
        assert db.hget("t:risk:limits", "GLOBAL.max_open_orders") == "10000"
        assert db.hget("t:risk:limits", "STRATEGY:*.order_rate") == "unlimited", "written out"
        assert side.page["limits"]["max_long_lots"][FIRST_SYMBOL_ROW] == 5000
        assert side.state() == TradingState.ACTIVE
        assert side.lease_ns > now_ns()
        assert side.version == 2, "even: nobody writes"

    def test_what_the_store_holds_wins_over_the_configuration(self, db: Any, play: Any) -> None:
        db.hset("t:risk:limits", "SYMBOL:*.max_long_lots", "77")
        db.hset("t:risk:states", "GLOBAL", json.dumps({"state": "HALTED", "reason": "r", "who": "w", "at": "t"}))
        side = play(nothing)
        assert side.page["limits"]["max_long_lots"][FIRST_SYMBOL_ROW] == 77
        assert side.state() == TradingState.HALTED, "a restart comes up in the stored state"
        assert db.hget("t:risk:limits", "SYMBOL:*.max_long_lots") == "77"

    def test_a_second_start_changes_nothing(self, db: Any, play: Any) -> None:
        play(nothing)
        before = db.get("t:risk:version")
        play(nothing)
        assert db.get("t:risk:version") == before == "1"

    def test_no_store_no_start(self, play: Any, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="ConnectionError"):
            play(nothing, url=f"unix://{tmp_path}/none.sock?db=0")

    def test_nonsense_in_the_store_no_start(self, db: Any, play: Any) -> None:
        db.hset("t:risk:limits", mapping={"SYMBOL:A.max_long_lots": "-1", "GLOBAL.order_rate": "fast"})
        with pytest.raises(LimitError) as error:
            play(nothing)
        assert len(error.value.faults) == 2
        db.delete("t:risk:limits")
        db.hset("t:risk:states", "GLOBAL", "off")
        with pytest.raises(StoreError, match="state of GLOBAL in Redis is 'off'"):
            play(nothing)


class TestTrading:
    def test_a_poll_without_changes_renews_the_lease_and_writes_nothing(self, db: Any, play: Any) -> None:
        async def story(side: Side) -> None:
            lease, version, stored = side.lease_ns, side.version, db.get("t:risk:version")
            await side.sync.step()
            assert side.sync.fault is None
            assert side.lease_ns > lease
            assert (side.version, db.get("t:risk:version")) == (version, stored)

        play(story)

    def test_a_changed_limit_is_in_force_when_the_call_returns(self, db: Any, play: Any) -> None:
        async def story(side: Side) -> None:
            await side.sync.set_limits(Scope.SYMBOL, "B", {"max_long_lots": 7}, "test", "me")
            assert side.page["limits"]["max_long_lots"][FIRST_SYMBOL_ROW:].tolist() == [5000, 7]
            await side.sync.set_limits(Scope.SYMBOL, "*", {"max_long_lots": "unlimited"}, "test", "me")
            assert side.page["limits"]["max_long_lots"][FIRST_SYMBOL_ROW:].tolist() == [2**62, 7]
            (newest,) = await side.sync.store.audit(1)
            assert {"what": "limits", "key": "SYMBOL:*", "who": "me", "reason": "test"}.items() <= newest.items()

        play(story)
        assert db.get("t:risk:version") == "3"

    def test_a_wrong_limit_changes_nothing(self, db: Any, play: Any) -> None:
        async def story(side: Side) -> None:
            for given in ({"max_long_lots": -1, "order_rate": 5}, {}, {"what": 1}):
                with pytest.raises(LimitError):
                    await side.sync.set_limits(Scope.SYMBOL, "B", given, "test", "me")

        play(story)
        assert db.get("t:risk:version") == "1"

    def test_changes_by_others_are_seen_at_the_next_step(self, db: Any, play: Any) -> None:
        async def story(side: Side) -> None:
            db.hset("t:risk:limits", "SYMBOL:A.max_long_lots", "9")
            await side.sync.step()
            assert side.page["limits"]["max_long_lots"][FIRST_SYMBOL_ROW] == 5000, "no version, no change"
            db.incr("t:risk:version")
            await side.sync.step()
            assert side.page["limits"]["max_long_lots"][FIRST_SYMBOL_ROW] == 9

        play(story)

    def test_nonsense_written_by_others_ends_the_lease_and_keeps_the_limits(self, db: Any, play: Any) -> None:
        async def story(side: Side) -> None:
            lease = side.lease_ns
            db.hset("t:risk:limits", "SYMBOL:A.max_long_lots", "lots")
            db.incr("t:risk:version")
            await side.sync.step()
            assert "SYMBOL:A.max_long_lots = 'lots': not a number" in (side.sync.fault or "")
            assert side.page["limits"]["max_long_lots"][FIRST_SYMBOL_ROW] == 5000
            assert side.lease_ns == lease
            db.hdel("t:risk:limits", "SYMBOL:A.max_long_lots")
            db.incr("t:risk:version")
            await side.sync.step()
            assert side.sync.fault is None
            assert side.lease_ns > lease

        play(story)

    def test_positions_are_copied_when_they_change(self, db: Any, play: Any) -> None:
        async def story(side: Side) -> None:
            await side.sync.step()
            assert json.loads(db.hget("t:risk:positions", "A"))["position_lots"] == 0
            side.hot["live"]["position_lots"][FIRST_SYMBOL_ROW] = -5
            db.hdel("t:risk:positions", "B")
            await side.sync.step()
            assert json.loads(db.hget("t:risk:positions", "A"))["position_lots"] == -5
            assert db.hget("t:risk:positions", "B") is None, "unchanged, not written"

        play(story)

    def test_positions_that_are_not_known_are_not_copied(self, db: Any, play: Any) -> None:
        async def story(side: Side) -> None:
            side.hot["core"][Core.READY] = 0
            await side.sync.step()
            assert not db.exists("t:risk:positions")

        play(story)


class TestKillSwitch:
    @pytest.mark.parametrize(
        ("key", "row"),
        [("GLOBAL", 0), ("ACCOUNT:main", 128), ("STRATEGY:ema", 3), ("SYMBOL:B", FIRST_SYMBOL_ROW + 1)],
    )
    def test_holds_until_it_is_re_armed(self, db: Any, play: Any, key: str, row: int) -> None:
        async def story(side: Side) -> None:
            switch, stored = await side.sync.kill(key, TradingState.HALTED, "drill", "me")
            assert (switch.state, stored, side.state(row)) == (TradingState.HALTED, True, TradingState.HALTED)
            await side.sync.kill(key, TradingState.REDUCING, "milder", "you")
            await side.sync.step()
            assert side.state(row) == TradingState.HALTED, "a kill never lifts one"
            assert side.sync.states()[key]["who"] == "me"
            await side.sync.rearm(key, TradingState.ACTIVE, "drill is over", "me")
            assert side.state(row) == TradingState.ACTIVE
            assert [line["what"] for line in await side.sync.store.audit(2)] == ["rearm", "kill"]

        play(story)

    def test_survives_a_restart(self, db: Any, play: Any) -> None:
        async def story(side: Side) -> None:
            await side.sync.kill("SYMBOL:A", TradingState.REDUCING, "drill", "me")

        play(story)
        assert play(nothing).state(FIRST_SYMBOL_ROW) == TradingState.REDUCING

    def test_an_alarm_of_the_hot_process_becomes_a_switch_that_needs_a_re_arm(self, db: Any, play: Any) -> None:
        async def story(side: Side) -> None:
            side.hot["live"]["trips"][FIRST_SYMBOL_ROW] = 1
            await side.sync.step()
            assert side.state(FIRST_SYMBOL_ROW) == TradingState.REDUCING
            assert side.sync.states()["SYMBOL:A"]["who"] == "risk"
            assert side.page["limits"]["trips_handled"][FIRST_SYMBOL_ROW] == 1
            await side.sync.rearm("SYMBOL:A", TradingState.ACTIVE, "looked into it", "me")
            await side.sync.step()
            assert side.state(FIRST_SYMBOL_ROW) == TradingState.ACTIVE
            side.hot["live"]["trips"][FIRST_SYMBOL_ROW] = 2
            await side.sync.step()
            assert side.state(FIRST_SYMBOL_ROW) == TradingState.REDUCING

        play(story)


class TestWithoutRedis:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[RedisServer]:
        """A Redis that the test may stop and start again: it comes back empty."""
        server = RedisServer(tmp_path / "own", port=None, unix_socket=tmp_path / "r.sock")
        with server:
            yield server

    def test_lease_is_not_renewed_and_trading_resumes_when_it_is_back(self, own: RedisServer, play: Any) -> None:
        async def story(side: Side) -> None:
            lease = side.lease_ns
            own.stop()
            await side.sync.step()
            assert (side.sync.fault or "").startswith("Redis: ConnectionError")
            assert side.lease_ns == lease
            own.start()
            await side.sync.step()
            assert side.sync.fault is None
            assert side.lease_ns > lease

        play(story, url=own.url)

    def test_a_kill_switch_holds_at_once_and_is_stored_when_redis_is_back(self, own: RedisServer, play: Any) -> None:
        async def story(side: Side) -> None:
            own.stop()
            switch, stored = await side.sync.kill("GLOBAL", TradingState.HALTED, "now", "me")
            assert (switch.state, stored, side.state()) == (TradingState.HALTED, False, TradingState.HALTED)
            assert side.sync.states()["GLOBAL"]["stored"] is False
            with pytest.raises(StoreError):
                await side.sync.rearm("GLOBAL", TradingState.ACTIVE, "no", "me")
            assert side.state() == TradingState.HALTED, "without Redis nothing is lifted"
            own.start()
            await side.sync.step()
            assert side.state() == TradingState.HALTED
            assert side.sync.states()["GLOBAL"]["stored"] is True
            assert (await side.sync.store.read()).states["GLOBAL"].who == "me"

        play(story, url=own.url)

    def test_a_redis_that_lost_its_data_gets_back_what_is_in_force(self, own: RedisServer, play: Any) -> None:
        async def story(side: Side) -> None:
            await side.sync.set_limits(Scope.SYMBOL, "A", {"max_long_lots": 3}, "test", "me")
            await side.sync.kill("SYMBOL:B", TradingState.HALTED, "drill", "me")
            await side.sync.step()
            before = side.page["limits"].tobytes()
            own.stop()
            own.start()
            await side.sync.step()  # finds out that its connection is gone
            await side.sync.step()
            assert side.sync.fault is None
            assert side.page["limits"].tobytes() == before
            shared = await side.sync.store.read()
            assert shared.limits["SYMBOL:A"]["max_long_lots"] == "3"
            assert shared.states["SYMBOL:B"].state == TradingState.HALTED
            assert shared.version >= 3

        play(story, url=own.url)

    def test_limits_are_not_changed(self, own: RedisServer, play: Any) -> None:
        async def story(side: Side) -> None:
            own.stop()
            with pytest.raises(StoreError):
                await side.sync.set_limits(Scope.SYMBOL, "A", {"max_long_lots": 3}, "test", "me")
            assert side.page["limits"]["max_long_lots"][FIRST_SYMBOL_ROW] == 5000

        play(story, url=own.url)


def test_a_kill_is_not_undone_by_a_poll_that_began_before_it(db: Any, play: Any) -> None:
    async def story(side: Side) -> None:
        for _ in range(20):
            await asyncio.gather(
                side.sync.step(),
                side.sync.kill("GLOBAL", TradingState.HALTED, "drill", "me"),
                side.sync.set_limits(Scope.SYMBOL, "A", {"max_long_lots": 3}, "test", "me"),
                side.sync.step(),
            )
            assert side.state() == TradingState.HALTED
            await side.sync.rearm("GLOBAL", TradingState.ACTIVE, "again", "me")
            assert side.state() == TradingState.ACTIVE

    play(story)


def test_two_side_processes_agree(db: Any, server: RedisServer, tmp_path: Path) -> None:
    """A switch tripped on one is in force on the other after its next step."""

    async def story() -> None:
        first, second = Side(tmp_path / "1", server.url), Side(tmp_path / "2", server.url)
        for side in (first, second):
            await side.sync.start(DEFAULTS)
        await first.sync.kill("STRATEGY:ema", TradingState.HALTED, "drill", "me")
        await second.sync.step()
        assert second.state(3) == TradingState.HALTED
        await second.sync.rearm("STRATEGY:ema", TradingState.ACTIVE, "over", "you")
        await first.sync.step()
        assert first.state(3) == TradingState.ACTIVE
        for side in (first, second):
            await side.sync.store.close()

    asyncio.run(story())
