"""Ports that are free, and stay so until somebody listens on them."""

from __future__ import annotations

import contextlib
import secrets
import socket
from pathlib import Path
from typing import Final

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST: Final = 10_000
_END: Final = 26_000  # our own ports begin behind it


def free_ports(n: int, host: str = "127.0.0.1") -> list[int]:
    """`n` different ports of `host` that nobody has now, neither TCP nor UDP.

    They are below those that the system gives to connections: of these, one that is free now may be the local end of
    somebody's connection a moment later. Raises OSError when `host` is no address of this machine.
    """
    end = _END
    with contextlib.suppress(OSError, ValueError):
        end = min(end, int(_RANGE.read_text().split()[0]))
    first = min(_FIRST, end - 1024)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))  # else no port of it would do
    found: set[int] = set()
    while len(found) < n:
        port = first + secrets.randbelow(end - first)
        with (
            contextlib.suppress(OSError),
            socket.socket(family, socket.SOCK_STREAM) as stream,
            socket.socket(family, socket.SOCK_DGRAM) as datagram,
        ):
            stream.bind((host, port))
            datagram.bind((host, port))
            found.add(port)
    return sorted(found)
