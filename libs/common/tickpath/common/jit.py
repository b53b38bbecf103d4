"""The one way in which this project compiles kernels: typed by signature, cached on disk, without the GIL.

Numba notices when the file of a kernel changes, but not when a kernel or constant that it uses from *another* file
does, and would go on using the old machine code. So the kernels of a module are cached in a folder named after
the sources of that module and of every ``tickpath`` module that it imports, directly or not: changed code never
meets a stale cache, and unchanged code is never compiled again.

``TICKPATH_CACHE`` chooses the root of the cache; default is ``~/.cache/tickpath``.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numba
import numpy as np

_IMPORT = re.compile(r"^\s*(?:from\s+(tickpath\.[\w.]+)\s+import\s+([^\n]+)|import\s+(tickpath\.[\w.]+))", re.M)


def cache_root() -> Path:
    """Folder under which all compiled kernels are kept."""
    root = os.environ.get("TICKPATH_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "tickpath"


@cache
def _source_of(module: str) -> Path | None:
    spec = find_spec(module)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def _imports_of(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for package, names, plain in _IMPORT.findall(path.read_text("utf-8")):
        found.add(package or plain)
        for name in re.findall(r"\w+", names):
            candidate = f"{package}.{name}"
            if name.islower() and find_spec(package) is not None:
                spec = find_spec(package)
                if spec is not None and spec.submodule_search_locations and find_spec(candidate):
                    found.add(candidate)
    return frozenset(found)


@cache
def fingerprint(source: Path) -> str:
    """Hash of a source file, of all ``tickpath`` sources that it imports, and of the compiler's versions."""
    seen: set[Path] = set()
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        waiting += [origin for name in _imports_of(path) if (origin := _source_of(name)) is not None]
    digest = hashlib.sha256(f"{sys.version_info[:2]} {numba.__version__} {np.__version__}".encode())
    for path in sorted(seen):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _choose_cache(function: Callable[..., Any]) -> None:
    folder = cache_root() / fingerprint(Path(function.__code__.co_filename))
    folder.mkdir(parents=True, exist_ok=True)
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]


def kernel(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: compile now (or load from the cache) for exactly `signature`; release the GIL while it runs.

    Any other argument type is a TypeError instead of a hidden compilation in the hot path. `options` are Numba's.
    References are not counted: that costs two locked instructions whenever an array is handed on, of a loop over many
    arrays half of its time. A kernel that makes an array does not compile then; it asks for ``_nrt=True``.
    """
    options = {"nogil": True, "_nrt": False, **options}

    def compile_it(function: Callable[..., Any]) -> Any:
        _choose_cache(function)
        return numba.njit(signature, cache=True, **options)(function)

    return compile_it


def callback(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: compile now (or load from the cache) as a C function; its ``address`` is what compiled loops call.

    So a loop is compiled once and calls whatever it is given, for example the strategies of the configuration.
    """

    def compile_it(function: Callable[..., Any]) -> Any:
        _choose_cache(function)
        return numba.cfunc(signature, cache=True)(function)

    return compile_it


def inlined(function: Callable[..., Any], **options: Any) -> Any:
    """Decorator for helpers that only kernels call: compiled into each caller, typed by the call.

    Nobody passes them around as values, so they need no wrapper for that (a tenth of the time of compiling).
    """
    options = {"nogil": True, "no_cfunc_wrapper": True, "_nrt": False, **options}
    return numba.njit(**options)(function)


def always_inlined(function: Callable[..., Any]) -> Any:
    """`inlined`, and LLVM may not decide otherwise: a call would push every array of a state that is handed on."""
    return inlined(function, forceinline=True)


def direct(kernel: Any) -> Callable[..., Any]:
    """The compiled code of a kernel with one signature, called without looking at the types of the arguments.

    For a kernel with a score of arrays that is called once per message or order, finding out their types costs four
    times as much as the call itself (6.3 against 1.7 µs, measured with `matching.find_live`). The price: arrays of
    a wrong type are not refused. So call the kernel itself once with the arrays, when they are made, and this with
    the same arrays from then on.
    """
    (signature,) = kernel.signatures
    entry: Callable[..., Any] = kernel.overloads[signature].entry_point
    return entry
