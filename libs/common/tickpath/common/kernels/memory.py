"""Arrays over addresses, inside kernels: state that is handed over as numbers costs one argument and not ten.

Whoever makes such a view answers for the memory behind it: it must outlive the view, and is never freed by it.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from tickpath.common import jit
from tickpath.common.records import ORDER, REPORT, SIGNAL, TICK


@intrinsic
def pointer(typing_context, address):
    """int64 → void*."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


def lent(function):
    """Decorator for helpers that return a view over an address.

    Kernels, which count no references, may call them, because they vanish in the caller.
    """
    return jit.inlined(function, _nrt=True, forceinline=True)


@lent
def bytes_at(address, n):
    """uint8[n]."""
    return carray(pointer(address), (n,), np.uint8)


@lent
def words_at(address, n):
    """int64[n]."""
    return carray(pointer(address), (n,), np.int64)


@lent
def pairs_at(address, n):
    """int64[n, 2]."""
    return carray(pointer(address), (n, 2), np.int64)


@lent
def rows_at(address, n, width):
    """int64[n, width]."""
    return carray(pointer(address), (n, width), np.int64)


@lent
def ticks_at(address, n):
    """TICK[n]."""
    return carray(pointer(address), (n,), TICK)


@lent
def signals_at(address, n):
    """SIGNAL[n]."""
    return carray(pointer(address), (n,), SIGNAL)


@lent
def orders_at(address, n):
    """ORDER[n]."""
    return carray(pointer(address), (n,), ORDER)


@lent
def reports_at(address, n):
    """REPORT[n]."""
    return carray(pointer(address), (n,), REPORT)


@intrinsic
def call(typing_context, address, arguments):
    """Call the C function (`tickpath.common.jit.callback`) at an address with a tuple of int64; returns its int64."""
    count = len(arguments)

    def generate(context, builder, signature, values):
        word = ir.IntType(64)
        function = ir.FunctionType(word, [word] * count)
        target = builder.inttoptr(values[0], function.as_pointer())
        return builder.call(target, [builder.extract_value(values[1], i) for i in range(count)])

    return types.int64(types.int64, types.UniTuple(types.int64, count)), generate
