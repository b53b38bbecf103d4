"""A timer that wakes `poll` at a nanosecond of CLOCK_MONOTONIC: Linux timerfd, which Python has from 3.13 on."""

from __future__ import annotations

from numba import types

from tickpath.common.jit import kernel

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
_ABSTIME = 1

_create = types.ExternalFunction("timerfd_create", types.int32(types.int32, types.int32))
_settime = types.ExternalFunction("timerfd_settime", types.int32(types.int32, types.int32, types.intp, types.intp))


@kernel("int64()")
def create():
    """A descriptor that becomes readable when the time of `arm` has come; negative when the system refuses."""
    return _create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)


@kernel("int64(int64, int64, int64[::1])")
def arm(descriptor, at_ns, scratch):
    """Become readable at `at_ns`, and not before; `scratch` int64[4]. Returns 0, or less on an error."""
    scratch[0] = 0
    scratch[1] = 0
    scratch[2] = at_ns // 1_000_000_000
    scratch[3] = at_ns % 1_000_000_000
    return _settime(descriptor, _ABSTIME, scratch.ctypes.data, 0)
