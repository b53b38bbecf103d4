"""Counting what Python allocates: a hook in front of its allocators, exact, for a stretch of work.

`tracemalloc` knows what is alive, not how much passed through; so the functions of the domains "mem" and "object"
(PEP 445: ``PyMem_SetAllocator``) are replaced for a while by compiled ones that add up (blocks, bytes) and pass on.
Not counted, on either side: what comes out of Python's free lists (small tuples, floats, frames) and the data of
NumPy arrays.
"""

# mypy: ignore-errors

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numba
import numpy as np
from numba import types

from tickpath.common.kernels.memory import pointer

_DOMAINS = (1, 2)  # PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ
_VOID = ctypes.c_void_p
_SIZE = ctypes.c_size_t
_MALLOC = ctypes.CFUNCTYPE(_VOID, _VOID, _SIZE)
_CALLOC = ctypes.CFUNCTYPE(_VOID, _VOID, _SIZE, _SIZE)
_REALLOC = ctypes.CFUNCTYPE(_VOID, _VOID, _VOID, _SIZE)


class _Allocator(ctypes.Structure):
    """PyMemAllocatorEx."""

    _fields_ = [("ctx", _VOID), ("malloc", _VOID), ("calloc", _VOID), ("realloc", _VOID), ("free", _VOID)]


@dataclass
class Allocated:
    """What passed through."""

    blocks: int = 0
    bytes: int = 0


def _read(domain: int) -> _Allocator:
    found = _Allocator()
    ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(found))
    return found


def _write(domain: int, allocator: _Allocator) -> None:
    ctypes.pythonapi.PyMem_SetAllocator(domain, ctypes.byref(allocator))


def _counting(original: _Allocator, tally: np.ndarray) -> tuple[_Allocator, tuple]:
    """An allocator that adds to `tally` (blocks, bytes) and calls `original`; and what it needs to stay alive."""
    malloc, calloc, realloc = _MALLOC(original.malloc), _CALLOC(original.calloc), _REALLOC(original.realloc)
    at = tally.ctypes.data

    @numba.njit
    def add(n):
        block = numba.carray(pointer(at), (3,), np.int64)
        block[0] += block[2]
        block[1] += block[2] * np.int64(n)

    @numba.cfunc(types.voidptr(types.voidptr, types.uint64))
    def count_malloc(ctx, n):
        add(n)
        return malloc(ctx, n)

    @numba.cfunc(types.voidptr(types.voidptr, types.uint64, types.uint64))
    def count_calloc(ctx, n, size):
        add(n * size)
        return calloc(ctx, n, size)

    @numba.cfunc(types.voidptr(types.voidptr, types.voidptr, types.uint64))
    def count_realloc(ctx, old, n):
        add(n)
        return realloc(ctx, old, n)

    hook = _Allocator(original.ctx, count_malloc.address, count_calloc.address, count_realloc.address, original.free)
    return hook, (malloc, calloc, realloc, count_malloc, count_calloc, count_realloc)


class Counter:
    """The hooks, compiled once: `installed` puts them in place, between `on` and `off` they count."""

    def __init__(self) -> None:
        self._tally = np.zeros(3, np.int64)  # blocks, bytes, 1 while counting
        self._originals = {domain: _read(domain) for domain in _DOMAINS}
        self._hooks, self._alive = {}, []
        for domain, original in self._originals.items():
            self._hooks[domain], needed = _counting(original, self._tally)
            self._alive.append(needed)

    @contextmanager
    def installed(self) -> Iterator[Allocated]:
        """Yields what will have been counted when the block ends."""
        self._tally[:] = 0
        found = Allocated()
        for domain, hook in self._hooks.items():
            _write(domain, hook)
        try:
            yield found
        finally:
            for domain, original in self._originals.items():
                _write(domain, original)
            found.blocks, found.bytes = int(self._tally[0]), int(self._tally[1])

    def on(self) -> None:
        """Count from now on, whichever thread allocates."""
        self._tally[2] = 1

    def off(self) -> None:
        """Do not count for a while."""
        self._tally[2] = 0
