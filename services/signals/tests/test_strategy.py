"""Declaring, finding, compiling and changing a strategy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tickpath.common.instruments import InstrumentTable
from tickpath.common.records import SIGNAL, TICK
from tickpath.signals.engine import Engine, Running
from tickpath.signals.strategy import Param, Strategy, StrategyError, load_strategy

HEAD = "from tickpath.signals.strategy import *\nfrom tickpath.signals.strategy import Param\nimport numpy as np\n"


def load(tmp_path: Path, body: str, name: str = "mine") -> Strategy:
    """Write a strategy file and load it; its first line is line 4."""
    (tmp_path / "mine.py").write_text(HEAD + body, "utf-8")
    return load_strategy(f"mine.py:{name}", tmp_path)


def test_the_shortest_strategy_sends_an_order(tmp_path: Path, two_instruments: InstrumentTable) -> None:
    """The README's claim: this is all that a user writes."""
    mine = load(tmp_path, "@strategy()\ndef mine(tick, out):\n    buy(out, 1, tick.ask_ticks, IOC)\n")
    out, ticks = np.zeros(8, SIGNAL), np.zeros(1, TICK)
    ticks["ask_ticks"] = 500
    assert Engine([Running(mine, 1)], two_instruments).run(ticks, out, 0) == (1, 1)
    assert (out[0]["price_ticks"], out[0]["qty_lots"]) == (500, 1)


def test_the_strategy_in_the_documentation_compiles_and_is_configured_as_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "signals.md").read_text("utf-8")
    python, toml = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "toml"))
    assert python is not None
    assert toml is not None
    (item,) = tomllib.loads(toml[1])["signals"]["strategies"]
    (tmp_path / "dip.py").write_text(python[1], "utf-8")
    dip = load_strategy(item["path"], tmp_path)
    dip.check()
    assert dip.make_params(item["params"])[0]["lots"] == 50


PARAMS = """
@strategy(params={"n": 5, "x": Param(0.5, least=0.0, most=1.0), "on": True})
def mine(tick, params, out):
    pass
"""


def test_parameters_have_their_defaults_and_the_types_of_them(tmp_path: Path) -> None:
    mine = load(tmp_path, PARAMS)
    assert mine.make_params({})[0].tolist()[:3] == (5, 0.5, True)
    assert mine.make_params({"n": 7, "x": 1, "on": False})[0].tolist()[:3] == (7, 1.0, False)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"m": 1}, "there is no parameter 'm'; there are n, x, on"),
        ({"n": 1.5}, "parameter 'n' must be int, it is 1.5"),
        ({"n": True}, "parameter 'n' must be int, it is True"),
        ({"n": 2**63}, "parameter 'n' must fit into 64 bits, it is 9223372036854775808"),
        ({"x": "a"}, "parameter 'x' must be float, it is 'a'"),
        ({"x": -0.1}, "parameter 'x' must be at least 0.0, it is -0.1"),
        ({"x": 1.1}, "parameter 'x' must be at most 1.0, it is 1.1"),
        ({"x": float("nan")}, "parameter 'x' must be a number, it is nan"),
        ({"on": 1}, "parameter 'on' must be bool, it is 1"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_is_allowed(
    tmp_path: Path, values: dict[str, object], why: str
) -> None:
    with pytest.raises(StrategyError) as caught:
        load(tmp_path, PARAMS).make_params(values)
    assert str(caught.value) == f"strategy mine (mine.py, line 5): {why}"


def test_all_wrong_parameters_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match=r"'m'.*; parameter 'n'.*; parameter 'x'"):
        load(tmp_path, PARAMS).make_params({"m": 1, "n": 1.5, "x": 7})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "@strategy()\ndef mine(tick, book, out): pass",
            "there is no argument 'book'; there are tick, series, state",
        ),
        ("@strategy()\ndef mine(tick): pass", "without the argument 'out' it cannot send orders"),
        ("@strategy()\ndef mine(tick, out):\n    tick.bid_ticks = 1", "line 6.*changes tick.bid_ticks; only state"),
        ("@strategy()\ndef mine(own, out):\n    own.position_lots += 1", "line 6.*changes own.position_lots; only"),
        ("@strategy()\ndef mine(series, out):\n    series[-1].flags = 0", "changes series.*; only state"),
        ("@strategy(params={'a': 'b'})\ndef mine(out): pass", "parameter 'a' must be bool, int or float, .* 'b'"),
        (
            "@strategy(params={'a': Param(5, most=1)})\ndef mine(out): pass",
            "default of parameter 'a' must be at most 1",
        ),
        ("@strategy(params={'a b': 5})\ndef mine(out): pass", "'a b': a name must be an identifier"),
        ("@strategy(state={'_x': 0})\ndef mine(out): pass", "'_x': a name must be an identifier without a leading"),
        ("@strategy(state={'s': 'text'})\ndef mine(out): pass", "state 's' must be bool, int, float or an array"),
        ("x = 1", "mine.py has no strategy 'mine'; it has none"),
        ("@strategy()\ndef other(out): pass", "mine.py has no strategy 'mine'; it has other"),
        ("import nowhere_to_be_found", "mine.py, line 4: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("x = (", "mine.py, line 4: SyntaxError"),
        ("\n1 / 0", "mine.py, line 5: ZeroDivisionError"),
    ],
)
def test_a_wrong_file_is_refused_with_place_and_reason(tmp_path: Path, body: str, why: str) -> None:
    with pytest.raises(StrategyError, match=why):
        load(tmp_path, body)


