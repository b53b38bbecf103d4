"""Writing a strategy: one Python file, one function that Numba compiles, with declared parameters and state.

    from tickpath.signals.strategy import IOC, TRADE, Param, buy, strategy

    @strategy(params={"qty_lots": Param(100, least=1, about="lots of an order")}, state={"mean": 0.0})
    def dip(tick, state, params, own, out):
        \"\"\"Buys when a print is one percent below the mean of the prints.\"\"\"
        if tick.flags & TRADE:
            if state.mean == 0.0:
                state.mean = tick.last_ticks
            state.mean += 0.05 * (tick.last_ticks - state.mean)
            if tick.last_ticks < 0.99 * state.mean and own.position_lots + own.open_buy_lots == 0:
                buy(out, params.qty_lots, tick.ask_ticks, IOC)

The function is called once per tick and instrument, and names the arguments that it wants, in any order:

| argument | what it is |
| --- | --- |
| tick | the TICK record (`tickpath.common.records`) |
| series | POINT[n], the last ticks of this instrument, oldest first; ``series[-1]`` is this tick |
| state | record of the declared state, one per instrument; the only thing that a strategy may change |
| params | record of the parameters |
| own | OWN record: position and open orders of this strategy in this instrument |
| instrument | INSTRUMENT record: ``price_step_ticks``, ``lot_size``, .. |
| out | to be handed to `buy`, `sell`, `order` and `cancel` |

Division by zero gives inf or nan; an index out of range switches the strategy off for that instrument. Time
is ``tick.exch_ns``: a strategy that looks at ``recv_ns`` or later stamps decides otherwise in a replay.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import linecache
import math
import re
import sys
import textwrap
import types as pytypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
from numba.core import ir
from numba.core import types as numba_types
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target

from tickpath.common.instruments import INSTRUMENT
from tickpath.common.jit import fingerprint
from tickpath.common.records import NO_PRICE_TICKS, TICK, Side, TickFlag, Tif
from tickpath.signals.kernels.intents import buy, cancel, order, sell
from tickpath.signals.layout import INTENT, OWN, POINT

__all__ = [
    "AGGRESSOR_BUY",
    "AGGRESSOR_SELL",
    "BUY",
    "DAY",
    "IOC",
    "NO_PRICE_TICKS",
    "QUOTE",
    "SELL",
    "TRADE",
    "Param",
    "Strategy",
    "StrategyError",
    "buy",
    "cancel",
    "load_strategy",
    "order",
    "sell",
    "strategy",
]

# Plain integers, because a compiled function knows no flags.
BUY: Final = int(Side.BUY)
SELL: Final = int(Side.SELL)
DAY: Final = int(Tif.DAY)
IOC: Final = int(Tif.IOC)
QUOTE: Final = int(TickFlag.QUOTE)
TRADE: Final = int(TickFlag.TRADE)
AGGRESSOR_BUY: Final = int(TickFlag.AGGRESSOR_BUY)
AGGRESSOR_SELL: Final = int(TickFlag.AGGRESSOR_SELL)

Value = bool | int | float

_READ_ONLY: Final = {"tick", "series", "params", "own", "instrument"}
_ARGUMENTS: Final = ("tick", "series", "state", "params", "own", "instrument", "out")
_KINDS: Final[dict[type, str]] = {bool: "?", int: "<i8", float: "<f8"}


# IndexError instead of another strategy's memory, inf instead of ZeroDivisionError.
_OPTIONS: Final[dict[str, Any]] = {"nogil": True, "boundscheck": True, "error_model": "numpy"}

#: Operations of Numba whose result can be new memory; the others look at what is there.
_MAKES: Final = {"build_list", "build_set", "build_map", "call", "binop", "inplace_binop", "arrayexpr"}


class StrategyError(Exception):
    """A strategy cannot be used; the message says which, where, why, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: its default, which also gives the type (bool, int or float), bounds, and a line for people."""

    default: Value
    least: float | None = None
    most: float | None = None
    about: str = ""

    def fault(self, value: object) -> str | None:
        """Why `value` cannot be this parameter, or None if it can."""
        kind = type(self.default)
        if not (type(value) is kind or (kind is float and type(value) is int)):
            return f"must be {kind.__name__}, it is {value!r}"
        assert isinstance(value, (bool, int, float))  # noqa: S101 - for the type checker; just checked
        if math.isnan(value):
            return "must be a number, it is nan"
        if self.least is not None and value < self.least:
            return f"must be at least {self.least}, it is {value!r}"
        if self.most is not None and value > self.most:
            return f"must be at most {self.most}, it is {value!r}"
        if kind is int and not -(2**63) <= value < 2**63:
            return f"must fit into 64 bits, it is {value!r}"
        return None


class Strategy:
    """A strategy as declared by `strategy`: `name`, `params`, the dtypes of parameters and state, the function."""

    def __init__(
        self,
        function: Callable[..., None],
        params: Mapping[str, Value | Param],
        state: Mapping[str, Any],
        lookback: int | Callable[[Any], int],
    ) -> None:
        self.name = function.__name__
        self.path = Path(inspect.getsourcefile(function) or "?")
        self.line = function.__code__.co_firstlineno
        self.about = inspect.getdoc(function) or ""
        self.function = function
        self._lookback = lookback
        self.params: dict[str, Param] = {}
        for key, value in params.items():
            param = value if isinstance(value, Param) else Param(value)
            if type(param.default) not in _KINDS:
                raise self.error(f"parameter {key!r} must be bool, int or float, its default is {param.default!r}")
            if (fault := param.fault(param.default)) is not None:
                raise self.error(f"the default of parameter {key!r} {fault}")
            self.params[key] = param
        self.params_dtype = self._dtype("parameter", {k: np.asarray(p.default) for k, p in self.params.items()})
        self._initial = {key: np.asarray(value) for key, value in state.items()}
        self.state_dtype = self._dtype("state", self._initial)
        self.arguments = self._check_arguments()
        # Without `_nrt` it cannot allocate.
        self.compiled: Any = numba.njit(**{**_OPTIONS, "_nrt": False})(function)

    def error(self, why: str, line: int | None = None) -> StrategyError:
        """An error that names this strategy and the place."""
        return StrategyError(f"strategy {self.name} ({self.path.name}, line {line or self.line}): {why}")

    def make_params(self, values: Mapping[str, object]) -> npt.NDArray[Any]:
        """The record of the parameters, [1]: defaults, overridden by `values`. StrategyError lists every fault."""
        faults = []
        record = np.zeros(1, self.params_dtype)
        for key, param in self.params.items():
            record[key] = param.default
        for key, value in values.items():
            if key not in self.params:
                faults.append(f"there is no parameter {key!r}; there are {', '.join(self.params) or 'none'}")
            elif (fault := self.params[key].fault(value)) is not None:
                faults.append(f"parameter {key!r} {fault}")
            else:
                record[key] = value
        if faults:
            raise self.error("; ".join(faults))
        return record

    def make_state(self, n_instruments: int) -> npt.NDArray[Any]:
        """The initial state, [n_instruments]."""
        record = np.zeros(n_instruments, self.state_dtype)
        for key, value in self._initial.items():
            record[key] = value
        return record

    def lookback(self, values: Mapping[str, object]) -> int:
        """Points of a series that it looks at with these parameters."""
        if isinstance(self._lookback, int):
            return self._lookback
        record = self.make_params(values)
        return int(self._lookback({key: record[key][0].item() for key in self.params}))

    def digest(self) -> str:
        """Hash of all that the compiled function is made of: its file, its code, what they refer to, its dtypes."""
        digest = hashlib.sha256(fingerprint(self.path.resolve()).encode())
        digest.update(self.path.read_bytes())
        digest.update(f"{self.params_dtype.descr} {self.state_dtype.descr} {self.arguments}".encode())
        _feed(digest, self.function, set())
        return digest.hexdigest()[:16]

    def check(self) -> None:
        """Compile the function alone, to say clearly why it does not. Raises StrategyError."""
        types = {
            "tick": numba.from_dtype(TICK),
            "series": numba.from_dtype(POINT)[::1],
            "state": numba.from_dtype(self.state_dtype),
            "params": numba.from_dtype(self.params_dtype),
            "own": numba.from_dtype(OWN),
            "instrument": numba.from_dtype(INSTRUMENT),
            "out": numba.from_dtype(INTENT)[::1],
        }
        signature = tuple(types[name] for name in self.arguments)
        try:
            self.compiled.compile(signature)
        except (NumbaError, KeyError) as error:
            self._check_allocation(signature)
            text = str(error)
            lines = [int(n) for file, n in re.findall(r'File "([^"]*)", line (\d+)', text) if self.path.name in file]
            line = lines[0] if lines else self.line
            code = linecache.getline(str(self.path), line).strip()
            raise self.error(f"does not compile: {_short_reason(text)}, in: {code}", line) from None

    def _check_allocation(self, signature: tuple[Any, ...]) -> None:
        """Raises StrategyError when it would compile if it could allocate; Numba says nothing of use about that."""
        function = numba.njit(**_OPTIONS)(self.function)
        try:
            function.compile(signature)
        except (NumbaError, KeyError):
            return
        typed = function.overloads[signature].type_annotation
        lines = [
            step.loc.line
            for block in typed.blocks.values()
            for step in block.body
            if isinstance(step, ir.Assign)
            and isinstance(step.value, ir.Expr)
            and step.value.op in _MAKES
            and _is_counted(typed.typemap[step.target.name])
        ]
        line = min(lines, default=self.line)
        code = linecache.getline(str(self.path), line).strip()
        why = "it would allocate memory, which lists, strings and new arrays do; keep arrays in the state"
        raise self.error(f"does not compile: {why}, in: {code}", line)

    def _check_arguments(self) -> tuple[str, ...]:
        fields: dict[str, tuple[str, ...]] = {
            "tick": TICK.names or (),
            "own": OWN.names or (),
            "instrument": INSTRUMENT.names or (),
            "params": tuple(self.params),
            "state": tuple(self._initial),
        }
        names = tuple(inspect.signature(self.function).parameters)
        unknown = [name for name in names if name not in _ARGUMENTS]
        if unknown:
            why = f"there is no argument {', '.join(map(repr, unknown))}; there are {', '.join(_ARGUMENTS)}"
            raise self.error(why)
        if "out" not in names:
            raise self.error("without the argument 'out' it cannot send orders")
        source = textwrap.dedent("".join(inspect.getsourcelines(self.function)[0]))
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, (ast.Attribute, ast.Subscript)):
                continue
            root: ast.expr = node
            while isinstance(root, (ast.Attribute, ast.Subscript)):
                root = root.value
            if not isinstance(root, ast.Name):
                continue
            line = self.line + node.lineno - 1
            if root.id in _READ_ONLY and isinstance(node.ctx, ast.Store):
                raise self.error(f"changes {ast.unparse(node)}; only state may be changed", line)
            if isinstance(node, ast.Attribute) and node.value is root and root.id in names and root.id in fields:
                allowed = fields[root.id]
                if node.attr not in allowed:
                    why = f"{root.id} has no {node.attr!r}; it has {', '.join(allowed) or 'no field'}"
                    raise self.error(why, line)
        return names

    def _dtype(self, what: str, values: Mapping[str, npt.NDArray[Any]]) -> np.dtype[Any]:
        fields: list[tuple[Any, ...]] = []
        for key, value in values.items():
            if not key.isidentifier() or key.startswith("_"):
                raise self.error(f"{what} {key!r}: a name must be an identifier without a leading underscore")
            if value.dtype.kind not in "biuf":
                raise self.error(f"{what} {key!r} must be bool, int, float or an array of them, it is {value!r}")
            fields.append((key, value.dtype.newbyteorder("<"), value.shape) if value.shape else (key, value.dtype))
        # Numba knows no record without a field; and each state begins on 8 bytes.
        size = np.dtype(fields).itemsize
        padding = -size % 8 or (8 if not fields else 0)
        return np.dtype([*fields, ("_", "u1", (padding,))] if padding else fields)


def strategy(
    params: Mapping[str, Value | Param] | None = None,
    state: Mapping[str, Any] | None = None,
    lookback: int | Callable[[Any], int] = 1,
) -> Callable[[Callable[..., None]], Strategy]:
    """Decorator: declare a function as a strategy.

    `params`: name → default (bool, int, float) or `Param`. `state`: name → initial value, a number or an array of
    fixed size, of its own for each instrument. `lookback`: how many points of `series` the function looks at, a
    number or a function of the parameters; a deployment that keeps fewer refuses to start. Raises StrategyError.
    """

    def declare(function: Callable[..., None]) -> Strategy:
        return Strategy(function, params or {}, state or {}, lookback)

    return declare


def load_strategy(use: str, base: Path | None = None) -> Strategy:
    """The strategy at ``package.module:name`` or ``file.py:name`` (relative to `base`, default the working folder).

    A file is read anew each time. Raises StrategyError.
    """
    where, _, name = use.rpartition(":")
    if not where or not name.isidentifier():
        msg = f"strategy {use!r}: write package.module:name or path/to/file.py:name"
        raise StrategyError(msg)
    module = _import_file(use, (base or Path.cwd()) / where) if where.endswith(".py") else _import_module(use, where)
    found = getattr(module, name, None)
    if not isinstance(found, Strategy):
        there = [key for key, value in vars(module).items() if isinstance(value, Strategy)]
        msg = f"strategy {use!r}: {where} has no strategy {name!r}; it has {', '.join(there) or 'none'}"
        raise StrategyError(msg)
    return found


def _import_module(use: str, where: str) -> pytypes.ModuleType:
    try:
        return importlib.import_module(where)
    except StrategyError:
        raise
    except ModuleNotFoundError as error:
        msg = f"strategy {use!r}: there is no module {error.name!r}"
        raise StrategyError(msg) from None
    except Exception as error:  # noqa: BLE001 - whatever a user's module does wrong
        raise _import_error(use, error) from None


def _import_file(use: str, path: Path) -> pytypes.ModuleType:
    path = path.resolve()
    # Its own name in sys.modules, by which the generated kernel imports it.
    name = f"user_strategy_{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    module = pytypes.ModuleType(name)
    module.__file__ = str(path)
    try:
        source = path.read_text("utf-8")
    except OSError as error:
        msg = f"strategy {use!r}: cannot read {path}: {error.strerror}"
        raise StrategyError(msg) from None
    linecache.checkcache(str(path))
    previous = sys.modules.get(name)
    sys.modules[name] = module
    try:
        # Compiled from the text that was just read: a .pyc of the same second and size could be the old one.
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - running the user's file is the purpose
    except BaseException as error:
        sys.modules.pop(name)
        if previous is not None:
            sys.modules[name] = previous
        if isinstance(error, StrategyError) or not isinstance(error, Exception):
            raise
        raise _import_error(use, error) from None
    return module


def _import_error(use: str, error: Exception) -> StrategyError:
    place, line = "", getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if not isinstance(error, SyntaxError):
            place, line = Path(trace.tb_frame.f_code.co_filename).name, trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        place = Path(error.filename or use).name
    return StrategyError(f"strategy {use!r}: {place}, line {line}: {type(error).__name__}: {error}")


def _is_counted(kind: Any) -> bool:
    """Whether values of this type hold memory that is counted, and so was allocated."""
    if isinstance(kind, numba_types.Callable):
        return False
    return bool(cpu_target.target_context.data_model_manager[kind].contains_nrt_meminfo())


def _short_reason(text: str) -> str:
    """The part of a Numba error that says what is wrong, on one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    if (bound := re.search(r'Cannot bind .* due to "TypeError: ([^"]*)"', text)) is not None:
        return bound[1]
    if (call := re.search(r"No implementation of function .*?>>> (.*?)\n", text, re.DOTALL)) is not None:
        return f"there is no {call[1]}"[:200]
    noise = ("Failed in nopython", "During", "File ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(noise)), lines[0])[:200]


def _feed(digest: Any, thing: Any, seen: set[int]) -> None:
    """Hash a function with all that it refers to: code, constants, helpers and globals, wherever they are defined."""
    if isinstance(thing, Dispatcher):
        thing = thing.py_func
    if isinstance(thing, pytypes.FunctionType):
        if id(thing) in seen:
            return
        seen.add(id(thing))
        names = _feed_code(digest, thing.__code__)
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        for value in (*cells, *(thing.__defaults__ or ())):
            _feed(digest, value, seen)
        for name in names:
            if name in thing.__globals__:
                value = thing.__globals__[name]
                digest.update(name.encode())
                _feed(digest, value, seen)
                if isinstance(value, pytypes.ModuleType) and value not in (np, numba):
                    for attribute in names:
                        if hasattr(value, attribute):
                            _feed(digest, getattr(value, attribute), seen)
    elif isinstance(thing, np.ndarray):
        digest.update(str(thing.dtype).encode() + thing.tobytes())
    elif isinstance(thing, (bool, int, float, complex, str, bytes, np.generic, np.dtype, Enum, type(None))):
        digest.update(repr(thing).encode())
    elif isinstance(thing, tuple):
        for item in thing:
            _feed(digest, item, seen)
    else:
        digest.update(f"{type(thing).__qualname__} {getattr(thing, '__qualname__', '')}".encode())


def _feed_code(digest: Any, code: pytypes.CodeType) -> list[str]:
    names = list(code.co_names)
    digest.update(code.co_code + " ".join((*code.co_names, *code.co_varnames)).encode())
    for constant in code.co_consts:
        if isinstance(constant, pytypes.CodeType):
            names += _feed_code(digest, constant)
        else:
            digest.update(repr(constant).encode())
    return names
