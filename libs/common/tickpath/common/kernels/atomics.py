"""Atomic access to 8-byte words, for compiled code: acquire and release, on x86 and on ARM.

Numba has none for the CPU; these are LLVM's own instructions. Each takes ``(where, index)``: `where` is an int64
array and `index` an element of it, or `where` is an address (int64, a multiple of 8) and `index` counts words from
there. Nothing checks bounds. Memory that is shared by `mmap` is ordinary memory to them.

On x86 an acquire load and a release store are plain moves that the compiler may not reorder; on ARM they are the
instructions that order, which is why they are written down even where x86 would not need them.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WORD = ir.IntType(64)


def _place(context, builder, signature, arguments):
    """Pointer to word `index` of `where`."""
    if isinstance(signature.args[0], types.Array):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.gep(builder.bitcast(array.data, _WORD.as_pointer()), [arguments[1]])
    return builder.gep(builder.inttoptr(arguments[0], _WORD.as_pointer()), [arguments[1]])


def _where(given):
    if isinstance(given, types.Array):
        if given.dtype != types.int64 or given.layout != "C" or given.ndim != 1:
            msg = f"atomics work on int64[::1] or on an address, not on {given}"
            raise TypeError(msg)
        return given
    return types.int64


def _loads(ordering):
    def typing(_context, where, index):
        def generate(context, builder, signature, arguments):
            return builder.load_atomic(_place(context, builder, signature, arguments), ordering, 8)

        return types.int64(_where(where), types.int64), generate

    return typing


def _stores(ordering):
    def typing(_context, where, index, value):
        def generate(context, builder, signature, arguments):
            builder.store_atomic(arguments[2], _place(context, builder, signature, arguments), ordering, 8)
            return context.get_dummy_value()

        return types.void(_where(where), types.int64, types.int64), generate

    return typing


def _changes(operation):
    def typing(_context, where, index, value):
        def generate(context, builder, signature, arguments):
            place = _place(context, builder, signature, arguments)
            return builder.atomic_rmw(operation, place, arguments[2], "seq_cst")

        return types.int64(_where(where), types.int64, types.int64), generate

    return typing


def _fences(ordering):
    def typing(_context):
        def generate(context, builder, signature, arguments):
            builder.fence(ordering)
            return context.get_dummy_value()

        return types.void(), generate

    return typing


@intrinsic
def load_relaxed(typing_context, where, index):
    """The word, whole; orders nothing."""
    return _loads("monotonic")(typing_context, where, index)


@intrinsic
def load_acquire(typing_context, where, index):
    """The word; nothing that follows is read or written before it."""
    return _loads("acquire")(typing_context, where, index)


@intrinsic
def store_relaxed(typing_context, where, index, value):
    """Store the word, whole; orders nothing."""
    return _stores("monotonic")(typing_context, where, index, value)


@intrinsic
def store_release(typing_context, where, index, value):
    """Store the word after everything that was read or written before."""
    return _stores("release")(typing_context, where, index, value)


@intrinsic
def fetch_add(typing_context, where, index, value):
    """Add to the word; what it was before. Sequentially consistent."""
    return _changes("add")(typing_context, where, index, value)


@intrinsic
def swap(typing_context, where, index, value):
    """Store the word; what it was before. Sequentially consistent."""
    return _changes("xchg")(typing_context, where, index, value)


@intrinsic
def compare_exchange(typing_context, where, index, expected, value):
    """Store `value` if the word is `expected`; what it was before. Sequentially consistent."""

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature, arguments)
        return builder.extract_value(builder.cmpxchg(place, arguments[2], arguments[3], "seq_cst", "seq_cst"), 0)

    return types.int64(_where(where), types.int64, types.int64, types.int64), generate


@intrinsic
def fence_acquire(typing_context):
    """What was read before stays before all that is read or written after."""
    return _fences("acquire")(typing_context)


@intrinsic
def fence_release(typing_context):
    """What was read or written before stays before all that is written after."""
    return _fences("release")(typing_context)


@intrinsic
def fence_seq_cst(typing_context):
    """Also a store before and a load after keep their order, which no other fence gives."""
    return _fences("seq_cst")(typing_context)


@intrinsic
def address_of(typing_context, array):
    """Address of the first byte of an array; keeps no reference to it."""

    def generate(context, builder, signature, arguments):
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(made.data, _WORD)

    return types.int64(array), generate


@intrinsic
def copy_bytes(typing_context, target, source, size_bytes):
    """Copy between addresses; the two do not overlap."""

    def generate(context, builder, signature, arguments):
        pointers = [builder.inttoptr(address, cgutils.voidptr_t) for address in arguments[:2]]
        cgutils.raw_memcpy(builder, *pointers, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def move_bytes(typing_context, target, source, size_bytes):
    """Copy between addresses that may overlap."""

    def generate(context, builder, signature, arguments):
        pointers = [builder.inttoptr(address, cgutils.voidptr_t) for address in arguments[:2]]
        cgutils.raw_memmove(builder, *pointers, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def stack_words(typing_context, count):
    """Address of `count` (a literal) words on the stack of the calling function; gone when it returns."""
    if not isinstance(count, types.IntegerLiteral):
        msg = "stack_words wants a literal number of words"
        raise TypeError(msg)
    size = count.literal_value

    def generate(context, builder, signature, arguments):
        block = cgutils.alloca_once(builder, ir.ArrayType(_WORD, size))
        block.align = 8
        return builder.ptrtoint(block, _WORD)

    return types.int64(count), generate