@pytest.mark.parametrize(
    ("use", "why"),
    [
        ("nothing", "write package.module:name or path/to/file.py:name"),
        ("a:b c", "write package.module:name"),
        ("no_such_module:x", "there is no module 'no_such_module'"),
        ("no_such_file.py:x", "cannot read .*no_such_file.py: No such file"),
        ("tickpath.signals.series:Series", "has no strategy 'Series'; it has none"),
        ("tickpath.signals.strategies.ema_cross:x", "has no strategy 'x'; it has ema_cross"),
    ],
)
def test_a_strategy_that_cannot_be_found_is_refused_with_what_is_there(use: str, why: str) -> None:
    with pytest.raises(StrategyError, match=why):
        load_strategy(use)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x = tick.bid", "tick has no 'bid'; it has cause_seq, exch_ns, recv_ns"),
        ("x = own.lots", "own has no 'lots'; it has position_lots, open_buy_lots"),
        ("x = params.n", "params has no 'n'; it has no field"),
        ("state.y = 1", "state has no 'y'; it has n"),
    ],
)
def test_a_field_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path, line: str, why: str) -> None:
    body = f"@strategy(state={{'n': 0}})\ndef mine(tick, state, own, params, out):\n    state.n += 1\n    {line}\n"
    with pytest.raises(StrategyError) as caught:
        load(tmp_path, body)
    assert str(caught.value).startswith(f"strategy mine (mine.py, line 7): {why}")


ALLOCATES = "it would allocate memory, which lists, strings and new arrays do; keep arrays in the state"


@pytest.mark.parametrize(
    ("line", "place", "why"),
    [
        ("x = series[-1].bid", 4, "'bid'"),
        ("x = undefined_name + 1", 4, "NameError: name 'undefined_name' is not defined"),
        ("x = np.zeros(5)", 7, f"{ALLOCATES}, in: x = np.zeros(5)"),
        ("x = [1] * int(state.n)", 7, f"{ALLOCATES}, in: x = [1] * int(state.n)"),
        ("x = [i for i in range(state.n)]", 7, f"{ALLOCATES}, in: x = [i for i in range(state.n)]"),
        ("x = len(str(state.n))", 7, f"{ALLOCATES}, in: x = len(str(state.n))"),
        ("x = (series.last_ticks * 2)[0]", 7, f"{ALLOCATES}, in: x = (series.last_ticks * 2)[0]"),
        ("x = tick.bid_ticks + 'a'", 7, "there is no add(int64, Literal[str](a)), in: x = tick.bid_ticks + 'a'"),
        ("buy(out)", 7, "missing a required argument: 'qty_lots', in: buy(out)"),
    ],
)
def test_a_function_that_does_not_compile_is_refused_with_name_file_line_and_reason(
    tmp_path: Path, line: str, place: int, why: str
) -> None:
    body = f"@strategy(state={{'n': 0}})\ndef mine(tick, series, state, out):\n    state.n += 1\n    {line}\n"
    mine = load(tmp_path, body)
    with pytest.raises(StrategyError) as caught:
        mine.check()
    text = str(caught.value)
    assert text.startswith(f"strategy mine (mine.py, line {place}): does not compile: {why}")
    assert "\n" not in text


def test_the_first_line_that_allocates_is_named_also_behind_a_long_declaration(tmp_path: Path) -> None:
    body = (
        "@strategy(\n    params={'n': 5},\n    state={'mean': 0.0},\n)\ndef mine(tick, state, params, out):\n"
        "    state.mean += 0.5\n    x = [1] * int(state.mean)\n    y = [2] * params.n\n"
    )
    with pytest.raises(
        StrategyError, match=r"strategy mine \(mine.py, line 10\): does not compile: it would allocate"
    ):
        load(tmp_path, body).check()


