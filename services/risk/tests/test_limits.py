"""Limits as people write them: checked all at once, and turned into the rows that the kernel reads."""

from __future__ import annotations

import numpy as np
import pytest

from tickpath.common.config import LimitsConfig, RiskConfig, StrategyConfig
from tickpath.common.instruments import make_table
from tickpath.risk.limits import (
    FIELDS,
    FIRST_SYMBOL_ROW,
    UNLIMITED,
    LimitError,
    Scope,
    TradingState,
    check_limits,
    fields_of,
    split_key,
)
from tickpath.risk.store import Shared, StoreError, Switch
from tickpath.risk.sync import default_limits, names_of, rows_of

TABLE = make_table(
    [("A", "0.0001", 100, 1, 1, "USD"), ("B", "0.0001", 100, 1, 1, "USD"), ("F", "0.25", 1, 1, 50, "USD")]
)
STRATEGIES = tuple(StrategyConfig(path=path, id=3 + i) for i, path in enumerate(("x:ema", "y:ema", "z:one")))
NAMES = names_of(TABLE, STRATEGIES)
HALTED = Switch(TradingState.HALTED, "r", "w")
SYMBOL = {
    "max_order_qty_lots": 1000, "max_order_notional": 1_000_000, "collar_aggressive_bps": 500,
    "collar_passive_bps": 2000, "max_spread_bps": "unlimited", "max_long_lots": 5000, "max_short_lots": 4000,
    "max_data_age_ms": 50, "order_rate": 10, "order_rate_window_ms": 1000,
}  # fmt: skip


def config(**changes: object) -> RiskConfig:
    values = {"limits": SYMBOL, "order_rate": 100, "max_open_orders": 50} | changes
    return RiskConfig.model_validate(values)


def shared(**own: dict[str, str]) -> Shared:
    return Shared(1, {**default_limits(config()), **{k.replace("_", ":", 1): v for k, v in own.items()}})


class TestChecking:
    def test_every_fault_is_reported_at_once_with_what_is_allowed(self) -> None:
        given = SYMBOL | {
            "max_order_qty_lots": -1, "max_order_notional": "much", "order_rate": 1025, "collar_passive_bps": 1.5,
            "max_data_age_ms": "nan", "order_rate_window_ms": "unlimited", "max_sadness": 1,
        }  # fmt: skip
        del given["max_long_lots"]
        with pytest.raises(LimitError) as error:
            check_limits(Scope.SYMBOL, given, whole=True, where="risk.limits")
        faults = dict(line.split(":", 1) for line in error.value.faults)
        assert set(faults) == {
            "risk.limits.max_order_qty_lots = -1",
            "risk.limits.max_order_notional = 'much'",
            "risk.limits.order_rate = 1025",
            "risk.limits.collar_passive_bps = 1.5",
            "risk.limits.max_data_age_ms = 'nan'",
            "risk.limits.order_rate_window_ms = 'unlimited'",
            "risk.limits.max_sadness",
            "risk.limits.max_long_lots",
        }
        assert "allowed is 0 to 1024 or 'unlimited'" in faults["risk.limits.order_rate = 1025"]
        assert "must be set" in faults["risk.limits.max_long_lots"]

    @pytest.mark.parametrize("value", ["inf", "-inf", "1e400", True, None, "", "0x10", [1]])
    def test_what_is_no_number_in_range_is_refused(self, value: object) -> None:
        with pytest.raises(LimitError):
            check_limits(Scope.SYMBOL, {"max_long_lots": value}, whole=False, where="x")

    def test_money_may_have_decimals_down_to_the_unit_that_is_kept(self) -> None:
        good = {"max_order_notional": "1000.00000001"}
        assert check_limits(Scope.SYMBOL, good, whole=False, where="x") == good
        with pytest.raises(LimitError, match="too many decimals"):
            check_limits(Scope.SYMBOL, {"max_order_notional": "1000.000000001"}, whole=False, where="x")

    def test_a_scope_takes_only_the_limits_that_it_has(self) -> None:
        with pytest.raises(LimitError, match="GLOBAL has no such limit; it has order_rate, order_rate_window_ms"):
            check_limits(Scope.GLOBAL, {"max_long_lots": 1}, whole=False, where="x")

    def test_the_configuration_covers_every_limit_of_a_symbol(self) -> None:
        assert set(LimitsConfig.model_fields) == set(fields_of(Scope.SYMBOL))

    def test_a_limit_beyond_what_the_kernel_can_hold_is_an_error_of_the_configuration(self) -> None:
        with pytest.raises(LimitError, match=r"risk\.order_rate = 5000: out of range; allowed is 0 to 4096"):
            default_limits(config(order_rate=5000))