def test_an_engine_says_which_of_its_strategies_does_not_compile(
    tmp_path: Path, two_instruments: InstrumentTable
) -> None:
    good = load_strategy("tickpath.signals.strategies.ema_cross:ema_cross")
    bad = load(tmp_path, "@strategy()\ndef mine(tick, out):\n    x = undefined_name\n")
    with pytest.raises(StrategyError, match=r"strategy mine .* does not compile: NameError"):
        Engine([Running(good, 1), Running(bad, 2)], two_instruments)


RUN_IT = """
import json, sys
import numpy as np
from tickpath.common.instruments import make_table
from tickpath.common.records import SIGNAL, TICK
from tickpath.signals.engine import Engine, Running
from tickpath.signals.strategy import load_strategy
engine = Engine([Running(load_strategy(sys.argv[1]), 1)], make_table([("AAPL", "0.0001", 100, 1, 1, "USD")]))
out, ticks = np.zeros(8, SIGNAL), np.zeros(1, TICK)
_, n = engine.run(ticks, out, 0)
stats = engine.module.run.stats
print(json.dumps([out["qty_lots"][:n].tolist(), sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]))
"""


def test_a_second_process_compiles_nothing_and_a_changed_file_never_meets_the_old_code(tmp_path: Path) -> None:
    """The file, a helper module and a constant from there are changed within the same second and length."""

    def run() -> tuple[list[int], bool]:
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        argv = [sys.executable, "-c", RUN_IT, str(tmp_path / "mine.py") + ":mine"]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
        lots, hits, misses = json.loads(done.stdout)
        assert hits + misses == 1
        return lots, bool(hits)

    def write(plus: int, times: int, constant: int) -> None:
        (tmp_path / "my_helpers.py").write_text(
            f"from numba import njit\nLOTS = {constant}\n@njit\ndef scale(x):\n    return x * {times}\n"
        )
        (tmp_path / "mine.py").write_text(
            "import my_helpers\nfrom my_helpers import LOTS\nfrom tickpath.signals.strategy import buy, strategy\n"
            f"@strategy()\ndef mine(out):\n    buy(out, my_helpers.scale(LOTS) + {plus}, 5)\n"
        )

    write(1, 2, 3)
    assert run() == ([7], False)
    assert run() == ([7], True)
    write(2, 2, 3)
    assert run() == ([8], False)
    write(2, 4, 3)
    assert run() == ([14], False)
    write(2, 4, 5)
    assert run() == ([22], False)
    write(1, 2, 3)
    assert run() == ([7], True)


def test_a_changed_file_gives_new_behaviour_in_the_same_process(
    tmp_path: Path, two_instruments: InstrumentTable
) -> None:
    out, ticks = np.zeros(8, SIGNAL), np.zeros(1, TICK)
    for lots in (3, 4):
        mine = load(tmp_path, f"@strategy()\ndef mine(out):\n    buy(out, {lots}, 5)\n")
        Engine([Running(mine, 1)], two_instruments).run(ticks, out, 0)
        assert out[0]["qty_lots"] == lots


def test_state_is_one_per_instrument_with_arrays_and_numpy_and_division_by_zero_work(
    tmp_path: Path, two_instruments: InstrumentTable
) -> None:
    mine = load(
        tmp_path,
        "@strategy(state={'ring': np.full(4, 2.0), 'n': 7, 'mean': 0.0, 'ratio': 0.0})\n"
        "def mine(tick, series, state, out):\n    state.n += 1\n    state.ring[state.n & 3] += 0.5\n"
        "    state.mean = series.last_ticks[-3:].mean()\n    state.ratio = 1.0 / tick.bid_lots\n",
    )
    engine = Engine([Running(mine, 1)], two_instruments, capacity=4)
    ticks = np.zeros(9, TICK)
    ticks["last_ticks"] = np.arange(9)
    ticks["instrument"] = [0, 0, 1, 1, 1, 1, 1, 1, 1]
    engine.run(ticks, np.zeros(8, SIGNAL), 0)
    states = engine.memory["states_0"]
    assert states["n"].tolist() == [9, 14]
    assert states["ring"].tolist() == [[2.5, 2.5, 2, 2], [3, 3, 3, 2.5]]
    assert states["mean"].tolist() == [0.5, 7.0]
    assert states["ratio"].tolist() == [np.inf, np.inf]


def test_a_parameter_can_be_described_for_people() -> None:
    ema = load_strategy("tickpath.signals.strategies.ema_cross:ema_cross")
    described = Running(ema, 3, {"fast": 7}, ["AAPL"]).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["params"]["fast"]["value"] == 7
    assert described["params"]["fast"]["default"] == 5
    assert described["state"] == ["fast", "slow", "size", "trades", "sign"]
    assert described["state_bytes"] == 40
    assert Param(5).fault(6) is None