class TestRows:
    def test_units(self) -> None:
        row = rows_of(shared(), NAMES, {})[FIRST_SYMBOL_ROW]
        assert row["max_order_notional_e8"] == 1_000_000 * 10**8
        assert row["tick_value_e8"] == 10_000
        assert row["max_data_age_ns"] == 50_000_000
        assert row["max_spread_bps"] == UNLIMITED
        assert row["max_open_orders"] == UNLIMITED, "a symbol has no such limit"
        assert (row["price_step_ticks"], row["qty_step_lots"], row["state"]) == (100, 1, TradingState.ACTIVE)

    def test_the_multiplier_is_part_of_the_value_of_a_tick(self) -> None:
        assert rows_of(shared(), NAMES, {})[FIRST_SYMBOL_ROW + 2]["tick_value_e8"] == 25 * 50 * 10**6

    def test_a_symbol_overrides_single_limits_and_keeps_the_other_defaults(self) -> None:
        rows = rows_of(shared(SYMBOL_B={"max_long_lots": "7"}), NAMES, {})[FIRST_SYMBOL_ROW:]
        assert rows["max_long_lots"].tolist() == [5000, 7, 5000]
        assert rows["max_short_lots"].tolist() == [4000] * 3

    def test_wide_scopes(self) -> None:
        rows = rows_of(shared(STRATEGY_one={"order_rate": "2"}), NAMES, {})
        assert (rows[0]["order_rate"], rows[0]["max_open_orders"]) == (100, 50)
        assert rows["order_rate"][[1, 5, 127, 128]].tolist() == [UNLIMITED, 2, UNLIMITED, UNLIMITED]

    def test_the_worse_of_stored_and_pending_states_holds(self) -> None:
        stored = shared()
        stored.states = {"SYMBOL:A": HALTED, "GLOBAL": Switch(TradingState.ACTIVE, "r", "w")}
        pending = {"SYMBOL:A": Switch(TradingState.REDUCING, "r", "w"), "STRATEGY:one": HALTED}
        states = rows_of(stored, NAMES, pending)["state"]
        assert states[[0, 5, FIRST_SYMBOL_ROW, FIRST_SYMBOL_ROW + 1]].tolist() == [0, 2, 2, 0]

    def test_limits_of_symbols_that_others_have_are_left_alone(self) -> None:
        rows = rows_of(shared(SYMBOL_ZZZ={"max_long_lots": "junk"}), NAMES, {})
        assert (rows["max_long_lots"][FIRST_SYMBOL_ROW:] == 5000).all()

    def test_nonsense_in_the_store_is_refused_as_a_whole(self) -> None:
        with pytest.raises(LimitError) as error:
            rows_of(shared(SYMBOL_A={"max_long_lots": "-4"}, SYMBOL_B={"order_rate": "x"}), NAMES, {})
        where = [fault.split(" = ")[0] for fault in error.value.faults]
        assert where == ["SYMBOL:A.max_long_lots", "SYMBOL:B.order_rate"]

    def test_a_missing_default_is_refused(self) -> None:
        stored = shared()
        del stored.limits["SYMBOL:*"]["max_long_lots"]
        with pytest.raises(LimitError, match=r"SYMBOL:\*\.max_long_lots: must be set"):
            rows_of(stored, NAMES, {})

    def test_every_column_of_a_row_is_written(self) -> None:
        """No limit stays 0 because somebody forgot it."""
        rows = rows_of(shared(), NAMES, {})
        columns = {field.column for field in FIELDS.values()}
        assert all(np.all(rows[column][[0, 1, 127, 128, 129, 131]] > 0) for column in columns)


class TestNames:
    def test_strategies_are_called_as_their_function_or_by_id(self) -> None:
        assert NAMES.strategies == {"ema.3": 3, "ema.4": 4, "one": 5}
        assert NAMES.row(Scope.STRATEGY, "one") == NAMES.row(Scope.STRATEGY, "5") == 5
        assert NAMES.key(Scope.STRATEGY, "5") == "STRATEGY:one"
        assert NAMES.key(Scope.STRATEGY, "99") == "STRATEGY:99"

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("SYMBOL:ZZZ", "no symbol 'ZZZ' in the instrument table of 3"),
            ("STRATEGY:two", r"no strategy 'two'; there are ema\.3, ema\.4, one"),
            ("STRATEGY:0", "an id from 1 to 127"),
            ("STRATEGY:128", "an id from 1 to 127"),
            ("ACCOUNT:x", "no account 'x'; there is 'main'"),
            ("DESK:x", "no scope 'DESK'; there are GLOBAL, ACCOUNT, STRATEGY, SYMBOL"),
        ],
    )
    def test_what_is_not_there_is_said_with_what_is(self, key: str, said: str) -> None:
        with pytest.raises(LimitError, match=said):
            NAMES.row(*split_key(key))


@pytest.mark.parametrize("text", ["", "HALTED", "{}", '{"state": "OFF", "reason": "", "who": "", "at": ""}', "[1]"])
def test_a_stored_state_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(StoreError, match="state of GLOBAL in Redis"):
        Switch.from_json("GLOBAL", text)
